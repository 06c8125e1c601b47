//! Copied instructions that may raise a host exception (division, unmasked
//! floating point, alignment): the signal handler turns the exception into an
//! exit, after which the interpreter executes the instruction and raises what
//! the guest should see.
#![allow(unsafe_code, reason = "read by a signal handler through raw pointers")]

use crate::arena::Arena;
use crate::fault::{self, Fault, Registration};
use crate::layout::JitCtx;
use crate::translate::Site;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

const CAPACITY: usize = 4 << 20;

/// Append-only table sorted by code offset; the signal handler searches it
/// without locks.
#[derive(Debug)]
pub struct FaultTable {
    sites: *mut Site,
    len: AtomicUsize,
    code: u64,
    exit: u64,
    registration: Option<Registration>,
}

// SAFETY: the mapping belongs to the table; entries below `len` are never
// changed while generated code that refers to them can run.
unsafe impl Send for FaultTable {}
// SAFETY: as above.
unsafe impl Sync for FaultTable {}

impl FaultTable {
    /// A table for code in `arena`; recovered faults resume at offset `exit`.
    pub fn new(arena: &Arena, exit: usize) -> io::Result<Box<Self>> {
        let bytes = CAPACITY * size_of::<Site>();
        // SAFETY: a new anonymous mapping.
        let sites = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if sites == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let code = arena.rx() as u64;
        let registration = fault::register(arena.rx_range(), recover)?;
        Ok(Box::new(Self {
            sites: sites.cast(),
            len: AtomicUsize::new(0),
            code,
            exit: code + exit as u64,
            registration: Some(registration),
        }))
    }
    /// Adds sites in ascending order.
    pub fn extend(&mut self, new: &[Site]) {
        let len = self.len.load(Ordering::Relaxed);
        let n = new.len().min(CAPACITY - len);
        // SAFETY: `len + n` is within the mapping.
        unsafe { std::ptr::copy_nonoverlapping(new.as_ptr(), self.sites.add(len), n) };
        self.len.store(len + n, Ordering::Release);
    }
    /// No room for another block's sites.
    pub fn is_full(&self) -> bool {
        self.len.load(Ordering::Relaxed) + 1024 > CAPACITY
    }
    /// Forgets all sites.
    pub fn clear(&mut self) {
        self.len.store(0, Ordering::Release);
    }
    /// The site whose copy starts at address `pc`.
    pub(super) fn find(&self, pc: u64) -> Option<Site> {
        let at = u32::try_from(pc.checked_sub(self.code)?).ok()?;
        // SAFETY: the first `len` entries are initialised.
        let sites =
            unsafe { std::slice::from_raw_parts(self.sites, self.len.load(Ordering::Acquire)) };
        sites
            .binary_search_by_key(&at, |s| s.at)
            .ok()
            .map(|i| sites[i])
    }
}

impl Drop for FaultTable {
    fn drop(&mut self) {
        self.registration = None;
        // SAFETY: mapped by `new`, unmapped only here.
        unsafe { libc::munmap(self.sites.cast(), CAPACITY * size_of::<Site>()) };
    }
}

/// Signal context. GS base is the vCPU memory, whose first part is [`JitCtx`].
fn recover(fault: &mut Fault<'_>) -> bool {
    let this: *mut JitCtx;
    // SAFETY: the PC lies in generated code, which runs only with GS base set
    // to a vCPU memory that starts with `JitCtx`.
    unsafe {
        std::arch::asm!(
            "mov {}, gs:[{}]",
            out(reg) this,
            const std::mem::offset_of!(JitCtx, this),
            options(nostack, readonly)
        );
    }
    // SAFETY: `this` is that memory; the interrupted thread is the only one
    // that uses these fields.
    let (table, rip, page) = unsafe { (&*(*this).faults, (*this).rip, (*this).page) };
    let Some(site) = table.find(fault.reg(libc::REG_RIP)) else {
        return false;
    };
    // SAFETY: set by the engine to the RIP field of the same vCPU memory.
    unsafe { *rip = page.wrapping_add(site.rip) };
    if site.flags_in_slot != 0 {
        let efl = fault.reg(libc::REG_EFL) & !x86::flags::ARITH;
        // SAFETY: the interrupted thread was in generated code.
        let flags = unsafe { (*this).flags_aside() };
        fault.set_reg(libc::REG_EFL, efl | flags & x86::flags::ARITH);
    }
    fault.set_reg(libc::REG_RIP, table.exit);
    true
}

impl JitCtx {
    /// Flags that generated code set aside, as RFLAGS has them: the 8 bytes at
    /// its stack pointer.
    ///
    /// # Safety
    /// The thread is in generated code, or called by it.
    pub unsafe fn flags_aside(&self) -> u64 {
        // SAFETY: the entry keeps these bytes free.
        unsafe { *(self.frame as *const u64) }
    }
}
