//! What a disk is to a device model or a tool.

use crate::buffer::{Dest, Source};
use crate::errno::{Errno, IoResult};

/// Sizes that a device model tells the guest, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSizes {
    /// Requests should be multiples of this; others work and are slower.
    pub logical: u32,
    /// What the storage writes at once.
    pub physical: u32,
    /// Unit in which discarded space is given back.
    pub discard: u32,
}

/// How space for a larger disk is set aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preallocation {
    /// Not at all.
    #[default]
    Off,
    /// The format's tables, not the space.
    Metadata,
    /// Reserved without writing.
    Falloc,
    /// Zeros are written.
    Full,
}

/// How a long transfer is done soonest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Division {
    /// At once.
    Whole,
    /// At once, and one such transfer after the other, since the host does no
    /// two of them at the same time.
    Alone,
    /// In parts by as many threads as there are CPUs, which copy.
    Copied,
    /// In parts by many threads: they wait for the host's disk, each for
    /// another piece of the file.
    Scattered,
}

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the disk.
    Read,
    /// To the disk.
    Write,
}

/// What is known of a run of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// How long the run is, from the offset asked for.
    pub len: u64,
    /// The bytes come from storage; if not, they are zeros or the backing
    /// file's.
    pub data: bool,
    /// The bytes read as zeros.
    pub zero: bool,
    /// This layer determines the bytes; if not, the backing file does.
    pub allocated: bool,
    /// The bytes are compressed.
    pub compressed: bool,
    /// Where the first byte is in the image file, if it is there as it is.
    pub host_offset: Option<u64>,
}

/// A disk. All methods may be called from several threads at once; requests
/// that overlap and run at the same time give unspecified contents where they
/// overlap, and nowhere else.
///
/// A completed write is durable once a [`flush`](Self::flush) that began
/// after it has returned.
pub trait BlockDevice: Send + Sync {
    /// Size in bytes.
    fn len(&self) -> u64;

    /// The disk has size 0.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills the buffers from `offset` on.
    ///
    /// # Errors
    /// `EINVAL` beyond the end; the storage's error otherwise.
    fn read_vectored_at(&self, buffers: &[Dest], offset: u64) -> IoResult<()>;

    /// Writes the buffers from `offset` on.
    ///
    /// # Errors
    /// `EPERM` if the disk is read-only or the write is refused for safety,
    /// `EINVAL` beyond the end, `ENOSPC` if the host is full.
    fn write_vectored_at(&self, buffers: &[Source], offset: u64) -> IoResult<()>;

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// The storage's. What was written since the last successful flush may
    /// then be lost.
    fn flush(&self) -> IoResult<()>;

    /// Says that the contents are no longer needed. What is read there
    /// afterwards is unspecified but never another place's data.
    ///
    /// # Errors
    /// As for writes.
    fn discard(&self, offset: u64, len: u64) -> IoResult<()>;

    /// Makes the bytes zero. With `unmap` their space may be given back.
    ///
    /// # Errors
    /// As for writes.
    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> IoResult<()>;

    /// Sizes for the guest.
    fn block_sizes(&self) -> BlockSizes;

    /// Whether to do a transfer of these bytes in parts: from multiples of
    /// [`BlockSizes::discard`] to others.
    fn division(&self, way: Way, offset: u64, len: u64) -> Division {
        let _ = (way, offset, len);
        Division::Whole
    }

    /// Writes are refused.
    fn read_only(&self) -> bool;

    /// Changes the size.
    ///
    /// # Errors
    /// `ENOTSUP` if the format cannot; as for writes otherwise.
    fn resize(&self, len: u64, preallocation: Preallocation) -> IoResult<()>;

    /// What is known of the bytes from `offset`, at most `len` of them; at
    /// least one byte is described if `len` is not 0.
    ///
    /// # Errors
    /// As for reads.
    fn status(&self, offset: u64, len: u64) -> IoResult<Status>;
}

/// Reads and writes of ordinary memory.
pub trait BlockDeviceExt: BlockDevice {
    /// [`BlockDevice::read_vectored_at`] with one buffer.
    ///
    /// # Errors
    /// The same.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> IoResult<()> {
        self.read_vectored_at(&[Dest::from(buffer)], offset)
    }

    /// [`BlockDevice::write_vectored_at`] with one buffer.
    ///
    /// # Errors
    /// The same.
    fn write_at(&self, buffer: &[u8], offset: u64) -> IoResult<()> {
        self.write_vectored_at(&[Source::from(buffer)], offset)
    }
}

impl<D: BlockDevice + ?Sized> BlockDeviceExt for D {}

/// `offset + len`, if a request there is inside a disk of `size` bytes.
pub(crate) fn within(offset: u64, len: u64, size: u64) -> IoResult<u64> {
    match offset.checked_add(len) {
        Some(end) if end <= size => Ok(end),
        _ => Err(Errno::EINVAL),
    }
}
