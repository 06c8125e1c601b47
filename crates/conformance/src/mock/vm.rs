//! The VM of a broken backend.

use super::Defect;
use super::vcpu::BrokenVcpu;
use hv::abi::{kvm_irq_routing_entry, kvm_irqchip, kvm_pit_state2};
use hv::{MemFlags, MemSlot, Result, Vcpu, Vm};
use std::sync::{Arc, Mutex, PoisonError};

/// What the VM knows of guest memory, for the defects that touch it.
pub(super) struct Memory {
    inner: Arc<dyn Vm>,
    slots: Mutex<Vec<MemSlot>>,
}

impl Memory {
    /// Flips bits of the byte at `gpa`, if a slot holds it.
    #[allow(unsafe_code, reason = "guest memory by its host address")]
    pub(super) fn flip(&self, gpa: u64, bits: u8) {
        if let Some(byte) = self.byte(gpa) {
            // SAFETY: `byte` points into a slot, whose mapping the caller of
            // `set_memory` promised to keep; it is accessed by raw pointer.
            unsafe { byte.write_volatile(byte.read_volatile() ^ bits) };
            self.inner.memory_written(gpa, 1);
        }
    }

    /// Clears bits of the byte at `gpa`.
    #[allow(unsafe_code, reason = "guest memory by its host address")]
    pub(super) fn clear(&self, gpa: u64, bits: u8) {
        if let Some(byte) = self.byte(gpa) {
            // SAFETY: as in `flip`.
            unsafe { byte.write_volatile(byte.read_volatile() & !bits) };
        }
    }

    fn byte(&self, gpa: u64) -> Option<*mut u8> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = slots
            .iter()
            .find(|s| (s.gpa..s.gpa + s.size).contains(&gpa))?;
        Some((slot.hva + (gpa - slot.gpa)) as *mut u8)
    }

    fn remember(&self, slot: MemSlot) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|s| s.slot != slot.slot);
        if slot.size > 0 {
            slots.push(slot);
        }
    }

    fn knows(&self, slot: u32) -> bool {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.iter().any(|s| s.slot == slot)
    }
}

/// The vCPU that is made instead of one that cannot be.
const ANOTHER: u32 = 77;

pub(super) struct BrokenVm {
    inner: Arc<dyn Vm>,
    defect: Defect,
    memory: Arc<Memory>,
}

impl BrokenVm {
    pub(super) fn new(inner: Arc<dyn Vm>, defect: Defect) -> Self {
        let memory = Arc::new(Memory {
            inner: inner.clone(),
            slots: Mutex::default(),
        });
        Self {
            inner,
            defect,
            memory,
        }
    }

    /// The result, or this instead of an error if everything is accepted.
    fn accept<T>(&self, result: Result<T>, instead: T) -> Result<T> {
        match self.defect {
            Defect::AcceptsAll => result.or(Ok(instead)),
            _ => result,
        }
    }
}

impl Vm for BrokenVm {
    #[allow(unsafe_code, reason = "the contract's one unsafe method")]
    unsafe fn set_memory(&self, mut slot: MemSlot) -> Result<()> {
        if self.defect == Defect::SlotFlags {
            slot.flags = MemFlags::NONE;
        }
        if self.defect == Defect::SlotsStay && self.memory.knows(slot.slot) {
            return Ok(());
        }
        // SAFETY: the caller's promise, passed on.
        let result = unsafe { self.inner.set_memory(slot) };
        if result.is_ok() {
            self.memory.remember(slot);
        }
        self.accept(result, ())
    }

    fn dirty_log(&self, slot: u32) -> Result<Vec<u64>> {
        let mut log = self.accept(self.inner.dirty_log(slot), Vec::new())?;
        match self.defect {
            Defect::DirtyLogEmpty => log.fill(0),
            Defect::DirtyLogFull => log.fill(u64::MAX),
            _ => {}
        }
        Ok(log)
    }

    fn memory_written(&self, gpa: u64, len: u64) {
        self.inner.memory_written(gpa, len);
    }

    fn create_irqchip(&self) -> Result<()> {
        self.accept(self.inner.create_irqchip(), ())
    }

    fn create_pit(&self) -> Result<()> {
        self.accept(self.inner.create_pit(), ())
    }

    fn set_irq_line(&self, gsi: u32, level: bool) -> Result<()> {
        self.inner.set_irq_line(gsi, level)
    }

    fn signal_msi(&self, address: u64, data: u32) -> Result<bool> {
        self.inner.signal_msi(address, data)
    }

    fn set_gsi_routing(&self, routes: &[kvm_irq_routing_entry]) -> Result<()> {
        self.inner.set_gsi_routing(routes)
    }

    fn irqchip(&self, chip: u32) -> Result<kvm_irqchip> {
        self.inner.irqchip(chip)
    }

    fn set_irqchip(&self, chip: &kvm_irqchip) -> Result<()> {
        self.inner.set_irqchip(chip)
    }

    fn pit(&self) -> Result<kvm_pit_state2> {
        let mut state = self.inner.pit()?;
        if self.defect == Defect::Pit {
            state.channels[2].mode ^= 1;
        }
        Ok(state)
    }

    fn set_pit(&self, pit: &kvm_pit_state2) -> Result<()> {
        self.inner.set_pit(pit)
    }

    fn clock_ns(&self) -> Result<u64> {
        match self.defect {
            Defect::Clock => Ok(1),
            _ => self.inner.clock_ns(),
        }
    }

    fn set_clock_ns(&self, ns: u64) -> Result<()> {
        self.inner.set_clock_ns(ns)
    }

    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>> {
        let inner = match self.inner.create_vcpu(id) {
            Err(_) if self.defect == Defect::AcceptsAll => self.inner.create_vcpu(ANOTHER),
            made => made,
        }?;
        Ok(Box::new(BrokenVcpu::new(
            inner,
            self.defect,
            self.memory.clone(),
        )))
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let mut counters = self.inner.counters();
        if self.defect == Defect::Counters {
            counters.iter_mut().for_each(|c| c.1 = 0);
        }
        counters
    }
}
