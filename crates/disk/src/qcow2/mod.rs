//! qcow2 images, versions 2 and 3.
//!
//! # What is durable when
//!
//! Changes of the tables stay in memory until a flush or until the caches are
//! full. They are then written in this order:
//!
//! 1. refcounts, which by then count every cluster that the tables use;
//! 2. a barrier (the file is flushed): refcounts, guest data and what was
//!    copied beside it are durable;
//! 3. L2 and L1 entries;
//! 4. a barrier, if it is a flush.
//!
//! New L2 tables are in the file before any L1 entry names them. A reference
//! that the tables drop is counted until step 4 is over, and the cluster is
//! not used again before requests that may know it have ended ([`grace`]). So
//! a crash between any two writes leaves leaked clusters at worst. With lazy
//! refcounts step 1 waits for the image to be closed, and the header's dirty
//! bit says that they must be counted anew.
//!
//! # Locks
//!
//! In this order; none but `gate` is held while guest data moves.
//!
//! * `gate`: shared by requests, alone for what changes the whole image;
//! * [`claims`]: guest clusters whose mapping is being changed;
//! * `writeback`: one thread writes tables at a time;
//! * `l1_change`: one thread makes L2 tables at a time;
//! * `refcounts`: allocation, with its reads of refcount blocks;
//! * `mapping`: the L1 table and the cached L2 pieces. Look-ups share it.
//! * `header`.

mod amend;
mod check;
mod claims;
mod close;
mod compressed;
mod create;
mod geometry;
mod grace;
mod header;
mod mapping;
mod read;
mod refcounts;
mod resize;
mod slices;
mod snapshot;
mod snapshot_table;
mod write;
mod writeback;
mod zero;

pub use amend::Facts;
pub use check::{CheckReport, Repair};
pub use create::{CreateOptions, create};
pub use snapshot_table::Snapshot;

use crate::buffer::{Dest, Source, total_len};
use crate::device::{BlockDevice, BlockSizes, Division, Preallocation, Status, Way, within};
use crate::errno::{Errno, Error, IoResult, Result};
use crate::storage::{Storage, StorageExt};
use claims::Claims;
use geometry::{Geometry, from_bytes};
use grace::Grace;
use header::{CORRUPT, DIRTY, Header, LAZY_REFCOUNTS};
use mapping::{Lookup, Mapping, Run};
use parking_lot::{Condvar, Mutex, RwLock};
use refcounts::{Home, Refcounts};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use writeback::Writeback;

/// The backing file as an image names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackingName {
    /// The name, as it is written.
    pub name: String,
    /// The format's name, if it is written.
    pub format: Option<String>,
}

/// How an image is opened.
#[derive(Clone, Default)]
pub struct Qcow2Options {
    /// No writes.
    pub read_only: bool,
    /// The backing file's contents.
    pub backing: Option<Arc<dyn BlockDevice>>,
    /// To be checked: the image is opened however damaged it is, and nothing
    /// is repaired on the way.
    pub checking: bool,
    /// Show this internal snapshot's contents; read-only.
    pub snapshot: Option<String>,
    /// Clusters are taken in the order in which they are written; otherwise those
    /// of a region of the disk lie together in the file.
    pub in_order: bool,
    /// Memory for pieces of L2 tables, in bytes; enough for 256 GiB of disk
    /// with clusters of 64 KiB if `None`.
    pub l2_cache: Option<u64>,
}

/// An open image.
pub struct Qcow2 {
    file: Arc<dyn Storage>,
    geometry: Geometry,
    version: u32,
    read_only: bool,
    lazy: bool,
    backing: Option<Arc<dyn BlockDevice>>,
    /// Size of the disk.
    len: AtomicU64,
    /// Damage was found: nothing is written any more.
    corrupt: AtomicBool,
    /// The header's dirty bit is set.
    dirty: AtomicBool,
    gate: RwLock<()>,
    claims: Claims,
    grace: Grace,
    writeback: Mutex<Writeback>,
    l1_change: Mutex<()>,
    refcounts: Mutex<Refcounts>,
    mapping: RwLock<Mapping>,
    /// The file has fewer data than the tables say, see [`Qcow2::has_holes`].
    holes: OnceLock<bool>,
    /// Signalled when a piece of an L2 table has been read.
    loaded: (Mutex<()>, Condvar),
    header: Mutex<Header>,
}

/// What the image in `file` says of its backing file.
///
/// # Errors
/// It is no image that we can read.
pub fn backing_name(file: &dyn Storage) -> Result<Option<BackingName>> {
    Ok(Header::read(file)?.backing)
}

impl Qcow2 {
    /// Opens the image in `file`.
    ///
    /// # Errors
    /// It is no image that we can read, or (for writing) one that we must not
    /// write to.
    pub fn open(file: Arc<dyn Storage>, options: Qcow2Options) -> Result<Self> {
        let mut header = Header::read(&*file)?;
        let writable = !options.read_only;
        if let Some(wanted) = &options.snapshot {
            header = snapshot::header_of(&*file, header, wanted, writable)?;
        }
        if writable && header.incompatible & CORRUPT != 0 && !options.checking {
            return Err(Error::new(
                Errno(libc::EACCES),
                "qcow2: Image is corrupt; cannot be opened read/write",
            ));
        }
        if writable && header.has_bitmaps() {
            return Err(Error::unsupported(
                "Images with persistent bitmaps can only be opened read-only",
            ));
        }
        let checking = options.checking;
        let image = Self::load(file, header, options)?;
        if writable && !checking {
            image.prepare_writing()?;
        }
        Ok(image)
    }

    fn load(file: Arc<dyn Storage>, header: Header, options: Qcow2Options) -> Result<Self> {
        let g = header.geometry;
        let mut l1 = vec![0; header.l1_entries as usize * 8];
        file.read_at(&mut l1, header.l1_offset)
            .map_err(|e| Error::io("Could not read L1 table", e))?;
        let refcounts = file.length().and_then(|len| {
            let (offset, clusters) = (header.reftable_offset, header.reftable_clusters);
            Refcounts::open(&*file, g, offset, clusters, g.clusters(len))
        });
        let mut refcounts =
            refcounts.map_err(|e| Error::io("Could not initialize refcount handling", e))?;
        refcounts.in_order = options.in_order;
        Ok(Self {
            geometry: g,
            version: header.version,
            read_only: options.read_only,
            lazy: header.compatible & LAZY_REFCOUNTS != 0,
            backing: options.backing,
            len: header.size.into(),
            corrupt: AtomicBool::new(header.incompatible & CORRUPT != 0 && !options.checking),
            dirty: AtomicBool::new(header.incompatible & DIRTY != 0),
            gate: RwLock::new(()),
            claims: Claims::default(),
            grace: Grace::default(),
            writeback: Mutex::default(),
            l1_change: Mutex::new(()),
            refcounts: Mutex::new(refcounts),
            mapping: RwLock::new(Mapping::new(
                g,
                from_bytes(&l1),
                header.l1_offset,
                options.l2_cache.unwrap_or(mapping::L2_CACHE),
            )),
            holes: OnceLock::new(),
            loaded: (Mutex::new(()), Condvar::new()),
            header: Mutex::new(header),
            file,
        })
    }

    /// Counts references anew if they were not written at the end of the last
    /// use, and clears what says that features unknown to us are consistent.
    fn prepare_writing(&self) -> Result<()> {
        if self.dirty.load(Ordering::Acquire) {
            let report = self.check_alone(Repair::All, &mut |_| {})?;
            if report.corruptions + report.check_errors > 0 {
                self.found_corrupt();
                return Err(Error::new(Errno::EIO, "Could not repair dirty image"));
            }
        }
        let changed = self.header.lock().autoclear != 0;
        if changed {
            self.update_header(|h| h.autoclear = 0)
                .map_err(|e| Error::io("Could not update qcow2 header", e))?;
        }
        Ok(())
    }

    /// Changes numbers of the header, durably. They are in one sector, so that
    /// a crash leaves the old or the new ones.
    fn update_header(&self, change: impl FnOnce(&mut Header)) -> IoResult<()> {
        let mut header = self.header.lock();
        let mut changed = header.clone();
        change(&mut changed);
        changed.write_numbers(&*self.file)?;
        self.file.flush()?;
        *header = changed;
        Ok(())
    }

    /// The image contradicts itself: nothing is written from now on, and the
    /// header says so.
    fn found_corrupt(&self) -> Errno {
        let known = self.corrupt.swap(true, Ordering::SeqCst);
        if !known && !self.read_only && self.version >= 3 {
            // Whether this is written or not: no write follows.
            let _ = self.update_header(|h| h.incompatible |= CORRUPT);
        }
        Errno::EIO
    }

    fn writable(&self) -> IoResult<()> {
        if self.read_only {
            return Err(Errno::EPERM);
        }
        match self.corrupt.load(Ordering::SeqCst) {
            true => Err(Errno::EIO),
            false => Ok(()),
        }
    }

    /// Size of the disk.
    fn size(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    /// How guest bytes are mapped. Reads pieces of tables as needed.
    fn map(&self, guest: u64, len: u64) -> IoResult<Run> {
        loop {
            let lookup = self.mapping.read().look_up(guest, len);
            match lookup {
                Lookup::Run(run) => return Ok(run),
                Lookup::Bad => return Err(self.found_corrupt()),
                Lookup::Load(slice) => self.load_slice(slice)?,
                Lookup::Wait => self.await_load(guest, len),
            }
        }
    }

    /// Waits for another thread that reads a piece.
    fn await_load(&self, guest: u64, len: u64) {
        let (lock, loaded) = &self.loaded;
        let mut guard = lock.lock();
        if matches!(self.mapping.read().look_up(guest, len), Lookup::Wait) {
            loaded.wait(&mut guard);
        }
    }

    /// Reads a piece of an L2 table unless somebody else does.
    fn load_slice(&self, slice: u64) -> IoResult<()> {
        loop {
            let mut mapping = self.mapping.write();
            if !matches!(mapping.slices.find(slice), slices::Found::Missing) {
                return Ok(());
            }
            if mapping.slices.begin_load(slice) {
                break;
            }
            drop(mapping);
            // Everything cached is changed.
            self.write_back()?;
        }
        let mut bytes = vec![0; self.geometry.slice_size() as usize].into_boxed_slice();
        let read = self.file.read_at(&mut bytes, slice);
        let bytes = read.is_ok().then_some(bytes);
        self.mapping.write().slices.end_load(slice, bytes);
        drop(self.loaded.0.lock());
        self.loaded.1.notify_all();
        read
    }
}

impl Home for Qcow2 {
    fn file(&self) -> &dyn Storage {
        &*self.file
    }

    fn table_moved(&self, offset: u64, clusters: u32) -> IoResult<()> {
        self.update_header(|h| {
            h.reftable_offset = offset;
            h.reftable_clusters = clusters;
        })
    }

    fn is_table(&self, cluster: u64) -> bool {
        self.mapping.read().is_own(cluster)
    }

    fn surroundings(&self, clusters: Range<u64>) -> Option<u64> {
        self.mapping.read().surroundings(clusters)
    }
}

impl BlockDevice for Qcow2 {
    fn len(&self) -> u64 {
        self.size()
    }

    fn read_vectored_at(&self, buffers: &[Dest], offset: u64) -> IoResult<()> {
        let _open = self.gate.read();
        within(offset, total_len(buffers) as u64, self.len())?;
        self.read_guest(buffers, offset)
    }

    fn write_vectored_at(&self, buffers: &[Source], offset: u64) -> IoResult<()> {
        let _open = self.gate.read();
        self.writable()?;
        within(offset, total_len(buffers) as u64, self.len())?;
        self.write_guest(buffers, offset)
    }

    fn flush(&self) -> IoResult<()> {
        let _open = self.gate.read();
        match self.read_only {
            true => Ok(()),
            false => self.sync(),
        }
    }

    fn discard(&self, offset: u64, len: u64) -> IoResult<()> {
        let _open = self.gate.read();
        self.writable()?;
        let end = within(offset, len, self.len())?;
        self.discard_guest(offset, end)
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> IoResult<()> {
        let _open = self.gate.read();
        self.writable()?;
        let end = within(offset, len, self.len())?;
        self.zero_guest(offset, end, unmap)
    }

    fn block_sizes(&self) -> BlockSizes {
        let block = self.file.alignment();
        BlockSizes {
            logical: 512,
            physical: block.max(512),
            discard: self.geometry.cluster_size() as u32,
        }
    }

    fn division(&self, way: Way, offset: u64, len: u64) -> Division {
        let _open = self.gate.read();
        self.divide(way, offset, len)
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn resize(&self, len: u64, preallocation: Preallocation) -> IoResult<()> {
        let _alone = self.gate.write();
        self.writable()?;
        self.change_size(len, preallocation)
    }

    fn status(&self, offset: u64, len: u64) -> IoResult<Status> {
        let _open = self.gate.read();
        let end = within(offset, len, self.len())?;
        let _request = self.grace.enter();
        let run = self.map(offset, end - offset)?;
        self.describe(&run, offset)
    }
}
