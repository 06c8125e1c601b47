//! Code whose pages are mapped elsewhere, or otherwise, between flushes that
//! also happen when nothing changed (SDM vol 3, 4.10): what is known of code may
//! outlive a flush only as long as its mapping does.

use super::in_modes;
use super::tlb::reload_cr3;
use crate::Hypervisor;
use crate::conformance::guest::{Guest, Mode};
use crate::conformance::layout::*;
use crate::conformance::{Failure, expect};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use x86::cr4;
use x86::paging::{pf, pte};

group! { "remap":
    global_code_and_invlpg "SDM 3 4.10.4.1",
    global_code_and_cr4_pge "SDM 3 4.10.4.1",
    global_code_and_cr4_pge_in_pae "SDM 3 4.4.1, 4.10.4.1",
    local_code_and_cr3 "SDM 3 4.10.4.1",
    user_code_and_cr3 "SDM 3 4.10.4.1",
    code_in_a_split_large_page "SDM 3 4.10.4.1",
    fetch_sets_accessed_again "SDM 3 4.8",
    code_made_no_execute "SDM 3 4.6, 6.15 #PF",
}

/// Linear page of the code, and where it is mapped to at first; the other page
/// is the next one.
const GVA: u64 = 0x4000_0000;
/// Those in which a write of CR4.PGE does not load PDPTEs.
const NOT_PAE: [Mode; 2] = [Mode::Paging32, Mode::Long];
const FLAT: [Mode; 3] = [Mode::Paging32, Mode::Pae, Mode::Long];
/// Rounds of each program.
const ROUNDS: u32 = 40;

type Flush = fn(&mut CodeAssembler) -> Result<(), IcedError>;

fn invlpg(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.invlpg(ptr(GVA as u32))
}

/// Turns CR4.PGE over and back.
fn toggle_pge(a: &mut CodeAssembler) -> Result<(), IcedError> {
    for _ in 0..2 {
        if a.bitness() == 64 {
            a.mov(rax, cr4)?;
            a.xor(rax, cr4::PGE as i32)?;
            a.mov(cr4, rax)?;
        } else {
            a.mov(eax, cr4)?;
            a.xor(eax, cr4::PGE as u32)?;
            a.mov(cr4, eax)?;
        }
    }
    Ok(())
}

/// Functions at GVA in both pages that return 1 and 2.
fn functions(g: &mut Guest) -> Result<(), Failure> {
    let bits = g.mode.bits();
    for (page, value) in [(SPARE, 1), (SPARE + 0x1000, 2)] {
        g.code_at(page, GVA, bits, |a| {
            a.mov(eax, value)?;
            a.ret()
        })?;
    }
    Ok(())
}

/// EBX += what is returned by a direct and by an indirect call of `at`, which is
/// in EDI.
fn call_twice(a: &mut CodeAssembler, at: u64) -> Result<(), IcedError> {
    a.call(at)?;
    a.add(ebx, eax)?;
    if a.bitness() == 64 {
        a.call(rdi)?;
    } else {
        a.call(edi)?;
    }
    a.add(ebx, eax)
}

/// Each round calls code, flushes, calls it again, maps the other page there,
/// flushes.
fn remapped(hv: &dyn Hypervisor, modes: &[Mode], flags: u64, flush: Flush) -> Result<(), Failure> {
    in_modes(hv, modes, |g| {
        g.map(GVA, SPARE, pte::P | pte::RW | flags);
        let entry = g.pte_at(GVA);
        g.flush_tlb()?;
        functions(g)?;
        g.asm(|a| {
            let mut top = a.create_label();
            a.mov(edi, GVA as u32)?;
            a.mov(esi, ROUNDS)?;
            a.set_label(&mut top)?;
            call_twice(a, GVA)?;
            flush(a)?;
            call_twice(a, GVA)?;
            a.xor(dword_ptr(entry as u32), 0x1000)?; // SPARE is even
            flush(a)?;
            a.dec(esi)?;
            a.jne(top)?;
            a.hlt()
        })?;
        g.run_to_end()?;
        let calls = u64::from(ROUNDS) * 4;
        expect("half of the calls 1, half 2", g.regs()?.rbx, calls * 3 / 2)
    })
}

fn global_code_and_invlpg(hv: &dyn Hypervisor) -> Result<(), Failure> {
    remapped(hv, &FLAT, pte::G, invlpg)
}

fn global_code_and_cr4_pge(hv: &dyn Hypervisor) -> Result<(), Failure> {
    remapped(hv, &NOT_PAE, pte::G, toggle_pge)
}

fn global_code_and_cr4_pge_in_pae(hv: &dyn Hypervisor) -> Result<(), Failure> {
    remapped(hv, &[Mode::Pae], pte::G, toggle_pge)
}

fn local_code_and_cr3(hv: &dyn Hypervisor) -> Result<(), Failure> {
    remapped(hv, &FLAT, 0, reload_cr3)
}

fn user_code_and_cr3(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // User code calls a page, is thrown out, CR3 is written, and again; the
    // page changes in every other round.
    in_modes(hv, &FLAT, |g| {
        let rights = pte::P | pte::RW | pte::US;
        g.map(GVA, SPARE, rights);
        let entry = g.pte_at(GVA);
        g.flush_tlb()?;
        functions(g)?;
        g.user_asm(|a| {
            a.mov(edi, GVA as u32)?;
            a.xor(ebx, ebx)?;
            call_twice(a, GVA)?;
            a.ud2()
        })?;
        for round in 0..12 {
            let page = SPARE + 0x1000 * (round / 2 % 2);
            g.write_uint(entry, g.entry_size(), page | rights);
            g.asm(|a| {
                reload_cr3(a)?;
                a.hlt()
            })?;
            g.set(|r| r.rip = CODE)?;
            g.run_to_end()?;
            g.enter_user()?;
            let frame = g.run_to_exception()?;
            expect("vector", frame.vector, 6)?;
            expect(
                "round",
                (round, g.regs()?.rbx),
                (round, 2 * (1 + round / 2 % 2)),
            )?;
            g.enter_kernel()?;
        }
        Ok(())
    })
}

fn code_in_a_split_large_page(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // The large page around GVA becomes small ones; INVLPG of another address
    // in it forgets all of it.
    in_modes(hv, &[Mode::Pae, Mode::Long], |g| {
        functions(g)?;
        let pde = g.entry(GVA, 2);
        g.write_u64(pde, pte::P | pte::RW | pte::PS);
        g.flush_tlb()?;
        let at = GVA + SPARE; // the large page maps the start of memory
        let table = g.table_page();
        g.write_u64(
            table + (SPARE >> 12) * 8,
            (SPARE + 0x1000) | pte::P | pte::RW,
        );
        g.asm(|a| {
            let mut top = a.create_label();
            a.mov(edi, at as u32)?;
            a.mov(esi, 2)?; // the large page, then the small one
            a.set_label(&mut top)?;
            call_twice(a, at)?;
            a.mov(dword_ptr(pde as u32), (table | pte::P | pte::RW) as u32)?;
            a.invlpg(ptr(GVA as u32 + 0x1f_f000))?;
            a.dec(esi)?;
            a.jne(top)?;
            a.hlt()
        })?;
        g.run_to_end()?;
        expect("1 + 1 + 2 + 2", g.regs()?.rbx, 6)
    })
}

fn fetch_sets_accessed_again(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &NOT_PAE, |g| {
        g.map(GVA, SPARE, pte::P | pte::RW | pte::G);
        let entry = g.pte_at(GVA);
        g.flush_tlb()?;
        functions(g)?;
        g.asm(|a| {
            let mut top = a.create_label();
            a.mov(edi, GVA as u32)?;
            a.mov(esi, ROUNDS)?;
            a.set_label(&mut top)?;
            call_twice(a, GVA)?;
            // ECX += it was set; then it is clear.
            a.btr(dword_ptr(entry as u32), 5)?;
            a.adc(ecx, 0)?;
            toggle_pge(a)?;
            a.dec(esi)?;
            a.jne(top)?;
            a.hlt()
        })?;
        g.run_to_end()?;
        let r = g.regs()?;
        expect("calls", r.rbx, u64::from(ROUNDS) * 2)?;
        expect("times it was set", r.rcx, u64::from(ROUNDS))
    })
}

fn code_made_no_execute(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Pae, Mode::Long], |g| {
        g.map(GVA, SPARE, pte::P | pte::RW | pte::G);
        let entry = g.pte_at(GVA);
        g.flush_tlb()?;
        functions(g)?;
        g.asm(|a| {
            a.mov(edi, GVA as u32)?;
            call_twice(a, GVA)?;
            call_twice(a, GVA)?;
            a.or(dword_ptr((entry + 4) as u32), 1 << 31)?;
            invlpg(a)?;
            call_twice(a, GVA)?;
            a.hlt()
        })?;
        let frame = g.run_to_exception()?;
        expect("vector", frame.vector, 14)?;
        expect("error code", frame.error, Some(u64::from(pf::P | pf::I)))?;
        expect("calls before", g.regs()?.rbx, 4)
    })
}
