//! Accesses that lie close together and are checked once: fields of a record,
//! registers pushed one after the other, elements of an array.
//!
//! Two addresses are known to be close if they are sums of the same unknown values
//! and of constants: each register is followed as one such value, which it got
//! where nothing else is known of it, and what was added to that since.
//!
//! The first access of such a group checks a window of memory that holds all of
//! them and keeps its host address; the others lie at known distances from it.
//! That the window's page is in the TLB holds until the block is left: whoever
//! takes a page away waits until no vCPU runs code that could have seen it. Where
//! a window lies in two pages, a translation without windows takes over.

use crate::block::{Step, has_memory};
use crate::classify::{AccessTable, Treatment, Vector, vector_class};
use crate::translate::keeps_window;
use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use x86::LONGEST_INSTRUCTION;

/// Most windows of a block: their addresses lie between the stack pointer and the TLB
/// arrays, which are the cheaper to reach the nearer they are.
pub const SLOTS: usize = 8;
/// Longest window in bytes: the longer, the more often it lies in two pages.
const LONGEST: i64 = 256;
/// The general registers and RIP.
const REGISTERS: usize = 17;
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
        /// Its host address is asked for once more when T1 is not it any more.
        again: bool,
    },
    /// Not at all: it lies in a window.
    Covered {
        /// Where the window's host address is kept.
        slot: u8,
        /// Bytes of the window below the access.
        offset: u16,
    },
}

/// What a register holds: an unknown value and a constant.
#[derive(Clone, Copy, Debug)]
struct Value {
    /// Number of the unknown.
    origin: u16,
    constant: i64,
}

impl Value {
    fn plus(self, by: i64) -> Self {
        let constant = self.constant.wrapping_add(by);
        Self { constant, ..self }
    }
}

/// The unknown part of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Origin {
    base: Option<u16>,
    /// The index and its scale.
    index: Option<(u16, u8)>,
}

/// An access to an address that is an origin's and a constant.
#[derive(Clone, Copy)]
struct Access {
    origin: Origin,
    at: i64,
    size: i64,
    write: bool,
}

/// Accesses that one check could cover. Addresses are relative to their origin.
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

/// What the registers hold.
struct Values {
    registers: [Value; REGISTERS],
    /// Number of the next unknown.
    next: u16,
}

impl Values {
    fn new() -> Self {
        let value = |n| Value {
            origin: n as u16,
            constant: 0,
        };
        Self {
            registers: std::array::from_fn(value),
            next: REGISTERS as u16,
        }
    }

    fn add(&mut self, register: usize, by: i64) {
        self.registers[register] = self.registers[register].plus(by);
    }

    /// Nothing is known of the register any more.
    fn forget(&mut self, register: usize) {
        self.registers[register] = Value {
            origin: self.next,
            constant: 0,
        };
        self.next += 1;
    }
}

/// The groups of an origin.
struct Groups {
    origin: Origin,
    /// Of reads, and of writes and reads.
    last: [Option<usize>; 2],
}

/// Finds windows; keeps its buffers from block to block.
#[derive(Default)]
pub struct Windows {
    groups: Vec<Group>,
    origins: Vec<Groups>,
    /// Step, its group, its address.
    members: Vec<(usize, usize, i64)>,
}

impl Windows {
    /// Decides how the steps of 64-bit code are checked.
    pub fn find(&mut self, steps: &mut [Step], table: &mut AccessTable) {
        self.groups.clear();
        self.origins.clear();
        self.members.clear();
        let mut values = Values::new();
        for (i, step) in steps.iter().enumerate() {
            if let Some(access) = access(step, table, &values.registers) {
                self.add(i, step, access);
            }
            follow(step, table, &mut values);
        }
        self.assign(steps);
    }

    /// The last groups of an origin.
    fn last(&mut self, origin: Origin) -> &mut [Option<usize>; 2] {
        let known = self.origins.iter().rposition(|o| o.origin == origin);
        let i = known.unwrap_or(self.origins.len());
        if known.is_none() {
            let last = [None; 2];
            self.origins.push(Groups { origin, last });
        }
        &mut self.origins[i].last
    }

    /// An access joins a group or begins one. What a write found to be writable
    /// may be read; what a read found need not be writable.
    fn add(&mut self, i: usize, step: &Step, access: Access) {
        let at = access.at;
        let [reads, writes] = *self.last(access.origin);
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
        let id = self.groups.len();
        self.last(access.origin)[usize::from(access.write)] = Some(id);
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
                again: false,
            };
        }
        for &(step, id, at) in &self.members {
            if let Some(slot) = slots[id] {
                let offset = (at - self.groups[id].low) as u16;
                steps[step].check = Check::Covered { slot, offset };
            }
        }
        find_asked_again(steps);
    }
}

/// Finds the windows whose host address is asked for again.
fn find_asked_again(steps: &mut [Step]) {
    let mut held = None;
    let mut begins = [0; SLOTS];
    for i in 0..steps.len() {
        match steps[i].check {
            Check::First { slot, .. } => {
                begins[usize::from(slot)] = i;
                held = Some(slot);
            }
            Check::Covered { slot, .. } if held != Some(slot) => {
                if let Check::First { again, .. } = &mut steps[begins[usize::from(slot)]].check {
                    *again = true;
                }
                held = Some(slot);
            }
            _ => {}
        }
        if !keeps_window(&steps[i]) {
            held = None;
        }
    }
}

/// The step's access, if it has one that can be in a group: a plain one, as
/// long and at an address as its encoding says.
fn access(step: &Step, table: &mut AccessTable, registers: &[Value; REGISTERS]) -> Option<Access> {
    let stack = |base: usize, offset, write| {
        let value = registers[base].plus(offset);
        Some(Access {
            origin: Origin {
                base: Some(value.origin),
                index: None,
            },
            at: value.constant,
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
        Treatment::Copy if has_memory(insn) => operand(insn, table, registers),
        _ => None,
    }
}

/// The memory operand of an instruction that is copied. Atomic accesses check
/// their alignment, those under an opmask or of the x87 may not happen.
fn operand(
    insn: &Instruction,
    table: &mut AccessTable,
    registers: &[Value; REGISTERS],
) -> Option<Access> {
    let plain = !matches!(insn.memory_segment(), Register::FS | Register::GS)
        && !insn.has_lock_prefix()
        && insn.mnemonic() != Mnemonic::Xchg
        && insn.op_mask() == Register::None
        && vector_class(insn) != Vector::X87;
    let size = insn.memory_size().size() as i64;
    if !plain || size == 0 {
        return None;
    }
    let (origin, at) = address(insn, registers)?;
    let accesses = table.of(insn);
    let mut operands = 0..insn.op_count();
    let write = operands.any(|i| insn.op_kind(i) == OpKind::Memory && accesses.writes(i));
    Some(Access {
        origin,
        at,
        size,
        write,
    })
}

/// What the memory operand's offset is made of.
fn address(insn: &Instruction, registers: &[Value; REGISTERS]) -> Option<(Origin, i64)> {
    let value = |r: Register| match r {
        Register::None => Some(None),
        r if r.is_gpr64() => Some(Some(registers[r.number()])),
        _ => None,
    };
    if insn.memory_base() == Register::RIP {
        let origin = Origin {
            base: Some(RIP as u16),
            index: None,
        };
        return Some((origin, insn.ip_rel_memory_address().cast_signed()));
    }
    let (base, index) = (value(insn.memory_base())?, value(insn.memory_index())?);
    if base.is_none() && index.is_none() {
        return None;
    }
    let scale = insn.memory_index_scale() as u8;
    let constant = |v: Option<Value>| v.map_or(0, |v| v.constant);
    let scaled = constant(index).wrapping_mul(scale.into());
    let displacement = i64::from(insn.memory_displacement64() as i32);
    let origin = Origin {
        base: base.map(|v| v.origin),
        index: index.map(|v| (v.origin, scale)),
    };
    let at = constant(base)
        .wrapping_add(scaled)
        .wrapping_add(displacement);
    Some((origin, at))
}

/// What the step does to registers.
fn follow(step: &Step, table: &mut AccessTable, values: &mut Values) {
    let insn = &step.insn;
    match step.treatment {
        Treatment::Push | Treatment::PushFlags => values.add(RSP, -8),
        Treatment::Pop => {
            values.add(RSP, 8);
            values.forget(insn.op0_register().number());
        }
        Treatment::Leave => {
            values.registers[RSP] = values.registers[RBP].plus(8);
            values.forget(RBP);
        }
        _ => match result(insn, &values.registers) {
            Some((register, value)) => values.registers[register] = value,
            None => table.changed(insn, |n| values.forget(n)),
        },
    }
}

/// The register that the instruction gives a value of which something is known.
fn result(insn: &Instruction, registers: &[Value; REGISTERS]) -> Option<(usize, Value)> {
    let r = insn.op0_register();
    if insn.op0_kind() != OpKind::Register || !r.is_gpr64() {
        return None;
    }
    let old = registers[r.number()];
    let immediate = || {
        let constant = !matches!(insn.op1_kind(), OpKind::Register | OpKind::Memory);
        constant.then(|| insn.immediate(1).cast_signed())
    };
    let value = match insn.mnemonic() {
        Mnemonic::Add => old.plus(immediate()?),
        Mnemonic::Sub => old.plus(immediate()?.wrapping_neg()),
        Mnemonic::Inc => old.plus(1),
        Mnemonic::Dec => old.plus(-1),
        Mnemonic::Mov if insn.op1_kind() == OpKind::Register && insn.op1_register().is_gpr64() => {
            registers[insn.op1_register().number()]
        }
        Mnemonic::Lea => match address(insn, registers)? {
            (
                Origin {
                    base: Some(origin),
                    index: None,
                },
                constant,
            ) => Value { origin, constant },
            _ => return None,
        },
        _ => return None,
    };
    Some((r.number(), value))
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
            most: crate::block::MAX_INSTRUCTIONS,
            alone: true,
            stops: &[],
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
        let again = false;
        Check::First {
            slot,
            before,
            span,
            again,
        }
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
        // mov eax, [rdx]; mov rcx, rdx; mov eax, [rcx+8]; lea rdx, [rcx+4]; mov eax, [rdx]
        let code = [
            0x8b, 2, 0x48, 0x89, 0xd1, 0x8b, 0x41, 8, 0x48, 0x8d, 0x51, 4, 0x8b, 2,
        ];
        let found = checks(0, &code);
        assert_eq!((found[0], found[2]), (first(0, 0, 12), covered(0, 8)));
        assert_eq!(found[4], covered(0, 4));
        // mov eax, [rdx]; mul ecx; mov eax, [rdx+4]
        let code = [0x8b, 2, 0xf7, 0xe1, 0x8b, 0x42, 4];
        assert_eq!(checks(0, &code), [Check::Alone; 3]);
    }

    #[test]
    fn elements_of_an_array() {
        // mov eax, [rbx+rcx*4]; mov edx, [rbx+rcx*4+4]; inc rcx; mov eax, [rbx+rcx*4-4]
        let code = [
            0x8b, 4, 0x8b, 0x8b, 0x54, 0x8b, 4, 0x48, 0xff, 0xc1, 0x8b, 0x44, 0x8b, 0xfc,
        ];
        let found = checks(0, &code);
        assert_eq!(found[..2], [first(0, 0, 8), covered(0, 4)]);
        assert_eq!(found[3], covered(0, 0));
        // mov eax, [rbx+rcx*4]; mov eax, [rbx+rcx*2]; mov eax, [rbx]; mov eax, [rcx*4]
        let code = [
            0x8b, 4, 0x8b, 0x8b, 4, 0x4b, 0x8b, 3, 0x8b, 4, 0x8d, 0, 0, 0, 0,
        ];
        assert_eq!(checks(0, &code), [Check::Alone; 4]);
        // mov eax, [rbx+rcx]; mov cl, 1; mov eax, [rbx+rcx]
        let code = [0x8b, 4, 0x0b, 0xb1, 1, 0x8b, 4, 0x0b];
        assert_eq!(checks(0, &code), [Check::Alone; 3]);
    }

    #[test]
    fn addresses_of_windows_are_kept_where_others_come_between() {
        // mov eax, [rbx]; mov ecx, [rsi]; mov eax, [rbx+4]
        let found = checks(0, &[0x8b, 3, 0x8b, 0x0e, 0x8b, 0x43, 4]);
        let again = |check: &Check| matches!(check, Check::First { again: true, .. });
        assert!(again(&found[0]), "{found:?}");
        // mov eax, [rbx]; mov ecx, esi; mov eax, [rbx+4]; mov ecx, [rsi]
        let found = checks(0, &[0x8b, 3, 0x89, 0xf1, 0x8b, 0x43, 4, 0x8b, 0x0e]);
        assert_eq!(found[..3], [first(0, 0, 8), Check::Alone, covered(0, 4)]);
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
