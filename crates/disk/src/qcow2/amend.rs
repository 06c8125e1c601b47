//! Changing what an image says of itself.

use super::{BackingName, Qcow2};
use crate::errno::{Error, IoResult, Result};
use crate::storage::StorageExt;

/// What an image says of itself, for its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// 2 or 3.
    pub version: u32,
    /// Bytes.
    pub cluster_size: u64,
    /// Width of a refcount.
    pub refcount_bits: u32,
    /// Refcounts may be written late.
    pub lazy_refcounts: bool,
    /// Refcounts were not written at the end of the last use.
    pub dirty: bool,
    /// Damage was found.
    pub corrupt: bool,
}

impl Qcow2 {
    /// What the image says of itself.
    pub fn facts(&self) -> Facts {
        let header = self.header.lock();
        Facts {
            version: header.version,
            cluster_size: self.geometry.cluster_size(),
            refcount_bits: self.geometry.refcount_bits(),
            lazy_refcounts: self.lazy,
            dirty: header.incompatible & super::DIRTY != 0,
            corrupt: header.incompatible & super::CORRUPT != 0,
        }
    }

    /// Names another backing file, or none. What the disk shows changes with
    /// it at the next opening.
    ///
    /// # Errors
    /// The name is too long, or the host's.
    pub fn set_backing_name(&self, backing: Option<BackingName>) -> Result<()> {
        let _alone = self.gate.write();
        let failed = |e| Error::io("Could not update qcow2 header", e);
        self.writable().map_err(failed)?;
        self.sync().map_err(failed)?;
        let mut header = self.header.lock();
        let mut changed = header.clone();
        changed.backing = backing;
        let cluster = changed.to_cluster()?;
        self.file
            .write_at(&cluster, 0)
            .and_then(|()| self.file.flush())
            .map_err(failed)?;
        *header = changed;
        Ok(())
    }

    /// Forgets all contents, so that the disk shows its backing file.
    ///
    /// # Errors
    /// The host's.
    pub fn make_empty(&self) -> IoResult<()> {
        let _alone = self.gate.write();
        self.writable()?;
        let end = self.size().next_multiple_of(self.geometry.cluster_size());
        self.remove_range(0, end)?;
        self.settle()
    }
}
