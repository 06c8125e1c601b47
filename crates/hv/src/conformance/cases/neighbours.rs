//! Accesses close together: what one check may cover for several of them, and
//! what it must not (SDM vol 3, 4.7, 4.8; vol 2, PUSH).

use crate::Hypervisor;
use crate::conformance::guest::{Guest, Mode};
use crate::conformance::layout::*;
use crate::conformance::{Failure, expect};
use crate::exit::VcpuExit;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use x86::paging::pte;

group! { "neighbours":
    pushes_over_the_edge_of_a_page "SDM 2 PUSH",
    pushes_into_a_missing_page "SDM 2 PUSH",
    fields_in_two_pages "SDM 3 4.7",
    fields_of_which_some_are_missing "SDM 3 4.7",
    a_read_allows_no_write "SDM 3 4.6.1",
    only_the_write_sets_dirty "SDM 3 4.8",
    fields_of_another_page_after_a_change "SDM 1 3.7.5",
    registers_that_change_unnamed "SDM 2 MUL, CMPXCHG, XADD",
    fields_remapped_between_passes "SDM 3 4.10.4.1",
    fields_of_a_device "hv::VcpuExit",
    fields_of_the_running_code "SDM 3 8.1.3",
    flags_pass_by_fields "SDM 1 3.4.3.1",
}

/// A page of data with a page after it.
const PAGE: u64 = USER_DATA + 0x3000;
const EDGE: u64 = PAGE + 0x1000;
const RWU: u64 = pte::P | pte::RW | pte::US;

/// Value of the word at `address` of [`words`].
fn word(address: u64) -> u64 {
    address.wrapping_mul(0x0101_0101_0101)
}

/// Words that tell where they are, around the edge.
fn words(g: &Guest) {
    for at in (EDGE - 256..EDGE + 256).step_by(8) {
        g.write_u64(at, word(at));
    }
}

/// Loads the fields at RBX, +8, +16 and +24.
fn load_fields(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(rax, qword_ptr(rbx))?;
    a.mov(rcx, qword_ptr(rbx + 8))?;
    a.mov(r9, qword_ptr(rbx + 16))?;
    a.mov(rdx, qword_ptr(rbx + 24))
}

fn fields(g: &Guest) -> Result<[u64; 4], Failure> {
    let r = g.regs()?;
    Ok([r.rax, r.rcx, r.r9, r.rdx])
}

fn pushes_over_the_edge_of_a_page(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.asm(|a| {
        a.push(rax)?;
        a.push(r10)?;
        a.push(0x77)?;
        a.push(rsp)?;
        a.mov(rdx, qword_ptr(rsp + 24))?;
        a.pop(rsi)?;
        a.pop(rdi)?;
        a.pop(r11)?;
        a.pop(rbp)?;
        a.hlt()
    })?;
    for top in (EDGE - 40..=EDGE + 72).step_by(4) {
        g.enter_kernel()?;
        g.set(|r| (r.rsp, r.rax, r.r10) = (top, top << 20, !top))?;
        g.run_to_end()?;
        let r = g.regs()?;
        expect("RSP", r.rsp, top)?;
        let popped = (r.rsi, r.rdi, r.r11, r.rbp, r.rdx);
        expect(
            "popped",
            popped,
            (top - 24, 0x77, !top, top << 20, top << 20),
        )?;
        let pushed = [1, 2, 3, 4].map(|n| g.read_u64(top - 8 * n));
        expect("pushed", pushed, [top << 20, !top, 0x77, top - 24])?;
    }
    Ok(())
}

fn pushes_into_a_missing_page(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.map(PAGE, PAGE, 0);
    g.user_asm(|a| {
        a.push(rax)?; // 1 byte each
        a.push(rcx)?;
        a.push(rdx)?;
        a.push(rbx)
    })?;
    for room in 0..4 {
        g.flush_tlb()?;
        g.enter_user()?;
        g.set(|r| {
            r.rsp = EDGE + 8 * room;
            (r.rax, r.rcx, r.rdx) = (1, 2, 3);
        })?;
        g.write(EDGE, &[0; 32]);
        let frame = g.run_to_exception()?;
        frame.expect(14, Some(6), USER_CODE + room)?;
        expect("RSP", frame.sp, EDGE)?;
        expect("CR2", g.cpu.sregs()?.cr2, EDGE - 8)?;
        let pushed: Vec<u64> = (0..room).map(|n| g.read_u64(EDGE + 8 * n)).collect();
        let want: Vec<u64> = (1..=room).rev().collect();
        expect("pushed", pushed, want)?;
    }
    Ok(())
}

fn fields_in_two_pages(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    words(&g);
    g.asm(|a| {
        load_fields(a)?;
        a.hlt()
    })?;
    for at in (EDGE - 48..=EDGE + 16).step_by(8) {
        g.enter_kernel()?;
        g.set(|r| r.rbx = at)?;
        g.run_to_end()?;
        expect("fields", fields(&g)?, [0, 8, 16, 24].map(|n| word(at + n)))?;
    }
    Ok(())
}

fn fields_of_which_some_are_missing(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    words(&g);
    g.map(EDGE, EDGE, 0);
    g.user_asm(load_fields)?;
    let starts = [0, 3, 7, 11]; // of the instructions
    for missing in 0..4 {
        g.flush_tlb()?;
        g.enter_user()?;
        let at = EDGE - 8 * missing;
        g.set(|r| {
            r.rbx = at;
            (r.rax, r.rcx, r.r9, r.rdx) = (1, 1, 1, 1);
        })?;
        let frame = g.run_to_exception()?;
        frame.expect(14, Some(4), USER_CODE + starts[missing as usize])?;
        expect("CR2", g.cpu.sregs()?.cr2, EDGE)?;
        let want = [0, 1, 2, 3].map(|n| if n < missing { word(at + 8 * n) } else { 1 });
        expect("fields", fields(&g)?, want)?;
    }
    Ok(())
}

fn a_read_allows_no_write(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    words(&g);
    g.map(PAGE, PAGE, pte::P | pte::US);
    g.user_asm(|a| {
        a.mov(rax, qword_ptr(rbx))?; // 3 bytes
        a.mov(rcx, qword_ptr(rbx + 8))?; // 4 bytes
        a.mov(qword_ptr(rbx + 16), rax)
    })?;
    g.enter_user()?;
    let at = EDGE - 64;
    g.set(|r| r.rbx = at)?;
    g.run_to_exception()?.expect(14, Some(7), USER_CODE + 7)?;
    expect("CR2", g.cpu.sregs()?.cr2, at + 16)?;
    expect("RCX", g.regs()?.rcx, word(at + 8))
}

fn only_the_write_sets_dirty(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    words(&g);
    g.map(PAGE, PAGE, RWU);
    g.asm(|a| {
        let mut over = a.create_label();
        a.mov(rax, qword_ptr(rbx))?;
        a.mov(rcx, qword_ptr(rbx + 8))?;
        a.test(rdx, rdx)?;
        a.je(over)?;
        a.mov(qword_ptr(rbx + 16), rax)?;
        a.mov(r8, qword_ptr(rbx + 8))?;
        a.add(dword_ptr(rbx + 20), ecx)?;
        a.set_label(&mut over)?;
        a.hlt()
    })?;
    for (write, want) in [(0, pte::A), (1, pte::A | pte::D)] {
        g.enter_kernel()?;
        g.set(|r| (r.rbx, r.rdx) = (EDGE - 64, write))?;
        g.run_to_end()?;
        expect("A and D", g.pte(PAGE) & (pte::A | pte::D), want)?;
    }
    let sum = (word(EDGE - 64) >> 32).wrapping_add(word(EDGE - 56)) & 0xffff_ffff;
    let want = word(EDGE - 64) & 0xffff_ffff | sum << 32;
    expect("written", g.read_u64(EDGE - 48), want)
}

fn fields_of_another_page_after_a_change(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    words(&g);
    g.asm(|a| {
        a.mov(rax, qword_ptr(rbx))?;
        a.add(rbx, 128)?;
        a.mov(rcx, qword_ptr(rbx - 120))?;
        a.mov(r9, qword_ptr(rbx))?;
        a.lea(rbx, ptr(rbx - 64))?;
        a.dec(rbx)?;
        a.mov(rdx, qword_ptr(rbx + 1))?;
        a.mov(ebx, ebx)?;
        a.mov(rsi, qword_ptr(rbx - 63))?;
        a.mov(rbx, qword_ptr(rbx + r8 - 63))?;
        a.hlt()
    })?;
    for at in [
        EDGE - 192,
        EDGE - 128,
        EDGE - 120,
        EDGE - 64,
        EDGE - 8,
        EDGE,
    ] {
        g.enter_kernel()?;
        g.set(|r| (r.rbx, r.r8) = (at, 8))?;
        g.run_to_end()?;
        let want = [0, 8, 128, 64].map(|n| word(at + n));
        expect("fields", fields(&g)?, want)?;
        let r = g.regs()?;
        expect("last", (r.rsi, r.rbx), (word(at), word(at + 8)))?;
    }
    Ok(())
}

fn registers_that_change_unnamed(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // Each changes the base register between two reads through it, from one
    // address to another.
    const ONE: u64 = DATA + 0x100;
    const TWO: u64 = 2 * ONE;
    type Change = fn(&mut CodeAssembler) -> Result<(), IcedError>;
    let changes: [(&str, Change, u64, u64); 6] = [
        ("mul", |a| a.mul(rcx), ONE, TWO),
        ("imul", |a| a.imul(rcx), ONE, TWO),
        ("div", |a| a.div(rcx), TWO, ONE),
        ("cmpxchg", |a| a.cmpxchg(rsi, rdi), ONE, TWO),
        ("xadd", |a| a.xadd(rsi, rax), ONE, TWO),
        ("xchg", |a| a.xchg(rsi, rax), ONE, TWO),
    ];
    let mut g = Guest::new(hv, Mode::Long)?;
    g.write_u64(ONE + 8, 11);
    g.write_u64(ONE + 16, 12);
    g.write_u64(TWO + 8, 21);
    g.write_u64(TWO + 16, 22);
    for (name, change, start, end) in changes {
        g.asm(|a| {
            a.mov(rbx, qword_ptr(rax + 8))?;
            change(a)?;
            a.mov(r8, qword_ptr(rax + 16))?;
            a.hlt()
        })?;
        g.enter_kernel()?;
        g.set(|r| (r.rax, r.rcx, r.rdx, r.rsi) = (start, 2, 0, TWO))?;
        g.run_to_end()?;
        let r = g.regs()?;
        let want = if end == TWO { (11, 22) } else { (21, 12) };
        expect(name, (r.rbx, r.r8), want)?;
    }
    Ok(())
}

fn fields_remapped_between_passes(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    let other = SPARE;
    words(&g);
    for n in 0..4 {
        g.write_u64(other + 0xf00 + 8 * n, 100 + n);
    }
    let entry = g.pte_at(PAGE);
    g.asm(|a| {
        let mut top = a.create_label();
        a.mov(r12d, 2)?;
        a.set_label(&mut top)?;
        load_fields(a)?;
        a.mov(r13, rcx)?;
        a.mov(qword_ptr(rdi), rsi)?;
        a.invlpg(ptr(rbx))?;
        a.dec(r12d)?;
        a.jne(top)?;
        a.hlt()
    })?;
    let place = PAGE + 0xf00;
    g.set(|r| (r.rbx, r.rdi, r.rsi) = (place, entry, other | RWU))?;
    g.run_to_end()?;
    expect("fields", fields(&g)?, [100, 101, 102, 103])
}

fn fields_of_a_device(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.asm(|a| {
        a.mov(dword_ptr(rbx), eax)?;
        a.mov(dword_ptr(rbx + 4), ecx)?;
        a.mov(edx, dword_ptr(rbx + 8))?;
        a.hlt()
    })?;
    g.reads.push_back(0x1234);
    g.set(|r| (r.rbx, r.rax, r.rcx) = (MMIO + 0x10, 7, 8))?;
    g.run_to_end()?;
    let write = |at, value| VcpuExit::MmioWrite {
        gpa: MMIO + at,
        size: 4,
        value,
    };
    let read = VcpuExit::MmioRead {
        gpa: MMIO + 0x18,
        size: 4,
    };
    g.expect_log(&[write(0x10, 7), write(0x14, 8), read])?;
    expect("EDX", g.regs()?.rdx, 0x1234)
}

fn fields_of_the_running_code(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // The second store changes the instruction after it.
    let mut g = Guest::new(hv, Mode::Long)?;
    g.asm(|a| {
        a.mov(byte_ptr(rbx + 32), 1)?; // 4 bytes
        a.mov(byte_ptr(rbx + 1), 0x42)?; // 4 bytes
        a.mov(al, 0x11)?;
        a.hlt()
    })?;
    g.set(|r| r.rbx = CODE + 8)?;
    g.run_to_end()?;
    expect("AL", g.regs()?.rax & 0xff, 0x42)
}

fn flags_pass_by_fields(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    words(&g);
    g.asm(|a| {
        let mut less = a.create_label();
        a.mov(rax, qword_ptr(rbx))?;
        a.add(rsi, rdi)?; // carries
        a.mov(rcx, qword_ptr(rbx + 8))?;
        a.adc(r9, 0)?;
        a.mov(qword_ptr(rbx + 16), rcx)?;
        a.cmp(rdx, 5)?;
        a.mov(qword_ptr(rbx + 24), rax)?;
        a.lea(rsp, ptr(rsp - 8))?;
        a.jl(less)?;
        a.ud2()?;
        a.set_label(&mut less)?;
        a.hlt()
    })?;
    for at in [EDGE - 64, EDGE - 20] {
        words(&g);
        g.enter_kernel()?;
        g.set(|r| {
            (r.rbx, r.rsi, r.rdi) = (at, u64::MAX, 1);
            (r.rdx, r.r9) = (4, 40);
        })?;
        let (first, second) = (g.read_u64(at), g.read_u64(at + 8));
        g.run_to_end()?;
        expect("carry", g.regs()?.r9, 41)?;
        let written = (g.read_u64(at + 16), g.read_u64(at + 24));
        expect("written", written, (second, first))?;
    }
    Ok(())
}
