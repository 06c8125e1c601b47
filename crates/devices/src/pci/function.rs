//! What the bus asks of a function.

use super::config::{Bar, Space, header};
use crate::{Effect, Stateful};
use std::fmt;

/// Slot and function on a bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    slot: u8,
    function: u8,
}

impl Address {
    /// Every place of a bus.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..=u8::MAX).map(Self::from_devfn)
    }

    /// `None` beyond slot 31 or function 7.
    pub const fn new(slot: u8, function: u8) -> Option<Self> {
        match slot < 32 && function < 8 {
            true => Some(Self { slot, function }),
            false => None,
        }
    }
    /// From the 8 bits of a configuration address.
    pub const fn from_devfn(devfn: u8) -> Self {
        Self {
            slot: devfn >> 3,
            function: devfn & 7,
        }
    }
    /// The 8 bits of a configuration address.
    pub const fn devfn(self) -> u8 {
        self.slot << 3 | self.function
    }
    /// Slot, 0..=31.
    pub const fn slot(self) -> u8 {
        self.slot
    }
    /// Function, 0..=7.
    pub const fn function(self) -> u8 {
        self.function
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}.{}", self.slot, self.function)
    }
}

/// A range of addresses that a function decodes at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Ports or memory.
    pub space: Space,
    /// Number of the BAR behind it.
    pub bar: u8,
    /// First address.
    pub first: u64,
    /// Last address.
    pub last: u64,
}

/// Addresses of one space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Ports or memory.
    pub space: Space,
    /// First address.
    pub first: u64,
    /// Last address.
    pub last: u64,
}

impl Range {
    /// The other one lies inside.
    pub fn contains(&self, window: &Window) -> bool {
        self.space == window.space && self.first <= window.first && window.last <= self.last
    }
}

/// What a bridge passes on to the bus behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarding {
    /// Number of the bus behind it; 0 until somebody gives it one.
    pub secondary: u8,
    /// Highest number of a bus behind it.
    pub subordinate: u8,
    /// Addresses.
    pub ranges: Vec<Range>,
}

/// One function. Every access may come from any vCPU's thread; what lies
/// outside of it reads as 0 and swallows writes.
pub trait PciFunction: Send + Sync {
    /// Reads `size` (1, 2, 4) bytes of configuration space.
    fn config_read(&self, offset: u16, size: u8) -> u32;
    /// Writes `size` (1, 2, 4) bytes of configuration space.
    fn config_write(&self, offset: u16, size: u8, value: u32) -> Option<Effect>;
    /// The BARs it has, by number.
    fn bars(&self) -> Vec<(u8, Bar)> {
        Vec::new()
    }
    /// The ranges decoded now: BARs whose space the command register enables.
    fn windows(&self) -> Vec<Window> {
        Vec::new()
    }
    /// What it forwards, if it is a bridge.
    fn forwarding(&self) -> Option<Forwarding> {
        None
    }
    /// A write at `offset` of configuration space may change
    /// [`Self::windows`].
    fn moves_windows(&self, offset: u16) -> bool {
        usize::from(offset) < header::END
    }
    /// Reads `size` (1..=8) bytes behind a BAR.
    fn bar_read(&self, _bar: u8, _offset: u64, _size: u8) -> u64 {
        0
    }
    /// It was unplugged: whatever it does by itself ends before this returns,
    /// its pin falls, and accesses that are on their way start nothing.
    fn removed(&self) {}
    /// The function as part of a saved state, if it can be one.
    fn stateful(&self) -> Option<&dyn Stateful> {
        None
    }
    /// Writes `size` (1..=8) bytes behind a BAR.
    fn bar_write(&self, _bar: u8, _offset: u64, _size: u8, _value: u64) -> Option<Effect> {
        None
    }
}
