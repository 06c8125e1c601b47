//! Trapeze: KVM-class virtual machines with or without hardware
//! virtualization.
//!
//! Without arguments it boots Linux ([`linux`]); `trapeze system` takes QEMU's
//! options ([`system`]), and so does the binary under one of QEMU's names. The
//! program is a thin `main`; the library exists so that tests can reach what
//! reads a user's words.

mod check;
mod commands;
mod embedded;
mod img;
mod linux;
mod near;
mod stat;
mod system;
mod trace;
mod vms;

pub use commands::dispatch;

/// Parses the options of `trapeze system` and does nothing with them.
///
/// # Errors
/// The text the user is shown.
pub fn check_options(arguments: &[String]) -> Result<(), String> {
    system::Options::new(system::Personality::Trapeze).parse(arguments)
}
