//! Runs the machine the options describe.

use super::daemon::{self, Side, Word};
use super::maker::CommandLine;
use super::pidfile::PidFile;
use super::{Options, accel, debugger, limits, logger, runtime, size};
use machine::{Machine, Outcome};
use monitor::{About, Monitors, Target};
use std::fs::File;
use std::sync::Arc;

/// Runs; the exit code, QEMU's where QEMU has one.
pub(crate) fn run(options: Options) -> u8 {
    if let Some(text) = options.print {
        println!("{}", text.trim_end());
        return 0;
    }
    let program = options.personality.name();
    let prefix = match &options.name {
        Some(name) => format!("{program}: {name}"),
        None => program.to_string(),
    };
    // Before there are threads, but not before the log is there: who started it
    // decides who can read that. The word is dropped last, after any message.
    let log = match logger::install(program, &options.log, options.log_file.as_deref()) {
        Ok(log) => log,
        Err(why) => {
            eprintln!("{prefix}: {why}");
            return 1;
        }
    };
    let word = match options.daemonize.then(daemon::leave).transpose() {
        Ok(None) => None,
        Ok(Some(Side::Daemon(word))) => Some(Arc::new(word)),
        Ok(Some(Side::Caller(code))) => return code,
        Err(why) => {
            eprintln!("{prefix}: -daemonize: {why}");
            return 1;
        }
    };
    // Given up behind the last message: who waits for it finds all of them.
    let mut pid_file = None;
    let outcome = start(options, log, word.clone(), &mut pid_file);
    log::logger().flush();
    match outcome {
        Ok(outcome) => {
            if let Some(text) = farewell(outcome) {
                eprintln!("{prefix}: {text}");
            }
            exit_code(outcome)
        }
        Err(why) => {
            eprintln!("{prefix}: {why}");
            1
        }
    }
}

fn start(
    options: Options,
    log: Option<File>,
    word: Option<Arc<Word>>,
    pid_file: &mut Option<PidFile>,
) -> Result<Outcome, String> {
    limits::raise_open_files();
    let lockstep = options.log.lockstep;
    let vcpus = options.config.topology.vcpus();
    if lockstep && vcpus > 1 {
        return Err(format!(
            "-d lockstep compares one vCPU, -smp asks for {vcpus}"
        ));
    }
    let ram = options.config.ram_bytes;
    let given = options.engine.code_cache;
    let code_cache = given.unwrap_or_else(|| engine::code_cache_for(ram));
    let engine = engine::Options {
        lockstep,
        profile: options.log.profile,
        code_cache: Some(code_cache),
        ..options.engine
    };
    let hypervisor = accel::open(&options.accelerators, options.personality, engine)?;
    let debuggable = hypervisor.capabilities().guest_debug && !lockstep;
    *pid_file = options.pid_file.as_deref().map(PidFile::new).transpose()?;
    let (accelerator, served) = (hypervisor.name(), options.config.monitors.clone());
    let debugged = options.config.debugger.clone();
    let mut machine = Machine::new(hypervisor, options.config).map_err(|e| e.to_string())?;
    warn_of_memory(ram);
    let handle = machine.handle();
    if options.stopped {
        handle.hold();
    }
    if let Some(word) = word {
        machine.when_set_up(move || word.give(log.as_ref()));
    }
    let about = About {
        name: options.name,
        accelerator,
        version: version_numbers(),
    };
    let target = Target::new(handle.clone(), about, Box::new(CommandLine));
    let debugger = debugger::start(debugged, &machine, &target, debuggable)?;
    let monitors = Monitors::default();
    monitors.start(&target, &served, machine.monitor_lines())?;
    let _here = runtime::listen(&monitors, &target);
    let outcome = machine.run().map_err(|e| e.to_string());
    monitors.finish();
    let outcome = outcome?;
    if let Some(server) = debugger {
        server.finish(exit_code(outcome));
    }
    if options.log.counters {
        eprint!("{}", counters(&handle.counters()));
    }
    if options.log.profile {
        eprint!("{}", handle.profile().unwrap_or_default());
    }
    Ok(outcome)
}

fn version_numbers() -> [u32; 3] {
    let mut numbers = env!("CARGO_PKG_VERSION").split('.');
    [(); 3].map(|()| numbers.next().and_then(|n| n.parse().ok()).unwrap_or(0))
}

fn exit_code(outcome: Outcome) -> u8 {
    outcome.exit_code().clamp(0, 255) as u8
}

/// Name and value, one a line, as kvm_stat lists them.
fn counters(list: &[(&'static str, u64)]) -> String {
    list.iter()
        .map(|(name, value)| format!("{name:<24}{value:>16}\n"))
        .collect()
}

/// Guest memory is only taken as the guest touches it, so more than the host
/// has is no error; it may end badly all the same.
fn warn_of_memory(guest: u64) {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    if let Some(host) = host_memory(&text).filter(|&host| guest > host) {
        log::warn!(
            "-m: {} is more than the host's {} MiB; the guest can fail when it uses them",
            size::show(guest),
            host >> 20
        );
    }
}

/// `MemTotal` of proc(5)'s meminfo, in bytes.
fn host_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// What the user is told at the end, if anything.
fn farewell(outcome: Outcome) -> Option<String> {
    match outcome {
        Outcome::PowerOff
        | Outcome::Reset
        | Outcome::Quit
        | Outcome::Saved
        | Outcome::DebugExit(_) => None,
        Outcome::TripleFault => Some("the guest triple-faulted".into()),
        Outcome::GuestPanic(_) => Some("the guest kernel panicked; its console says why".into()),
        Outcome::Signal(number) => Some(format!("terminating on signal {number}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_memory_is_read_as_proc_writes_it() {
        assert_eq!(
            host_memory("MemTotal:       24689108 kB\n"),
            Some(24689108 << 10)
        );
        assert_eq!(host_memory("nonsense"), None);
    }
}
