//! Ports whose writes are ignored: POST codes (0x80) and the I/O delay port
//! (0xed).

use crate::{Effect, PortDevice};

/// Swallows writes, reads all ones.
#[derive(Clone, Copy, Debug, Default)]
pub struct SinkPort;

impl PortDevice for SinkPort {
    fn max_width(&self) -> u8 {
        4
    }
    fn read(&self, _offset: u16, _size: u8) -> u32 {
        u32::MAX
    }
    fn write(&self, _offset: u16, _size: u8, _value: u32) -> Option<Effect> {
        None
    }
}
