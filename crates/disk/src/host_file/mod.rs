//! Files and block devices of the host as [`Storage`].

mod direct;
mod durable;
mod lock;
mod space;
mod transfer;

pub use lock::Access;

use crate::buffer::{Dest, Source};
use crate::device::{Division, Way};
use crate::errno::{Errno, Error, IoResult, Result};
use crate::storage::{Extent, Storage};
use direct::DirectIo;
use durable::Durable;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// How a file is opened.
#[derive(Clone, Copy, Debug)]
pub struct HostFileOptions {
    /// For writing too.
    pub writable: bool,
    /// Around the host's page cache.
    pub direct: bool,
    /// Flushes do nothing: what was written survives us, but not the host.
    pub ignore_flush: bool,
    /// What others may do with the file meanwhile.
    pub access: Access,
    /// Make the file if there is none, and empty it if there is.
    pub create: bool,
}

/// An open file or block device.
pub struct HostFile {
    file: File,
    path: PathBuf,
    block_device: bool,
    ignore_flush: bool,
    direct: Option<DirectIo>,
    durable: Durable,
}

impl HostFile {
    /// Opens a file.
    ///
    /// # Errors
    /// The host's words, or that another process uses the file.
    pub fn open(path: &Path, options: &HostFileOptions) -> Result<Self> {
        let (file, block_device) = Self::open_file(path, options)?;
        if options.create {
            // Locked for the creation before anything is destroyed.
            lock::acquire(&file, path, options.access)?;
            let emptied = if block_device {
                Ok(())
            } else {
                file.set_len(0)
            };
            emptied.map_err(|e| Error::io(could_not("create", path), e.into()))?;
        } else {
            lock::acquire(&file, path, options.access)?;
        }
        let direct = match options.direct {
            true => Some(DirectIo::of(&file, block_device)),
            false => None,
        };
        Ok(Self {
            file,
            path: path.to_owned(),
            block_device,
            ignore_flush: options.ignore_flush,
            direct,
            durable: Durable::default(),
        })
    }

    fn open_file(path: &Path, options: &HostFileOptions) -> Result<(File, bool)> {
        let verb = if options.create { "create" } else { "open" };
        let failed = |e: std::io::Error| Error::io(could_not(verb, path), e.into());
        // Opening a FIFO must not wait for its other end.
        let flags = libc::O_NONBLOCK | if options.direct { libc::O_DIRECT } else { 0 };
        let opened = OpenOptions::new()
            .read(true)
            .write(options.writable || options.create)
            .create(options.create)
            .truncate(false)
            .custom_flags(flags)
            .mode(0o644)
            .open(path);
        let file = match opened {
            Err(e) if options.direct && e.raw_os_error() == Some(libc::EINVAL) => {
                let why = format!(
                    "{}: the file system does not support O_DIRECT (cache=none, cache=directsync)",
                    could_not(verb, path)
                );
                return Err(Error::invalid(why));
            }
            other => other.map_err(failed)?,
        };
        let kind = file.metadata().map_err(failed)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(Error::invalid(format!(
                "'file' driver requires '{}' to be a regular file",
                path.display()
            )));
        }
        Ok((file, kind.is_block_device()))
    }

    /// Path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// It is a block device of the host.
    pub fn is_block_device(&self) -> bool {
        self.block_device
    }
}

impl HostFile {
    /// Everything written is durable.
    #[cfg(test)]
    pub(crate) fn all_durable(&self) -> bool {
        self.durable.all()
    }

    /// Notes that the file was written to, whatever came of it.
    fn changes(&self, result: IoResult<()>) -> IoResult<()> {
        self.durable.written();
        result
    }
}

fn could_not(verb: &str, path: &Path) -> String {
    format!("Could not {verb} '{}'", path.display())
}

impl Storage for HostFile {
    fn read_vectored_at(&self, buffers: &[Dest], offset: u64) -> IoResult<()> {
        match &self.direct {
            None => transfer::read(&self.file, buffers, offset),
            Some(direct) => direct.read(&self.file, buffers, offset),
        }
    }

    fn write_vectored_at(&self, buffers: &[Source], offset: u64) -> IoResult<()> {
        // A failed write may have written a part.
        self.changes(match &self.direct {
            None => transfer::write(&self.file, buffers, offset),
            Some(direct) => direct.write(&self.file, buffers, offset),
        })
    }

    fn flush(&self) -> IoResult<()> {
        if self.ignore_flush {
            return Ok(());
        }
        self.durable.flush(|| Ok(self.file.sync_data()?))
    }

    fn length(&self) -> IoResult<u64> {
        match self.block_device {
            true => space::end(&self.file),
            false => Ok(self.file.metadata()?.len()),
        }
    }

    fn grows(&self) -> bool {
        !self.block_device
    }

    fn set_len(&self, len: u64) -> IoResult<()> {
        if self.block_device {
            return Err(Errno::ENOTSUP);
        }
        self.changes(self.file.set_len(len).map_err(Errno::from))
    }

    fn allocate(&self, offset: u64, len: u64) -> IoResult<()> {
        self.changes(space::allocate(&self.file, offset, len))
    }

    fn zero(&self, offset: u64, len: u64, unmap: bool) -> IoResult<()> {
        let end = self.length()?;
        let len = len.min(end.saturating_sub(offset));
        if len == 0 {
            return Ok(());
        }
        match self.changes(space::zero(&self.file, offset, len, unmap)) {
            Err(Errno::ENOTSUP) => transfer::write_zeros(self, offset, len),
            other => other,
        }
    }

    fn extent(&self, offset: u64, len: u64) -> IoResult<Extent> {
        space::extent(&self.file, offset, len)
    }

    fn alignment(&self) -> u32 {
        self.direct.as_ref().map_or(1, DirectIo::block)
    }

    fn division(&self, way: Way, scattered: bool) -> Division {
        match (way, &self.direct) {
            (Way::Read, None) => Division::Copied,
            // Linux lets one thread at a time write to a cached file.
            (Way::Write, None) => Division::Alone,
            (_, Some(_)) if scattered => Division::Scattered,
            _ => Division::Whole,
        }
    }

    fn space_used(&self) -> IoResult<u64> {
        Ok(self.file.metadata()?.blocks() * 512)
    }
}
