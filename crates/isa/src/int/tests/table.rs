//! Every code has a class, and the interpreter does what the class says.

use super::{World, cpu64, step};
use crate::env::Stop;
use crate::operand::{Ctx, Handled};
use crate::table::{Class, Why, class};
use iced_x86::{Code, Instruction, OpKind, Register};
use x86::Exception;

/// An instruction with memory at rBX wherever one is allowed, else registers.
fn sample(code: Code) -> Instruction {
    use iced_x86::OpCodeOperandKind as K;
    let mut insn = Instruction::default();
    insn.set_code(code);
    let info = code.op_code();
    for i in 0..info.op_count() {
        let name = format!("{:?}", info.op_kind(i));
        let memory = name.contains("mem") && !name.contains("_or_mem");
        if memory {
            insn.set_op_kind(i, OpKind::Memory);
            insn.set_memory_base(Register::RBX);
        } else if matches!(info.op_kind(i), K::es_rDI | K::seg_rDI) {
            insn.set_op_kind(i, OpKind::MemoryESRDI);
        } else if info.op_kind(i) == K::seg_rSI {
            insn.set_op_kind(i, OpKind::MemorySegRSI);
        } else if name.starts_with("imm") {
            insn.set_op_kind(i, OpKind::Immediate8);
            insn.set_immediate8(1);
        } else if name.starts_with("br") {
            insn.set_op_kind(i, OpKind::NearBranch64);
        } else {
            insn.set_op_kind(i, OpKind::Register);
            insn.set_op_register(i, Register::RAX);
        }
    }
    insn
}

#[test]
fn the_interpreter_handles_what_the_table_claims() {
    let mut wrong = Vec::new();
    for code in Code::values() {
        let insn = sample(code);
        let (mut cpu, mut w) = (cpu64(), World::new());
        cpu.gpr[x86::gpr::RBX] = 0x2000;
        let got = crate::int::execute(&mut Ctx::new(&mut cpu, &mut w, &insn));
        let right = match class(code) {
            Class::System => {
                let sys = crate::sys::execute(&mut Ctx::new(&mut cpu, &mut w, &insn));
                got == Ok(Handled::No) && sys != Ok(Handled::No)
            }
            Class::Excluded(_) => got == Err(Stop::Fault(Exception::UD)),
            _ => got != Ok(Handled::No),
        };
        if !right {
            wrong.push(format!("{code:?} {:?} {got:?}", class(code)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn classes_of_codes_that_share_a_mnemonic() {
    use crate::table::{Int, Unit};
    let cases = [
        (Code::Movsd_m32_m32, Class::String),
        (Code::Movsd_xmm_xmmm64, Class::Native(Unit::Sse)),
        (Code::VEX_Vmovsd_xmm_m64, Class::Native(Unit::Avx)),
        (Code::VEX_Kmovw_kr_km16, Class::Native(Unit::Avx512)),
        (Code::Mov_r64_cr, Class::System),
        (Code::Mov_rm16_Sreg, Class::Int(Int::Mov)),
        (Code::Mov_Sreg_rm16, Class::System),
        (Code::Pop_r64, Class::Int(Int::Stack)),
        (Code::Popw_DS, Class::System),
        (Code::Jmp_m1632, Class::System),
        (Code::Jmp_rm64, Class::Branch),
        (Code::Pshufb_mm_mmm64, Class::Native(Unit::Mmx)),
        (Code::Pshufb_xmm_xmmm128, Class::Native(Unit::Sse)),
        (Code::Fld_m64fp, Class::Native(Unit::X87)),
        (Code::Fnsave_m108byte, Class::System),
        (Code::Vmxon_m64, Class::Excluded(Why::Virtualization)),
        (Code::XOP_Bextr_r32_rm32_imm32, Class::Excluded(Why::Vendor)),
        (Code::Xbegin_rel32, Class::Excluded(Why::NotOffered)),
        (Code::INVALID, Class::Excluded(Why::NotAnInstruction)),
    ];
    for (code, expected) in cases {
        assert_eq!(class(code), expected, "{code:?}");
    }
}

/// The native path reads and writes whole operands by their size and access.
#[test]
fn memory_operands_of_native_instructions_have_a_size_and_an_access() {
    let mut wrong = Vec::new();
    for code in Code::values().filter(|&c| matches!(class(c), Class::Native(_))) {
        let info = code.op_code();
        let memory = |i: &u32| format!("{:?}", info.op_kind(*i)).contains("mem");
        let Some(i) = (0..info.op_count()).find(memory) else {
            continue;
        };
        let mut insn = sample(code);
        insn.set_op_kind(i, OpKind::Memory);
        let size = insn.memory_size().size();
        let access = crate::table::memory_access(&insn, i);
        if !(1..=64).contains(&size) || access == (false, false) || access == (true, true) {
            wrong.push(format!("{code:?} {size} {access:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn hints_do_nothing() {
    let (mut cpu, mut w) = (cpu64(), World::new());
    let nop: &[u8] = &[0x90];
    let endbr64: &[u8] = &[0xf3, 0x0f, 0x1e, 0xfa];
    let long_nop: &[u8] = &[0x66, 0x0f, 0x1f, 0x44, 0, 0];
    let rdssp: &[u8] = &[0xf3, 0x48, 0x0f, 0x1e, 0xc8];
    for code in [nop, endbr64, long_nop, rdssp] {
        let before = cpu.clone();
        assert_eq!(step(&mut cpu, &mut w, code), Ok(Handled::Next));
        assert_eq!(cpu.rip, before.rip + code.len() as u64);
        assert_eq!(cpu.gpr, before.gpr);
    }
}
