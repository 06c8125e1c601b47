//! Machines and images with names: where they are kept, how their processes are
//! started, asked to end, and found out about.
//!
//! A machine is a folder and, while it runs, a plain process that holds the
//! lock of its pid file: who is killed lets go of it, and no other process that
//! gets the number has it.

pub mod console;
pub mod image;
pub mod places;
pub mod qmp;
pub mod runtime;
pub mod ssh;
pub mod start;
pub mod store;
pub mod unfinished;

pub use store::{Config, State, Vm};

use anyhow::{Result, bail};

/// Refuses what cannot be the name of a folder, a host or a completion.
///
/// # Errors
/// What a name may be.
pub fn check_name(name: &str) -> Result<()> {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let edge = |b: Option<&u8>| b.is_some_and(|b| *b != b'-');
    let bytes = name.as_bytes();
    if bytes.len() > 40
        || !bytes.iter().all(|&b| good(b))
        || !edge(bytes.first())
        || !edge(bytes.last())
    {
        bail!("'{name}' is no name: use up to 40 of a-z, 0-9 and -, with no - at the ends");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_host_names() {
        for name in ["a", "debian-2", "0"] {
            assert!(super::check_name(name).is_ok(), "{name}");
        }
        for name in [
            "",
            "A",
            "a b",
            "-a",
            "a-",
            "../x",
            ".",
            "a.b",
            &"x".repeat(41),
        ] {
            assert!(super::check_name(name).is_err(), "{name}");
        }
    }
}
