//! kvmclock: the page in guest memory from which a guest computes time by the
//! TSC without leaving (Linux, Documentation/virt/kvm/x86/msr.rst,
//! `pvclock_vcpu_time_info`).
//!
//! It shows the host's CLOCK_MONOTONIC since the VM's creation, which is what a
//! user compares with and what NTP steers, and is corrected every second.

mod discipline;
mod line;
#[cfg(test)]
mod tests;

use crate::clock::{self, Reading, VmClock};
use discipline::{Discipline, Turn};
use softmmu::SlotMap;
use std::sync::atomic::{Ordering, fence};

/// Bytes of the page's structure.
const SIZE: usize = 32;
/// `PVCLOCK_TSC_STABLE_BIT`: the pages of all vCPUs are one clock.
const TSC_STABLE: u8 = 1;
/// Until the next attempt after a reading that was not used.
const RETRY_NS: u64 = discipline::INTERVAL_NS / 10;

/// One vCPU's page.
#[derive(Clone, Copy, Debug)]
struct Page {
    gpa: u64,
    /// Guest TSC minus host TSC.
    tsc_offset: u64,
    /// Odd while the page changes.
    version: u32,
}

/// The clock of a VM and the pages that show it.
#[derive(Debug)]
pub struct KvmClock {
    discipline: Discipline,
    /// The guest's clock minus ns since the VM's creation.
    offset_ns: u64,
    /// By vCPU index.
    pages: Vec<Option<Page>>,
    host_is_stable: bool,
    /// When to read the host's clocks again, in ns since creation.
    due_ns: u64,
    /// The pages were written since [`Self::take_written`].
    written: bool,
}

impl KvmClock {
    /// Begins at a reading of the VM's clock.
    pub fn new(reading: Reading) -> Self {
        Self {
            discipline: Discipline::new(reading, clock::host_tsc_khz()),
            offset_ns: 0,
            pages: Vec::new(),
            host_is_stable: clock::host_tsc_is_stable(),
            due_ns: reading.ns + discipline::INTERVAL_NS,
            written: false,
        }
    }

    /// What a guest reads at the host TSC `tsc`.
    pub fn at(&self, tsc: u64) -> u64 {
        self.discipline.line().at(tsc).wrapping_add(self.offset_ns)
    }

    /// Sets the clock; also backwards.
    pub fn set(&mut self, ns: u64, map: &SlotMap) {
        let now = self.discipline.line().at(clock::host_tsc());
        self.offset_ns = ns.wrapping_sub(now);
        self.publish(None, map);
    }

    /// vCPU `index` has its page at `gpa`, or none, and its TSC is
    /// `tsc_offset` ahead of the host's.
    pub fn set_page(&mut self, index: usize, gpa: Option<u64>, tsc_offset: u64, map: &SlotMap) {
        if index >= self.pages.len() {
            self.pages.resize(index + 1, None);
        }
        let version = self.pages[index].map_or(0, |p| p.version);
        let inside = gpa.filter(|gpa| gpa.checked_add(SIZE as u64).is_some());
        self.pages[index] = inside.map(|gpa| Page {
            gpa,
            tsc_offset,
            version,
        });
        self.publish(None, map);
    }

    /// Corrects the clock if it is time; returns the next time, none while no
    /// guest looks.
    pub fn tick(&mut self, host: &VmClock, map: &SlotMap) -> Option<u64> {
        self.pages.iter().flatten().next()?;
        let now = host.now_ns();
        if now < self.due_ns {
            return Some(self.due_ns);
        }
        let turn = self.discipline.judge(host.reading());
        if turn.is_some() {
            self.publish(turn, map);
        }
        self.due_ns = now + turn.map_or(RETRY_NS, |_| discipline::INTERVAL_NS);
        Some(self.due_ns)
    }

    /// Guest-physical ranges written since the last call.
    pub fn take_written(&mut self) -> Vec<(u64, u64)> {
        if !std::mem::take(&mut self.written) {
            return Vec::new();
        }
        let pages = self.pages.iter().flatten();
        pages.map(|p| (p.gpa, SIZE as u64)).collect()
    }

    /// Writes every page, with the line turned. While the versions are odd
    /// guests repeat their reading, so every time they computed from the old
    /// line belongs to a TSC before the turn, on whichever vCPU.
    fn publish(&mut self, turn: Option<Turn>, map: &SlotMap) {
        self.written = true;
        for page in self.pages.iter_mut().flatten() {
            page.version = page.version.wrapping_add(1) | 1;
            map.write(page.gpa, &page.version.to_le_bytes());
        }
        fence(Ordering::SeqCst);
        if let Some(turn) = turn {
            self.discipline.turn(turn, clock::host_tsc_ordered());
        }
        let (flags, offset_ns, line) = (self.flags(), self.offset_ns, self.discipline.line());
        for page in self.pages.iter_mut().flatten() {
            // Offsets within pvclock_vcpu_time_info, whose first word is the
            // version.
            let mut bytes = [0; SIZE];
            bytes[8..16].copy_from_slice(&line.tsc.wrapping_add(page.tsc_offset).to_le_bytes());
            bytes[16..24].copy_from_slice(&line.ns.wrapping_add(offset_ns).to_le_bytes());
            bytes[24..28].copy_from_slice(&line.mul.to_le_bytes());
            bytes[28] = line.shift.cast_unsigned();
            bytes[29] = flags;
            map.write(page.gpa + 4, &bytes[4..]);
            fence(Ordering::Release);
            page.version = page.version.wrapping_add(1);
            map.write(page.gpa, &page.version.to_le_bytes());
        }
    }

    /// Stable if the TSCs of the host's CPUs agree and those of the guest do.
    fn flags(&self) -> u8 {
        let mut offsets = self.pages.iter().flatten().map(|p| p.tsc_offset);
        let first = offsets.next();
        match self.host_is_stable && offsets.all(|o| Some(o) == first) {
            true => TSC_STABLE,
            false => 0,
        }
    }
}
