//! Turns a guest instruction of any bitness into a 64-bit host instruction
//! whose memory operand is one register and whose general registers are free
//! to use on the host.

use iced_x86::{
    Code, CpuidFeature, Encoder, Instruction, InstructionInfoFactory, Mnemonic, OpKind, Register,
};

/// A guest register and the host register that stands in for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Guest register number.
    pub guest: u8,
    /// Host register number.
    pub host: u8,
}

/// What to execute on the host.
#[derive(Clone, Debug)]
pub struct Rewritten {
    /// Host machine code of the instruction alone.
    pub code: Vec<u8>,
    /// The general registers it reads or writes.
    pub gprs: Vec<Mapped>,
    /// Number of the host register that must hold the operand's address.
    pub mem: Option<u8>,
    /// Needs the guest's x87/MMX/vector state.
    pub fpu: bool,
}

const RSP: u8 = 4;
const RDI: u8 = 7;
const R15: u8 = 15;
/// Stand-ins and address registers, most preferred first. RSP and R15 belong
/// to the host. The last five need no REX prefix, which matters when the
/// instruction names AH, CH, DH or BH (SDM vol 2, 2.2.1.2).
const FREE: [u8; 11] = [14, 13, 12, 11, 10, 9, 8, 5, 6, 7, 3];

/// Rewrites `insn`; `None` if it is not an instruction this executor takes
/// (branches, stack and string instructions, gathers, privileged ones, and
/// what cannot be encoded in 64-bit mode).
pub fn rewrite(insn: &Instruction, factory: &mut InstructionInfoFactory) -> Option<Rewritten> {
    if !acceptable(insn) {
        return None;
    }
    let mut insn = *insn;
    let used = used_gprs(&insn, factory);
    let high_byte = (0..insn.op_count()).any(|i| {
        insn.op_kind(i) == OpKind::Register
            && matches!(
                insn.op_register(i),
                Register::AH | Register::CH | Register::DH | Register::BH
            )
    });
    let mut taken = used;
    let mut pick = || {
        let free = FREE
            .into_iter()
            .find(|&r| taken & (1 << r) == 0 && (!high_byte || r < 8))?;
        taken |= 1 << free;
        Some(free)
    };
    let mut map: [u8; 16] = std::array::from_fn(|i| i as u8);
    for host_owned in [RSP, R15] {
        if used & (1 << host_owned) != 0 {
            map[host_owned as usize] = pick()?;
        }
    }
    let mem = match memory_operand(&insn) {
        None => None,
        Some(OpKind::Memory) => {
            let reg = pick()?;
            replace_memory(&mut insn, reg);
            Some(reg)
        }
        Some(_) => Some(RDI),
    };
    replace_registers(&mut insn, &map);
    Some(Rewritten {
        code: encode(&insn)?,
        gprs: (0..16u8)
            .filter(|&g| used & (1 << g) != 0)
            .map(|guest| Mapped {
                guest,
                host: map[guest as usize],
            })
            .collect(),
        mem,
        fpu: needs_fpu(insn.code()),
    })
}

/// The key under which equal host code is shared: the instruction without its
/// address, address-size and segment details.
pub fn normalise(insn: &Instruction) -> Instruction {
    let mut n = *insn;
    n.set_ip(0);
    n.set_len(0);
    n.set_code_size(iced_x86::CodeSize::Code64);
    n.set_segment_prefix(Register::None);
    for i in 0..n.op_count() {
        match n.op_kind(i) {
            OpKind::Memory if !is_vsib(&n) => replace_memory(&mut n, 0),
            OpKind::MemorySegDI | OpKind::MemorySegEDI => n.set_op_kind(i, OpKind::MemorySegRDI),
            _ => {}
        }
    }
    n
}

fn is_vsib(insn: &Instruction) -> bool {
    insn.is_vsib() || insn.memory_index().is_vector_register()
}

/// Refuses what would act on host state outside the frame. The caller's table
/// decides what is executed natively; this is the backstop.
fn acceptable(insn: &Instruction) -> bool {
    use iced_x86::FlowControl;
    let stacky = insn.is_stack_instruction() || insn.is_string_instruction();
    let two_memories = (0..insn.op_count())
        .filter(|&i| is_memory(insn.op_kind(i)))
        .count()
        > 1;
    insn.flow_control() == FlowControl::Next
        && !stacky
        && !two_memories
        && !insn.is_privileged()
        && !is_vsib(insn)
        && !matches!(
            insn.code(),
            Code::INVALID | Code::DeclareByte | Code::DeclareWord
        )
        && !touches_host_state(insn.mnemonic())
        && (0..insn.op_count()).all(|i| {
            let r = insn.op_register(i);
            insn.op_kind(i) != OpKind::Register
                || !(r.is_segment_register() || r.is_cr() || r.is_dr() || r.is_tr() || r.is_tmm())
        })
}

/// Unprivileged instructions that change or reveal state which belongs to the
/// host process, or whose image is not the guest's.
fn touches_host_state(m: Mnemonic) -> bool {
    HOST_STATE.contains(&m)
}

#[rustfmt::skip]
const HOST_STATE: &[Mnemonic] = {
    use Mnemonic::*;
    &[
        Syscall, Sysenter, Wrpkru, Rdpkru, Wrfsbase, Wrgsbase, Rdfsbase, Rdgsbase, Swapgs, Xrstor,
        Xrstor64, Xrstors, Xsave, Xsave64, Xsavec, Xsavec64, Xsaveopt, Xsaveopt64, Fxsave64,
        Fxrstor64, Xgetbv, Cpuid, Rdtsc, Rdtscp, Rdpid, Rdpmc, Popf, Popfd, Popfq, Pushf, Pushfd,
        Pushfq, Sti, Cli, Std, Cld, Cmc, Enter, Leave, Xlatb, Sgdt, Sidt, Sldt, Str, Smsw, Lar,
        Lsl, Verr, Verw, Xbegin, Xend, Xabort, Xtest, Umonitor, Umwait, Tpause, Senduipi, Uiret,
        Clui, Stui, Testui, Incsspd, Incsspq, Rdsspd, Rdsspq, Saveprevssp, Rstorssp, Movdir64b,
        Enqcmd, Lds, Les, Lfs, Lgs, Lss, Bndldx, Bndstx, Bndmk, Bndcl, Bndcu, Bndcn, Bndmov,
        Ptwrite, Ldtilecfg, Sttilecfg, Tilerelease, Clzero, Monitorx, Mwaitx, Rdpru, Pconfig,
        Fxsave, Fxrstor, Lea, Bt, Bts, Btr, Btc,
    ]
};

fn is_memory(kind: OpKind) -> bool {
    !matches!(
        kind,
        OpKind::Register
            | OpKind::NearBranch16
            | OpKind::NearBranch32
            | OpKind::NearBranch64
            | OpKind::FarBranch16
            | OpKind::FarBranch32
            | OpKind::Immediate8
            | OpKind::Immediate8_2nd
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64
    )
}

/// The kind of the one memory operand: an address, or the implicit DS:rDI of
/// MASKMOVQ and MASKMOVDQU.
fn memory_operand(insn: &Instruction) -> Option<OpKind> {
    (0..insn.op_count())
        .map(|i| insn.op_kind(i))
        .find(|&k| is_memory(k))
}

fn replace_memory(insn: &mut Instruction, base: u8) {
    insn.set_memory_base(gpr64(base));
    insn.set_memory_index(Register::None);
    insn.set_memory_index_scale(1);
    insn.set_memory_displacement64(0);
    insn.set_memory_displ_size(0);
    insn.set_segment_prefix(Register::None);
}

fn replace_registers(insn: &mut Instruction, map: &[u8; 16]) {
    for i in 0..insn.op_count() {
        let kind = insn.op_kind(i);
        if matches!(kind, OpKind::MemorySegDI | OpKind::MemorySegEDI) {
            insn.set_op_kind(i, OpKind::MemorySegRDI);
        }
        let r = insn.op_register(i);
        if kind == OpKind::Register && r.is_gpr() {
            let from = r.full_register().number();
            let to = map[from & 15];
            if to as usize != from {
                insn.set_op_register(i, resize(gpr64(to), r.size()));
            }
        }
    }
}

fn gpr64(n: u8) -> Register {
    Register::RAX + u32::from(n & 15)
}

fn resize(r: Register, size: usize) -> Register {
    let n = r.number() as u32;
    match size {
        8 => r,
        4 => Register::EAX + n,
        2 => Register::AX + n,
        // SPL follows BH in iced's numbering, R8L follows DIL.
        _ if n < 4 => Register::AL + n,
        _ => Register::SPL + (n - 4),
    }
}

/// General registers that are operands, explicit or implicit, other than as
/// part of an address.
fn used_gprs(insn: &Instruction, factory: &mut InstructionInfoFactory) -> u16 {
    let mut plain = *insn;
    for i in 0..plain.op_count() {
        if plain.op_kind(i) == OpKind::Memory {
            // An absolute address uses no register.
            replace_memory(&mut plain, 0);
            plain.set_memory_base(Register::None);
            plain.set_memory_displ_size(8);
        }
    }
    let mut mask = 0;
    for used in factory.info(&plain).used_registers() {
        let r = used.register();
        if r.is_gpr() {
            mask |= 1 << (r.full_register().number() & 15);
        }
    }
    mask
}

fn encode(insn: &Instruction) -> Option<Vec<u8>> {
    let mut encoder = Encoder::new(64);
    encoder.encode(insn, 0).ok()?;
    Some(encoder.take_buffer())
}

/// True unless the instruction is known to work on general registers only.
fn needs_fpu(code: Code) -> bool {
    use CpuidFeature as F;
    if code == Code::Wait {
        return true;
    }
    if code.mnemonic() == Mnemonic::Crc32 {
        return false;
    }
    !code.cpuid_features().iter().all(|f| {
        matches!(
            f,
            F::INTEL8086
                | F::INTEL8086_ONLY
                | F::INTEL186
                | F::INTEL286
                | F::INTEL386
                | F::INTEL486
                | F::X64
                | F::CMOV
                | F::BMI1
                | F::BMI2
                | F::ADX
                | F::LZCNT
                | F::POPCNT
                | F::MOVBE
                | F::RDRAND
                | F::RDSEED
                | F::TBM
                | F::CX8
                | F::CMPXCHG16B
        )
    })
}
