//! One test: an instruction and everything it can depend on.

use iced_x86::Instruction;
use x86::cpu::XsaveArea;
use x86::{CpuState, DescTable, Exception, Seg, Segment, cr0, cr4, efer, segment::attr};

/// The selector of GS: entry 0 of the process's LDT, RPL 3.
pub const GS_SELECTOR: u16 = 7;
/// The base of GS in every case.
pub const GS_BASE: u64 = 0x1000;

/// An instruction with its initial state.
#[derive(Clone, Debug)]
pub struct Case {
    /// Generates this case again.
    pub seed: u64,
    /// 64 or 32.
    pub bits: u32,
    /// The instruction as decoded from `bytes` at `rip`.
    pub insn: Instruction,
    /// Its encoding.
    pub bytes: Vec<u8>,
    /// Where it is, in the code window.
    pub rip: u64,
    /// General registers.
    pub gpr: [u64; 16],
    /// Arithmetic flags, DF and AC; TF, IF and bit 1 are always set.
    pub rflags: u64,
    /// x87 and vector state.
    pub xsave: XsaveArea,
    /// Contents of the data window, `layout::DATA_LEN` bytes.
    pub mem: Vec<u8>,
}

/// State after the instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// General registers.
    pub gpr: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// Flags without RF.
    pub rflags: u64,
    /// x87 and vector state.
    pub xsave: XsaveArea,
    /// The data window.
    pub mem: Vec<u8>,
    /// The exception it raised.
    pub fault: Option<Exception>,
}

/// Something that can execute a case.
pub trait Executor {
    /// Name for reports.
    fn name(&self) -> &'static str;
    /// True if this executor runs such a case.
    fn accepts(&mut self, _case: &Case) -> bool {
        true
    }
    /// Executes the one instruction (with `rep`: all iterations).
    fn run(&mut self, case: &Case) -> Outcome;
}

impl Case {
    /// The whole vCPU state at the start: user mode under a kernel set up as
    /// Linux sets up the host's, so that both see the same privileges.
    pub fn cpu(&self, xcr0: u64) -> CpuState {
        let mut cpu = CpuState::reset(0);
        cpu.gpr = self.gpr;
        cpu.rip = self.rip;
        cpu.rflags = self.rflags;
        cpu.cr0 = cr0::PE | cr0::PG | cr0::AM | cr0::WP | cr0::NE | cr0::MP | cr0::ET;
        cpu.cr4 = cr4::PAE
            | cr4::PGE
            | cr4::OSFXSR
            | cr4::OSXMMEXCPT
            | cr4::OSXSAVE
            | cr4::FSGSBASE
            | cr4::UMIP;
        cpu.efer = efer::SCE | efer::LME | efer::LMA | efer::NXE;
        cpu.xcr0 = xcr0;
        cpu.xlayout = crate::state::layout();
        cpu.xsave = self.xsave.clone();
        let flat = |selector, a| Segment {
            base: 0,
            limit: u32::MAX,
            selector,
            attr: a,
        };
        let user = attr::P | attr::S | attr::RW | attr::A | attr::G | attr::DPL;
        let data = flat(0x2b, user | attr::DB);
        let code = user | attr::X;
        *cpu.seg_mut(Seg::Cs) = match self.bits {
            64 => flat(0x33, code | attr::L),
            _ => flat(0x23, code | attr::DB),
        };
        for s in [Seg::Ss, Seg::Ds, Seg::Es] {
            *cpu.seg_mut(s) = data;
        }
        *cpu.seg_mut(Seg::Fs) = flat(0, user | attr::DB);
        *cpu.seg_mut(Seg::Gs) = flat(GS_SELECTOR, user | attr::DB);
        cpu.seg_mut(Seg::Gs).base = GS_BASE;
        cpu.seg_mut(Seg::Tr).limit = 0;
        // No I/O bitmap and no gates: port I/O and INT n fault as under Linux.
        let none = DescTable { base: 0, limit: 0 };
        cpu.gdtr = none;
        cpu.idtr = none;
        cpu
    }
}
