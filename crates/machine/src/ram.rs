//! Guest RAM: one mapping, handed to the backend in slots.
#![allow(
    unsafe_code,
    reason = "owns the mapping and copies through raw pointers"
)]

mod mapping;
mod reclaim;

use self::mapping::Mapping;
use crate::layout::{Layout, RamRange};
use crate::memory::{MemoryBackend, Part};
use crate::outcome::{Error, Result};
use hv::Vm;
use std::sync::{Arc, Weak};
use virtio::{GuestMemory, WriteHook, WriteObserver};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap};

/// Guest RAM. Untouched pages cost nothing.
pub struct GuestRam {
    mapping: Arc<Mapping>,
    ranges: Vec<RamRange>,
}

/// Guest memory that is not RAM was addressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotRam {
    /// Guest-physical start of the access.
    pub gpa: u64,
}

impl GuestRam {
    /// Reserves the RAM of `layout`: private anonymous memory, all zero.
    pub fn new(layout: &Layout) -> Result<Self> {
        let backend = MemoryBackend::anonymous("ram", layout.backing_size());
        Self::of(layout, &[backend.into()])
    }

    /// The same from these backends, which have the size of `layout`. Files
    /// keep what they hold.
    pub fn of(layout: &Layout, parts: &[Part]) -> Result<Self> {
        Ok(Self {
            mapping: Arc::new(Mapping::new(parts, layout.backing_size())?),
            ranges: layout.ranges(),
        })
    }

    /// The RAM as devices see it: `vm` hears of what they write.
    pub fn for_devices(&self, vm: Weak<dyn Vm>) -> Result<GuestMemory> {
        let observer: Arc<dyn WriteObserver> = Arc::new(DeviceWrites {
            vm,
            _mapping: self.mapping.clone(),
        });
        let regions: Option<Vec<_>> = self
            .ranges
            .iter()
            .map(|range| self.region(range, observer.clone()))
            .collect();
        let memory = regions.and_then(|r| GuestMemoryMmap::from_regions(r).ok());
        memory.map(Arc::new).ok_or_else(|| Error::Ram {
            bytes: self.mapping.len as u64,
            why: "cannot be given to devices".into(),
        })
    }

    fn region(
        &self,
        range: &RamRange,
        observer: Arc<dyn WriteObserver>,
    ) -> Option<GuestRegionMmap<WriteHook>> {
        let hook = WriteHook::new(range.gpa, observer);
        let base = self.mapping.base.as_ptr();
        let builder = MmapRegionBuilder::new_with_bitmap(range.size as usize, hook)
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: ranges lie inside the mapping (`Layout::backing_size`). The
        // region's hook holds a reference to the mapping, so it stays as long
        // as the region does.
        let builder = unsafe { builder.with_raw_mmap_pointer(base.add(range.offset as usize)) };
        GuestRegionMmap::new(builder.build().ok()?, GuestAddress(range.gpa))
    }

    /// The slots: guest-physical range and host address of its first byte.
    pub fn slots(&self) -> impl Iterator<Item = (RamRange, u64)> + '_ {
        let base = self.mapping.base.as_ptr() as u64;
        self.ranges.iter().map(move |r| (*r, base + r.offset))
    }

    /// All of the range is private memory of this process alone.
    pub fn is_anonymous(&self, range: &RamRange) -> bool {
        self.mapping
            .is_anonymous(range.offset..range.offset + range.size)
    }

    /// Copies `bytes` to guest memory.
    pub fn write(&self, gpa: u64, bytes: &[u8]) -> std::result::Result<(), NotRam> {
        let to = self.host(gpa, bytes.len())?;
        // SAFETY: `host` checked that the destination lies inside the
        // mapping; `bytes` is not inside it, since no references into the
        // mapping exist.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }

    /// Copies guest memory to `bytes`.
    pub fn read(&self, gpa: u64, bytes: &mut [u8]) -> std::result::Result<(), NotRam> {
        let from = self.host(gpa, bytes.len())?;
        // SAFETY: as in `write`, with source and destination exchanged.
        unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    /// Host address of a range that lies in one piece of RAM.
    fn host(&self, gpa: u64, len: usize) -> std::result::Result<*mut u8, NotRam> {
        let end = gpa.checked_add(len as u64).ok_or(NotRam { gpa })?;
        let range = self
            .ranges
            .iter()
            .find(|r| gpa >= r.gpa && end <= r.gpa + r.size);
        let range = range.ok_or(NotRam { gpa })?;
        let offset = (range.offset + (gpa - range.gpa)) as usize;
        debug_assert!(offset + len <= self.mapping.len);
        // SAFETY: ranges lie inside the mapping (`Layout::backing_size`), so
        // the offset stays in bounds of one allocation.
        Ok(unsafe { self.mapping.base.as_ptr().add(offset) })
    }
}

/// Passes devices' writes on, and keeps the mapping for them.
struct DeviceWrites {
    vm: Weak<dyn Vm>,
    _mapping: Arc<Mapping>,
}

impl WriteObserver for DeviceWrites {
    fn written(&self, gpa: u64, len: u64) {
        if let Some(vm) = self.vm.upgrade() {
            vm.memory_written(gpa, len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_only_inside_one_range() {
        let layout = Layout::new(4 << 20, 39, &crate::boards::PC).unwrap();
        let ram = GuestRam::new(&layout).unwrap();
        ram.write(0x10_0000, b"hello").unwrap();
        let mut back = [0; 5];
        ram.read(0x10_0000, &mut back).unwrap();
        assert_eq!(&back, b"hello");
        assert_eq!(ram.write(0xa_0000, b"x"), Err(NotRam { gpa: 0xa_0000 }));
        assert!(ram.write(0x9_ffff, b"xy").is_err());
        assert!(ram.write((4 << 20) - 1, b"x").is_ok());
        assert!(ram.write((4 << 20) - 1, b"xy").is_err());
        assert!(ram.write(u64::MAX, b"xy").is_err());
    }
}
