//! 16550A UART: [`Uart`] is the chip, [`SerialPort`] puts it on a bus.

mod core;
mod port;

pub use self::core::{FIFO_DEPTH, Uart};
pub use self::port::{ByteSink, ByteSource, SerialPort};
