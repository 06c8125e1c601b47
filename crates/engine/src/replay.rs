//! The log that lets an instruction be executed again after an exit.
//!
//! An instruction that touches a device leaves to the VMM in its middle. When
//! the VMM comes back the instruction is executed from its start and every
//! access it already made is answered from this log, in order. The log is
//! emptied when the instruction (or one `rep` iteration) completes.

use hv::VcpuExit;

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
    }
    /// The logged result of the next access, if it was made before.
    pub fn next(&mut self, op: Op) -> Option<u64> {
        let (logged, value) = *self.done.get(self.cursor)?;
        if logged != op {
            // The guest changed its own operands meanwhile (another vCPU):
            // start a new log from here.
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
    /// The VMM's answer.
    pub fn supply(&mut self, value: u64) {
        self.answer = value;
    }
    /// The access the VMM is asked for.
    pub fn asked(&self) -> Option<Op> {
        self.pending
    }
    /// Moves the answered access into the log; true if there was one.
    pub fn absorb(&mut self) -> bool {
        let Some(op) = self.pending.take() else {
            return false;
        };
        self.done.push((op, op.mask(self.answer)));
        true
    }
    /// True while an instruction is half done.
    pub fn in_flight(&self) -> bool {
        !self.done.is_empty()
    }
}
