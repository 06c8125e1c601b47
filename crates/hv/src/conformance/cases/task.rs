//! Call gates, task switches and virtual-8086 mode (SDM vol 3, 5.8, 7, 20).

use super::in_modes;
use crate::Hypervisor;
use crate::VcpuExit::IoOut;
use crate::conformance::guest::{Guest, Mode};
use crate::conformance::layout::*;
use crate::conformance::setup::{descriptor, rights};
use crate::conformance::{Failure, expect};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use x86::{cr4, flags};

group! { "task":
    call_gate_to_ring_0 "SDM 3 5.8.3, 5.8.5",
    call_gate_copies_parameters "SDM 3 5.8.5",
    call_gate_in_long_mode "SDM 3 5.8.3.1",
    call_gate_privilege "SDM 3 5.8.4",
    far_return_to_outer_ring "SDM 3 5.8.6",
    jump_to_task "SDM 3 7.3",
    call_task_and_iret "SDM 3 7.3, 7.4",
    task_gate_in_the_idt "SDM 3 7.2.5, 6.12.2",
    vm86_runs_real_mode_code "SDM 3 20.2",
    vm86_exception_saves_segments "SDM 3 20.3.1",
    vm86_sensitive_instructions "SDM 3 20.2.7",
    vm86_port_io_by_bitmap "SDM 3 20.2.8.1",
}

/// A call gate (SDM vol 3, figure 5-8).
fn gate(selector: u16, offset: u64, params: u8, dpl: u64, kind: u64) -> u64 {
    (offset & 0xffff)
        | u64::from(selector) << 16
        | u64::from(params) << 32
        | (0x80 | dpl << 5 | kind) << 40
        | (offset >> 16 & 0xffff) << 48
}

fn call_gate_to_ring_0(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Pae], |g| {
        g.set_descriptor(sel::SPARE, gate(sel::CODE, SPARE, 0, 3, 0xc));
        g.user_asm(|a| {
            a.call_far(sel::SPARE | 3, 0xdead_beef)?; // the offset is ignored
            a.mov(edx, cs)?;
            a.ud2()
        })?;
        g.code_at(SPARE, SPARE, 32, |a| {
            a.mov(ebx, cs)?;
            a.mov(ecx, esp)?;
            a.retf()
        })?;
        g.enter_user()?;
        let frame = g.run_to_exception()?;
        frame.expect(6, None, USER_CODE + 9)?;
        let r = g.regs()?;
        expect("CS inside, outside", (r.rbx, r.rdx), (8, 0x3b))?;
        expect("ESP inside", r.rcx, RING0_TOP - 16)?;
        expect("ESP outside", frame.sp, USER_STACK_TOP)
    })
}

fn call_gate_copies_parameters(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Pae], |g| {
        g.set_descriptor(sel::SPARE, gate(sel::CODE, SPARE, 2, 3, 0xc));
        g.user_asm(|a| {
            a.push(0x1111)?;
            a.push(0x2222)?;
            a.call_far(sel::SPARE | 3, 0)?;
            a.ud2()
        })?;
        g.code_at(SPARE, SPARE, 32, |a| {
            a.mov(ebx, dword_ptr(esp + 8))?;
            a.mov(ecx, dword_ptr(esp + 12))?;
            a.retf_1(8)
        })?;
        g.enter_user()?;
        let frame = g.run_to_exception()?;
        let r = g.regs()?;
        expect("parameters", (r.rbx, r.rcx), (0x2222, 0x1111))?;
        expect("ESP released on both stacks", frame.sp, USER_STACK_TOP)
    })
}

fn call_gate_in_long_mode(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.set_descriptor(sel::SPARE, gate(sel::CODE, SPARE, 0, 3, 0xc));
    g.set_descriptor(sel::SPARE + 8, 0);
    g.write_u64(USER_DATA, u64::from(sel::SPARE | 3) << 32);
    g.user_asm(|a| {
        a.call(fword_ptr(USER_DATA as u32))?;
        a.ud2()
    })?;
    g.code_at(SPARE, SPARE, 64, |a| {
        a.mov(ebx, cs)?;
        a.mov(rcx, rsp)?;
        a.mov(edx, ss)?;
        a.db(&[0x48, 0xcb]) // REX.W RETF
    })?;
    g.enter_user()?;
    let frame = g.run_to_exception()?;
    expect("vector", frame.vector, 6)?;
    let r = g.regs()?;
    expect(
        "CS, SS, RSP inside",
        (r.rbx, r.rdx, r.rcx),
        (8, 0, RING0_TOP - 32),
    )?;
    expect("RSP outside", frame.sp, USER_STACK_TOP)
}

fn call_gate_privilege(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Pae], |g| {
        g.set_descriptor(sel::SPARE, gate(sel::CODE, SPARE, 0, 0, 0xc));
        g.user_asm(|a| a.call_far(sel::SPARE | 3, 0))?;
        g.enter_user()?;
        g.run_to_exception()?
            .expect(13, Some(sel::SPARE.into()), USER_CODE)
    })
}

fn far_return_to_outer_ring(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Pae], |g| {
        g.asm(|a| {
            a.push(i32::from(sel::USER_DATA))?;
            a.push(USER_STACK_TOP as i32)?;
            a.push(i32::from(sel::USER32))?;
            a.push(USER_CODE as i32)?;
            a.retf()
        })?;
        g.user_asm(|a| a.ud2())?;
        let frame = g.run_to_exception()?;
        frame.expect(6, None, USER_CODE)?;
        expect("CS, SS", (frame.cs, frame.ss), (0x3b, 0x43))?;
        expect("ESP", frame.sp, USER_STACK_TOP)?;
        // Ring-0 data segments are emptied on the way out.
        let s = g.cpu.sregs()?;
        expect("DS, ES", (s.ds.selector, s.es.selector), (0, 0))
    })
}

/// A second 32-bit TSS at `at` that starts at `eip` in ring 0.
fn make_task(g: &Guest, at: u64, eip: u64) {
    // A switch saves everything but CR3, which the way back loads.
    g.write_uint(TSS + 28, 4, g.cpu.sregs().map_or(0, |s| s.cr3));
    g.write(at, &[0; 0x68]);
    for (offset, value) in [
        (28, g.cpu.sregs().map_or(0, |s| s.cr3)),
        (32, eip),
        (36, 2),           // EFLAGS
        (40, 0xaaaa_0001), // EAX
        (56, TASK_STACK),  // ESP
        (72, sel::DATA.into()),
        (76, sel::CODE.into()),
        (80, sel::DATA.into()),
        (84, sel::DATA.into()),
        (88, sel::DATA.into()),
        (92, sel::DATA.into()),
    ] {
        g.write_uint(at + offset, 4, value);
    }
    g.write_uint(at + 102, 2, 0x68);
    g.set_descriptor(sel::SPARE, descriptor(at, 0x67, rights::TSS));
}

const TASK: u64 = DATA + 0x800;
/// The new task's stack pointer.
const TASK_STACK: u64 = 0x7_f000;

fn jump_to_task(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Pae], |g| {
        make_task(g, TASK, SPARE);
        g.asm(|a| {
            a.mov(ecx, 0x5555)?;
            a.jmp_far(sel::SPARE, 0)
        })?;
        g.code_at(SPARE, SPARE, 32, |a| {
            a.str(ebx)?;
            a.mov(edx, cr0)?;
            a.hlt()
        })?;
        g.run_to_end()?;
        let r = g.regs()?;
        expect("EAX, ECX of the task", (r.rax, r.rcx), (0xaaaa_0001, 0))?;
        expect("TR, ESP", (r.rbx, r.rsp), (sel::SPARE.into(), 0x7_f000))?;
        expect("CR0.TS", r.rdx & 8, 8)?;
        expect("saved EIP", g.read_u32(TSS + 32), (CODE + 5 + 7) as u32)?;
        expect("saved ECX", g.read_u32(TSS + 44), 0x5555)?;
        let busy = |g: &Guest, s: u16| g.read_u64(GDT + u64::from(s)) >> 41 & 1;
        expect(
            "busy: old, new",
            (busy(g, sel::TSS), busy(g, sel::SPARE)),
            (0, 1),
        )
    })
}

fn call_task_and_iret(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Pae], |g| {
        make_task(g, TASK, SPARE);
        g.asm(|a| {
            a.call_far(sel::SPARE, 0)?;
            a.inc(ecx)?;
            a.hlt()
        })?;
        g.code_at(SPARE, SPARE, 32, |a| {
            a.pushfd()?;
            a.pop(dword_ptr(DATA as u32))?;
            a.iretd()
        })?;
        g.set(|r| r.rcx = 7)?;
        g.run_to_end()?;
        let r = g.regs()?;
        expect("ECX, ESP", (r.rcx, r.rsp), (8, STACK_TOP))?;
        expect(
            "NT in the task",
            g.read_u32(DATA) & flags::NT as u32,
            flags::NT as u32,
        )?;
        expect("NT afterwards", r.rflags & flags::NT, 0)?;
        expect("back link", g.read_uint(TASK, 2), sel::TSS.into())
    })
}

fn task_gate_in_the_idt(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Pae], |g| {
        let stack = TASK_STACK - 0x1000;
        g.touch(&[GDT, IDT, TSS, TASK & !0xfff, stack])?;
        make_task(g, TASK, SPARE);
        g.set_gate_raw(11, sel::SPARE, 0, 0x8500);
        g.set_descriptor(sel::SPARE2, 0x00cf_1300_0000_ffff); // not present
        // The error code goes onto the new task's stack.
        g.code_at(SPARE, SPARE, 32, |a| {
            a.pop(ebx)?;
            a.hlt()
        })?;
        g.asm(|a| {
            a.mov(eax, u32::from(sel::SPARE2))?;
            a.mov(es, eax)
        })?;
        g.run_to_end()?;
        expect("error code", g.regs()?.rbx, sel::SPARE2.into())?;
        expect("saved EIP", g.read_u32(TSS + 32), (CODE + 5) as u32)
    })
}

/// Enters virtual-8086 mode at SPARE (selector SPARE / 16) by IRET.
fn enter_vm86(g: &mut Guest, iopl: u32) -> Result<(), Failure> {
    for page in (0..0x10_0000).step_by(4096) {
        if g.mode == Mode::Pae {
            g.map(page, page, 7);
        }
    }
    let eflags = 0x2_0002 | iopl << 12;
    g.asm(|a| {
        for word in [
            0x6000,                  // GS
            0x6100,                  // FS
            (DATA >> 4) as i32,      // DS
            0x6200,                  // ES
            (USER_DATA >> 4) as i32, // SS
            0x800,                   // SP
            eflags as i32,
            (SPARE >> 4) as i32, // CS
            0,                   // IP
        ] {
            a.push(word)?;
        }
        a.iretd()
    })?;
    Ok(())
}

fn vm86_code<F>(g: &mut Guest, f: F) -> Result<(), Failure>
where
    F: FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
{
    g.code_at(SPARE, 0, 16, f)?;
    Ok(())
}

fn vm86_runs_real_mode_code(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Pae], |g| {
        enter_vm86(g, 3)?;
        g.write_uint(DATA + 0x20, 2, 0x7788);
        vm86_code(g, |a| {
            a.mov(ax, word_ptr(0x20))?;
            a.push(ax)?;
            a.mov(cx, cs)?;
            a.pushf()?;
            a.pop(dx)?;
            a.ud2()
        })?;
        let frame = g.run_to_exception()?;
        let r = g.regs()?;
        expect("AX, CX", (r.rax, r.rcx), (0x7788, SPARE >> 4))?;
        expect("stack", g.read_uint(USER_DATA + 0x7fe, 2), 0x7788)?;
        expect(
            "vector, VM in the frame",
            (frame.vector, frame.flags & flags::VM),
            (6, flags::VM),
        )
    })
}

fn vm86_exception_saves_segments(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Pae], |g| {
        enter_vm86(g, 3)?;
        vm86_code(g, |a| a.ud2())?;
        let frame = g.run_to_exception()?;
        frame.expect(6, None, 0)?;
        expect(
            "CS, SS, SP",
            (frame.cs, frame.ss, frame.sp),
            (SPARE >> 4, USER_DATA >> 4, 0x800),
        )?;
        let word = |i: u64| g.read_uint(frame.at + 20 + i * 4, 2);
        expect(
            "ES, DS, FS, GS in the frame",
            (word(0), word(1), word(2), word(3)),
            (0x6200, DATA >> 4, 0x6100, 0x6000),
        )?;
        expect("frame on ring 0's stack", frame.at, RING0_TOP - 36)?;
        let s = g.cpu.sregs()?;
        expect(
            "DS, GS in the handler",
            (s.ds.selector, s.gs.selector),
            (0, 0),
        )
    })
}

fn vm86_sensitive_instructions(hv: &dyn Hypervisor) -> Result<(), Failure> {
    type Emit = fn(&mut CodeAssembler) -> Result<(), IcedError>;
    let table: [(&str, Emit); 5] = [
        ("CLI", |a| a.cli()),
        ("PUSHF", |a| a.pushf()),
        ("POPF", |a| a.popf()),
        ("INT", |a| a.int(0x21)),
        ("HLT", |a| a.hlt()),
    ];
    in_modes(hv, &[Mode::Prot32, Mode::Pae], |g| {
        g.set_sregs(|s| s.cr4 &= !cr4::VME)?;
        for (name, emit) in table {
            g.enter_kernel()?;
            enter_vm86(g, 0)?;
            vm86_code(g, emit)?;
            let frame = g.run_to_exception()?;
            expect(
                name,
                (frame.vector, frame.error, frame.ip),
                (13, Some(0), 0),
            )?;
        }
        Ok(())
    })
}

fn vm86_port_io_by_bitmap(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Pae], |g| {
        // IOPL does not matter in this mode, only the bitmap.
        g.write(TSS + 0x68, &[0xff; 33]);
        g.write_uint(TSS + 0x68 + 8, 1, 0xfe); // port 0x40
        g.set_sregs(|s| s.tr.limit = 0x68 + 32)?;
        enter_vm86(g, 3)?;
        vm86_code(g, |a| {
            a.out(0x40, al)?;
            a.out(0x41, al)
        })?;
        g.run_to_exception()?.expect(13, Some(0), 2)?;
        g.expect_log(&[IoOut {
            port: 0x40,
            size: 1,
            value: 0,
        }])
    })
}
