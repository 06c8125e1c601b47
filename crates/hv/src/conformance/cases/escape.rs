//! Ways out of guest memory that are none: addresses of the host, addresses that are
//! not canonical, jumps to the host's code. Each operation is made to work first, so
//! that a translator or a TLB has got used to it.

use crate::Hypervisor;
use crate::conformance::guest::{Guest, Mode};
use crate::conformance::layout::*;
use crate::conformance::{Failure, expect};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use x86::paging::pte;

group! { "escape":
    host_addresses_mean_nothing_to_kernels "SDM 3 4.1",
    host_addresses_mean_nothing_to_users "SDM 3 4.1",
    jumps_to_host_code "SDM 3 4.6",
    returns_to_host_code "SDM 3 4.6",
    operands_that_begin_canonical "SDM 1 3.3.7.1",
    addresses_that_wrap "SDM 1 3.3.7",
}

type Op = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// Accesses to `[RBX]`, none of which changes it or RSI.
const OPS: [(&str, Op); 9] = [
    ("load", |a| a.mov(rax, qword_ptr(rbx))),
    ("store", |a| a.mov(qword_ptr(rbx), rax)),
    ("change", |a| a.add(dword_ptr(rbx), 1)),
    ("exchange", |a| a.xchg(qword_ptr(rbx), rax)),
    ("locked", |a| a.lock().inc(qword_ptr(rbx))),
    ("two at once", |a| {
        a.mov(rax, qword_ptr(rbx))?;
        a.mov(rdx, qword_ptr(rbx + 8))
    }),
    ("vector", |a| a.movups(xmm0, xmmword_ptr(rbx))),
    ("FXSAVE", |a| a.fxsave64(ptr(rbx))),
    ("REP STOSB", |a| {
        a.mov(rdi, rbx)?;
        a.mov(ecx, 16)?;
        a.rep().stosb()
    }),
];

/// The same by the stack, on which exceptions of kernels would go.
const STACK_OPS: [(&str, Op); 2] = [
    ("push", |a| {
        a.lea(rsp, qword_ptr(rbx + 8))?;
        a.push(rax)?;
        a.mov(rsp, rbp)
    }),
    ("pop", |a| {
        a.mov(rsp, rbx)?;
        a.pop(rax)?;
        a.mov(rsp, rbp)
    }),
];

/// Addresses in this process, none of them in the guest's tables: its RAM, what is
/// behind that, code, and a stack.
fn host_addresses(g: &Guest) -> [u64; 4] {
    let local = 0_u64;
    [
        g.ram.hva() + DATA,
        g.ram.hva() + g.ram.size(),
        (host_addresses as *const () as u64) & !15,
        (&raw const local as u64) & !15,
    ]
}

/// Does `op` at the addresses that RSI points to, one after the other.
fn at_each(a: &mut CodeAssembler, op: Op) -> Result<(), IcedError> {
    let mut next = a.create_label();
    a.mov(rbp, rsp)?;
    a.set_label(&mut next)?;
    a.mov(rbx, qword_ptr(rsi))?;
    a.add(rsi, 8)?;
    op(a)?;
    a.jmp(next)
}

/// Where the list of addresses is, and what they are before the last.
const LIST: u64 = USER_DATA;
const USUAL: u64 = USER_DATA + 0x1000;
const TIMES: u64 = 20;

/// Has `op` done at `evil` after it was done elsewhere; the exception's vector.
fn attack(g: &mut Guest, user: bool, op: Op, evil: u64) -> Result<u8, Failure> {
    for i in 0..TIMES {
        g.write_u64(LIST + 8 * i, USUAL + 0x80 * (i & 7));
    }
    g.write_u64(LIST + 8 * TIMES, evil);
    if user {
        g.user_asm(|a| at_each(a, op))?;
        g.enter_user()?;
    } else {
        g.asm(|a| at_each(a, op))?;
        g.enter_kernel()?;
    }
    g.set(|r| (r.rsi, r.rax) = (LIST, 0x5a5a))?;
    let frame = g.run_to_exception()?;
    expect("accesses done", g.regs()?.rsi, LIST + 8 * TIMES + 8)?;
    Ok(frame.vector)
}

fn host_addresses_mean_nothing(hv: &dyn Hypervisor, user: bool) -> Result<(), Failure> {
    const MARK: u64 = 0x1122_3344_5566_7788;
    let mut g = Guest::new(hv, Mode::Long)?;
    let stack = STACK_OPS.into_iter().filter(|_| user);
    for (name, op) in OPS.into_iter().chain(stack) {
        for evil in host_addresses(&g) {
            g.write_u64(DATA, MARK);
            let what = format!("{name} at {evil:#x}");
            expect(&what, attack(&mut g, user, op, evil)?, 14)?;
            expect("CR2", g.cpu.sregs()?.cr2, evil)?;
            expect("RAM", g.read_u64(DATA), MARK)?;
        }
    }
    Ok(())
}

fn host_addresses_mean_nothing_to_kernels(hv: &dyn Hypervisor) -> Result<(), Failure> {
    host_addresses_mean_nothing(hv, false)
}

fn host_addresses_mean_nothing_to_users(hv: &dyn Hypervisor) -> Result<(), Failure> {
    host_addresses_mean_nothing(hv, true)
}

fn jumps_to_host_code(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let ways: [(&str, Op); 3] = [
        ("JMP", |a| a.jmp(rbx)),
        ("CALL", |a| a.call(rbx)),
        ("JMP through memory", |a| a.jmp(qword_ptr(rsi - 8))),
    ];
    for (name, way) in ways {
        let mut g = Guest::new(hv, Mode::Long)?;
        for evil in host_addresses(&g) {
            for i in 0..TIMES {
                g.write_u64(LIST + 8 * i, USER_CODE);
            }
            g.write_u64(LIST + 8 * TIMES, evil);
            g.user_asm(|a| {
                a.mov(rbx, qword_ptr(rsi))?;
                a.add(rsi, 8)?;
                way(a)
            })?;
            g.enter_user()?;
            g.set(|r| r.rsi = LIST)?;
            let what = format!("{name} to {evil:#x}");
            let frame = g.run_to_exception()?;
            expect(&what, (frame.vector, frame.ip), (14, evil))?;
        }
    }
    Ok(())
}

fn returns_to_host_code(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    for evil in host_addresses(&g) {
        g.user_asm(|a| {
            let (mut again, mut f) = (a.create_label(), a.create_label());
            a.set_label(&mut again)?;
            a.call(f)?;
            a.jmp(again)?;
            a.set_label(&mut f)?;
            a.dec(ecx)?;
            a.cmovz(rax, rbx)?;
            a.cmovnz(rax, qword_ptr(rsp))?;
            a.mov(qword_ptr(rsp), rax)?;
            a.ret()
        })?;
        g.enter_user()?;
        g.set(|r| (r.rcx, r.rbx) = (50, evil))?;
        let frame = g.run_to_exception()?;
        expect("RET", (frame.vector, frame.ip), (14, evil))?;
    }
    Ok(())
}

fn operands_that_begin_canonical(hv: &dyn Hypervisor) -> Result<(), Failure> {
    const LAST: u64 = 0x7fff_ffff_f000;
    let mut g = Guest::new(hv, Mode::Long)?;
    g.map(LAST, SPARE, pte::P | pte::RW);
    for (evil, name) in [
        (LAST + 0xffc, "the last four bytes"),
        (LAST + 0x1000, "behind them"),
        (0xffff_7fff_ffff_fff0, "before the upper half"),
    ] {
        for (op, code) in OPS.into_iter().take(4) {
            let what = format!("{op} of {name}");
            // The change is of four bytes only.
            let by = u64::from(op == "change");
            expect(&what, attack(&mut g, false, code, evil + by)?, 13)?;
        }
    }
    Ok(())
}

fn addresses_that_wrap(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // What is added leads around the end of the address space, or of 32 bits, to
    // where it says and nowhere else.
    let mut g = Guest::new(hv, Mode::Long)?;
    g.write_u64(DATA, 0x1234);
    g.asm(|a| {
        a.mov(rax, qword_ptr(rbx + rcx * 8 + 0x10))?;
        a.mov(rdx, qword_ptr(ebx + ecx * 8 + 0x10))?;
        a.mov(r8, qword_ptr(rbx + 0x7fff_fff0))?;
        a.hlt()
    })?;
    for rbx_ in [
        0xffff_ffff_8000_0010 + DATA,
        0_u64.wrapping_sub(0x7fff_fff0) + DATA,
    ] {
        g.enter_kernel()?;
        let rcx_ = DATA.wrapping_sub(0x10).wrapping_sub(rbx_) / 8;
        g.set(|r| (r.rbx, r.rcx) = (rbx_, rcx_))?;
        g.run_to_end()?;
        let r = g.regs()?;
        expect("loaded", (r.rax, r.rdx, r.r8), (0x1234, 0x1234, 0x1234))?;
    }
    Ok(())
}
