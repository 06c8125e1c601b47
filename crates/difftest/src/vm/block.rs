//! A block: instructions in a row, some of them jumps over the next few, and
//! short loops.

use crate::case::Case;
use iced_x86::{
    Code, Decoder, DecoderOptions, Encoder, Formatter, IcedError, Instruction, MemoryOperand,
    Mnemonic, NasmFormatter, Register, RflagsBits,
};
use x86::cpu::XsaveArea;
use x86::flags;

/// Ends every block.
const INT3: u8 = 0xcc;
const NOP: u8 = 0x90;

/// One instruction of a block.
#[derive(Clone, Copy, Debug)]
pub enum Item {
    /// Anything that goes on with the next.
    Plain(Instruction),
    /// A conditional jump over the next `over` items.
    Jump {
        /// A Jcc with a 32-bit displacement.
        code: Code,
        /// Items skipped.
        over: usize,
    },
    /// `DEC counter; JNZ` back over the last `back` items.
    Loop {
        /// A 64-bit register that nothing else changes.
        counter: Register,
        /// Items repeated.
        back: usize,
    },
    /// A transfer over the next `over` items.
    Far {
        /// How.
        by: Transfer,
        /// A 64-bit register to hold the target.
        through: Register,
        /// Items skipped.
        over: usize,
    },
}

/// An unconditional transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// JMP rel32.
    Jump,
    /// CALL rel32.
    Call,
    /// JMP r64.
    JumpRegister,
    /// CALL r64.
    CallRegister,
    /// PUSH r64; RET.
    Return,
}

impl Item {
    /// The item that it may go on with, being item `i`, besides the next.
    fn target(&self, i: usize) -> Option<usize> {
        match self {
            Self::Plain(_) => None,
            Self::Jump { over, .. } | Self::Far { over, .. } => Some(i + 1 + over),
            Self::Loop { back, .. } => Some(i.saturating_sub(*back)),
        }
    }

    /// The instructions; `target` is the address of [`Item::target`].
    fn instructions(&self, target: u64) -> Result<Vec<Instruction>, IcedError> {
        let branch = |code| Instruction::with_branch(code, target);
        Ok(match *self {
            Self::Plain(insn) => vec![insn],
            Self::Jump { code, .. } => vec![branch(code)?],
            Self::Loop { counter, .. } => {
                vec![
                    Instruction::with1(Code::Dec_rm64, counter)?,
                    branch(Code::Jne_rel32_64)?,
                ]
            }
            Self::Far { by, through, .. } => {
                let address = MemoryOperand::with_base_displ(Register::RIP, target.cast_signed());
                let load = Instruction::with2(Code::Lea_r64_m, through, address)?;
                let one = |code| Instruction::with1(code, through);
                match by {
                    Transfer::Jump => vec![branch(Code::Jmp_rel32_64)?],
                    Transfer::Call => vec![branch(Code::Call_rel32_64)?],
                    Transfer::JumpRegister => vec![load, one(Code::Jmp_rm64)?],
                    Transfer::CallRegister => vec![load, one(Code::Call_rm64)?],
                    Transfer::Return => {
                        vec![load, one(Code::Push_r64)?, Instruction::with(Code::Retnq)]
                    }
                }
            }
        })
    }
}

/// Instructions and the state they start from.
#[derive(Clone, Debug)]
pub struct Block {
    /// Makes this block again.
    pub seed: u64,
    /// 64 or 32.
    pub bits: u32,
    /// The instructions.
    pub items: Vec<Item>,
    /// Where the first one is.
    pub rip: u64,
    /// General registers.
    pub gpr: [u64; 16],
    /// Flags.
    pub rflags: u64,
    /// Vector state.
    pub xsave: XsaveArea,
    /// The data window.
    pub mem: Vec<u8>,
}

impl Block {
    /// The bytes, ending in INT3, and the instructions as they decode; `None`
    /// if one cannot be encoded where it now stands.
    pub fn assemble(&self) -> Option<(Vec<u8>, Vec<Instruction>)> {
        let mut starts = Vec::new();
        let mut at = self.rip;
        for item in &self.items {
            starts.push(at);
            at += encode(item, self.bits, at, at)?.len() as u64;
        }
        starts.push(at);
        let mut bytes = Vec::new();
        for (i, item) in self.items.iter().enumerate() {
            let target = item
                .target(i)
                .map_or(at, |t| starts[t.min(self.items.len())]);
            bytes.extend(encode(item, self.bits, starts[i], target)?);
        }
        bytes.push(INT3);
        let insns = Decoder::with_ip(self.bits, &bytes, self.rip, DecoderOptions::NONE)
            .iter()
            .collect();
        Some((bytes, insns))
    }

    /// The block as a case; its `insn` is a NOP, after which no flag is
    /// undefined.
    pub fn case(&self) -> Option<(Case, Vec<Instruction>)> {
        let (bytes, insns) = self.assemble()?;
        let case = Case {
            seed: self.seed,
            bits: self.bits,
            insn: Decoder::with_ip(self.bits, &[NOP], self.rip, DecoderOptions::NONE).decode(),
            bytes,
            rip: self.rip,
            gpr: self.gpr,
            rflags: self.rflags & !flags::TF,
            xsave: self.xsave.clone(),
            mem: self.mem.clone(),
        };
        Some((case, insns))
    }

    /// The block without item `i`.
    pub fn without(&self, i: usize) -> Self {
        let mut b = self.clone();
        b.items.remove(i);
        for (j, item) in b.items.iter_mut().enumerate() {
            match item {
                Item::Jump { over, .. } | Item::Far { over, .. } if j < i && j + *over >= i => {
                    *over -= 1;
                }
                Item::Loop { back, .. } if j >= i && j + 1 - (*back).min(j + 1) <= i => {
                    *back = back.saturating_sub(1);
                }
                _ => {}
            }
        }
        b
    }

    /// Flags that the SDM leaves undefined at some point of the block; `None`
    /// if an instruction reads one of them, so that the outcome is open.
    pub fn undefined(&self) -> Option<u64> {
        let looping = self.items.iter().any(|i| matches!(i, Item::Loop { .. }));
        let first = self.undefined_after(0)?;
        if looping {
            self.undefined_after(first)
        } else {
            Some(first)
        }
    }

    /// The same if `now` may be undefined at every loop's head.
    fn undefined_after(&self, mut now: u64) -> Option<u64> {
        let mut ever = now;
        let mut skippable = 0;
        for item in &self.items {
            if let Item::Jump { over, .. } | Item::Far { over, .. } = item {
                skippable = skippable.max(over + 1);
            }
            for insn in item.instructions(0).ok()? {
                if arith(insn.rflags_read()) & now != 0 {
                    return None;
                }
                let set = undefined_flags(&insn);
                if skippable == 0 {
                    now &= !(arith(insn.rflags_modified()) & !set);
                }
                now |= set;
                ever |= set;
            }
            skippable = skippable.saturating_sub(1);
        }
        Some(ever)
    }

    /// Disassembly with addresses and bytes.
    pub fn listing(&self) -> String {
        let Some((bytes, insns)) = self.assemble() else {
            return "not encodable".into();
        };
        let mut out = String::new();
        for insn in insns {
            let at = (insn.ip() - self.rip) as usize;
            let mut text = String::new();
            NasmFormatter::new().format(&insn, &mut text);
            let hex: String = bytes[at..at + insn.len()]
                .iter()
                .map(|b| format!("{b:02x}"))
                .collect();
            out += &format!("    {:#x} {hex:24} {text}\n", insn.ip());
        }
        out
    }
}

fn encode(item: &Item, bits: u32, at: u64, target: u64) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut e = Encoder::new(bits);
    for insn in item.instructions(target).ok()? {
        e.encode(&insn, at + out.len() as u64).ok()?;
        out.append(&mut e.take_buffer());
    }
    Some(out)
}

/// For shifts and rotates, whose rules depend on the count, all that may be.
fn undefined_flags(insn: &Instruction) -> u64 {
    use Mnemonic as M;
    match insn.mnemonic() {
        M::Shl | M::Sal | M::Shr | M::Sar if insn.op0_register().size() >= 4 => {
            flags::OF | flags::AF
        }
        M::Shl | M::Sal | M::Shr | M::Sar | M::Shld | M::Shrd => flags::ARITH,
        M::Rcl | M::Rcr | M::Rol | M::Ror => flags::OF,
        _ => arith(insn.rflags_undefined()),
    }
}

fn arith(bits: u32) -> u64 {
    [
        (RflagsBits::OF, flags::OF),
        (RflagsBits::SF, flags::SF),
        (RflagsBits::ZF, flags::ZF),
        (RflagsBits::AF, flags::AF),
        (RflagsBits::CF, flags::CF),
        (RflagsBits::PF, flags::PF),
    ]
    .into_iter()
    .filter(|(bit, _)| bits & bit != 0)
    .fold(0, |all, (_, flag)| all | flag)
}
