//! Memory slots and raw access to the host memory behind them.
//!
//! The guest's vCPUs, the VMM's devices and this process race on guest memory
//! by design, so no reference into it is ever made: accesses are volatile or
//! atomic through raw pointers.
#![allow(unsafe_code, reason = "guest RAM is reached through raw pointers only")]

use crate::ahead::{Requests, Used};
use parking_lot::{Mutex, RwLock};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use x86::paging::{PAGE_MASK, PAGE_SIZE};

/// One memory slot.
#[derive(Debug)]
pub struct Slot {
    /// Slot number, the caller's name for it.
    pub id: u32,
    /// Guest-physical start.
    pub gpa: u64,
    /// Bytes, a multiple of 4 KiB.
    pub size: u64,
    /// Host-virtual start.
    pub hva: u64,
    /// Writes go to the VMM instead.
    pub readonly: bool,
    /// One bit per page written since the last [`GuestMemory::dirty_log`].
    dirty: Option<Box<[AtomicU64]>>,
    /// One bit per page that translations were made from.
    code: Box<[AtomicU64]>,
    /// What was written to, if the host may provide what is next.
    used: Option<Used>,
}

/// A slot to be.
#[derive(Clone, Copy, Debug, Default)]
pub struct NewSlot {
    /// See [`Slot::id`].
    pub id: u32,
    /// See [`Slot::gpa`].
    pub gpa: u64,
    /// Bytes; 0 removes the slot.
    pub size: u64,
    /// See [`Slot::hva`].
    pub hva: u64,
    /// See [`Slot::readonly`].
    pub readonly: bool,
    /// Writes are recorded for [`GuestMemory::dirty_log`].
    pub log_dirty: bool,
    /// The memory is private and anonymous: what the guest will come to next may
    /// be provided before it does.
    pub anonymous: bool,
}

/// Why a slot was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotError {
    /// Address or size is not a multiple of 4 KiB, or the range wraps.
    Misaligned,
    /// Overlaps another slot.
    Overlap,
    /// Deleting a slot that does not exist.
    NoSuchSlot,
    /// Size of an existing slot cannot change.
    Resize,
}

/// Host address of one guest page and the slot it lies in.
#[derive(Clone, Copy, Debug)]
pub struct HostPage<'a> {
    /// Host-virtual address of the page.
    pub hva: u64,
    /// Its slot.
    pub slot: &'a Slot,
    /// Page number inside the slot.
    pub index: usize,
}

/// The parts of a guest-physical range by page: address and length.
pub fn pages_of(gpa: u64, len: u64) -> impl Iterator<Item = (u64, u64)> {
    let end = gpa.saturating_add(len);
    let mut at = gpa;
    std::iter::from_fn(move || {
        let part = (at, (at | PAGE_MASK).saturating_add(1).min(end) - at);
        at += part.1;
        (part.1 != 0).then_some(part)
    })
}

fn bitmap(pages: u64) -> Box<[AtomicU64]> {
    (0..pages.div_ceil(64)).map(|_| AtomicU64::new(0)).collect()
}

impl Slot {
    fn new(new: &NewSlot) -> Self {
        let pages = new.size / PAGE_SIZE;
        Self {
            id: new.id,
            gpa: new.gpa,
            size: new.size,
            hva: new.hva,
            readonly: new.readonly,
            dirty: new.log_dirty.then(|| bitmap(pages)),
            code: bitmap(pages),
            used: new
                .anonymous
                .then(|| Used::new(new.hva..new.hva + new.size)),
        }
    }
    fn end(&self) -> u64 {
        self.gpa + self.size
    }
    fn host(&self) -> Range<u64> {
        self.hva..self.hva + self.size
    }
    /// True if written pages are recorded.
    pub fn logs_dirty(&self) -> bool {
        self.dirty.is_some()
    }
}

impl HostPage<'_> {
    /// Records a write to the page.
    pub fn mark_dirty(&self) {
        if let Some(dirty) = &self.slot.dirty {
            dirty[self.index / 64].fetch_or(1 << (self.index % 64), Ordering::Relaxed);
        }
    }
    /// True if the page's next write must be seen by the dirty log.
    pub fn needs_dirty(&self) -> bool {
        self.slot.dirty.as_ref().is_some_and(|d| {
            d[self.index / 64].load(Ordering::Relaxed) & (1 << (self.index % 64)) == 0
        })
    }
    /// True if translations were made from the page.
    pub fn has_code(&self) -> bool {
        self.slot.code[self.index / 64].load(Ordering::Acquire) & (1 << (self.index % 64)) != 0
    }
    /// Marks or unmarks the page as source of translations; returns the
    /// previous mark. A full barrier: bytes read after the mark are no older.
    pub fn set_code(&self, on: bool) -> bool {
        let (word, bit) = (&self.slot.code[self.index / 64], 1 << (self.index % 64));
        let old = if on {
            word.fetch_or(bit, Ordering::SeqCst)
        } else {
            word.fetch_and(!bit, Ordering::SeqCst)
        };
        old & bit != 0
    }
}

/// The slots at one moment, sorted by guest-physical address.
#[derive(Clone, Debug, Default)]
pub struct SlotMap {
    slots: Vec<Arc<Slot>>,
    ahead: Option<Arc<Requests>>,
}

impl SlotMap {
    /// The slot that holds `gpa`.
    pub fn slot(&self, gpa: u64) -> Option<&Slot> {
        let i = self
            .slots
            .partition_point(|s| s.gpa <= gpa)
            .checked_sub(1)?;
        let s = &*self.slots[i];
        (gpa < s.end()).then_some(s)
    }
    /// The host page behind `gpa`.
    pub fn page(&self, gpa: u64) -> Option<HostPage<'_>> {
        let slot = self.slot(gpa)?;
        let offset = (gpa - slot.gpa) & !PAGE_MASK;
        Some(HostPage {
            hva: slot.hva + offset,
            slot,
            index: (offset / PAGE_SIZE) as usize,
        })
    }
    /// The guest writes to a page.
    pub(crate) fn written(&self, page: &HostPage<'_>) {
        page.mark_dirty();
        if let Some(ahead) = &self.ahead
            && let Some(next) = page.slot.used.as_ref().and_then(|u| u.next(page.hva))
        {
            ahead.ask(next);
        }
    }
    /// The slots.
    pub fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().map(|s| &**s)
    }
    /// Reads a page-table entry of `size` 4 or 8 bytes; `None` outside RAM.
    /// `gpa` is a multiple of `size`.
    pub fn read_entry(&self, gpa: u64, size: u32) -> Option<u64> {
        let hva = self.page(gpa)?.hva + (gpa & PAGE_MASK);
        // SAFETY: `set_memory`'s caller keeps the slot mapped; the aligned
        // entry lies inside one page of it.
        unsafe {
            Some(match size {
                4 => u64::from((*(hva as *const AtomicU32)).load(Ordering::Acquire)),
                _ => (*(hva as *const AtomicU64)).load(Ordering::Acquire),
            })
        }
    }
    /// Replaces a page-table entry if it still holds `old`, else false. One
    /// outside RAM cannot be updated, which is no failure.
    pub fn update_entry(&self, gpa: u64, size: u32, old: u64, new: u64) -> bool {
        let Some(page) = self.page(gpa) else {
            return true;
        };
        if page.slot.readonly {
            return true; // tables in ROM keep their bits
        }
        page.mark_dirty();
        let hva = page.hva + (gpa & PAGE_MASK);
        let (ok, fail) = (Ordering::AcqRel, Ordering::Acquire);
        // SAFETY: as in `read_entry`; read-only slots are host-writable or
        // the caller never asked for A/D updates in them.
        unsafe {
            match size {
                4 => (*(hva as *const AtomicU32))
                    .compare_exchange(old as u32, new as u32, ok, fail)
                    .is_ok(),
                _ => (*(hva as *const AtomicU64))
                    .compare_exchange(old, new, ok, fail)
                    .is_ok(),
            }
        }
    }
    /// Copies guest memory into `buf`; false if any byte has no slot.
    pub fn read(&self, gpa: u64, buf: &mut [u8]) -> bool {
        self.chunks(gpa, buf.len(), |hva, range| {
            // SAFETY: `chunks` yields ranges inside one mapped page.
            unsafe { copy_from_host(hva, &mut buf[range]) }
        })
    }
    /// Copies `buf` to guest memory and marks it dirty; false, and nothing
    /// written, if any byte has no slot or a read-only one.
    pub fn write(&self, gpa: u64, buf: &[u8]) -> bool {
        let mut writable = true;
        let writes = |at| self.slot(at).is_some_and(|s| !s.readonly);
        let mapped = self.chunks(gpa, buf.len(), |_, range| {
            writable &= writes(gpa + range.start as u64);
        });
        if !mapped || !writable {
            return false;
        }
        self.chunks(gpa, buf.len(), |hva, range| {
            // SAFETY: as in `read`; the slot is not read-only, so its memory
            // is mapped writable.
            unsafe { copy_to_host(hva, &buf[range]) }
        });
        self.mark_dirty(gpa, buf.len() as u64);
        true
    }
    /// Marks a range dirty.
    pub fn mark_dirty(&self, gpa: u64, len: u64) {
        for (at, _) in pages_of(gpa, len) {
            if let Some(p) = self.page(at) {
                p.mark_dirty();
            }
        }
    }
    fn chunks(&self, gpa: u64, len: usize, mut f: impl FnMut(u64, std::ops::Range<usize>)) -> bool {
        let mut done = 0;
        while done < len {
            let Some(at) = gpa.checked_add(done as u64) else {
                return false;
            };
            let offset = at & PAGE_MASK;
            let n = (len - done).min((PAGE_SIZE - offset) as usize);
            let Some(page) = self.page(at) else {
                return false;
            };
            f(page.hva + offset, done..done + n);
            done += n;
        }
        true
    }
}

/// Copies from host memory that other threads may write at the same time.
///
/// # Safety
/// `hva .. hva + buf.len()` is mapped readable.
pub(crate) unsafe fn copy_from_host(hva: u64, buf: &mut [u8]) {
    // SAFETY: `atomic_load` is given an aligned, mapped location of its size.
    unsafe {
        match (buf.len(), hva % 8) {
            (8, 0) => buf.copy_from_slice(
                &(*(hva as *const AtomicU64))
                    .load(Ordering::Acquire)
                    .to_le_bytes(),
            ),
            (4, 0 | 4) => buf.copy_from_slice(
                &(*(hva as *const AtomicU32))
                    .load(Ordering::Acquire)
                    .to_le_bytes(),
            ),
            (2, 0 | 2 | 4 | 6) => buf.copy_from_slice(
                &(*(hva as *const AtomicU16))
                    .load(Ordering::Acquire)
                    .to_le_bytes(),
            ),
            (1, _) => buf[0] = (*(hva as *const AtomicU8)).load(Ordering::Acquire),
            (n, _) => std::ptr::copy_nonoverlapping(hva as *const u8, buf.as_mut_ptr(), n),
        }
    }
}

/// Copies to host memory that other threads may access at the same time.
///
/// # Safety
/// `hva .. hva + buf.len()` is mapped writable.
pub(crate) unsafe fn copy_to_host(hva: u64, buf: &[u8]) {
    // SAFETY: as in `copy_from_host`.
    unsafe {
        match (buf, hva % 8) {
            (&[a, b, c, d, e, f, g, h], 0) => (*(hva as *const AtomicU64)).store(
                u64::from_le_bytes([a, b, c, d, e, f, g, h]),
                Ordering::Release,
            ),
            (&[a, b, c, d], 0 | 4) => (*(hva as *const AtomicU32))
                .store(u32::from_le_bytes([a, b, c, d]), Ordering::Release),
            (&[a, b], 0 | 2 | 4 | 6) => {
                (*(hva as *const AtomicU16)).store(u16::from_le_bytes([a, b]), Ordering::Release);
            }
            (&[a], _) => (*(hva as *const AtomicU8)).store(a, Ordering::Release),
            (s, _) => std::ptr::copy_nonoverlapping(s.as_ptr(), hva as *mut u8, s.len()),
        }
    }
}

/// Atomically replaces the value of 1, 2, 4 or 8 bytes at `hva`, aligned or
/// not, by `f(old)`; returns old.
///
/// # Safety
/// `hva .. hva + size` is mapped writable.
pub unsafe fn atomic_update(hva: u64, size: u32, f: &mut dyn FnMut(u64) -> u64) -> u64 {
    // Rust's atomics want alignment, LOCK does not.
    macro_rules! spin {
        ($int:ty, $operand:literal, $class:ident, $acc:tt) => {{
            let mut bytes = [0; size_of::<$int>()];
            // SAFETY: mapped, by the caller.
            unsafe { copy_from_host(hva, &mut bytes) };
            let mut old = <$int>::from_le_bytes(bytes);
            loop {
                let new = f(u64::from(old)) as $int;
                let seen: $int;
                // SAFETY: mapped writable, by the caller.
                unsafe {
                    std::arch::asm!(
                        concat!("lock cmpxchg [{p}], ", $operand),
                        p = in(reg) hva,
                        new = in($class) new,
                        inlateout($acc) old => seen,
                    );
                }
                if seen == old {
                    return u64::from(old);
                }
                old = seen;
            }
        }};
    }
    match size {
        1 => spin!(u8, "{new}", reg_byte, "al"),
        2 => spin!(u16, "{new:x}", reg, "ax"),
        4 => spin!(u32, "{new:e}", reg, "eax"),
        _ => spin!(u64, "{new:r}", reg, "rax"),
    }
}

/// Atomic 16-byte compare and exchange at a 16-byte aligned host address;
/// returns the old value.
///
/// # Safety
/// `hva .. hva + 16` is mapped writable and `hva` is a multiple of 16.
pub unsafe fn atomic_cmpxchg16(hva: u64, expected: u128, new: u128) -> u128 {
    let (mut lo, mut hi) = (expected as u64, (expected >> 64) as u64);
    // SAFETY: x86-64-v2 hosts have CMPXCHG16B; address by the contract. RBX
    // is saved around the instruction because the compiler reserves it.
    unsafe {
        std::arch::asm!(
            "xchg {nlo}, rbx",
            "lock cmpxchg16b [{p}]",
            "mov rbx, {nlo}",
            p = in(reg) hva,
            nlo = inout(reg) new as u64 => _,
            in("rcx") (new >> 64) as u64,
            inout("rax") lo,
            inout("rdx") hi,
        );
    }
    u128::from(lo) | (u128::from(hi) << 64)
}

/// Reads `buf.len()` bytes at a host address obtained from a TLB entry.
///
/// # Safety
/// The range is mapped readable.
pub unsafe fn host_read(hva: u64, buf: &mut [u8]) {
    // SAFETY: the caller's contract.
    unsafe { copy_from_host(hva, buf) }
}

/// Writes `buf` at a host address obtained from a TLB entry.
///
/// # Safety
/// The range is mapped writable.
pub unsafe fn host_write(hva: u64, buf: &[u8]) {
    // SAFETY: the caller's contract.
    unsafe { copy_to_host(hva, buf) }
}

/// The guest-physical address space of a VM.
#[derive(Debug, Default)]
pub struct GuestMemory {
    map: RwLock<Arc<SlotMap>>,
    /// Bumped after every change of the map; vCPUs compare and flush.
    version: AtomicU64,
    writer: Mutex<()>,
}

impl GuestMemory {
    /// An empty address space.
    pub fn new() -> Self {
        Self::default()
    }
    /// The same, of whose memory the host provides what the guest will come to.
    pub fn with_ahead(ahead: Arc<Requests>) -> Self {
        let map = SlotMap {
            slots: Vec::new(),
            ahead: Some(ahead),
        };
        Self {
            map: RwLock::new(Arc::new(map)),
            ..Self::default()
        }
    }
    /// The slots now.
    pub fn map(&self) -> Arc<SlotMap> {
        self.map.read().clone()
    }
    /// Changes with every change of the slots.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }
    /// Adds, replaces or (size 0) removes a slot.
    ///
    /// # Safety
    /// The host range stays mapped while the slot exists.
    pub unsafe fn set_slot(&self, new: NewSlot) -> Result<(), SlotError> {
        let NewSlot { id, gpa, size, .. } = new;
        let _guard = self.writer.lock();
        let mut map = SlotMap::clone(&self.map());
        let old = map
            .slots
            .iter()
            .position(|s| s.id == id)
            .map(|i| map.slots.remove(i));
        if size == 0 {
            old.as_ref().ok_or(SlotError::NoSuchSlot)?;
        } else {
            check_range(gpa, size, new.hva)?;
            if old.as_ref().is_some_and(|s| s.size != size) {
                return Err(SlotError::Resize);
            }
            if map
                .slots
                .iter()
                .any(|s| gpa < s.end() && s.gpa < gpa + size)
            {
                return Err(SlotError::Overlap);
            }
            let at = map.slots.partition_point(|s| s.gpa < gpa);
            map.slots.insert(at, Arc::new(Slot::new(&new)));
        }
        let ahead = map.ahead.clone();
        *self.map.write() = Arc::new(map);
        if let (Some(old), Some(ahead)) = (old, ahead) {
            ahead.forget(&old.host());
        }
        self.version.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }
    /// Returns and clears a slot's dirty bitmap. The caller must make every
    /// vCPU drop its write entries first or after (a page written in between
    /// is reported now or next time, never lost).
    pub fn dirty_log(&self, id: u32) -> Option<Vec<u64>> {
        let map = self.map();
        let slot = map.slots.iter().find(|s| s.id == id)?;
        let dirty = slot.dirty.as_ref()?;
        Some(dirty.iter().map(|w| w.swap(0, Ordering::AcqRel)).collect())
    }
}

fn check_range(gpa: u64, size: u64, hva: u64) -> Result<(), SlotError> {
    let aligned = (gpa | size | hva) & PAGE_MASK == 0;
    let fits = gpa.checked_add(size).is_some() && hva.checked_add(size).is_some();
    if aligned && fits {
        Ok(())
    } else {
        Err(SlotError::Misaligned)
    }
}
