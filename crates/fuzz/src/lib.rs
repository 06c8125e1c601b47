//! Fuzz targets: everything that reads bytes of a guest or of a user's files.
//!
//! A target takes any bytes and must not panic, hang or touch memory that is
//! not its own; where a target can check more (a deadline lies in the future,
//! two ways of translating an address agree), it asserts that. The table
//! [`TARGETS`] names them all. `cargo xtask fuzz` runs them under libFuzzer;
//! `corpus/NAME/` holds inputs that reach what they can reach, and those that
//! once failed. The crate's tests run every one of them on every build.

pub mod input;
mod targets;

pub use targets::TARGETS;

/// One entry point for bytes from outside.
pub struct Target {
    /// Name on the command line and of the corpus folder.
    pub name: &'static str,
    /// Whose bytes they are, and who reads them.
    pub what: &'static str,
    /// Longest input worth trying, in bytes.
    pub max_len: usize,
    /// Reads `data`; panics if something is wrong.
    pub run: fn(data: &[u8]),
}

/// The target called `name`.
pub fn by_name(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|t| t.name == name)
}
