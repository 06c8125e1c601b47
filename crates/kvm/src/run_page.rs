//! The `kvm_run` page that a vCPU shares with the kernel.
#![allow(unsafe_code, reason = "memory shared with the kernel")]

use hv::{Error, Result};
use kvm_bindings::kvm_run;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

/// Our own mapping of the vCPU's run area. It outlives the vCPU's descriptor
/// while a kicker holds it.
pub(crate) struct RunPage {
    page: NonNull<kvm_run>,
    len: usize,
}

// SAFETY: the mapping is process-wide; other threads touch it only through
// `immediate_exit`, an atomic byte. Everything else is reached through
// `&self` methods that only the thread owning the vCPU calls.
unsafe impl Send for RunPage {}
// SAFETY: as above.
unsafe impl Sync for RunPage {}

impl RunPage {
    /// Maps `len` bytes (`KVM_GET_VCPU_MMAP_SIZE`) of the vCPU `fd`.
    pub(crate) fn map(fd: &impl AsRawFd, len: usize) -> Result<Self> {
        if len < size_of::<kvm_run>() {
            return Err(Error::Unsupported("a kvm_run area this small"));
        }
        // SAFETY: a fresh shared mapping of an open descriptor at an address
        // the kernel chooses; it aliases no Rust object.
        let raw = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if raw == libc::MAP_FAILED {
            return Err(Error::last_os("mmap kvm_run"));
        }
        let page = NonNull::new(raw.cast()).ok_or(Error::Unsupported("kvm_run at address 0"))?;
        Ok(Self { page, len })
    }

    /// A pointer to field data; valid while `self` lives.
    pub(crate) fn as_ptr(&self) -> *mut kvm_run {
        self.page.as_ptr()
    }

    /// `kvm_run.immediate_exit`, which the kernel reads on every `KVM_RUN`.
    pub(crate) fn immediate_exit(&self) -> &AtomicU8 {
        // SAFETY: the field is one byte inside our mapping, which lives as
        // long as `self`; the kernel and all threads access it as a byte.
        unsafe { AtomicU8::from_ptr(&raw mut (*self.as_ptr()).immediate_exit) }
    }

    /// Sets `kvm_run.request_interrupt_window`.
    pub(crate) fn request_irq_window(&self, on: bool) {
        // SAFETY: a byte of our mapping, written by the vCPU's thread only.
        unsafe { (&raw mut (*self.as_ptr()).request_interrupt_window).write_volatile(on.into()) }
    }

    /// `kvm_run.ready_for_interrupt_injection` after the last exit.
    pub(crate) fn ready_for_irq(&self) -> bool {
        // SAFETY: a byte of our mapping, written by the kernel only inside
        // `KVM_RUN`, which needs the vCPU's thread.
        unsafe { (&raw const (*self.as_ptr()).ready_for_interrupt_injection).read_volatile() != 0 }
    }

    /// The kernel's reason for the last exit.
    pub(crate) fn exit_reason(&self) -> u32 {
        // SAFETY: a word of our mapping; see `ready_for_irq`.
        unsafe { (&raw const (*self.as_ptr()).exit_reason).read_volatile() }
    }

    /// The exit's union as a plain copy: any bit pattern is valid in each of
    /// its integer-only members.
    pub(crate) fn detail(&self) -> kvm_bindings::kvm_run__bindgen_ty_1 {
        // SAFETY: the union lies inside our mapping and consists of integers.
        unsafe { (&raw const (*self.as_ptr()).__bindgen_anon_1).read_volatile() }
    }

    /// Copies bytes at `offset` of the run area; what lies outside reads 0.
    pub(crate) fn read(&self, offset: usize, out: &mut [u8]) {
        for (i, byte) in out.iter_mut().enumerate() {
            *byte = match offset.checked_add(i) {
                // SAFETY: `at < len`, inside our mapping.
                Some(at) if at < self.len => unsafe {
                    self.as_ptr().cast::<u8>().add(at).read_volatile()
                },
                _ => 0,
            };
        }
    }

    /// Writes bytes at `offset` of the run area; what lies outside is lost.
    pub(crate) fn write(&self, offset: usize, data: &[u8]) {
        for (i, byte) in data.iter().enumerate() {
            if let Some(at) = offset.checked_add(i)
                && at < self.len
            {
                // SAFETY: `at < len`, inside our mapping; only the vCPU's
                // thread writes exit data.
                unsafe { self.as_ptr().cast::<u8>().add(at).write_volatile(*byte) };
            }
        }
    }

    /// Offset of `mmio.data` in the run area.
    pub(crate) fn mmio_data_offset() -> usize {
        std::mem::offset_of!(kvm_run, __bindgen_anon_1)
            + std::mem::offset_of!(kvm_bindings::kvm_run__bindgen_ty_1__bindgen_ty_6, data)
    }

    /// Forces the next run to return before it enters the guest.
    pub(crate) fn set_immediate_exit(&self, on: bool) {
        self.immediate_exit().store(on.into(), Ordering::SeqCst);
    }
}

impl Drop for RunPage {
    fn drop(&mut self) {
        // SAFETY: exactly the range `map` created; no reference into it
        // outlives `self`.
        unsafe { libc::munmap(self.as_ptr().cast(), self.len) };
    }
}
