//! Reads and writes of data: short ones by the thread that has the request,
//! long ones in parts by several, if the disk says that it helps.

use crate::crew::Turn;
use crate::crew::share::Work;
use disk::{BlockDevice, Dest, Division, Errno, IoResult, Source, Way, part, total_len};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::thread::available_parallelism;

/// Shortest transfer in parts.
const LONG: u64 = 512 << 10;
/// Bytes of a part, unless the disk's unit is larger: far more work than what
/// it costs to begin it. Of a shorter transfer the disk is not even asked how
/// to do it.
const PART: u64 = 64 << 10;
/// Threads that wait for a disk of the host.
const WAITERS: usize = 8;
/// Most threads that copy: they share the host's memory, too.
const COPIERS: usize = 4;

/// Threads that copy.
static COPYING: LazyLock<usize> =
    LazyLock::new(|| available_parallelism().map_or(1, usize::from).min(COPIERS));

/// What is transferred.
pub(super) enum Data {
    /// From the disk.
    Read(Vec<Dest<'static>>),
    /// To the disk.
    Write(Vec<Source<'static>>),
}

/// A transfer whose place on the disk has been checked.
pub(super) struct Transfer {
    pub(super) device: Arc<dyn BlockDevice>,
    pub(super) data: Data,
    pub(super) offset: u64,
}

impl Transfer {
    fn way(&self) -> Way {
        match self.data {
            Data::Read(_) => Way::Read,
            Data::Write(_) => Way::Write,
        }
    }

    fn len(&self) -> u64 {
        match &self.data {
            Data::Read(buffers) => total_len(buffers) as u64,
            Data::Write(buffers) => total_len(buffers) as u64,
        }
    }

    /// How to do it soonest.
    fn division(&self) -> Division {
        match self.len() {
            len @ PART.. => self.device.division(self.way(), self.offset, len),
            _ => Division::Whole,
        }
    }

    /// Does all of it; with `turn`'s crew if that helps. After an error any of
    /// it may have been done.
    pub(super) fn run(self, turn: Option<&Turn<'_>>) -> IoResult<()> {
        let Some(turn) = turn else {
            return self.whole();
        };
        match self.division() {
            Division::Whole => self.whole(),
            Division::Alone => {
                turn.copies(1);
                turn.alone(|| self.whole())
            }
            Division::Copied => {
                turn.copies(*COPYING);
                self.share(turn, *COPYING)
            }
            Division::Scattered => self.share(turn, WAITERS),
        }
    }

    fn whole(&self) -> IoResult<()> {
        self.act(0..self.len())
    }

    /// Does it together with other threads, so many in all, if it is long.
    fn share(self, turn: &Turn<'_>, threads: usize) -> IoResult<()> {
        if threads == 1 || self.len() < LONG {
            return self.whole();
        }
        let parts = Arc::new(Parts::new(self));
        turn.share(&(parts.clone() as _), threads - 1);
        parts.result()
    }

    /// Does the bytes of this range.
    fn act(&self, range: Range<u64>) -> IoResult<()> {
        let (at, bytes) = (
            self.offset + range.start,
            range.start as usize..range.end as usize,
        );
        match &self.data {
            Data::Read(all) => self.device.read_vectored_at(&part(all, bytes), at),
            Data::Write(all) => self.device.write_vectored_at(&part(all, bytes), at),
        }
    }
}

/// A transfer in parts. They begin where units of the disk do, so that no two
/// of them want the same one.
struct Parts {
    transfer: Transfer,
    size: u64,
    /// The first that nobody has begun.
    next: AtomicU64,
    failed: OnceLock<Errno>,
}

impl Parts {
    fn new(transfer: Transfer) -> Self {
        let unit = u64::from(transfer.device.block_sizes().discard);
        Self {
            transfer,
            size: PART.next_multiple_of(unit.max(1)),
            next: AtomicU64::new(0),
            failed: OnceLock::new(),
        }
    }

    /// Bytes of a part; none if there is no such part.
    fn part(&self, number: u64) -> Range<u64> {
        let (offset, len) = (self.transfer.offset, self.transfer.len());
        part_of(offset, len, self.size, number)
    }

    /// The error that came first.
    fn result(&self) -> IoResult<()> {
        self.failed.get().map_or(Ok(()), |errno| Err(*errno))
    }
}

/// Bytes of part `number` of a transfer of `len` bytes at `offset`, if parts
/// begin at multiples of `size` on the disk.
fn part_of(offset: u64, len: u64, size: u64, number: u64) -> Range<u64> {
    let first = offset - offset % size;
    let place = |n: u64| (first + n * size).saturating_sub(offset).min(len);
    place(number)..place(number + 1)
}

impl Work for Parts {
    fn work(&self) {
        while self.failed.get().is_none() {
            let range = self.part(self.next.fetch_add(1, Ordering::Relaxed));
            if range.is_empty() {
                break;
            }
            if let Err(errno) = self.transfer.act(range) {
                // Another one may have come before.
                let _ = self.failed.set(errno);
            }
        }
    }

    fn has_more(&self) -> bool {
        let next = self.next.load(Ordering::Relaxed);
        self.failed.get().is_none() && !self.part(next).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_follow_each_other_and_begin_with_units() {
        for (offset, len) in [
            (0, 1 << 20),
            (1536, 3_000_064),
            (511, 1),
            (7 << 17, 5 << 17),
        ] {
            for size in [PART, PART + 4096, 1 << 21, 1 << 40] {
                let mut at = 0;
                for number in 0.. {
                    let part = part_of(offset, len, size, number);
                    if part.is_empty() {
                        break;
                    }
                    assert_eq!(part.start, at);
                    assert!(number == 0 || (offset + at).is_multiple_of(size));
                    assert!(part.end - part.start <= size);
                    at = part.end;
                }
                assert_eq!(at, len, "{offset} {size}");
            }
        }
    }
}
