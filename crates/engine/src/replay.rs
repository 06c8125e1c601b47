//! The log that lets an instruction be executed again after an exit.
//!
//! An instruction that touches a device leaves to the VMM in its middle. When
//! the VMM comes back the instruction is executed from its start and every
//! access it already made is answered from this log, in order. The log is
//! emptied when the instruction (or one `rep` iteration) completes.
//!
//! What was made is final: the device has seen it. Other vCPUs may change the
//! instruction's bytes, its source in RAM or the page tables meanwhile, so the
//! instruction is kept as it was fetched, and an access is recognised by its
//! place in the order and its kind, whatever it would be now.

use hv::VcpuExit;
use iced_x86::Instruction;
use isa::PlainPort;

/// One access to the outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Port read.
    In { port: u16, size: u8 },
    /// Port write.
    Out { port: u16, size: u8, value: u32 },
    /// Device memory read.
    Read { gpa: u64, size: u8 },
    /// Device memory write.
    Write { gpa: u64, size: u8, value: u64 },
}

impl Op {
    /// The exit that asks the VMM to do it.
    pub fn exit(self) -> VcpuExit {
        match self {
            Self::In { port, size } => VcpuExit::IoIn { port, size },
            Self::Out { port, size, value } => VcpuExit::IoOut { port, size, value },
            Self::Read { gpa, size } => VcpuExit::MmioRead { gpa, size },
            Self::Write { gpa, size, value } => VcpuExit::MmioWrite { gpa, size, value },
        }
    }
    /// The same kind of access and of the same size.
    fn like(self, other: Self) -> bool {
        match (self, other) {
            (Self::In { size, .. }, Self::In { size: s, .. })
            | (Self::Out { size, .. }, Self::Out { size: s, .. })
            | (Self::Read { size, .. }, Self::Read { size: s, .. })
            | (Self::Write { size, .. }, Self::Write { size: s, .. }) => size == s,
            _ => false,
        }
    }
    fn mask(self, value: u64) -> u64 {
        let size = match self {
            Self::In { size, .. } | Self::Read { size, .. } => size,
            _ => return value,
        };
        if size >= 8 {
            value
        } else {
            value & ((1 << (8 * size)) - 1)
        }
    }
}

/// The log of the instruction in flight.
#[derive(Debug, Default)]
pub struct Replay {
    done: Vec<(Op, u64)>,
    cursor: usize,
    pending: Option<Op>,
    answer: u64,
    /// Linear address of the instruction that waits for an answer.
    place: u64,
    /// The instruction in flight, if one was fetched.
    pub insn: Option<Instruction>,
    /// The instruction in flight, if its access is all that it does.
    plain: Option<PlainPort>,
}

impl Replay {
    /// An instruction starts (again).
    pub fn begin(&mut self) {
        self.cursor = 0;
    }
    /// The instruction or iteration completed.
    pub fn commit(&mut self) {
        self.done.clear();
        self.cursor = 0;
        self.insn = None;
        self.plain = None;
    }
    /// The logged result of the next access, if it was made before.
    pub fn next(&mut self, op: Op) -> Option<u64> {
        let (logged, value) = *self.done.get(self.cursor)?;
        if !logged.like(op) {
            // Another instruction by now, as it were: a new log from here.
            self.done.truncate(self.cursor);
            return None;
        }
        self.cursor += 1;
        Some(value)
    }
    /// Records an access that was made.
    pub fn record(&mut self, op: Op, value: u64) {
        self.done.push((op, value));
        self.cursor = self.done.len();
    }
    /// Records the access the VMM is asked for.
    pub fn ask(&mut self, op: Op) {
        self.pending = Some(op);
        self.answer = u64::MAX;
    }
    /// Records the access of an instruction that is over with it.
    pub fn ask_plain(&mut self, plain: PlainPort) {
        let PlainPort { port, size, .. } = plain;
        self.ask(match plain.written {
            Some(value) => Op::Out { port, size, value },
            None => Op::In { port, size },
        });
        self.plain = Some(plain);
    }
    /// The instruction in flight and its answer if it need not be executed again.
    pub fn take_plain(&mut self) -> Option<(PlainPort, u64)> {
        let plain = self.plain.take()?;
        let (_, value) = self.done.pop()?;
        Some((plain, value))
    }
    /// The VMM's answer.
    pub fn supply(&mut self, value: u64) {
        self.answer = value;
    }
    /// The access the VMM is asked for by the instruction at `place`.
    pub fn asked(&mut self, place: u64) -> Option<Op> {
        self.place = place;
        self.pending
    }
    /// Moves the answered access into the log. If the VMM has sent the vCPU
    /// elsewhere than to `place` (a reset), the instruction is over instead.
    pub fn absorb(&mut self, place: u64) {
        let Some(op) = self.pending.take() else {
            return;
        };
        if place == self.place {
            self.done.push((op, op.mask(self.answer)));
        } else {
            self.commit();
        }
    }
    /// True while an instruction is half done.
    pub fn in_flight(&self) -> bool {
        !self.done.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn write(gpa: u64, value: u64) -> Op {
        let size = 4;
        Op::Write { gpa, size, value }
    }
    const READ: Op = Op::Read { gpa: 8, size: 4 };

    /// A log with a read answered with 7 and a write, both made at 0x1000.
    fn half_done() -> Replay {
        let mut log = Replay::default();
        for op in [READ, write(0x10, 5)] {
            log.ask(op);
            log.supply(7);
            assert_eq!(log.asked(0x1000), Some(op));
            log.absorb(0x1000);
        }
        log.begin();
        log
    }

    #[test]
    fn what_was_made_is_final() {
        let mut log = half_done();
        assert_eq!(log.next(READ), Some(7));
        assert_eq!(log.next(write(0x20, 6)), Some(7), "other data");
        assert_eq!(log.next(write(0x20, 6)), None, "the next one is new");
        log.commit();
        assert!(!log.in_flight());
    }

    #[test]
    fn another_kind_of_access_starts_a_new_log() {
        let mut log = half_done();
        assert_eq!(log.next(write(0x10, 5)), None);
        assert!(!log.in_flight());
    }

    #[test]
    fn a_vcpu_that_was_sent_elsewhere_is_not_in_flight() {
        let mut log = half_done();
        log.ask(READ);
        log.asked(0x1000);
        log.absorb(0xffff_fff0);
        assert!(!log.in_flight());
    }
}
