//! Accesses that lie close together and are checked once: fields of a record,
//! registers pushed one after the other.
//!
//! The first access of such a group checks a window of memory that holds all of
//! them and keeps its host address; the others lie at known distances from it.
//! That the window's page is in the TLB holds until the block is left: whoever
//! takes a page away waits until no vCPU runs code that could have seen it. Where
//! a window lies in two pages, a translation without windows takes over.

use crate::block::{Step, has_memory};
use crate::classify::{AccessTable, Treatment, Vector, vector_class};
use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use x86::LONGEST_INSTRUCTION;

/// Most windows of a block.
pub const SLOTS: usize = 16;
/// Longest window in bytes: the longer, the more often it lies in two pages.
const LONGEST: i64 = 256;
/// The general registers and RIP.
const BASES: usize = 17;
const RIP: usize = 16;
const RSP: usize = 4;
const RBP: usize = 5;

/// How an access is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Check {
    /// On its own.
    #[default]
    Alone,
    /// With all of a window.
    First {
        /// Where the window's host address is kept.
        slot: u8,
        /// Bytes of the window below the access.
        before: u16,
        /// Bytes of the window.
        span: u16,
    },
    /// Not at all: it lies in a window.
    Covered {
        /// Where the window's host address is kept.
        slot: u8,
        /// Bytes of the window below the access.
        offset: u16,
    },
}

/// An access whose address is a register's value and a constant.
#[derive(Clone, Copy)]
struct Access {
    base: usize,
    offset: i64,
    size: i64,
    write: bool,
}

/// Accesses that one check could cover. Addresses are relative to what the base
/// register holds at the block's start.
#[derive(Clone, Copy)]
struct Group {
    first: usize,
    at: i64,
    low: i64,
    high: i64,
    covers: u32,
}

impl Group {
    /// Takes in an access at `at` if it is near enough.
    fn covers(&mut self, at: i64, size: i64) -> bool {
        let (low, high) = (self.low.min(at), self.high.max(at + size));
        let near = high - low <= LONGEST;
        if near {
            (self.low, self.high) = (low, high);
            self.covers += 1;
        }
        near
    }
}

/// What is known of a base register.
#[derive(Clone, Copy, Default)]
struct Base {
    /// By how much it changed since the groups began.
    moved: i64,
    /// Groups of reads, and of writes and reads.
    groups: [Option<usize>; 2],
}

/// Finds windows; keeps its buffers from block to block.
#[derive(Default)]
pub struct Windows {
    groups: Vec<Group>,
    /// Step, its group, its address.
    members: Vec<(usize, usize, i64)>,
}

impl Windows {
    /// Decides how the steps of 64-bit code are checked.
    pub fn find(&mut self, steps: &mut [Step], table: &mut AccessTable) {
        self.groups.clear();
        self.members.clear();
        let mut bases = [Base::default(); BASES];
        for (i, step) in steps.iter().enumerate() {
            if let Some(access) = access(step, table) {
                self.add(i, step, access, &mut bases[access.base]);
            }
            follow(step, table, &mut bases);
        }
        self.assign(steps);
    }

    /// An access joins a group or begins one. What a write found to be writable
    /// may be read; what a read found need not be writable.
    fn add(&mut self, i: usize, step: &Step, access: Access, base: &mut Base) {
        let at = base.moved.wrapping_add(access.offset);
        let [reads, writes] = base.groups;
        let candidates = [writes, if access.write { None } else { reads }];
        for id in candidates.into_iter().flatten() {
            if self.groups[id].covers(at, access.size) {
                return self.members.push((i, id, at));
            }
        }
        // The window's other translation begins here and must lie in one page.
        if step.insn.ip() & 0xfff > 0x1000 - LONGEST_INSTRUCTION as u64 {
            return;
        }
        base.groups[usize::from(access.write)] = Some(self.groups.len());
        self.groups.push(Group {
            first: i,
            at,
            low: at,
            high: at + access.size,
            covers: 0,
        });
    }

    fn assign(&self, steps: &mut [Step]) {
        let mut slots = [None; crate::block::MAX_INSTRUCTIONS];
        let used = self.groups.iter().enumerate().filter(|(_, g)| g.covers > 0);
        for (slot, (id, group)) in used.take(SLOTS).enumerate() {
            slots[id] = Some(slot as u8);
            steps[group.first].check = Check::First {
                slot: slot as u8,
                before: (group.at - group.low) as u16,
                span: (group.high - group.low) as u16,
            };
        }
        for &(step, id, at) in &self.members {
            if let Some(slot) = slots[id] {
                let offset = (at - self.groups[id].low) as u16;
                steps[step].check = Check::Covered { slot, offset };
            }
        }
    }
}

/// The step's access, if it has one that can be in a group: a plain one, as
/// long and at an address as its encoding says.
fn access(step: &Step, table: &mut AccessTable) -> Option<Access> {
    let stack = |base, offset, write| {
        Some(Access {
            base,
            offset,
            size: 8,
            write,
        })
    };
    let insn = &step.insn;
    match step.treatment {
        Treatment::Push | Treatment::CallIndirect if insn.op0_kind() == OpKind::Memory => None,
        Treatment::Push | Treatment::Call | Treatment::CallIndirect => stack(RSP, -8, true),
        Treatment::Pop | Treatment::Ret => stack(RSP, 0, false),
        Treatment::Leave => stack(RBP, 0, false),
        Treatment::Copy if has_memory(insn) => operand(insn, table),
        _ => None,
    }
}

/// The memory operand of an instruction that is copied. Atomic accesses check
/// their alignment, those under an opmask or of the x87 may not happen.
fn operand(insn: &Instruction, table: &mut AccessTable) -> Option<Access> {
    let base = match insn.memory_base() {
        Register::RIP => RIP,
        r if r.is_gpr64() => r.number(),
        _ => return None,
    };
    let plain = insn.memory_index() == Register::None
        && !matches!(insn.memory_segment(), Register::FS | Register::GS)
        && !insn.has_lock_prefix()
        && insn.mnemonic() != Mnemonic::Xchg
        && insn.op_mask() == Register::None
        && vector_class(insn) != Vector::X87;
    let size = insn.memory_size().size() as i64;
    let offset = match base {
        RIP => insn.ip_rel_memory_address().cast_signed(),
        _ => i64::from(insn.memory_displacement64() as i32),
    };
    let accesses = table.of(insn);
    let mut operands = 0..insn.op_count();
    let write = operands.any(|i| insn.op_kind(i) == OpKind::Memory && accesses.writes(i));
    (plain && size > 0).then_some(Access {
        base,
        offset,
        size,
        write,
    })
}

/// What the step does to base registers.
fn follow(step: &Step, table: &mut AccessTable, bases: &mut [Base; BASES]) {
    let insn = &step.insn;
    match step.treatment {
        Treatment::Push | Treatment::PushFlags => bases[RSP].moved -= 8,
        Treatment::Pop => {
            bases[RSP].moved += 8;
            bases[insn.op0_register().number()] = Base::default();
        }
        Treatment::Leave => {
            bases[RSP] = Base::default();
            bases[RBP] = Base::default();
        }
        _ => match change(insn) {
            Some((register, by)) => bases[register].moved = bases[register].moved.wrapping_add(by),
            None => table.changed(insn, |n| bases[n] = Base::default()),
        },
    }
}

/// The register to which the instruction adds a constant.
fn change(insn: &Instruction) -> Option<(usize, i64)> {
    let r = insn.op0_register();
    if insn.op0_kind() != OpKind::Register || !r.is_gpr64() {
        return None;
    }
    let immediate = || {
        let constant = !matches!(insn.op1_kind(), OpKind::Register | OpKind::Memory);
        constant.then(|| insn.immediate(1).cast_signed())
    };
    let by = match insn.mnemonic() {
        Mnemonic::Add => immediate()?,
        Mnemonic::Sub => -immediate()?,
        Mnemonic::Inc => 1,
        Mnemonic::Dec => -1,
        Mnemonic::Lea if insn.memory_base() == r && insn.memory_index() == Register::None => {
            i64::from(insn.memory_displacement64() as i32)
        }
        _ => return None,
    };
    Some((r.number(), by))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{Block, Source};
    use crate::classify::{Allowed, Copyable};

    /// The checks of 64-bit code at an address of its page.
    fn checks(start: usize, code: &[u8]) -> Vec<Check> {
        let mut page = vec![0x90; 4096];
        page[start..start + code.len()].copy_from_slice(code);
        let source = Source {
            page: &page,
            base: 0,
            copyable: &Copyable::new(|_| true),
            allowed: Allowed {
                wide: true,
                cpl0: true,
                ..Allowed::default()
            },
        };
        let mut block = Block::decode(&source, start as u64);
        Windows::default().find(&mut block.steps, &mut AccessTable::default());
        let end = (start + code.len()) as u64;
        let own = block.steps.iter().filter(|s| s.insn.ip() < end);
        own.map(|s| s.check).collect()
    }

    fn first(slot: u8, before: u16, span: u16) -> Check {
        Check::First { slot, before, span }
    }

    fn covered(slot: u8, offset: u16) -> Check {
        Check::Covered { slot, offset }
    }

    #[test]
    fn pushes_and_what_they_pushed() {
        // push rax; push rcx; mov rdx, [rsp+8]; pop rcx
        let code = [0x50, 0x51, 0x48, 0x8b, 0x54, 0x24, 8, 0x59];
        let want = [first(0, 8, 16), covered(0, 0), covered(0, 8), covered(0, 0)];
        assert_eq!(checks(0, &code), want);
        // Where no translation of its own could begin, nothing is covered.
        assert_eq!(checks(4080, &code)[..2], [first(0, 8, 16), covered(0, 0)]);
        assert_eq!(checks(4082, &code)[..2], [Check::Alone, Check::Alone]);
    }

    #[test]
    fn a_read_covers_no_write() {
        // mov eax, [rbx]; mov [rbx+4], eax; mov eax, [rbx+8]; mov [rbx+12], ax
        let code = [0x8b, 3, 0x89, 0x43, 4, 0x8b, 0x43, 8, 0x66, 0x89, 0x43, 12];
        let want = [Check::Alone, first(0, 0, 10), covered(0, 4), covered(0, 8)];
        assert_eq!(checks(0, &code), want);
    }

    #[test]
    fn registers_are_followed_while_their_change_is_known() {
        // mov eax, [rbx]; add rbx, 16; mov eax, [rbx-8]; mov ebx, ebx; mov eax, [rbx]
        let code = [
            0x8b, 3, 0x48, 0x83, 0xc3, 16, 0x8b, 0x43, 0xf8, 0x89, 0xdb, 0x8b, 3,
        ];
        let want = [first(0, 0, 12), Check::Alone, covered(0, 8)];
        assert_eq!(checks(0, &code)[..3], want);
        assert_eq!(checks(0, &code)[3..], [Check::Alone, Check::Alone]);
        // mov eax, [rdx]; mul ecx; mov eax, [rdx+4]
        let code = [0x8b, 2, 0xf7, 0xe1, 0x8b, 0x42, 4];
        assert_eq!(checks(0, &code), [Check::Alone; 3]);
    }

    #[test]
    fn windows_have_an_end() {
        // mov eax, [rbx]; mov eax, [rbx+252]; mov eax, [rbx+256]
        let code = [0x8b, 3, 0x8b, 0x83, 252, 0, 0, 0, 0x8b, 0x83, 0, 1, 0, 0];
        let want = [first(0, 0, 256), covered(0, 252), Check::Alone];
        assert_eq!(checks(0, &code), want);
    }

    #[test]
    fn what_may_not_happen_or_must_be_aligned_is_checked_alone() {
        // mov eax, [rbx]; lock inc dword [rbx]; mov eax, gs:[rbx+4]; fstp qword [rbx]
        let code = [0x8b, 3, 0xf0, 0xff, 3, 0x65, 0x8b, 0x43, 4, 0xdd, 0x1b];
        assert_eq!(checks(0, &code), [Check::Alone; 4]);
    }
}
