//! The conformance suite: guest programs every backend must run alike.
//!
//! A [`Case`] builds a small VM, assembles a guest program, runs it and
//! compares registers, memory and exits with what the manuals say (the
//! `manual` field) and real processors do. Expected values never come from a
//! backend. The same table runs on every backend and inside nested guests.
//!
//! The crate `conformance` has the command that runs the table.
#![allow(unsafe_code, reason = "guest memory is lent to a backend by address")]

mod cases;
mod frame;
mod guest;
mod layout;
mod paging;
mod ram;
mod setup;
mod watchdog;

pub use cases::GROUPS;

use crate::Hypervisor;
use std::fmt;

/// One guest program and its expectations.
pub struct Case {
    /// Name within its group, in the style of a test's.
    pub name: &'static str,
    /// The group; see [`GROUPS`].
    pub group: &'static str,
    /// Where the expectation comes from (SDM volume and section, APM, or the
    /// KVM API documentation).
    pub manual: &'static str,
    /// Runs the case on a backend.
    pub run: fn(&dyn Hypervisor) -> Result<(), Failure>,
}

/// Why a case did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The backend behaved differently.
    Wrong(String),
    /// The processor or backend has not what the case needs.
    Skipped(&'static str),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wrong(why) => f.write_str(why),
            Self::Skipped(why) => write!(f, "needs {why}"),
        }
    }
}

impl std::error::Error for Failure {}

impl From<crate::Error> for Failure {
    fn from(e: crate::Error) -> Self {
        Self::Wrong(e.to_string())
    }
}

impl From<iced_x86::IcedError> for Failure {
    fn from(e: iced_x86::IcedError) -> Self {
        Self::Wrong(format!("the case does not assemble: {e}"))
    }
}

/// All cases, group by group.
pub fn cases() -> impl Iterator<Item = &'static Case> {
    GROUPS.iter().flat_map(|group| group.iter())
}

/// Fails unless `got == want`.
fn expect<T: PartialEq + fmt::Debug>(what: &str, got: T, want: T) -> Result<(), Failure> {
    if got == want {
        return Ok(());
    }
    Err(Failure::Wrong(format!(
        "{what}: got {got:x?}, expected {want:x?}"
    )))
}

/// Fails unless the condition holds.
fn ensure(what: &str, holds: bool) -> Result<(), Failure> {
    if holds {
        return Ok(());
    }
    Err(Failure::Wrong(what.to_owned()))
}
