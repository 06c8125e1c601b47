//! What a VM refuses, by which error, and that it is none the worse for it.

use crate::conformance::layout::MMIO;
use crate::conformance::ram::Ram;
use crate::conformance::{Failure, ensure, expect};
use crate::{Error, Hypervisor, MemFlags, MemSlot, Vm};

group! { "refusals":
    overlapping_slots "KVM API 4.35",
    slots_off_their_pages "KVM API 4.35",
    slots_that_wrap "KVM API 4.35",
    slot_numbers_without_end "KVM API 4.35",
    a_slot_of_another_size "KVM API 4.35",
    a_slot_that_is_not_there "KVM API 4.35",
    dirty_logs_that_are_not_there "KVM API 4.8",
    a_refused_change_leaves_the_dirty_log "KVM API 4.8",
    vcpu_ids "KVM API 4.7",
    a_second_irqchip "KVM API 4.24",
    an_irqchip_after_a_vcpu "KVM API 4.24",
    pits "KVM API 4.71",
}

const PAGE: u64 = 0x1000;

const SLOT: MemSlot = MemSlot {
    slot: 5,
    gpa: MMIO,
    size: 4 * PAGE,
    hva: 0,
    flags: MemFlags::NONE,
};

/// Sets a slot on memory that outlives the VM.
fn set(vm: &dyn Vm, ram: &Ram, slot: MemSlot) -> crate::Result<()> {
    let hva = ram.hva();
    // SAFETY: cases declare their memory before the VM, so that it drops later; it is
    // touched by nobody.
    unsafe { vm.set_memory(MemSlot { hva, ..slot }) }
}

fn bad_slot(what: &str, answer: crate::Result<()>) -> Result<(), Failure> {
    match answer {
        Err(Error::BadSlot { slot: 5 | 6, .. }) => Ok(()),
        other => Err(Failure::Wrong(format!("{what}: {other:?}"))),
    }
}

/// A VM that has [`SLOT`], and its memory.
fn with_slot(
    hv: &dyn Hypervisor,
    check: impl FnOnce(&dyn Vm, &Ram) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let ram = Ram::with_size(SLOT.size as usize);
    let vm = hv.create_vm()?;
    set(&*vm, &ram, SLOT)?;
    check(&*vm, &ram)
}

fn overlapping_slots(hv: &dyn Hypervisor) -> Result<(), Failure> {
    with_slot(hv, |vm, ram| {
        let next = |gpa| MemSlot {
            slot: 6,
            gpa,
            size: PAGE,
            ..SLOT
        };
        bad_slot("its last page", set(vm, ram, next(MMIO + 3 * PAGE)))?;
        bad_slot("its first page", set(vm, ram, next(MMIO)))?;
        Ok(set(vm, ram, next(MMIO + 4 * PAGE))?)
    })
}

fn slots_off_their_pages(hv: &dyn Hypervisor) -> Result<(), Failure> {
    with_slot(hv, |vm, ram| {
        let slot = MemSlot { slot: 6, ..SLOT };
        let gpa = MMIO + 16 * PAGE + 0x800;
        bad_slot("its address", set(vm, ram, MemSlot { gpa, ..slot }))?;
        let (gpa, size) = (MMIO + 16 * PAGE, PAGE + 0x800);
        bad_slot("its size", set(vm, ram, MemSlot { gpa, size, ..slot }))
    })
}

fn slots_that_wrap(hv: &dyn Hypervisor) -> Result<(), Failure> {
    with_slot(hv, |vm, ram| {
        let gpa = 0_u64.wrapping_sub(PAGE);
        let slot = 6;
        bad_slot("it", set(vm, ram, MemSlot { slot, gpa, ..SLOT }))
    })
}

fn slot_numbers_without_end(hv: &dyn Hypervisor) -> Result<(), Failure> {
    with_slot(hv, |vm, ram| {
        let gpa = MMIO + 16 * PAGE;
        for slot in [0xffff, u32::MAX] {
            match set(vm, ram, MemSlot { slot, gpa, ..SLOT }) {
                Err(Error::BadSlot { slot: refused, .. }) => expect("slot", refused, slot)?,
                other => return Err(Failure::Wrong(format!("slot {slot:#x}: {other:?}"))),
            }
        }
        Ok(())
    })
}

fn a_slot_of_another_size(hv: &dyn Hypervisor) -> Result<(), Failure> {
    with_slot(hv, |vm, ram| {
        let size = 2 * PAGE;
        bad_slot("smaller", set(vm, ram, MemSlot { size, ..SLOT }))?;
        // As it is, and after it was deleted.
        set(vm, ram, SLOT)?;
        set(vm, ram, MemSlot { size: 0, ..SLOT })?;
        Ok(set(vm, ram, MemSlot { size, ..SLOT })?)
    })
}

fn a_slot_that_is_not_there(hv: &dyn Hypervisor) -> Result<(), Failure> {
    with_slot(hv, |vm, ram| {
        let (slot, size) = (6, 0);
        bad_slot("deleted", set(vm, ram, MemSlot { slot, size, ..SLOT }))
    })
}

fn dirty_logs_that_are_not_there(hv: &dyn Hypervisor) -> Result<(), Failure> {
    with_slot(hv, |vm, _| {
        bad_slot("a slot without one", vm.dirty_log(5).map(drop))?;
        bad_slot("no slot", vm.dirty_log(6).map(drop))
    })
}

fn a_refused_change_leaves_the_dirty_log(hv: &dyn Hypervisor) -> Result<(), Failure> {
    with_slot(hv, |vm, ram| {
        let flags = MemFlags::LOG_DIRTY;
        set(vm, ram, MemSlot { flags, ..SLOT })?;
        let size = PAGE;
        bad_slot("smaller", set(vm, ram, MemSlot { size, ..SLOT }))?;
        expect("words of the log", vm.dirty_log(5)?.len(), 1)
    })
}

fn vcpu_ids(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let vm = hv.create_vm()?;
    let _first = vm.create_vcpu(0)?;
    for id in [0, u32::MAX] {
        match vm.create_vcpu(id) {
            Err(Error::BadVcpu { id: refused, .. }) => expect("id", refused, id)?,
            Err(other) => return Err(Failure::Wrong(format!("vCPU {id}: {other}"))),
            Ok(_) => return Err(Failure::Wrong(format!("vCPU {id} was made"))),
        }
    }
    Ok(())
}

fn a_second_irqchip(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let vm = hv.create_vm()?;
    vm.create_irqchip()?;
    let again = vm.create_irqchip();
    ensure(
        "a second one was made",
        matches!(again, Err(Error::Exists(_))),
    )
}

fn an_irqchip_after_a_vcpu(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let vm = hv.create_vm()?;
    let _vcpu = vm.create_vcpu(0)?;
    let late = vm.create_irqchip();
    ensure("it was made", matches!(late, Err(Error::Missing(..))))
}

fn pits(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let vm = hv.create_vm()?;
    let alone = vm.create_pit();
    ensure(
        "without an irqchip",
        matches!(alone, Err(Error::Missing(..))),
    )?;
    vm.create_irqchip()?;
    vm.create_pit()?;
    ensure(
        "a second one",
        matches!(vm.create_pit(), Err(Error::Exists(_))),
    )
}
