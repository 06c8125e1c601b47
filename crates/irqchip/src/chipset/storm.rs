//! A level-triggered line that stays asserted interrupts again at every EOI.
//! On hardware the message takes a while, so the interrupted program still
//! gets on; here it would be delivered before the next instruction and a guest
//! that waits for its device outside the handler would never run. After many
//! such interrupts in a row the next one is held back, as KVM does.

use crate::lapic::NEVER;

/// Interrupts in a row before one is held.
const LIMIT: u32 = 10_000;
/// How long it is held, in ns.
const HOLD_NS: u64 = 10_000_000;

/// The state of the protection.
#[derive(Clone, Debug)]
pub(super) struct Storm {
    in_a_row: u32,
    held: u32,
    until_ns: u64,
}

impl Default for Storm {
    fn default() -> Self {
        Self {
            in_a_row: 0,
            held: 0,
            until_ns: NEVER,
        }
    }
}

impl Storm {
    /// An EOI for `pins` that are still asserted: true if they are to wait.
    pub(super) fn hold(&mut self, pins: u32, now_ns: u64) -> bool {
        self.in_a_row = if pins == 0 { 0 } else { self.in_a_row + 1 };
        if self.in_a_row < LIMIT {
            return false;
        }
        self.in_a_row = 0;
        self.held |= pins;
        self.until_ns = now_ns.saturating_add(HOLD_NS);
        true
    }
    /// When [`Self::take`] has something, or `NEVER`.
    pub(super) fn deadline(&self) -> u64 {
        self.until_ns
    }
    /// The pins whose time is over.
    pub(super) fn take(&mut self, now_ns: u64) -> u32 {
        if self.until_ns > now_ns {
            return 0;
        }
        self.until_ns = NEVER;
        std::mem::take(&mut self.held)
    }
}
