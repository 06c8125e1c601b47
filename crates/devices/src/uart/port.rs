//! The UART on a port bus, between an interrupt line and a host stream.

use super::core::Uart;
use crate::stateful::impossible;
use crate::{Effect, IrqLine, PortDevice, Stateful};
use parking_lot::Mutex;
use state::{Image, Result};
use std::sync::Arc;

/// Where sent bytes go.
pub trait ByteSink: Send + Sync {
    /// Takes one byte; may wait for a slow reader.
    fn put(&self, byte: u8);
}

/// Where received bytes come from.
pub trait ByteSource: Send + Sync {
    /// Fills the front of `buf` with what is there now and returns how much;
    /// never waits.
    fn get(&self, buf: &mut [u8]) -> usize;
    /// Takes back bytes that `get` delivered last; they come first next time.
    fn unget(&self, bytes: &[u8]);
}

/// A serial port. Bytes are pulled from the source only as far as the
/// receiver has room: a paste of any size loses nothing.
pub struct SerialPort {
    /// The chip and the level last driven. Lock order: this, then whatever
    /// the interrupt line locks; the line must be driven under the lock so
    /// that two threads cannot leave it at a stale level.
    state: Mutex<(Uart, bool)>,
    irq: Arc<dyn IrqLine>,
    sink: Arc<dyn ByteSink>,
    source: Arc<dyn ByteSource>,
}

impl SerialPort {
    /// A port after reset.
    pub fn new(
        irq: Arc<dyn IrqLine>,
        sink: Arc<dyn ByteSink>,
        source: Arc<dyn ByteSource>,
    ) -> Self {
        Self {
            state: Mutex::new((Uart::default(), false)),
            irq,
            sink,
            source,
        }
    }

    /// Moves what the source has into the receiver; call it when input
    /// arrived.
    pub fn pump(&self) {
        self.with(|_| ());
    }

    /// Sends the guest a break condition.
    pub fn send_break(&self) {
        self.with(Uart::receive_break);
    }

    fn with<R>(&self, act: impl FnOnce(&mut Uart) -> R) -> R {
        let mut state = self.state.lock();
        let (uart, level) = &mut *state;
        let result = act(uart);
        let returned = uart.take_returned();
        if !returned.is_empty() {
            self.source.unget(&returned);
        }
        let mut buf = [0; super::FIFO_DEPTH];
        let room = uart.rx_room();
        if room > 0 {
            let n = self.source.get(&mut buf[..room]);
            buf[..n].iter().for_each(|&byte| uart.receive(byte));
        }
        let now = uart.irq();
        if now != *level {
            *level = now;
            self.irq.set_level(now);
        }
        result
    }
}

impl PortDevice for SerialPort {
    fn read(&self, offset: u16, _size: u8) -> u32 {
        self.with(|uart| uart.read(offset)).into()
    }

    fn write(&self, offset: u16, _size: u8, value: u32) -> Option<Effect> {
        // The sink may wait: it is called after the lock is dropped.
        if let Some(byte) = self.with(|uart| uart.write(offset, value as u8)) {
            self.sink.put(byte);
        }
        None
    }
}

impl Stateful for SerialPort {
    fn save(&self, instance: &str, image: &mut Image) -> Result<()> {
        let state = self.state.lock();
        image.put(instance, &state.0.saved(state.1));
        Ok(())
    }

    fn restore(&self, instance: &str, image: &mut Image) -> Result<()> {
        let saved = image.take(instance)?;
        let uart = Uart::from_saved(&saved);
        let uart = uart.ok_or_else(|| impossible("uart", instance, "its FIFO is too full"))?;
        *self.state.lock() = (uart, saved.level);
        self.irq.restore_level(saved.level);
        Ok(())
    }

    fn resume(&self) {
        self.pump();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    #[derive(Default)]
    struct Wire {
        sent: Mutex<Vec<u8>>,
        waiting: Mutex<VecDeque<u8>>,
        levels: Mutex<Vec<bool>>,
    }
    impl ByteSink for Wire {
        fn put(&self, byte: u8) {
            self.sent.lock().push(byte);
        }
    }
    impl ByteSource for Wire {
        fn get(&self, buf: &mut [u8]) -> usize {
            let mut waiting = self.waiting.lock();
            let n = buf.len().min(waiting.len());
            buf.iter_mut()
                .zip(waiting.drain(..n))
                .for_each(|(to, from)| *to = from);
            n
        }
        fn unget(&self, bytes: &[u8]) {
            let mut waiting = self.waiting.lock();
            bytes
                .iter()
                .rev()
                .for_each(|&byte| waiting.push_front(byte));
        }
    }
    impl IrqLine for Wire {
        fn set_level(&self, high: bool) {
            self.levels.lock().push(high);
        }
    }

    #[test]
    fn a_long_paste_arrives_whole() {
        let wire = Arc::new(Wire::default());
        let port = SerialPort::new(wire.clone(), wire.clone(), wire.clone());
        let paste: Vec<u8> = (0..10_000u32).map(|i| (i % 251) as u8).collect();
        wire.waiting.lock().extend(&paste);
        port.pump();
        assert!(wire.levels.lock().is_empty());
        port.write(4, 1, 0x0b);
        port.write(1, 1, 0x01);
        port.write(2, 1, 0xc7);
        let mut got = Vec::new();
        while port.read(5, 1) & 1 != 0 {
            got.push(port.read(0, 1) as u8);
        }
        assert_eq!(got, paste);
        assert_eq!(*wire.levels.lock(), [true, false]);
        port.write(0, 1, b'k'.into());
        assert_eq!(*wire.sent.lock(), b"k");
    }
}
