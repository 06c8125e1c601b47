//! Vector accesses under an opmask (SDM vol 2, 2.7.5): what the mask hides is
//! not accessed.

use super::images::with_avx;
use crate::Hypervisor;
use crate::conformance::guest::{Guest, Mode};
use crate::conformance::layout::*;
use crate::conformance::{Failure, ensure, expect};
use iced_x86::code_asm::*;
use x86::paging::pte;

group! { "masks":
    hidden_elements_do_not_fault "SDM 2 2.7.5",
    an_empty_mask_leaves_the_dirty_bit "SDM 2 2.7.5",
    hidden_elements_are_not_stored "SDM 2 2.7.5",
}

/// Where a page of data is mapped; the page behind it is not.
const PAGE: u64 = 0x4000_0000;

/// A guest with AVX-512 whose RSI is 32 bytes before the end of the page at
/// [`PAGE`], which holds ones, and whose RBX is the opmask.
fn at_a_page_end(hv: &dyn Hypervisor, mask: u64) -> Result<Guest, Failure> {
    let mut g = with_avx(hv, Mode::Long)?;
    g.need(7, 0, |e| e.ebx, 30, "AVX512BW")?;
    g.cpu.set_xcr0(0xe7)?;
    g.write(SPARE, &[1; 0x1000]);
    g.map(PAGE, SPARE, pte::P | pte::RW);
    g.map(PAGE + 0x1000, 0, 0);
    g.flush_tlb()?;
    g.set(|r| {
        r.rsi = PAGE + 0xfe0;
        r.rbx = mask;
    })?;
    Ok(g)
}

fn hidden_elements_do_not_fault(hv: &dyn Hypervisor) -> Result<(), Failure> {
    for (mask, faults) in [(0xffff_ffff, false), (1, false), (0x1_ffff_ffff, true)] {
        let mut g = at_a_page_end(hv, mask)?;
        g.asm(|a| {
            a.kmovq(k1, rbx)?;
            a.vpcmpeqb(k2.k1(), zmm0, zmmword_ptr(rsi))?; // 0 = 1: nowhere
            a.vmovdqu8(zmm1.k1().z(), zmmword_ptr(rsi))?;
            a.kmovq(rax, k2)?;
            a.vmovdqu64(zmmword_ptr(DATA as u32), zmm1)?;
            a.hlt()
        })?;
        if faults {
            g.run_to_exception()?;
            let address = g.cpu.sregs()?.cr2;
            expect("CR2", address, PAGE + 0x1000)?;
            continue;
        }
        g.run_to_end()?;
        expect("equal elements", g.regs()?.rax, 0)?;
        let mut loaded = [0; 64];
        g.ram.read(DATA, &mut loaded);
        let want = std::array::from_fn(|i| (mask >> i & 1) as u8);
        expect("loaded", loaded, want)?;
    }
    Ok(())
}

fn an_empty_mask_leaves_the_dirty_bit(hv: &dyn Hypervisor) -> Result<(), Failure> {
    for (mask, dirty) in [(0, false), (1, true)] {
        let mut g = at_a_page_end(hv, mask)?;
        let entry = g.pte_at(PAGE);
        g.asm(|a| {
            a.kmovq(k1, rbx)?;
            a.mov(al, byte_ptr(rsi))?;
            a.vmovdqu8(zmmword_ptr(rsi - 0x100).k1(), zmm0)?;
            a.hlt()
        })?;
        g.run_to_end()?;
        let set = g.read_u64(entry) & pte::D != 0;
        ensure("the dirty bit is wrong", set == dirty)?;
    }
    Ok(())
}

fn hidden_elements_are_not_stored(hv: &dyn Hypervisor) -> Result<(), Failure> {
    const MASK: u64 = 0x1234_5678;
    let mut g = at_a_page_end(hv, MASK)?;
    g.asm(|a| {
        a.kmovq(k1, rbx)?;
        a.mov(byte_ptr(rsi - 1), 7)?; // the page is dirty already
        a.vmovdqu8(zmmword_ptr(rsi).k1(), zmm0)?;
        a.hlt()
    })?;
    g.run_to_end()?;
    let mut stored = [0; 33];
    g.ram.read(SPARE + 0xfdf, &mut stored);
    expect("before", stored[0], 7)?;
    let want: [u8; 32] = std::array::from_fn(|i| (!MASK >> i & 1) as u8);
    expect("stored", &stored[1..], &want[..])
}
