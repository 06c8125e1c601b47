//! Makes cases: an encoding of a given [`Code`] and a state in which it does
//! something interesting.

use iced_x86::{
    Code, Decoder, DecoderOptions, Encoder, EncodingKind, Instruction, InstructionInfoFactory,
    Mnemonic, OpAccess, OpKind, Register, RoundingControl,
};
use x86::flags;
use x86::gpr::{RAX, RBP, RBX, RCX, RDI, RDX, RSI, RSP};

use crate::case::{Case, GS_BASE};
use crate::layout::{CODE, DATA, DATA_LEN, PAGE, harmless};
use crate::operand;
use crate::rng::Rng;
use crate::state;

/// Encodings tried before a code is given up for this seed.
const TRIES: u32 = 40;

/// Generates cases; keeps the decoder's tables and a block of random memory.
pub struct Generator {
    info: InstructionInfoFactory,
    memory: Vec<u8>,
    epoch: u64,
}

impl Default for Generator {
    fn default() -> Self {
        Self::new()
    }
}

impl Generator {
    /// A generator; cases depend on their seed only.
    pub fn new() -> Self {
        Self {
            info: InstructionInfoFactory::new(),
            memory: vec![0; DATA_LEN],
            epoch: u64::MAX,
        }
    }

    /// A case for `code`, or `None` if no encoding was found (not encodable in
    /// 32- or 64-bit mode, or all attempts strayed from the window).
    pub fn case(&mut self, code: Code, seed: u64) -> Option<Case> {
        let op = code.op_code();
        if !op.is_instruction() {
            return None;
        }
        let mut rng = Rng::new(seed ^ (code as u64) << 48);
        let epoch = seed >> 8;
        if self.epoch != epoch {
            self.epoch = epoch;
            Rng::new(epoch ^ 0x6d65_6d6f).fill(&mut self.memory);
        }
        (0..TRIES).find_map(|_| {
            let bits = match (op.mode64(), op.mode32()) {
                (true, true) if rng.chance(75) => 64,
                (true, false) => 64,
                (_, true) => 32,
                _ => return None,
            };
            self.attempt(code, seed, bits, &mut rng)
        })
    }

    fn attempt(&mut self, code: Code, seed: u64, bits: u32, rng: &mut Rng) -> Option<Case> {
        let rip = CODE + 64 + rng.below(PAGE + 2000);
        let mut insn = build(code, bits, rip, rng)?;
        let mut gpr: [u64; 16] = std::array::from_fn(|_| rng.value());
        let target = target(rng);
        place(&mut insn, &mut gpr, target, bits, rng);
        if bits == 32 {
            gpr = std::array::from_fn(|i| if i < 8 { gpr[i] & 0xffff_ffff } else { 0 });
        }
        let mut encoder = Encoder::new(bits);
        encoder.encode(&insn, rip).ok()?;
        let bytes = encoder.take_buffer();
        let insn = Decoder::with_ip(bits, &bytes, rip, DecoderOptions::NONE).decode();
        if insn.code() != code || insn.len() != bytes.len() {
            return None;
        }
        let mut xsave = state::random(rng);
        if insn.is_vsib() {
            state::small_indices(&mut xsave, insn.memory_index(), rng);
        }
        if !self.stays_inside(&insn, &gpr, &xsave) {
            return None;
        }
        let mut mem = self.memory.clone();
        seed_operand(&mut mem, target, &gpr, rng);
        Some(Case {
            seed,
            bits,
            insn,
            bytes,
            rip,
            gpr,
            rflags: random_flags(&insn, rng),
            xsave,
            mem,
        })
    }

    /// True if no access of the instruction can reach memory of the process.
    fn stays_inside(
        &mut self,
        insn: &Instruction,
        gpr: &[u64; 16],
        xsave: &x86::cpu::XsaveArea,
    ) -> bool {
        let slack = reach(insn, gpr);
        let read = |reg: Register, element: usize, size: usize| {
            Some(read_register(reg, gpr, xsave, element, size))
        };
        let locked = insn.has_lock_prefix() || insn.mnemonic() == Mnemonic::Xchg;
        let used = self.info.info(insn).used_memory().to_vec();
        used.iter().all(|m| {
            if m.access() == OpAccess::NoMemAccess {
                return true;
            }
            let elements = if m.vsib_size() == 0 { 1 } else { 16 };
            (0..elements).all(|e| {
                let size = match m.memory_size().size() as u64 {
                    0 => PAGE,
                    n => n,
                };
                m.virtual_address(e, read).is_none_or(|la| {
                    // Hosts throttle locks across cache lines to a few a second.
                    let aligned = la & (size - 1) == 0;
                    let split = locked && !aligned && (slack > 0 || (la & 63) + size > 64);
                    !split
                        && harmless(la.wrapping_sub(slack), size + 2 * slack)
                        && harmless(la, size)
                })
            })
        })
    }
}

fn read_register(
    reg: Register,
    gpr: &[u64; 16],
    xsave: &x86::cpu::XsaveArea,
    element: usize,
    size: usize,
) -> u64 {
    if reg == Register::GS {
        return GS_BASE;
    }
    if reg.is_gpr() {
        let v = gpr[reg.full_register().number() & 15];
        return match reg.size() {
            8 => v,
            4 => v & 0xffff_ffff,
            2 => v & 0xffff,
            _ => v & 0xff,
        };
    }
    if reg.is_vector_register() {
        return state::element(xsave, reg, element, size);
    }
    0
}

/// How far beyond its named operand an instruction reaches: bit strings, `rep`
/// and ENTER's frame pointers.
fn reach(insn: &Instruction, gpr: &[u64; 16]) -> u64 {
    match insn.mnemonic() {
        Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc
            if insn.op1_kind() == OpKind::Register =>
        {
            let r = insn.op1_register();
            let v = gpr[r.full_register().number() & 15];
            let v = match r.size() {
                8 => v.cast_signed(),
                4 => i64::from(v as i32),
                _ => i64::from(v as i16),
            };
            (v >> 3).unsigned_abs() + 8
        }
        Mnemonic::Enter => 0x1_0000 + 32 * 8,
        _ if insn.has_rep_prefix() || insn.has_repne_prefix() => 64 * 8,
        _ => 0,
    }
}

pub(crate) fn build(code: Code, bits: u32, rip: u64, rng: &mut Rng) -> Option<Instruction> {
    let op = code.op_code();
    let mut insn = Instruction::default();
    insn.set_code(code);
    insn.set_ip(rip);
    if code == Code::Xlat_m8 {
        insn.set_op_kind(0, OpKind::Memory);
        let base = match bits {
            64 => Register::RBX,
            _ => Register::EBX,
        };
        insn.set_memory_base(base);
        insn.set_memory_index(Register::AL);
    } else {
        for (i, &kind) in op.op_kinds().iter().enumerate() {
            if !operand::set(&mut insn, i as u32, kind, bits, rng) {
                return None;
            }
        }
    }
    decorate(&mut insn, rng);
    Some(insn)
}

/// Prefixes and EVEX decorations.
fn decorate(insn: &mut Instruction, rng: &mut Rng) {
    let op = insn.code().op_code();
    let memory = (0..insn.op_count()).any(|i| insn.op_kind(i) == OpKind::Memory);
    if op.can_use_op_mask_register() && (op.require_op_mask_register() || rng.chance(60)) {
        insn.set_op_mask(Register::K1 + rng.below(7) as u32);
        if op.can_use_zeroing_masking() && !(memory && insn.op0_kind() == OpKind::Memory) {
            insn.set_zeroing_masking(rng.chance(40));
        }
    }
    if memory {
        insn.set_is_broadcast(op.can_broadcast() && rng.chance(40));
        if rng.chance(10) {
            insn.set_segment_prefix(Register::GS);
        }
    } else if op.can_use_rounding_control() && rng.chance(40) {
        insn.set_rounding_control(rng.pick(&[
            RoundingControl::RoundToNearest,
            RoundingControl::RoundDown,
            RoundingControl::RoundUp,
            RoundingControl::RoundTowardZero,
        ]));
    } else if op.can_suppress_all_exceptions() && rng.chance(40) {
        insn.set_suppress_all_exceptions(true);
    }
    insn.set_has_lock_prefix(op.can_use_lock_prefix() && memory && rng.chance(30));
    if op.can_use_rep_prefix() && insn.is_string_instruction() {
        match rng.below(3) {
            0 => insn.set_has_rep_prefix(true),
            1 if op.can_use_repne_prefix() => insn.set_has_repne_prefix(true),
            _ => {}
        }
    }
}

/// A linear address: mostly inside a writable page, often next to a boundary
/// where permissions change.
pub(crate) fn target(rng: &mut Rng) -> u64 {
    let edge = |page: u64, rng: &mut Rng| DATA + page * PAGE + rng.below(72) - 68;
    match rng.below(20) {
        0..=7 => DATA + (PAGE + rng.below(PAGE - 1024)) / 64 * 64,
        8..=13 => DATA + 256 + rng.below(2 * PAGE - 1024),
        14 | 15 => edge(1, rng), // between two writable pages
        16 => edge(2, rng),      // writable, then read-only
        17 => edge(3, rng),      // read-only, then nothing
        18 => edge(4, rng),      // nothing, then writable
        _ => edge(6, rng),       // the end of the window
    }
}

/// Chooses displacement and register values so that the operand is at
/// `target`.
fn place(insn: &mut Instruction, gpr: &mut [u64; 16], target: u64, bits: u32, rng: &mut Rng) {
    implicit(insn, gpr, target, rng);
    if !(0..insn.op_count()).any(|i| insn.op_kind(i) == OpKind::Memory) {
        return;
    }
    if insn.mnemonic() == Mnemonic::Xlatb {
        gpr[RBX] = target;
        return;
    }
    let mut at = target;
    if insn.segment_prefix() == Register::GS {
        at = at.wrapping_sub(GS_BASE);
    }
    let base = insn.memory_base();
    let index = insn.memory_index();
    if bits == 64 && base.size() == 8 && base != Register::RIP && rng.chance(3) {
        at = rng.word(); // most likely not canonical
    }
    let scale = u64::from(insn.memory_index_scale());
    let number = |r: Register| r.full_register().number() & 15;
    if base == Register::None || base == Register::RIP {
        let step = if index.is_gpr() {
            let v = rng.below(256);
            gpr[number(index)] = v;
            v * scale
        } else {
            0
        };
        insn.set_memory_displacement64(at.wrapping_sub(step));
        return;
    }
    let mut value = at.wrapping_sub(insn.memory_displacement64());
    if index.is_gpr() {
        value = value.wrapping_sub(gpr[number(index)].wrapping_mul(scale));
    }
    gpr[number(base)] = match base.size() {
        8 => value,
        _ => value & 0xffff_ffff | gpr[number(base)] & !0xffff_ffff,
    };
}

/// Registers that an instruction uses without naming them.
fn implicit(insn: &Instruction, gpr: &mut [u64; 16], at: u64, rng: &mut Rng) {
    if insn.is_stack_instruction() {
        gpr[RSP] = at & !7 | if rng.chance(20) { rng.below(8) } else { 0 };
        gpr[RBP] = target(rng) & !7;
    }
    if insn.is_string_instruction() || insn.mnemonic() == Mnemonic::Maskmovq {
        gpr[RSI] = at;
        gpr[RDI] = target(rng);
        gpr[RCX] = rng.below(20);
    }
    match insn.mnemonic() {
        Mnemonic::Maskmovq | Mnemonic::Maskmovdqu | Mnemonic::Vmaskmovdqu => gpr[RDI] = at,
        Mnemonic::Div | Mnemonic::Idiv if rng.chance(80) => {
            gpr[RDX] = match rng.below(3) {
                0 => 0,
                1 => (gpr[RAX].cast_signed() >> 63).cast_unsigned(),
                _ => rng.below(0x100),
            };
        }
        Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc
            if insn.op1_kind() == OpKind::Register =>
        {
            let r = insn.op1_register().full_register().number() & 15;
            gpr[r] = rng.below(0x4000).wrapping_sub(0x2000);
        }
        Mnemonic::Cmpxchg8b | Mnemonic::Cmpxchg16b | Mnemonic::Cmpxchg if rng.chance(30) => {
            gpr[RBX] = rng.word();
            gpr[RCX] = rng.word();
        }
        Mnemonic::Loop | Mnemonic::Loope | Mnemonic::Loopne => gpr[RCX] = rng.below(3),
        Mnemonic::Jmp | Mnemonic::Call if insn.op0_kind() == OpKind::Register => {
            let r = insn.op0_register().full_register().number() & 15;
            if rng.chance(70) {
                gpr[r] = CODE + rng.below(PAGE);
            }
        }
        _ => {}
    }
}

/// Puts something at the operand that comparisons and branches care about.
fn seed_operand(mem: &mut [u8], at: u64, gpr: &[u64; 16], rng: &mut Rng) {
    let value = match rng.below(10) {
        0..=4 => u128::from(rng.value()),
        5 | 6 => u128::from(gpr[RAX]) | u128::from(gpr[RDX]) << 64,
        7 => u128::from(gpr[RAX] & 0xffff_ffff) | u128::from(gpr[RDX] & 0xffff_ffff) << 32,
        8 => u128::from(CODE + rng.below(PAGE)),
        _ => return,
    };
    let offset = at.wrapping_sub(DATA) as usize;
    if let Some(slot) = offset
        .checked_add(16)
        .and_then(|end| mem.get_mut(offset..end))
    {
        slot.copy_from_slice(&value.to_le_bytes());
    }
}

fn random_flags(insn: &Instruction, rng: &mut Rng) -> u64 {
    let mut f = rng.word() & flags::ARITH | flags::FIXED1 | flags::IF | flags::TF;
    if rng.chance(30) {
        f |= flags::DF;
    }
    // No manual says what alignment checking does to the parts of ENTER, MASKMOV
    // and masked vector operands.
    let plain = insn.encoding() == EncodingKind::Legacy
        && !matches!(
            insn.mnemonic(),
            Mnemonic::Enter | Mnemonic::Maskmovq | Mnemonic::Maskmovdqu
        );
    if plain && rng.chance(3) {
        f |= flags::AC;
    }
    f
}
