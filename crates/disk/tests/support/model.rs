//! Random requests to a disk, and what it must contain afterwards.

use super::random::Random;
use disk::{BlockDevice, BlockDeviceExt, Errno};

/// A request.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    Write { offset: u64, len: u64, fill: u8 },
    Zero { offset: u64, len: u64, unmap: bool },
    Discard { offset: u64, len: u64 },
    Flush,
}

/// What a disk must contain.
#[derive(Clone)]
pub struct Model {
    pub bytes: Vec<u8>,
    /// Bytes that may be anything of these: contents were discarded.
    pub unknown: Vec<bool>,
}

impl Model {
    pub fn new(bytes: Vec<u8>) -> Self {
        let unknown = vec![false; bytes.len()];
        Self { bytes, unknown }
    }

    pub fn apply(&mut self, step: Step) {
        match step {
            Step::Write { offset, len, fill } => self.set(offset, len, |i| pattern(fill, i)),
            Step::Zero { offset, len, .. } => self.set(offset, len, |_| 0),
            Step::Discard { offset, len } => {
                self.unknown[offset as usize..(offset + len) as usize].fill(true);
            }
            Step::Flush => {}
        }
    }

    fn set(&mut self, offset: u64, len: u64, byte: impl Fn(u64) -> u8) {
        for i in offset..offset + len {
            self.bytes[i as usize] = byte(i);
            self.unknown[i as usize] = false;
        }
    }

    /// The first byte that differs.
    pub fn difference(&self, found: &[u8]) -> Option<usize> {
        assert_eq!(found.len(), self.bytes.len());
        (0..found.len()).find(|&i| found[i] != self.bytes[i] && !self.unknown[i])
    }
}

/// Differs from its neighbours and from zero.
pub fn pattern(fill: u8, offset: u64) -> u8 {
    fill ^ (offset / 512) as u8 | 1
}

pub fn step(random: &mut Random, size: u64, cluster: u64) -> Step {
    let longest = (4 * cluster).clamp(4096, 1 << 20);
    let (offset, len) = random.range(size, cluster, longest);
    match random.below(10) {
        0 => Step::Flush,
        1 => Step::Discard { offset, len },
        2 | 3 => Step::Zero {
            offset,
            len,
            unmap: random.chance(2),
        },
        _ => Step::Write {
            offset,
            len,
            fill: random.next() as u8,
        },
    }
}

pub fn perform(disk: &dyn BlockDevice, step: Step) -> Result<(), Errno> {
    match step {
        Step::Write { offset, len, fill } => {
            let bytes: Vec<u8> = (offset..offset + len).map(|i| pattern(fill, i)).collect();
            disk.write_at(&bytes, offset)
        }
        Step::Zero { offset, len, unmap } => disk.write_zeroes(offset, len, unmap),
        Step::Discard { offset, len } => disk.discard(offset, len),
        Step::Flush => disk.flush(),
    }
}

pub fn contents(disk: &dyn BlockDevice) -> Vec<u8> {
    let mut bytes = vec![0xaa; disk.len() as usize];
    disk.read_at(&mut bytes, 0).expect("the disk is readable");
    bytes
}
