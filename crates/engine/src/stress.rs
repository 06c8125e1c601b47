//! Ways to run on which what is rare otherwise happens all the time, and none of which
//! a guest can tell: for tests.

use crate::vcpu::SoftVcpu;
use crate::{CODE_CACHE, Options};
use jit::Returns;
use jit::block::MAX_INSTRUCTIONS;

/// What happens all the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stress {
    /// A block has one instruction.
    pub single: bool,
    /// The first level of the TLB holds one page for each kind of access, the second
    /// none.
    pub small_tlb: bool,
    /// Writes to all memory are logged, and the log is read.
    pub logged: bool,
    /// Translations, jump caches and TLBs are forgotten at random.
    pub forgetful: bool,
}

impl Stress {
    /// In instructions.
    pub(crate) fn longest_block(self) -> usize {
        if self.single { 1 } else { MAX_INSTRUCTIONS }
    }
}

/// Sets what a name stands for.
type Ask = fn(&mut Options);

/// What [`Options::strained`] understands.
const NAMES: [(&str, Ask); 5] = [
    ("single", |o| o.stress.single = true),
    ("small-tlb", |o| o.stress.small_tlb = true),
    ("logged", |o| o.stress.logged = true),
    ("forgetful", |o| o.stress.forgetful = true),
    ("small-cache", |o| o.code_cache = Some(*CODE_CACHE.start())),
];

impl Options {
    /// The same with what `names`, separated by commas, stand for: `single`,
    /// `small-tlb`, `logged`, `forgetful`, `small-cache`. The error names one that is
    /// none.
    pub fn strained(mut self, names: &str) -> Result<Self, String> {
        for name in names.split(',').filter(|n| !n.is_empty()) {
            let found = NAMES.iter().find(|(known, _)| *known == name);
            let there_are = || format!("no stress '{name}'; there are {:?}", NAMES.map(|n| n.0));
            found.ok_or_else(there_are)?.1(&mut self);
        }
        Ok(self)
    }
}

/// Numbers at random (xorshift), the same ones in each run.
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Default for Dice {
    fn default() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }
}

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) % n
    }
}

impl SoftVcpu {
    /// Before translations are looked for: does what [`crate::Options::stress`] says.
    /// True if the vCPU did not run meanwhile: it must look at its requests.
    pub(crate) fn strain(&mut self) -> bool {
        let stress = self.vm.options.stress;
        if stress.logged && self.local.dice.below(4) == 0 {
            self.vm.forget_logged();
            self.ctx_mut().tlb.drop_first_level();
        }
        if !stress.forgetful {
            return false;
        }
        match self.local.dice.below(16) {
            0 => {
                self.drop_translations(true);
                return true;
            }
            1..4 => self.ctx_mut().tlb.drop_first_level(),
            4..7 => self.local.jumps.clear(),
            7..10 => {
                let returns = &mut self.ctx_mut().jit.returns;
                returns.iter_mut().for_each(Returns::forget);
            }
            _ => {}
        }
        false
    }
}
