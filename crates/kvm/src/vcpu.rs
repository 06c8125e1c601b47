//! A vCPU file descriptor: the run loop and the register groups.

use crate::kick::KvmKicker;
use crate::os;
use crate::run_page::RunPage;
use hv::abi::*;
use hv::{DebugExit, Error, Result, VcpuExit};
use kvm_ioctls::VcpuFd;
use std::sync::Arc;

pub(crate) struct KvmVcpu {
    fd: VcpuFd,
    kicker: Arc<KvmKicker>,
    /// Where `complete_read` puts its data.
    read: Option<ReadSlot>,
    /// A string I/O exit whose elements are not all delivered yet.
    batch: Option<Batch>,
    tsc_khz: Option<u32>,
}

/// A place in the run area that waits for read data.
#[derive(Clone, Copy)]
struct ReadSlot {
    offset: usize,
    size: usize,
}

/// `KVM_EXIT_IO` with `count` elements, which the contract delivers one by one.
#[derive(Clone, Copy)]
struct Batch {
    input: bool,
    port: u16,
    size: u8,
    offset: usize,
    left: u32,
}

impl KvmVcpu {
    pub(crate) fn new(fd: VcpuFd, run_size: usize, tsc_khz: Option<u32>) -> Result<Self> {
        let page = RunPage::map(&fd, run_size)?;
        Ok(Self {
            fd,
            kicker: Arc::new(KvmKicker::new(page)),
            read: None,
            batch: None,
            tsc_khz,
        })
    }

    fn page(&self) -> &RunPage {
        self.kicker.page()
    }

    /// The next element of a string I/O exit.
    fn next_element(&mut self) -> Option<VcpuExit> {
        let batch = self.batch.as_mut().filter(|b| b.left > 0)?;
        let at = *batch;
        batch.left -= 1;
        batch.offset += usize::from(batch.size);
        let (port, size) = (at.port, at.size);
        if at.input {
            self.read = Some(ReadSlot {
                offset: at.offset,
                size: usize::from(size),
            });
            return Some(VcpuExit::IoIn { port, size });
        }
        let mut raw = [0; 4];
        let len = usize::from(size).min(raw.len());
        self.page().read(at.offset, &mut raw[..len]);
        let value = u32::from_le_bytes(raw);
        Some(VcpuExit::IoOut { port, size, value })
    }

    #[allow(unsafe_code, reason = "the kernel's exit is a union")]
    fn decode(&mut self) -> VcpuExit {
        let reason = self.page().exit_reason();
        let detail = self.page().detail();
        match reason {
            KVM_EXIT_IO => {
                // SAFETY: the exit reason selects this member.
                self.start_batch(unsafe { detail.io })
            }
            KVM_EXIT_MMIO => {
                // SAFETY: the exit reason selects this member.
                self.mmio(unsafe { detail.mmio })
            }
            KVM_EXIT_DEBUG => {
                // SAFETY: the exit reason selects this member.
                let arch = unsafe { detail.debug.arch };
                VcpuExit::Debug(DebugExit {
                    exception: arch.exception as u8,
                    pc: arch.pc,
                    dr6: arch.dr6,
                    dr7: arch.dr7,
                })
            }
            KVM_EXIT_INTERNAL_ERROR => {
                // SAFETY: the exit reason selects this member.
                self.internal_error(unsafe { detail.internal })
            }
            KVM_EXIT_FAIL_ENTRY => VcpuExit::FailEntry {
                // SAFETY: the exit reason selects this member.
                reason: unsafe { detail.fail_entry.hardware_entry_failure_reason },
            },
            KVM_EXIT_HLT => VcpuExit::Hlt,
            KVM_EXIT_SHUTDOWN => VcpuExit::Shutdown,
            KVM_EXIT_INTR => VcpuExit::Interrupted,
            KVM_EXIT_IRQ_WINDOW_OPEN => VcpuExit::IrqWindowOpen,
            other => VcpuExit::Unknown(other),
        }
    }

    fn start_batch(&mut self, io: kvm_run__bindgen_ty_1__bindgen_ty_4) -> VcpuExit {
        self.batch = Some(Batch {
            input: u32::from(io.direction) == KVM_EXIT_IO_IN,
            port: io.port,
            size: io.size,
            offset: io.data_offset as usize,
            left: io.count,
        });
        // A count of 0 does not happen; reporting the reason beats a panic.
        self.next_element()
            .unwrap_or(VcpuExit::Unknown(KVM_EXIT_IO))
    }

    fn mmio(&mut self, mmio: kvm_run__bindgen_ty_1__bindgen_ty_6) -> VcpuExit {
        let (gpa, size) = (mmio.phys_addr, mmio.len.min(8) as u8);
        if mmio.is_write == 0 {
            self.read = Some(ReadSlot {
                offset: RunPage::mmio_data_offset(),
                size: usize::from(size),
            });
            return VcpuExit::MmioRead { gpa, size };
        }
        let mut raw = mmio.data;
        raw[usize::from(size)..].fill(0);
        let value = u64::from_le_bytes(raw);
        VcpuExit::MmioWrite { gpa, size, value }
    }

    /// `KVM_INTERNAL_ERROR_EMULATION` may carry the instruction: flags, then a
    /// length byte and 15 bytes (api.rst, 5, `KVM_EXIT_INTERNAL_ERROR`).
    fn internal_error(&self, internal: kvm_run__bindgen_ty_1__bindgen_ty_13) -> VcpuExit {
        let mut raw = [0; 16];
        if internal.suberror == KVM_INTERNAL_ERROR_EMULATION && internal.ndata >= 3 {
            raw[..8].copy_from_slice(&internal.data[1].to_le_bytes());
            raw[8..].copy_from_slice(&internal.data[2].to_le_bytes());
        }
        let mut bytes = [0; 15];
        bytes.copy_from_slice(&raw[1..]);
        VcpuExit::InternalError {
            suberror: internal.suberror,
            rip: self.fd.get_regs().map_or(0, |r| r.rip),
            bytes,
            len: raw[0].min(15),
        }
    }
}

impl hv::Vcpu for KvmVcpu {
    fn run(&mut self) -> Result<VcpuExit> {
        self.read = None;
        if let Some(exit) = self.next_element() {
            return Ok(exit);
        }
        self.batch = None;
        self.kicker.enter();
        let result = self.fd.run().map(drop);
        let interrupted = matches!(result, Err(e) if e.errno() == libc::EINTR)
            || self.page().exit_reason() == KVM_EXIT_INTR;
        self.kicker.leave(interrupted);
        match result {
            Ok(()) => Ok(self.decode()),
            Err(e) if e.errno() == libc::EINTR => Ok(VcpuExit::Interrupted),
            // An application processor that waits for SIPI was woken for
            // something else: the caller just runs it again.
            Err(e) if e.errno() == libc::EAGAIN => Ok(VcpuExit::Interrupted),
            Err(e) => Err(os("KVM_RUN")(e)),
        }
    }

    fn complete_read(&mut self, value: u64) {
        if let Some(slot) = self.read.take() {
            let raw = value.to_le_bytes();
            self.page().write(slot.offset, &raw[..slot.size.min(8)]);
        }
    }

    fn kicker(&self) -> Arc<dyn hv::Kicker> {
        self.kicker.clone()
    }

    fn request_irq_window(&mut self, on: bool) {
        self.page().request_irq_window(on);
    }

    fn ready_for_irq(&self) -> bool {
        self.page().ready_for_irq()
    }

    #[allow(unsafe_code, reason = "an ioctl that kvm-ioctls does not wrap")]
    fn inject_irq(&mut self, vector: u8) -> Result<()> {
        /// `_IOW(KVMIO, 0x86, struct kvm_interrupt)`.
        const KVM_INTERRUPT: libc::c_ulong = 0x4004_ae86;
        let irq = kvm_interrupt {
            irq: u32::from(vector),
        };
        use std::os::fd::AsRawFd;
        // SAFETY: the descriptor is open, and the kernel only reads the
        // four-byte structure during the call.
        let rc = unsafe { libc::ioctl(self.fd.as_raw_fd(), KVM_INTERRUPT, &irq) };
        if rc == 0 {
            Ok(())
        } else {
            Err(Error::last_os("KVM_INTERRUPT"))
        }
    }

    fn inject_nmi(&mut self) -> Result<()> {
        self.fd.nmi().map_err(os("KVM_NMI"))
    }

    fn regs(&self) -> Result<kvm_regs> {
        self.fd.get_regs().map_err(os("KVM_GET_REGS"))
    }

    fn set_regs(&mut self, regs: &kvm_regs) -> Result<()> {
        self.fd.set_regs(regs).map_err(os("KVM_SET_REGS"))
    }

    fn sregs(&self) -> Result<kvm_sregs> {
        self.fd.get_sregs().map_err(os("KVM_GET_SREGS"))
    }

    fn set_sregs(&mut self, sregs: &kvm_sregs) -> Result<()> {
        self.fd.set_sregs(sregs).map_err(os("KVM_SET_SREGS"))
    }

    fn fpu(&self) -> Result<kvm_fpu> {
        self.fd.get_fpu().map_err(os("KVM_GET_FPU"))
    }

    fn set_fpu(&mut self, fpu: &kvm_fpu) -> Result<()> {
        self.fd.set_fpu(fpu).map_err(os("KVM_SET_FPU"))
    }

    fn xsave(&self) -> Result<kvm_xsave> {
        self.fd.get_xsave().map_err(os("KVM_GET_XSAVE"))
    }

    #[allow(unsafe_code, reason = "kvm-ioctls marks the call unsafe")]
    fn set_xsave(&mut self, xsave: &kvm_xsave) -> Result<()> {
        // SAFETY: the kernel reads at most 4 KiB, the structure's size, as
        // long as no dynamic feature (AMX) was enabled for this process by
        // arch_prctl, which nothing here does.
        unsafe { self.fd.set_xsave(xsave) }.map_err(os("KVM_SET_XSAVE"))
    }

    fn xcr0(&self) -> Result<u64> {
        let xcrs = self.fd.get_xcrs().map_err(os("KVM_GET_XCRS"))?;
        let count = (xcrs.nr_xcrs as usize).min(xcrs.xcrs.len());
        let xcr0 = xcrs.xcrs[..count].iter().find(|x| x.xcr == 0);
        xcr0.map(|x| x.value)
            .ok_or(Error::Missing("XCR0", "XSAVE in the kernel"))
    }

    fn set_xcr0(&mut self, value: u64) -> Result<()> {
        let mut xcrs = kvm_xcrs {
            nr_xcrs: 1,
            ..Default::default()
        };
        xcrs.xcrs[0].value = value;
        self.fd.set_xcrs(&xcrs).map_err(os("KVM_SET_XCRS"))
    }

    fn debug_regs(&self) -> Result<kvm_debugregs> {
        self.fd.get_debug_regs().map_err(os("KVM_GET_DEBUGREGS"))
    }

    fn set_debug_regs(&mut self, regs: &kvm_debugregs) -> Result<()> {
        self.fd
            .set_debug_regs(regs)
            .map_err(os("KVM_SET_DEBUGREGS"))
    }

    fn msr(&self, index: u32) -> Result<u64> {
        let mut msrs = one_msr(index, 0)?;
        match self.fd.get_msrs(&mut msrs).map_err(os("KVM_GET_MSRS"))? {
            1 => Ok(msrs.as_slice()[0].data),
            _ => Err(Error::NoSuchMsr(index)),
        }
    }

    fn set_msr(&mut self, index: u32, value: u64) -> Result<()> {
        let msrs = one_msr(index, value)?;
        match self.fd.set_msrs(&msrs).map_err(os("KVM_SET_MSRS"))? {
            1 => Ok(()),
            _ => Err(Error::NoSuchMsr(index)),
        }
    }

    fn cpuid(&self) -> Result<Vec<kvm_cpuid_entry2>> {
        let table = self
            .fd
            .get_cpuid2(KVM_MAX_CPUID_ENTRIES)
            .map_err(os("KVM_GET_CPUID2"))?;
        Ok(table.as_slice().to_vec())
    }

    fn set_cpuid(&mut self, entries: &[kvm_cpuid_entry2]) -> Result<()> {
        let table = CpuId::from_entries(entries).map_err(|_| Error::InvalidState {
            group: "CPUID table",
            why: "more entries than KVM_MAX_CPUID_ENTRIES",
        })?;
        self.fd.set_cpuid2(&table).map_err(os("KVM_SET_CPUID2"))
    }

    fn events(&self) -> Result<kvm_vcpu_events> {
        self.fd.get_vcpu_events().map_err(os("KVM_GET_VCPU_EVENTS"))
    }

    fn set_events(&mut self, events: &kvm_vcpu_events) -> Result<()> {
        self.fd
            .set_vcpu_events(events)
            .map_err(os("KVM_SET_VCPU_EVENTS"))
    }

    fn mp_state(&self) -> Result<u32> {
        let state = self.fd.get_mp_state().map_err(os("KVM_GET_MP_STATE"))?;
        Ok(state.mp_state)
    }

    fn set_mp_state(&mut self, state: u32) -> Result<()> {
        self.fd
            .set_mp_state(kvm_mp_state { mp_state: state })
            .map_err(os("KVM_SET_MP_STATE"))
    }

    fn lapic(&self) -> Result<kvm_lapic_state> {
        self.fd.get_lapic().map_err(os("KVM_GET_LAPIC"))
    }

    fn set_lapic(&mut self, lapic: &kvm_lapic_state) -> Result<()> {
        self.fd.set_lapic(lapic).map_err(os("KVM_SET_LAPIC"))
    }

    fn set_guest_debug(&mut self, debug: &kvm_guest_debug) -> Result<()> {
        let set = self.fd.set_guest_debug(debug);
        // Kernels before 5.15 know nothing of it: a step may end in a handler.
        let old = set.is_err() && debug.control & KVM_GUESTDBG_BLOCKIRQ != 0;
        let set = match old {
            true => self.fd.set_guest_debug(&kvm_guest_debug {
                control: debug.control & !KVM_GUESTDBG_BLOCKIRQ,
                ..*debug
            }),
            false => set,
        };
        set.map_err(os("KVM_SET_GUEST_DEBUG"))
    }

    fn translate(&self, gva: u64) -> Result<Option<u64>> {
        let found = self.fd.translate_gva(gva).map_err(os("KVM_TRANSLATE"))?;
        Ok((found.valid != 0).then_some(found.physical_address))
    }

    fn tsc_khz(&self) -> Result<u32> {
        match self.fd.get_tsc_khz() {
            Ok(khz) => Ok(khz),
            Err(e) => self.tsc_khz.ok_or_else(|| os("KVM_GET_TSC_KHZ")(e)),
        }
    }
}

fn one_msr(index: u32, data: u64) -> Result<Msrs> {
    let entry = kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    Msrs::from_entries(&[entry]).map_err(|_| Error::NoSuchMsr(index))
}
