//! Returns to other privilege levels by IRET and SYSRET, after a few ordinary
//! ones have been made by the same instruction: what is remembered of those must
//! not decide about the next (SDM vol 2, IRET, SYSCALL, SYSRET).

use crate::Hypervisor;
use crate::conformance::frame::Frame;
use crate::conformance::guest::{Guest, Mode, Stop};
use crate::conformance::layout::*;
use crate::conformance::setup::{descriptor, rights};
use crate::conformance::{Failure, expect};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use x86::segment::attr;
use x86::{cr0, cr4, efer, flags, msr};

group! { "privilege":
    iret_checks_every_selector "SDM 2 IRET",
    iret_reads_the_table_each_time "SDM 3 3.5, 5.8.1",
    iret_sets_the_accessed_bit "SDM 3 3.4.5.1",
    iret_refuses_an_address_each_time "SDM 2 IRET",
    iret_loads_all_flags "SDM 2 IRET",
    iret_with_nt "SDM 2 IRET",
    iret_to_a_single_step "SDM 3 17.3.1.4",
    iret_to_checked_alignment "SDM 3 6.15, #AC",
    iret_sets_and_clears_ac "SDM 3 4.6.1, CR4.SMAP",
    iret_sets_rf_for_one_instruction "SDM 3 17.3.1.1",
    iret_to_a_null_stack_segment "SDM 2 IRET",
    iret_empties_data_segments "SDM 2 IRET",
    iret_frame_on_a_missing_page "SDM 3 6.15, #PF",
    iret_opens_the_window_at_once "KVM API 5, request_interrupt_window",
    iret_lets_the_next_nmi_in "SDM 3 6.7.1",
    sysret_loads_all_flags "SDM 2 SYSRET",
    sysret_to_a_single_step "SDM 2 SYSRET",
    sysret_to_checked_alignment "SDM 3 6.15, #AC",
    sysret_opens_the_window_at_once "KVM API 5, request_interrupt_window",
    sysret_to_the_upper_half "SDM 3 4.6",
    syscall_keeps_ac_unless_masked "SDM 2 SYSCALL, SDM 3 4.6.1",
    syscall_wraps_selectors "SDM 2 SYSCALL, SYSRET",
    syscall_obeys_sce_each_time "SDM 2 SYSCALL",
}

/// What IRET pops.
#[derive(Clone, Copy)]
struct Popped {
    rip: u64,
    cs: u16,
    flags: u64,
    rsp: u64,
    ss: u16,
}

/// The vector by which user code asks for the next return.
const NEXT: u8 = 0x40;
/// Kernel code: returns by the frame that RBX points to, and moves RBX on.
const DISPATCH: u64 = SPARE;
/// Kernel code that asks for the next return.
const KERNEL_TARGET: u64 = SPARE + 0x100;
/// Kernel code to return to at last.
const LAST: u64 = SPARE + 0x200;
/// User code that asks for the next return.
const USER_TARGET: u64 = USER_CODE;
/// User code to return to at last.
const USER_LAST: u64 = USER_CODE + 0x100;

const TO_USER: Popped = Popped {
    rip: USER_LAST,
    cs: sel::USER64,
    flags: flags::FIXED1,
    rsp: USER_STACK_TOP,
    ss: sel::USER_DATA,
};
const TO_KERNEL: Popped = Popped {
    rip: LAST,
    cs: sel::CODE,
    flags: flags::FIXED1,
    rsp: STACK_TOP,
    ss: sel::DATA,
};

/// As [`TO_USER`] with these selectors of CS and SS.
fn to_user(code: u16, stack: u16) -> Popped {
    Popped {
        cs: code,
        ss: stack,
        ..TO_USER
    }
}

fn dispatch(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(rsp, rbx)?;
    a.add(rbx, 40)?;
    a.iretq()
}

/// Offset of IRETQ in [`dispatch`].
const IRETQ: u64 = 7;

/// A guest that returns to user and kernel code in turn, three times each, and
/// then by the frames in `last`.
fn returning(hv: &dyn Hypervisor, last: &[Popped]) -> Result<Guest, Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.set_gate_raw(NEXT, sel::CODE, DISPATCH, 0xee00); // for CPL 3
    g.code_at(DISPATCH, DISPATCH, 64, dispatch)?;
    g.code_at(KERNEL_TARGET, KERNEL_TARGET, 64, |a| a.jmp(DISPATCH))?;
    g.code_at(LAST, LAST, 64, |a| a.hlt())?;
    g.code_at(USER_TARGET, USER_TARGET, 64, |a| a.int(u32::from(NEXT)))?;
    g.code_at(USER_LAST, USER_LAST, 64, |a| a.ud2())?;
    g.asm(|a| a.jmp(DISPATCH))?;
    let (user, kernel) = (
        Popped {
            rip: USER_TARGET,
            ..TO_USER
        },
        Popped {
            rip: KERNEL_TARGET,
            ..TO_KERNEL
        },
    );
    let ordinary = [user, kernel, user, kernel, user, kernel];
    for (i, f) in ordinary.iter().chain(last).enumerate() {
        let words = [f.rip, f.cs.into(), f.flags, f.rsp, f.ss.into()];
        for (j, word) in words.into_iter().enumerate() {
            g.write_u64(DATA + 40 * i as u64 + 8 * j as u64, word);
        }
    }
    g.set(|r| r.rbx = DATA)?;
    Ok(g)
}

/// Runs until the last return faults as it should: RIP and RSP as before it.
fn refused(g: &mut Guest, vector: u8, error: u64) -> Result<Frame, Failure> {
    let frame = g.run_to_exception()?;
    frame.expect(vector, Some(error), DISPATCH + IRETQ)?;
    let at = g.regs()?.rbx - 40;
    expect("RSP, CS", (frame.sp, frame.cs), (at, sel::CODE.into()))?;
    Ok(frame)
}

/// [`sel::SPARE`] names a segment with these rights.
fn with_spare(g: &Guest, rights: u16) {
    g.set_descriptor(sel::SPARE, descriptor(0, 0xf_ffff, rights));
}

/// A descriptor's rights at [`sel::SPARE`], selectors of CS and SS that are
/// popped, and what that raises.
struct Refused {
    rights: u16,
    code: u16,
    stack: u16,
    raises: (u8, u16),
    what: &'static str,
}

impl Refused {
    fn new(what: &'static str, code: u16, stack: u16, error: u16) -> Self {
        Self {
            rights: 0,
            code,
            stack,
            raises: (13, error & !3),
            what,
        }
    }
    fn with(self, rights: u16, vector: u8) -> Self {
        let raises = (vector, self.raises.1);
        Self {
            rights,
            raises,
            ..self
        }
    }
}

fn iret_checks_every_selector(hv: &dyn Hypervisor) -> Result<(), Failure> {
    use rights::{CODE64, DATA32, DPL3};
    use sel::{CODE, DATA, END, USER_DATA, USER64};
    let spare = sel::SPARE | 3;
    let new = Refused::new;
    for case in [
        new("null CS", 0, USER_DATA, 0),
        new("null CS with RPL 3", 3, USER_DATA, 0),
        new("null SS", USER64, 0, 0),
        new("null SS with RPL 3", USER64, 3, 0),
        new("SS of the kernel", USER64, DATA, DATA),
        new("RPL of CS", USER64 & !3, DATA, USER64),
        new("DPL of CS", CODE | 3, USER_DATA, CODE),
        new("CS beyond the limit", END | 3, USER_DATA, END),
        new("SS beyond the limit", USER64, END | 3, END),
        new("CS in the LDT", USER64 | 4, USER_DATA, USER64 | 4),
        new("data in CS", spare, USER_DATA, spare).with(DATA32 | DPL3, 13),
        new("absent CS", spare, USER_DATA, spare).with((CODE64 | DPL3) & !attr::P, 11),
        new("absent SS", USER64, spare, spare).with((DATA32 | DPL3) & !attr::P, 12),
    ] {
        let mut g = returning(hv, &[to_user(case.code, case.stack)])?;
        with_spare(&g, case.rights);
        refused(&mut g, case.raises.0, case.raises.1.into())
            .map_err(|e| Failure::Wrong(format!("{}: {e}", case.what)))?;
    }
    Ok(())
}

/// Has the last target before `last` set `selector`'s descriptor to `raw`.
fn changing(hv: &dyn Hypervisor, selector: u16, raw: u64, last: Popped) -> Result<Guest, Failure> {
    let mut g = returning(hv, &[TO_KERNEL, last])?;
    g.code_at(LAST, LAST, 64, |a| {
        a.mov(rax, raw)?;
        a.mov(qword_ptr(GDT + u64::from(selector & !7)), rax)?;
        a.jmp(DISPATCH)
    })?;
    Ok(g)
}

fn iret_reads_the_table_each_time(hv: &dyn Hypervisor) -> Result<(), Failure> {
    use rights::{CODE64, DATA32, DPL3};
    let limit = 0xf_ffff;
    let absent = descriptor(0, limit, (CODE64 | DPL3) & !attr::P);
    let mut g = changing(hv, sel::USER64, absent, TO_USER)?;
    refused(&mut g, 11, u64::from(sel::USER64 & !3))?;
    let kernel = descriptor(0, limit, CODE64);
    let mut g = changing(hv, sel::USER64, kernel, TO_USER)?;
    refused(&mut g, 13, u64::from(sel::USER64 & !3))?;
    let readable = descriptor(0, limit, (DATA32 | DPL3) & !attr::RW);
    let mut g = changing(hv, sel::USER_DATA, readable, TO_USER)?;
    refused(&mut g, 13, u64::from(sel::USER_DATA & !3))?;
    let absent = descriptor(0, limit, CODE64 & !attr::P);
    let mut g = changing(hv, sel::CODE, absent, TO_KERNEL)?;
    // The handler's segment is absent, too.
    expect("kernel's CS absent", g.run()?, Stop::Shutdown)?;
    // A limit or a base of a flat segment means nothing, but is loaded.
    let small = descriptor(0x1000, 0x10, DATA32 | DPL3);
    let mut g = changing(hv, sel::USER_DATA, small, TO_USER)?;
    g.code_at(USER_LAST, USER_LAST, 64, |a| {
        a.push(rax)?;
        a.mov(ecx, ss)?;
        a.lsl(edx, ecx)?;
        a.ud2()
    })?;
    let frame = g.run_to_exception()?;
    expect("RSP", frame.sp, USER_STACK_TOP - 8)?;
    expect("limit of SS", g.regs()?.rdx, 0x1_0fff)
}

fn iret_sets_the_accessed_bit(hv: &dyn Hypervisor) -> Result<(), Failure> {
    use rights::{CODE64, DATA32, DPL3};
    for (selector, rights) in [
        (sel::USER64, CODE64 | DPL3),
        (sel::USER_DATA, DATA32 | DPL3),
    ] {
        let fresh = descriptor(0, 0xf_ffff, rights & !attr::A);
        let mut g = changing(hv, selector, fresh, TO_USER)?;
        g.run_to_exception()?.expect(6, None, USER_LAST)?;
        let now = g.read_u64(GDT + u64::from(selector & !7));
        expect("descriptor", now, descriptor(0, 0xf_ffff, rights))?;
    }
    Ok(())
}

fn iret_refuses_an_address_each_time(hv: &dyn Hypervisor) -> Result<(), Failure> {
    for rip in [0x8000_0000_0000, 0xffff_7fff_ffff_ffff, 1 << 63] {
        refused(&mut returning(hv, &[Popped { rip, ..TO_USER }])?, 13, 0)?;
        refused(&mut returning(hv, &[Popped { rip, ..TO_KERNEL }])?, 13, 0)?;
    }
    Ok(())
}

fn iret_loads_all_flags(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let some = flags::CF | flags::AF | flags::SF;
    for image in [
        some,
        flags::ARITH,
        flags::OF,
        flags::DF | flags::ID,
        flags::IF | flags::PF,
        flags::IOPL | flags::ZF,
        flags::ID | flags::VIF,
        !(flags::TF | flags::RF | flags::VM | flags::NT | flags::VIP | flags::AC),
    ] {
        let last = [TO_USER, TO_KERNEL].map(|f| Popped { flags: image, ..f });
        let want = image & flags::DEFINED | flags::FIXED1;
        let frame = returning(hv, &last[..1])?.run_to_exception()?;
        expect("in user mode", frame.flags & !flags::RF, want)?;
        let mut g = returning(hv, &last[1..])?;
        g.run_to_end()?;
        expect("in the kernel", g.regs()?.rflags, want)?;
    }
    Ok(())
}

fn iret_with_nt(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // NT is loaded by one return and stops the next.
    let nt = Popped {
        rip: KERNEL_TARGET,
        flags: flags::NT | flags::FIXED1,
        ..TO_KERNEL
    };
    let frame = refused(&mut returning(hv, &[nt, TO_USER])?, 13, 0)?;
    expect("NT", frame.flags & flags::NT, flags::NT)
}

/// Runs user or kernel code of two instructions, whose first is single-stepped.
fn stepped(g: &mut Guest, at: u64) -> Result<(), Failure> {
    g.code_at(at, at, 64, |a| {
        a.mov(ecx, 7)?;
        a.mov(ecx, 8)?;
        a.ud2()
    })?;
    let frame = g.run_to_exception()?;
    frame.expect(1, None, at + 5)?;
    expect("ECX", g.regs()?.rcx, 7)?;
    expect("TF", frame.flags & flags::TF, flags::TF)
}

fn iret_to_a_single_step(hv: &dyn Hypervisor) -> Result<(), Failure> {
    for to in [TO_USER, TO_KERNEL] {
        let flags = flags::TF | flags::FIXED1;
        stepped(&mut returning(hv, &[Popped { flags, ..to }])?, to.rip)?;
    }
    Ok(())
}

/// Code that reads a word at an odd address in user memory.
fn read_unaligned(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(eax, dword_ptr(USER_DATA as u32 + 2))?;
    a.ud2()
}

fn iret_to_checked_alignment(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let flags = flags::AC | flags::FIXED1;
    let mut g = returning(hv, &[Popped { flags, ..TO_USER }])?;
    g.set_sregs(|s| s.cr0 |= cr0::AM)?;
    g.code_at(USER_LAST, USER_LAST, 64, read_unaligned)?;
    g.run_to_exception()?.expect(17, Some(0), USER_LAST)
}

/// A guest with SMAP whose kernel reads a word of user memory at [`LAST`].
fn with_smap(g: &mut Guest) -> Result<(), Failure> {
    g.need(7, 0, |e| e.ebx, 20, "SMAP")?;
    g.set_sregs(|s| s.cr4 |= cr4::SMAP)?;
    g.write_u64(USER_DATA, 0x1234);
    g.code_at(LAST, LAST, 64, |a| {
        a.mov(eax, dword_ptr(USER_DATA as u32))?;
        a.jmp(DISPATCH)
    })?;
    Ok(())
}

fn iret_sets_and_clears_ac(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let with = Popped {
        flags: flags::AC | flags::FIXED1,
        ..TO_KERNEL
    };
    let between = Popped {
        rip: KERNEL_TARGET,
        ..TO_KERNEL
    };
    let mut g = returning(hv, &[with, with, between, with, TO_KERNEL])?;
    with_smap(&mut g)?;
    g.run_to_exception()?.expect(14, Some(1), LAST)?;
    expect("read before", g.regs()?.rax, 0x1234)?;
    expect("returns", g.regs()?.rbx, DATA + 40 * 11)
}

fn iret_sets_rf_for_one_instruction(hv: &dyn Hypervisor) -> Result<(), Failure> {
    for to in [TO_USER, TO_KERNEL] {
        let flags = flags::RF | flags::FIXED1;
        let mut g = returning(hv, &[Popped { flags, ..to }; 2])?;
        g.code_at(to.rip, to.rip, 64, |a| {
            a.inc(ecx)?;
            a.int3()
        })?;
        let frame = g.run_to_exception()?;
        frame.expect(3, None, to.rip + 3)?;
        expect("RF", frame.flags & flags::RF, 0)?;
    }
    // A breakpoint at the target is passed once.
    let flags = flags::RF | flags::FIXED1;
    let mut g = returning(hv, &[Popped { flags, ..TO_KERNEL }, TO_KERNEL])?;
    g.code_at(LAST, LAST, 64, |a| {
        a.inc(ecx)?;
        a.jmp(DISPATCH)
    })?;
    let mut dr = g.cpu.debug_regs()?;
    dr.db[0] = LAST;
    dr.dr7 = 1;
    g.cpu.set_debug_regs(&dr)?;
    g.run_to_exception()?.expect(1, None, LAST)?;
    expect("passes", g.regs()?.rcx, 1)
}

fn iret_to_a_null_stack_segment(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let null = Popped { ss: 0, ..TO_KERNEL };
    let again = Popped {
        rip: KERNEL_TARGET,
        ..null
    };
    let mut g = returning(hv, &[again, again, null])?;
    g.code_at(LAST, LAST, 64, |a| {
        a.push(rbx)?;
        a.mov(ecx, ss)?;
        a.hlt()
    })?;
    g.run_to_end()?;
    let r = g.regs()?;
    expect("SS, RSP", (r.rcx, r.rsp), (0, STACK_TOP - 8))?;
    let sregs = g.cpu.sregs()?;
    expect("CPL", (sregs.ss.dpl, sregs.cs.dpl), (0, 0))?;
    // One with RPL 3 is not the kernel's.
    refused(
        &mut returning(hv, &[again, Popped { ss: 3, ..null }])?,
        13,
        0,
    )
    .map(|_| ())
}

fn iret_empties_data_segments(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = returning(hv, &[TO_KERNEL, TO_USER])?;
    g.code_at(LAST, LAST, 64, |a| {
        a.mov(eax, u32::from(sel::DATA))?;
        a.mov(es, eax)?;
        a.mov(fs, eax)?;
        a.mov(eax, u32::from(sel::USER_DATA))?;
        a.mov(ds, eax)?;
        a.mov(gs, eax)?;
        a.jmp(DISPATCH)
    })?;
    g.code_at(USER_LAST, USER_LAST, 64, |a| {
        a.mov(eax, es)?;
        a.mov(ecx, ds)?;
        a.mov(edx, fs)?;
        a.mov(esi, gs)?;
        a.ud2()
    })?;
    g.run_to_exception()?;
    let r = g.regs()?;
    let kept = sel::USER_DATA.into();
    expect(
        "ES, DS, FS, GS",
        (r.rax, r.rcx, r.rdx, r.rsi),
        (0, kept, 0, kept),
    )
}

fn iret_frame_on_a_missing_page(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // Its last two words lie on a page that is not there.
    let mut g = returning(hv, &[TO_KERNEL, TO_USER])?;
    let missing = DATA + 0x2000;
    g.map(missing, missing, 0);
    g.code_at(LAST, LAST, 64, |a| {
        a.mov(ebx, (missing - 24) as u32)?;
        a.jmp(DISPATCH)
    })?;
    for (i, word) in [USER_LAST, sel::USER64.into(), 2].into_iter().enumerate() {
        g.write_u64(missing - 24 + 8 * i as u64, word);
    }
    refused(&mut g, 14, 0)?;
    expect("CR2", g.cpu.sregs()?.cr2, missing)
}

/// Runs until an interrupt could be injected: at `rip`, with IF set.
fn window_at(g: &mut Guest, rip: u64) -> Result<(), Failure> {
    g.cpu.request_irq_window(true);
    expect("stop", g.run()?, Stop::IrqWindow)?;
    let r = g.regs()?;
    expect("RIP, IF", (r.rip, r.rflags & flags::IF), (rip, flags::IF))
}

fn iret_opens_the_window_at_once(hv: &dyn Hypervisor) -> Result<(), Failure> {
    for to in [TO_USER, TO_KERNEL] {
        let flags = flags::IF | flags::FIXED1;
        let mut g = returning(hv, &[Popped { flags, ..to }])?;
        window_at(&mut g, to.rip)?;
        let sregs = g.cpu.sregs()?;
        expect(
            "CS, SS",
            (sregs.cs.selector, sregs.ss.selector),
            (to.cs, to.ss),
        )?;
    }
    Ok(())
}

fn iret_lets_the_next_nmi_in(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = returning(hv, &[TO_KERNEL, TO_KERNEL])?;
    g.set_gate(2, SPARE + 0x300);
    g.code_at(SPARE + 0x300, SPARE + 0x300, 64, |a| {
        a.shl(ebp, 8)?;
        a.add(ebp, 1)?;
        a.iretq()
    })?;
    g.code_at(LAST, LAST, 64, |a| {
        a.hlt()?;
        a.add(ebp, 1)?;
        a.jmp(DISPATCH)
    })?;
    g.run_to_end()?;
    g.cpu.inject_nmi()?;
    g.cpu.inject_nmi()?;
    g.run_to_end()?;
    // Both came before the instruction that follows.
    expect("EBP", g.regs()?.rbp, 0x102)?;
    expect("NMI unmasked", g.cpu.events()?.nmi.masked, 0)
}

/// A guest whose user code makes three system calls; the kernel returns from
/// them to the instruction after, and from the next to [`USER_LAST`] with R11 =
/// `last`.
fn calling(hv: &dyn Hypervisor, last: u64) -> Result<Guest, Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.cpu.set_msr(msr::STAR, STAR)?;
    g.cpu.set_msr(msr::LSTAR, SPARE)?;
    g.cpu.set_msr(msr::SFMASK, flags::IF)?;
    g.set_sregs(|s| s.efer |= efer::SCE)?;
    g.code_at(SPARE, SPARE, 64, |a| {
        let mut go_on = a.create_label();
        a.dec(ebx)?;
        a.jns(go_on)?;
        a.mov(rcx, USER_LAST)?;
        a.mov(r11, last)?;
        a.set_label(&mut go_on)?;
        a.sysretq()
    })?;
    g.user_asm(|a| {
        let mut top = a.create_label();
        a.set_label(&mut top)?;
        a.syscall()?;
        a.jmp(top)
    })?;
    g.code_at(USER_LAST, USER_LAST, 64, |a| a.ud2())?;
    g.enter_user()?;
    g.set(|r| r.rbx = 3)?;
    Ok(g)
}

/// STAR for the suite's selectors.
const STAR: u64 = (0x38 | 3) << 48 | (sel::CODE as u64) << 32;

fn sysret_loads_all_flags(hv: &dyn Hypervisor) -> Result<(), Failure> {
    for image in [
        flags::CF | flags::AF | flags::SF,
        flags::ARITH,
        flags::OF | flags::IF,
        flags::DF | flags::ID,
        flags::IOPL | flags::ZF,
        flags::NT | flags::VIF,
        flags::RF | flags::VM | flags::PF,
        !(flags::TF | flags::VIP | flags::AC),
    ] {
        let frame = calling(hv, image)?.run_to_exception()?;
        frame.expect(6, None, USER_LAST)?;
        let loaded = flags::DEFINED & !(flags::RF | flags::VM);
        expect(
            "flags",
            frame.flags & !flags::RF,
            image & loaded | flags::FIXED1,
        )?;
    }
    Ok(())
}

fn sysret_to_a_single_step(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // The trap comes right after SYSRET, which obeys the TF it loads.
    let mut g = calling(hv, flags::TF | flags::FIXED1)?;
    let frame = g.run_to_exception()?;
    frame.expect(1, None, USER_LAST)?;
    expect("CS", frame.cs, sel::USER64.into())
}

fn sysret_to_checked_alignment(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = calling(hv, flags::AC | flags::FIXED1)?;
    g.set_sregs(|s| s.cr0 |= cr0::AM)?;
    g.code_at(USER_LAST, USER_LAST, 64, read_unaligned)?;
    g.run_to_exception()?.expect(17, Some(0), USER_LAST)
}

fn sysret_opens_the_window_at_once(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = calling(hv, flags::IF | flags::FIXED1)?;
    window_at(&mut g, USER_LAST)?;
    expect("CS", g.cpu.sregs()?.cs.selector, sel::USER64)
}

fn sysret_to_the_upper_half(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = calling(hv, flags::FIXED1)?;
    let above = 0xffff_8000_0000_0000;
    g.code_at(SPARE, SPARE, 64, |a| {
        a.mov(rcx, above)?;
        a.sysretq()
    })?;
    let frame = g.run_to_exception()?;
    expect(
        "vector, CS",
        (frame.vector, frame.cs),
        (14, sel::USER64.into()),
    )?;
    expect("RIP", frame.ip, above)
}

fn syscall_keeps_ac_unless_masked(hv: &dyn Hypervisor) -> Result<(), Failure> {
    for (mask, error) in [(0, None), (flags::AC, Some(1))] {
        let mut g = calling(hv, flags::FIXED1)?;
        g.need(7, 0, |e| e.ebx, 20, "SMAP")?;
        g.set_sregs(|s| s.cr4 |= cr4::SMAP)?;
        g.cpu.set_msr(msr::SFMASK, mask)?;
        g.code_at(SPARE, SPARE, 64, |a| {
            let mut go_on = a.create_label();
            a.dec(ebx)?;
            a.jns(go_on)?;
            a.mov(esp, STACK_TOP as u32)?;
            a.mov(eax, dword_ptr(USER_DATA as u32))?;
            a.ud2()?;
            a.set_label(&mut go_on)?;
            a.sysretq()
        })?;
        g.set(|r| r.rflags |= flags::AC)?;
        let frame = g.run_to_exception()?;
        let vector = if error.is_some() { 14 } else { 6 };
        expect(
            "vector, error",
            (frame.vector, frame.error),
            (vector, error),
        )?;
    }
    Ok(())
}

fn syscall_wraps_selectors(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = calling(hv, flags::FIXED1)?;
    g.cpu.set_msr(msr::STAR, 0xfff4_fff8_0000_0000)?;
    g.code_at(SPARE, SPARE, 64, |a| {
        a.mov(esi, cs)?;
        a.mov(edi, ss)?;
        a.mov(rcx, USER_LAST)?;
        a.sysretq()
    })?;
    g.code_at(USER_LAST, USER_LAST, 64, |a| {
        a.mov(r8d, cs)?;
        a.mov(r9d, ss)?;
        a.ud2()
    })?;
    g.run_to_exception()?;
    let r = g.regs()?;
    expect("in the kernel", (r.rsi, r.rdi), (0xfff8, 0))?;
    expect("in user mode", (r.r8, r.r9), (0x0007, 0xffff))
}

fn syscall_obeys_sce_each_time(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = calling(hv, flags::FIXED1)?;
    g.code_at(SPARE, SPARE, 64, |a| {
        let mut go_on = a.create_label();
        a.dec(ebx)?;
        a.jns(go_on)?;
        a.mov(ecx, msr::EFER)?;
        a.rdmsr()?;
        a.and(eax, !(efer::SCE as u32))?;
        a.wrmsr()?;
        a.set_label(&mut go_on)?;
        a.sysretq()
    })?;
    let frame = g.run_to_exception()?;
    // SYSRET does not exist any more, either.
    expect(
        "vector, CS",
        (frame.vector, frame.cs),
        (6, sel::CODE.into()),
    )
}
