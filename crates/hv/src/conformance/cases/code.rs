//! Self-modifying code and control flow: what a translator must not get wrong
//! (SDM vol 3, 8.1.3; vol 1, 6.4).

use super::in_modes;
use crate::Hypervisor;
use crate::conformance::frame::Frame;
use crate::conformance::guest::{Guest, Mode, Stop};
use crate::conformance::layout::*;
use crate::conformance::{Failure, expect};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use x86::paging::pte;

group! { "code":
    store_into_next_instruction "SDM 3 8.1.3",
    loop_patches_its_own_immediate "SDM 3 8.1.3",
    rep_stos_over_following_code "SDM 3 8.1.3",
    rep_strings_over_called_functions "SDM 3 8.1.3",
    patch_through_another_mapping "SDM 3 8.1.3",
    patch_instruction_across_pages "SDM 3 8.1.3",
    patch_called_function_many_times "SDM 3 8.1.3",
    patch_by_the_vmm "hv::Vm::memory_written",
    patch_by_port_input "SDM 2 INS",
    code_page_remapped "SDM 3 4.10.4.1",
    second_page_of_an_instruction_remapped "SDM 3 4.10.4.1",
    one_page_at_two_addresses "SDM 1 3.3",
    user_page_at_several_addresses "SDM 1 3.3, 6.15 #PF",
    user_branches_between_pages_at_several_addresses "SDM 1 6.4",
    user_branch_over_the_canonical_edge "SDM 2 CALL",
    data_and_code_in_one_page "SDM 3 8.1.3",
    a_million_unmatched_calls "SDM 1 6.4",
    returns_without_calls "SDM 1 6.4",
    deep_recursion "SDM 1 6.4",
    return_address_changed_on_the_stack "SDM 1 6.4",
    return_to_remapped_page "SDM 3 4.10.4.1",
    longjmp_over_frames "SDM 1 6.4",
    call_and_return_across_modes "SDM 3 5.8.6",
    indirect_jumps_through_a_table "SDM 2 JMP",
    jump_into_the_middle_of_an_instruction "SDM 2 JMP",
    exchange_with_a_repeat_prefix "SDM 2 XCHG, PAUSE",
    code_at_the_end_of_memory "SDM 3 6.15 #PF",
}

fn store_into_next_instruction(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &Mode::ALL, |g| {
        // mov byte [next + 1], 0x42 / next: mov al, 0x11
        if g.mode == Mode::Real {
            g.write(CODE, &[0x2e, 0xc6, 0x06, 7, 0, 0x42, 0xb0, 0x11, 0xf4]);
        } else {
            g.asm(|a| {
                a.mov(byte_ptr(ecx_of(a.bitness(), 4)), 0x42)?;
                a.mov(al, 0x11)?;
                a.hlt()
            })?;
            g.set(|r| r.rcx = CODE + 1)?;
        }
        g.run_to_end()?;
        expect("AL", g.regs()?.rax, 0x42)?;
        // The same code again: now the byte is there already.
        g.enter_kernel()?;
        g.set(|r| r.rcx = CODE + 1)?;
        g.run_to_end()?;
        expect("AL again", g.regs()?.rax, 0x42)
    })
}

/// `[ecx + offset]` or `[rcx + offset]`.
fn ecx_of(bits: u32, offset: i32) -> AsmMemoryOperand {
    if bits == 64 {
        rcx + offset
    } else {
        ecx + offset
    }
}

fn loop_patches_its_own_immediate(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &Mode::FLAT, |g| {
        // add eax, imm32 at CODE: 05 ii ...; each round increments ii.
        g.asm(|a| {
            let mut top = a.create_label();
            a.set_label(&mut top)?;
            a.add(eax, 1)?;
            a.inc(byte_ptr(CODE as u32 + 1))?;
            a.dec(ecx)?;
            a.jne(top)?;
            a.hlt()
        })?;
        g.set(|r| r.rcx = 100)?;
        g.run_to_end()?;
        expect("1 + 2 + ... + 100", g.regs()?.rax, 5050)
    })
}

fn rep_stos_over_following_code(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &Mode::FLAT, |g| {
        // rep stosb turns the INC instructions behind it into NOPs.
        let len = g.asm(|a| {
            a.rep().stosb()?;
            for _ in 0..8 {
                a.inc(edx)?;
            }
            a.hlt()
        })?;
        g.set(|r| {
            r.rdi = CODE + 2;
            r.rcx = len - 3;
            r.rax = 0x90;
        })?;
        g.run_to_end()?;
        expect("EDX", g.regs()?.rdx, 0)
    })
}

fn rep_strings_over_called_functions(hv: &dyn Hypervisor) -> Result<(), Failure> {
    const RET: u8 = 0xc3;
    let function = |result: u8| [0xb8, result, 0, 0, 0, RET]; // mov eax, imm32
    let (one, two, new) = (SPARE, SPARE + 0x800, SPARE + 0x1000);
    in_modes(hv, &Mode::FLAT, |g| {
        g.write(one, &function(1));
        g.write(two, &function(2));
        g.write(new, &function(5));
        g.asm(|a| {
            let call = |a: &mut CodeAssembler, at: u64| {
                a.call(at)?;
                a.shl(ebx, 4)?;
                a.or(ebx, eax)
            };
            let string = |a: &mut CodeAssembler, from: u64, to: u64, count: u32| {
                a.mov(esi, from as u32)?;
                a.mov(edi, to as u32)?;
                a.mov(ecx, count)
            };
            call(a, one)?;
            call(a, two)?;
            string(a, new, one, 6)?;
            a.rep().movsb()?;
            call(a, one)?;
            call(a, two)?;
            // Forward onto itself: the function three times.
            string(a, one, one + 6, 12)?;
            a.rep().movsb()?;
            call(a, one + 12)?;
            string(a, 0, one, 6)?;
            a.mov(eax, u32::from(RET))?;
            a.rep().stosb()?;
            a.mov(eax, 7)?;
            call(a, one)?;
            a.hlt()
        })?;
        g.set(|r| r.rbx = 0)?;
        g.run_to_end()?;
        expect("results", g.regs()?.rbx, 0x12_5257)
    })
}

fn patch_through_another_mapping(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Paging32, Mode::Pae, Mode::Long], |g| {
        let alias = 0x4000_0000;
        g.map(alias, SPARE, pte::P | pte::RW);
        g.flush_tlb()?;
        let bits = g.mode.bits();
        g.code_at(SPARE, SPARE, bits, |a| {
            a.mov(eax, 1)?;
            a.ret()
        })?;
        g.asm(|a| {
            a.call(SPARE)?;
            a.mov(ebx, eax)?;
            a.mov(byte_ptr(alias as u32 + 1), 9)?;
            a.call(SPARE)?;
            a.hlt()
        })?;
        g.run_to_end()?;
        let r = g.regs()?;
        expect("before, after", (r.rbx, r.rax), (1, 9))
    })
}

fn patch_instruction_across_pages(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &Mode::FLAT, |g| {
        // mov eax, imm32 with its immediate on the second page.
        let at = SPARE + 0xfff;
        g.write(at, &[0xb8, 1, 0, 0, 0, 0xc3]);
        g.asm(|a| {
            a.call(at)?;
            a.mov(ebx, eax)?;
            a.mov(byte_ptr(SPARE as u32 + 0x1001), 1)?;
            a.call(at)?;
            a.mov(byte_ptr(SPARE as u32 + 0xfff), 0x05)?; // add eax, imm32
            a.call(at)?;
            a.hlt()
        })?;
        g.run_to_end()?;
        let r = g.regs()?;
        expect("before, after", (r.rbx, r.rax), (1, 0x202))
    })
}

fn patch_called_function_many_times(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.code_at(SPARE, SPARE, 64, |a| {
        a.add(eax, 0x1111_1111)?; // short form: 05 imm32
        a.ret()
    })?;
    g.asm(|a| {
        a.mov(ecx, 1000)?;
        let mut top = a.create_label();
        a.set_label(&mut top)?;
        a.mov(dword_ptr(SPARE as u32 + 1), ecx)?;
        a.call(SPARE)?;
        a.dec(ecx)?;
        a.jne(top)?;
        a.hlt()
    })?;
    g.run_to_end()?;
    expect("1 + 2 + ... + 1000", g.regs()?.rax, 500_500)
}

fn patch_by_the_vmm(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &Mode::FLAT, |g| {
        g.asm(|a| {
            a.mov(eax, 1)?;
            a.hlt()
        })?;
        for value in [1, 2, 3] {
            g.write(CODE + 1, &[value]);
            g.enter_kernel()?;
            g.run_to_end()?;
            expect("EAX", g.regs()?.rax, value.into())?;
        }
        Ok(())
    })
}

fn patch_by_port_input(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Long], |g| {
        // insb into the immediate of the next instruction.
        g.asm(|a| {
            a.insb()?;
            a.mov(al, 0)?;
            a.hlt()
        })?;
        for value in [0x55, 0x66] {
            g.reads.push_back(value);
            g.enter_kernel()?;
            g.set(|r| r.rdi = CODE + 2)?;
            g.run_to_end()?;
            expect("AL", g.regs()?.rax & 0xff, value)?;
        }
        Ok(())
    })
}

fn code_page_remapped(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Paging32, Mode::Pae, Mode::Long], |g| {
        let alias = 0x4000_0000;
        g.map(alias, SPARE, pte::P | pte::RW);
        let entry = g.pte_at(alias);
        g.flush_tlb()?;
        let bits = g.mode.bits();
        for (page, value) in [(SPARE, 1), (SPARE + 0x1000, 2)] {
            g.code_at(page, alias, bits, |a| {
                a.mov(eax, value)?;
                a.ret()
            })?;
        }
        g.asm(|a| {
            a.mov(edi, alias as u32)?;
            a.mov(esi, 200)?;
            let mut top = a.create_label();
            a.set_label(&mut top)?;
            if bits == 64 {
                a.call(rdi)?
            } else {
                a.call(edi)?
            }
            a.add(ebx, eax)?;
            a.xor(dword_ptr(entry as u32), 0x1000)?; // SPARE is even
            a.invlpg(ptr(alias as u32))?;
            a.dec(esi)?;
            a.jne(top)?;
            a.hlt()
        })?;
        g.run_to_end()?;
        expect("100 * (1 + 2)", g.regs()?.rbx, 300)
    })
}

fn second_page_of_an_instruction_remapped(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Paging32, Mode::Pae, Mode::Long], |g| {
        let alias = 0x4000_0000;
        // mov eax, imm32; ret: the immediate is on the second page, of which
        // there are two.
        g.write(SPARE + 0xfff, &[0xb8]);
        for (page, value) in [(SPARE + 0x2000, 1), (SPARE + 0x3000, 2)] {
            g.write(page, &[value, 0, 0, 0, 0xc3]);
        }
        g.map(alias, SPARE, pte::P | pte::RW);
        g.map(alias + 0x1000, SPARE + 0x2000, pte::P | pte::RW);
        let entry = g.pte_at(alias + 0x1000);
        g.flush_tlb()?;
        g.asm(|a| {
            a.mov(esi, 200)?;
            let mut top = a.create_label();
            a.set_label(&mut top)?;
            a.call(alias + 0xfff)?;
            a.add(ebx, eax)?;
            a.xor(dword_ptr(entry as u32), 0x1000)?; // SPARE is even
            a.invlpg(ptr(alias as u32 + 0x1000))?;
            a.dec(esi)?;
            a.jne(top)?;
            a.hlt()
        })?;
        g.run_to_end()?;
        expect("100 * (1 + 2)", g.regs()?.rbx, 300)
    })
}

fn one_page_at_two_addresses(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // Position-dependent results from one physical page: a translation may
    // not bake in the address it was made at.
    let mut g = Guest::new(hv, Mode::Long)?;
    let places = [SPARE, 0x4000_0000, 0x7f00_1234_5000];
    for place in places {
        g.map(place, SPARE, pte::P | pte::RW);
    }
    g.code_at(SPARE, SPARE, 64, |a| {
        let mut here = a.create_label();
        a.call(here)?;
        a.set_label(&mut here)?;
        a.pop(rax)?;
        a.lea(rdx, ptr(here))?;
        a.ret()
    })?;
    g.flush_tlb()?;
    for place in places.into_iter().chain(places) {
        g.asm(|a| {
            a.call(rdi)?;
            a.hlt()
        })?;
        g.enter_kernel()?;
        g.set(|r| r.rdi = place)?;
        g.run_to_end()?;
        let r = g.regs()?;
        expect(
            "return address, LEA",
            (r.rax, r.rdx),
            (place + 5, place + 5),
        )?;
    }
    Ok(())
}

/// Runs `code`, which ends with an exception, where `places` map its page and
/// the next one for user mode; `check` gets the exception's frame and the place.
fn at_places(
    g: &mut Guest,
    places: &[u64],
    code: fn(&mut CodeAssembler) -> Result<(), IcedError>,
    check: impl Fn(&Guest, Frame, u64) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let rights = pte::P | pte::RW | pte::US;
    for place in places {
        g.map(*place, USER_CODE, rights);
        g.map(*place + 0x1000, USER_CODE + 0x1000, rights);
    }
    g.flush_tlb()?;
    g.user_asm(code)?;
    for place in places.iter().chain(places) {
        g.enter_user()?;
        g.set(|r| r.rip = *place)?;
        let frame = g.run_to_exception()?;
        check(g, frame, *place)?;
    }
    Ok(())
}

fn user_page_at_several_addresses(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // Several blocks, one with x87 instructions among them, then a page fault.
    in_modes(hv, &[Mode::Pae, Mode::Long], |g| {
        let places = [USER_CODE, 0x4000_0000, 0xbfff_3000];
        at_places(
            g,
            &places,
            |a| {
                let (mut here, mut top) = (a.create_label(), a.create_label());
                a.xor(ebx, ebx)?;
                a.mov(ecx, 3)?;
                a.call(here)?; // at 7, 5 bytes
                a.set_label(&mut here)?;
                match a.bitness() {
                    64 => a.pop(rax)?,
                    _ => a.pop(eax)?,
                }
                a.set_label(&mut top)?;
                a.inc(ebx)?;
                a.test(ebx, 1)?;
                let mut even = a.create_label();
                a.je(even)?;
                a.fld1()?;
                a.fstp(st0)?;
                a.set_label(&mut even)?;
                a.dec(ecx)?;
                a.jne(top)?;
                a.mov(edi, eax)?;
                a.mov(edx, dword_ptr(0x1ff_f000))
            },
            |g, frame, place| {
                expect("vector", frame.vector, 14)?;
                let r = g.regs()?;
                let got = (r.rdi, r.rbx, r.rcx);
                expect("return address, rounds", got, (place + 12, 3, 0))?;
                expect("page of the fault", frame.ip & !0xfff, place)
            },
        )
    })
}

fn user_branches_between_pages_at_several_addresses(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let places = [USER_CODE, 0x4000_0000, 0x7ffe_1234_5000];
    let mut g = Guest::new(hv, Mode::Long)?;
    // The other page: LEA of where it is, and back.
    g.code_at(USER_CODE + 0x1000, USER_CODE + 0x1000, 64, |a| {
        let mut here = a.create_label();
        a.set_label(&mut here)?;
        a.lea(rdx, ptr(here))?;
        a.add(r9, qword_ptr(rsp))?;
        a.ret()
    })?;
    at_places(
        &mut g,
        &places,
        |a| {
            let mut top = a.create_label();
            a.mov(ecx, 50)?;
            a.xor(r9d, r9d)?;
            a.set_label(&mut top)?;
            a.call(USER_CODE + 0x1000)?; // at 8, 5 bytes
            a.dec(ecx)?;
            a.jne(top)?;
            a.lea(rsi, ptr(top))?;
            a.ud2()
        },
        |g, frame, place| {
            expect("vector", frame.vector, 6)?;
            let r = g.regs()?;
            expect("LEA in the other page", r.rdx, place + 0x1000)?;
            expect("LEA", r.rsi, place + 8)?;
            expect("return addresses", r.r9, 50 * (place + 13))
        },
    )
}

fn user_branch_over_the_canonical_edge(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // Good code low down, a fault of the CALL itself at the edge.
    let mut g = Guest::new(hv, Mode::Long)?;
    g.code_at(USER_CODE + 0x1800, USER_CODE + 0x1800, 64, |a| a.ud2())?;
    let edge = 0x7fff_ffff_f000;
    for (place, vector, at) in [
        (0x4000_0000, 6, 0x1800),
        (edge, 13, 0),
        (0x4000_0000, 6, 0x1800),
    ] {
        g.map(place, USER_CODE, pte::P | pte::RW | pte::US);
        if place != edge {
            g.map(
                place + 0x1000,
                USER_CODE + 0x1000,
                pte::P | pte::RW | pte::US,
            );
        }
        g.flush_tlb()?;
        g.user_asm(|a| a.call(USER_CODE + 0x1800))?;
        g.enter_user()?;
        g.set(|r| r.rip = place)?;
        let frame = g.run_to_exception()?;
        expect(
            "vector, address",
            (frame.vector, frame.ip),
            (vector, place + at),
        )?;
        let pushed = if vector == 13 { 0 } else { 8 };
        expect("RSP", frame.sp, USER_STACK_TOP - pushed)?;
    }
    Ok(())
}

fn data_and_code_in_one_page(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &Mode::FLAT, |g| {
        g.asm(|a| {
            a.mov(ecx, 5000)?;
            let mut top = a.create_label();
            a.set_label(&mut top)?;
            a.inc(dword_ptr(CODE as u32 + 0x800))?;
            a.dec(ecx)?;
            a.jne(top)?;
            a.hlt()
        })?;
        g.run_to_end()?;
        expect("counter", g.read_u32(CODE + 0x800), 5000)
    })
}

fn a_million_unmatched_calls(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Long], |g| {
        // Every CALL's frame is dropped, none returns.
        g.asm(|a| {
            a.mov(ecx, 1_000_000)?;
            let mut top = a.create_label();
            a.set_label(&mut top)?;
            let mut next = a.create_label();
            a.call(next)?;
            a.set_label(&mut next)?;
            if a.bitness() == 64 {
                a.add(rsp, 8)?
            } else {
                a.add(esp, 4)?
            }
            a.dec(ecx)?;
            a.jne(top)?;
            a.hlt()
        })?;
        g.run_to_end()?;
        let r = g.regs()?;
        expect("ECX, RSP", (r.rcx, r.rsp), (0, STACK_TOP))
    })
}

fn returns_without_calls(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.asm(|a| {
        a.mov(ecx, 100_000)?;
        let mut top = a.create_label();
        let mut next = a.create_label();
        a.set_label(&mut top)?;
        a.lea(rax, ptr(next))?;
        a.push(rax)?;
        a.ret()?;
        a.ud2()?;
        a.set_label(&mut next)?;
        a.dec(ecx)?;
        a.jne(top)?;
        a.hlt()
    })?;
    g.run_to_end()?;
    expect("RSP", g.regs()?.rsp, STACK_TOP)
}

fn deep_recursion(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // 30,000 live frames, each returns.
    let mut g = Guest::new(hv, Mode::Long)?;
    g.asm(|a| {
        let mut down = a.create_label();
        let mut last = a.create_label();
        a.mov(ecx, 30_000)?;
        a.call(down)?;
        a.hlt()?;
        a.set_label(&mut down)?;
        a.dec(ecx)?;
        a.je(last)?;
        a.call(down)?;
        a.inc(eax)?;
        a.set_label(&mut last)?;
        a.ret()
    })?;
    g.set(|r| r.rsp = 0x1c_0000)?;
    g.run_to_end()?;
    let r = g.regs()?;
    expect("EAX, RSP", (r.rax, r.rsp), (29_999, 0x1c_0000))
}

fn return_address_changed_on_the_stack(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.asm(|a| {
        let mut callee = a.create_label();
        let mut other = a.create_label();
        a.call(callee)?;
        a.ud2()?;
        a.set_label(&mut callee)?;
        a.lea(rax, ptr(other))?;
        a.mov(ptr(rsp), rax)?;
        a.ret()?;
        a.ud2()?;
        a.set_label(&mut other)?;
        a.mov(ebx, 3)?;
        a.hlt()
    })?;
    g.run_to_end()?;
    expect("EBX", g.regs()?.rbx, 3)
}

fn return_to_remapped_page(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // The caller's page is mapped elsewhere while the callee runs.
    let mut g = Guest::new(hv, Mode::Long)?;
    let alias = 0x4000_0000;
    g.map(alias, SPARE, pte::P | pte::RW);
    let entry = g.pte_at(alias);
    g.flush_tlb()?;
    g.code_at(SPARE, alias, 64, |a| {
        a.call(CODE + 0x100)?;
        a.mov(ebx, 1)?;
        a.hlt()
    })?;
    g.code_at(SPARE + 0x1000, alias, 64, |a| {
        a.ud2()?;
        a.nop()?;
        a.nop()?;
        a.nop()?;
        a.mov(ebx, 2)?; // where the call returns to
        a.hlt()
    })?;
    g.code_at(CODE + 0x100, CODE + 0x100, 64, |a| {
        a.mov(eax, ((SPARE + 0x1000) | 3) as u32)?;
        a.mov(dword_ptr(entry as u32), eax)?;
        a.invlpg(ptr(alias as u32))?;
        a.ret()
    })?;
    g.asm(|a| {
        a.mov(edi, alias as u32)?;
        a.jmp(rdi)
    })?;
    g.run_to_end()?;
    expect("EBX", g.regs()?.rbx, 2)
}

fn longjmp_over_frames(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.asm(|a| {
        let mut down = a.create_label();
        let mut top = a.create_label();
        let mut back = a.create_label();
        a.mov(ebp, 2000)?;
        a.set_label(&mut top)?;
        a.mov(rbx, rsp)?;
        a.mov(ecx, 7)?;
        a.call(down)?;
        a.ud2()?;
        a.set_label(&mut back)?;
        a.mov(rsp, rbx)?;
        a.dec(ebp)?;
        a.jne(top)?;
        a.hlt()?;
        a.set_label(&mut down)?;
        a.dec(ecx)?;
        a.je(back)?;
        a.call(down)?;
        a.ud2()
    })?;
    g.run_to_end()?;
    expect("RSP", g.regs()?.rsp, STACK_TOP)
}

fn call_and_return_across_modes(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // 64-bit code calls 32-bit code through a far pointer and back, often.
    let mut g = Guest::new(hv, Mode::Long)?;
    g.write_u64(DATA, SPARE | u64::from(sel::CODE32) << 32);
    g.code_at(SPARE, SPARE, 32, |a| {
        a.inc(eax)?;
        a.retf()
    })?;
    g.asm(|a| {
        a.mov(ecx, 1000)?;
        let mut top = a.create_label();
        a.set_label(&mut top)?;
        a.call(fword_ptr(DATA as u32))?;
        a.dec(ecx)?;
        a.jne(top)?;
        a.hlt()
    })?;
    g.run_to_end()?;
    let r = g.regs()?;
    expect("EAX, RSP", (r.rax, r.rsp), (1000, STACK_TOP))
}

fn indirect_jumps_through_a_table(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    for i in 0..16_u64 {
        let at = SPARE + i * 0x20;
        g.write_u64(DATA + i * 8, at);
        g.code_at(at, at, 64, |a| {
            a.add(eax, i as u32 + 1)?;
            a.jmp(CODE + 0x100)
        })?;
    }
    g.asm(|a| {
        a.mov(ecx, 1600)?;
        a.jmp(CODE + 0x100)
    })?;
    g.code_at(CODE + 0x100, CODE + 0x100, 64, |a| {
        let mut end = a.create_label();
        a.dec(ecx)?;
        a.js(end)?;
        a.mov(edx, ecx)?;
        a.and(edx, 15)?;
        a.jmp(qword_ptr(DATA as u32 + rdx * 8))?;
        a.set_label(&mut end)?;
        a.hlt()
    })?;
    g.run_to_end()?;
    expect("100 * (1 + ... + 16)", g.regs()?.rax, 13_600)
}

fn jump_into_the_middle_of_an_instruction(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &Mode::FLAT, |g| {
        // mov eax, 0x9041f4 holds "hlt"-ended code when entered one byte in:
        // b8 | b3 07 f4 90 = mov bl, 7; hlt
        g.write(CODE, &[0xb8, 0xb3, 0x07, 0xf4, 0x90, 0xeb, 0xfa]);
        // eb fa jumps to CODE + 1.
        g.run_to_end()?;
        let r = g.regs()?;
        expect("EAX, EBX", (r.rax, r.rbx), (0x90f4_07b3, 7))?;
        expect("RIP", r.rip, CODE + 4)
    })
}

fn exchange_with_a_repeat_prefix(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &Mode::FLAT, |g| {
        // xchg esp, eax and xchg ecx, eax with F3; F3 90 is PAUSE.
        g.write(CODE, &[0xf3, 0x94, 0xf3, 0x91, 0xf3, 0x90, 0xf4]);
        g.set(|r| (r.rax, r.rcx, r.rsp) = (1, 2, 3))?;
        g.run_to_end()?;
        let r = g.regs()?;
        expect("EAX, ECX, ESP", (r.rax, r.rcx, r.rsp), (2, 3, 1))
    })
}

fn code_at_the_end_of_memory(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // Straight-line code runs off the last mapped page.
    in_modes(hv, &[Mode::Pae, Mode::Long], |g| {
        g.map(SPARE + 0x1000, SPARE + 0x1000, 0);
        g.flush_tlb()?;
        g.write(SPARE + 0xffe, &[0x90, 0x90]);
        g.set(|r| r.rip = SPARE + 0xffe)?;
        let stop = g.run()?;
        let Stop::Exception(frame) = stop else {
            return Err(g.unexpected("#PF", stop));
        };
        frame.expect(14, Some(0x10), SPARE + 0x1000)
    })
}
