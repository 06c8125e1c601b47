//! Memory-mapped I/O: what the VMM sees of each access.

use super::in_modes;
use crate::VcpuExit::{MmioRead, MmioWrite};
use crate::conformance::guest::{Guest, Mode};
use crate::conformance::layout::*;
use crate::conformance::{Failure, expect};
use crate::{Hypervisor, VcpuExit};
use iced_x86::code_asm::*;

group! { "mmio":
    store_every_width "SDM 2 MOV",
    load_every_width "SDM 2 MOV",
    load_and_extend "SDM 2 MOVZX, MOVSX",
    read_modify_write "SDM 2 ADD, INC, OR, NOT, SHL",
    compare_only_reads "SDM 2 CMP, TEST",
    xchg_reads_then_writes "SDM 2 XCHG",
    cmpxchg_writes_either_way "SDM 2 CMPXCHG",
    push_and_pop_memory "SDM 2 PUSH, POP",
    call_through_mmio_pointer "SDM 2 CALL",
    sse_moves_are_two_exits "KVM API 5, KVM_EXIT_MMIO",
    movs_between_ram_and_mmio "SDM 2 MOVS",
    movs_inside_mmio "SDM 2 MOVS",
    rep_stos_and_lods "SDM 2 STOS, LODS",
    rep_scas_stops_at_match "SDM 2 SCAS, REPNE",
    store_across_the_window_edge "SDM 3 8.1.1",
    unaligned_inside_the_window "SDM 3 8.1.1",
    store_beyond_all_slots "KVM API 4.35",
    pop_is_final_at_its_exit "KVM API 5, KVM_EXIT_MMIO",
    movs_is_final_at_its_exit "KVM API 5, KVM_EXIT_MMIO",
    push_is_final_at_its_exit "KVM API 5, KVM_EXIT_MMIO",
    code_changes_while_in_flight "KVM API 5, KVM_EXIT_MMIO",
}

fn write(offset: u64, size: u8, value: u64) -> VcpuExit {
    let gpa = MMIO + offset;
    MmioWrite { gpa, size, value }
}

fn read(offset: u64, size: u8) -> VcpuExit {
    let gpa = MMIO + offset;
    MmioRead { gpa, size }
}

/// EBX = MMIO window; EDI too, ESI = data.
fn point_at_mmio(g: &mut Guest) -> Result<(), Failure> {
    g.set(|r| {
        r.rbx = MMIO;
        r.rdi = MMIO;
        r.rsi = DATA;
    })
}

/// In real mode ES covers the window: operand es:[bx], else [ebx].
fn at(mode: Mode, offset: i32) -> AsmMemoryOperand {
    match mode {
        Mode::Real => ptr(bx + offset).es(),
        Mode::Long => ptr(rbx + offset),
        _ => ptr(ebx + offset),
    }
}

fn point(g: &mut Guest) -> Result<(), Failure> {
    point_at_mmio(g)?;
    if g.mode == Mode::Real {
        g.set(|r| r.rbx = 0)?;
    }
    Ok(())
}

fn store_every_width(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &Mode::ALL, |g| {
        point(g)?;
        let mode = g.mode;
        g.asm(|a| {
            a.mov(eax, 0x1234_5678)?;
            a.mov(at(mode, 0), al)?;
            a.mov(at(mode, 2), ax)?;
            a.mov(at(mode, 4), eax)?;
            a.mov(at(mode, 7), ah)?;
            a.hlt()
        })?;
        g.run_to_end()?;
        g.expect_log(&[
            write(0, 1, 0x78),
            write(2, 2, 0x5678),
            write(4, 4, 0x1234_5678),
            write(7, 1, 0x56),
        ])
    })?;
    let mut g = Guest::new(hv, Mode::Long)?;
    point(&mut g)?;
    g.asm(|a| {
        a.mov(rax, 0x1122_3344_5566_7788_u64)?;
        a.mov(ptr(rbx), rax)?;
        a.mov(qword_ptr(rbx + 8), -2)?;
        a.mov(word_ptr(rbx + 16), 0x7abc)?;
        a.hlt()
    })?;
    g.run_to_end()?;
    g.expect_log(&[
        write(0, 8, 0x1122_3344_5566_7788),
        write(8, 8, -2_i64 as u64),
        write(16, 2, 0x7abc),
    ])
}

fn load_every_width(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &Mode::ALL, |g| {
        point(g)?;
        let mode = g.mode;
        g.asm(|a| {
            a.mov(ecx, at(mode, 0))?;
            a.mov(dx, at(mode, 6))?;
            a.mov(al, at(mode, 9))?;
            a.hlt()
        })?;
        g.reads.extend([0x8765_4321, 0xbeef, 0x5a]);
        g.run_to_end()?;
        let r = g.regs()?;
        expect("ECX", r.rcx, 0x8765_4321)?;
        expect("DX, AL", (r.rdx as u16, r.rax as u8), (0xbeef, 0x5a))?;
        g.expect_log(&[read(0, 4), read(6, 2), read(9, 1)])
    })?;
    let mut g = Guest::new(hv, Mode::Long)?;
    point(&mut g)?;
    g.asm(|a| {
        a.mov(r9, ptr(rbx + 0x100))?;
        a.hlt()
    })?;
    g.reads.push_back(0xfedc_ba98_7654_3210);
    g.run_to_end()?;
    expect("R9", g.regs()?.r9, 0xfedc_ba98_7654_3210)?;
    g.expect_log(&[read(0x100, 8)])
}

fn load_and_extend(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    point(&mut g)?;
    g.asm(|a| {
        a.movzx(eax, byte_ptr(rbx))?;
        a.movzx(rcx, word_ptr(rbx + 2))?;
        a.movsx(rdx, byte_ptr(rbx + 4))?;
        a.movsx(esi, word_ptr(rbx + 6))?;
        a.movsxd(rdi, dword_ptr(rbx + 8))?;
        a.hlt()
    })?;
    g.reads.extend([0x91, 0x9234, 0x80, 0x8001, 0x8000_0002]);
    g.run_to_end()?;
    let r = g.regs()?;
    expect("MOVZX", (r.rax, r.rcx), (0x91, 0x9234))?;
    expect("MOVSX r64, m8", r.rdx, 0xffff_ffff_ffff_ff80)?;
    expect("MOVSX r32, m16", r.rsi, 0xffff_8001)?;
    expect("MOVSXD", r.rdi, 0xffff_ffff_8000_0002)?;
    g.expect_log(&[read(0, 1), read(2, 2), read(4, 1), read(6, 2), read(8, 4)])
}

fn read_modify_write(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &Mode::FLAT, |g| {
        point(g)?;
        let mode = g.mode;
        g.asm(|a| {
            a.mov(eax, 0x11)?;
            a.add(at(mode, 0), eax)?;
            a.or(at(mode, 4), al)?;
            a.inc(word_ptr(at(mode, 8)))?;
            a.not(dword_ptr(at(mode, 12)))?;
            a.shl(byte_ptr(at(mode, 16)), 1)?;
            a.hlt()
        })?;
        g.reads
            .extend([0xffff_ffff, 0x80, 0xffff, 0x0f0f_0f0f, 0x81]);
        g.run_to_end()?;
        expect("CF after SHL", g.regs()?.rflags & 1, 1)?;
        g.expect_log(&[
            read(0, 4),
            write(0, 4, 0x10),
            read(4, 1),
            write(4, 1, 0x91),
            read(8, 2),
            write(8, 2, 0),
            read(12, 4),
            write(12, 4, 0xf0f0_f0f0),
            read(16, 1),
            write(16, 1, 2),
        ])
    })
}

fn compare_only_reads(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &Mode::FLAT, |g| {
        point(g)?;
        let mode = g.mode;
        g.asm(|a| {
            a.xor(ecx, ecx)?;
            a.mov(eax, 5)?;
            a.cmp(at(mode, 0), eax)?;
            a.sete(cl)?;
            a.test(byte_ptr(at(mode, 4)), 0x80)?;
            a.setne(ch)?;
            a.hlt()
        })?;
        g.reads.extend([5, 0x80]);
        g.run_to_end()?;
        expect("CX", g.regs()?.rcx, 0x0101)?;
        g.expect_log(&[read(0, 4), read(4, 1)])
    })
}

fn xchg_reads_then_writes(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &Mode::FLAT, |g| {
        point(g)?;
        let mode = g.mode;
        g.asm(|a| {
            a.mov(eax, 0xaaaa_5555_u32)?;
            a.xchg(at(mode, 0x20), eax)?;
            a.hlt()
        })?;
        g.reads.push_back(0x1357_9bdf);
        g.run_to_end()?;
        expect("EAX", g.regs()?.rax, 0x1357_9bdf)?;
        g.expect_log(&[read(0x20, 4), write(0x20, 4, 0xaaaa_5555)])
    })
}

fn cmpxchg_writes_either_way(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Long], |g| {
        point(g)?;
        let mode = g.mode;
        g.asm(|a| {
            a.mov(eax, 7)?;
            a.mov(ecx, 9)?;
            a.cmpxchg(at(mode, 0), ecx)?;
            a.cmpxchg(at(mode, 0), ecx)?;
            a.hlt()
        })?;
        g.reads.extend([7, 8]);
        g.run_to_end()?;
        expect("EAX", g.regs()?.rax, 8)?;
        g.expect_log(&[read(0, 4), write(0, 4, 9), read(0, 4), write(0, 4, 8)])
    })
}

fn push_and_pop_memory(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    point(&mut g)?;
    g.asm(|a| {
        a.push(qword_ptr(rbx))?;
        a.pop(qword_ptr(rbx + 8))?;
        a.hlt()
    })?;
    g.reads.push_back(0x0123_4567_89ab_cdef);
    g.run_to_end()?;
    expect("RSP", g.regs()?.rsp, STACK_TOP)?;
    expect("stack", g.read_u64(STACK_TOP - 8), 0x0123_4567_89ab_cdef)?;
    g.expect_log(&[read(0, 8), write(8, 8, 0x0123_4567_89ab_cdef)])
}

fn call_through_mmio_pointer(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    point(&mut g)?;
    g.code_at(SPARE, SPARE, 64, |a| {
        a.mov(eax, 1)?;
        a.ret()
    })?;
    g.asm(|a| {
        a.call(qword_ptr(rbx + 0x40))?;
        a.hlt()
    })?;
    g.reads.push_back(SPARE);
    g.run_to_end()?;
    expect("EAX", g.regs()?.rax, 1)?;
    g.expect_log(&[read(0x40, 8)])
}

fn sse_moves_are_two_exits(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    point(&mut g)?;
    g.write_u64(DATA, 0x0706_0504_0302_0100);
    g.write_u64(DATA + 8, 0x0f0e_0d0c_0b0a_0908);
    g.asm(|a| {
        a.movups(xmm1, ptr(rsi))?;
        a.movups(ptr(rbx), xmm1)?;
        a.movdqu(xmm2, ptr(rbx + 0x10))?;
        a.movups(ptr(rsi + 0x10), xmm2)?;
        a.hlt()
    })?;
    g.reads
        .extend([0x1111_1111_2222_2222, 0x3333_3333_4444_4444]);
    g.run_to_end()?;
    expect("low half", g.read_u64(DATA + 16), 0x1111_1111_2222_2222)?;
    expect("high half", g.read_u64(DATA + 24), 0x3333_3333_4444_4444)?;
    g.expect_log(&[
        write(0, 8, 0x0706_0504_0302_0100),
        write(8, 8, 0x0f0e_0d0c_0b0a_0908),
        read(0x10, 8),
        read(0x18, 8),
    ])
}

fn movs_between_ram_and_mmio(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &Mode::FLAT, |g| {
        point(g)?;
        g.write(DATA, &[1, 2, 3, 4, 5, 6, 7, 8]);
        g.set(|r| r.rcx = 2)?;
        g.asm(|a| {
            a.rep().movsd()?;
            a.xchg(esi, edi)?;
            a.mov(ecx, 3)?;
            a.rep().movsb()?;
            a.hlt()
        })?;
        g.reads.extend([0xa1, 0xa2, 0xa3]);
        g.run_to_end()?;
        let r = g.regs()?;
        expect(
            "ESI, EDI, ECX",
            (r.rsi, r.rdi, r.rcx),
            (MMIO + 11, DATA + 11, 0),
        )?;
        expect("copied", g.read_uint(DATA + 8, 4), 0x00a3_a2a1)?;
        g.expect_log(&[
            write(0, 4, 0x0403_0201),
            write(4, 4, 0x0807_0605),
            read(8, 1),
            read(9, 1),
            read(10, 1),
        ])
    })
}

fn movs_inside_mmio(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &Mode::FLAT, |g| {
        point(g)?;
        g.set(|r| {
            r.rcx = 2;
            r.rsi = MMIO + 0x80;
        })?;
        g.asm(|a| {
            a.rep().movsw()?;
            a.hlt()
        })?;
        g.reads.extend([0x1234, 0x5678]);
        g.run_to_end()?;
        g.expect_log(&[
            read(0x80, 2),
            write(0, 2, 0x1234),
            read(0x82, 2),
            write(2, 2, 0x5678),
        ])
    })
}

fn rep_stos_and_lods(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &Mode::FLAT, |g| {
        point(g)?;
        g.set(|r| {
            r.rcx = 2;
            r.rax = 0xdead_beef;
            r.rsi = MMIO + 0x40;
        })?;
        g.asm(|a| {
            a.rep().stosd()?;
            a.lodsb()?;
            a.hlt()
        })?;
        g.reads.push_back(0x42);
        g.run_to_end()?;
        let r = g.regs()?;
        expect(
            "EAX, ESI, EDI",
            (r.rax, r.rsi, r.rdi),
            (0xdead_be42, MMIO + 0x41, MMIO + 8),
        )?;
        g.expect_log(&[
            write(0, 4, 0xdead_beef),
            write(4, 4, 0xdead_beef),
            read(0x40, 1),
        ])
    })
}

fn rep_scas_stops_at_match(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Long], |g| {
        point(g)?;
        g.set(|r| {
            r.rcx = 10;
            r.rax = 0x33;
        })?;
        g.asm(|a| {
            a.repne().scasb()?;
            a.hlt()
        })?;
        g.reads.extend([0x11, 0x22, 0x33, 0x44]);
        g.run_to_end()?;
        let r = g.regs()?;
        expect("ECX, EDI", (r.rcx, r.rdi), (7, MMIO + 3))?;
        expect("ZF", r.rflags & 0x40, 0x40)?;
        g.expect_log(&[read(0, 1), read(1, 1), read(2, 1)])
    })
}

fn store_across_the_window_edge(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &Mode::FLAT, |g| {
        point(g)?;
        let mode = g.mode;
        g.asm(|a| {
            a.mov(eax, 0x4433_2211)?;
            a.mov(at(mode, -2), eax)?;
            a.mov(ecx, at(mode, -1))?;
            a.hlt()
        })?;
        g.reads.push_back(0x00cc_bbaa);
        g.run_to_end()?;
        expect("below the window", g.read_uint(MMIO - 2, 2), 0x2211)?;
        expect("ECX", g.regs()?.rcx, 0xccbb_aa22)?;
        g.expect_log(&[write(0, 2, 0x4433), read(0, 3)])
    })
}

fn unaligned_inside_the_window(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    point(&mut g)?;
    g.asm(|a| {
        a.mov(rax, 0x1122_3344_5566_7788_u64)?;
        a.mov(ptr(rbx + 3), rax)?;
        a.mov(ptr(rbx + 0xffe), eax)?;
        a.hlt()
    })?;
    g.run_to_end()?;
    // Across a page the access is two, because each page translates alone.
    g.expect_log(&[
        write(3, 8, 0x1122_3344_5566_7788),
        write(0xffe, 2, 0x7788),
        write(0x1000, 2, 0x5566),
    ])
}

fn store_beyond_all_slots(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Prot32)?;
    g.asm(|a| {
        a.mov(eax, 3)?;
        a.mov(dword_ptr(0xfed0_0000_u32), eax)?;
        a.mov(ebx, dword_ptr(0xfed0_00f0_u32))?;
        a.hlt()
    })?;
    g.reads.push_back(0x77);
    g.run_to_end()?;
    expect("EBX", g.regs()?.rbx, 0x77)?;
    g.expect_log(&[
        MmioWrite {
            gpa: 0xfed0_0000,
            size: 4,
            value: 3,
        },
        MmioRead {
            gpa: 0xfed0_00f0,
            size: 4,
        },
    ])
}

/// Runs to a store's exit, then changes memory as another vCPU may do before
/// the instruction completes: the device has seen the store, so it is not made
/// again.
fn final_at_its_exit(
    g: &mut Guest,
    want: VcpuExit,
    change: impl Fn(&Guest),
) -> Result<(), Failure> {
    expect("exit", g.cpu.run()?, want)?;
    change(g);
    g.run_to_end()?;
    g.expect_log(&[])
}

fn pop_is_final_at_its_exit(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Pae, Mode::Long], |g| {
        point(g)?;
        let size = if g.mode == Mode::Long { 8 } else { 4 };
        let top = STACK_TOP - 16;
        g.write_u64(top, 0x1111);
        g.set(|r| r.rsp = top)?;
        g.asm(|a| {
            match a.bitness() {
                64 => a.pop(qword_ptr(rbx))?,
                _ => a.pop(dword_ptr(ebx))?,
            }
            a.hlt()
        })?;
        final_at_its_exit(g, write(0, size, 0x1111), |g| g.write_u64(top, 0x2222))?;
        expect("RSP", g.regs()?.rsp, top + u64::from(size))
    })
}

fn movs_is_final_at_its_exit(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &Mode::FLAT, |g| {
        point(g)?;
        g.write_u64(DATA, 0x1111);
        g.asm(|a| {
            a.movsd()?;
            a.hlt()
        })?;
        final_at_its_exit(g, write(0, 4, 0x1111), |g| g.write_u64(DATA, 0x2222))?;
        let r = g.regs()?;
        expect("ESI, EDI", (r.rsi, r.rdi), (DATA + 4, MMIO + 4))
    })
}

fn push_is_final_at_its_exit(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    point(&mut g)?;
    g.write_u64(DATA, 0x1111);
    g.set(|r| r.rsp = MMIO + 0x108)?;
    g.asm(|a| {
        a.push(qword_ptr(rsi))?;
        a.hlt()
    })?;
    final_at_its_exit(&mut g, write(0x100, 8, 0x1111), |g| {
        g.write_u64(DATA, 0x2222);
    })?;
    expect("RSP", g.regs()?.rsp, MMIO + 0x100)
}

fn code_changes_while_in_flight(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // A kernel patches an INT3 over an instruction that another vCPU is in.
    let mut g = Guest::new(hv, Mode::Long)?;
    point(&mut g)?;
    g.asm(|a| {
        a.mov(dword_ptr(rbx), 5)?;
        a.hlt()
    })?;
    final_at_its_exit(&mut g, write(0, 4, 5), |g| g.write(CODE, &[0xcc]))?;
    expect("RIP", g.regs()?.rip, CODE + 7)
}
