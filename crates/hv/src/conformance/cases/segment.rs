//! Segmentation outside the flat model (SDM vol 3, chapters 3 and 5).

use super::in_modes;
use crate::Hypervisor;
use crate::conformance::guest::{Guest, Mode};
use crate::conformance::layout::*;
use crate::conformance::setup::{descriptor, rights};
use crate::conformance::{Failure, expect};
use iced_x86::code_asm::*;
use x86::segment::attr;

group! { "segment":
    real_mode_addressing "SDM 3 20.1.1",
    real_mode_limit "SDM 3 20.1.1, 6.15 #GP",
    real_mode_word_at_the_limit "SDM 3 20.1.1",
    real_mode_stack_wraps "SDM 2 PUSH",
    unreal_mode_keeps_limits "SDM 3 9.9.2",
    address_size_override_in_real_mode "SDM 2 2.1.1",
    based_data_segment "SDM 3 3.4.3",
    limit_violation "SDM 3 5.3",
    byte_granular_limit_across "SDM 3 5.3",
    expand_down_segment "SDM 3 3.4.5.1",
    stack_limit_violation "SDM 3 5.3, 6.15 #SS",
    read_only_data_segment "SDM 3 5.5",
    execute_only_code_segment "SDM 3 5.5",
    null_segment_is_unusable "SDM 3 3.4.2",
    code_limit "SDM 3 5.3",
    based_code_segment "SDM 3 3.4.3",
    sixteen_bit_code_segment "SDM 3 3.4.5, D/B",
    sixteen_bit_stack_segment "SDM 3 3.4.5, B",
    load_sets_accessed_bit "SDM 3 3.4.5.1",
    far_jump_privilege "SDM 3 5.8.1",
    conforming_code_segment "SDM 3 5.8.1.2",
    lar_lsl_verr_verw "SDM 2 LAR, LSL, VERR, VERW",
    sgdt_lgdt_round_trip "SDM 2 SGDT, LGDT",
    ltr_and_str "SDM 2 LTR, STR",
    ldt_segment "SDM 3 2.4.2, 3.5",
    protected_mode_entry_and_exit "SDM 3 9.9",
}

/// Selector [`sel::SPARE`] describes this, RPL 0.
fn spare(g: &Guest, base: u64, limit: u32, rights: u16) {
    g.set_descriptor(sel::SPARE, descriptor(base, limit, rights));
}

/// `mov eax, selector; mov es, eax`: seven bytes in 32-bit code.
fn load_es(a: &mut CodeAssembler) -> Result<(), iced_x86::IcedError> {
    a.mov(eax, u32::from(sel::SPARE))?;
    a.mov(es, eax)
}
const AFTER_LOAD: u64 = CODE + 7;

fn real_mode_addressing(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Real)?;
    g.write_uint(DATA + 0x123, 2, 0xbeef);
    g.write_uint(0x7_0010, 2, 0xcafe);
    g.asm(|a| {
        a.mov(ax, word_ptr(0x123))?; // DS
        a.mov(cx, 0x7000)?;
        a.mov(fs, cx)?;
        a.mov(bx, word_ptr(0x10).fs())?;
        a.mov(bp, 0x40)?;
        a.mov(word_ptr(bp + 2), 0x1234)?; // SS by default
        a.hlt()
    })?;
    g.run_to_end()?;
    let r = g.regs()?;
    expect("DS, FS", (r.rax, r.rbx), (0xbeef, 0xcafe))?;
    expect("SS", g.read_uint(0x42, 2), 0x1234)
}

fn real_mode_limit(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Real)?;
    g.asm(|a| {
        a.mov(ebx, 0x1_0000)?;
        a.mov(al, byte_ptr(ebx))
    })?;
    g.run_to_exception()?.expect(13, None, 6)
}

fn real_mode_word_at_the_limit(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Real)?;
    g.asm(|a| a.mov(ax, word_ptr(0xffff)))?;
    g.run_to_exception()?.expect(13, None, 0)
}

fn real_mode_stack_wraps(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Real)?;
    g.set_sregs(|s| {
        s.ss.base = DATA;
        s.ss.selector = (DATA >> 4) as u16;
    })?;
    g.set(|r| r.rsp = 0)?;
    g.asm(|a| {
        a.mov(ax, 0x4321)?;
        a.push(ax)?;
        a.hlt()
    })?;
    g.run_to_end()?;
    expect("SP", g.regs()?.rsp, 0xfffe)?;
    expect("memory", g.read_uint(DATA + 0xfffe, 2), 0x4321)
}

fn unreal_mode_keeps_limits(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // Protected mode loads a 4 GiB limit; back in real mode it stays.
    let mut g = Guest::new(hv, Mode::Real)?;
    g.write_u64(GDT + 8, descriptor(0, 0xf_ffff, rights::DATA32));
    g.write_uint(DATA, 2, 0x1f);
    g.write_uint(DATA + 2, 4, GDT);
    g.write_u64(0x18_0000, 0x600d);
    g.asm(|a| {
        a.lgdt(fword_ptr(0))?;
        a.mov(eax, cr0)?;
        a.or(al, 1)?;
        a.mov(cr0, eax)?;
        a.mov(bx, 8)?;
        a.mov(fs, bx)?;
        a.and(al, 0xfe)?;
        a.mov(cr0, eax)?;
        a.mov(esi, 0x18_0000)?;
        a.mov(ecx, dword_ptr(esi).fs())?;
        a.hlt()
    })?;
    g.run_to_end()?;
    expect("ECX", g.regs()?.rcx, 0x600d)
}

fn address_size_override_in_real_mode(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Real)?;
    g.write(DATA + 0x100, &[1, 2, 3, 4]);
    g.asm(|a| {
        a.mov(ebx, 0x80)?;
        a.mov(eax, dword_ptr(ebx * 2))?;
        a.mov(cx, word_ptr(bx + 0x82))?;
        a.hlt()
    })?;
    g.run_to_end()?;
    let r = g.regs()?;
    expect("EAX, CX", (r.rax, r.rcx), (0x0403_0201, 0x0403))
}

fn based_data_segment(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(
        hv,
        &[Mode::Prot32, Mode::Paging32, Mode::Pae, Mode::Compat],
        |g| {
            spare(g, DATA + 0x100, 0xfff, rights::DATA | attr::DB);
            g.write_uint(DATA + 0x140, 4, 0x1234_5678);
            g.asm(|a| {
                load_es(a)?;
                a.mov(ecx, dword_ptr(0x40).es())?;
                a.mov(dword_ptr(0x44).es(), ecx)?;
                a.mov(edi, 0x48)?;
                a.mov(eax, 0x9abc_def0_u32)?;
                a.stosd()?;
                a.hlt()
            })?;
            g.run_to_end()?;
            expect("ECX", g.regs()?.rcx, 0x1234_5678)?;
            expect("stores", g.read_u64(DATA + 0x144), 0x9abc_def0_1234_5678)
        },
    )
}

fn limit_violation(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Pae, Mode::Compat], |g| {
        spare(g, DATA, 0xff, rights::DATA | attr::DB);
        g.asm(|a| {
            load_es(a)?;
            a.mov(ecx, dword_ptr(0x100).es())
        })?;
        g.run_to_exception()?.expect(13, Some(0), AFTER_LOAD)
    })
}

fn byte_granular_limit_across(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Compat], |g| {
        spare(g, DATA, 0x102, rights::DATA | attr::DB);
        let len = g.asm(|a| {
            load_es(a)?;
            a.mov(ecx, dword_ptr(0xff).es())?; // the last byte is the limit
            a.mov(cl, byte_ptr(0x102).es())
        })?;
        g.code_at(CODE + len, CODE + len, 32, |a| {
            a.mov(ecx, dword_ptr(0x100).es())
        })?;
        g.run_to_exception()?.expect(13, Some(0), CODE + len)
    })
}

fn expand_down_segment(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Compat], |g| {
        // Valid offsets lie above the limit.
        spare(g, DATA, 0xfff, rights::DATA | attr::EC | attr::DB);
        g.write_uint(DATA + 0x1000, 4, 0x5555);
        let len = g.asm(|a| {
            load_es(a)?;
            a.mov(ecx, dword_ptr(0x1000).es())
        })?;
        g.code_at(CODE + len, CODE + len, 32, |a| {
            a.mov(edx, dword_ptr(0xfff).es())
        })?;
        g.run_to_exception()?.expect(13, Some(0), CODE + len)?;
        expect("ECX", g.regs()?.rcx, 0x5555)
    })
}

fn stack_limit_violation(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Compat], |g| {
        // From user mode, so that the frame goes to ring 0's stack.
        spare(g, USER_DATA, 0xfff, rights::DATA | attr::DB | attr::DPL);
        g.user_asm(|a| {
            a.mov(eax, u32::from(sel::SPARE | 3))?;
            a.mov(ss, eax)?;
            a.mov(esp, 0x1004)?;
            a.push(eax)
        })?;
        g.enter_user()?;
        g.run_to_exception()?.expect(12, Some(0), USER_CODE + 12)
    })
}

fn read_only_data_segment(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Pae, Mode::Compat], |g| {
        let read_only = (rights::DATA32 | attr::DB) & !attr::RW;
        spare(g, 0, 0xf_ffff, read_only);
        let len = g.asm(|a| {
            load_es(a)?;
            a.mov(ecx, dword_ptr(DATA as u32).es())
        })?;
        g.code_at(CODE + len, CODE + len, 32, |a| {
            a.mov(dword_ptr(DATA as u32).es(), ecx)
        })?;
        g.run_to_exception()?.expect(13, Some(0), CODE + len)?;
        // SS takes no read-only segment: #GP with the selector.
        g.asm(|a| {
            a.mov(eax, u32::from(sel::SPARE))?;
            a.mov(ss, eax)
        })?;
        g.enter_kernel()?;
        g.run_to_exception()?
            .expect(13, Some(sel::SPARE.into()), CODE + 5)
    })
}

fn execute_only_code_segment(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Pae], |g| {
        spare(g, 0, 0xf_ffff, rights::CODE32 & !attr::RW);
        g.asm(|a| a.jmp_far(sel::SPARE, SPARE as u32))?;
        g.code_at(SPARE, SPARE, 32, |a| {
            a.mov(ecx, 1)?;
            a.mov(eax, dword_ptr(DATA as u32).cs())
        })?;
        g.run_to_exception()?.expect(13, Some(0), SPARE + 5)?;
        expect("ECX", g.regs()?.rcx, 1)
    })
}

fn null_segment_is_unusable(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Pae, Mode::Compat], |g| {
        g.asm(|a| {
            a.xor(eax, eax)?;
            a.mov(es, eax)?; // loading is allowed
            a.mov(ecx, dword_ptr(DATA as u32).es())
        })?;
        g.run_to_exception()?.expect(13, Some(0), CODE + 4)?;
        g.asm(|a| {
            a.xor(eax, eax)?;
            a.mov(ss, eax)
        })?;
        g.enter_kernel()?;
        g.run_to_exception()?.expect(13, Some(0), CODE + 2)
    })
}

fn code_limit(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Pae], |g| {
        spare(g, SPARE, 0xf, rights::CODE | attr::DB);
        g.write(SPARE, &[0x90; 0x20]);
        g.asm(|a| a.jmp_far(sel::SPARE, 0xc))?;
        let frame = g.run_to_exception()?;
        frame.expect(13, Some(0), 0x10)?;
        expect("CS", frame.cs, sel::SPARE.into())
    })
}

fn based_code_segment(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Pae, Mode::Compat], |g| {
        spare(g, SPARE, 0xfff, rights::CODE | attr::DB);
        g.asm(|a| a.jmp_far(sel::SPARE, 0x20))?;
        g.code_at(SPARE + 0x20, 0x20, 32, |a| {
            let mut here = a.create_label();
            a.call(here)?;
            a.set_label(&mut here)?;
            a.pop(ecx)?;
            a.mov(edx, dword_ptr(0x80).cs())?;
            a.hlt()
        })?;
        g.write_uint(SPARE + 0x80, 4, 0x8765_4321);
        g.run_to_end()?;
        let r = g.regs()?;
        expect("ECX, EDX", (r.rcx, r.rdx), (0x25, 0x8765_4321))
    })
}

fn sixteen_bit_code_segment(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Pae, Mode::Compat], |g| {
        spare(g, SPARE, 0xffff, rights::CODE);
        g.asm(|a| {
            a.mov(ecx, 0x1111_1111)?;
            a.jmp_far(sel::SPARE, 0)
        })?;
        g.code_at(SPARE, 0, 16, |a| {
            a.mov(cx, 0x2222)?;
            a.mov(esi, 0x3333_3333)?;
            a.hlt()
        })?;
        g.run_to_end()?;
        let r = g.regs()?;
        expect("ECX, ESI", (r.rcx, r.rsi), (0x1111_2222, 0x3333_3333))?;
        expect("RIP", r.rip, 10)
    })
}

fn sixteen_bit_stack_segment(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Compat], |g| {
        // With B clear PUSH uses SP: the upper half of ESP stays.
        g.asm(|a| {
            a.mov(eax, u32::from(sel::DATA16))?;
            a.mov(ss, eax)?;
            a.mov(esp, 0x1234_8000)?;
            a.push(eax)?;
            a.mov(ecx, esp)?;
            a.pop(edx)?;
            a.hlt()
        })?;
        g.run_to_end()?;
        let r = g.regs()?;
        expect(
            "ESP after PUSH, popped",
            (r.rcx, r.rdx),
            (0x1234_7ffc, sel::DATA16.into()),
        )
    })
}

fn load_sets_accessed_bit(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(
        hv,
        &[Mode::Prot32, Mode::Pae, Mode::Long, Mode::Compat],
        |g| {
            spare(g, 0, 0xf_ffff, rights::DATA32 & !attr::A);
            g.asm(|a| {
                a.mov(eax, u32::from(sel::SPARE))?;
                a.mov(es, eax)?;
                a.hlt()
            })?;
            g.run_to_end()?;
            let raw = g.read_u64(GDT + u64::from(sel::SPARE));
            expect("accessed", raw >> 40 & 1, 1)
        },
    )
}

fn far_jump_privilege(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Pae, Mode::Compat], |g| {
        // A non-conforming segment of another privilege level.
        g.user_asm(|a| a.jmp_far(sel::CODE32, SPARE as u32))?;
        if !g.mode.ia32e() {
            g.user_asm(|a| a.jmp_far(sel::CODE, SPARE as u32))?;
        }
        g.enter_user()?;
        let code = if g.mode.ia32e() {
            sel::CODE32
        } else {
            sel::CODE
        };
        g.run_to_exception()?
            .expect(13, Some(code.into()), USER_CODE)?;
        // A data segment is no target either.
        g.user_asm(|a| a.jmp_far(sel::USER_DATA, 0))?;
        g.enter_user()?;
        let want = u64::from(sel::USER_DATA & !3);
        g.run_to_exception()?.expect(13, Some(want), USER_CODE)
    })
}

fn conforming_code_segment(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Pae], |g| {
        // User code jumps into a ring-0 conforming segment and stays CPL 3.
        spare(g, 0, 0xf_ffff, rights::CODE32 | attr::EC);
        g.user_asm(|a| a.jmp_far(sel::SPARE, USER_CODE as u32 + 0x40))?;
        g.code_at(USER_CODE + 0x40, USER_CODE + 0x40, 32, |a| {
            a.mov(ecx, cs)?;
            a.cli()
        })?;
        g.enter_user()?;
        let frame = g.run_to_exception()?;
        frame.expect(13, Some(0), USER_CODE + 0x42)?;
        expect("CS keeps RPL 3", g.regs()?.rcx, u64::from(sel::SPARE | 3))
    })
}

fn lar_lsl_verr_verw(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(
        hv,
        &[Mode::Prot32, Mode::Pae, Mode::Long, Mode::Compat],
        |g| {
            spare(g, 0x1234, 0x5_6789, (rights::DATA | attr::DB) & !attr::RW);
            g.asm(|a| {
                a.mov(eax, u32::from(sel::SPARE))?;
                a.lar(ebx, eax)?;
                a.lsl(ecx, eax)?;
                a.xor(edx, edx)?;
                a.verr(ax)?;
                a.sete(dl)?;
                a.verw(ax)?;
                a.sete(dh)?;
                a.mov(eax, 0x200)?; // beyond the table: ZF = 0, no fault
                a.lar(esi, eax)?;
                a.hlt()
            })?;
            g.set(|r| r.rsi = 0x77)?;
            g.run_to_end()?;
            let r = g.regs()?;
            // Bits 16..=19 are undefined.
            expect("LAR", r.rbx & !0xf_0000, 0x0040_9100)?;
            expect("LSL", r.rcx, 0x5_6789)?;
            expect("VERR, VERW", r.rdx, 0x0001)?;
            expect(
                "ZF and ESI after a bad selector",
                (r.rflags & 0x40, r.rsi),
                (0, 0x77),
            )
        },
    )
}

fn sgdt_lgdt_round_trip(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Long, Mode::Compat], |g| {
        g.asm(|a| {
            a.sgdt(ptr(DATA as u32))?;
            a.sidt(ptr(DATA as u32 + 16))?;
            a.mov(word_ptr(DATA as u32), 0x7f)?;
            a.lgdt(ptr(DATA as u32))?;
            a.hlt()
        })?;
        g.run_to_end()?;
        expect("base", g.read_uint(DATA + 2, 4), GDT)?;
        expect(
            "IDT",
            (g.read_uint(DATA + 16, 2), g.read_uint(DATA + 18, 4)),
            (0xfff, IDT),
        )?;
        let gdt = g.cpu.sregs()?.gdt;
        expect("GDTR", (gdt.base, gdt.limit), (GDT, 0x7f))
    })
}

fn ltr_and_str(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Long, Mode::Compat], |g| {
        spare(g, TSS, 0x67, rights::TSS);
        g.asm(|a| {
            a.mov(eax, u32::from(sel::SPARE))?;
            a.ltr(ax)?;
            a.str(ecx)?;
            a.hlt()
        })?;
        g.run_to_end()?;
        expect("STR", g.regs()?.rcx, sel::SPARE.into())?;
        let raw = g.read_u64(GDT + u64::from(sel::SPARE));
        expect("busy", raw >> 40 & 0xf, 0xb)?;
        // A busy TSS cannot be loaded.
        g.enter_kernel()?;
        g.run_to_exception()?
            .expect(13, Some(sel::SPARE.into()), CODE + 5)
    })
}

fn ldt_segment(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Pae, Mode::Compat], |g| {
        spare(g, DATA + 0x800, 0xf, rights::LDT);
        let in_ldt = descriptor(DATA, 0xfff, rights::DATA | attr::DB);
        g.write_u64(DATA + 0x808, in_ldt);
        g.write_uint(DATA + 0x10, 4, 0x4444);
        g.asm(|a| {
            a.mov(eax, u32::from(sel::SPARE))?;
            a.lldt(ax)?;
            a.mov(eax, 0xc)?;
            a.mov(es, eax)?;
            a.mov(ecx, dword_ptr(0x10).es())?;
            a.sldt(edx)?;
            a.hlt()
        })?;
        g.run_to_end()?;
        let r = g.regs()?;
        expect("ECX, SLDT", (r.rcx, r.rdx), (0x4444, sel::SPARE.into()))
    })
}

fn protected_mode_entry_and_exit(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Real)?;
    for (selector, base, limit, rights) in [
        (8, 0, 0xf_ffff, rights::CODE32),
        (16, 0, 0xf_ffff, rights::DATA32),
        (24, CODE, 0xffff, rights::CODE),
        (32, 0, 0xffff, rights::DATA),
    ] {
        g.set_descriptor(selector, descriptor(base, limit, rights));
    }
    g.write_uint(DATA, 2, 0x27);
    g.write_uint(DATA + 2, 4, GDT);
    g.asm(|a| {
        a.lgdt(fword_ptr(0))?;
        a.mov(eax, cr0)?;
        a.or(al, 1)?;
        a.mov(cr0, eax)?;
        // jmp 8:SPARE with a 32-bit offset
        a.db(&[0x66, 0xea])?;
        a.dd(&[SPARE as u32])?;
        a.dw(&[8])
    })?;
    g.code_at(SPARE, SPARE, 32, |a| {
        a.mov(ebx, 16)?;
        a.mov(ds, ebx)?;
        a.mov(dword_ptr(0x18_0000), 0x1111)?;
        a.mov(ebx, 32)?;
        a.mov(ds, ebx)?;
        a.jmp_far(24, 0x100)
    })?;
    g.code_at(CODE + 0x100, 0x100, 16, |a| {
        a.mov(eax, cr0)?;
        a.and(al, 0xfe)?;
        a.mov(cr0, eax)?;
        a.jmp_far((CODE >> 4) as u16, 0x180)
    })?;
    g.code_at(CODE + 0x180, 0x180, 16, |a| {
        a.mov(cx, cs)?;
        a.hlt()
    })?;
    g.run_to_end()?;
    expect("CS", g.regs()?.rcx, CODE >> 4)?;
    expect("32-bit store", g.read_u32(0x18_0000), 0x1111)
}
