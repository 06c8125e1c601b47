//! Cached translations: what may be stale and what may not (SDM vol 3, 4.10).
//! These cases pin the rules that a PCID-tagged software TLB must follow.

use super::in_modes;
use crate::Hypervisor;
use crate::conformance::guest::{Guest, Mode};
use crate::conformance::layout::*;
use crate::conformance::{Failure, expect};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use x86::paging::pte;
use x86::{cr0, cr4};

group! { "tlb":
    invlpg_drops_the_page "SDM 3 4.10.4.1",
    invlpg_drops_a_large_page "SDM 3 4.10.4.1",
    invlpg_drops_a_page_of_1_gib "SDM 3 4.10.4.1",
    invlpg_of_a_page_that_was_a_large_one "SDM 3 4.10.4.1",
    prefetch_of_anything_does_nothing "SDM 2 PREFETCHh",
    cr3_write_drops_everything "SDM 3 4.10.4.1",
    same_cr3_rewritten "SDM 3 4.10.4.1",
    global_page_survives_cr3_write "SDM 3 4.10.2.4",
    global_page_dropped_by_cr4_pge "SDM 3 4.10.4.1",
    global_page_dropped_by_cr4_pge_in_pae "SDM 3 4.4.1, 4.10.4.1",
    invlpg_drops_global_page "SDM 3 4.10.4.1",
    invlpg_drops_paging_structure_caches "SDM 3 4.10.3",
    wp_change_takes_effect "SDM 3 4.10.4.1",
    fault_drops_the_entry "SDM 3 4.10.4.3",
    pcid_entry_changed_while_inactive "SDM 3 4.10.4.1",
    pcid_kept_with_bit_63 "SDM 3 4.10.4.1, 2.5",
    pcid_reused_with_other_tables "SDM 3 4.10.4.1",
    pcid_tags_do_not_mix "SDM 3 4.10.1",
    pcid_needs_long_mode_and_zero_pcid "SDM 3 4.10.1",
    invpcid_one_address "SDM 2 INVPCID",
    invpcid_one_tag "SDM 2 INVPCID",
    invpcid_all "SDM 2 INVPCID",
    pae_pdptes_are_loaded_by_cr3 "SDM 3 4.4.1",
    pae_pdptes_with_reserved_bits_by_cr3 "SDM 3 4.4.1",
    pae_pdptes_with_reserved_bits_by_cr4 "SDM 3 4.4.1",
    pae_pdptes_with_reserved_bits_by_cr0 "SDM 3 4.4.1",
}

/// Linear page whose mapping the cases change; A and B are what it maps.
const GVA: u64 = 0x4000_0000;
const A: u64 = USER_DATA;
const B: u64 = USER_DATA + 0x1000;
const RW: u64 = pte::P | pte::RW;
/// Contents of the two pages.
const IN_A: u64 = 0xaaaa_0001;
const IN_B: u64 = 0xbbbb_0002;
const PAGED: [Mode; 4] = [Mode::Paging32, Mode::Pae, Mode::Long, Mode::Compat];

/// Marks the pages and maps GVA to A.
fn prepare(g: &mut Guest, flags: u64) -> Result<u64, Failure> {
    g.write_uint(A, 4, IN_A);
    g.write_uint(B, 4, IN_B);
    g.map(GVA, A, flags);
    g.flush_tlb()?;
    Ok(g.pte_at(GVA))
}

/// `mov [pte], B | flags` for a 32-bit-addressable PTE.
fn remap(a: &mut CodeAssembler, entry: u64, flags: u64) -> Result<(), IcedError> {
    a.mov(dword_ptr(entry as u32), (B | flags) as u32)
}

/// `mov reg, [GVA]`.
fn load(a: &mut CodeAssembler, into: AsmRegister32) -> Result<(), IcedError> {
    a.mov(into, dword_ptr(GVA as u32))
}

/// Writes CR3 with its own value.
pub(super) fn reload_cr3(a: &mut CodeAssembler) -> Result<(), IcedError> {
    if a.bitness() == 64 {
        a.mov(rax, cr3)?;
        a.mov(cr3, rax)
    } else {
        a.mov(eax, cr3)?;
        a.mov(cr3, eax)
    }
}

/// Runs; EBX and ECX must hold these.
fn expect_loads(g: &mut Guest, first: u64, second: u64) -> Result<(), Failure> {
    g.run_to_end()?;
    let r = g.regs()?;
    expect("before and after", (r.rbx, r.rcx), (first, second))
}

fn invlpg_drops_the_page(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &PAGED, |g| {
        let entry = prepare(g, RW)?;
        g.asm(|a| {
            load(a, ebx)?;
            remap(a, entry, RW)?;
            a.invlpg(ptr(GVA as u32 + 0x123))?;
            load(a, ecx)?;
            a.hlt()
        })?;
        expect_loads(g, IN_A, IN_B)
    })
}

fn invlpg_drops_a_large_page(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Pae, Mode::Long], |g| {
        let pde = g.entry(GVA, 2);
        let table = table_of_b(g);
        large_page_is_dropped(g, pde, table, GVA + 0x1f_f000)
    })
}

fn invlpg_drops_a_page_of_1_gib(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Long], |g| {
        let pdpte = g.entry(GVA, 3);
        let (directory, table) = (g.table_page(), table_of_b(g));
        g.write_u64(directory, table | RW);
        large_page_is_dropped(g, pdpte, directory, GVA + 0x1234_5000)
    })
}

/// A new page table that maps GVA + A to a page with another value than A has.
fn table_of_b(g: &mut Guest) -> u64 {
    g.write_uint(A, 4, IN_A);
    g.write_uint(0x10_0000 + A, 4, IN_B);
    let table = g.table_page();
    g.write_u64(table + (A >> 12) * 8, (0x10_0000 + A) | RW);
    table
}

/// Any address in a large page drops all of it: `entry` maps one, and leads to `table`
/// when INVLPG names `named`.
fn large_page_is_dropped(g: &mut Guest, entry: u64, table: u64, named: u64) -> Result<(), Failure> {
    g.write_u64(entry, RW | pte::PS);
    g.flush_tlb()?;
    g.asm(|a| {
        a.mov(ebx, dword_ptr((GVA + A) as u32))?;
        a.mov(dword_ptr(entry as u32), (table | RW) as u32)?;
        a.invlpg(ptr(named as u32))?;
        a.mov(ecx, dword_ptr((GVA + A) as u32))?;
        a.hlt()
    })?;
    expect_loads(g, IN_A, IN_B)
}

/// The large page comes back, and each of the small ones that were there meanwhile is
/// dropped by itself.
fn invlpg_of_a_page_that_was_a_large_one(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Pae, Mode::Long], |g| {
        let (pde, table) = (g.entry(GVA, 2), table_of_b(g));
        g.write_u64(pde, RW | pte::PS);
        g.flush_tlb()?;
        let at = (GVA + A) as u32;
        g.asm(|a| {
            a.mov(esi, dword_ptr(at))?;
            for (entry, into) in [(table | RW, ebx), (RW | pte::PS, ecx), (table | RW, edx)] {
                a.mov(dword_ptr(pde as u32), entry as u32)?;
                a.invlpg(ptr(at))?;
                a.mov(into, dword_ptr(at))?;
            }
            a.hlt()
        })?;
        g.run_to_end()?;
        let r = g.regs()?;
        expect("first", (r.rsi, r.rbx), (IN_A, IN_B))?;
        expect("then", (r.rcx, r.rdx), (IN_A, IN_B))
    })
}

/// Neither a fault nor a flag, whether the address is mapped, canonical or neither.
fn prefetch_of_anything_does_nothing(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &PAGED, |g| {
        prepare(g, RW)?;
        let high = if g.mode == Mode::Long { 1 << 63 } else { 0 };
        for at in [GVA, GVA + 0xfff, 0x7000_0000, high] {
            g.asm(|a| {
                let (base, index) = (ptr(esi), ptr(esi + edi * 8 - 8));
                a.xor(edx, edx)?;
                a.cmp(edx, 1)?;
                if a.bitness() == 64 {
                    a.prefetcht0(ptr(rsi))?;
                    a.prefetchnta(ptr(rsi + rdi * 8 - 8))?;
                } else {
                    a.prefetcht0(base)?;
                    a.prefetchnta(index)?;
                }
                a.adc(edx, 0)?;
                load(a, ebx)?;
                a.hlt()
            })?;
            g.enter_kernel()?;
            g.set(|r| (r.rsi, r.rdi) = (at, 1))?;
            g.run_to_end()?;
            let r = g.regs()?;
            expect(&format!("carry, {at:#x}"), r.rdx, 1)?;
            expect("loaded, RSI, RDI", (r.rbx, r.rsi, r.rdi), (IN_A, at, 1))?;
        }
        Ok(())
    })
}

fn cr3_write_drops_everything(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &PAGED, |g| {
        let entry = prepare(g, RW)?;
        g.asm(|a| {
            load(a, ebx)?;
            remap(a, entry, RW)?;
            reload_cr3(a)?;
            load(a, ecx)?;
            a.hlt()
        })?;
        expect_loads(g, IN_A, IN_B)
    })
}

fn same_cr3_rewritten(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // A PTE changed while another address space is active; the first CR3
    // value comes back unchanged.
    in_modes(hv, &[Mode::Pae, Mode::Long], |g| {
        let entry = prepare(g, RW)?;
        // The second root has the same entries.
        let other = g.table_page();
        for i in 0..512 {
            g.write_u64(other + i * 8, g.read_u64(TABLES + i * 8));
        }
        g.asm(|a| {
            load(a, ebx)?;
            let (acc, save) = (eax, edx);
            if a.bitness() == 64 {
                a.mov(rdx, cr3)?;
                a.mov(rax, other)?;
                a.mov(cr3, rax)?;
                remap(a, entry, RW)?;
                a.mov(cr3, rdx)?;
            } else {
                a.mov(save, cr3)?;
                a.mov(acc, other as u32)?;
                a.mov(cr3, acc)?;
                remap(a, entry, RW)?;
                a.mov(cr3, save)?;
            }
            load(a, ecx)?;
            a.hlt()
        })?;
        expect_loads(g, IN_A, IN_B)
    })
}

fn global_page_survives_cr3_write(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // Survival itself is only allowed, not required; what must hold is that
    // both values a processor may show are the only ones, and that the page
    // keeps working under another root that maps it alike.
    in_modes(hv, &[Mode::Pae, Mode::Long], |g| {
        let entry = prepare(g, RW | pte::G)?;
        g.asm(|a| {
            load(a, ebx)?;
            remap(a, entry, RW | pte::G)?;
            reload_cr3(a)?;
            load(a, ecx)?;
            a.hlt()
        })?;
        g.run_to_end()?;
        let r = g.regs()?;
        expect("before", r.rbx, IN_A)?;
        expect("after is old or new", r.rcx == IN_A || r.rcx == IN_B, true)
    })
}

fn global_page_dropped_by_cr4_pge(hv: &dyn Hypervisor) -> Result<(), Failure> {
    toggle_pge(hv, &[Mode::Paging32, Mode::Long, Mode::Compat])
}

fn global_page_dropped_by_cr4_pge_in_pae(hv: &dyn Hypervisor) -> Result<(), Failure> {
    toggle_pge(hv, &[Mode::Pae])
}

fn toggle_pge(hv: &dyn Hypervisor, modes: &[Mode]) -> Result<(), Failure> {
    in_modes(hv, modes, |g| {
        let entry = prepare(g, RW | pte::G)?;
        g.asm(|a| {
            load(a, ebx)?;
            remap(a, entry, RW | pte::G)?;
            if a.bitness() == 64 {
                a.mov(rax, cr4)?;
                a.xor(rax, cr4::PGE as i32)?;
                a.mov(cr4, rax)?;
            } else {
                a.mov(eax, cr4)?;
                a.xor(eax, cr4::PGE as u32)?;
                a.mov(cr4, eax)?;
            }
            load(a, ecx)?;
            a.hlt()
        })?;
        expect_loads(g, IN_A, IN_B)
    })
}

fn invlpg_drops_global_page(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &PAGED, |g| {
        let entry = prepare(g, RW | pte::G)?;
        g.asm(|a| {
            load(a, ebx)?;
            remap(a, entry, RW | pte::G)?;
            a.invlpg(ptr(GVA as u32))?;
            load(a, ecx)?;
            a.hlt()
        })?;
        expect_loads(g, IN_A, IN_B)
    })
}

fn invlpg_drops_paging_structure_caches(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // The PDE changes; INVLPG of any address drops all structure caches.
    in_modes(hv, &[Mode::Pae, Mode::Long], |g| {
        prepare(g, RW)?;
        let pde = g.entry(GVA, 2);
        let table = g.table_page();
        g.write_u64(table + 8, B | RW);
        g.asm(|a| {
            load(a, ebx)?;
            a.mov(dword_ptr(pde as u32), (table | RW) as u32)?;
            a.invlpg(ptr(SPARE as u32))?;
            // The next page was never used, so only the structure caches
            // could be stale for it.
            a.mov(ecx, dword_ptr(GVA as u32 + 0x1000))?;
            a.hlt()
        })?;
        expect_loads(g, IN_A, IN_B)
    })
}

fn wp_change_takes_effect(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // Software must not have to flush when CR0.WP changes... it must: SDM
    // 4.10.4.1 lists no invalidation for WP, but rights are checked against
    // the current WP on every access.
    in_modes(hv, &[Mode::Pae, Mode::Long], |g| {
        prepare(g, pte::P)?;
        g.set_sregs(|s| s.cr0 &= !x86::cr0::WP)?;
        let at = g.asm(|a| {
            a.mov(dword_ptr(GVA as u32), 7)?;
            if a.bitness() == 64 {
                a.mov(rax, cr0)?;
                a.or(eax, x86::cr0::WP as u32)?;
                a.mov(cr0, rax)
            } else {
                a.mov(eax, cr0)?;
                a.or(eax, x86::cr0::WP as u32)?;
                a.mov(cr0, eax)
            }
        })?;
        let bits = g.mode.bits();
        g.code_at(CODE + at, CODE + at, bits, |a| {
            a.mov(dword_ptr(GVA as u32), 8)
        })?;
        g.run_to_exception()?.expect(14, Some(3), CODE + at)?;
        expect("memory", g.read_u32(A), 7)
    })
}

fn fault_drops_the_entry(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // A write through a cached read-only entry faults once; after the handler
    // grants RW without INVLPG the retry succeeds, because the fault itself
    // invalidated the entry.
    in_modes(hv, &[Mode::Pae, Mode::Long], |g| {
        let entry = prepare(g, pte::P)?;
        let bits = g.mode.bits();
        g.set_gate(14, SPARE);
        g.code_at(SPARE, SPARE, bits, |a| {
            a.inc(ebx)?;
            a.or(dword_ptr(entry as u32), pte::RW as i32)?;
            if bits == 64 {
                a.add(rsp, 8)?;
                a.iretq()
            } else {
                a.add(esp, 4)?;
                a.iretd()
            }
        })?;
        g.asm(|a| {
            load(a, ecx)?;
            a.mov(dword_ptr(GVA as u32), 5)?;
            a.hlt()
        })?;
        g.run_to_end()?;
        expect("faults", g.regs()?.rbx, 1)?;
        expect("memory", g.read_u32(A), 5)
    })
}

/// A long-mode guest with CR4.PCIDE and two roots that share everything but
/// the top entry of GVA64, which leads to a PTE of their own.
struct Pcid {
    guest: Guest,
    /// The two roots and the two PTEs of [`GVA64`].
    roots: [u64; 2],
    entries: [u64; 2],
}

const GVA64: u64 = 0x80_0000_0000;
const KEEP: u64 = 1 << 63;

fn pcid(hv: &dyn Hypervisor) -> Result<Pcid, Failure> {
    let mut guest = Guest::new(hv, Mode::Long)?;
    guest.need(1, 0, |e| e.ecx, 17, "PCID")?;
    guest.write_uint(A, 4, IN_A);
    guest.write_uint(B, 4, IN_B);
    let other = guest.table_page();
    let first = guest.entry_in(TABLES, GVA64, 1);
    let second = guest.entry_in(other, GVA64, 1);
    guest.write_u64(other, guest.read_u64(TABLES)); // low memory is shared
    guest.write_u64(first, A | RW);
    guest.write_u64(second, B | RW);
    guest.set_sregs(|s| s.cr4 |= cr4::PCIDE)?;
    guest.set(|r| r.rsi = GVA64)?;
    Ok(Pcid {
        guest,
        roots: [TABLES, other],
        entries: [first, second],
    })
}

/// `mov rax, value; mov cr3, rax`.
fn set_cr3(a: &mut CodeAssembler, value: u64) -> Result<(), IcedError> {
    a.mov(rax, value)?;
    a.mov(cr3, rax)
}

fn pcid_entry_changed_while_inactive(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // A kernel changes a PTE of an inactive address space and later returns
    // with bit 63 clear: the change must be seen.
    let Pcid {
        mut guest,
        roots,
        entries,
    } = pcid(hv)?;
    guest.asm(|a| {
        set_cr3(a, roots[0] | 1)?;
        a.mov(ebx, ptr(rsi))?;
        set_cr3(a, roots[1] | 2)?;
        a.mov(edx, ptr(rsi))?;
        a.mov(dword_ptr(entries[0] as u32), (B | RW) as u32)?;
        set_cr3(a, roots[0] | 1)?;
        a.mov(ecx, ptr(rsi))?;
        a.hlt()
    })?;
    guest.run_to_end()?;
    let r = guest.regs()?;
    expect("loads", (r.rbx, r.rdx, r.rcx), (IN_A, IN_B, IN_B))
}

fn pcid_kept_with_bit_63(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let Pcid {
        mut guest, roots, ..
    } = pcid(hv)?;
    guest.asm(|a| {
        set_cr3(a, roots[0] | 1)?;
        a.mov(ebx, ptr(rsi))?;
        set_cr3(a, roots[1] | 2 | KEEP)?;
        a.mov(edx, ptr(rsi))?;
        set_cr3(a, roots[0] | 1 | KEEP)?;
        a.mov(ecx, ptr(rsi))?;
        a.mov(rdi, cr3)?;
        a.hlt()
    })?;
    guest.run_to_end()?;
    let r = guest.regs()?;
    expect("loads", (r.rbx, r.rdx, r.rcx), (IN_A, IN_B, IN_A))?;
    expect("CR3 reads without bit 63", r.rdi, roots[0] | 1)
}

fn pcid_reused_with_other_tables(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // One PCID, two roots: the second load without bit 63 drops the tag.
    let Pcid {
        mut guest, roots, ..
    } = pcid(hv)?;
    guest.asm(|a| {
        set_cr3(a, roots[0] | 5)?;
        a.mov(ebx, ptr(rsi))?;
        set_cr3(a, roots[1] | 5)?;
        a.mov(ecx, ptr(rsi))?;
        a.hlt()
    })?;
    expect_loads(&mut guest, IN_A, IN_B)
}

fn pcid_tags_do_not_mix(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // Round trips over many tags that all name one of the two roots.
    let Pcid {
        mut guest, roots, ..
    } = pcid(hv)?;
    guest.asm(|a| {
        a.mov(edi, 4000)?;
        a.xor(ebx, ebx)?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.mov(rax, roots[0] | KEEP)?;
        a.or(rax, rdi)?;
        a.mov(cr3, rax)?;
        a.mov(ecx, ptr(rsi))?;
        a.sub(ecx, IN_A as i32)?;
        a.or(ebx, ecx)?;
        a.dec(edi)?;
        a.mov(rax, roots[1] | KEEP)?;
        a.or(rax, rdi)?;
        a.mov(cr3, rax)?;
        a.mov(ecx, ptr(rsi))?;
        a.sub(ecx, IN_B as i32)?;
        a.or(ebx, ecx)?;
        a.dec(edi)?;
        a.jne(again)?;
        a.hlt()
    })?;
    guest.run_to_end()?;
    expect("differences", guest.regs()?.rbx, 0)
}

fn pcid_needs_long_mode_and_zero_pcid(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.need(1, 0, |e| e.ecx, 17, "PCID")?;
    // CR3[11:0] must be 0 when PCIDE is switched on.
    let at = g.asm(|a| {
        a.mov(rax, cr3)?;
        a.or(rax, 1 << 3)?;
        a.mov(cr3, rax)?;
        a.mov(rax, cr4)?;
        a.or(rax, cr4::PCIDE as i32)
    })?;
    g.code_at(CODE + at, CODE + at, 64, |a| a.mov(cr4, rax))?;
    g.run_to_exception()?.expect(13, Some(0), CODE + at)?;
    // And the switch needs long mode.
    let mut g = Guest::new(hv, Mode::Pae)?;
    g.asm(|a| {
        a.mov(eax, cr4)?;
        a.or(eax, cr4::PCIDE as u32)?;
        a.mov(cr4, eax)
    })?;
    g.run_to_exception()?.expect(13, Some(0), CODE + 8)
}

/// Loads under PCID 1, changes the PTE, runs INVPCID of `kind` with PCID
/// `tag`, and comes back to PCID 1 with bit 63: the entry must be gone.
fn invpcid_case(hv: &dyn Hypervisor, kind: u64, tag: u64, flags: u64) -> Result<(), Failure> {
    let Pcid {
        mut guest,
        roots,
        entries,
    } = pcid(hv)?;
    guest.need(7, 0, |e| e.ebx, 10, "INVPCID")?;
    guest.write_u64(entries[0], A | RW | flags);
    guest.write_u64(DATA, tag);
    guest.write_u64(DATA + 8, GVA64);
    guest.asm(|a| {
        set_cr3(a, roots[0] | 1)?;
        a.mov(ebx, ptr(rsi))?;
        set_cr3(a, roots[1] | 2 | KEEP)?;
        a.mov(dword_ptr(entries[0] as u32), (B | RW | flags) as u32)?;
        a.mov(eax, kind as u32)?;
        a.invpcid(rax, oword_ptr(DATA as u32))?;
        set_cr3(a, roots[0] | 1 | KEEP)?;
        a.mov(ecx, ptr(rsi))?;
        a.hlt()
    })?;
    expect_loads(&mut guest, IN_A, IN_B)
}

fn invpcid_one_address(hv: &dyn Hypervisor) -> Result<(), Failure> {
    invpcid_case(hv, 0, 1, 0)
}

fn invpcid_one_tag(hv: &dyn Hypervisor) -> Result<(), Failure> {
    invpcid_case(hv, 1, 1, 0)
}

fn invpcid_all(hv: &dyn Hypervisor) -> Result<(), Failure> {
    invpcid_case(hv, 2, 0, pte::G)?;
    invpcid_case(hv, 3, 0, 0)
}

fn pae_pdptes_are_loaded_by_cr3(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // The four top entries are registers: a change in memory counts only
    // after CR3 is loaded again. AMD's nested paging reads them on every walk
    // (APM vol 2, 15.25.10), so there only the second load is certain.
    let mut g = Guest::new(hv, Mode::Pae)?;
    prepare(&mut g, RW)?;
    let pdpte = TABLES + 8;
    let table = g.table_page();
    let directory = g.table_page();
    g.write_u64(table, B | RW);
    g.write_u64(directory, table | RW);
    g.asm(|a| {
        a.mov(dword_ptr(pdpte as u32), (directory | pte::P) as u32)?;
        a.invlpg(ptr(GVA as u32))?;
        load(a, ebx)?;
        reload_cr3(a)?;
        load(a, ecx)?;
        a.hlt()
    })?;
    if g.is_amd() {
        g.run_to_end()?;
        return expect("after the CR3 load", g.regs()?.rcx, IN_B);
    }
    expect_loads(&mut g, IN_A, IN_B)
}

/// Reserved bits of a PDPTE (SDM vol 3, table 4-8); bit 62 lies above every
/// MAXPHYADDR.
const PDPTE_RESERVED: [u32; 6] = [1, 2, 5, 8, 62, 63];

/// Runs a write of a control register with each reserved bit set in the last
/// PDPTE: #GP(0) at the write if the entry is present, else nothing happens.
fn pdptes_refused(
    hv: &dyn Hypervisor,
    f: impl Fn(&mut Guest) -> Result<u64, Failure>,
) -> Result<(), Failure> {
    for bit in PDPTE_RESERVED {
        let mut g = Guest::new(hv, Mode::Pae)?;
        let directory = g.table_page();
        let write = f(&mut g)?;
        g.write_u64(TABLES + 24, directory | 1 << bit | pte::P);
        let place = |why: Failure| Failure::Wrong(format!("bit {bit}: {why}"));
        let frame = g.run_to_exception().map_err(place)?;
        frame.expect(13, Some(0), write).map_err(place)?;
        g.write_u64(TABLES + 24, directory | 1 << bit);
        g.enter_kernel()?;
        g.set(|r| r.rip = write)?;
        g.run_to_end().map_err(place)?;
    }
    Ok(())
}

fn pae_pdptes_with_reserved_bits_by_cr3(hv: &dyn Hypervisor) -> Result<(), Failure> {
    pdptes_refused(hv, |g| {
        g.asm(|a| {
            a.mov(cr3, eax)?;
            a.hlt()
        })?;
        g.set(|r| r.rax = TABLES)?;
        Ok(CODE)
    })
}

fn pae_pdptes_with_reserved_bits_by_cr4(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let toggled = [cr4::PGE, cr4::PSE];
    for bit in toggled {
        pdptes_refused(hv, |g| {
            let value = g.cpu.sregs()?.cr4 ^ bit;
            g.asm(|a| {
                a.mov(cr4, eax)?;
                a.hlt()
            })?;
            g.set(|r| r.rax = value)?;
            Ok(CODE)
        })?;
    }
    Ok(())
}

fn pae_pdptes_with_reserved_bits_by_cr0(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // Paging off needs no PDPTEs, on again loads them.
    pdptes_refused(hv, |g| {
        let on = g.cpu.sregs()?.cr0;
        let off = on & !cr0::PG;
        let len = g.asm(|a| {
            a.mov(cr0, eax)?;
            a.mov(eax, on as u32)
        })?;
        g.code_at(CODE + len, CODE + len, 32, |a| {
            a.mov(cr0, eax)?;
            a.hlt()
        })?;
        g.set(|r| r.rax = off)?;
        Ok(CODE + len)
    })
}
