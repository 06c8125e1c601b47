//! Port I/O (SDM vol 2, IN, OUT, INS, OUTS; vol 1, chapter 18).

use super::in_modes;
use crate::VcpuExit::{IoIn, IoOut};
use crate::conformance::guest::{Guest, Mode};
use crate::conformance::layout::*;
use crate::conformance::{Failure, expect};
use crate::{Hypervisor, VcpuExit};
use iced_x86::code_asm::*;

group! { "pio":
    out_immediate_port "SDM 2 OUT",
    out_dx "SDM 2 OUT",
    in_immediate_port "SDM 2 IN",
    in_dx_keeps_or_clears_upper_bits "SDM 2 IN, SDM 1 3.4.1.1",
    rep_outs_every_width "SDM 2 OUTS, REP",
    rep_ins_every_width "SDM 2 INS, REP",
    rep_outs_backwards "SDM 2 OUTS",
    rep_with_zero_count "SDM 2 REP",
    rep_ins_across_pages "SDM 2 INS",
    user_io_needs_iopl "SDM 1 18.5.1",
    user_io_by_bitmap "SDM 1 18.5.2",
    user_io_bitmap_spans_bytes "SDM 1 18.5.2",
}

fn out(port: u16, size: u8, value: u32) -> VcpuExit {
    IoOut { port, size, value }
}

fn input(port: u16, size: u8) -> VcpuExit {
    IoIn { port, size }
}

fn out_immediate_port(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &Mode::ALL, |g| {
        g.asm(|a| {
            a.mov(eax, 0x1234_5678)?;
            a.out(0x10, al)?;
            a.out(0x11, ax)?;
            a.out(0xff, eax)?;
            a.hlt()
        })?;
        g.run_to_end()?;
        g.expect_log(&[
            out(0x10, 1, 0x78),
            out(0x11, 2, 0x5678),
            out(0xff, 4, 0x1234_5678),
        ])
    })
}

fn out_dx(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &Mode::ALL, |g| {
        g.asm(|a| {
            a.mov(eax, 0x89ab_cdef_u32)?;
            a.mov(dx, 0xfffc_u32)?;
            a.out(dx, al)?;
            a.out(dx, ax)?;
            a.out(dx, eax)?;
            a.hlt()
        })?;
        g.run_to_end()?;
        g.expect_log(&[
            out(0xfffc, 1, 0xef),
            out(0xfffc, 2, 0xcdef),
            out(0xfffc, 4, 0x89ab_cdef),
        ])
    })
}

fn in_immediate_port(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &Mode::ALL, |g| {
        g.asm(|a| {
            a.in_(eax, 0x20)?;
            a.mov(ecx, eax)?;
            a.in_(al, 0x21)?;
            a.hlt()
        })?;
        g.reads.extend([0xcafe_f00d, 0x55]);
        g.run_to_end()?;
        let r = g.regs()?;
        expect("ECX", r.rcx, 0xcafe_f00d)?;
        expect("EAX", r.rax, 0xcafe_f055)?;
        g.expect_log(&[input(0x20, 4), input(0x21, 1)])
    })
}

fn in_dx_keeps_or_clears_upper_bits(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.asm(|a| {
        a.mov(rax, u64::MAX)?;
        a.mov(dx, 0x3f8_u32)?;
        a.in_(al, dx)?;
        a.mov(rcx, rax)?;
        a.in_(ax, dx)?;
        a.mov(rbx, rax)?;
        a.in_(eax, dx)?;
        a.hlt()
    })?;
    g.reads.extend([0x11, 0x2222, 0x3333_3333]);
    g.run_to_end()?;
    let r = g.regs()?;
    expect("after IN AL", r.rcx, 0xffff_ffff_ffff_ff11)?;
    expect("after IN AX", r.rbx, 0xffff_ffff_ffff_2222)?;
    expect("after IN EAX", r.rax, 0x3333_3333)?;
    g.expect_log(&[input(0x3f8, 1), input(0x3f8, 2), input(0x3f8, 4)])
}

/// Sets SI/DI to the data page of the mode and CX to `count`.
fn string_registers(g: &mut Guest, count: u64) -> Result<u64, Failure> {
    // In real mode DS is based at DATA; ES has to follow for INS.
    let at = if g.mode == Mode::Real { 0 } else { DATA };
    if g.mode == Mode::Real {
        g.set_sregs(|s| s.es = s.ds)?;
    }
    g.set(|r| {
        r.rsi = at;
        r.rdi = at;
        r.rcx = count;
        r.rdx = 0x1f0;
    })?;
    Ok(at)
}

fn rep_outs_every_width(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &Mode::ALL, |g| {
        let at = string_registers(g, 3)?;
        g.write(DATA, &(1..=32).collect::<Vec<u8>>());
        g.asm(|a| {
            a.rep().outsb()?;
            a.mov(ecx, 2)?;
            a.rep().outsw()?;
            a.mov(ecx, 2)?;
            a.rep().outsd()?;
            a.hlt()
        })?;
        g.run_to_end()?;
        let r = g.regs()?;
        expect("SI and CX", (r.rsi, r.rcx), (at + 15, 0))?;
        g.expect_log(&[
            out(0x1f0, 1, 1),
            out(0x1f0, 1, 2),
            out(0x1f0, 1, 3),
            out(0x1f0, 2, 0x0504),
            out(0x1f0, 2, 0x0706),
            out(0x1f0, 4, 0x0b0a_0908),
            out(0x1f0, 4, 0x0f0e_0d0c),
        ])
    })
}

fn rep_ins_every_width(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &Mode::ALL, |g| {
        let at = string_registers(g, 2)?;
        g.asm(|a| {
            a.rep().insb()?;
            a.mov(ecx, 3)?;
            a.rep().insw()?;
            a.mov(ecx, 2)?;
            a.rep().insd()?;
            a.hlt()
        })?;
        g.reads
            .extend([0x01, 0x02, 0x0403, 0x0605, 0x0807, 0x0c0b_0a09, 0x100f_0e0d]);
        g.run_to_end()?;
        let r = g.regs()?;
        expect("DI and CX", (r.rdi, r.rcx), (at + 16, 0))?;
        expect("memory", g.read_u64(DATA), 0x0807_0605_0403_0201)?;
        expect("memory", g.read_u64(DATA + 8), 0x100f_0e0d_0c0b_0a09)?;
        let mut want = vec![input(0x1f0, 1); 2];
        want.extend([input(0x1f0, 2); 3]);
        want.extend([input(0x1f0, 4); 2]);
        g.expect_log(&want)
    })
}

fn rep_outs_backwards(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Real, Mode::Prot32, Mode::Long], |g| {
        let at = string_registers(g, 3)?;
        g.set(|r| r.rsi = at + 4)?;
        g.write(DATA, &[1, 2, 3, 4, 5, 6]);
        g.asm(|a| {
            a.std()?;
            a.rep().outsw()?;
            a.hlt()
        })?;
        g.run_to_end()?;
        expect("SI", g.regs()?.rsi as u16, (at as u16).wrapping_sub(2))?;
        g.expect_log(&[
            out(0x1f0, 2, 0x0605),
            out(0x1f0, 2, 0x0403),
            out(0x1f0, 2, 0x0201),
        ])
    })
}

fn rep_with_zero_count(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &Mode::ALL, |g| {
        let at = string_registers(g, 0)?;
        g.asm(|a| {
            a.rep().outsb()?;
            a.rep().insd()?;
            a.hlt()
        })?;
        g.run_to_end()?;
        let r = g.regs()?;
        expect("SI, DI, CX", (r.rsi, r.rdi, r.rcx), (at, at, 0))?;
        g.expect_log(&[])
    })
}

fn rep_ins_across_pages(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Pae, Mode::Long], |g| {
        string_registers(g, 4)?;
        g.set(|r| r.rdi = DATA + 0xffa)?;
        g.asm(|a| {
            a.rep().insd()?;
            a.hlt()
        })?;
        g.reads
            .extend([0x1111_1111, 0x3333_2222, 0x5555_4444, 0x7777_6666]);
        g.run_to_end()?;
        expect("DI", g.regs()?.rdi, DATA + 0x100a)?;
        expect("first", g.read_u64(DATA + 0xffa), 0x3333_2222_1111_1111)?;
        expect("second", g.read_u64(DATA + 0x1002), 0x7777_6666_5555_4444)?;
        g.expect_log(&[input(0x1f0, 4); 4])
    })
}

/// Enters user mode at the user code with the given flags.
fn enter_user(g: &mut Guest, flags: u64) -> Result<(), Failure> {
    g.enter_user()?;
    g.set(|r| r.rflags = flags)
}

fn user_io_needs_iopl(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(
        hv,
        &[Mode::Prot32, Mode::Pae, Mode::Long, Mode::Compat],
        |g| {
            g.user_asm(|a| {
                a.out(0x10, al)?;
                a.ud2()
            })?;
            enter_user(g, 2)?;
            g.run_to_exception()?.expect(13, Some(0), USER_CODE)?;
            g.expect_log(&[])?;
            enter_user(g, 0x3002)?;
            g.run_to_exception()?.expect(6, None, USER_CODE + 2)?;
            g.expect_log(&[out(0x10, 1, 0)])
        },
    )
}

/// Puts an I/O permission bitmap behind the TSS with the given ports open.
fn open_ports(g: &mut Guest, ports: &[u16]) -> Result<(), Failure> {
    let map = TSS + 0x68;
    g.write(map, &[0xff; 33]);
    for port in ports {
        let at = map + u64::from(port / 8);
        let byte = g.read_uint(at, 1) & !(1 << (port % 8));
        g.write_uint(at, 1, byte);
    }
    g.set_sregs(|s| s.tr.limit = 0x68 + 32)
}

fn user_io_by_bitmap(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Long], |g| {
        open_ports(g, &[0x42])?;
        g.user_asm(|a| {
            a.mov(eax, 7)?;
            a.out(0x42, al)?;
            a.out(0x43, al)
        })?;
        enter_user(g, 2)?;
        g.run_to_exception()?.expect(13, Some(0), USER_CODE + 7)?;
        g.expect_log(&[out(0x42, 1, 7)])
    })
}

fn user_io_bitmap_spans_bytes(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // Every byte of a wide access needs its bit clear, also across the byte
    // boundary at port 0x48.
    in_modes(hv, &[Mode::Prot32, Mode::Long], |g| {
        open_ports(g, &[0x46, 0x47, 0x48])?;
        g.user_asm(|a| {
            a.mov(eax, 0x0102_0304)?;
            a.out(0x47, ax)?;
            a.out(0x46, eax)
        })?;
        enter_user(g, 2)?;
        g.run_to_exception()?.expect(13, Some(0), USER_CODE + 8)?;
        g.expect_log(&[out(0x47, 2, 0x0304)])
    })
}
