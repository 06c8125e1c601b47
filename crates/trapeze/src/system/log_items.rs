//! What `-d` and `-trace` can show, one row each.

use crate::near::did_you_mean;

/// One item of `-d`.
pub(crate) struct Item {
    /// Name.
    pub(crate) name: &'static str,
    /// One line of help.
    pub(crate) help: &'static str,
    effect: Effect,
}

enum Effect {
    /// Print the counters at the end.
    Counters,
    /// Compare every block with the interpreter.
    Lockstep,
    /// Print what time went into at the end.
    Profile,
    /// Show the log records whose target matches one of these.
    Targets(&'static [&'static str]),
}

/// Every item.
pub(crate) const ITEMS: [Item; 10] = [
    Item {
        name: "counters",
        help: "print the kvm_stat counters when the machine ends ('stats' is the same)",
        effect: Effect::Counters,
    },
    Item {
        name: "stats",
        help: "same as counters",
        effect: Effect::Counters,
    },
    Item {
        name: "engine",
        help: "the software engine",
        effect: Effect::Targets(&["engine*"]),
    },
    Item {
        name: "jit",
        help: "the translator",
        effect: Effect::Targets(&["jit*"]),
    },
    Item {
        name: "insn",
        help: "every instruction the interpreter executes, all of them with translate=off",
        effect: Effect::Targets(&[engine::INSN_LOG]),
    },
    Item {
        name: "lockstep",
        help: "execute every translated block in the interpreter as well and stop at the first \
               difference; for one vCPU on the software engine, slow",
        effect: Effect::Lockstep,
    },
    Item {
        name: "profile",
        help: "print when the machine ends what guest code the vCPUs' time went into; for the \
               software engine",
        effect: Effect::Profile,
    },
    Item {
        name: "machine",
        help: "machine set-up, boot and run loop",
        effect: Effect::Targets(&["machine*"]),
    },
    Item {
        name: "guest_errors",
        help: "what the guest does to devices that hardware would not like",
        effect: Effect::Targets(&["devices*", "guest_errors"]),
    },
    Item {
        name: "all",
        help: "every log record",
        effect: Effect::Targets(&["*"]),
    },
];

/// What was asked to be logged.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    /// Print the counters at the end.
    pub(crate) counters: bool,
    /// Compare every block with the interpreter.
    pub(crate) lockstep: bool,
    /// Print what time went into at the end.
    pub(crate) profile: bool,
    /// Patterns of log targets; `*` at the end matches the rest.
    pub(crate) targets: Vec<String>,
}

impl Request {
    /// Whether anything is to be written.
    pub(crate) fn asks(&self) -> bool {
        self.counters || self.lockstep || self.profile || !self.targets.is_empty()
    }

    /// Adds the comma-separated items of `-d`.
    pub(crate) fn add_items(&mut self, items: &str) -> Result<(), String> {
        for name in items.split(',') {
            let item = ITEMS.iter().find(|i| i.name == name).ok_or_else(|| {
                let hint = did_you_mean(name, ITEMS.iter().map(|i| i.name));
                format!("unknown log item '{name}'{hint}; '-d help' lists them")
            })?;
            match item.effect {
                Effect::Counters => self.counters = true,
                Effect::Lockstep => self.lockstep = true,
                Effect::Profile => self.profile = true,
                Effect::Targets(patterns) => {
                    self.targets.extend(patterns.iter().map(|p| p.to_string()));
                }
            }
        }
        Ok(())
    }
}

/// True if `target` matches `pattern`.
pub(crate) fn matches(pattern: &str, target: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => target.starts_with(prefix),
        None => target == pattern,
    }
}

/// The list for `-d help`.
pub(crate) fn list() -> String {
    let rows = ITEMS.iter().map(|i| format!("{:<14}{}\n", i.name, i.help));
    format!("Log items:\n{}", rows.collect::<String>())
}
