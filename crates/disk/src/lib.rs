//! Disk images: raw and qcow2 files as disks for device models and tools.
//!
//! A [`Storage`] is a file of the host, a [`BlockDevice`] the disk that an
//! image in it describes, a [`Disk`] that with a cache mode. Requests are
//! synchronous and may come from several threads; whoever must not wait gives
//! them to threads of his own. Buffers are raw host memory
//! ([`Dest`], [`Source`]), so that a guest's RAM is never lent out.
//! Errors are values ([`Errno`], [`Error`]), whatever an image contains.

mod buffer;
mod device;
mod disk;
mod errno;
mod filename;
mod format;
mod host_file;
mod image;
mod preallocate;
pub mod qcow2;
mod raw;
mod storage;
mod temporary;
#[cfg(test)]
mod testing;

pub use buffer::{Dest, HostBuffer, Source, part, total_len};
pub use device::{BlockDevice, BlockDeviceExt, BlockSizes, Division, Preallocation, Status, Way};
pub use disk::{CacheMode, Disk, DiskOptions};
pub use errno::{Errno, Error, IoResult, Result};
pub use filename::{Below, ImageName};
pub use format::{Format, PROBE_LEN, Probed, probe};
pub use host_file::{Access, HostFile, HostFileOptions};
pub use image::{ChainStatus, Image, ImageOptions, MAX_CHAIN};
pub use preallocate::create_raw;
pub use raw::Raw;
pub use storage::{Extent, Storage, StorageExt};
