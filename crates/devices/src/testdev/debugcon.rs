//! `isa-debugcon`: a port whose bytes go to the host, without a protocol. A
//! read tells guests that it is there.

use crate::uart::ByteSink;
use crate::{Effect, PortDevice};
use std::sync::Arc;

/// The device.
pub struct DebugCon {
    sink: Arc<dyn ByteSink>,
    readback: u8,
}

impl DebugCon {
    /// The port QEMU gives it, which is also what a read delivers.
    pub const PORT: u16 = 0xe9;

    /// A console that answers reads with `readback`.
    pub fn new(sink: Arc<dyn ByteSink>, readback: u8) -> Self {
        Self { sink, readback }
    }
}

impl PortDevice for DebugCon {
    fn read(&self, _offset: u16, _size: u8) -> u32 {
        self.readback.into()
    }
    fn write(&self, _offset: u16, _size: u8, value: u32) -> Option<Effect> {
        self.sink.put(value as u8);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PortBus;
    use parking_lot::Mutex;

    #[derive(Default)]
    struct Wire(Mutex<Vec<u8>>);
    impl ByteSink for Wire {
        fn put(&self, byte: u8) {
            self.0.lock().push(byte);
        }
    }

    #[test]
    fn bytes_come_out_and_reads_show_that_it_is_there() {
        let wire = Arc::new(Wire::default());
        let mut bus = PortBus::new();
        let device = Arc::new(DebugCon::new(wire.clone(), 0xe9));
        bus.register(DebugCon::PORT, 1, device).unwrap();
        for byte in *b"hi" {
            assert_eq!(bus.write(0xe9, 1, byte.into()), None);
        }
        assert_eq!(*wire.0.lock(), b"hi");
        assert_eq!(bus.read(0xe9, 1), 0xe9);
    }
}
