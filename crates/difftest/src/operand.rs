//! Random operands for an instruction's operand kinds (iced's tables, which
//! follow the SDM's operand notation).

use iced_x86::{EncodingKind, Instruction, OpCodeOperandKind as K, OpKind, Register};

use crate::rng::Rng;

/// What an operand of some kind can be.
enum Choice {
    Reg(Register),
    Mem { vector_index: Option<Register> },
    Imm(OpKind),
    Branch(OpKind),
    Offset,
    Fixed(OpKind),
}

/// Sets operand `i`; false if the kind is not generated (far pointers, MPX,
/// tiles).
pub fn set(insn: &mut Instruction, i: u32, kind: K, bits: u32, rng: &mut Rng) -> bool {
    let evex = insn.encoding() == EncodingKind::EVEX;
    let Some(choice) = choose(kind, bits, evex, rng) else {
        return false;
    };
    match choice {
        Choice::Reg(r) => {
            insn.set_op_kind(i, OpKind::Register);
            insn.set_op_register(i, r);
        }
        Choice::Mem { vector_index } => {
            insn.set_op_kind(i, OpKind::Memory);
            address(insn, vector_index, bits, rng);
        }
        Choice::Imm(op) => immediate(insn, i, op, rng),
        Choice::Branch(op) => {
            insn.set_op_kind(i, op);
            let target = insn.ip().wrapping_add(rng.below(200)).wrapping_sub(100);
            insn.set_near_branch64(match op {
                OpKind::NearBranch16 => target & 0xffff,
                _ => target,
            });
        }
        Choice::Offset => {
            insn.set_op_kind(i, OpKind::Memory);
            insn.set_memory_displ_size(bits / 8);
        }
        Choice::Fixed(op) => insn.set_op_kind(i, op),
    }
    true
}

fn choose(kind: K, bits: u32, evex: bool, rng: &mut Rng) -> Option<Choice> {
    let mem = Choice::Mem { vector_index: None };
    let either = rng.chance(50);
    Some(match kind {
        K::mem | K::sibmem => mem,
        K::mem_offs => Choice::Offset,
        K::mem_vsib32x | K::mem_vsib64x => vsib(Register::XMM0, bits, evex, rng),
        K::mem_vsib32y | K::mem_vsib64y => vsib(Register::YMM0, bits, evex, rng),
        K::mem_vsib32z | K::mem_vsib64z => vsib(Register::ZMM0, bits, evex, rng),
        K::r8_or_mem
        | K::r16_or_mem
        | K::r32_or_mem
        | K::r64_or_mem
        | K::mm_or_mem
        | K::xmm_or_mem
        | K::ymm_or_mem
        | K::zmm_or_mem
        | K::k_or_mem
            if either =>
        {
            mem
        }
        K::imm4_m2z | K::imm8 | K::imm8_const_1 => Choice::Imm(OpKind::Immediate8),
        K::imm8sex16 => Choice::Imm(OpKind::Immediate8to16),
        K::imm8sex32 => Choice::Imm(OpKind::Immediate8to32),
        K::imm8sex64 => Choice::Imm(OpKind::Immediate8to64),
        K::imm16 => Choice::Imm(OpKind::Immediate16),
        K::imm32 => Choice::Imm(OpKind::Immediate32),
        K::imm32sex64 => Choice::Imm(OpKind::Immediate32to64),
        K::imm64 => Choice::Imm(OpKind::Immediate64),
        K::br16_1 | K::br16_2 => Choice::Branch(OpKind::NearBranch16),
        K::br32_1 | K::br32_4 => Choice::Branch(OpKind::NearBranch32),
        K::br64_1 | K::br64_4 => Choice::Branch(OpKind::NearBranch64),
        K::seg_rSI => Choice::Fixed(rng.pick(match bits {
            64 => &[OpKind::MemorySegRSI, OpKind::MemorySegESI],
            _ => &[OpKind::MemorySegESI, OpKind::MemorySegESI],
        })),
        K::es_rDI => Choice::Fixed(rng.pick(match bits {
            64 => &[OpKind::MemoryESRDI, OpKind::MemoryESEDI],
            _ => &[OpKind::MemoryESEDI, OpKind::MemoryESEDI],
        })),
        K::seg_rDI => Choice::Fixed(rng.pick(match bits {
            64 => &[OpKind::MemorySegRDI, OpKind::MemorySegEDI],
            _ => &[OpKind::MemorySegEDI, OpKind::MemorySegEDI],
        })),
        K::seg_rBX_al => return None, // XLAT is built by the caller
        _ => Choice::Reg(register(kind, bits, evex, rng)?),
    })
}

fn vsib(first: Register, bits: u32, evex: bool, rng: &mut Rng) -> Choice {
    let n = match (bits, evex) {
        (64, true) => 32,
        (64, false) => 16,
        _ => 8,
    };
    Choice::Mem {
        vector_index: Some(first + rng.below(n) as u32),
    }
}

fn register(kind: K, bits: u32, evex: bool, rng: &mut Rng) -> Option<Register> {
    let wide = bits == 64;
    let gprs = if wide { 16 } else { 8 };
    let n = rng.below(gprs) as u32;
    let vectors = if wide && evex && rng.chance(50) {
        32
    } else {
        gprs
    };
    let v = rng.below(vectors) as u32;
    Some(match kind {
        K::r8_or_mem | K::r8_reg | K::r8_opcode => {
            // AL..BH without REX, SPL..R15L with it.
            Register::AL + rng.below(if wide { 20 } else { 8 }) as u32
        }
        K::r16_or_mem | K::r16_reg | K::r16_reg_mem | K::r16_rm | K::r16_opcode => Register::AX + n,
        K::r32_or_mem | K::r32_reg | K::r32_reg_mem | K::r32_rm | K::r32_opcode | K::r32_vvvv => {
            Register::EAX + n
        }
        K::r64_or_mem | K::r64_reg | K::r64_reg_mem | K::r64_rm | K::r64_opcode | K::r64_vvvv => {
            Register::RAX + n
        }
        K::k_or_mem | K::k_reg | K::k_rm | K::k_vvvv => Register::K0 + rng.below(8) as u32,
        K::kp1_reg => Register::K0 + rng.below(8) as u32,
        K::mm_or_mem | K::mm_reg | K::mm_rm => Register::MM0 + rng.below(8) as u32,
        K::xmm_or_mem | K::xmm_reg | K::xmm_rm | K::xmm_vvvv => Register::XMM0 + v,
        K::ymm_or_mem | K::ymm_reg | K::ymm_rm | K::ymm_vvvv => Register::YMM0 + v,
        // VEX only; iced's encoder asserts that its operands before the
        // immediate register were encodable.
        K::xmm_is4 | K::xmm_is5 => Register::XMM0 + n,
        K::ymm_is4 | K::ymm_is5 => Register::YMM0 + n,
        K::zmm_or_mem | K::zmm_reg | K::zmm_rm | K::zmm_vvvv => Register::ZMM0 + v,
        K::xmmp3_vvvv => Register::XMM0 + (v & !3),
        K::zmmp3_vvvv => Register::ZMM0 + (v & !3),
        K::sti_opcode => Register::ST0 + rng.below(8) as u32,
        _ => return fixed_register(kind),
    })
}

fn fixed_register(kind: K) -> Option<Register> {
    Some(match kind {
        K::es => Register::ES,
        K::cs => Register::CS,
        K::ss => Register::SS,
        K::ds => Register::DS,
        K::fs => Register::FS,
        K::gs => Register::GS,
        K::al => Register::AL,
        K::cl => Register::CL,
        K::ax => Register::AX,
        K::dx => Register::DX,
        K::eax => Register::EAX,
        K::rax => Register::RAX,
        K::st0 => Register::ST0,
        // Control and debug registers: any, the instruction is privileged.
        K::cr_reg => Register::CR0,
        K::dr_reg => Register::DR7,
        K::seg_reg => Register::DS,
        _ => return None,
    })
}

fn immediate(insn: &mut Instruction, i: u32, op: OpKind, rng: &mut Rng) {
    let second = (0..i).any(|j| insn.op_kind(j) == OpKind::Immediate8)
        || (0..i).any(|j| insn.op_kind(j) == OpKind::Immediate16);
    let v = rng.value();
    match op {
        OpKind::Immediate8 if second => {
            insn.set_op_kind(i, OpKind::Immediate8_2nd);
            insn.set_immediate8_2nd(v as u8);
        }
        OpKind::Immediate8 => {
            insn.set_op_kind(i, op);
            insn.set_immediate8(v as u8);
        }
        OpKind::Immediate16 => {
            insn.set_op_kind(i, op);
            insn.set_immediate16(v as u16);
        }
        OpKind::Immediate32 => {
            insn.set_op_kind(i, op);
            insn.set_immediate32(v as u32);
        }
        OpKind::Immediate64 => {
            insn.set_op_kind(i, op);
            insn.set_immediate64(v);
        }
        OpKind::Immediate8to16 => {
            insn.set_op_kind(i, op);
            insn.set_immediate8to16(i16::from(v as i8));
        }
        OpKind::Immediate8to32 => {
            insn.set_op_kind(i, op);
            insn.set_immediate8to32(i32::from(v as i8));
        }
        OpKind::Immediate8to64 => {
            insn.set_op_kind(i, op);
            insn.set_immediate8to64(i64::from(v as i8));
        }
        _ => {
            insn.set_op_kind(i, OpKind::Immediate32to64);
            insn.set_immediate32to64(i64::from(v as i32));
        }
    }
}

/// A random addressing form (SDM vol 1, 3.7.5). The displacement is chosen
/// here, base and index values later, so that the sum hits the window.
fn address(insn: &mut Instruction, vector_index: Option<Register>, bits: u32, rng: &mut Rng) {
    let narrow = rng.chance(8);
    let (first, count) = match (bits, narrow) {
        (64, false) => (Register::RAX, 16),
        (64, true) => (Register::EAX, 16),
        _ => (Register::EAX, 8),
    };
    insn.set_memory_index_scale(rng.pick(&[1, 2, 4, 8]));
    let any = |rng: &mut Rng| first + rng.below(count) as u32;
    let base = any(rng);
    let mut index = any(rng);
    if index.number() == 4 {
        index = first;
    }
    if let Some(v) = vector_index {
        insn.set_memory_base(base);
        insn.set_memory_index(v);
        displacement(insn, first.size() as u32, rng);
        return;
    }
    match rng.below(8) {
        0 if bits == 64 && !narrow => {
            insn.set_memory_base(Register::RIP);
            insn.set_memory_displ_size(8);
        }
        0 | 1 => insn.set_memory_displ_size(first.size() as u32), // absolute
        2 => {
            insn.set_memory_index(index);
            insn.set_memory_displ_size(first.size() as u32);
        }
        3 | 4 if index != base => {
            insn.set_memory_base(base);
            insn.set_memory_index(index);
            displacement(insn, first.size() as u32, rng);
        }
        _ => {
            insn.set_memory_base(base);
            displacement(insn, first.size() as u32, rng);
        }
    }
}

fn displacement(insn: &mut Instruction, wide: u32, rng: &mut Rng) {
    let v = match rng.below(3) {
        0 => {
            insn.set_memory_displ_size(0);
            0
        }
        1 => {
            insn.set_memory_displ_size(1);
            i64::from(rng.word() as i8)
        }
        _ => {
            insn.set_memory_displ_size(wide);
            i64::from(rng.word() as i32 >> rng.below(31))
        }
    };
    insn.set_memory_displacement64(if wide == 8 {
        v.cast_unsigned()
    } else {
        v.cast_unsigned() & 0xffff_ffff
    });
}
