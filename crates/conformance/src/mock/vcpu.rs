//! The vCPU of a broken backend.

use super::Defect;
use super::vm::Memory;
use hv::abi::*;
use hv::{Error, Kicker, Result, Vcpu, VcpuExit};
use std::sync::Arc;

/// Ports of the suite's exception stubs, one a vector.
const STUB_PORTS: std::ops::Range<u16> = 0xc0..0xe0;
/// Guest-physical places of the suite: paging structures, data pages.
const TABLES: std::ops::Range<u64> = 0x3_0000..0x4_0000;
const DATA: std::ops::Range<u64> = 0x2_0000..0x2_3000;
const USER_DATA: std::ops::Range<u64> = 0x5_0000..0x5_5000;
/// Stacks in use below their tops.
const STACKS: [std::ops::Range<u64>; 2] = [0x7f00..0x8000, 0x7_ef00..0x7_f000];

pub(super) struct BrokenVcpu {
    inner: Box<dyn Vcpu>,
    defect: Defect,
    memory: Arc<Memory>,
}

impl BrokenVcpu {
    pub(super) fn new(inner: Box<dyn Vcpu>, defect: Defect, memory: Arc<Memory>) -> Self {
        Self {
            inner,
            defect,
            memory,
        }
    }

    fn exit(&mut self, exit: VcpuExit) -> VcpuExit {
        use Defect::*;
        match (self.defect, exit) {
            (PortNumber, VcpuExit::IoOut { port, size, value }) => VcpuExit::IoOut {
                port: port + 1,
                size,
                value,
            },
            (PortValue, VcpuExit::IoOut { port, size, value }) => VcpuExit::IoOut {
                port,
                size,
                value: value ^ 1,
            },
            (MmioValue, VcpuExit::MmioWrite { gpa, size, value }) => VcpuExit::MmioWrite {
                gpa,
                size,
                value: value ^ 1,
            },
            (MmioAddress, VcpuExit::MmioWrite { gpa, size, value }) => VcpuExit::MmioWrite {
                gpa: gpa + 1,
                size,
                value,
            },
            (MmioAddress, VcpuExit::MmioRead { gpa, size }) => {
                let gpa = gpa + 1;
                VcpuExit::MmioRead { gpa, size }
            }
            (HaltIsShutdown, VcpuExit::Hlt) => VcpuExit::Shutdown,
            (ShutdownIsHalt, VcpuExit::Shutdown) => VcpuExit::Hlt,
            (NoWindow, VcpuExit::IrqWindowOpen) => VcpuExit::Interrupted,
            (InterruptedIsHalt, VcpuExit::Interrupted) => VcpuExit::Hlt,
            (DebugExit, VcpuExit::Debug(mut debug)) => {
                debug.pc += 1;
                VcpuExit::Debug(debug)
            }
            (_, VcpuExit::IoOut { port, size, value }) if STUB_PORTS.contains(&port) => {
                self.stub(port, size, value)
            }
            _ => exit,
        }
    }

    /// The exit of an exception's stub: vector and frame may be wrong.
    fn stub(&mut self, port: u16, size: u8, value: u32) -> VcpuExit {
        let port = match self.defect {
            Defect::Vector if port + 1 < STUB_PORTS.end => port + 1,
            _ => port,
        };
        let vector = port - STUB_PORTS.start;
        let coded = matches!(vector, 8 | 10..=14 | 17);
        if let (Ok(regs), Ok(sregs)) = (self.inner.regs(), self.inner.sregs()) {
            let frame = sregs.ss.base.wrapping_add(regs.rsp);
            let word = match (sregs.cr0 & 1, sregs.efer & 0x400) {
                (0, _) => 0,
                (_, 0) => 4,
                _ => 8,
            };
            match self.defect {
                Defect::ErrorCode if coded => self.memory.flip(frame, 1),
                Defect::ReturnAddress if coded => self.memory.flip(frame + word, 1),
                Defect::ReturnAddress => self.memory.flip(frame, 1),
                _ => {}
            }
        }
        VcpuExit::IoOut { port, size, value }
    }

    /// Defects of memory show after every run.
    fn spoil_memory(&self) {
        match self.defect {
            Defect::AccessedDirty => {
                for at in TABLES.step_by(4) {
                    self.memory.clear(at, 0x60);
                }
            }
            Defect::Memory => {
                let stacks = STACKS.into_iter().flat_map(|s| s.step_by(2));
                for at in DATA.chain(USER_DATA).chain(stacks) {
                    self.memory.flip(at, 1);
                }
            }
            _ => {}
        }
    }

    /// The verdict of a setter.
    fn set(&self, result: Result<()>) -> Result<()> {
        match self.defect {
            Defect::AcceptsAll => Ok(()),
            _ => result,
        }
    }
}

impl Vcpu for BrokenVcpu {
    fn run(&mut self) -> Result<VcpuExit> {
        let exit = self.inner.run()?;
        self.spoil_memory();
        Ok(self.exit(exit))
    }

    fn complete_read(&mut self, value: u64) {
        let flip = u64::from(self.defect == Defect::ReadData);
        self.inner.complete_read(value ^ flip);
    }

    fn kicker(&self) -> Arc<dyn Kicker> {
        self.inner.kicker()
    }

    fn request_irq_window(&mut self, on: bool) {
        self.inner.request_irq_window(on);
    }

    fn ready_for_irq(&self) -> bool {
        self.defect != Defect::NeverReady && self.inner.ready_for_irq()
    }

    fn inject_irq(&mut self, vector: u8) -> Result<()> {
        self.inner.inject_irq(vector)
    }

    fn inject_nmi(&mut self) -> Result<()> {
        self.inner.inject_nmi()
    }

    fn regs(&self) -> Result<kvm_regs> {
        let mut r = self.inner.regs()?;
        if self.defect == Defect::Registers {
            for register in [
                &mut r.rax, &mut r.rbx, &mut r.rcx, &mut r.rdx, &mut r.rsi, &mut r.rdi, &mut r.rbp,
                &mut r.r8, &mut r.r9, &mut r.r10, &mut r.r15,
            ] {
                *register = register.wrapping_add(1);
            }
            r.rflags ^= 0x41; // CF and ZF
        }
        if self.defect == Defect::InstructionPointer {
            r.rip = r.rip.wrapping_add(1);
        }
        Ok(r)
    }

    fn set_regs(&mut self, regs: &kvm_regs) -> Result<()> {
        let result = self.inner.set_regs(regs);
        self.set(result)
    }

    fn sregs(&self) -> Result<kvm_sregs> {
        let mut s = self.inner.sregs()?;
        if self.defect == Defect::SystemRegisters {
            s.cr2 ^= 8;
            s.gdt.limit ^= 1;
            s.fs.base ^= 1 << 4;
            s.gs.base ^= 1 << 4;
            s.ds.selector ^= 8;
        }
        Ok(s)
    }

    fn set_sregs(&mut self, sregs: &kvm_sregs) -> Result<()> {
        let result = self.inner.set_sregs(sregs);
        self.set(result)
    }

    fn fpu(&self) -> Result<kvm_fpu> {
        let mut fpu = self.inner.fpu()?;
        if self.defect == Defect::Vectors {
            fpu.fcw ^= 1;
            fpu.xmm.iter_mut().for_each(|x| x[0] ^= 1);
        }
        Ok(fpu)
    }

    fn set_fpu(&mut self, fpu: &kvm_fpu) -> Result<()> {
        let result = self.inner.set_fpu(fpu);
        self.set(result)
    }

    fn xsave(&self) -> Result<kvm_xsave> {
        let mut image = self.inner.xsave()?;
        if self.defect == Defect::Vectors {
            image.region[40..200].iter_mut().for_each(|w| *w ^= 1);
        }
        Ok(image)
    }

    fn set_xsave(&mut self, xsave: &kvm_xsave) -> Result<()> {
        let result = self.inner.set_xsave(xsave);
        self.set(result)
    }

    fn xcr0(&self) -> Result<u64> {
        let flip = u64::from(self.defect == Defect::Xcr0) << 1;
        Ok(self.inner.xcr0()? ^ flip)
    }

    fn set_xcr0(&mut self, value: u64) -> Result<()> {
        let result = self.inner.set_xcr0(value);
        self.set(result)
    }

    fn debug_regs(&self) -> Result<kvm_debugregs> {
        let mut regs = self.inner.debug_regs()?;
        if self.defect == Defect::DebugRegisters {
            regs.db[0] ^= 1;
            regs.db[2] ^= 1;
            regs.dr6 ^= 0x6003;
            regs.dr7 ^= 0x2000;
        }
        Ok(regs)
    }

    fn set_debug_regs(&mut self, regs: &kvm_debugregs) -> Result<()> {
        let result = self.inner.set_debug_regs(regs);
        self.set(result)
    }

    fn msr(&self, index: u32) -> Result<u64> {
        let flip = u64::from(self.defect == Defect::Msrs);
        match (self.defect, self.inner.msr(index)) {
            (Defect::AcceptsAll, Err(_)) => Ok(0),
            (_, result) => Ok(result? ^ flip),
        }
    }

    fn set_msr(&mut self, index: u32, value: u64) -> Result<()> {
        let result = self.inner.set_msr(index, value);
        self.set(result)
    }

    fn cpuid(&self) -> Result<Vec<kvm_cpuid_entry2>> {
        self.inner.cpuid()
    }

    fn set_cpuid(&mut self, entries: &[kvm_cpuid_entry2]) -> Result<()> {
        match self.defect {
            Defect::CpuidIgnored => Ok(()),
            _ => self.inner.set_cpuid(entries),
        }
    }

    fn events(&self) -> Result<kvm_vcpu_events> {
        match self.defect {
            Defect::Events => Ok(kvm_vcpu_events::default()),
            _ => self.inner.events(),
        }
    }

    fn set_events(&mut self, events: &kvm_vcpu_events) -> Result<()> {
        self.inner.set_events(events)
    }

    fn mp_state(&self) -> Result<u32> {
        match self.defect {
            Defect::MpState => Ok(self.inner.mp_state()? + 1),
            _ => self.inner.mp_state(),
        }
    }

    fn set_mp_state(&mut self, state: u32) -> Result<()> {
        self.inner.set_mp_state(state)
    }

    fn lapic(&self) -> Result<kvm_lapic_state> {
        match self.defect {
            Defect::Lapic => Ok(kvm_lapic_state::default()),
            _ => self.inner.lapic(),
        }
    }

    fn set_lapic(&mut self, lapic: &kvm_lapic_state) -> Result<()> {
        self.inner.set_lapic(lapic)
    }

    fn set_guest_debug(&mut self, debug: &kvm_guest_debug) -> Result<()> {
        self.inner.set_guest_debug(debug)
    }

    fn translate(&self, gva: u64) -> Result<Option<u64>> {
        let gpa = self.inner.translate(gva)?;
        match self.defect {
            Defect::Translate => Ok(gpa.map(|g| g + 0x1000)),
            _ => Ok(gpa),
        }
    }

    fn tsc_khz(&self) -> Result<u32> {
        match self.defect {
            Defect::TscFrequency => Err(Error::Unsupported("the TSC frequency")),
            _ => self.inner.tsc_khz(),
        }
    }
}
