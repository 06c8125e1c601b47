//! Where the vCPUs' time goes: the host interrupts each vCPU's thread as it uses CPU
//! time, and what generated code it was in is counted by the guest code that this was
//! made from.

mod sampler;
#[cfg(test)]
mod tests;

pub(crate) use sampler::{Sampler, Sampling};

use crate::translated::BANK;
use jit::cache::{CodeCache, Key, Part};
use softmmu::tlb::Bank;
use std::collections::HashMap;
use std::fmt::{self, Display, Formatter};
use x86::paging::PAGE_MASK;

/// CPU time between samples. Kernels look at it when their timer ticks, every 4 ms or
/// so.
pub(crate) const INTERVAL_NS: i64 = 1_000_000;
/// Most blocks that are counted one by one: a guest may run through any number.
const MOST_PLACES: usize = 1 << 17;
/// Rows of each table.
const ROWS: usize = 30;

/// Guest code that a translation was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Place {
    gpa: u64,
    linear: u64,
    user: bool,
}

impl Place {
    /// Of the translation of `key` that ran in linear page `page`.
    fn new(key: &Key, page: u64) -> Self {
        let linear = match key.rip {
            Key::ANYWHERE => page | key.gpa & PAGE_MASK,
            fixed => fixed,
        };
        Self {
            gpa: key.gpa,
            linear,
            user: key.mode & BANK == Bank::User as u32,
        }
    }

    fn page(self) -> Self {
        Self {
            gpa: self.gpa & !PAGE_MASK,
            linear: self.linear & !PAGE_MASK,
            ..self
        }
    }
}

/// Samples counted.
#[derive(Debug, Default)]
pub(crate) struct Profile {
    hot: u64,
    cold: u64,
    stubs: u64,
    /// Outside generated code.
    outside: u64,
    blocks: HashMap<Place, u64>,
}

impl Profile {
    /// Counts what was sampled since this was asked last, before `code` forgets what
    /// it was.
    pub(crate) fn take(&mut self, sampler: &Sampler, code: &CodeCache) {
        sampler.drain(|sample| {
            let found = sample.offset.and_then(|at| code.locate(at));
            let Some((part, key)) = found else {
                self.outside += 1;
                return;
            };
            *match part {
                Part::Hot => &mut self.hot,
                Part::Cold => &mut self.cold,
                Part::Stubs => &mut self.stubs,
            } += 1;
            let place = key.map(|key| Place::new(key, sample.page));
            let known = |p: &Place| self.blocks.len() < MOST_PLACES || self.blocks.contains_key(p);
            if let Some(place) = place.filter(known) {
                *self.blocks.entry(place).or_default() += 1;
            }
        });
    }

    fn table(&self, f: &mut Formatter<'_>, what: &str, of: impl Fn(Place) -> Place) -> fmt::Result {
        let mut sums: HashMap<Place, u64> = HashMap::new();
        for (place, n) in &self.blocks {
            *sums.entry(of(*place)).or_default() += n;
        }
        let mut rows: Vec<(Place, u64)> = sums.into_iter().collect();
        rows.sort_by_key(|(place, n)| (std::cmp::Reverse(*n), place.gpa, place.linear));
        writeln!(f, "\nthe hottest of {} {what}:", rows.len())?;
        writeln!(f, "{:>8}  {:>16}  {:>16}", "share", "linear", "physical")?;
        for (place, n) in rows.iter().take(ROWS) {
            let share = self.share(*n);
            let who = if place.user { "user" } else { "kernel" };
            let Place { gpa, linear, .. } = place;
            writeln!(f, "{share:>6.2} %  {linear:>16x}  {gpa:>16x}  {who}")?;
        }
        Ok(())
    }

    fn all(&self) -> u64 {
        self.hot + self.cold + self.stubs + self.outside
    }

    fn share(&self, n: u64) -> f64 {
        100.0 * n as f64 / self.all().max(1) as f64
    }
}

impl Display for Profile {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "profile: {} samples of the vCPUs' CPU time", self.all())?;
        for (n, what) in [
            (self.hot, "generated code"),
            (self.cold, "generated code: what is rarely needed"),
            (self.stubs, "generated code: shared by blocks"),
            (self.outside, "engine, devices and host kernel"),
        ] {
            writeln!(f, "{:>6.2} %  {what}", self.share(n))?;
        }
        self.table(f, "blocks", |place| place)?;
        self.table(f, "pages", Place::page)
    }
}
