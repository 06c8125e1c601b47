//! The debugger's end of a machine: GDB's remote protocol (the manual's appendix
//! "GDB Remote Serial Protocol") on a socket or any other host end.
//!
//! vCPUs are threads, numbered from 1, of one process. When one of them stops all
//! stop. Software breakpoints are INT3 in guest memory, hardware breakpoints and
//! watchpoints are those of the backend (`KVM_SET_GUEST_DEBUG`), four in all.
//!
//! Nothing happens on the vCPUs' threads while nobody is connected.

mod conversation;
mod debuggee;
mod debugger;
mod frame;
mod points;
mod registers;
mod server;
mod session;
mod target;
mod wire;

pub use conversation::{Conversation, End};
pub use debuggee::{Debuggee, Errand};
pub use server::{Place, Server};
pub use target::Monitor;
