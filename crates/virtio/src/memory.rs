//! Guest memory as devices see it: every write is told to an observer.

use std::fmt;
use std::sync::Arc;
use vm_memory::GuestMemoryMmap;
use vm_memory::bitmap::{Bitmap, RefSlice, WithBitmapSlice};

/// Guest-physical memory. Cheap to clone.
pub type GuestMemory = Arc<GuestMemoryMmap<WriteHook>>;

/// Learns of every write that devices make, after the bytes are there and
/// before the guest is told of them.
pub trait WriteObserver: Send + Sync {
    /// `len` bytes from `gpa` were written.
    fn written(&self, gpa: u64, len: u64);
}

/// The hook of one region. `vm-memory` calls it a bitmap, after its use in
/// dirty logging.
#[derive(Clone)]
pub struct WriteHook {
    base: u64,
    observer: Arc<dyn WriteObserver>,
}

impl WriteHook {
    /// A hook for the region that begins at `base`.
    pub fn new(base: u64, observer: Arc<dyn WriteObserver>) -> Self {
        Self { base, observer }
    }
}

impl fmt::Debug for WriteHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WriteHook({:#x})", self.base)
    }
}

impl<'a> WithBitmapSlice<'a> for WriteHook {
    type S = RefSlice<'a, Self>;
}

impl Bitmap for WriteHook {
    fn mark_dirty(&self, offset: usize, len: usize) {
        self.observer.written(self.base + offset as u64, len as u64);
    }

    /// Nothing is recorded here; nobody asks.
    fn dirty_at(&self, _offset: usize) -> bool {
        false
    }

    fn slice_at(&self, offset: usize) -> RefSlice<'_, Self> {
        RefSlice::new(self, offset)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use parking_lot::Mutex;
    use vm_memory::mmap::MmapRegionBuilder;
    use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, GuestRegionMmap};

    /// Remembers the writes it hears of.
    #[derive(Default)]
    pub(crate) struct Log(pub(crate) Mutex<Vec<(u64, u64)>>);

    impl WriteObserver for Log {
        fn written(&self, gpa: u64, len: u64) {
            self.0.lock().push((gpa, len));
        }
    }

    /// 1 MiB from 0 and 1 MiB from 4 GiB.
    pub(crate) fn memory() -> (GuestMemory, Arc<Log>) {
        let log = Arc::new(Log::default());
        let region = |base| {
            let hook = WriteHook::new(base, log.clone());
            let mapping = MmapRegionBuilder::new_with_bitmap(1 << 20, hook)
                .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
                .build()
                .unwrap();
            GuestRegionMmap::new(mapping, GuestAddress(base)).unwrap()
        };
        let memory = GuestMemoryMmap::from_regions(vec![region(0), region(4 << 30)]).unwrap();
        (Arc::new(memory), log)
    }

    #[test]
    fn every_write_is_told_with_its_address() {
        let (memory, log) = memory();
        memory
            .write_slice(&[1; 100], GuestAddress((4 << 30) + 0x123))
            .unwrap();
        memory.write_obj(7u32, GuestAddress(0x10)).unwrap();
        memory
            .store(
                7u16,
                GuestAddress(0x20),
                std::sync::atomic::Ordering::Release,
            )
            .unwrap();
        let told = std::mem::take(&mut *log.0.lock());
        assert_eq!(told, [((4 << 30) + 0x123, 100), (0x10, 4), (0x20, 2)]);
    }
}
