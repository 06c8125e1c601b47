//! Jump caches of the address spaces used last.

use crate::translated::{BANK, Modes, mode_of, modes_around};
use jit::cache::{Area, Dropped, JumpCache, JumpCaches};
use jit::{JitCtx, Realm};
use softmmu::SlotMap;
use softmmu::tlb::{Bank, Tlb};
use softmmu::walk;
use std::sync::atomic::Ordering;
use x86::CpuState;
use x86::paging::PAGE_MASK;

/// An address space that code runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CodeSpace {
    /// CR3's page for user code, whatever PCID it has at the moment; kernel code
    /// has one space for all, since its mappings are global.
    root: Option<u64>,
    /// Changes whenever mappings of the space are flushed.
    epoch: u32,
}

/// The address spaces and page tables as they are now. What outlives a flush of
/// the TLB is compared with them: a mapping that a fetch would find again is as
/// good as a new one.
pub(crate) struct Now<'a> {
    cpu: &'a CpuState,
    tlb: &'a Tlb,
    map: &'a SlotMap,
}

impl<'a> Now<'a> {
    pub(crate) fn new(cpu: &'a CpuState, tlb: &'a Tlb, map: &'a SlotMap) -> Self {
        Self { cpu, tlb, map }
    }

    /// A fetch by kernel code at `la` would find the page at `gpa`, whatever CR3
    /// holds.
    pub(crate) fn kernel(&self, la: u64, gpa: u64) -> bool {
        self.found(la, gpa, false).is_some_and(|m| m.global)
    }

    /// The same of user code, in the present space.
    fn user(&self, la: u64, gpa: u64) -> bool {
        self.found(la, gpa, true).is_some()
    }

    fn found(&self, la: u64, gpa: u64, user: bool) -> Option<walk::Mapping> {
        let found = walk::fetch_unchanged(self.cpu, self.map, la, user, self.tlb.roots());
        found.filter(|m| m.gpa == gpa)
    }

    fn user_space(&self) -> CodeSpace {
        CodeSpace {
            root: Some(self.cpu.cr3 & !PAGE_MASK),
            epoch: self.tlb.space(),
        }
    }

    fn kernel_space(&self) -> CodeSpace {
        CodeSpace {
            root: None,
            epoch: self.tlb.global_space(),
        }
    }

    fn spaces(&self) -> [CodeSpace; 2] {
        [self.user_space(), self.kernel_space()]
    }
}

/// Jump caches of the address spaces used last.
#[derive(Default)]
pub struct Jumps {
    caches: Vec<Cached>,
    memory: JumpCaches,
    /// Index of the one used last.
    last: usize,
    clock: u64,
    /// The spaces and modes whose caches were brought into reach last.
    reached: Option<([CodeSpace; 2], Modes)>,
    /// Where these caches are, by [`Realm`].
    addresses: [u64; Realm::ALL.len()],
    /// By [`Realm`]: something was forgotten, or another cache was brought into reach.
    forgot: [bool; Realm::ALL.len()],
}

struct Cached {
    space: CodeSpace,
    mode: u32,
    used: u64,
    cache: JumpCache,
}

const EVERYWHERE: [bool; Realm::ALL.len()] = [true; _];

/// Address spaces whose jump caches are kept.
const KEPT: usize = 10;

impl Jumps {
    /// The cache of a present space and mode.
    fn get(&mut self, space: CodeSpace, mode: u32, now: &Now<'_>) -> &mut JumpCache {
        let is = |c: &Cached| c.space.root == space.root && c.mode == mode;
        if !self.caches.get(self.last).is_some_and(is) {
            self.clock += 1;
            self.last = match self.caches.iter().position(is) {
                Some(i) => i,
                None => self.replace(space, mode),
            };
            self.caches[self.last].used = self.clock;
        }
        let cached = &mut self.caches[self.last];
        if cached.space.epoch != space.epoch {
            cached.space.epoch = space.epoch;
            cached.recheck(Area::ALL, now);
            self.forgot = EVERYWHERE;
        }
        &mut cached.cache
    }
    /// Brings the cache of the present mode into force, and those of the modes
    /// to which generated code may go into its reach.
    pub(crate) fn select(&mut self, jit: &mut JitCtx, now: &Now<'_>) -> &mut JumpCache {
        let (mode, _, _) = mode_of(now.cpu);
        let reached = (now.spaces(), modes_around(now.cpu, mode));
        if self.reached != Some(reached) {
            let caches = reached.1.map(|mode| self.in_mode(mode, now).address());
            for realm in Realm::ALL.map(|realm| realm as usize) {
                self.forgot[realm] |= self.addresses[realm] != caches[realm];
            }
            self.addresses = caches;
            self.reached = Some(reached);
        }
        for (cache, address) in jit.jump_caches.iter().zip(self.addresses) {
            cache.store(address, Ordering::Relaxed);
        }
        self.in_mode(mode, now)
    }
    /// The cache of a mode.
    pub(crate) fn in_mode(&mut self, mode: u32, now: &Now<'_>) -> &mut JumpCache {
        let space = match mode & BANK == Bank::User as u32 {
            true => now.user_space(),
            false => now.kernel_space(),
        };
        self.get(space, mode, now)
    }
    fn replace(&mut self, space: CodeSpace, mode: u32) -> usize {
        if self.caches.len() < KEPT {
            let cache = self.memory.create();
            self.caches.push(Cached {
                space,
                mode,
                used: 0,
                cache,
            });
            return self.caches.len() - 1;
        }
        self.reached = None;
        self.forgot = EVERYWHERE;
        let oldest = self.caches.iter().enumerate().min_by_key(|(_, c)| c.used);
        let i = oldest.map_or(0, |(i, _)| i);
        let c = &mut self.caches[i];
        c.cache.clear();
        (c.space, c.mode) = (space, mode);
        i
    }
    /// Whether what is known of code elsewhere is void, too, by [`Realm`]: something
    /// was forgotten since the last call, or there are other spaces or modes now.
    pub(crate) fn take_forgot(&mut self) -> [bool; Realm::ALL.len()] {
        let caches = self.caches.iter_mut();
        let remapped = caches.fold(false, |any, c| c.cache.take_remapped() | any);
        std::mem::take(&mut self.forgot).map(|forgot| forgot | remapped)
    }
    /// Forgets translations everywhere.
    pub fn forget(&mut self, dropped: &[Dropped]) {
        self.forgot = EVERYWHERE;
        self.caches.iter_mut().for_each(|c| c.cache.forget(dropped));
    }
    /// The TLB forgot what is in `area` in the present user space and in the
    /// kernel's.
    pub(crate) fn recheck(&mut self, area: Area, now: &Now<'_>) {
        self.forgot = EVERYWHERE;
        let epoch = now.user_space().epoch;
        let present = |c: &Cached| c.space.root.is_none() || c.space.epoch == epoch;
        let concerned = self.caches.iter_mut().filter(|c| present(c));
        concerned.for_each(|c| c.recheck(area, now));
    }
    /// Forgets the addresses of kernel code.
    pub fn clear_kernel(&mut self) {
        self.forgot = EVERYWHERE;
        let kernel = self.caches.iter_mut().filter(|c| c.space.root.is_none());
        kernel.for_each(|c| c.cache.clear());
    }
    /// Forgets everything.
    pub fn clear(&mut self) {
        self.forgot = EVERYWHERE;
        self.caches.iter_mut().for_each(|c| c.cache.clear());
    }
}

impl Cached {
    fn recheck(&mut self, area: Area, now: &Now<'_>) {
        match self.space.root {
            Some(_) => self.cache.forget_changed(area, |la, gpa| now.user(la, gpa)),
            None => self
                .cache
                .forget_changed(area, |la, gpa| now.kernel(la, gpa)),
        }
    }
}
