//! [`jit::native::NativeExec`] as an executor: every instruction it accepts is
//! re-encoded and run on a bounce buffer.

use std::io;

use iced_x86::{InstructionInfoFactory, OpAccess, Register};
use jit::native::NativeExec;
use x86::{CpuState, Exception, flags};

use crate::case::{Case, Executor, GS_BASE, Outcome};
use crate::flat::Flat;

/// The bounce-buffer executor over flat memory.
pub struct Bounced {
    native: NativeExec,
    info: InstructionInfoFactory,
    xcr0: u64,
}

impl Bounced {
    /// An executor with the host's vector state components.
    ///
    /// # Errors
    /// The host refuses executable memory.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            native: NativeExec::new()?,
            info: InstructionInfoFactory::new(),
            xcr0: 0xe7,
        })
    }
    fn step(&mut self, case: &Case, cpu: &mut CpuState, mem: &mut Flat) -> Result<(), Exception> {
        let used = self.info.info(&case.insn).used_memory().first().copied();
        let Some(used) = used.filter(|u| u.access() != OpAccess::NoMemAccess) else {
            return self.native.run(cpu, &case.insn, &mut []);
        };
        let la = used
            .virtual_address(0, |r, _, _| Some(register(cpu, r)))
            .unwrap_or(0);
        let writes = !matches!(used.access(), OpAccess::Read | OpAccess::CondRead);
        let mut buf = vec![0; used.memory_size().size()];
        // #UD and #GP for a misaligned operand come before what the address
        // raises.
        let first = |native: &mut NativeExec, buf: &mut [u8]| {
            let e = native.run(&mut cpu.clone(), &case.insn, buf).err();
            e.filter(|e| matches!(*e, Exception::GP0 | Exception::UD))
        };
        if !x86::canonical48(la)
            || !x86::canonical48(la.wrapping_add((buf.len() as u64).max(1) - 1))
        {
            let stack = used.segment() == Register::SS;
            let own = if stack {
                Exception::SS0
            } else {
                Exception::GP0
            };
            return Err(first(&mut self.native, &mut buf).unwrap_or(own));
        }
        if let Err(fault) = mem.read(la, &mut buf, writes) {
            return Err(first(&mut self.native, &mut buf).unwrap_or(fault));
        }
        self.native.run(cpu, &case.insn, &mut buf)?;
        if writes {
            mem.write(la, &buf)?;
        }
        Ok(())
    }
}

fn has_memory(case: &Case) -> bool {
    (0..case.insn.op_count()).any(|i| case.insn.op_kind(i) == iced_x86::OpKind::Memory)
}

fn register(cpu: &CpuState, r: Register) -> u64 {
    if r == Register::GS {
        return GS_BASE;
    }
    if !r.is_gpr() {
        return 0;
    }
    let v = cpu.gpr[r.full_register().number() & 15];
    match r.size() {
        8 => v,
        4 => v & 0xffff_ffff,
        _ => v & 0xffff,
    }
}

impl Executor for Bounced {
    fn name(&self) -> &'static str {
        "bounce buffer"
    }
    fn accepts(&mut self, case: &Case) -> bool {
        let unmasked = case.insn.op_mask() == Register::None || !has_memory(case);
        let sparse = case.insn.is_vsib() || format!("{:?}", case.insn.mnemonic()).contains("mask");
        let plain = unmasked && !sparse && case.rflags & flags::AC == 0;
        plain && self.native.accepts(&case.insn)
    }
    fn run(&mut self, case: &Case) -> Outcome {
        let mut cpu = case.cpu(self.xcr0);
        let mut mem = Flat {
            bytes: case.mem.clone(),
        };
        let fault = self.step(case, &mut cpu, &mut mem).err();
        if fault.is_none() {
            cpu.rip += case.bytes.len() as u64;
        }
        Outcome {
            gpr: cpu.gpr,
            rip: cpu.rip,
            rflags: cpu.rflags & !flags::RF,
            xsave: cpu.xsave,
            mem: mem.bytes,
            fault,
        }
    }
}
