//! Errors of the contract.

/// Shorthand.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a backend refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A host call failed.
    #[error("{what}: {source}")]
    Os {
        /// The call, as the host names it.
        what: &'static str,
        /// The host's answer.
        source: std::io::Error,
    },
    /// A memory slot that cannot be.
    #[error("memory slot {slot}: {why}")]
    BadSlot {
        /// Slot number.
        slot: u32,
        /// What is wrong.
        why: &'static str,
    },
    /// The vCPU id is taken or out of range.
    #[error("vCPU {id}: {why}")]
    BadVcpu {
        /// APIC id asked for.
        id: u32,
        /// What is wrong.
        why: &'static str,
    },
    /// The guest has no such MSR, or refuses the value.
    #[error("MSR {0:#x} does not exist or refuses the value")]
    NoSuchMsr(u32),
    /// A register group holds an impossible combination.
    #[error("invalid {group}: {why}")]
    InvalidState {
        /// Register group.
        group: &'static str,
        /// What is wrong.
        why: &'static str,
    },
    /// This host does not let the backend work: why, and what would help.
    #[error("{0}")]
    Unavailable(String),
    /// The host has it, but not for this user: why, and what would help.
    #[error("{0}")]
    Denied(String),
    /// This backend cannot do that.
    #[error("{0} is not supported by this backend")]
    Unsupported(&'static str),
    /// The backend checked itself, as it was asked to, and found a fault: what
    /// differs.
    #[error("{0}")]
    SelfCheck(String),
    /// There can be one, and there is.
    #[error("{0} exists already")]
    Exists(&'static str),
    /// The call needs something that was not created.
    #[error("{0} needs {1}")]
    Missing(&'static str, &'static str),
}

impl Error {
    /// The last host error, labelled.
    pub fn last_os(what: &'static str) -> Self {
        Self::Os {
            what,
            source: std::io::Error::last_os_error(),
        }
    }
}
