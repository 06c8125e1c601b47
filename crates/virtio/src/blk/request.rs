//! One request (5.2.6): a header, data, a status byte.
#![allow(unsafe_code, reason = "hands guest memory to the disk as raw buffers")]

use super::SERIAL_LEN;
use super::config::{MAX_RANGE_SECTORS, MAX_SEGMENTS, SECTOR};
use super::error::{IoError, Policies, Reaction, Resumed, Supervisor};
use super::transfer::{Data, Transfer};
use crate::chain::{Chain, Slice};
use crate::crew::Turn;
use crate::queue::Broken;
use disk::{BlockDevice, Dest, Errno, IoResult, Source};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use vm_memory::bitmap::Bitmap;

/// Request types.
mod kind {
    pub const IN: u32 = 0;
    pub const OUT: u32 = 1;
    pub const FLUSH: u32 = 4;
    pub const GET_ID: u32 = 8;
    pub const DISCARD: u32 = 11;
    pub const WRITE_ZEROES: u32 = 13;
}

/// Requests that wait for the host's disk.
fn waits(kind: u32) -> bool {
    matches!(kind, kind::FLUSH | kind::DISCARD | kind::WRITE_ZEROES)
}

/// Status bytes.
const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;

/// The flag of a segment: the space may be given back.
const UNMAP: u32 = 1;
const HEADER: usize = 16;
const SEGMENT: usize = 16;

/// A disk as requests use it.
pub(super) struct Disk {
    pub(super) device: Arc<dyn BlockDevice>,
    /// The driver sends flushes. If not, each write is made durable.
    pub(super) flushes: bool,
    pub(super) write_cache: Arc<AtomicBool>,
    pub(super) serial: String,
    pub(super) policies: Policies,
    pub(super) supervisor: Option<Arc<dyn Supervisor>>,
}

/// Why a request did not succeed.
enum Failure {
    Disk(Errno),
    Unsupported,
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::Disk(errno)
    }
}

impl Disk {
    /// Serves a request; the number of bytes written to guest memory.
    pub(super) fn serve(&self, mut chain: Chain<'_>, turn: &Turn<'_>) -> Result<u32, Broken> {
        let Some(status) = chain.take_last_byte() else {
            return Err(Broken("a block request has no room for its status"));
        };
        let mut header = [0; HEADER];
        if !chain.take_header(&mut header) {
            return Err(Broken("a block request has no header"));
        }
        let kind = u32_at(&header, 0);
        let sector = u64_at(&header, 8);
        if waits(kind) || kind == kind::OUT && !self.caches() {
            turn.hand_over()?;
        }
        let (code, filled) =
            self.until_concluded(kind, turn, || self.act(kind, sector, &chain, turn))?;
        status.copy_from(&[code]);
        // At most 2^32 - 1 bytes in all (2.7.5.2).
        Ok(u32::try_from(filled).unwrap_or(u32::MAX).saturating_add(1))
    }

    /// Does it; the number of bytes of data written to guest memory.
    fn act(
        &self,
        kind: u32,
        sector: u64,
        chain: &Chain<'_>,
        turn: &Turn<'_>,
    ) -> Result<usize, Failure> {
        match kind {
            kind::IN => self.read(sector, &chain.writable, turn),
            kind::OUT => self.write(sector, &chain.readable, turn).map(|()| 0),
            kind::FLUSH => Ok(self.device.flush().map(|()| 0)?),
            kind::GET_ID => {
                let mut id = [0; SERIAL_LEN];
                let bytes = self.serial.bytes();
                id.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
                Ok(chain.fill(&id))
            }
            kind::DISCARD | kind::WRITE_ZEROES => self.ranges(kind, chain).map(|()| 0),
            _ => Err(Failure::Unsupported),
        }
    }

    /// Status byte and filled bytes of a request that `act` does: again after
    /// an error that stopped the machine.
    fn until_concluded(
        &self,
        kind: u32,
        turn: &Turn<'_>,
        act: impl Fn() -> Result<usize, Failure>,
    ) -> Result<(u8, usize), Broken> {
        let read = kind == kind::IN;
        loop {
            let errno = match act() {
                Ok(filled) => return Ok((OK, filled)),
                Err(Failure::Unsupported) => return Ok((UNSUPPORTED, 0)),
                Err(Failure::Disk(errno)) => errno,
            };
            let reaction = self.policies.reaction(read, errno);
            let stopped = match (reaction, &self.supervisor) {
                (Reaction::Stop, Some(supervisor)) => {
                    // Others in flight come to their end.
                    turn.hand_over()?;
                    supervisor.stop_and_wait(&IoError { read, errno })
                }
                _ => Resumed::No,
            };
            if stopped == Resumed::Yes {
                continue;
            }
            let ignored = reaction == Reaction::Ignore;
            let note = if ignored { " (ignored)" } else { "" };
            log::warn!("virtio-blk: request {kind}: {errno}{note}");
            return Ok((if ignored { OK } else { IO_ERROR }, 0));
        }
    }

    fn read(&self, sector: u64, slices: &[Slice<'_>], turn: &Turn<'_>) -> Result<usize, Failure> {
        let (offset, len) = self.place(sector, slices)?;
        let data = Data::Read(slices.iter().map(dest).collect());
        let result = self.transfer(data, offset).run(Some(turn));
        // After an error some of the bytes may have come, too.
        for slice in slices {
            slice.bitmap().mark_dirty(0, slice.len());
        }
        result?;
        Ok(len)
    }

    fn write(&self, sector: u64, slices: &[Slice<'_>], turn: &Turn<'_>) -> Result<(), Failure> {
        let (offset, _) = self.place(sector, slices)?;
        let data = Data::Write(slices.iter().map(source).collect());
        // Each part would be made durable by itself otherwise.
        let turn = self.caches().then_some(turn);
        self.transfer(data, offset).run(turn)?;
        Ok(self.written()?)
    }

    fn transfer(&self, data: Data, offset: u64) -> Transfer {
        Transfer {
            device: self.device.clone(),
            data,
            offset,
        }
    }

    /// Makes what was written durable unless the driver flushes itself.
    fn written(&self) -> IoResult<()> {
        match self.caches() {
            true => Ok(()),
            false => self.device.flush(),
        }
    }

    /// What is written may wait in caches for a flush.
    fn caches(&self) -> bool {
        self.flushes && self.write_cache.load(Ordering::Acquire)
    }

    /// Offset and length of a transfer, which is whole sectors of the disk.
    fn place(&self, sector: u64, slices: &[Slice<'_>]) -> Result<(u64, usize), Errno> {
        let len: usize = slices.iter().map(Slice::len).sum();
        let offset = sector.checked_mul(SECTOR).ok_or(Errno::EINVAL)?;
        let end = offset.checked_add(len as u64).ok_or(Errno::EINVAL)?;
        let whole = (len as u64).is_multiple_of(SECTOR);
        match whole && end <= self.device.len() {
            true => Ok((offset, len)),
            false => Err(Errno::EINVAL),
        }
    }

    /// Discards or zeroes the segments that the data lists (5.2.6.2).
    fn ranges(&self, kind: u32, chain: &Chain<'_>) -> Result<(), Failure> {
        let len = chain.readable_len();
        if len == 0 || !len.is_multiple_of(SEGMENT) || len / SEGMENT > MAX_SEGMENTS as usize {
            return Err(Errno::EINVAL.into());
        }
        let mut list = vec![0; len];
        let mut at = 0;
        for slice in &chain.readable {
            at += slice.copy_to(&mut list[at..]);
        }
        for segment in list.chunks_exact(SEGMENT) {
            self.range(kind, segment)?;
        }
        Ok(self.written()?)
    }

    fn range(&self, kind: u32, segment: &[u8]) -> Result<(), Failure> {
        let (sectors, flags) = (u32_at(segment, 8), u32_at(segment, 12));
        let offset = u64_at(segment, 0).checked_mul(SECTOR);
        let offset = offset.ok_or(Errno::EINVAL)?;
        let len = u64::from(sectors) * SECTOR;
        let inside = offset
            .checked_add(len)
            .is_some_and(|end| end <= self.device.len());
        if !inside || sectors > MAX_RANGE_SECTORS {
            return Err(Errno::EINVAL.into());
        }
        match (kind, flags) {
            (kind::DISCARD, 0) => self.device.discard(offset, len)?,
            (kind::WRITE_ZEROES, 0 | UNMAP) => {
                self.device.write_zeroes(offset, len, flags == UNMAP)?;
            }
            // Unknown flags must not be guessed at (5.2.6.2).
            _ => return Err(Failure::Unsupported),
        }
        Ok(())
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].try_into().map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].try_into().map_or(0, u64::from_le_bytes)
}

/// Guest memory to read into. The caller marks it dirty afterwards.
fn dest(slice: &Slice<'_>) -> Dest<'static> {
    // SAFETY: the slice lies in a region of guest memory, which its queue
    // keeps mapped, writable, until its threads, which are those that use the
    // buffer, have ended; the guest's and other devices' accesses to it are
    // raw or atomic, never references.
    unsafe { Dest::from_raw(slice.ptr_guard_mut().as_ptr(), slice.len()) }
}

/// Guest memory to write from.
fn source(slice: &Slice<'_>) -> Source<'static> {
    // SAFETY: as in `dest`; a source is only read.
    unsafe { Source::from_raw(slice.ptr_guard_mut().as_ptr(), slice.len()) }
}
