//! Memory slots: read-only, dirty log, deletion, moves (KVM API 4.35, 4.8).

use super::in_modes;
use crate::VcpuExit::{MmioRead, MmioWrite};
use crate::conformance::guest::{Guest, Mode};
use crate::conformance::layout::*;
use crate::conformance::ram::Ram;
use crate::conformance::{Failure, expect};
use crate::{Hypervisor, MemFlags};
use iced_x86::code_asm::*;

group! { "slots":
    read_only_slot_exits_on_write "KVM API 4.35, KVM_MEM_READONLY",
    read_only_slot_executes "KVM API 4.35, KVM_MEM_READONLY",
    dirty_log_names_written_pages "KVM API 4.8",
    dirty_log_clears_when_read "KVM API 4.8",
    dirty_log_switched_on_later "KVM API 4.35, KVM_MEM_LOG_DIRTY_PAGES",
    dirty_log_sees_page_table_walks "KVM API 4.8, SDM 3 4.8",
    deleted_slot_becomes_mmio "KVM API 4.35",
    moved_slot "KVM API 4.35",
    one_mapping_at_two_addresses "KVM API 4.35",
    translate_walks_the_tables "KVM API 4.19",
}

/// Where the extra slot goes: inside the MMIO window, mapped in every mode.
const AT: u64 = MMIO + 0x1_0000;
const SLOT: u32 = 5;

/// A guest with four pages at [`AT`].
fn with_slot(
    hv: &dyn Hypervisor,
    mode: Mode,
    ram: &Ram,
    flags: MemFlags,
) -> Result<Guest, Failure> {
    let g = Guest::new(hv, mode)?;
    g.add_slot(SLOT, AT, ram, 0x4000, flags)?;
    Ok(g)
}

fn read_only_slot_exits_on_write(hv: &dyn Hypervisor) -> Result<(), Failure> {
    if !hv.capabilities().readonly_mem {
        return Err(Failure::Skipped("read-only slots"));
    }
    for mode in [Mode::Prot32, Mode::Long] {
        let rom = Ram::with_size(0x4000);
        rom.write(0x10, &0x1234_5678_u32.to_le_bytes());
        let mut g = with_slot(hv, mode, &rom, MemFlags::READONLY)?;
        g.asm(|a| {
            a.mov(eax, dword_ptr(AT as u32 + 0x10))?;
            a.mov(dword_ptr(AT as u32 + 0x10), ecx)?;
            a.mov(edx, dword_ptr(AT as u32 + 0x10))?;
            a.hlt()
        })?;
        g.set(|r| r.rcx = 0x99)?;
        g.run_to_end()?;
        let r = g.regs()?;
        expect("EAX, EDX", (r.rax, r.rdx), (0x1234_5678, 0x1234_5678))?;
        g.expect_log(&[MmioWrite {
            gpa: AT + 0x10,
            size: 4,
            value: 0x99,
        }])?;
    }
    Ok(())
}

fn read_only_slot_executes(hv: &dyn Hypervisor) -> Result<(), Failure> {
    if !hv.capabilities().readonly_mem {
        return Err(Failure::Skipped("read-only slots"));
    }
    let rom = Ram::with_size(0x4000);
    rom.write(0, &[0xb8, 1, 2, 3, 4, 0xc3]); // mov eax, 0x04030201; ret
    let mut g = with_slot(hv, Mode::Long, &rom, MemFlags::READONLY)?;
    g.asm(|a| {
        a.mov(ecx, AT as u32)?;
        a.call(rcx)?;
        a.hlt()
    })?;
    g.run_to_end()?;
    expect("EAX", g.regs()?.rax, 0x0403_0201)
}

/// `mov [AT + offset], al` for each offset, then HLT.
fn store_at(g: &mut Guest, offsets: &[u32]) -> Result<(), Failure> {
    g.asm(|a| {
        for offset in offsets {
            a.mov(byte_ptr(AT as u32 + offset), al)?;
        }
        a.hlt()
    })?;
    g.enter_kernel()?;
    g.run_to_end()
}

fn dirty_log_names_written_pages(hv: &dyn Hypervisor) -> Result<(), Failure> {
    for mode in [Mode::Prot32, Mode::Pae, Mode::Long] {
        let ram = Ram::with_size(0x4000);
        let mut g = with_slot(hv, mode, &ram, MemFlags::LOG_DIRTY)?;
        g.vm.dirty_log(SLOT)?;
        store_at(&mut g, &[0x10, 0x2fff])?;
        expect("bitmap", g.vm.dirty_log(SLOT)?, vec![0b0101])?;
    }
    Ok(())
}

fn dirty_log_clears_when_read(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let ram = Ram::with_size(0x4000);
    let mut g = with_slot(hv, Mode::Long, &ram, MemFlags::LOG_DIRTY)?;
    store_at(&mut g, &[0x3000])?;
    expect("first", g.vm.dirty_log(SLOT)?, vec![0b1000])?;
    expect("second", g.vm.dirty_log(SLOT)?, vec![0])?;
    store_at(&mut g, &[0x3000])?;
    expect("written again", g.vm.dirty_log(SLOT)?, vec![0b1000])
}

fn dirty_log_switched_on_later(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let ram = Ram::with_size(0x4000);
    let mut g = with_slot(hv, Mode::Long, &ram, MemFlags::NONE)?;
    store_at(&mut g, &[0x1000])?;
    g.add_slot(SLOT, AT, &ram, 0x4000, MemFlags::LOG_DIRTY)?;
    g.vm.dirty_log(SLOT)?;
    store_at(&mut g, &[0x1000, 0x2000])?;
    expect("bitmap", g.vm.dirty_log(SLOT)?, vec![0b0110])
}

fn dirty_log_sees_page_table_walks(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let ram = Ram::with_size(0x4000);
    let mut g = with_slot(hv, Mode::Long, &ram, MemFlags::LOG_DIRTY)?;
    // A page table inside the logged slot: setting A writes it.
    let far = 0x80_0000_0000;
    g.map(far, USER_DATA, 7);
    let pde = g.entry(far, 2);
    ram.write(0x2000, &(USER_DATA | 7).to_le_bytes());
    g.write_u64(pde, (AT + 0x2000) | 7);
    g.vm.dirty_log(SLOT)?;
    g.asm(|a| {
        a.mov(rbx, far)?;
        a.mov(eax, ptr(rbx))?;
        a.hlt()
    })?;
    g.run_to_end()?;
    expect("bitmap", g.vm.dirty_log(SLOT)?, vec![0b0100])
}

fn deleted_slot_becomes_mmio(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let ram = Ram::with_size(0x4000);
    ram.write(0x20, &[7]);
    let mut g = with_slot(hv, Mode::Long, &ram, MemFlags::NONE)?;
    g.asm(|a| {
        a.movzx(eax, byte_ptr(AT as u32 + 0x20))?;
        a.hlt()
    })?;
    g.run_to_end()?;
    expect("from the slot", g.regs()?.rax, 7)?;
    g.delete_slot(SLOT)?;
    g.enter_kernel()?;
    g.reads.push_back(0x55);
    g.run_to_end()?;
    expect("from the VMM", g.regs()?.rax, 0x55)?;
    g.expect_log(&[MmioRead {
        gpa: AT + 0x20,
        size: 1,
    }])
}

fn moved_slot(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let ram = Ram::with_size(0x4000);
    ram.write(0, &[0x21]);
    let mut g = with_slot(hv, Mode::Long, &ram, MemFlags::NONE)?;
    g.asm(|a| {
        a.movzx(eax, byte_ptr(AT as u32))?;
        a.movzx(ecx, byte_ptr(AT as u32 + 0x8000))?;
        a.hlt()
    })?;
    g.reads.push_back(0xee);
    g.run_to_end()?;
    let r = g.regs()?;
    expect("before", (r.rax, r.rcx), (0x21, 0xee))?;
    g.add_slot(SLOT, AT + 0x8000, &ram, 0x4000, MemFlags::NONE)?;
    g.enter_kernel()?;
    g.reads.push_back(0xdd);
    g.run_to_end()?;
    let r = g.regs()?;
    expect("after", (r.rax, r.rcx), (0xdd, 0x21))
}

fn one_mapping_at_two_addresses(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let ram = Ram::with_size(0x4000);
    let mut g = with_slot(hv, Mode::Long, &ram, MemFlags::NONE)?;
    g.add_slot(SLOT + 1, AT + 0x8000, &ram, 0x4000, MemFlags::NONE)?;
    g.asm(|a| {
        a.mov(dword_ptr(AT as u32 + 4), 0x1357)?;
        a.mov(eax, dword_ptr(AT as u32 + 0x8004))?;
        a.hlt()
    })?;
    g.run_to_end()?;
    expect("EAX", g.regs()?.rax, 0x1357)
}

fn translate_walks_the_tables(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Paging32, Mode::Pae, Mode::Long], |g| {
        let gva = 0x4000_0000;
        g.map(gva, USER_DATA, 7);
        g.flush_tlb()?; // loads PAE's top-level entries (SDM vol 3, 4.4.1)
        expect(
            "mapped",
            g.cpu.translate(gva + 0x234)?,
            Some(USER_DATA + 0x234),
        )?;
        expect("not mapped", g.cpu.translate(gva + 0x1000)?, None)
    })
}
