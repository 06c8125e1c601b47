//! Writing the tables, in the order that the module's documentation gives.

use super::Qcow2;
use super::header::DIRTY;
use super::mapping::{Changes, Dropped};
use crate::errno::IoResult;
use crate::storage::StorageExt;
use std::sync::atomic::Ordering;

/// References that the tables have dropped.
#[derive(Default)]
pub(super) struct Writeback {
    /// The file's tables too, but perhaps not durably.
    written: Vec<Dropped>,
    /// Durably.
    durable: Vec<Dropped>,
}

impl Qcow2 {
    /// Writes all changes of the tables, to make room in the caches.
    pub(super) fn write_back(&self) -> IoResult<()> {
        self.write_tables(&mut self.writeback.lock())
    }

    /// Makes everything durable.
    pub(super) fn sync(&self) -> IoResult<()> {
        let mut writeback = self.writeback.lock();
        self.write_tables(&mut writeback)?;
        self.file.flush()?;
        let written = std::mem::take(&mut writeback.written);
        writeback.durable.extend(written);
        self.reclaim(&mut writeback)
    }

    fn write_tables(&self, writeback: &mut Writeback) -> IoResult<()> {
        let changes = {
            // Most flushes find nothing to do.
            let clean = !self.mapping.read().dirty();
            match clean {
                true => None,
                false => Some(self.mapping.write().take_changes()),
            }
        };
        let Some(changes) = changes else {
            return self.write_refcounts();
        };
        let result = self.write_changes(&changes);
        self.mapping.write().written(&changes, result.is_ok());
        result?;
        writeback.written.extend(changes.dropped);
        Ok(())
    }

    /// After the changes have been copied, so that every cluster they name is
    /// counted.
    fn write_refcounts(&self) -> IoResult<()> {
        match self.lazy {
            true => Ok(()),
            false => self.refcounts.lock().write_changes(&*self.file),
        }
    }

    fn write_changes(&self, changes: &Changes) -> IoResult<()> {
        self.write_refcounts()?;
        if changes.is_empty() {
            return Ok(());
        }
        self.file.flush()?;
        for (offset, bytes) in &changes.l2 {
            self.file.write_at(bytes, *offset)?;
        }
        for (offset, bytes) in &changes.l1 {
            self.file.write_at(bytes, *offset)?;
        }
        Ok(())
    }

    /// Uncounts references that are gone from the file and from all requests.
    fn reclaim(&self, writeback: &mut Writeback) -> IoResult<()> {
        if writeback.durable.is_empty() {
            return Ok(());
        }
        self.grace.advance();
        self.grace.advance();
        let all = std::mem::take(&mut writeback.durable);
        let (over, still): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|d| self.grace.over(d.phase));
        writeback.durable = still;
        let bits = self.geometry.cluster_bits;
        let mut result = Ok(());
        for dropped in over {
            let clusters = dropped.first..dropped.first + dropped.count;
            let mut refcounts = self.refcounts.lock();
            match refcounts.decrement(self, clusters) {
                Ok(freed) if dropped.punch => {
                    // Before anybody can take them.
                    for cluster in freed {
                        let _ = self.file.zero(cluster << bits, 1 << bits, true);
                    }
                }
                Ok(_) => {}
                Err(errno) => result = Err(errno),
            }
        }
        result
    }

    /// With lazy refcounts, says durably that they are not up to date.
    pub(super) fn mark_dirty(&self) -> IoResult<()> {
        if !self.lazy || self.dirty.load(Ordering::Acquire) {
            return Ok(());
        }
        self.update_header(|h| h.incompatible |= DIRTY)?;
        self.dirty.store(true, Ordering::Release);
        Ok(())
    }

    /// Brings the file to a state that needs no repair. Nobody else uses the
    /// image any more.
    pub(super) fn settle(&self) -> IoResult<()> {
        self.sync()?;
        // Requests are over, so everything dropped can go now.
        {
            let mut writeback = self.writeback.lock();
            for _ in 0..2 {
                self.reclaim(&mut writeback)?;
            }
        }
        self.refcounts.lock().write_changes(&*self.file)?;
        self.file.flush()?;
        if self.dirty.load(Ordering::Acquire) {
            self.update_header(|h| h.incompatible &= !DIRTY)?;
            self.dirty.store(false, Ordering::Release);
        }
        Ok(())
    }
}
