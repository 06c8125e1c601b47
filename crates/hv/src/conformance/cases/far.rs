//! Far transfers and far pointers in every operand size.

use super::{absolute, at, bare, in_modes};
use crate::Hypervisor;
use crate::conformance::guest::{Guest, Mode};
use crate::conformance::layout::*;
use crate::conformance::setup::{descriptor, rights};
use crate::conformance::{Failure, expect};
use iced_x86::code_asm::*;
use iced_x86::{Code, Instruction, Register};

group! { "far":
    real_mode_call_and_return "SDM 2 CALL, RET",
    real_mode_jump_through_memory "SDM 2 JMP",
    call_through_memory "SDM 2 CALL, RET",
    jump_through_memory "SDM 2 JMP",
    sixteen_bit_operands "SDM 2 CALL, JMP, RET",
    return_releases_bytes_in_64_bit_mode "SDM 2 RET",
    load_far_pointer "SDM 2 LDS/LES/LFS/LGS/LSS",
    load_far_pointer_with_64_bit_offset "SDM 2 LDS/LES/LFS/LGS/LSS",
    pop_segment_register "SDM 2 POP",
    mov_segment_register_widths "SDM 2 MOV",
}

/// Offset in CS and DS of real mode.
const FUNCTION: u64 = 0x200;

fn real_mode_call_and_return(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Real)?;
    let selector = (CODE >> 4) as u16;
    g.write_uint(DATA, 2, FUNCTION + 0x10);
    g.write_uint(DATA + 2, 2, selector.into());
    g.code_at(CODE + FUNCTION, FUNCTION, 16, |a| {
        a.mov(si, sp)?;
        a.add_instruction(bare(Code::Retfw))
    })?;
    g.code_at(CODE + FUNCTION + 0x10, FUNCTION + 0x10, 16, |a| {
        a.mov(di, sp)?;
        a.add_instruction(Instruction::with1(Code::Retfw_imm16, 6)?)
    })?;
    g.asm(|a| {
        a.add_instruction(Instruction::with_far_branch(
            Code::Call_ptr1616,
            selector,
            FUNCTION as u32,
        )?)?;
        a.mov(bx, sp)?;
        a.add_instruction(at(Code::Call_m1616, 16, 0)?)?;
        a.hlt()
    })?;
    g.run_to_end()?;
    let r = g.regs()?;
    expect(
        "SP inside",
        (r.rsi & 0xffff, r.rdi & 0xffff),
        (0x7ffc, 0x7ffc),
    )?;
    expect("SP behind RETF", r.rbx & 0xffff, STACK_TOP)?;
    expect("SP behind RETF 6", r.rsp & 0xffff, STACK_TOP + 6)
}

fn real_mode_jump_through_memory(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Real)?;
    g.write_uint(DATA, 2, 0x10);
    g.write_uint(DATA + 2, 2, SPARE >> 4);
    g.code_at(SPARE + 0x10, 0x10, 16, |a| {
        a.mov(cx, cs)?;
        a.hlt()
    })?;
    g.asm(|a| a.add_instruction(at(Code::Jmp_m1616, 16, 0)?))?;
    g.run_to_end()?;
    expect("CS", g.regs()?.rcx & 0xffff, SPARE >> 4)
}

/// The code of a far transfer through memory with the mode's widest operand,
/// and the bytes of its offset: on AMD's processors never eight (APM vol 3,
/// JMP (Far)).
fn widest(g: &Guest, narrow: Code, wide: Code) -> (Code, u64) {
    match g.mode {
        Mode::Long if !g.is_amd() => (wide, 8),
        _ => (narrow, 4),
    }
}

fn call_through_memory(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Long], |g| {
        let (call, width) = widest(g, Code::Call_m1632, Code::Call_m1664);
        let bits = g.mode.bits();
        let back = match width {
            8 => Code::Retfq,
            _ => Code::Retfd,
        };
        g.write_uint(DATA, width, SPARE);
        g.write_uint(DATA + width, 2, sel::CODE.into());
        g.code_at(SPARE, SPARE, bits, |a| {
            a.mov(ebx, esp)?;
            a.add_instruction(bare(back))
        })?;
        g.asm(|a| {
            a.add_instruction(at(call, bits, DATA)?)?;
            a.hlt()
        })?;
        g.run_to_end()?;
        let r = g.regs()?;
        expect("SP inside", r.rbx, STACK_TOP - 2 * width)?;
        expect("SP outside", r.rsp, STACK_TOP)
    })
}

fn jump_through_memory(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Long], |g| {
        let (jump, width) = widest(g, Code::Jmp_m1632, Code::Jmp_m1664);
        let bits = g.mode.bits();
        g.write_uint(DATA, width, SPARE);
        g.write_uint(DATA + width, 2, sel::CODE.into());
        g.code_at(SPARE, SPARE, bits, |a| {
            a.mov(ecx, cs)?;
            a.hlt()
        })?;
        g.asm(|a| a.add_instruction(at(jump, bits, DATA)?))?;
        g.run_to_end()?;
        expect("CS", g.regs()?.rcx, sel::CODE.into())
    })
}

fn sixteen_bit_operands(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // 16-bit offsets need code in the first 64 KiB.
    const LOW: u64 = 0x400;
    in_modes(hv, &[Mode::Prot32, Mode::Long], |g| {
        let bits = g.mode.bits();
        g.write_uint(DATA, 2, LOW);
        g.write_uint(DATA + 2, 2, sel::CODE.into());
        g.write_uint(STACK_TOP - 0x40, 2, LOW + 0x40);
        g.write_uint(STACK_TOP - 0x3e, 2, sel::CODE.into());
        g.code_at(LOW, LOW, bits, |a| {
            a.mov(ebx, esp)?;
            a.mov(esp, STACK_TOP as u32 - 0x40)?;
            a.add_instruction(bare(Code::Retfw))
        })?;
        g.code_at(LOW + 0x40, LOW + 0x40, bits, |a| {
            a.mov(ecx, esp)?;
            a.add_instruction(at(Code::Jmp_m1616, bits, DATA + 0x10)?)
        })?;
        g.write_uint(DATA + 0x10, 2, LOW + 0x80);
        g.write_uint(DATA + 0x12, 2, sel::CODE.into());
        g.code_at(LOW + 0x80, LOW + 0x80, bits, |a| a.hlt())?;
        g.asm(|a| a.add_instruction(at(Code::Call_m1616, bits, DATA)?))?;
        g.run_to_end()?;
        let r = g.regs()?;
        expect("SP inside", r.rbx, STACK_TOP - 4)?;
        expect("SP behind RETF", r.rcx, STACK_TOP - 0x3c)
    })
}

fn return_releases_bytes_in_64_bit_mode(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.code_at(SPARE, SPARE, 64, |a| {
        a.mov(rcx, rsp)?;
        a.hlt()
    })?;
    g.asm(|a| {
        a.push(i32::from(sel::CODE))?;
        a.push(SPARE as i32)?;
        a.add_instruction(Instruction::with1(Code::Retfq_imm16, 0x20)?)
    })?;
    g.run_to_end()?;
    expect("RSP", g.regs()?.rcx, STACK_TOP + 0x20)
}

/// Instruction code, destination segment.
type Load = (Code, AsmRegisterSegment);

/// Loads each pointer at DATA + 0x10 * i and checks selector and offset.
fn far_pointers(
    g: &mut Guest,
    loads: &[Load],
    register: Register,
    offset: u64,
    width: u64,
) -> Result<(), Failure> {
    let real = g.mode == Mode::Real;
    let bits = g.mode.bits();
    let selector: u64 = if real { 0x0 } else { sel::DATA.into() };
    let from = if real { 0 } else { DATA };
    for (i, &(code, segment)) in loads.iter().enumerate() {
        g.write_uint(DATA, width, offset + i as u64);
        g.write_uint(DATA + width, 2, selector);
        g.asm(|a| {
            let memory = absolute(bits, from);
            a.add_instruction(Instruction::with2(code, register, memory)?)?;
            a.mov(cx, segment)?;
            a.hlt()
        })?;
        g.enter_kernel()?;
        g.set(|r| (r.rdx, r.rcx) = (0, 0xffff))?;
        g.run_to_end()?;
        let r = g.regs()?;
        let what = format!("{code:?}: offset, selector");
        expect(&what, (r.rdx, r.rcx), (offset + i as u64, selector))?;
    }
    Ok(())
}

fn load_far_pointer(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let narrow = [
        (Code::Les_r16_m1616, es),
        (Code::Lds_r16_m1616, ds),
        (Code::Lss_r16_m1616, ss),
        (Code::Lfs_r16_m1616, fs),
        (Code::Lgs_r16_m1616, gs),
    ];
    let wide = [
        (Code::Les_r32_m1632, es),
        (Code::Lds_r32_m1632, ds),
        (Code::Lss_r32_m1632, ss),
        (Code::Lfs_r32_m1632, fs),
        (Code::Lgs_r32_m1632, gs),
    ];
    in_modes(hv, &[Mode::Real, Mode::Prot32, Mode::Compat], |g| {
        far_pointers(g, &narrow, Register::DX, 0x8765, 2)?;
        far_pointers(g, &wide, Register::EDX, 0x8765_4321, 4)
    })?;
    // LDS and LES are other instructions in 64-bit mode.
    in_modes(hv, &[Mode::Long], |g| {
        far_pointers(g, &narrow[2..], Register::DX, 0x8765, 2)?;
        far_pointers(g, &wide[2..], Register::EDX, 0x8765_4321, 4)
    })
}

fn load_far_pointer_with_64_bit_offset(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let loads = [
        (Code::Lss_r64_m1664, ss),
        (Code::Lfs_r64_m1664, fs),
        (Code::Lgs_r64_m1664, gs),
    ];
    let mut g = Guest::new(hv, Mode::Long)?;
    far_pointers(&mut g, &loads, Register::RDX, 0x8765_4321_0fed_cba9, 8)
}

/// Pushes `selector` with `width` bytes and pops it with `code`.
fn pop_with(g: &mut Guest, code: Code, register: Register, width: u64) -> Result<(), Failure> {
    let selector: u64 = match g.mode {
        Mode::Real => 0,
        _ => sel::SPARE.into(),
    };
    g.set_descriptor(sel::SPARE, descriptor(0, 0xf_ffff, rights::DATA32));
    g.write_uint(STACK_TOP - 0x20, 8, 0x5555_5555_5555_0000 | selector);
    g.asm(|a| {
        a.add_instruction(Instruction::with1(code, register)?)?;
        a.add_instruction(Instruction::with2(
            Code::Mov_r32m16_Sreg,
            Register::ECX,
            register,
        )?)?;
        a.hlt()
    })?;
    g.enter_kernel()?;
    g.set(|r| r.rsp = STACK_TOP - 0x20)?;
    g.run_to_end()?;
    let r = g.regs()?;
    let what = format!("{code:?}: selector, SP");
    expect(&what, (r.rcx, r.rsp), (selector, STACK_TOP - 0x20 + width))
}

fn pop_segment_register(hv: &dyn Hypervisor) -> Result<(), Failure> {
    use Register as R;
    let legacy = [
        (Code::Popw_ES, R::ES, 2),
        (Code::Popd_ES, R::ES, 4),
        (Code::Popw_SS, R::SS, 2),
        (Code::Popd_SS, R::SS, 4),
        (Code::Popw_DS, R::DS, 2),
        (Code::Popd_DS, R::DS, 4),
        (Code::Popd_FS, R::FS, 4),
        (Code::Popd_GS, R::GS, 4),
    ];
    let every = [(Code::Popw_FS, R::FS, 2), (Code::Popw_GS, R::GS, 2)];
    let long = [(Code::Popq_FS, R::FS, 8), (Code::Popq_GS, R::GS, 8)];
    in_modes(hv, &[Mode::Real, Mode::Prot32, Mode::Compat], |g| {
        let mut both = legacy.iter().chain(&every);
        both.try_for_each(|&(code, r, width)| pop_with(g, code, r, width))
    })?;
    in_modes(hv, &[Mode::Long], |g| {
        let mut both = long.iter().chain(&every);
        both.try_for_each(|&(code, r, width)| pop_with(g, code, r, width))
    })
}

fn mov_segment_register_widths(hv: &dyn Hypervisor) -> Result<(), Failure> {
    use Register as R;
    let forms = [
        (Code::Mov_Sreg_rm16, R::DX),
        (Code::Mov_Sreg_r32m16, R::EDX),
        (Code::Mov_Sreg_r64m16, R::RDX),
    ];
    let mut g = Guest::new(hv, Mode::Long)?;
    for (code, register) in forms {
        g.asm(|a| {
            // Only the low word counts.
            a.mov(rdx, 0x7777_6666_5555_0000 | u64::from(sel::DATA))?;
            a.add_instruction(Instruction::with2(code, R::ES, register)?)?;
            a.mov(ecx, es)?;
            a.hlt()
        })?;
        g.enter_kernel()?;
        g.run_to_end()?;
        expect(&format!("{code:?}"), g.regs()?.rcx, sel::DATA.into())?;
    }
    Ok(())
}
