//! A growing buffer of code bytes that is fast to fill in pieces of a few bytes
//! each: a `Vec<u8>` calls a function for each of them.

use std::ops::{Deref, DerefMut};

/// Bytes made room for at once.
const ROOM: usize = 1024;
/// Longest instruction, rounded up to what the host copies at once.
const WORD: usize = 16;

/// The bytes, and room behind them.
#[derive(Clone, Debug, Default)]
pub struct Buffer {
    room: Vec<u8>,
    len: usize,
}

impl Buffer {
    /// Adds `bytes`.
    #[inline(always)]
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        let end = self.len + bytes.len();
        if end > self.room.len() {
            self.grow(end);
        }
        self.room[self.len..end].copy_from_slice(bytes);
        self.len = end;
    }

    /// Adds a byte.
    #[inline(always)]
    pub fn push(&mut self, byte: u8) {
        self.extend_from_slice(&[byte]);
    }

    /// Adds the first `n` of `bytes`, of which more are better: an
    /// instruction and what follows it.
    #[inline]
    pub fn extend_from_start(&mut self, bytes: &[u8], n: usize) {
        match bytes.first_chunk::<WORD>() {
            Some(chunk) if n <= WORD => {
                let end = self.len + n;
                self.extend_from_slice(chunk);
                self.len = end;
            }
            _ => self.extend_from_slice(&bytes[..n]),
        }
    }

    /// Forgets the bytes.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    #[cold]
    fn grow(&mut self, end: usize) {
        self.room.resize((end + ROOM).max(2 * self.room.len()), 0);
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.room[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.room[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_what_was_added() {
        let (mut buffer, mut want) = (Buffer::default(), Vec::new());
        for i in 0..3000u32 {
            let bytes = i.to_le_bytes();
            buffer.extend_from_slice(&bytes);
            want.extend_from_slice(&bytes);
            buffer.push(7);
            want.push(7);
        }
        let more: Vec<u8> = (0..20).collect();
        for (from, n) in [(0, 3), (0, 16), (0, 18), (10, 5)] {
            buffer.extend_from_start(&more[from..], n);
            want.extend_from_slice(&more[from..from + n]);
        }
        assert_eq!(*buffer, *want);
        buffer.clear();
        assert!(buffer.is_empty());
    }
}
