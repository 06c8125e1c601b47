//! One VM: memory, interrupt controllers, code cache, clock.

use crate::Options;
use crate::clock::VmClock;
use crate::counters::Counters;
use crate::ctx::LAYOUT;
use crate::kvmclock::KvmClock;
use crate::profile::Profile;
use crate::shared::{Forget, Shared};
use crate::timer::{self, Timer};
use crate::vcpu::SoftVcpu;
use crate::world_stop::WorldStop;
use hv::abi::*;
use hv::{Error, MemFlags, MemSlot, Result};
use irqchip::{Chipset, Clock, Route, Routing};
use jit::cache::CodeCache;
use parking_lot::{Mutex, RwLock};
use softmmu::ahead::Ahead;
use softmmu::{GuestMemory, NewSlot, SlotError, SlotMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// A VM of the software backend. Lock order: `chipset`, then a vCPU's sleep
/// lock; `code` is taken alone or first; `kvmclock` is taken alone.
pub struct SoftVm {
    /// Has the host provide memory before it is needed. The first to be dropped,
    /// since it touches what the others have.
    pub(crate) ahead: Ahead,
    /// Guest-physical memory.
    pub memory: GuestMemory,
    /// PIC, I/O APIC, local APICs, PIT; empty of vCPUs until created.
    pub chipset: Mutex<Chipset>,
    /// True once `create_irqchip` was called.
    has_irqchip: AtomicBool,
    /// Translations of all vCPUs.
    pub code: Mutex<CodeCache>,
    /// Stops all vCPUs for what needs that.
    pub world_stop: WorldStop,
    /// Time base.
    pub clock: Arc<VmClock>,
    /// The guests' paravirtual clock.
    pub kvmclock: Mutex<KvmClock>,
    /// Earliest timer deadline.
    pub timer: Arc<Timer>,
    /// kvm_stat's counters.
    pub counters: Counters,
    /// Requests to each vCPU, by index.
    pub vcpus: RwLock<Vec<Arc<Shared>>>,
    ids: Mutex<Vec<u32>>,
    /// See [`Self::break_at`], by index of the vCPU.
    breakpoints: Mutex<Vec<Vec<u16>>>,
    /// How it runs.
    pub options: Options,
    this: std::sync::Weak<Self>,
    /// Samples counted, with [`Options::profile`].
    pub(crate) profile: Mutex<Profile>,
    /// Slots whose writes are logged for [`Options::stress`] only.
    logged: Mutex<Vec<u32>>,
}

impl SoftVm {
    /// An empty VM and its timer thread.
    pub fn create(options: Options) -> Result<Arc<Self>> {
        let os = |what| move |source| Error::Os { what, source };
        let mut code =
            CodeCache::new(LAYOUT, options.code_cache_bytes()).map_err(os("code cache"))?;
        // In lockstep every block is compared on its own.
        code.link_early = !options.lockstep;
        let ahead = Ahead::start().map_err(os("thread for memory"))?;
        let clock = VmClock::new();
        let vm = Arc::new_cyclic(|this| Self {
            memory: GuestMemory::with_ahead(ahead.requests().clone()),
            ahead,
            chipset: Mutex::new(Chipset::new(crate::cpuid::phys_bits() as u8)),
            has_irqchip: AtomicBool::new(false),
            code: Mutex::new(code),
            world_stop: WorldStop::default(),
            kvmclock: Mutex::new(KvmClock::new(clock.reading())),
            clock: Arc::new(clock),
            timer: Arc::new(Timer::new()),
            counters: Counters::default(),
            vcpus: RwLock::new(Vec::new()),
            ids: Mutex::new(Vec::new()),
            breakpoints: Mutex::default(),
            options,
            this: this.clone(),
            profile: Mutex::default(),
            logged: Mutex::default(),
        });
        timer::start(&vm).map_err(os("timer thread"))?;
        Ok(vm)
    }

    /// Forgets what was logged of slots that log for [`Options::stress`] only.
    pub(crate) fn forget_logged(&self) {
        for slot in &*self.logged.lock() {
            self.memory.dirty_log(*slot);
        }
    }

    /// Drops all translations if there is no room for another, or `anyway`. `me` is
    /// the calling vCPU, which does not run.
    pub fn make_room(&self, me: usize, anyway: bool) {
        let _stopped = self.stop_world(me);
        let mut code = self.code.lock();
        if anyway || code.is_full() {
            self.flush(&mut code);
        }
    }

    /// Has what is translated stop at the execution breakpoints of a vCPU, given by
    /// offsets in pages. `me` is the calling vCPU, which does not run.
    pub fn break_at(&self, me: usize, offsets: Vec<u16>) {
        let mut all = self.breakpoints.lock();
        let len = all.len().max(me + 1);
        all.resize(len, Vec::new());
        all[me] = offsets;
        // Those that are gone only cost time: a debugger takes its breakpoints away
        // whenever the guest stops, and sets them again.
        if all[me].iter().all(|at| self.code.lock().stops.contains(at)) {
            return;
        }
        let _stopped = self.stop_world(me);
        let mut code = self.code.lock();
        code.stops = all.concat().into();
        self.flush(&mut code);
    }

    /// Drops all translations; the world is stopped.
    fn flush(&self, code: &mut CodeCache) {
        self.count_samples(code);
        code.flush();
    }

    /// Counts what was sampled of all vCPUs while their code is known.
    pub(crate) fn count_samples(&self, code: &CodeCache) {
        if !self.options.profile {
            return;
        }
        let mut profile = self.profile.lock();
        for vcpu in &*self.vcpus.read() {
            if let Some(sampler) = vcpu.sampler() {
                profile.take(sampler, code);
            }
        }
    }

    /// True if interrupt controllers exist.
    pub fn has_irqchip(&self) -> bool {
        self.has_irqchip.load(Ordering::Acquire)
    }

    /// Clock reading for a vCPU whose TSC is `offset` ahead of the host's.
    pub fn clock_now(&self, tsc_offset: u64) -> Clock {
        Clock {
            now_ns: self.clock.now_ns(),
            tsc: crate::clock::host_tsc().wrapping_add(tsc_offset),
            tsc_khz: crate::clock::host_tsc_khz(),
        }
    }

    /// Does something with the interrupt controllers, then tells the vCPUs it
    /// concerns and the timer thread.
    pub fn with_chipset<T>(&self, f: impl FnOnce(&mut Chipset) -> T) -> T {
        self.with_chipset_on(usize::MAX, f)
    }

    /// As [`Self::with_chipset`], called by the thread of vCPU `running`,
    /// which needs no wake-up.
    pub fn with_chipset_on<T>(&self, running: usize, f: impl FnOnce(&mut Chipset) -> T) -> T {
        let mut chipset = self.chipset.lock();
        let result = f(&mut chipset);
        let vcpus = self.vcpus.read();
        for cpu in chipset.take_attention() {
            match vcpus.get(cpu) {
                Some(shared) if cpu == running => shared.note_event(),
                Some(shared) => shared.notify_event(),
                None => {}
            }
        }
        if let Some(ns) = chipset.next_deadline() {
            self.timer.deadline(ns);
        }
        result
    }

    /// Fires expired timers if the timer thread has not come to it yet: a halted
    /// vCPU that is awake is sooner.
    pub fn fire_due_timers(&self) {
        if self.timer.take_due(self.clock.now_ns())
            && let Some(next) = self.fire_timers()
        {
            self.timer.deadline(next);
        }
    }

    /// Fires expired timers; the next deadline in ns.
    pub fn fire_timers(&self) -> Option<u64> {
        let next = self.with_chipset(|c| {
            c.advance(self.clock.now_ns());
            c.next_deadline()
        });
        let correction = self.with_kvmclock(|c, map| c.tick(&self.clock, map));
        next.into_iter().chain(correction).min()
    }

    /// vCPU `index` has its page of the paravirtual clock at `gpa`, or none.
    pub fn set_kvmclock_page(&self, index: usize, gpa: Option<u64>, tsc_offset: u64) {
        let due = self.with_kvmclock(|c, map| {
            c.set_page(index, gpa, tsc_offset, map);
            c.tick(&self.clock, map)
        });
        if let Some(ns) = due {
            self.timer.deadline(ns);
        }
    }

    /// Does something that may write the clock's pages.
    fn with_kvmclock<T>(&self, f: impl FnOnce(&mut KvmClock, &SlotMap) -> T) -> T {
        let mut clock = self.kvmclock.lock();
        let result = f(&mut clock, &self.memory.map());
        let written = clock.take_written();
        drop(clock);
        for (gpa, len) in written {
            hv::Vm::memory_written(self, gpa, len);
        }
        result
    }

    fn need_irqchip(&self, what: &'static str) -> Result<()> {
        if self.has_irqchip() {
            Ok(())
        } else {
            Err(Error::Missing(what, "an irqchip"))
        }
    }
}

impl Drop for SoftVm {
    fn drop(&mut self) {
        self.timer.stop();
    }
}

#[allow(unsafe_code, reason = "the trait's memory call is unsafe")]
impl hv::Vm for SoftVm {
    unsafe fn set_memory(&self, s: MemSlot) -> Result<()> {
        let why = |e| match e {
            SlotError::Misaligned => "address or size is not a multiple of 4 KiB, or wraps",
            SlotError::Overlap => "overlaps another slot",
            SlotError::NoSuchSlot => "no such slot to delete",
            SlotError::Resize => "the size of a slot cannot change",
        };
        if s.slot >= 509 {
            return Err(Error::BadSlot {
                slot: s.slot,
                why: "slot number above 508",
            });
        }
        let log = s.flags.has(MemFlags::LOG_DIRTY);
        let stress = self.options.stress.logged && !log;
        // No vCPU may use the old slots when the caller unmaps their memory.
        let _stopped = self.stop_world(usize::MAX);
        let new = NewSlot {
            id: s.slot,
            gpa: s.gpa,
            size: s.size,
            hva: s.hva,
            readonly: s.flags.has(MemFlags::READONLY),
            log_dirty: log || stress,
            anonymous: s.flags.has(MemFlags::ANONYMOUS),
        };
        // SAFETY: the caller's contract is this trait method's.
        unsafe { self.memory.set_slot(new) }.map_err(|e| Error::BadSlot {
            slot: s.slot,
            why: why(e),
        })?;
        let mut logged = self.logged.lock();
        logged.retain(|slot| *slot != s.slot);
        if stress && s.size > 0 {
            logged.push(s.slot);
        }
        drop(logged);
        self.flush(&mut self.code.lock());
        Ok(())
    }
    fn dirty_log(&self, slot: u32) -> Result<Vec<u64>> {
        let asked_for = !self.logged.lock().contains(&slot);
        let log = asked_for.then(|| self.memory.dirty_log(slot)).flatten();
        let log = log.ok_or(Error::BadSlot {
            slot,
            why: "does not exist or has no dirty log",
        })?;
        // What is written from now on belongs to the next log.
        self.ask_and_wait(usize::MAX, Forget::all);
        Ok(log)
    }
    fn memory_written(&self, gpa: u64, len: u64) {
        let map = self.memory.map();
        map.mark_dirty(gpa, len);
        // Translators mark a page before they read its bytes, so either we
        // see the mark or they see what was written.
        fence(Ordering::SeqCst);
        let mut dropped = Vec::new();
        for (at, len) in softmmu::pages_of(gpa, len) {
            if map.page(at).is_some_and(|page| page.has_code()) {
                dropped.extend(self.code.lock().invalidate(at, len));
            }
        }
        if !dropped.is_empty() {
            self.ask_others(usize::MAX, |f| f.code(&dropped));
        }
    }
    fn create_irqchip(&self) -> Result<()> {
        if self.has_irqchip.load(Ordering::Acquire) {
            return Err(Error::Exists("the irqchip"));
        }
        if !self.vcpus.read().is_empty() {
            return Err(Error::Missing("create_irqchip", "a VM without vCPUs"));
        }
        self.has_irqchip.store(true, Ordering::Release);
        Ok(())
    }
    fn create_pit(&self) -> Result<()> {
        if self.with_chipset(|c| c.pit().is_some()) {
            return Err(Error::Exists("the PIT"));
        }
        self.need_irqchip("create_pit")?;
        self.with_chipset(Chipset::add_pit);
        Ok(())
    }
    fn set_irq_line(&self, gsi: u32, level: bool) -> Result<()> {
        self.need_irqchip("set_irq_line")?;
        self.with_chipset(|c| c.set_gsi(gsi, level));
        Ok(())
    }
    fn signal_msi(&self, address: u64, data: u32) -> Result<bool> {
        self.need_irqchip("signal_msi")?;
        Ok(self.with_chipset(|c| c.msi(address, data)))
    }
    fn set_gsi_routing(&self, routes: &[kvm_irq_routing_entry]) -> Result<()> {
        let mut table = Vec::with_capacity(routes.len());
        for r in routes {
            table.push((r.gsi, crate::state::route(r)?));
        }
        let table: Vec<(u32, Route)> = table;
        let routing = Routing::new(table).map_err(|_| Error::InvalidState {
            group: "GSI routing",
            why: "a GSI, chip or pin is out of range",
        })?;
        self.with_chipset(|c| c.set_routing(routing));
        Ok(())
    }
    fn irqchip(&self, chip: u32) -> Result<kvm_irqchip> {
        self.need_irqchip("irqchip")?;
        crate::state::irqchip(&self.chipset.lock(), chip)
    }
    fn set_irqchip(&self, chip: &kvm_irqchip) -> Result<()> {
        self.need_irqchip("set_irqchip")?;
        self.with_chipset(|c| crate::state::set_irqchip(c, chip))
    }
    fn pit(&self) -> Result<kvm_pit_state2> {
        crate::state::pit(&mut self.chipset.lock(), self.clock.now_ns())
    }
    fn set_pit(&self, pit: &kvm_pit_state2) -> Result<()> {
        let now = self.clock.now_ns();
        self.with_chipset(|c| crate::state::set_pit(c, pit, now))
    }
    fn clock_ns(&self) -> Result<u64> {
        Ok(self.kvmclock.lock().at(crate::clock::host_tsc()))
    }
    fn set_clock_ns(&self, ns: u64) -> Result<()> {
        self.with_kvmclock(|c, map| c.set(ns, map));
        Ok(())
    }
    fn irq_counts(&self) -> Vec<(&'static str, Vec<u64>)> {
        if !self.has_irqchip.load(Ordering::Acquire) {
            return Vec::new();
        }
        let raised = self.with_chipset(|c| c.raised());
        let (pic, ioapic) = (raised.pic.to_vec(), raised.ioapic.to_vec());
        vec![("isa-i8259", pic), ("ioapic", ioapic)]
    }
    fn create_vcpu(&self, id: u32) -> Result<Box<dyn hv::Vcpu>> {
        if id >= crate::MAX_VCPUS {
            return Err(Error::BadVcpu {
                id,
                why: "ids go up to 254",
            });
        }
        let mut ids = self.ids.lock();
        if ids.contains(&id) {
            return Err(Error::BadVcpu {
                id,
                why: "exists already",
            });
        }
        let vm = self
            .this
            .upgrade()
            .ok_or(Error::Missing("create_vcpu", "a VM"))?;
        let index = ids.len();
        if self.options.lockstep && index > 0 {
            return Err(Error::Unsupported("lockstep with more than one vCPU"));
        }
        if index == 1 {
            let _stopped = self.stop_world(usize::MAX);
            let mut code = self.code.lock();
            code.alone = false;
            self.flush(&mut code);
        }
        let vcpu = SoftVcpu::create(vm, id, index)?;
        ids.push(id);
        Ok(Box::new(vcpu))
    }
    fn profile(&self) -> Option<String> {
        self.count_samples(&self.code.lock());
        let profile = self.profile.lock();
        self.options.profile.then(|| profile.to_string())
    }
    fn counters(&self) -> Vec<(&'static str, u64)> {
        let code = self.code.lock().stats;
        let set = |c: &std::sync::atomic::AtomicU64, v| c.store(v, Ordering::Relaxed);
        set(&self.counters.translations, code.blocks);
        set(&self.counters.translated_insns, code.instructions);
        set(&self.counters.translated_bytes, code.bytes);
        set(&self.counters.covered_accesses, code.covered);
        set(&self.counters.invalidations, code.invalidated);
        self.counters.list()
    }
}

#[cfg(test)]
mod tests;
