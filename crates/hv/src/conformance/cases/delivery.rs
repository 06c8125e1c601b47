//! Delivery of exceptions and software interrupts (SDM vol 3, chapter 6).

use super::in_modes;
use crate::Hypervisor;
use crate::conformance::guest::{Guest, Mode, Stop};
use crate::conformance::layout::*;
use crate::conformance::{Failure, expect};
use iced_x86::code_asm::*;
use x86::flags;

group! { "delivery":
    invalid_opcode "SDM 3 6.15 #UD",
    divide_error "SDM 3 6.15 #DE",
    breakpoint_is_a_trap "SDM 3 6.15 #BP",
    software_interrupt "SDM 2 INT n",
    overflow_trap "SDM 2 INTO",
    bound_range "SDM 2 BOUND",
    lock_prefix_on_register "SDM 2 LOCK",
    instruction_too_long "SDM 3 6.15 #GP, 2.3.11",
    bad_selector_error_code "SDM 3 6.13",
    not_present_segment "SDM 3 6.15 #NP",
    not_present_stack_segment "SDM 3 6.15 #SS",
    privileged_instructions_in_user_mode "SDM 3 5.9",
    wbinvd_in_user_mode "SDM 2 WBINVD",
    gate_privilege "SDM 3 6.12.1.1",
    missing_gate_error_code "SDM 3 6.13",
    user_fault_switches_stack "SDM 3 6.12.1, 6.14.4",
    long_mode_frame_is_aligned "SDM 3 6.14.2",
    interrupt_stack_table "SDM 3 6.14.5",
    interrupt_gate_clears_if "SDM 3 6.12.1.2",
    faults_set_rf_in_the_frame "SDM 3 17.3.1.1",
    iret_returns_to_user "SDM 2 IRET",
    iret_to_compatibility_mode "SDM 2 IRET",
    iret_restores_flags "SDM 2 IRET",
    real_mode_interrupt_and_iret "SDM 3 20.1.4",
    page_fault_in_gate_lookup_is_double_fault "SDM 3 6.15 #DF, table 6-5",
    second_contributory_fault_is_double_fault "SDM 3 table 6-5",
    page_fault_after_benign_is_serial "SDM 3 table 6-5",
    triple_fault_shuts_down "SDM 3 6.15 #DF",
    real_mode_triple_fault "SDM 3 20.1.4",
    halt_leaves_rip_behind_it "SDM 2 HLT",
    nested_exceptions_return "SDM 3 6.12",
    alignment_check_in_user_mode "SDM 3 6.15 #AC",
    device_not_available "SDM 3 6.15 #NM, 2.5",
    x87_error "SDM 3 6.15 #MF",
    simd_error "SDM 3 6.15 #XM",
}

fn invalid_opcode(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &Mode::ALL, |g| {
        g.asm(|a| {
            a.nop()?;
            a.ud2()
        })?;
        let start = g.regs()?.rip;
        g.run_to_exception()?.expect(6, None, start + 1)
    })
}

fn divide_error(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &Mode::ALL, |g| {
        g.asm(|a| {
            a.xor(ecx, ecx)?;
            a.div(ecx)
        })?;
        g.set(|r| r.rax = 5)?;
        let start = g.regs()?.rip;
        let first = if g.mode == Mode::Real { 3 } else { 2 };
        g.run_to_exception()?.expect(0, None, start + first)?;
        expect("EAX unchanged", g.regs()?.rax, 5)?;
        // A quotient that does not fit is the same error.
        g.asm(|a| {
            a.mov(cl, 1)?;
            a.div(cl)
        })?;
        g.enter_kernel()?;
        g.set(|r| r.rax = 0x100)?;
        g.run_to_exception()?.expect(0, None, start + 2)
    })
}

fn breakpoint_is_a_trap(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &Mode::ALL, |g| {
        g.asm(|a| a.int3())?;
        let start = g.regs()?.rip;
        g.run_to_exception()?.expect(3, None, start + 1)
    })
}

fn software_interrupt(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &Mode::ALL, |g| {
        // INT n never pushes an error code, even through the gate of a vector
        // that has one; the stub of #MF, which has none, decodes the frame.
        g.asm(|a| a.int(0x11))?;
        let start = g.regs()?.rip;
        g.set_gate(0x11, STUBS + 16 * 16);
        g.run_to_exception()?.expect(16, None, start + 2)
    })
}

fn overflow_trap(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(
        hv,
        &[Mode::Real, Mode::Prot32, Mode::Pae, Mode::Compat],
        |g| {
            g.asm(|a| {
                a.into()?;
                a.mov(al, 0x7f)?;
                a.inc(al)?;
                a.into()
            })?;
            let start = g.regs()?.rip;
            g.run_to_exception()?.expect(4, None, start + 6)
        },
    )
}

fn bound_range(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Compat], |g| {
        g.write_u64(DATA, 0x0000_0014_0000_000a);
        g.asm(|a| {
            a.mov(eax, 20)?;
            a.bound(eax, ptr(DATA as u32))?;
            a.inc(eax)?;
            a.bound(eax, ptr(DATA as u32))
        })?;
        g.run_to_exception()?.expect(5, None, CODE + 5 + 6 + 1)
    })
}

fn lock_prefix_on_register(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &Mode::ALL, |g| {
        g.write(CODE, &[0xf0, 0x01, 0xc8]); // lock add eax, ecx
        let start = g.regs()?.rip;
        g.run_to_exception()?.expect(6, None, start)
    })
}

fn instruction_too_long(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Long], |g| {
        let mut bytes = [0x66; 17]; // 14 prefixes are the most a NOP may have
        bytes[15] = 0x90;
        g.write(CODE, &bytes);
        g.run_to_exception()?.expect(13, Some(0), CODE)?;
        bytes[14] = 0x90;
        bytes[15] = 0x0f;
        bytes[16] = 0x0b;
        g.write(CODE, &bytes);
        g.enter_kernel()?;
        g.run_to_exception()?.expect(6, None, CODE + 15)
    })
}

const FLAT_MODES: [Mode; 4] = [Mode::Prot32, Mode::Pae, Mode::Long, Mode::Compat];

fn bad_selector_error_code(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &FLAT_MODES, |g| {
        g.asm(|a| {
            a.mov(eax, 0x203)?; // beyond the GDT's limit, RPL 3
            a.mov(es, eax)
        })?;
        g.run_to_exception()?.expect(13, Some(0x200), CODE + 5)?;
        g.asm(|a| {
            a.mov(eax, 0x0c)?; // LDT, which is empty
            a.mov(ds, eax)
        })?;
        g.enter_kernel()?;
        g.set_sregs(|s| s.ldt.limit = 7)?;
        g.run_to_exception()?.expect(13, Some(0x0c), CODE + 5)
    })
}

fn not_present_segment(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &FLAT_MODES, |g| {
        g.set_descriptor(sel::SPARE, 0x00cf_1300_0000_ffff);
        g.asm(|a| {
            a.mov(eax, u32::from(sel::SPARE))?;
            a.mov(fs, eax)
        })?;
        g.run_to_exception()?
            .expect(11, Some(u64::from(sel::SPARE)), CODE + 5)
    })
}

fn not_present_stack_segment(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &FLAT_MODES, |g| {
        g.set_descriptor(sel::SPARE, 0x00cf_1300_0000_ffff);
        g.asm(|a| {
            a.mov(eax, u32::from(sel::SPARE))?;
            a.mov(ss, eax)
        })?;
        g.run_to_exception()?
            .expect(12, Some(u64::from(sel::SPARE)), CODE + 5)
    })
}

fn privileged_instructions_in_user_mode(hv: &dyn Hypervisor) -> Result<(), Failure> {
    type Emit = fn(&mut CodeAssembler) -> Result<(), IcedError>;
    let table: [(&str, Emit); 9] = [
        ("HLT", |a| a.hlt()),
        ("CLTS", |a| a.clts()),
        ("RDMSR", |a| a.rdmsr()),
        ("WRMSR", |a| a.wrmsr()),
        ("CLI", |a| a.cli()),
        ("LGDT", |a| a.lgdt(ptr(USER_DATA as u32))),
        ("INVLPG", |a| a.invlpg(ptr(USER_DATA as u32))),
        ("LMSW", |a| a.lmsw(ax)),
        ("LTR", |a| a.ltr(ax)),
    ];
    in_modes(hv, &FLAT_MODES, |g| {
        for (name, emit) in table {
            g.user_asm(emit)?;
            g.enter_user()?;
            let frame = g.run_to_exception()?;
            expect(
                name,
                (frame.vector, frame.error, frame.ip),
                (13, Some(0), USER_CODE),
            )?;
        }
        Ok(())
    })
}
use iced_x86::IcedError;

fn wbinvd_in_user_mode(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &FLAT_MODES, |g| {
        g.user_asm(|a| {
            a.wbinvd()?;
            a.ud2()
        })?;
        g.enter_user()?;
        g.run_to_exception()?.expect(13, Some(0), USER_CODE)
    })
}

fn gate_privilege(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &FLAT_MODES, |g| {
        // DPL 0: INT n from user mode is #GP with the vector's IDT code.
        g.touch(&[GDT, IDT, TSS, RING0_TOP - 0x1000])?;
        g.set_gate_raw(0x15, sel::CODE, STUBS + 0x150, 0x8e00);
        g.user_asm(|a| a.int(0x15))?;
        g.enter_user()?;
        g.run_to_exception()?
            .expect(13, Some(0x15 * 8 + 2), USER_CODE)
    })
}

fn missing_gate_error_code(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &FLAT_MODES, |g| {
        g.touch(&[GDT, IDT, STACK_TOP - 0x1000])?;
        g.asm(|a| a.int(0x40))?;
        g.set_gate_raw(0x40, sel::CODE, STUBS, 0x6e00);
        g.run_to_exception()?.expect(11, Some(0x40 * 8 + 2), CODE)?;
        g.enter_kernel()?;
        g.set_gate_raw(0x40, sel::CODE, STUBS, 0);
        g.run_to_exception()?.expect(13, Some(0x40 * 8 + 2), CODE)
    })
}

fn user_fault_switches_stack(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &FLAT_MODES, |g| {
        g.user_asm(|a| a.ud2())?;
        g.enter_user()?;
        let frame = g.run_to_exception()?;
        frame.expect(6, None, USER_CODE)?;
        let code = if g.mode == Mode::Long {
            sel::USER64
        } else {
            sel::USER32
        };
        expect(
            "CS, SS",
            (frame.cs, frame.ss),
            (code.into(), sel::USER_DATA.into()),
        )?;
        expect("SP", frame.sp, USER_STACK_TOP)?;
        let width = if g.mode.ia32e() { 8 } else { 4 };
        expect(
            "frame at the top of ring 0's stack",
            frame.at,
            RING0_TOP - 5 * width,
        )?;
        // Long mode loads SS with a null selector (SDM vol 3, 6.14.4).
        let stack = if g.mode.ia32e() { 0 } else { sel::DATA };
        expect("SS in the handler", g.cpu.sregs()?.ss.selector, stack)
    })
}

fn long_mode_frame_is_aligned(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Long, Mode::Compat], |g| {
        g.asm(|a| a.ud2())?;
        g.set(|r| r.rsp = STACK_TOP - 0x105)?;
        let frame = g.run_to_exception()?;
        expect("SP in the frame", frame.sp, STACK_TOP - 0x105)?;
        expect("frame", frame.at, STACK_TOP - 0x110 - 40)
    })
}

fn interrupt_stack_table(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Long, Mode::Compat], |g| {
        g.set_gate_raw(6, sel::CODE, STUBS + 0x60, 0x8e01);
        g.asm(|a| a.ud2())?;
        let frame = g.run_to_exception()?;
        expect("frame", frame.at, IST1_TOP - 40)?;
        expect("SP", frame.sp, STACK_TOP)
    })
}

fn interrupt_gate_clears_if(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &FLAT_MODES, |g| {
        g.asm(|a| a.ud2())?;
        g.set(|r| r.rflags |= flags::IF)?;
        let frame = g.run_to_exception()?;
        expect("IF in the frame", frame.flags & flags::IF, flags::IF)?;
        expect(
            "IF behind an interrupt gate",
            g.regs()?.rflags & flags::IF,
            0,
        )?;
        g.set_gate_raw(6, sel::CODE, STUBS + 0x60, 0x8f00);
        g.enter_kernel()?;
        g.set(|r| r.rflags |= flags::IF)?;
        g.run_to_exception()?;
        expect(
            "IF behind a trap gate",
            g.regs()?.rflags & flags::IF,
            flags::IF,
        )
    })
}

fn faults_set_rf_in_the_frame(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &FLAT_MODES, |g| {
        g.asm(|a| a.ud2())?;
        let frame = g.run_to_exception()?;
        expect("RF after a fault", frame.flags & flags::RF, flags::RF)?;
        g.asm(|a| a.int3())?;
        g.enter_kernel()?;
        let frame = g.run_to_exception()?;
        expect("RF after a trap", frame.flags & flags::RF, 0)
    })
}

/// Emits pushes of an IRET frame of the mode.
fn push_frame(a: &mut CodeAssembler, words: &[u64]) -> Result<(), IcedError> {
    for word in words {
        if a.bitness() == 64 {
            a.mov(rax, *word)?;
            a.push(rax)?;
        } else {
            a.mov(eax, *word as u32)?;
            a.push(eax)?;
        }
    }
    if a.bitness() == 64 {
        a.iretq()
    } else {
        a.iretd()
    }
}

fn iret_returns_to_user(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &FLAT_MODES, |g| {
        let code = u64::from(if g.mode == Mode::Long {
            sel::USER64
        } else {
            sel::USER32
        });
        let words = [
            sel::USER_DATA.into(),
            USER_STACK_TOP - 16,
            0x202,
            code,
            USER_CODE,
        ];
        g.asm(|a| push_frame(a, &words))?;
        g.user_asm(|a| {
            a.mov(ecx, cs)?;
            a.ud2()
        })?;
        let frame = g.run_to_exception()?;
        frame.expect(6, None, USER_CODE + 2)?;
        expect("CS", g.regs()?.rcx, code)?;
        expect(
            "SP, SS",
            (frame.sp, frame.ss),
            (USER_STACK_TOP - 16, words[0]),
        )?;
        expect("IF", frame.flags & flags::IF, flags::IF)
    })
}

fn iret_to_compatibility_mode(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    let words = [
        sel::USER_DATA.into(),
        USER_STACK_TOP,
        2,
        u64::from(sel::USER32),
        USER_CODE,
    ];
    g.asm(|a| push_frame(a, &words))?;
    g.code_at(USER_CODE, USER_CODE, 32, |a| {
        a.mov(eax, 0x4142_4344)?;
        a.dec(ecx)?; // 0x49 would be a REX prefix in 64-bit mode
        a.push(eax)?;
        a.ud2()
    })?;
    g.set(|r| r.rcx = 8)?;
    let frame = g.run_to_exception()?;
    expect("CS", frame.cs, sel::USER32.into())?;
    expect("SP after a 4-byte push", frame.sp, USER_STACK_TOP - 4)?;
    expect("ECX", g.regs()?.rcx, 7)
}

fn iret_restores_flags(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &FLAT_MODES, |g| {
        let all = flags::ARITH | flags::DF | flags::AC | flags::ID | flags::IOPL;
        let code = u64::from(if g.mode == Mode::Compat {
            sel::CODE32
        } else {
            sel::CODE
        });
        let mut words = vec![all | 2, code, SPARE];
        if g.mode == Mode::Long {
            words.splice(0..0, [sel::DATA.into(), STACK_TOP]);
        }
        g.asm(|a| push_frame(a, &words))?;
        g.code_at(SPARE, SPARE, g.mode.bits(), |a| a.hlt())?;
        g.run_to_end()?;
        let r = g.regs()?;
        expect("flags", r.rflags & all, all)?;
        expect("RSP", r.rsp, STACK_TOP)
    })
}

fn real_mode_interrupt_and_iret(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Real)?;
    g.set_gate(0x60, SPARE);
    g.code_at(SPARE, 0, 16, |a| {
        a.mov(bx, 0x1234)?;
        a.iret()
    })?;
    g.asm(|a| {
        a.sti()?;
        a.int(0x60)?;
        a.pushf()?;
        a.pop(dx)?;
        a.hlt()
    })?;
    g.run_to_end()?;
    let r = g.regs()?;
    expect("BX", r.rbx, 0x1234)?;
    expect("SP", r.rsp, STACK_TOP)?;
    expect("IF restored", r.rdx & flags::IF, flags::IF)?;
    expect("frame: IP", g.read_uint(STACK_TOP - 6, 2), 3)?;
    expect("frame: CS", g.read_uint(STACK_TOP - 4, 2), CODE >> 4)
}

fn page_fault_in_gate_lookup_is_double_fault(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Paging32, Mode::Pae, Mode::Long], |g| {
        // #PF whose own gate is not present: #PF, then #NP.
        g.touch(&[GDT, IDT, STACK_TOP - 0x1000])?;
        g.set_gate_raw(14, sel::CODE, STUBS + 0xe0, 0x0e00);
        g.map(USER_DATA, USER_DATA, 0);
        g.asm(|a| a.mov(eax, dword_ptr(USER_DATA as u32)))?;
        let frame = g.run_to_exception()?;
        expect("vector, error", (frame.vector, frame.error), (8, Some(0)))
    })
}

fn second_contributory_fault_is_double_fault(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &FLAT_MODES, |g| {
        // #NP (segment not present) whose gate is not present: #NP twice.
        g.set_gate_raw(11, sel::CODE, STUBS + 0xb0, 0x0e00);
        g.set_descriptor(sel::SPARE, 0x00cf_1300_0000_ffff);
        g.asm(|a| {
            a.mov(eax, u32::from(sel::SPARE))?;
            a.mov(es, eax)
        })?;
        let frame = g.run_to_exception()?;
        expect("vector, error", (frame.vector, frame.error), (8, Some(0)))
    })
}

fn page_fault_after_benign_is_serial(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Pae, Mode::Long], |g| {
        // #UD is benign: a #PF while pushing its frame is just a #PF. The
        // fault's handler runs on another stack in long mode (IST); in 32-bit
        // mode the fault comes from user mode with a missing ring-0 page.
        g.map(RING0_TOP - 0x1000, RING0_TOP - 0x1000, 0);
        g.user_asm(|a| a.ud2())?;
        g.enter_user()?;
        if g.mode != Mode::Long {
            // No IST: the #PF needs the same stack, so the chain ends in a
            // shutdown by way of #DF.
            return expect("stop", g.run()?, Stop::Shutdown);
        }
        g.set_gate_raw(14, sel::CODE, STUBS + 0xe0, 0x8e01);
        let frame = g.run_to_exception()?;
        frame.expect(14, Some(2), USER_CODE)
    })
}

fn triple_fault_shuts_down(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &FLAT_MODES, |g| {
        g.set_sregs(|s| s.idt.limit = 0)?;
        g.asm(|a| a.ud2())?;
        expect("stop", g.run()?, Stop::Shutdown)
    })
}

fn real_mode_triple_fault(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // #GP, whose vector is outside the table too, then #DF likewise.
    let mut g = Guest::new(hv, Mode::Real)?;
    g.set_sregs(|s| s.idt.limit = 3)?;
    g.asm(|a| a.int(0x21))?;
    expect("stop", g.run()?, Stop::Shutdown)
}

fn halt_leaves_rip_behind_it(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &Mode::ALL, |g| {
        g.asm(|a| {
            a.hlt()?;
            a.mov(al, 9)?;
            a.hlt()
        })?;
        let start = g.regs()?.rip;
        expect("stop", g.run()?, Stop::Halt)?;
        expect("RIP", g.regs()?.rip, start + 1)?;
        expect("stop", g.run()?, Stop::Halt)?;
        let r = g.regs()?;
        expect("RIP, RAX", (r.rip, r.rax), (start + 4, 9))
    })
}

fn nested_exceptions_return(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    // #UD's handler raises #BP, skips the UD2 and returns.
    g.set_gate(6, SPARE);
    g.set_gate(3, SPARE + 0x100);
    g.code_at(SPARE, SPARE, 64, |a| {
        a.int3()?;
        a.add(qword_ptr(rsp), 2)?;
        a.iretq()
    })?;
    g.code_at(SPARE + 0x100, SPARE + 0x100, 64, |a| {
        a.inc(ecx)?;
        a.iretq()
    })?;
    g.asm(|a| {
        a.ud2()?;
        a.ud2()?;
        a.hlt()
    })?;
    g.run_to_end()?;
    let r = g.regs()?;
    expect(
        "RCX, RSP, RIP",
        (r.rcx, r.rsp, r.rip),
        (2, STACK_TOP, CODE + 5),
    )
}

fn alignment_check_in_user_mode(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &FLAT_MODES, |g| {
        g.set_sregs(|s| s.cr0 |= x86::cr0::AM)?;
        g.user_asm(|a| {
            a.mov(eax, dword_ptr(USER_DATA as u32))?;
            a.mov(al, byte_ptr(USER_DATA as u32 + 1))?;
            a.mov(ecx, dword_ptr(USER_DATA as u32 + 2))
        })?;
        g.enter_user()?;
        g.set(|r| r.rflags |= flags::AC)?;
        let frame = g.run_to_exception()?;
        expect("vector, error", (frame.vector, frame.error), (17, Some(0)))?;
        // Ring 0 is never checked.
        g.asm(|a| {
            a.mov(ecx, dword_ptr(USER_DATA as u32 + 2))?;
            a.hlt()
        })?;
        g.enter_kernel()?;
        g.set(|r| r.rflags |= flags::AC)?;
        g.run_to_end()
    })
}

fn device_not_available(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &FLAT_MODES, |g| {
        g.set_sregs(|s| s.cr0 |= x86::cr0::TS)?;
        g.asm(|a| a.fld1())?;
        g.run_to_exception()?.expect(7, None, CODE)?;
        g.asm(|a| a.movaps(xmm0, xmm1))?;
        g.enter_kernel()?;
        g.run_to_exception()?.expect(7, None, CODE)?;
        g.set_sregs(|s| {
            s.cr0 &= !x86::cr0::TS;
            s.cr4 &= !x86::cr4::OSFXSR;
        })?;
        g.enter_kernel()?;
        g.run_to_exception()?.expect(6, None, CODE)
    })
}

fn x87_error(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &FLAT_MODES, |g| {
        g.write_uint(DATA, 2, 0x037b); // zero-divide unmasked
        g.asm(|a| {
            a.fninit()?;
            a.fldcw(word_ptr(DATA as u32))?;
            a.fldz()?;
            a.fld1()?;
            a.fdiv_2(st0, st1)?;
            a.nop()?;
            a.wait()
        })?;
        let frame = g.run_to_exception()?;
        // The error is pending until the next waiting instruction.
        let fldcw = if g.mode == Mode::Long { 7 } else { 6 };
        frame.expect(16, None, CODE + 2 + fldcw + 2 + 2 + 2 + 1)
    })
}

fn simd_error(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &FLAT_MODES, |g| {
        g.write_uint(DATA, 4, 0x1d80); // zero-divide unmasked
        g.write_uint(DATA + 4, 4, 0x3f80_0000);
        g.asm(|a| {
            a.ldmxcsr(dword_ptr(DATA as u32))?;
            a.movss(xmm0, dword_ptr(DATA as u32 + 4))?;
            a.xorps(xmm1, xmm1)?;
            a.divss(xmm0, xmm1)
        })?;
        let frame = g.run_to_exception()?;
        expect("vector", (frame.vector, frame.error), (19, None))?;
        // A fault: the destination is as before.
        let image = g.cpu.xsave()?.region;
        expect("XMM0", image[40], 0x3f80_0000)?;
        expect("MXCSR.ZE", image[6] & 4, 4)
    })
}
