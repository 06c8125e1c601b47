//! Breakpoints and watchpoints.

use gdbstub::target::ext::breakpoints::WatchKind;

/// The instruction of a software breakpoint.
pub(crate) const INT3: u8 = 0xcc;
/// Debug registers with an address.
const SLOTS: usize = 4;
/// Software breakpoints at most: nobody sets more by hand.
const MOST: usize = 4096;
/// DR7.LE, DR7.GE and the bit that is always 1 (SDM vol 3, 19.2.4).
const DR7_FIXED: u64 = 0x700;

/// An INT3 in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Soft {
    /// Linear address, by which the debugger knows it.
    pub(crate) address: u64,
    /// Where it was written.
    pub(crate) gpa: u64,
    /// What was there.
    pub(crate) byte: u8,
}

/// What a debug register watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hard {
    /// The instruction there. `soft` if the debugger asked for a software
    /// breakpoint where there was no memory yet.
    Code { address: u64, soft: bool },
    /// Accesses, as part of a watchpoint of the debugger's.
    Data { at: u64, len: u64, watch: Watch },
}

/// A watchpoint as the debugger asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Watch {
    pub(crate) address: u64,
    pub(crate) len: u64,
    pub(crate) kind: WatchKind,
}

/// All of them. The same for all vCPUs.
#[derive(Default)]
pub(crate) struct Points {
    pub(crate) soft: Vec<Soft>,
    hard: [Option<Hard>; SLOTS],
}

impl Points {
    /// True if there is room for another INT3.
    pub(crate) fn has_room(&self) -> bool {
        self.soft.len() < MOST
    }

    /// The INT3 that the debugger knows by this address.
    pub(crate) fn soft_at(&self, address: u64) -> Option<&Soft> {
        self.soft.iter().find(|s| s.address == address)
    }

    /// There is something in a debug register.
    pub(crate) fn uses_registers(&self) -> bool {
        self.hard.iter().any(Option::is_some)
    }

    /// Takes debug registers for a breakpoint; false if none is free.
    pub(crate) fn add_code(&mut self, address: u64, soft: bool) -> bool {
        let new = Hard::Code { address, soft };
        self.hard.contains(&Some(new)) || self.fill(&[new])
    }

    /// Gives it back; false if there was none.
    pub(crate) fn remove_code(&mut self, address: u64, soft: bool) -> bool {
        self.empty(|h| *h == Hard::Code { address, soft })
    }

    /// The watchpoint is there.
    pub(crate) fn watches(&self, watch: Watch) -> bool {
        let known = |h: &Hard| matches!(h, Hard::Data { watch: w, .. } if *w == watch);
        self.hard.iter().flatten().any(known)
    }

    /// Takes as many registers as the watchpoint needs; false if there are not
    /// enough.
    pub(crate) fn add_watch(&mut self, watch: Watch) -> bool {
        if self.watches(watch) {
            return true;
        }
        match pieces(watch) {
            Some(pieces) => self.fill(&pieces),
            None => false,
        }
    }

    /// Gives them back; false if there were none.
    pub(crate) fn remove_watch(&mut self, watch: Watch) -> bool {
        self.empty(|h| matches!(h, Hard::Data { watch: w, .. } if *w == watch))
    }

    fn fill(&mut self, new: &[Hard]) -> bool {
        let mut free = self.hard.iter_mut().filter(|h| h.is_none());
        let slots: Vec<_> = free.by_ref().take(new.len()).collect();
        let fits = slots.len() == new.len();
        if fits {
            slots.into_iter().zip(new).for_each(|(s, h)| *s = Some(*h));
        }
        fits
    }

    fn empty(&mut self, which: impl Fn(&Hard) -> bool) -> bool {
        let mut found = false;
        for slot in &mut self.hard {
            if slot.as_ref().is_some_and(&which) {
                (*slot, found) = (None, true);
            }
        }
        found
    }

    /// DR0 to DR3 and DR7.
    pub(crate) fn debug_registers(&self) -> [u64; 8] {
        let mut dr = [0; 8];
        for (i, hard) in self.hard.iter().enumerate() {
            let Some(hard) = hard else { continue };
            let (at, bits) = match *hard {
                Hard::Code { address, .. } => (address, 0),
                Hard::Data { at, len, watch } => (at, access(watch.kind) | length(len) << 2),
            };
            dr[i] = at;
            dr[7] |= DR7_FIXED | 2 << (2 * i) | bits << (16 + 4 * i);
        }
        dr
    }

    /// What DR6 says was hit.
    pub(crate) fn hit(&self, dr6: u64) -> Option<Hard> {
        let hits = (0..SLOTS).filter(|i| dr6 >> i & 1 != 0);
        hits.filter_map(|i| self.hard[i]).next()
    }

    /// Shows what is in guest memory without our INT3s.
    pub(crate) fn hide(&self, gpa: u64, bytes: &mut [u8]) {
        for soft in &self.soft {
            let byte = soft.gpa.checked_sub(gpa).and_then(|at| {
                let at = usize::try_from(at).ok()?;
                bytes.get_mut(at)
            });
            if let Some(byte) = byte.filter(|byte| **byte == INT3) {
                *byte = soft.byte;
            }
        }
    }

    /// What is to be written in place of `bytes`: our INT3s stay, and what they
    /// hide is what is written.
    pub(crate) fn keep(&mut self, gpa: u64, bytes: &mut [u8]) {
        for soft in &mut self.soft {
            let at = soft.gpa.checked_sub(gpa);
            let at = at.and_then(|at| usize::try_from(at).ok());
            if let Some(byte) = at.and_then(|at| bytes.get_mut(at)) {
                soft.byte = std::mem::replace(byte, INT3);
            }
        }
    }
}

/// R/W bits. There is nothing that only watches reads: the debugger looks
/// whether the value has changed.
fn access(kind: WatchKind) -> u64 {
    match kind {
        WatchKind::Write => 1,
        WatchKind::Read | WatchKind::ReadWrite => 3,
    }
}

/// LEN bits.
fn length(len: u64) -> u64 {
    match len {
        1 => 0,
        2 => 1,
        8 => 2,
        _ => 3,
    }
}

/// A watchpoint as aligned pieces of 1, 2, 4 or 8 bytes.
fn pieces(watch: Watch) -> Option<Vec<Hard>> {
    let end = watch.address.checked_add(watch.len)?;
    let mut at = watch.address;
    let mut pieces = Vec::new();
    while at < end && pieces.len() <= SLOTS {
        let fits = |len: &u64| at.is_multiple_of(*len) && *len <= end - at;
        let len = [8, 4, 2].into_iter().find(fits).unwrap_or(1);
        pieces.push(Hard::Data { at, len, watch });
        at += len;
    }
    (!pieces.is_empty()).then_some(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(address: u64, len: u64) -> Watch {
        let kind = WatchKind::Write;
        Watch { address, len, kind }
    }

    #[test]
    fn four_registers_and_no_more() {
        let mut points = Points::default();
        assert!((0..4).all(|n| points.add_code(0x1000 + n, false)));
        assert!(points.add_code(0x1000, false), "it is there already");
        assert!(!points.add_code(0x2000, false));
        assert!(points.remove_code(0x1001, false));
        assert!(!points.remove_code(0x1001, false));
        assert!(points.add_watch(watch(0x3000, 4)));
        let dr = points.debug_registers();
        assert_eq!(dr[..4], [0x1000, 0x3000, 0x1002, 0x1003]);
        // G1 to G4; one of them a write of 4 bytes (SDM vol 3, 19.2.4).
        assert_eq!(dr[7], 0x00d0_07aa);
        let data = |hit| matches!(hit, Some(Hard::Data { at: 0x3000, .. }));
        assert!(data(points.hit(0xffff_0ff2)));
        assert_eq!(points.hit(0xffff_4ff0), None);
    }

    #[test]
    fn watchpoints_are_cut_to_what_registers_can_hold() {
        let cut = |address, len| {
            let pieces = pieces(watch(address, len)).unwrap_or_default();
            let piece = |h| match h {
                Hard::Data { at, len, .. } => (at, len),
                Hard::Code { .. } => unreachable!("a watchpoint"),
            };
            pieces.into_iter().map(piece).collect::<Vec<_>>()
        };
        assert_eq!(
            cut(0x1001, 8),
            [(0x1001, 1), (0x1002, 2), (0x1004, 4), (0x1008, 1)]
        );
        assert_eq!(cut(0x1000, 16), [(0x1000, 8), (0x1008, 8)]);
        assert_eq!(cut(0, 0), []);
        assert_eq!(cut(u64::MAX, 2), []);
        // Whatever is asked for, it is soon known to be too much.
        let mut points = Points::default();
        assert!(!points.add_watch(watch(0, u64::MAX)));
        assert!(!points.uses_registers());
    }

    #[test]
    fn the_debugger_does_not_see_our_int3() {
        let mut points = Points::default();
        let (gpa, byte) = (0x102, 0x55);
        let address = 0xffff_0102;
        points.soft.push(Soft { address, gpa, byte });
        let mut bytes = [1, 2, INT3, INT3];
        points.hide(0x100, &mut bytes);
        assert_eq!(bytes, [1, 2, 0x55, INT3]);
        let mut new = [9; 4];
        points.keep(0x100, &mut new);
        assert_eq!(new, [9, 9, INT3, 9]);
        assert_eq!(points.soft[0].byte, 9);
        points.hide(0x103, &mut new);
        assert_eq!(new[0], 9);
    }
}
