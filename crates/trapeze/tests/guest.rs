//! The embedded guest under the software engine, end to end.

use std::path::PathBuf;
use std::process::{Command, Stdio};

const TRAPEZE: &str = env!("CARGO_BIN_EXE_trapeze");

#[test]
fn the_embedded_guest_checks_itself_and_powers_off() {
    let output = Command::new(TRAPEZE)
        .args(["guest", "-append", "check", "-m", "64"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("GUEST-OK"), "{text}\n{errors}");
    assert_eq!(output.status.code(), Some(0), "{text}\n{errors}");
}

#[test]
fn without_package_tools_the_embedded_guest_takes_over() {
    let cache = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("no-packages");
    let output = Command::new(TRAPEZE)
        .args(["linux", "-append", "check", "-m", "64"])
        .env("XDG_CACHE_HOME", cache)
        .env("PATH", "/nonexistent")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("apt-get cannot be run"), "{errors}");
    assert!(errors.contains("starting the embedded guest"), "{errors}");
    // One line beside that of the progress.
    assert_eq!(errors.lines().count(), 2, "{errors}");
    assert!(text.contains("GUEST-OK"), "{text}\n{errors}");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn more_memory_than_the_host_has_is_a_warning() {
    let output = Command::new(TRAPEZE)
        .args(["guest", "-append", "check", "-m", "4T"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        errors.contains("warning: -m: 4 TiB is more than the host's"),
        "{errors}"
    );
    assert_eq!(output.status.code(), Some(0), "{errors}");
}

#[test]
fn serial_output_goes_to_a_file_and_counters_are_printed() {
    let log = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("serial.log");
    let serial = format!("file:{}", log.display());
    let output = Command::new(TRAPEZE)
        .args([
            "guest", "-append", "check", "-m", "64", "-d", "counters", "-serial", &serial,
        ])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout.is_empty());
    assert!(std::fs::read_to_string(log).unwrap().contains("GUEST-OK"));
    let counters = String::from_utf8_lossy(&output.stderr).into_owned();
    let exits = counters.lines().find_map(|l| l.strip_prefix("io_exits"));
    let exits: u64 = exits.expect(&counters).trim().parse().unwrap();
    assert!(exits > 1000, "each character is a port write: {counters}");
}
