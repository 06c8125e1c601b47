//! Keyboard controller: [`Controller`] is the 8042, [`Keyboard`] the AT
//! keyboard on its first port, [`I8042`] puts both on ports 0x60 and 0x64.

mod controller;
mod keyboard;
mod port;

pub use controller::Controller;
pub use keyboard::Keyboard;
pub use port::{CommandPort, I8042};

/// Data port.
pub const DATA_PORT: u16 = 0x60;
/// Status (read) and command (write) port.
pub const COMMAND_PORT: u16 = 0x64;
