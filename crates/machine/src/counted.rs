//! A drive with its counters.

use disk::{BlockDevice, BlockSizes, Dest, Disk, Division, IoResult, Preallocation, Source};
use disk::{Status, Way, total_len};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;
use virtio::blk::Blk;

/// Counters of one kind of request.
#[derive(Debug, Default)]
struct Counter {
    requests: AtomicU64,
    failed: AtomicU64,
    bytes: AtomicU64,
    time_ns: AtomicU64,
}

/// What requests of one kind have done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Those that were carried out.
    pub done: u64,
    /// Those that failed.
    pub failed: u64,
    /// Bytes of those that were carried out; of flushes none.
    pub bytes: u64,
    /// Time that they took, added up, in ns.
    pub time_ns: u64,
}

impl Counter {
    fn measure(&self, len: u64, request: impl FnOnce() -> IoResult<()>) -> IoResult<()> {
        let start = Instant::now();
        let result = request();
        let add = |to: &AtomicU64, value| to.fetch_add(value, Ordering::Relaxed);
        add(&self.time_ns, start.elapsed().as_nanos() as u64);
        match result {
            Ok(()) => {
                add(&self.requests, 1);
                add(&self.bytes, len);
            }
            Err(_) => {
                add(&self.failed, 1);
            }
        }
        result
    }

    fn read(&self) -> Requests {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Requests {
            done: value(&self.requests),
            failed: value(&self.failed),
            bytes: value(&self.bytes),
            time_ns: value(&self.time_ns),
        }
    }
}

/// What a drive has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockStats {
    /// Reads.
    pub reads: Requests,
    /// Writes, those of zeroes among them.
    pub writes: Requests,
    /// Flushes.
    pub flushes: Requests,
    /// Discards.
    pub discards: Requests,
}

/// A disk that counts.
pub struct Counted {
    disk: Arc<Disk>,
    reads: Counter,
    writes: Counter,
    flushes: Counter,
    discards: Counter,
    /// The devices that show it to the guest.
    users: Mutex<Vec<Weak<Blk>>>,
}

impl Counted {
    /// Nothing counted yet.
    pub fn new(disk: Disk) -> Self {
        Self {
            disk: Arc::new(disk),
            reads: Counter::default(),
            writes: Counter::default(),
            flushes: Counter::default(),
            discards: Counter::default(),
            users: Mutex::default(),
        }
    }

    /// A device shows it to the guest.
    pub fn used_by(&self, device: &Arc<Blk>) {
        let mut users = self.users.lock();
        users.retain(|user| user.strong_count() > 0);
        users.push(Arc::downgrade(device));
    }

    /// Tells the guest that its size is another one.
    pub fn tell_resized(&self) {
        let users = self.users.lock().clone();
        users
            .iter()
            .filter_map(Weak::upgrade)
            .for_each(|user| user.resized());
    }

    /// The disk.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// What was counted.
    pub fn stats(&self) -> BlockStats {
        BlockStats {
            reads: self.reads.read(),
            writes: self.writes.read(),
            flushes: self.flushes.read(),
            discards: self.discards.read(),
        }
    }
}

impl BlockDevice for Counted {
    fn len(&self) -> u64 {
        self.disk.len()
    }

    fn read_vectored_at(&self, buffers: &[Dest], offset: u64) -> IoResult<()> {
        let len = total_len(buffers) as u64;
        let read = || self.disk.read_vectored_at(buffers, offset);
        self.reads.measure(len, read)
    }

    fn write_vectored_at(&self, buffers: &[Source], offset: u64) -> IoResult<()> {
        let len = total_len(buffers) as u64;
        let write = || self.disk.write_vectored_at(buffers, offset);
        self.writes.measure(len, write)
    }

    fn flush(&self) -> IoResult<()> {
        self.flushes.measure(0, || self.disk.flush())
    }

    fn discard(&self, offset: u64, len: u64) -> IoResult<()> {
        let discard = || self.disk.discard(offset, len);
        self.discards.measure(len, discard)
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> IoResult<()> {
        let write = || self.disk.write_zeroes(offset, len, unmap);
        self.writes.measure(len, write)
    }

    fn block_sizes(&self) -> BlockSizes {
        self.disk.block_sizes()
    }

    fn division(&self, way: Way, offset: u64, len: u64) -> Division {
        self.disk.division(way, offset, len)
    }

    fn read_only(&self) -> bool {
        self.disk.read_only()
    }

    fn resize(&self, len: u64, preallocation: Preallocation) -> IoResult<()> {
        self.disk.resize(len, preallocation)
    }

    fn status(&self, offset: u64, len: u64) -> IoResult<Status> {
        self.disk.status(offset, len)
    }
}
