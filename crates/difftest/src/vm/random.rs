//! Random blocks. Some registers are pointers into the data window or small
//! indices and keep their values, so that every memory operand of a block is
//! known when it is made.

use super::block::{Block, Item, Transfer};
use crate::amd;
use crate::case::GS_BASE;
use crate::class::{Class, class};
use crate::generate;
use crate::layout::{CODE, DATA, DATA_LEN, PAGE};
use crate::rng::Rng;
use crate::state;
use iced_x86::{
    Code, CpuidFeature, Decoder, DecoderOptions, Encoder, FlowControl, Instruction,
    InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
};
use isa::table::{self, Int};
use jit::classify::{Vector, vector_class};
use x86::flags;

/// Stack instructions that move RSP by 8 only.
const STACK: &[Code] = &[
    Code::Push_r64,
    Code::Pop_r64,
    Code::Pushq_imm8,
    Code::Pushq_imm32,
    Code::Push_rm64,
    Code::Pop_rm64,
    Code::Pushfq,
];

const JCC: &[Code] = &[
    Code::Jo_rel32_64,
    Code::Jno_rel32_64,
    Code::Jb_rel32_64,
    Code::Jae_rel32_64,
    Code::Je_rel32_64,
    Code::Jne_rel32_64,
    Code::Jbe_rel32_64,
    Code::Ja_rel32_64,
    Code::Js_rel32_64,
    Code::Jns_rel32_64,
    Code::Jp_rel32_64,
    Code::Jnp_rel32_64,
    Code::Jl_rel32_64,
    Code::Jge_rel32_64,
    Code::Jle_rel32_64,
    Code::Jg_rel32_64,
];

/// How often each register file's instructions are drawn, in percent.
const SHARES: [(Vector, u64); 5] = [
    (Vector::None, 50),
    (Vector::Sse, 12),
    (Vector::Avx, 13),
    (Vector::Avx512, 20),
    (Vector::X87, 5),
];

/// Encodings tried for one item.
const TRIES: u32 = 60;

/// Makes blocks of instructions that the host has.
pub struct Blocks {
    pools: Vec<Vec<Code>>,
    strings: Vec<Code>,
    info: InstructionInfoFactory,
}

const TRANSFERS: &[Transfer] = &[
    Transfer::Jump,
    Transfer::Call,
    Transfer::JumpRegister,
    Transfer::CallRegister,
    Transfer::Return,
];

/// What registers hold all the time.
struct Roles {
    pointers: [(usize, u64); 3],
    index: (usize, u64),
    counter: Option<(usize, u64)>,
    /// RSI and RDI are pointers, RCX is the index: string instructions may
    /// change them.
    strings: bool,
}

impl Roles {
    fn random(rng: &mut Rng) -> Self {
        let strings = rng.chance(15);
        let mut free: Vec<usize> = (0..16)
            .filter(|&r| r != 4 && !(strings && matches!(r, 1 | 6 | 7)))
            .collect();
        let mut take = |rng: &mut Rng, fixed: usize| match strings {
            true => fixed,
            false => free.remove(rng.below(free.len() as u64) as usize),
        };
        let pointer = |rng: &mut Rng| DATA + 512 + rng.below(2 * PAGE - 1024) / 8 * 8;
        let pointers = [
            (4, pointer(rng)),
            (take(rng, 6), pointer(rng)),
            (take(rng, 7), pointer(rng)),
        ];
        let index = if strings {
            rng.below(20)
        } else {
            rng.below(512).wrapping_sub(256)
        };
        let index = (take(rng, 1), index);
        let counter = (!strings && rng.chance(25)).then(|| (take(rng, 0), 1 + rng.below(4)));
        Self {
            pointers,
            index,
            counter,
            strings,
        }
    }
    fn roles(&self) -> impl Iterator<Item = (usize, u64)> {
        self.pointers
            .into_iter()
            .chain([self.index])
            .chain(self.counter)
    }
    fn holds(&self, r: usize) -> bool {
        self.roles().any(|(n, _)| n == r)
    }
}

impl Blocks {
    /// Blocks of the codes that `offered` says the host has.
    pub fn new(offered: impl Fn(Code) -> bool) -> Self {
        let usable: Vec<Code> = Code::values().filter(|&c| suits(c) && offered(c)).collect();
        let pool = |v: Vector| {
            let of = |c: &Code| {
                let mut insn = Instruction::default();
                insn.set_code(*c);
                vector_class(&insn) == v
            };
            usable.iter().copied().filter(of).collect()
        };
        Self {
            strings: Code::values()
                .filter(|&c| table::class(c) == table::Class::String)
                .collect(),
            pools: SHARES.iter().map(|(v, _)| pool(*v)).collect(),
            info: InstructionInfoFactory::new(),
        }
    }

    /// The block of a seed.
    pub fn make(&mut self, seed: u64) -> Block {
        let mut rng = Rng::new(seed ^ 0x626c_6f63_6b73);
        let roles = Roles::random(&mut rng);
        let mut gpr: [u64; 16] = std::array::from_fn(|_| rng.value());
        for (r, v) in roles.roles() {
            gpr[r] = v;
        }
        let direction = if roles.strings { flags::DF } else { 0 };
        let length = 1 + rng.below(20);
        let rip = CODE + 64 + rng.below(PAGE + 2000);
        let mut mem = vec![0; DATA_LEN];
        rng.fill(&mut mem);
        let mut block = Block {
            seed,
            bits: 64,
            items: Vec::new(),
            rip,
            gpr,
            rflags: rng.word() & (flags::ARITH | direction) | flags::FIXED1 | flags::IF,
            xsave: state::random(&mut rng),
            mem,
        };
        for _ in 0..4 * length {
            if block.items.len() as u64 == length {
                break;
            }
            let over = rng.below(6) as usize;
            if rng.chance(10) {
                block.items.push(Item::Jump {
                    code: rng.pick(JCC),
                    over,
                });
            } else if rng.chance(4) {
                block.items.extend(transfer(&roles, over, &mut rng));
            } else if let Some(insn) = self.instruction(&roles, rip, &mut rng) {
                block.items.push(Item::Plain(insn));
            }
            if block.undefined().is_none() {
                block.items.pop();
            }
        }
        if let Some((counter, _)) = roles.counter {
            let back = rng.below(block.items.len() as u64 + 1) as usize;
            block.items.push(Item::Loop {
                counter: Register::RAX + counter as u32,
                back,
            });
            if block.undefined().is_none() {
                block.items.pop();
            }
        }
        block
    }

    fn code(&self, rng: &mut Rng) -> Code {
        let mut n = rng.below(100);
        for (pool, (_, share)) in self.pools.iter().zip(SHARES) {
            if n < share && !pool.is_empty() {
                return rng.pick(pool);
            }
            n = n.saturating_sub(share);
        }
        rng.pick(&self.pools[0])
    }

    fn instruction(&mut self, roles: &Roles, rip: u64, rng: &mut Rng) -> Option<Instruction> {
        let code = if rng.chance(4) {
            rng.pick(STACK)
        } else if roles.strings && rng.chance(30) {
            rng.pick(&self.strings)
        } else {
            self.code(rng)
        };
        (0..TRIES).find_map(|_| {
            let mut insn = generate::build(code, 64, rip, rng)?;
            if (0..insn.op_count()).any(|i| insn.op_kind(i) == OpKind::Memory) {
                place(&mut insn, roles, rng);
            }
            let mut e = Encoder::new(64);
            e.encode(&insn, rip).ok()?;
            let bytes = e.take_buffer();
            let insn = Decoder::with_ip(64, &bytes, rip, DecoderOptions::NONE).decode();
            (insn.code() == code && self.keeps_roles(&insn, roles)).then_some(insn)
        })
    }

    /// True if no register with a role changes and all memory is in the
    /// window.
    fn keeps_roles(&mut self, insn: &Instruction, roles: &Roles) -> bool {
        let bit_string = matches!(
            insn.mnemonic(),
            Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc
        );
        if bit_string && insn.op0_kind() == OpKind::Memory && insn.op1_kind() == OpKind::Register {
            let r = insn.op1_register();
            if r.full_register().number() != roles.index.0 || r.size() == 1 {
                return false;
            }
        }
        if insn.is_string_instruction() {
            return roles.strings;
        }
        if roles.strings && locks(insn) {
            return false; // its pointer may have moved off the line
        }
        let stack = insn.is_stack_instruction();
        let info = self.info.info(insn);
        info.used_registers().iter().all(|u| {
            let r = u.register();
            let writes = !matches!(u.access(), OpAccess::Read | OpAccess::CondRead);
            let n = r.full_register().number();
            !(writes && r.is_gpr() && roles.holds(n)) || (stack && n == 4 && implicit(insn))
        })
    }
}

/// An unconditional transfer through a register without a role.
fn transfer(roles: &Roles, over: usize, rng: &mut Rng) -> Option<Item> {
    let r = rng.below(16) as usize;
    let through = Register::RAX + r as u32;
    (!roles.holds(r)).then(|| Item::Far {
        by: rng.pick(TRANSFERS),
        through,
        over,
    })
}

/// RSP changes by the instruction's nature, not because it is its operand.
fn implicit(insn: &Instruction) -> bool {
    insn.op_count() == 0
        || insn.op0_register() != Register::RSP
        || !matches!(insn.mnemonic(), Mnemonic::Pop)
}

/// What a host may have and no guest is offered.
const NOT_OFFERED: [CpuidFeature; 2] = [CpuidFeature::SSE4A, CpuidFeature::AVX512_VP2INTERSECT];

fn suits(code: Code) -> bool {
    let op = code.op_code();
    let kind = match table::class(code) {
        table::Class::Int(Int::Stack | Int::Xlat | Int::Random | Int::Bound) => false,
        table::Class::Int(_) | table::Class::Native(_) => true,
        _ => false,
    };
    let mut insn = Instruction::default();
    insn.set_code(code);
    kind && op.mode64()
        && class(code) == Class::Compared
        && !amd::other(code)
        && !NOT_OFFERED
            .iter()
            .any(|f| code.cpuid_features().contains(f))
        && insn.flow_control() == FlowControl::Next
        && !vector_memory(code)
        && !matches!(
            code.mnemonic(),
            Mnemonic::Maskmovq | Mnemonic::Maskmovdqu | Mnemonic::Vmaskmovdqu
        )
}

fn vector_memory(code: Code) -> bool {
    use iced_x86::OpCodeOperandKind as K;
    code.op_code().op_kinds().iter().any(|k| {
        matches!(
            k,
            K::mem_vsib32x
                | K::mem_vsib64x
                | K::mem_vsib32y
                | K::mem_vsib64y
                | K::mem_vsib32z
                | K::mem_vsib64z
        )
    })
}

fn locks(insn: &Instruction) -> bool {
    insn.has_lock_prefix() || insn.mnemonic() == Mnemonic::Xchg
}

/// Mostly aligned inside a page, sometimes across two, seldom a fault.
fn target(rng: &mut Rng) -> u64 {
    match rng.below(20) {
        0..=10 => DATA + (256 + rng.below(2 * PAGE - 1024)) / 64 * 64,
        11..=16 => DATA + 256 + rng.below(2 * PAGE - 1024),
        17 | 18 => DATA + PAGE - 68 + rng.below(72),
        _ => generate::target(rng),
    }
}

fn place(insn: &mut Instruction, roles: &Roles, rng: &mut Rng) {
    let mut at = target(rng);
    if locks(insn) {
        at &= !63; // hosts slow down processes that lock two lines
    }
    if insn.segment_prefix() == Register::GS {
        at -= GS_BASE;
    }
    let wide = rng.chance(92);
    let named = |r: usize| if wide { Register::RAX } else { Register::EAX } + r as u32;
    let (pointer, value) = rng.pick(&roles.pointers);
    let (index, times) = roles.index;
    insn.set_memory_base(Register::None);
    insn.set_memory_index(Register::None);
    insn.set_memory_index_scale(1);
    insn.set_memory_displ_size(if wide { 8 } else { 4 });
    match rng.below(20) {
        0..=2 => {
            insn.set_memory_base(if wide { Register::RIP } else { Register::EIP });
        }
        3 => {} // absolute
        4 => {
            let scale = rng.pick(&[1, 2, 4, 8]);
            insn.set_memory_index(named(index));
            insn.set_memory_index_scale(scale);
            at = at.wrapping_sub(times.wrapping_mul(u64::from(scale)));
        }
        5..=10 => {
            let scale = rng.pick(&[1, 2, 4, 8]);
            insn.set_memory_base(named(pointer));
            insn.set_memory_index(named(index));
            insn.set_memory_index_scale(scale);
            at = at
                .wrapping_sub(value)
                .wrapping_sub(times.wrapping_mul(u64::from(scale)));
        }
        _ => {
            insn.set_memory_base(named(pointer));
            at = at.wrapping_sub(value);
        }
    }
    let short = i8::try_from(at.cast_signed()).is_ok();
    if insn.memory_base().is_gpr() && short {
        insn.set_memory_displ_size(u32::from(at != 0));
    }
    insn.set_memory_displacement64(if wide { at } else { at & 0xffff_ffff });
}
