//! Page faults: error codes, CR2, accessed and dirty bits (SDM vol 3, 4.6-4.8).

use super::in_modes;
use crate::Hypervisor;
use crate::conformance::guest::{Guest, Mode, Stop};
use crate::conformance::layout::*;
use crate::conformance::{Failure, expect};
use iced_x86::code_asm::*;
use x86::paging::pte;
use x86::{cr0, cr4, efer, flags};

group! { "fault":
    not_present "SDM 3 4.7",
    user_access_to_supervisor_page "SDM 3 4.6, 4.7",
    write_to_read_only_page "SDM 3 4.6.1",
    write_protect_off "SDM 3 4.6.1, CR0.WP",
    no_execute "SDM 3 4.6.1, EFER.NXE",
    reserved_bits "SDM 3 4.7, RSVD",
    nx_bit_is_reserved_without_nxe "SDM 3 4.5.4",
    rights_combine_over_levels "SDM 3 4.6",
    not_present_at_every_level "SDM 3 4.5",
    smep "SDM 3 4.6.1, CR4.SMEP",
    smap_and_ac "SDM 3 4.6.1, CR4.SMAP",
    ac_decides_in_called_code "SDM 3 4.6.1, CR4.SMAP",
    smap_does_not_stop_user "SDM 3 4.6.1",
    read_sets_accessed "SDM 3 4.8",
    write_sets_dirty "SDM 3 4.8",
    fetch_sets_accessed "SDM 3 4.8",
    failed_write_leaves_dirty_clear "SDM 3 4.8",
    failed_cmpxchg_sets_dirty "SDM 2 CMPXCHG, SDM 3 4.8",
    large_page_4m "SDM 3 4.3",
    large_page_2m "SDM 3 4.5",
    large_page_1g "SDM 3 4.5",
    large_page_no_execute "SDM 3 4.6",
    write_across_pages_faults_whole "SDM 3 8.1.1, 6.15 #PF",
    read_across_pages_faults_second "SDM 3 6.15 #PF",
    fetch_across_pages "SDM 3 6.15 #PF",
    rep_movs_stops_at_fault "SDM 2 REP",
    push_to_missing_page "SDM 2 PUSH",
    non_canonical_data "SDM 1 3.3.7.1",
    data_across_the_canonical_edge "SDM 1 3.3.7.1",
    non_canonical_stack "SDM 1 3.3.7.1, SDM 3 6.15 #SS",
    cr2_survives_other_faults "SDM 3 6.15",
    flags_that_nobody_reads "SDM 3 6.12.1",
    retry_after_fix "SDM 3 6.15 #PF",
}

/// A page inside the user area, and an unaligned address in it.
const PAGE: u64 = USER_DATA + 0x3000;
const AT: u64 = PAGE + 0x128;
const RW: u64 = pte::P | pte::RW;
const RWU: u64 = RW | pte::US;

/// Every paging mode.
const PAGED: [Mode; 4] = [Mode::Paging32, Mode::Pae, Mode::Long, Mode::Compat];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Read,
    Write,
    Fetch,
}
use Access::{Fetch, Read, Write};

/// Error-code bit I exists only with NX or SMEP (SDM vol 3, 4.7).
fn i_bit(mode: Mode) -> u64 {
    if mode == Mode::Paging32 { 0 } else { 0x10 }
}

fn access_code(a: &mut CodeAssembler, access: Access) -> Result<(), IcedError> {
    let place: AsmMemoryOperand = match a.bitness() {
        64 => ptr(rbx),
        _ => ptr(ebx),
    };
    match access {
        Read => a.mov(eax, place)?,
        Write => a.mov(place, eax)?,
        Fetch if a.bitness() == 64 => a.jmp(rbx)?,
        Fetch => a.jmp(ebx)?,
    }
    // Kernel code ends here; user code by #UD.
    a.ud2()
}
use iced_x86::IcedError;

/// Runs one access to `AT` with the given rights; checks the page fault, or
/// its absence if `code` is None (then the code runs on into #UD).
fn check(g: &mut Guest, user: bool, access: Access, code: Option<u64>) -> Result<(), Failure> {
    check_at(g, AT, user, access, code)
}

fn check_at(
    g: &mut Guest,
    at: u64,
    user: bool,
    access: Access,
    code: Option<u64>,
) -> Result<(), Failure> {
    let what = |f: Failure| match f {
        Failure::Wrong(why) => {
            let who = if user { "user" } else { "supervisor" };
            Failure::Wrong(format!("{who} {access:?}: {why}"))
        }
        other => other,
    };
    let start = if user {
        g.user_asm(|a| access_code(a, access))?;
        g.enter_user()?;
        USER_CODE
    } else {
        g.asm(|a| access_code(a, access))?;
        g.enter_kernel()?;
        CODE
    };
    g.set(|r| r.rbx = at)?;
    g.flush_tlb()?;
    let frame = g.run_to_exception()?;
    let Some(code) = code else {
        return expect("vector (no fault expected)", frame.vector, 6).map_err(what);
    };
    let ip = if access == Fetch { at } else { start };
    frame.expect(14, Some(code), ip).map_err(what)?;
    expect("CR2", g.cpu.sregs()?.cr2, at).map_err(what)
}

fn not_present(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &PAGED, |g| {
        g.map(PAGE, PAGE, 0);
        let i = i_bit(g.mode);
        check(g, false, Read, Some(0))?;
        check(g, false, Write, Some(2))?;
        check(g, false, Fetch, Some(i))?;
        check(g, true, Read, Some(4))?;
        check(g, true, Write, Some(6))?;
        check(g, true, Fetch, Some(4 | i))
    })
}

fn user_access_to_supervisor_page(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &PAGED, |g| {
        g.map(PAGE, PAGE, RW);
        let i = i_bit(g.mode);
        check(g, true, Read, Some(5))?;
        check(g, true, Write, Some(7))?;
        check(g, true, Fetch, Some(5 | i))?;
        check(g, false, Write, None)
    })
}

fn write_to_read_only_page(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &PAGED, |g| {
        g.map(PAGE, PAGE, pte::P | pte::US);
        check(g, true, Read, None)?;
        check(g, true, Write, Some(7))?;
        check(g, false, Read, None)?;
        check(g, false, Write, Some(3))
    })
}

fn write_protect_off(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &PAGED, |g| {
        g.map(PAGE, PAGE, pte::P | pte::US);
        g.set_sregs(|s| s.cr0 &= !cr0::WP)?;
        check(g, false, Write, None)?;
        check(g, true, Write, Some(7))
    })
}

fn no_execute(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Pae, Mode::Long, Mode::Compat], |g| {
        g.write(AT, &[0x0f, 0x0b]);
        g.map(PAGE, PAGE, RWU | pte::NX);
        check(g, true, Fetch, Some(0x15))?;
        check(g, true, Write, None)?;
        check(g, false, Fetch, Some(0x11))
    })
}

fn reserved_bits(hv: &dyn Hypervisor) -> Result<(), Failure> {
    if hv.capabilities().phys_bits >= 52 {
        return Err(Failure::Skipped("a physical address width below 52 bits"));
    }
    in_modes(hv, &[Mode::Pae, Mode::Long], |g| {
        g.map(PAGE, PAGE, RWU | 1 << 51);
        check(g, false, Read, Some(9))?;
        check(g, false, Write, Some(0xb))?;
        check(g, true, Read, Some(0xd))?;
        check(g, true, Write, Some(0xf))?;
        check(g, true, Fetch, Some(0x1d))
    })
}

fn nx_bit_is_reserved_without_nxe(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Pae, Mode::Long], |g| {
        g.map(PAGE, PAGE, RWU | pte::NX);
        g.set_sregs(|s| s.efer &= !efer::NXE)?;
        check(g, false, Read, Some(9))?;
        check(g, true, Write, Some(0xf))
    })
}

fn rights_combine_over_levels(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    // A separate tree branch, so that the program's own pages keep theirs.
    let far = 0x80_0000_0000_u64 + AT;
    for level in 2..=4 {
        g.map(far & !0xfff, PAGE, RWU);
        let entry = g.entry(far, level);
        let full = g.read_u64(entry);
        g.write_u64(entry, full & !pte::US);
        check_at(&mut g, far, true, Read, Some(5))?;
        g.write_u64(entry, full & !pte::RW);
        check_at(&mut g, far, true, Write, Some(7))?;
        check_at(&mut g, far, false, Write, Some(3))?;
        g.write_u64(entry, full | pte::NX);
        check_at(&mut g, far, true, Fetch, Some(0x15))?;
        g.write_u64(entry, full);
        check_at(&mut g, far, true, Write, None)?;
    }
    Ok(())
}

fn not_present_at_every_level(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    let far = 0x7f_ffff_e000_u64 + 0x80_0000_0000 + 0x128;
    for level in 1..=4 {
        g.map(far & !0xfff, PAGE, RWU);
        let entry = g.entry(far, level);
        let full = g.read_u64(entry);
        g.write_u64(entry, full & !pte::P);
        check_at(&mut g, far, true, Write, Some(6))?;
        g.write_u64(entry, full);
        check_at(&mut g, far, true, Write, None)?;
    }
    Ok(())
}

fn smep(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Paging32, Mode::Long], |g| {
        g.need(7, 0, |e| e.ebx, 7, "SMEP")?;
        g.set_sregs(|s| s.cr4 |= cr4::SMEP)?;
        g.write(AT, &[0x0f, 0x0b]);
        g.map(PAGE, PAGE, RWU);
        check(g, false, Fetch, Some(0x11))?;
        check(g, false, Read, None)?;
        check(g, true, Fetch, None)
    })
}

fn smap_and_ac(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Paging32, Mode::Long], |g| {
        g.need(7, 0, |e| e.ebx, 20, "SMAP")?;
        g.set_sregs(|s| s.cr4 |= cr4::SMAP)?;
        g.map(PAGE, PAGE, RWU);
        check(g, false, Read, Some(1))?;
        check(g, false, Write, Some(3))?;
        g.asm(|a| {
            a.stac()?;
            a.mov(dword_ptr(AT as u32), eax)?;
            a.mov(ecx, dword_ptr(AT as u32))?;
            a.clac()?;
            a.nop()?;
            a.mov(ecx, dword_ptr(AT as u32))
        })?;
        g.enter_kernel()?;
        g.set(|r| r.rax = 0x77)?;
        let frame = g.run_to_exception()?;
        expect(
            "vector and error code",
            (frame.vector, frame.error),
            (14, Some(1)),
        )?;
        expect("AC in the frame", frame.flags & flags::AC, 0)?;
        expect("ECX read under AC", g.regs()?.rcx, 0x77)
    })
}

/// The same code with AC set, a hundred times, then with AC clear.
fn ac_decides_in_called_code(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.need(7, 0, |e| e.ebx, 20, "SMAP")?;
    g.set_sregs(|s| s.cr4 |= cr4::SMAP)?;
    g.map(PAGE, PAGE, RWU);
    g.asm(|a| {
        let (mut read, mut again) = (a.create_label(), a.create_label());
        a.lea(rbx, ptr(read))?;
        a.mov(ecx, 100)?;
        a.set_label(&mut again)?;
        a.stac()?;
        a.call(rbx)?;
        a.clac()?;
        a.dec(ecx)?;
        a.jne(again)?;
        a.call(rbx)?;
        a.hlt()?;
        a.set_label(&mut read)?;
        a.mov(eax, dword_ptr(AT as u32))?;
        a.ret()
    })?;
    g.enter_kernel()?;
    let frame = g.run_to_exception()?;
    let what = (frame.vector, frame.error, frame.flags & flags::AC);
    expect("vector, error code and AC", what, (14, Some(1), 0))?;
    expect("ECX", g.regs()?.rcx, 0)
}

fn smap_does_not_stop_user(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Paging32, Mode::Long], |g| {
        g.need(7, 0, |e| e.ebx, 20, "SMAP")?;
        g.set_sregs(|s| s.cr4 |= cr4::SMAP)?;
        g.map(PAGE, PAGE, RWU);
        check(g, true, Read, None)?;
        check(g, true, Write, None)
    })
}

/// Accessed and dirty bits of the page's entry at each level, leaf first.
fn accessed_dirty(g: &mut Guest, at: u64) -> Vec<u64> {
    let levels = match g.mode {
        Mode::Long | Mode::Compat => 4,
        _ => 2, // PAE's top level has no A bit
    };
    (1..=levels)
        .map(|level| {
            let entry = g.entry(at, level);
            g.read_uint(entry, g.entry_size()) & (pte::A | pte::D)
        })
        .collect()
}

/// Clears A and D at every level of the page.
fn clear_accessed(g: &mut Guest, at: u64) {
    let levels = if g.mode.ia32e() { 4 } else { 2 };
    for level in 1..=levels {
        let entry = g.entry(at, level);
        let size = g.entry_size();
        let value = g.read_uint(entry, size) & !(pte::A | pte::D);
        g.write_uint(entry, size, value);
    }
}

fn read_sets_accessed(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &PAGED, |g| {
        clear_accessed(g, PAGE);
        check(g, true, Read, None)?;
        let bits = accessed_dirty(g, PAGE);
        expect(
            "A and D, leaf first",
            bits.clone(),
            vec![pte::A; bits.len()],
        )
    })
}

fn write_sets_dirty(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &PAGED, |g| {
        clear_accessed(g, PAGE);
        check(g, true, Read, None)?;
        // The second access finds a cached translation without D.
        check(g, true, Write, None)?;
        let bits = accessed_dirty(g, PAGE);
        let mut want = vec![pte::A; bits.len()];
        want[0] |= pte::D;
        expect("A and D, leaf first", bits, want)
    })
}

fn fetch_sets_accessed(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &PAGED, |g| {
        g.write(AT, &[0x0f, 0x0b]);
        clear_accessed(g, PAGE);
        check(g, true, Fetch, None)?;
        expect("leaf", accessed_dirty(g, PAGE)[0], pte::A)
    })
}

fn failed_write_leaves_dirty_clear(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &PAGED, |g| {
        g.map(PAGE, PAGE, pte::P | pte::US);
        check(g, true, Write, Some(7))?;
        expect("D", g.pte(PAGE) & pte::D, 0)
    })
}

fn failed_cmpxchg_sets_dirty(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Pae, Mode::Long], |g| {
        g.asm(|a| {
            a.mov(eax, 1)?;
            a.cmpxchg(dword_ptr(AT as u32), ecx)?;
            a.hlt()
        })?;
        g.run_to_end()?;
        expect("EAX", g.regs()?.rax, 0)?;
        expect("A and D", g.pte(PAGE) & (pte::A | pte::D), pte::A | pte::D)
    })
}

fn large_page_4m(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Paging32)?;
    let gva = 0x4000_0000 + AT;
    let pde = g.entry(gva, 2);
    g.write_uint(pde, 4, RWU | pte::PS);
    check_at(&mut g, gva, true, Write, None)?;
    expect("PDE", g.read_uint(pde, 4), RWU | pte::PS | pte::A | pte::D)?;
    // Bit 21 is reserved in a 4 MiB page's entry (PSE-36 uses 13..=20).
    g.write_uint(pde, 4, RWU | pte::PS | 1 << 21);
    check_at(&mut g, gva, true, Read, Some(0xd))
}

fn large_page_2m(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Pae, Mode::Long], |g| {
        let gva = 0x4000_0000 + AT;
        let pde = g.entry(gva, 2);
        g.write_u64(AT, 0x5a5a);
        g.write_u64(pde, pte::P | pte::US | pte::PS);
        check_at(g, gva, true, Read, None)?;
        expect("EAX", g.regs()?.rax, 0x5a5a)?;
        expect("PDE", g.read_u64(pde), pte::P | pte::US | pte::PS | pte::A)?;
        check_at(g, gva, true, Write, Some(7))?;
        g.write_u64(pde, RWU | pte::PS | 1 << 13);
        check_at(g, gva, true, Write, Some(0xf))?;
        g.write_u64(pde, RWU | pte::PS);
        check_at(g, gva, true, Write, None)?;
        expect("PDE", g.read_u64(pde), RWU | pte::PS | pte::A | pte::D)
    })
}

fn large_page_1g(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.need(0x8000_0001, 0, |e| e.edx, 26, "1 GiB pages")?;
    let gva = 0x80_4000_0000 + AT;
    let pdpte = g.entry(gva, 3);
    g.write_u64(AT, 0x3c3c);
    g.write_u64(pdpte, RWU | pte::PS);
    check_at(&mut g, gva, true, Read, None)?;
    expect("EAX", g.regs()?.rax, 0x3c3c)?;
    expect("PDPTE", g.read_u64(pdpte), RWU | pte::PS | pte::A)?;
    check_at(&mut g, gva, true, Write, None)?;
    expect("PDPTE", g.read_u64(pdpte), RWU | pte::PS | pte::A | pte::D)?;
    g.write_u64(pdpte, RWU | pte::PS | 1 << 20);
    check_at(&mut g, gva, true, Write, Some(0xf))
}

fn large_page_no_execute(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Pae, Mode::Long], |g| {
        let gva = 0x4000_0000 + AT;
        let pde = g.entry(gva, 2);
        g.write_u64(pde, RWU | pte::PS | pte::NX);
        check_at(g, gva, true, Fetch, Some(0x15))
    })
}

fn write_across_pages_faults_whole(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &PAGED, |g| {
        g.map(PAGE + 0x1000, PAGE + 0x1000, pte::P | pte::US);
        g.asm(|a| a.mov(dword_ptr((PAGE + 0xffe) as u32), eax))?;
        g.set(|r| r.rax = 0x1122_3344)?;
        g.run_to_exception()?.expect(14, Some(3), CODE)?;
        expect("CR2", g.cpu.sregs()?.cr2, PAGE + 0x1000)?;
        expect("first page untouched", g.read_uint(PAGE + 0xffe, 2), 0)
    })
}

fn read_across_pages_faults_second(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &PAGED, |g| {
        g.map(PAGE + 0x1000, PAGE + 0x1000, 0);
        g.asm(|a| a.mov(eax, dword_ptr((PAGE + 0xffd) as u32)))?;
        g.run_to_exception()?.expect(14, Some(0), CODE)?;
        expect("CR2", g.cpu.sregs()?.cr2, PAGE + 0x1000)
    })
}

fn fetch_across_pages(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &PAGED, |g| {
        // mov eax, imm32 whose immediate starts the next page.
        g.write(PAGE + 0xfff, &[0xb8, 0x78, 0x56, 0x34, 0x12, 0x0f, 0x0b]);
        check_at(g, PAGE + 0xfff, true, Fetch, None)?;
        expect("EAX", g.regs()?.rax, 0x1234_5678)?;
        g.map(PAGE + 0x1000, PAGE + 0x1000, 0);
        g.flush_tlb()?;
        g.enter_user()?;
        g.set(|r| r.rip = PAGE + 0xfff)?;
        let code = 4 | i_bit(g.mode);
        g.run_to_exception()?.expect(14, Some(code), PAGE + 0xfff)?;
        expect("CR2", g.cpu.sregs()?.cr2, PAGE + 0x1000)
    })
}

fn rep_movs_stops_at_fault(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &PAGED, |g| {
        g.map(PAGE + 0x1000, PAGE + 0x1000, 0);
        g.write(DATA, &[0xa5; 64]);
        g.asm(|a| {
            a.rep().movsb()?;
            a.hlt()
        })?;
        g.set(|r| {
            r.rsi = DATA;
            r.rdi = PAGE + 0xff0;
            r.rcx = 32;
        })?;
        g.run_to_exception()?.expect(14, Some(2), CODE)?;
        let r = g.regs()?;
        expect(
            "ESI, EDI, ECX at the fault",
            (r.rsi, r.rdi, r.rcx),
            (DATA + 16, PAGE + 0x1000, 16),
        )?;
        expect(
            "copied so far",
            g.read_u64(PAGE + 0xff8),
            0xa5a5_a5a5_a5a5_a5a5,
        )
    })
}

fn push_to_missing_page(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &PAGED, |g| {
        g.map(PAGE, PAGE, 0);
        g.user_asm(|a| {
            if a.bitness() == 64 {
                a.push(rax)
            } else {
                a.push(eax)
            }
        })?;
        g.enter_user()?;
        g.set(|r| r.rsp = PAGE + 0x1000)?;
        let frame = g.run_to_exception()?;
        frame.expect(14, Some(6), USER_CODE)?;
        expect("SP unchanged", frame.sp, PAGE + 0x1000)?;
        let width = if g.mode == Mode::Long { 8 } else { 4 };
        expect("CR2", g.cpu.sregs()?.cr2, PAGE + 0x1000 - width)
    })
}

fn non_canonical_data(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.asm(|a| a.mov(eax, ptr(rbx)))?;
    for at in [0x8000_0000_0000_u64, 0xffff_7fff_ffff_fff8] {
        g.enter_kernel()?;
        g.set(|r| r.rbx = at)?;
        let frame = g.run_to_exception()?;
        expect("address, vector", (at, frame.vector), (at, 13))?;
        frame.expect(13, Some(0), CODE)?;
    }
    Ok(())
}

fn data_across_the_canonical_edge(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.map(0x7fff_ffff_f000, USER_DATA, RWU);
    g.asm(|a| a.mov(eax, ptr(rbx)))?;
    g.set(|r| r.rbx = 0x7fff_ffff_fffe)?;
    g.run_to_exception()?.expect(13, Some(0), CODE)
}

fn non_canonical_stack(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.user_asm(|a| a.push(rax))?;
    g.enter_user()?;
    g.set(|r| r.rsp = 0x8000_0000_1000)?;
    g.run_to_exception()?.expect(12, Some(0), USER_CODE)?;
    g.user_asm(|a| a.mov(eax, ptr(rbp + 8)))?;
    g.enter_user()?;
    g.set(|r| r.rbp = 0x8000_0000_1000)?;
    g.run_to_exception()?.expect(12, Some(0), USER_CODE)
}

fn cr2_survives_other_faults(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &PAGED, |g| {
        g.map(PAGE, PAGE, 0);
        check(g, true, Read, Some(4))?;
        g.asm(|a| a.ud2())?;
        g.enter_kernel()?;
        g.run_to_exception()?.expect(6, None, CODE)?;
        expect("CR2", g.cpu.sregs()?.cr2, AT)
    })
}

fn flags_that_nobody_reads(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // The access faults between two instructions that set all flags.
    type Set = fn(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>;
    use flags::{AF, CF, OF, PF, SF, ZF};
    let cases: [(&str, Set, u64); 4] = [
        ("0x7fffffff + 1", |a| a.add(eax, 1), PF | AF | SF | OF),
        (
            "0x7fffffff - 0x80000000",
            |a| a.sub(eax, i32::MIN),
            CF | PF | SF | OF,
        ),
        ("0x7fffffff - 0x7fffffff", |a| a.cmp(eax, eax), PF | ZF),
        (
            "0x7fffffff - 0xffffffff",
            |a| a.cmp(eax, -1),
            CF | PF | SF | OF,
        ),
    ];
    in_modes(hv, &PAGED, |g| {
        g.map(PAGE, 0, 0);
        for (what, set, want) in cases {
            g.asm(|a| {
                a.mov(eax, 0x7fff_ffff)?;
                set(a)?;
                a.mov(edx, dword_ptr(AT as u32))?;
                a.xor(eax, eax)?;
                a.hlt()
            })?;
            g.flush_tlb()?;
            g.enter_kernel()?;
            let frame = g.run_to_exception()?;
            let got = (frame.vector, frame.flags & flags::ARITH);
            expect(what, got, (14, want))?;
        }
        Ok(())
    })
}

fn retry_after_fix(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // A not-present entry may not be cached: no invalidation is needed.
    in_modes(hv, &PAGED, |g| {
        g.map(PAGE, PAGE, 0);
        g.asm(|a| {
            a.mov(dword_ptr(AT as u32), eax)?;
            a.hlt()
        })?;
        g.set(|r| r.rax = 0x99)?;
        let frame = g.run_to_exception()?;
        frame.expect(14, Some(2), CODE)?;
        g.map(PAGE, PAGE, RW);
        g.enter_kernel()?;
        expect("stop", g.run()?, Stop::Halt)?;
        expect("memory", g.read_u32(AT), 0x99)
    })
}
