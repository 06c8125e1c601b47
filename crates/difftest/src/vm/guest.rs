//! One VM with one vCPU that runs cases.
//!
//! A case is entered by an IRETQ in the guest's kernel and left by INT3 or a
//! fault, whose handler is a HLT: TLB and translations stay between cases, so
//! that later ones run on warm paths too.
#![allow(unsafe_code, reason = "guest memory is a mapping of this process")]

use super::layout::{self, CODE_GPA, DATA_GPA, ENTRY_FRAME, ENTRY_FRAME_GPA, IRETQ, RAM};
use crate::case::{Case, Executor, Outcome};
use crate::layout::{CODE, CODE_LEN, DATA_LEN};
use hv::abi::{kvm_regs, kvm_xsave};
use hv::{Hypervisor, Kicker, MemFlags, MemSlot, Vcpu, VcpuExit, Vm};
use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::ptr;
use std::sync::Arc;
use x86::cpu::XsaveArea;
use x86::{Exception, flags, vector};

/// Where a case runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// CPL 3.
    User,
    /// CPL 0.
    Kernel,
}

/// State components of every case: x87, SSE, AVX, AVX-512.
const XCR0: u64 = 0xe7;

/// Guest memory; lives as long as the process.
struct Ram(*mut u8);

impl Ram {
    fn new() -> Self {
        let layout = Layout::from_size_align(RAM, 4096).unwrap_or(Layout::new::<u64>());
        // SAFETY: the layout is not of size 0.
        let p = unsafe { alloc_zeroed(layout) };
        if p.is_null() {
            handle_alloc_error(layout);
        }
        Self(p)
    }
    fn write(&self, gpa: u64, bytes: &[u8]) {
        assert!(gpa as usize + bytes.len() <= RAM);
        // SAFETY: inside the mapping; the vCPU does not run.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.add(gpa as usize), bytes.len()) };
    }
    fn read(&self, gpa: u64, len: usize) -> Vec<u8> {
        assert!(gpa as usize + len <= RAM);
        let mut out = vec![0; len];
        // SAFETY: as in `write`.
        unsafe { ptr::copy_nonoverlapping(self.0.add(gpa as usize), out.as_mut_ptr(), len) };
        out
    }
    fn word(&self, gpa: u64) -> u64 {
        u64::from_le_bytes(self.read(gpa, 8).try_into().unwrap_or_default())
    }
}

/// The executor.
pub struct Guest {
    ram: Ram,
    vm: Arc<dyn Vm>,
    vcpu: Box<dyn Vcpu>,
    /// Where cases run.
    pub privilege: Privilege,
    /// Forget all translations and TLB entries before each case.
    pub cold: bool,
    /// Run each case twice and report the second run.
    pub twice: bool,
}

impl Guest {
    /// A VM of `hypervisor` with all its features.
    ///
    /// # Errors
    /// The backend's.
    pub fn new(hypervisor: &dyn Hypervisor) -> hv::Result<Self> {
        let ram = Ram::new();
        let mut bytes = vec![0; RAM];
        layout::write_tables(&mut bytes);
        ram.write(0, &bytes);
        let vm = hypervisor.create_vm()?;
        let slot = MemSlot {
            slot: 0,
            gpa: 0,
            size: RAM as u64,
            hva: ram.0 as u64,
            flags: MemFlags::NONE,
        };
        // SAFETY: the memory is never freed and used through raw pointers.
        unsafe { vm.set_memory(slot)? };
        let mut vcpu = vm.create_vcpu(0)?;
        vcpu.set_cpuid(&hypervisor.supported_cpuid()?)?;
        let sregs = layout::sregs(&vcpu.sregs()?);
        vcpu.set_sregs(&sregs)?;
        vcpu.set_xcr0(XCR0)?;
        Ok(Self {
            ram,
            vm,
            vcpu,
            privilege: Privilege::User,
            cold: false,
            twice: false,
        })
    }

    /// One of the VM's counters, 0 if it has none of that name.
    pub fn counter(&self, name: &str) -> u64 {
        let all = self.vm.counters();
        all.iter().find(|(n, _)| *n == name).map_or(0, |(_, v)| *v)
    }

    /// A handle that interrupts cases.
    pub fn kicker(&self) -> Arc<dyn Kicker> {
        self.vcpu.kicker()
    }

    fn enter(&mut self, case: &Case) -> hv::Result<()> {
        if self.cold {
            let sregs = self.vcpu.sregs()?;
            self.vcpu.set_sregs(&sregs)?;
        }
        self.ram.write(DATA_GPA, &case.mem);
        let (cs, ss) = match self.privilege {
            Privilege::User if case.bits == 32 => layout::USER32,
            Privilege::User => layout::USER,
            Privilege::Kernel => layout::KERNEL,
        };
        let rflags = case.rflags & !flags::TF;
        let frame = [case.rip, cs.into(), rflags, case.gpr[4], ss.into()];
        for (i, v) in frame.iter().enumerate() {
            self.ram
                .write(ENTRY_FRAME_GPA + 8 * i as u64, &v.to_le_bytes());
        }
        let g = &case.gpr;
        self.vcpu.set_regs(&kvm_regs {
            rax: g[0],
            rcx: g[1],
            rdx: g[2],
            rbx: g[3],
            rsp: ENTRY_FRAME,
            rbp: g[5],
            rsi: g[6],
            rdi: g[7],
            r8: g[8],
            r9: g[9],
            r10: g[10],
            r11: g[11],
            r12: g[12],
            r13: g[13],
            r14: g[14],
            r15: g[15],
            rip: IRETQ,
            rflags: flags::FIXED1,
        })?;
        let mut x = kvm_xsave::default();
        for (word, bytes) in x.region.iter_mut().zip(case.xsave.0.chunks_exact(4)) {
            *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        self.vcpu.set_xsave(&x)
    }

    fn leave(&mut self) -> hv::Result<Outcome> {
        let r = self.vcpu.regs()?;
        let v = layout::vector_of(r.rip);
        let frame = layout::stack_gpa(r.rsp);
        let (Some(v), Some(mut at)) = (v, frame) else {
            unreachable!("the guest halted at {:#x} with RSP {:#x}", r.rip, r.rsp)
        };
        let coded = matches!(
            v,
            vector::TS | vector::NP | vector::SS | vector::GP | vector::PF | vector::AC
        );
        let error = coded.then(|| self.ram.word(at) as u32);
        at += 8 * u64::from(coded);
        let rsp = self.ram.word(at + 24);
        let fault = if v == vector::PF {
            // The host runs every case in user mode.
            Exception::pf(self.vcpu.sregs()?.cr2, error.unwrap_or(0) | 4)
        } else {
            Exception {
                vector: v,
                error,
                payload: 0,
            }
        };
        let x = self.vcpu.xsave()?;
        let mut xsave = XsaveArea::default();
        for (bytes, word) in xsave.0.chunks_exact_mut(4).zip(x.region) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        Ok(Outcome {
            gpr: [
                r.rax, r.rcx, r.rdx, r.rbx, rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11,
                r.r12, r.r13, r.r14, r.r15,
            ],
            rip: self.ram.word(at),
            rflags: self.ram.word(at + 16) & !flags::RF,
            xsave,
            mem: self.ram.read(DATA_GPA, DATA_LEN),
            fault: Some(fault),
        })
    }

    fn once(&mut self, case: &Case) -> hv::Result<Outcome> {
        self.enter(case)?;
        loop {
            match self.vcpu.run()? {
                VcpuExit::Hlt => return self.leave(),
                VcpuExit::Interrupted => {}
                other => unreachable!("no device and no interrupt: {other:?}"),
            }
        }
    }
}

impl Executor for Guest {
    fn name(&self) -> &'static str {
        "engine"
    }
    fn accepts(&mut self, case: &Case) -> bool {
        case.bits == 64 || self.privilege == Privilege::User
    }
    fn run(&mut self, case: &Case) -> Outcome {
        let at = case.rip - CODE;
        assert!(at as usize + case.bytes.len() <= CODE_LEN, "code window");
        self.ram.write(CODE_GPA + at, &case.bytes);
        // A page at a time, as the contract's ranges are.
        self.vm.memory_written(CODE_GPA, CODE_LEN as u64);
        let mut outcome = self.once(case);
        if self.twice {
            outcome = self.once(case);
        }
        outcome.unwrap_or_else(|e| unreachable!("the engine refused a case: {e}"))
    }
}
