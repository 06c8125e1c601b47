//! What is run when an interface comes and goes.

use std::path::Path;
use std::process::{Command, Stdio};

/// Runs `script` with the interface's name.
///
/// # Errors
/// One line, if it cannot be run or fails.
pub(super) fn run(script: &Path, interface: &str) -> Result<(), String> {
    let shown = script.display();
    let status = Command::new(script)
        .arg(interface)
        .stdin(Stdio::null())
        .status()
        .map_err(|e| format!("network script {shown}: {e}; script=no runs none"))?;
    match status.success() {
        true => Ok(()),
        false => Err(format!(
            "network script {shown} {interface} failed: {status}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_script_says_counts() {
        assert_eq!(run(Path::new("/bin/true"), "tap0"), Ok(()));
        let failed = run(Path::new("/bin/false"), "tap0").expect_err("it fails");
        assert!(failed.contains("/bin/false tap0 failed"), "{failed}");
        let missing = run(Path::new("/nowhere/up"), "tap0").expect_err("it is missing");
        assert!(missing.contains("script=no"), "{missing}");
    }
}
