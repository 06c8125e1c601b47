//! `trapeze check`: what this host can do, which accelerator is used and why.

use crate::system::accel::{ACCELERATORS, DEFAULT, Row, by_name};
use crate::vms::json as json_flag;
use anyhow::Result;
use clap::{ArgMatches, Command};
use hv::Capabilities;
use serde_json::{Value, json};

/// What came of trying an accelerator.
struct Tried {
    row: &'static Row,
    found: std::result::Result<Capabilities, String>,
}

pub(crate) fn declare(command: Command) -> Command {
    command.arg(json_flag()).after_help(
        "Exit code 0 if machines can run, 1 if not.\n\n\
         Examples:\n  trapeze check\n  trapeze check --json | jq -r .used",
    )
}

/// `trapeze check`; the exit code.
pub(crate) fn run(matches: &ArgMatches) -> Result<u8> {
    let host = kvm::Host::this();
    let tried: Vec<Tried> = ACCELERATORS.iter().map(attempt).collect();
    let used = used(&tried);
    match matches.get_flag("json") {
        true => println!("{:#}", as_json(&host, &tried, used)),
        false => print!("{}", as_text(&host, &tried, used)),
    }
    Ok(u8::from(used.is_none()))
}

fn attempt(row: &'static Row) -> Tried {
    let opened = (row.open)(engine::Options::default());
    Tried {
        row,
        found: opened
            .map(|hypervisor| hypervisor.capabilities())
            .map_err(|why| format!("{why:#}")),
    }
}

/// The first of the default order that works.
fn used(tried: &[Tried]) -> Option<&'static str> {
    let works = |name: &&&str| {
        let found = tried.iter().find(|t| t.row.name == **name);
        found.is_some_and(|t| t.found.is_ok())
    };
    let name = DEFAULT.iter().find(works)?;
    by_name(name).ok().map(|row| row.name)
}

fn as_text(host: &kvm::Host, tried: &[Tried], used: Option<&str>) -> String {
    let extension = host.extension.unwrap_or("no vmx or svm");
    let guest = match host.guest {
        true => ", itself a virtual machine",
        false => "",
    };
    let mut text = line("processor", &format!("{}, {extension}{guest}", host.model));
    for t in tried {
        text += &match &t.found {
            Ok(c) => line(
                t.row.name,
                &format!(
                    "works: up to {} vCPUs, {} memory slots, guest-physical addresses of {} bits",
                    c.max_vcpus, c.max_slots, c.phys_bits
                ),
            ),
            Err(why) => line(t.row.name, &format!("does not work: {why}")),
        };
    }
    let order = DEFAULT.join(", ");
    text + &match used {
        Some(name) => line(
            "used",
            &format!("{name}: the first of {order} that works; '-accel NAME' asks for another"),
        ),
        None => line("used", &format!("none: neither of {order} works")),
    }
}

fn line(name: &str, text: &str) -> String {
    format!("{name:<11}{text}\n")
}

fn as_json(host: &kvm::Host, tried: &[Tried], used: Option<&str>) -> Value {
    let accelerator = |t: &Tried| match &t.found {
        Ok(c) => json!({
            "name": t.row.name, "works": true, "max-vcpus": c.max_vcpus,
            "memory-slots": c.max_slots, "phys-bits": c.phys_bits,
            "readonly-memory": c.readonly_mem, "guest-debug": c.guest_debug,
        }),
        Err(why) => json!({"name": t.row.name, "works": false, "why": why}),
    };
    json!({
        "processor": {
            "vendor": host.vendor, "model": host.model,
            "extension": host.extension, "virtual": host.guest,
        },
        "accelerators": tried.iter().map(accelerator).collect::<Value>(),
        "used": used,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKS: Capabilities = Capabilities {
        max_vcpus: 8,
        max_slots: 32,
        phys_bits: 40,
        readonly_mem: true,
        guest_debug: true,
    };

    fn tried(kvm: std::result::Result<Capabilities, String>) -> Vec<Tried> {
        let row = |name| by_name(name).expect("a row");
        let tried = |name, found| Tried {
            row: row(name),
            found,
        };
        vec![tried("soft", Ok(WORKS)), tried("kvm", kvm)]
    }

    #[test]
    fn the_best_that_works_is_used() {
        assert_eq!(used(&tried(Ok(WORKS))), Some("kvm"));
        assert_eq!(used(&tried(Err("no".into()))), Some("soft"));
        assert_eq!(used(&[]), None);
    }

    #[test]
    fn what_does_not_work_says_why() {
        let (host, tried) = (kvm::Host::default(), tried(Err("no module".into())));
        let text = as_text(&host, &tried, used(&tried));
        assert!(
            text.contains("kvm        does not work: no module\n"),
            "{text}"
        );
        assert!(text.contains("used       soft: "), "{text}");
        let json = as_json(&host, &tried, used(&tried));
        assert_eq!(json["accelerators"][1]["why"], "no module");
        assert_eq!(json["used"], "soft");
    }
}
