//! Keyboard controller: [`Controller`] is the 8042 with an AT keyboard
//! ([`Keyboard`]) and a PS/2 mouse ([`Mouse`]); [`I8042`] puts it on ports
//! 0x60 and 0x64.

mod controller;
mod keyboard;
mod mouse;
mod port;

pub use controller::Controller;
pub use keyboard::Keyboard;
pub use mouse::Mouse;
pub use port::{CommandPort, I8042};

/// Data port.
pub const DATA_PORT: u16 = 0x60;
/// Status (read) and command (write) port.
pub const COMMAND_PORT: u16 = 0x64;
