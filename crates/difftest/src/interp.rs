//! The interpreter as an executor, over flat memory.

use std::io;

use iced_x86::{CpuidFeature, Instruction};
#[cfg(test)]
use iced_x86::{Decoder, DecoderOptions};
use isa::{Access, Env, MmuEvent, Stop};
use jit::native::NativeExec;
use x86::{CpuState, Exception, flags};

use crate::case::{Case, Executor, Outcome};
use crate::features::HostFeatures;
use crate::flat::Flat;

/// Iterations of a `rep` instruction before a case is given up.
const MAX_STEPS: u32 = 1000;

/// `isa`'s interpreter with the data window as its only memory.
pub struct Interpreter {
    env: FlatEnv,
    xcr0: u64,
}

impl Interpreter {
    /// An interpreter that offers the host's features.
    ///
    /// # Errors
    /// The host refuses executable memory, or /proc/cpuinfo is missing.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            env: FlatEnv {
                mem: Flat::default(),
                native: NativeExec::new()?,
                features: HostFeatures::read()?,
            },
            xcr0: 0xe7,
        })
    }
}

#[cfg(test)]
impl Interpreter {
    /// Does this encoding raise #UD in ring 0?
    pub(crate) fn raises_ud(&mut self, e: &crate::encodings::Encoding) -> bool {
        use x86::{Seg, segment::attr};
        self.env.mem.bytes.resize(crate::layout::DATA_LEN, 0);
        let mut cpu = CpuState::reset(0);
        cpu.cr0 |= x86::cr0::PE;
        cpu.cr4 |= x86::cr4::OSFXSR | x86::cr4::OSXSAVE | x86::cr4::VMXE;
        cpu.xcr0 = self.xcr0;
        let wide = match e.bits {
            64 => attr::L,
            32 => attr::DB,
            _ => 0,
        };
        if e.bits == 64 {
            cpu.efer = x86::efer::LME | x86::efer::LMA;
        }
        let cs = cpu.seg_mut(Seg::Cs);
        cs.attr = attr::P | attr::S | attr::RW | attr::X | wide;
        cpu.rip = 0x1000;
        let insn = Decoder::with_ip(e.bits, &e.bytes, cpu.rip, DecoderOptions::NONE).decode();
        let result = isa::execute_only(&mut cpu, &mut self.env, &insn);
        result == Err(Stop::Fault(Exception::UD))
    }
}

impl Executor for Interpreter {
    fn name(&self) -> &'static str {
        "interpreter"
    }
    fn run(&mut self, case: &Case) -> Outcome {
        let mut cpu = case.cpu(self.xcr0);
        self.env.mem.bytes.clone_from(&case.mem);
        let mut fault = None;
        for _ in 0..MAX_STEPS {
            match isa::execute_only(&mut cpu, &mut self.env, &case.insn) {
                Ok(_) => {}
                Err(Stop::Fault(e)) => fault = Some(e),
                Err(other) => unreachable!("flat memory never stops: {other:?}"),
            }
            let rep = case.insn.has_rep_prefix() || case.insn.has_repne_prefix();
            if fault.is_some() || cpu.rip != case.rip || !rep {
                break;
            }
        }
        Outcome {
            gpr: cpu.gpr,
            rip: cpu.rip,
            rflags: cpu.rflags & !flags::RF,
            xsave: cpu.xsave,
            mem: std::mem::take(&mut self.env.mem.bytes),
            fault,
        }
    }
}

struct FlatEnv {
    mem: Flat,
    native: NativeExec,
    features: HostFeatures,
}

impl Env for FlatEnv {
    fn load(&mut self, _: &mut CpuState, la: u64, size: u32, how: Access) -> Result<u64, Stop> {
        let mut b = [0; 8];
        self.mem
            .read(la, &mut b[..size.min(8) as usize], how.is_write())?;
        Ok(u64::from_le_bytes(b))
    }
    fn store(
        &mut self,
        _: &mut CpuState,
        la: u64,
        size: u32,
        value: u64,
        _: Access,
    ) -> Result<(), Stop> {
        Ok(self
            .mem
            .write(la, &value.to_le_bytes()[..size.min(8) as usize])?)
    }
    fn load_bytes(
        &mut self,
        _: &mut CpuState,
        la: u64,
        buf: &mut [u8],
        how: Access,
    ) -> Result<(), Stop> {
        Ok(self.mem.read(la, buf, how.is_write())?)
    }
    fn store_bytes(
        &mut self,
        _: &mut CpuState,
        la: u64,
        buf: &[u8],
        _: Access,
    ) -> Result<(), Stop> {
        Ok(self.mem.write(la, buf)?)
    }
    fn probe(&mut self, _: &mut CpuState, la: u64, len: u32, how: Access) -> Result<(), Stop> {
        Ok(self.mem.check(la, u64::from(len), how.is_write())?)
    }
    fn fetch(&mut self, _: &mut CpuState, la: u64, _: &mut [u8]) -> Result<(), Stop> {
        Err(Exception::pf(la, 0x15).into())
    }
    fn cmpxchg16(
        &mut self,
        _: &mut CpuState,
        la: u64,
        expected: u128,
        new: u128,
    ) -> Result<u128, Stop> {
        let mut b = [0; 16];
        self.mem.read(la, &mut b, true)?;
        let old = u128::from_le_bytes(b);
        if old == expected {
            self.mem.write(la, &new.to_le_bytes())?;
        }
        Ok(old)
    }
    fn commit(&mut self, _: &mut CpuState) {}
    fn io_in(&mut self, _: &mut CpuState, _: u16, _: u32) -> Result<u32, Stop> {
        Ok(u32::MAX)
    }
    fn io_out(&mut self, _: &mut CpuState, _: u16, _: u32, _: u32) -> Result<(), Stop> {
        Ok(())
    }
    fn cpuid(&mut self, _: &CpuState, _: u32, _: u32) -> [u32; 4] {
        [0; 4]
    }
    fn has_feature(&self, feature: CpuidFeature) -> bool {
        self.features.has(feature)
    }
    fn rdmsr(&mut self, _: &mut CpuState, _: u32) -> Result<u64, Stop> {
        Err(Exception::GP0.into())
    }
    fn wrmsr(&mut self, _: &mut CpuState, _: u32, _: u64) -> Result<(), Stop> {
        Err(Exception::GP0.into())
    }
    fn tsc(&mut self, _: &CpuState) -> u64 {
        0
    }
    fn cr8(&mut self, cpu: &CpuState) -> u64 {
        cpu.cr8
    }
    fn set_cr8(&mut self, cpu: &mut CpuState, value: u64) {
        cpu.cr8 = value;
    }
    fn mmu(&mut self, _: &mut CpuState, _: MmuEvent) {}
    fn native(
        &mut self,
        cpu: &mut CpuState,
        insn: &Instruction,
        mem: &mut [u8],
    ) -> Result<(), Exception> {
        self.native.run(cpu, insn, mem)
    }
    fn hypercall(&mut self, _: &mut CpuState) -> Result<u64, Stop> {
        Err(Exception::UD.into())
    }
}
