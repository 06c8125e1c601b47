//! The lines that the command prints; the nested harness parses them.

use hv::conformance::{Case, Failure};
use std::process::ExitCode;

/// Counts of what was printed.
#[derive(Default)]
pub struct Report {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Report {
    /// Prints one case's line: `ok`, `skip` or `FAIL`, name, reason.
    pub fn add(&mut self, case: &Case, result: Result<(), Failure>) {
        let name = format!("{}::{}", case.group, case.name);
        match result {
            Ok(()) => {
                self.passed += 1;
                println!("ok   {name}");
            }
            Err(Failure::Skipped(why)) => {
                self.skipped += 1;
                println!("skip {name}: needs {why}");
            }
            Err(Failure::Wrong(why)) => {
                self.failed += 1;
                println!("FAIL {name} [{}]: {why}", case.manual);
            }
        }
    }

    /// Prints the summary; failure if a case failed or none ran.
    pub fn finish(&self) -> ExitCode {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        println!("{passed} passed, {failed} failed, {skipped} skipped");
        if *failed == 0 && passed + skipped > 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}
