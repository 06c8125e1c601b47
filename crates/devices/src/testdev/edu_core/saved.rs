//! The registers and the schema.

use super::{BUFFER_SIZE, Core};
use state::pci::Edu;

impl Core {
    pub(in crate::testdev) fn saved(&self, now: u64) -> Edu {
        Edu {
            liveness: self.liveness,
            factorial: self.factorial,
            status: self.status,
            interrupts: self.interrupts,
            dma: self.dma,
            due_in_ns: self.due.map(|due| due.saturating_sub(now)),
            buffer: self.buffer.clone(),
        }
    }

    /// False if there is no such state.
    pub(in crate::testdev) fn restore(&mut self, saved: &Edu, now: u64) -> bool {
        if saved.buffer.len() != BUFFER_SIZE {
            return false;
        }
        self.liveness = saved.liveness;
        self.factorial = saved.factorial;
        self.status = saved.status;
        self.interrupts = saved.interrupts;
        self.dma = saved.dma;
        self.due = saved.due_in_ns.map(|ns| now.saturating_add(ns));
        self.buffer.clone_from(&saved.buffer);
        true
    }
}
