//! The last bytes that a guest sent, for the monitor (`-chardev ringbuf`).

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;

/// A buffer; clones share it.
#[derive(Clone, Debug)]
pub struct Ring(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    label: String,
    size: usize,
    bytes: Mutex<VecDeque<u8>>,
}

impl Ring {
    /// With room for `size` bytes.
    pub fn new(label: &str, size: usize) -> Self {
        Self(Arc::new(Inner {
            label: label.into(),
            size,
            bytes: Mutex::default(),
        }))
    }

    /// Its name.
    pub fn label(&self) -> &str {
        &self.0.label
    }

    /// Adds bytes; the oldest make room.
    pub fn write(&self, bytes: &[u8]) {
        let mut ring = self.0.bytes.lock();
        let last = &bytes[bytes.len().saturating_sub(self.0.size)..];
        let excess = (ring.len() + last.len()).saturating_sub(self.0.size);
        ring.drain(..excess);
        ring.extend(last);
    }

    /// Takes at most so many of the oldest bytes.
    pub fn read(&self, most: usize) -> Vec<u8> {
        let mut ring = self.0.bytes.lock();
        let n = most.min(ring.len());
        ring.drain(..n).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last() {
        let ring = Ring::new("r", 4);
        ring.write(b"ab");
        ring.write(b"cde");
        assert_eq!(ring.read(2), b"bc");
        ring.write(b"0123456789");
        assert_eq!(ring.read(100), b"6789");
        assert_eq!(ring.read(1), b"");
    }
}
