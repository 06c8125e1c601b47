//! Saved state: the schema of everything a machine must remember, and its
//! file format.
//!
//! What is saved is said here, in plain structures of their own; how a device
//! keeps it is the device's matter. Every structure is a [`Section`] with a
//! version; who changes a structure raises its version. A section of another
//! version, one that is missing and one that nobody asked for are errors:
//! nothing is guessed and nothing is dropped.
#![forbid(unsafe_code)]

pub mod chips;
pub mod devices;
mod file;
pub mod hotplug;
mod image;
mod memory;
pub mod pci;
pub mod vcpu;
pub mod virtio;

pub use file::{decode, encode};
pub use image::{Image, Schema};
pub use memory::{Memory, PAGE, Page};

/// Why a saved state cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs, reason = "the messages are the documentation")]
pub enum Error {
    #[error("not a saved state: {0}")]
    NotState(&'static str),
    #[error("saved state of format {0}; this program reads format {expected}", expected = file::FORMAT)]
    Format(u32),
    #[error("saved state is damaged: {0}")]
    Damaged(String),
    #[error("saved state has no section '{0}': it is of a machine without it")]
    Missing(String),
    #[error("saved state has a section '{0}', which this machine has no place for")]
    Unknown(String),
    #[error("section '{name}' has version {version}; this program reads version {expected}")]
    Version {
        name: String,
        version: u32,
        expected: u32,
    },
    #[error("section '{name}' is malformed: {why}")]
    Malformed { name: String, why: String },
    #[error("section '{name}' cannot be: {why}")]
    Impossible { name: String, why: String },
    #[error("{0} cannot be saved yet")]
    Unsupported(String),
}

/// Shorthand.
pub type Result<T> = std::result::Result<T, Error>;
