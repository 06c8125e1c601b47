//! How the translator treats each instruction.

pub use crate::codes::Vector;
use crate::codes::{conditional_memory, system_flags};
use crate::facts::{Plain, facts};
use crate::regs::{is_high_byte, named};
use iced_x86::{
    Code, FlowControl, Instruction, InstructionInfoFactory, MemorySize, Mnemonic, OpAccess, OpKind,
    Register,
};

/// Treatment of one instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// Copy, renaming registers and checking its memory operand if any.
    Copy,
    /// Emit nothing.
    Nothing,
    /// LEA: an address computation without access.
    Lea,
    /// PUSH of a 64-bit register, immediate or memory operand.
    Push,
    /// POP into a 64-bit register.
    Pop,
    /// LEAVE.
    Leave,
    /// Direct near call.
    Call,
    /// Indirect near call.
    CallIndirect,
    /// Near return.
    Ret,
    /// Direct near jump.
    Jump,
    /// Indirect near jump.
    JumpIndirect,
    /// Conditional jump on flags.
    Jcc,
    /// PUSHFQ.
    PushFlags,
    /// CLI at CPL 0.
    Cli,
    /// STI at CPL 0.
    Sti,
    /// MOV of a segment selector to a register or memory.
    ReadSelector,
    /// CLD or STD.
    Direction,
    /// STAC or CLAC that selects the other TLB bank; ends the block.
    SwitchAc,
    /// SWAPGS at CPL 0.
    SwapGs,
    /// RDFSBASE or RDGSBASE.
    ReadBase,
    /// WRFSBASE or WRGSBASE.
    WriteBase,
    /// MOV from CR0, CR2, CR3 or CR4 at CPL 0.
    ReadControl,
    /// RDTSC or RDTSCP.
    ReadTsc,
    /// SERIALIZE.
    Serialize,
    /// SYSCALL, SYSRET or IRET of 64-bit code: in place where that is simple;
    /// ends the block.
    Gate,
    /// BT, BTS, BTR, BTC of a memory bit string and a register index.
    BitString,
    /// PREFETCH of 64-bit code: a hint to the host, too.
    Prefetch,
    /// MOVS, STOS or LODS of one element.
    String,
    /// REP MOVS or REP STOS: in place where that is simple.
    RepString,
    /// Left to the interpreter; ends the block.
    Interp,
}

impl Treatment {
    /// The instruction's implicit operand is at the stack pointer.
    pub fn is_on_stack(self) -> bool {
        matches!(
            self,
            Self::Push | Self::PushFlags | Self::Pop | Self::Call | Self::CallIndirect | Self::Ret
        )
    }

    /// Nothing of the block follows such an instruction.
    pub fn ends_block(self) -> bool {
        matches!(
            self,
            Self::Jump
                | Self::JumpIndirect
                | Self::Call
                | Self::CallIndirect
                | Self::Ret
                | Self::SwitchAc
                | Self::Gate
                | Self::Interp
        )
    }
}

/// What an instruction does with its explicit operands, by code.
#[derive(Clone, Copy, Default)]
pub struct Accesses {
    known: bool,
    read: u8,
    write: u8,
    /// General registers that are changed but not named, a bit each.
    implicit: u16,
}

impl Accesses {
    /// Operand `i` is (perhaps) read.
    pub fn reads(self, i: u32) -> bool {
        self.read & (1 << i) != 0
    }
    /// Operand `i` is (perhaps) written.
    pub fn writes(self, i: u32) -> bool {
        self.write & (1 << i) != 0
    }
}

/// Operand accesses per instruction code, computed when first seen.
pub struct AccessTable {
    rows: Vec<Accesses>,
    factory: InstructionInfoFactory,
}

impl Default for AccessTable {
    fn default() -> Self {
        let codes = Code::values().len();
        Self {
            rows: vec![Accesses::default(); codes],
            factory: InstructionInfoFactory::new(),
        }
    }
}

impl AccessTable {
    /// The accesses of `insn`.
    pub fn of(&mut self, insn: &Instruction) -> Accesses {
        let row = self.rows[insn.code() as usize];
        if row.known {
            return row;
        }
        let mut row = Accesses {
            known: true,
            implicit: self.implicit(insn),
            ..Accesses::default()
        };
        let info = self.factory.info(insn);
        // Instances like XOR r, r read nothing, but others of the code do.
        let idiom = insn.op_count() > 1 && same_registers(insn);
        for i in 0..insn.op_count() {
            let (r, w) = match info.op_access(i) {
                OpAccess::None | OpAccess::NoMemAccess => (false, false),
                OpAccess::Read | OpAccess::CondRead => (true, false),
                OpAccess::Write => (false, true),
                OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite => (true, true),
            };
            row.read |= u8::from(r || idiom) << i;
            row.write |= u8::from(w) << i;
        }
        self.rows[insn.code() as usize] = row;
        row
    }

    /// Calls `with` for each general register that `insn` changes, perhaps.
    pub fn changed(&mut self, insn: &Instruction, mut with: impl FnMut(usize)) {
        let accesses = self.of(insn);
        for i in 0..insn.op_count() {
            let r = insn.op_register(i);
            if accesses.writes(i) && insn.op_kind(i) == OpKind::Register && r.is_gpr() {
                with(r.full_register().number());
            }
        }
        let mut others = match insn.is_string_instruction() {
            true => self.implicit(insn), // prefixes and address size count
            false => accesses.implicit,
        };
        while others != 0 {
            with(others.trailing_zeros() as usize);
            others &= others - 1;
        }
    }

    /// General registers that `insn` changes without naming them, a bit each.
    fn implicit(&mut self, insn: &Instruction) -> u16 {
        // No instruction changes R12 unless it names it.
        let mut unnamed = *insn;
        for i in 0..insn.op_count() {
            let r = insn.op_register(i);
            if insn.op_kind(i) == OpKind::Register && r.is_gpr() {
                unnamed.set_op_register(i, named(NEVER_IMPLIED, r.size()));
            }
        }
        let info = self.factory.info(&unnamed);
        let registers = info.used_registers().iter();
        registers
            .filter(|u| u.register().is_gpr())
            .filter(|u| !matches!(u.access(), OpAccess::Read | OpAccess::CondRead))
            .fold(0, |mask, u| {
                mask | 1 << u.register().full_register().number()
            })
            & !(1 << NEVER_IMPLIED)
    }
}

/// A register that instructions change only if they name it.
const NEVER_IMPLIED: u8 = 12;

fn same_registers(insn: &Instruction) -> bool {
    insn.op0_kind() == OpKind::Register
        && insn.op1_kind() == OpKind::Register
        && insn.op0_register() == insn.op1_register()
}

/// What the block's mode allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// 64-bit code; otherwise 32-bit code in flat segments.
    pub wide: bool,
    /// FS may be used without a limit check.
    pub fs: bool,
    /// GS may be used without a limit check.
    pub gs: bool,
    /// The code runs at CPL 0.
    pub cpl0: bool,
    /// CR4.SMAP: STAC and CLAC at CPL 0 do something.
    pub smap: bool,
    /// Kernel code may reach user pages: with `smap` that is RFLAGS.AC.
    pub reaches_user: bool,
    /// CR4.FSGSBASE.
    pub fsgsbase: bool,
    /// RDTSC does not fault.
    pub tsc: bool,
    /// x87 and MMX run without #NM/#UD.
    pub x87: bool,
    /// Legacy SSE likewise.
    pub sse: bool,
    /// VEX-encoded vectors likewise.
    pub avx: bool,
    /// EVEX-encoded vectors likewise.
    pub avx512: bool,
}

/// Instruction codes the guest may execute as copies, and RDTSC, RDTSCP and
/// SERIALIZE if they may be executed in place: a table filled from the guest's CPUID by the
/// engine.
pub struct Copyable(Vec<Offer>);

/// What the guest may do with a code.
#[derive(Clone, Copy)]
struct Offer {
    offered: bool,
    /// [`Plain::No`] if it is not offered.
    plain: Plain,
}

impl Copyable {
    /// Asks `offered` about each code once.
    pub fn new(offered: impl Fn(Code) -> bool) -> Self {
        let offer = |code| match offered(code) {
            false => Offer {
                offered: false,
                plain: Plain::No,
            },
            true => Offer {
                offered: true,
                plain: facts(code).plain,
            },
        };
        Self(Code::values().map(offer).collect())
    }
    fn has(&self, code: Code) -> bool {
        self.0[code as usize].offered
    }

    /// True if most instructions' question is answered at once: `insn` of 64-bit
    /// code is copied.
    fn is_plain(&self, insn: &Instruction, allowed: Allowed) -> bool {
        let simple = match self.0[insn.code() as usize].plain {
            Plain::No => false,
            Plain::Yes => true,
            Plain::Bytes => encodable(insn),
        };
        simple && allowed.wide && state_allows(insn, allowed)
    }
}

/// Treatment of `insn` (decoded as 64-bit code) in a block with `allowed`.
pub fn treatment(insn: &Instruction, copyable: &Copyable, allowed: Allowed) -> Treatment {
    if copyable.is_plain(insn, allowed) {
        Treatment::Copy
    } else {
        other_treatment(insn, copyable, allowed)
    }
}

/// A hint that concerns data.
fn prefetches(m: Mnemonic) -> bool {
    matches!(
        m,
        Mnemonic::Prefetcht0
            | Mnemonic::Prefetcht1
            | Mnemonic::Prefetcht2
            | Mnemonic::Prefetchnta
            | Mnemonic::Prefetch
            | Mnemonic::Prefetchw
    )
}

/// Treatment of an instruction that has to be looked at.
pub(crate) fn other_treatment(
    insn: &Instruction,
    copyable: &Copyable,
    allowed: Allowed,
) -> Treatment {
    use Treatment as T;
    if insn.is_invalid() {
        return T::Interp;
    }
    match insn.mnemonic() {
        Mnemonic::Nop
        | Mnemonic::Endbr64
        | Mnemonic::Endbr32
        | Mnemonic::Prefetchwt1
        | Mnemonic::Prefetchit0
        | Mnemonic::Prefetchit1
        | Mnemonic::Reservednop => return T::Nothing,
        m if prefetches(m) => {
            return if allowed.wide {
                T::Prefetch
            } else {
                T::Nothing
            };
        }
        // The engine may let another vCPU's thread have the host CPU.
        Mnemonic::Pause => return T::Interp,
        Mnemonic::Lea if insn.op0_register().size() >= 4 && !short_address(insn) => return T::Lea,
        _ => {}
    }
    if !allowed.wide && !segments_allow(insn, allowed) {
        return T::Interp;
    }
    if branches_nowhere(insn) {
        return T::Interp;
    }
    if let Some(t) = stack_or_branch(insn, allowed.wide) {
        return t;
    }
    if let Some(t) = system(insn, copyable, allowed) {
        return t;
    }
    if is_bit_string(insn) {
        return T::BitString;
    }
    if let Some(t) = string(insn, allowed.wide) {
        return t;
    }
    match insn.flow_control() {
        FlowControl::ConditionalBranch
            if insn.is_jcc_short_or_near() && insn.op0_kind() != OpKind::NearBranch16 =>
        {
            // One that leads to the next instruction does nothing.
            let nowhere = insn.near_branch_target() == insn.next_ip();
            return if nowhere { T::Nothing } else { T::Jcc };
        }
        FlowControl::Next => {}
        _ => return T::Interp,
    }
    if copyable.has(insn.code())
        && !system_flags(insn)
        && plain_operands(insn)
        && encodable(insn)
        && state_allows(insn, allowed)
    {
        T::Copy
    } else {
        T::Interp
    }
}

/// System instructions; those that cannot be executed in place are the
/// interpreter's. None of them may be copied.
fn system(insn: &Instruction, copyable: &Copyable, allowed: Allowed) -> Option<Treatment> {
    use Treatment as T;
    let kernel64 = allowed.cpl0 && allowed.wide;
    let (possible, treatment) = match insn.mnemonic() {
        Mnemonic::Cli => (allowed.cpl0, T::Cli),
        Mnemonic::Sti => (allowed.cpl0, T::Sti),
        Mnemonic::Cld | Mnemonic::Std => (true, T::Direction),
        Mnemonic::Clac | Mnemonic::Stac => {
            let possible = allowed.cpl0 && allowed.smap;
            let stays = (insn.mnemonic() == Mnemonic::Stac) == allowed.reaches_user;
            (possible, if stays { T::Nothing } else { T::SwitchAc })
        }
        Mnemonic::Swapgs => (kernel64, T::SwapGs),
        Mnemonic::Syscall => (allowed.wide, T::Gate),
        Mnemonic::Sysretq | Mnemonic::Iretq => (kernel64, T::Gate),
        Mnemonic::Rdfsbase | Mnemonic::Rdgsbase => (allowed.wide && allowed.fsgsbase, T::ReadBase),
        Mnemonic::Wrfsbase | Mnemonic::Wrgsbase => (allowed.wide && allowed.fsgsbase, T::WriteBase),
        Mnemonic::Rdtsc | Mnemonic::Rdtscp => {
            (allowed.tsc && copyable.has(insn.code()), T::ReadTsc)
        }
        Mnemonic::Serialize => (copyable.has(insn.code()), T::Serialize),
        Mnemonic::Mov => match insn.code() {
            Code::Mov_r64_cr => (
                kernel64 && is_plain_control(insn.op1_register()),
                T::ReadControl,
            ),
            Code::Mov_rm16_Sreg | Code::Mov_r32m16_Sreg | Code::Mov_r64m16_Sreg => {
                (true, T::ReadSelector)
            }
            _ => return None,
        },
        _ => return None,
    };
    Some(if possible { treatment } else { T::Interp })
}

/// CR0, CR2, CR3, CR4: reading them is reading memory. CR8 is the local APIC's.
fn is_plain_control(r: Register) -> bool {
    matches!(
        r,
        Register::CR0 | Register::CR2 | Register::CR3 | Register::CR4
    )
}

/// MOVS, STOS and LODS through flat segments with the mode's own address size.
fn string(insn: &Instruction, wide: bool) -> Option<Treatment> {
    let (to, from) = match wide {
        true => (OpKind::MemoryESRDI, OpKind::MemorySegRSI),
        false => (OpKind::MemoryESEDI, OpKind::MemorySegESI),
    };
    let reads = insn.op1_kind() == from && insn.segment_prefix() == Register::None;
    let writes = insn.op0_kind() == to;
    let (fits, repeats) = match insn.mnemonic() {
        Mnemonic::Stosb | Mnemonic::Stosw | Mnemonic::Stosd | Mnemonic::Stosq => (writes, true),
        Mnemonic::Movsb | Mnemonic::Movsw | Mnemonic::Movsd | Mnemonic::Movsq => {
            (reads && writes, true)
        }
        Mnemonic::Lodsb | Mnemonic::Lodsw | Mnemonic::Lodsd | Mnemonic::Lodsq => (reads, false),
        _ => (false, false),
    };
    match (insn.has_rep_prefix(), insn.has_repne_prefix()) {
        (false, false) => fits.then_some(Treatment::String),
        (true, _) if repeats => fits.then_some(Treatment::RepString),
        _ => None,
    }
}

/// A direct branch to an address that is not canonical.
fn branches_nowhere(insn: &Instruction) -> bool {
    insn.op0_kind() == OpKind::NearBranch64 && !x86::canonical48(insn.near_branch_target())
}

/// Stack instructions and near branches of the mode's own operand size.
fn stack_or_branch(insn: &Instruction, wide: bool) -> Option<Treatment> {
    use Treatment as T;
    let (code, treatment) = match insn.code() {
        c @ (Code::Push_r64 | Code::Pushq_imm8 | Code::Pushq_imm32 | Code::Push_rm64) => {
            (c, T::Push)
        }
        c @ (Code::Push_r32 | Code::Pushd_imm8 | Code::Pushd_imm32 | Code::Push_rm32) => {
            (c, T::Push)
        }
        c @ (Code::Pop_r64 | Code::Pop_r32) => (c, T::Pop),
        c @ (Code::Leaveq | Code::Leaved) => (c, T::Leave),
        c @ (Code::Call_rel32_64 | Code::Call_rel32_32) => (c, T::Call),
        c @ (Code::Call_rm64 | Code::Call_rm32) => (c, T::CallIndirect),
        c @ (Code::Retnq | Code::Retnq_imm16 | Code::Retnd | Code::Retnd_imm16) => (c, T::Ret),
        c @ (Code::Jmp_rel8_64 | Code::Jmp_rel32_64) => (c, T::Jump),
        c @ (Code::Jmp_rel8_32 | Code::Jmp_rel32_32) => (c, T::Jump),
        c @ (Code::Jmp_rm64 | Code::Jmp_rm32) => (c, T::JumpIndirect),
        c @ (Code::Pushfq | Code::Pushfd) => (c, T::PushFlags),
        _ => return None,
    };
    let narrow = matches!(
        code,
        Code::Push_r32
            | Code::Pushd_imm8
            | Code::Pushd_imm32
            | Code::Push_rm32
            | Code::Pop_r32
            | Code::Leaved
            | Code::Call_rel32_32
            | Code::Call_rm32
            | Code::Retnd
            | Code::Retnd_imm16
            | Code::Jmp_rel8_32
            | Code::Jmp_rel32_32
            | Code::Jmp_rm32
            | Code::Pushfd
    );
    (narrow != wide && !short_address(insn)).then_some(treatment)
}

/// A 16-bit effective address.
fn short_address(insn: &Instruction) -> bool {
    insn.memory_base().size() == 2
        || insn.memory_index().size() == 2
        || (insn.memory_base() == Register::None
            && insn.memory_index() == Register::None
            && insn.memory_displ_size() == 2)
}

/// In 32-bit code: no 16-bit address and no segment whose limit matters.
fn segments_allow(insn: &Instruction, allowed: Allowed) -> bool {
    if (0..insn.op_count()).all(|i| insn.op_kind(i) != OpKind::Memory) {
        return true;
    }
    !short_address(insn)
        && match insn.memory_segment() {
            Register::FS => allowed.fs,
            Register::GS => allowed.gs,
            Register::CS => false, // may be execute-only, and never writable
            _ => true,
        }
}

/// Forms that only 32-bit code has, or that cannot name a base register, as
/// their general equivalents, and without prefixes that mean nothing: before
/// the NOP that an exchange of R8 with EAX looks like, F3 makes a PAUSE.
pub fn normalise(insn: &mut Instruction) {
    if !insn.is_string_instruction() {
        insn.set_has_rep_prefix(false);
        insn.set_has_repne_prefix(false);
    }
    let code = match insn.code() {
        Code::Inc_r16 => Code::Inc_rm16,
        Code::Inc_r32 => Code::Inc_rm32,
        Code::Dec_r16 => Code::Dec_rm16,
        Code::Dec_r32 => Code::Dec_rm32,
        Code::Mov_AL_moffs8 => Code::Mov_r8_rm8,
        Code::Mov_EAX_moffs32 => Code::Mov_r32_rm32,
        Code::Mov_RAX_moffs64 => Code::Mov_r64_rm64,
        Code::Mov_moffs8_AL => Code::Mov_rm8_r8,
        Code::Mov_moffs32_EAX => Code::Mov_rm32_r32,
        Code::Mov_moffs64_RAX => Code::Mov_rm64_r64,
        _ => return,
    };
    insn.set_code(code);
}

/// True if a copy may raise a host exception. CMPXCHG16B demands alignment. Hosts may
/// refuse a lock on split lines, but of locked operands the aligned ones alone get as
/// far as their copy.
pub fn may_raise(insn: &Instruction) -> bool {
    matches!(
        insn.mnemonic(),
        Mnemonic::Div | Mnemonic::Idiv | Mnemonic::Cmpxchg16b
    ) || vector_class(insn) != Vector::None
}

/// AH to BH cannot be named along with the registers that address memory. True if
/// the copy may name the low byte instead, with which it changes places as long: that
/// is no operand as well, and nothing is raised meanwhile.
pub(crate) fn swaps_bytes(insn: &Instruction) -> bool {
    let operands = || (0..insn.op_count()).map(|i| (insn.op_kind(i), insn.op_register(i)));
    let memory = operands().any(|(kind, _)| kind == OpKind::Memory);
    memory
        && operands().any(|(kind, r)| kind == OpKind::Register && is_high_byte(r))
        && insn.mnemonic() != Mnemonic::Cmpxchg // AL
        && !may_raise(insn)
}

/// True if a copy exists: not every encoding of 32-bit code has one in 64-bit
/// code, and AH to BH cannot be named along with what the renaming moves to
/// registers that need a REX prefix.
fn encodable(insn: &Instruction) -> bool {
    let operands = || (0..insn.op_count()).map(|i| (insn.op_kind(i), insn.op_register(i)));
    let moves = |r: Register| r.is_gpr() && matches!(r.full_register().number(), 4 | 8..);
    let high = operands().any(|(_, r)| is_high_byte(r));
    let rex = operands().any(|(kind, r)| match kind {
        OpKind::Memory => true,
        _ => !is_high_byte(r) && moves(r),
    });
    facts(insn.code()).wide && (!(high && rex) || swaps_bytes(insn))
}

/// True if every operand is a register, an immediate or one ordinary memory
/// operand of known size; an opmask may hide parts of it.
fn plain_operands(insn: &Instruction) -> bool {
    if insn.is_stack_instruction() || insn.is_string_instruction() {
        return false;
    }
    let mut memory = false;
    for i in 0..insn.op_count() {
        match insn.op_kind(i) {
            OpKind::Register => {
                let r = insn.op_register(i);
                if r.is_segment_register() || r.is_cr() || r.is_dr() || r.is_tr() {
                    return false;
                }
            }
            OpKind::Memory => memory = true,
            OpKind::Immediate8
            | OpKind::Immediate8_2nd
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64 => {}
            _ => return false,
        }
    }
    !memory || memory_is_plain(insn)
}

/// A bit test of 32 or 64 bits whose index may lie beyond the operand.
fn is_bit_string(insn: &Instruction) -> bool {
    matches!(
        insn.mnemonic(),
        Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc
    ) && insn.op0_kind() == OpKind::Memory
        && insn.op1_kind() == OpKind::Register
        && insn.op1_register().size() >= 4
}

fn memory_is_plain(insn: &Instruction) -> bool {
    let bit_string = matches!(
        insn.mnemonic(),
        Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc
    ) && insn.op1_kind() == OpKind::Register;
    let size = insn.memory_size().size();
    !bit_string
        && !insn.is_vsib()
        && insn.memory_index() != Register::AL // XLAT
        && insn.memory_size() != MemorySize::Unknown
        && (1..=64).contains(&size)
        && !conditional_memory(insn.mnemonic())
}

/// True if the mode lets the instruction's register file be used.
fn state_allows(insn: &Instruction, allowed: Allowed) -> bool {
    // In 32-bit code they leave registers 8 to 15 alone; copies would not.
    let zeroes = matches!(insn.mnemonic(), Mnemonic::Vzeroupper | Mnemonic::Vzeroall);
    if zeroes && !allowed.wide {
        return false;
    }
    match vector_class(insn) {
        Vector::None => true,
        Vector::X87 => allowed.x87,
        Vector::Sse => allowed.sse,
        Vector::Avx => allowed.avx,
        Vector::Avx512 => allowed.avx512,
    }
}

/// The register file `insn` uses.
pub fn vector_class(insn: &Instruction) -> Vector {
    facts(insn.code()).vector
}
