//! Selector, read position and the DMA interface.

mod saved;

use super::items::{Content, Items};
use crate::Dma;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bits of a key that choose no item: the write channel of old QEMU.
const KEY_FLAGS: u16 = 0x4000;

/// Control bits of a DMA request.
mod control {
    pub const ERROR: u32 = 1 << 0;
    pub const READ: u32 = 1 << 1;
    pub const SKIP: u32 = 1 << 2;
    pub const SELECT: u32 = 1 << 3;
    pub const WRITE: u32 = 1 << 4;
}

/// Bytes copied at once.
const CHUNK: usize = 4096;

/// The interface's state.
pub(super) struct Core {
    items: BTreeMap<u16, Content>,
    key: u16,
    selected: Arc<[u8]>,
    at: u64,
    /// Address of the next DMA request, as written so far.
    pub(super) dma: u64,
}

impl Core {
    pub(super) fn new(items: Items) -> Self {
        let mut core = Self {
            items: items.finish(),
            key: 0,
            selected: Arc::new([]),
            at: 0,
            dma: 0,
        };
        core.select(0);
        core
    }

    /// Selects an item and goes to its start. What is not there is empty.
    pub(super) fn select(&mut self, key: u16) {
        let item = self.items.get(&(key & !KEY_FLAGS));
        self.selected = item.map_or_else(|| Arc::new([]) as _, Content::bytes);
        self.key = key;
        self.at = 0;
    }

    /// The next byte; 0 behind the end.
    pub(super) fn next(&mut self) -> u8 {
        let byte = self.rest().first().copied().unwrap_or(0);
        self.at = self.at.saturating_add(1);
        byte
    }

    fn rest(&self) -> &[u8] {
        let at = usize::try_from(self.at).unwrap_or(usize::MAX);
        self.selected.get(at..).unwrap_or_default()
    }

    /// Carries out the request at [`Self::dma`] and writes its outcome.
    pub(super) fn request(&mut self, memory: &dyn Dma) {
        let gpa = std::mem::take(&mut self.dma);
        let mut request = [0; 16];
        if !memory.read(gpa, &mut request) {
            // There is no place for the error bit either.
            memory.write(gpa, &control::ERROR.to_be_bytes());
            return;
        }
        let word = |at: usize| u64::from_be_bytes(request[at..at + 8].try_into().unwrap_or([0; 8]));
        let (control, length, address) = ((word(0) >> 32) as u32, word(0) as u32, word(8));
        if control & control::SELECT != 0 {
            self.select((control >> 16) as u16);
        }
        let done = match control {
            c if c & control::READ != 0 => self.copy(memory, address, length),
            // No item can be written.
            c if c & control::WRITE != 0 => length == 0,
            c if c & control::SKIP != 0 => {
                self.at = self.at.saturating_add(length.into());
                true
            }
            _ => true,
        };
        let outcome = if done { 0 } else { control::ERROR };
        memory.write(gpa, &outcome.to_be_bytes());
    }

    /// Copies `length` bytes to guest memory, zeros behind the end. Stops
    /// where there is no RAM.
    fn copy(&mut self, memory: &dyn Dma, mut address: u64, length: u32) -> bool {
        let mut left = length as usize;
        while left > 0 {
            let mut chunk = [0; CHUNK];
            let n = left.min(CHUNK);
            let rest = self.rest();
            let have = n.min(rest.len());
            chunk[..have].copy_from_slice(&rest[..have]);
            if !memory.write(address, &chunk[..n]) {
                return false;
            }
            self.at = self.at.saturating_add(n as u64);
            address = address.wrapping_add(n as u64);
            left -= n;
        }
        true
    }
}
