//! What an image file is to a format: bytes at offsets in something that
//! grows, and a flush that makes them durable.

use crate::buffer::{Dest, Source};
use crate::device::{Division, Way};
use crate::errno::IoResult;

/// A run of bytes of a file, all with or all without data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// How long it is.
    pub len: u64,
    /// There is data; a hole reads as zeros.
    pub data: bool,
}

/// A file that holds an image. All methods may be called from several threads.
pub trait Storage: Send + Sync {
    /// Fills the buffers; what is beyond the end of the file reads as zeros.
    ///
    /// # Errors
    /// The host's.
    fn read_vectored_at(&self, buffers: &[Dest], offset: u64) -> IoResult<()>;

    /// Writes all of the buffers; the file grows as needed.
    ///
    /// # Errors
    /// The host's.
    fn write_vectored_at(&self, buffers: &[Source], offset: u64) -> IoResult<()>;

    /// Makes completed writes durable. After a failure every later flush
    /// fails, since nobody knows then which writes were lost.
    ///
    /// # Errors
    /// The host's.
    fn flush(&self) -> IoResult<()>;

    /// Length in bytes.
    ///
    /// # Errors
    /// The host's.
    fn length(&self) -> IoResult<u64>;

    /// What is written behind the end makes it longer.
    fn grows(&self) -> bool {
        true
    }

    /// Cuts or extends (with a hole).
    ///
    /// # Errors
    /// The host's.
    fn set_len(&self, len: u64) -> IoResult<()>;

    /// Reserves space without changing contents; the file grows as needed.
    ///
    /// # Errors
    /// The host's.
    fn allocate(&self, offset: u64, len: u64) -> IoResult<()>;

    /// Makes bytes zero, giving their space back if `unmap`. The file does not
    /// grow; what is beyond its end is zero already.
    ///
    /// # Errors
    /// The host's.
    fn zero(&self, offset: u64, len: u64, unmap: bool) -> IoResult<()>;

    /// Whether there is data at `offset`, and how far that is so, at most
    /// `len` bytes.
    ///
    /// # Errors
    /// The host's.
    fn extent(&self, offset: u64, len: u64) -> IoResult<Extent>;

    /// Bytes that reads and writes should be aligned to; others are slower.
    fn alignment(&self) -> u32;

    /// How a long transfer is done soonest, of one piece of the file or of
    /// many that are `scattered` about it.
    fn division(&self, way: Way, scattered: bool) -> Division {
        let _ = (way, scattered);
        Division::Whole
    }

    /// Bytes of storage in use.
    ///
    /// # Errors
    /// The host's.
    fn space_used(&self) -> IoResult<u64>;
}

/// Reads and writes of ordinary memory.
pub trait StorageExt: Storage {
    /// [`Storage::read_vectored_at`] with one buffer.
    ///
    /// # Errors
    /// The same.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> IoResult<()> {
        self.read_vectored_at(&[Dest::from(buffer)], offset)
    }

    /// [`Storage::write_vectored_at`] with one buffer.
    ///
    /// # Errors
    /// The same.
    fn write_at(&self, buffer: &[u8], offset: u64) -> IoResult<()> {
        self.write_vectored_at(&[Source::from(buffer)], offset)
    }
}

impl<S: Storage + ?Sized> StorageExt for S {}
