//! Branches to addresses that are not canonical: the branch faults, and has
//! not happened (SDM vol 2, JMP, CALL, RET, IRET, SYSRET; vol 1, 3.3.7.1).

use crate::Hypervisor;
use crate::conformance::guest::{Guest, Mode};
use crate::conformance::layout::*;
use crate::conformance::{Failure, expect};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use x86::paging::pte;
use x86::{efer, flags, msr};

group! { "branch":
    near_return_to_a_non_canonical_address "SDM 2 RET",
    near_return_with_parameters "SDM 2 RET",
    near_jump_to_a_non_canonical_address "SDM 2 JMP",
    near_call_of_a_non_canonical_address "SDM 2 CALL",
    pointers_in_memory "SDM 2 JMP, CALL",
    far_return_to_a_non_canonical_address "SDM 2 RET",
    far_branches_to_a_non_canonical_address "SDM 2 JMP, CALL",
    iret_to_a_non_canonical_address "SDM 2 IRET",
    sysret_to_a_non_canonical_address "SDM 2 SYSRET, APM 3 SYSRET",
    direct_branches_over_the_canonical_edge "SDM 2 JMP, Jcc, CALL",
    execution_over_the_canonical_edge "SDM 1 3.3.7.1",
    a_good_return_follows_a_bad_one "SDM 2 RET",
}

/// The lowest address that is not canonical.
const EDGE: u64 = 1 << 47;
/// Another one, of a later page.
const NOWHERE: u64 = 0x1234_5678_9abc_d000;

/// Runs one instruction at [`CODE`] with RAX = [`NOWHERE`] and RBX = [`DATA`]:
/// #GP(0) there with RSP as before.
fn refused(
    g: &mut Guest,
    f: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Result<(), Failure> {
    g.asm(f)?;
    g.enter_kernel()?;
    let before = STACK_TOP - 0x100;
    g.set(|r| {
        r.rax = NOWHERE;
        r.rbx = DATA;
        r.rsp = before;
        r.rflags |= flags::CF | flags::ZF;
    })?;
    let frame = g.run_to_exception()?;
    frame.expect(13, Some(0), CODE)?;
    expect("RSP", frame.sp, before)?;
    let kept = flags::CF | flags::ZF;
    expect("flags", frame.flags & flags::ARITH, kept)
}

/// A guest with what a return pops on the stack of [`refused`].
fn with_frame(hv: &dyn Hypervisor, frame: &[u64]) -> Result<Guest, Failure> {
    let g = Guest::new(hv, Mode::Long)?;
    for (i, value) in frame.iter().enumerate() {
        g.write_u64(STACK_TOP - 0x100 + 8 * i as u64, *value);
    }
    Ok(g)
}

fn near_return_to_a_non_canonical_address(hv: &dyn Hypervisor) -> Result<(), Failure> {
    for target in [EDGE, NOWHERE, !EDGE] {
        refused(&mut with_frame(hv, &[target])?, |a| a.ret())?;
    }
    Ok(())
}

fn near_return_with_parameters(hv: &dyn Hypervisor) -> Result<(), Failure> {
    refused(&mut with_frame(hv, &[EDGE])?, |a| a.ret_1(0x20))
}

fn near_jump_to_a_non_canonical_address(hv: &dyn Hypervisor) -> Result<(), Failure> {
    refused(&mut with_frame(hv, &[])?, |a| a.jmp(rax))
}

fn near_call_of_a_non_canonical_address(hv: &dyn Hypervisor) -> Result<(), Failure> {
    refused(&mut with_frame(hv, &[])?, |a| a.call(rax))
}

fn pointers_in_memory(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = with_frame(hv, &[])?;
    g.write_u64(DATA, NOWHERE);
    refused(&mut g, |a| a.jmp(qword_ptr(rbx)))?;
    refused(&mut g, |a| a.call(qword_ptr(rbx)))
}

fn far_return_to_a_non_canonical_address(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = with_frame(hv, &[NOWHERE, sel::CODE.into()])?;
    refused(&mut g, |a| a.db(&[0x48, 0xcb])) // retfq
}

fn far_branches_to_a_non_canonical_address(hv: &dyn Hypervisor) -> Result<(), Failure> {
    const JUMP: [u8; 3] = [0x48, 0xff, 0x2b]; // jmp far m16:64 [rbx]
    const CALL: [u8; 3] = [0x48, 0xff, 0x1b];
    for code in [JUMP, CALL] {
        let mut g = with_frame(hv, &[])?;
        if g.is_amd() {
            // APM vol 3, JMP (Far): REX.W changes nothing, the pointer is m16:32.
            g.write_u64(DATA, SPARE | u64::from(sel::CODE) << 32);
            g.asm(|a| a.db(&code))?;
            g.code_at(SPARE, SPARE, 64, |a| a.ud2())?;
            g.set(|r| r.rbx = DATA)?;
            g.run_to_exception()?.expect(6, None, SPARE)?;
        } else {
            g.write_u64(DATA, NOWHERE);
            g.write_uint(DATA + 8, 2, sel::CODE.into());
            refused(&mut g, |a| a.db(&code))?;
        }
    }
    Ok(())
}

fn iret_to_a_non_canonical_address(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let back = [NOWHERE, sel::CODE.into(), 2, STACK_TOP, sel::DATA.into()];
    refused(&mut with_frame(hv, &back)?, |a| a.iretq())?;
    let out = [
        NOWHERE,
        sel::USER64.into(),
        2,
        USER_STACK_TOP,
        sel::USER_DATA.into(),
    ];
    refused(&mut with_frame(hv, &out)?, |a| a.iretq())
}

fn sysret_to_a_non_canonical_address(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.cpu.set_msr(msr::STAR, (0x38 | 3) << 48)?;
    g.set_sregs(|s| s.efer |= efer::SCE)?;
    g.asm(|a| a.sysretq())?;
    g.set(|r| {
        r.rcx = NOWHERE;
        r.r11 = flags::FIXED1;
    })?;
    let frame = g.run_to_exception()?;
    let (ip, selector) = match g.is_amd() {
        true => (NOWHERE, sel::USER64),
        false => (CODE, sel::CODE),
    };
    frame.expect(13, Some(0), ip)?;
    expect("CS", frame.cs, selector.into())
}

/// A guest whose program ends at the canonical edge.
fn at_the_edge(
    hv: &dyn Hypervisor,
    len: u64,
    f: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Result<Guest, Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.map(EDGE - 0x1000, SPARE, pte::P | pte::RW);
    g.code_at(SPARE + 0x1000 - len, EDGE - len, 64, f)?;
    g.set(|r| r.rip = EDGE - len)?;
    Ok(g)
}

fn direct_branches_over_the_canonical_edge(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let over: [(&[u8], &str); 3] = [
        (&[0xeb, 0x20, 0x90], "jmp"),
        (&[0x74, 0x20, 0x90], "je"),
        (&[0xe8, 0x20, 0, 0, 0, 0x90], "call"),
    ];
    for (bytes, what) in over {
        let len = bytes.len() as u64;
        let mut g = at_the_edge(hv, len, |a| a.db(bytes))?;
        g.set(|r| r.rflags |= flags::ZF)?;
        let frame = g.run_to_exception()?;
        frame
            .expect(13, Some(0), EDGE - len)
            .map_err(|why| Failure::Wrong(format!("{what}: {why}")))?;
        expect("RSP", frame.sp, STACK_TOP)?;
    }
    Ok(())
}

fn execution_over_the_canonical_edge(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = at_the_edge(hv, 3, |a| {
        a.inc(ebx)?;
        a.nop()
    })?;
    g.run_to_exception()?.expect(13, Some(0), EDGE)?;
    expect("RBX", g.regs()?.rbx, 1)
}

fn a_good_return_follows_a_bad_one(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // The handler repairs the return address and goes back to the RET.
    let mut g = Guest::new(hv, Mode::Long)?;
    let good = CODE + 0x100;
    g.set_gate(13, SPARE);
    g.code_at(SPARE, SPARE, 64, |a| {
        a.mov(rdx, qword_ptr(rsp + 32))?; // RSP at the RET
        a.mov(qword_ptr(rdx), good as i32)?;
        a.inc(ebx)?;
        a.add(rsp, 8)?;
        a.iretq()
    })?;
    g.code_at(good, good, 64, |a| a.hlt())?;
    g.asm(|a| {
        a.mov(rax, NOWHERE)?;
        a.push(rax)?;
        a.ret()
    })?;
    g.run_to_end()?;
    let r = g.regs()?;
    expect(
        "faults, RIP, RSP",
        (r.rbx, r.rip, r.rsp),
        (1, good + 1, STACK_TOP),
    )
}
