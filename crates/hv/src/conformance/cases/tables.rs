//! Descriptor-table, task and machine-status registers in every operand size.

use super::{absolute, at, in_modes, on};
use crate::Hypervisor;
use crate::conformance::guest::{Guest, Mode};
use crate::conformance::layout::*;
use crate::conformance::setup::{descriptor, rights};
use crate::conformance::{Failure, expect};
use iced_x86::code_asm::*;
use iced_x86::{Code, Instruction, Register};
use x86::cr0;
use x86::segment::attr;

group! { "tables":
    lidt_moves_the_table "SDM 2 LIDT, SIDT",
    sixteen_bit_operands_load_24_bits "SDM 2 LGDT, SGDT",
    store_selector_widths "SDM 2 SLDT, STR",
    load_selector_widths "SDM 2 LLDT, LTR",
    inspect_with_every_width "SDM 2 LAR, LSL, VERR, VERW",
    arpl_raises_the_rpl "SDM 2 ARPL",
    selectors_are_undefined_in_real_mode "SDM 2 SLDT, STR, LLDT, LTR, LAR, LSL, VERR, VERW, ARPL",
    smsw_widths "SDM 2 SMSW",
    lmsw_sets_low_bits "SDM 2 LMSW",
}

/// Bytes of a descriptor-table register's base in memory.
fn base_size(g: &Guest) -> u64 {
    if g.mode == Mode::Long { 8 } else { 4 }
}

fn lidt_moves_the_table(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Prot32, Mode::Long, Mode::Compat], |g| {
        let (load, store) = match g.mode {
            Mode::Long => (Code::Lidt_m1664, Code::Sidt_m1664),
            _ => (Code::Lidt_m1632, Code::Sidt_m1632),
        };
        let bits = g.mode.bits();
        // The table's copy has other handlers for #UD.
        let mut table = vec![0; 0x1000];
        g.ram.read(IDT, &mut table);
        g.set_gate(6, SPARE + 0x1000);
        let gate = 6 * if g.mode.ia32e() { 16 } else { 8 };
        let mut changed = [0; 16];
        g.ram.read(IDT + gate, &mut changed);
        table[gate as usize..gate as usize + 8].copy_from_slice(&changed[..8]);
        g.write(SPARE, &table);
        g.set_gate(6, STUBS + 6 * 16);
        let handler = if g.mode.ia32e() { 64 } else { 32 };
        g.code_at(SPARE + 0x1000, SPARE + 0x1000, handler, |a| {
            a.mov(ebx, 0x1d7)?;
            a.hlt()
        })?;
        g.write_uint(DATA, 2, 0xfff);
        g.write_uint(DATA + 2, base_size(g), SPARE);
        g.asm(|a| {
            a.add_instruction(at(load, bits, DATA)?)?;
            a.add_instruction(at(store, bits, DATA + 0x20)?)?;
            a.ud2()
        })?;
        g.run_to_end()?;
        expect("handler of the new table", g.regs()?.rbx, 0x1d7)?;
        let stored = (
            g.read_uint(DATA + 0x20, 2),
            g.read_uint(DATA + 0x22, base_size(g)),
        );
        expect("SIDT", stored, (0xfff, SPARE))
    })
}

fn sixteen_bit_operands_load_24_bits(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &[Mode::Real, Mode::Prot32, Mode::Compat], |g| {
        let bits = g.mode.bits();
        let from = if g.mode == Mode::Real { 0 } else { DATA };
        for (i, base) in [(0, GDT), (1, IDT)] {
            g.write_uint(DATA + i * 0x10, 2, 0x3ff);
            g.write_uint(DATA + i * 0x10 + 2, 4, base | 0xee00_0000);
        }
        g.asm(|a| {
            a.add_instruction(at(Code::Lgdt_m1632_16, bits, from)?)?;
            a.add_instruction(at(Code::Lidt_m1632_16, bits, from + 0x10)?)?;
            a.add_instruction(at(Code::Sgdt_m1632_16, bits, from + 0x20)?)?;
            a.add_instruction(at(Code::Sidt_m1632_16, bits, from + 0x30)?)?;
            a.hlt()
        })?;
        g.run_to_end()?;
        let s = g.cpu.sregs()?;
        expect("GDTR", (s.gdt.base, s.gdt.limit), (GDT, 0x3ff))?;
        expect("IDTR", (s.idt.base, s.idt.limit), (IDT, 0x3ff))?;
        // The highest byte is 0 or, on today's processors, the base's.
        for (i, base) in [(2, GDT), (3, IDT)] {
            let image = g.read_uint(DATA + i * 0x10, 6);
            expect("limit and base", image, base << 16 | 0x3ff)?;
        }
        Ok(())
    })
}

/// Codes of one instruction: 16-, 32- and, in 64-bit mode, 64-bit operand.
type Widths = [Code; 3];

fn widths(g: &Guest, codes: Widths) -> impl Iterator<Item = (usize, Code)> + use<> {
    let count = if g.mode == Mode::Long { 3 } else { 2 };
    codes.into_iter().enumerate().take(count)
}

/// RDX in the three widths.
const RDX: [Register; 3] = [Register::DX, Register::EDX, Register::RDX];
/// RAX in the three widths.
const RAX: [Register; 3] = [Register::AX, Register::EAX, Register::RAX];
/// What RDX holds before each instruction.
const BEFORE: u64 = 0x1111_2222_3333_4444;

/// The value that writing `value` with a width leaves in RDX.
fn merged(width: usize, value: u64) -> u64 {
    match width {
        0 => BEFORE & !0xffff | value & 0xffff,
        1 => value & 0xffff_ffff,
        _ => value,
    }
}

/// Runs `insn`, then HLT, with RDX = [`BEFORE`] (its low half outside 64-bit
/// mode); returns RDX.
fn rdx_after(g: &mut Guest, insn: Instruction) -> Result<u64, Failure> {
    g.asm(|a| {
        a.add_instruction(insn)?;
        a.hlt()
    })?;
    g.enter_kernel()?;
    g.set(|r| r.rdx = BEFORE)?;
    g.run_to_end()?;
    Ok(g.regs()?.rdx)
}

/// Compares as many bits as the mode's registers have.
fn expect_rdx(g: &Guest, code: Code, got: u64, want: u64) -> Result<(), Failure> {
    let mask = match g.mode {
        Mode::Long => u64::MAX,
        _ => 0xffff_ffff,
    };
    expect(&format!("{code:?}"), got & mask, want & mask)
}

fn store_selector_widths(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let sldt = [Code::Sldt_rm16, Code::Sldt_r32m16, Code::Sldt_r64m16];
    let str_ = [Code::Str_rm16, Code::Str_r32m16, Code::Str_r64m16];
    in_modes(hv, &[Mode::Prot32, Mode::Long, Mode::Compat], |g| {
        let bits = g.mode.bits();
        g.set_sregs(|s| s.ldt.selector = sel::SPARE2)?;
        for (codes, want) in [(sldt, sel::SPARE2), (str_, sel::TSS)] {
            for (width, code) in widths(g, codes) {
                let got = rdx_after(g, on(code, RDX[width])?)?;
                expect_rdx(g, code, got, merged(width, want.into()))?;
                g.write_u64(DATA, BEFORE);
                rdx_after(g, at(code, bits, DATA)?)?;
                // Memory takes 16 bits whatever the operand size.
                expect(
                    "in memory",
                    g.read_u64(DATA),
                    BEFORE & !0xffff | u64::from(want),
                )?;
            }
        }
        Ok(())
    })
}

fn load_selector_widths(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let lldt = [Code::Lldt_rm16, Code::Lldt_r32m16, Code::Lldt_r64m16];
    let ltr = [Code::Ltr_rm16, Code::Ltr_r32m16, Code::Ltr_r64m16];
    in_modes(hv, &[Mode::Prot32, Mode::Long, Mode::Compat], |g| {
        g.set_descriptor(sel::SPARE2, descriptor(DATA, 0xff, rights::LDT));
        g.set_descriptor(sel::SPARE2 + 8, 0);
        g.set_descriptor(sel::SPARE + 8, 0);
        for (codes, selector) in [(lldt, sel::SPARE2), (ltr, sel::SPARE)] {
            for (width, code) in widths(g, codes) {
                g.set_descriptor(sel::SPARE, descriptor(TSS, 0x67, rights::TSS));
                let insn = on(code, RAX[width])?;
                g.set_sregs(|s| (s.ldt.selector, s.tr.selector) = (0, sel::TSS))?;
                g.asm(|a| {
                    a.mov(eax, 0x7777_0000 | u32::from(selector))?;
                    a.add_instruction(insn)?;
                    a.hlt()
                })?;
                g.enter_kernel()?;
                g.run_to_end()?;
                let s = g.cpu.sregs()?;
                let loaded = match selector {
                    sel::SPARE => s.tr,
                    _ => s.ldt,
                };
                let want = if selector == sel::SPARE { TSS } else { DATA };
                let what = format!("{code:?}: selector, base");
                expect(&what, (loaded.selector, loaded.base), (selector, want))?;
            }
        }
        Ok(())
    })
}

fn inspect_with_every_width(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let lar = [
        Code::Lar_r16_rm16,
        Code::Lar_r32_r32m16,
        Code::Lar_r64_r64m16,
    ];
    let lsl = [
        Code::Lsl_r16_rm16,
        Code::Lsl_r32_r32m16,
        Code::Lsl_r64_r64m16,
    ];
    let verr = [Code::Verr_rm16, Code::Verr_r32m16, Code::Verr_r64m16];
    let verw = [Code::Verw_rm16, Code::Verw_r32m16, Code::Verw_r64m16];
    in_modes(hv, &[Mode::Prot32, Mode::Long, Mode::Compat], |g| {
        let read_only = (rights::DATA | attr::DB) & !attr::RW;
        g.set_descriptor(sel::SPARE, descriptor(0x1234, 0x5_6789, read_only));
        // Bits 16..=19 of what LAR gives are undefined.
        for (codes, want, undefined) in [(lar, 0x0040_9100, 0xf_0000), (lsl, 0x5_6789, 0)] {
            for (width, code) in widths(g, codes) {
                g.set(|r| r.rax = sel::SPARE.into())?;
                let insn = Instruction::with2(code, RDX[width], RAX[width])?;
                let got = rdx_after(g, insn)?;
                expect("ZF", g.regs()?.rflags >> 6 & 1, 1)?;
                let ignore = if width == 0 { 0 } else { undefined };
                expect_rdx(g, code, got & !ignore, merged(width, want) & !ignore)?;
            }
        }
        for (codes, zf) in [(verr, 1), (verw, 0)] {
            for (width, code) in widths(g, codes) {
                g.set(|r| r.rax = sel::SPARE.into())?;
                rdx_after(g, on(code, RAX[width])?)?;
                expect(&format!("{code:?}: ZF"), g.regs()?.rflags >> 6 & 1, zf)?;
            }
        }
        Ok(())
    })
}

fn arpl_raises_the_rpl(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let forms = [
        (Code::Arpl_rm16_r16, Register::CX, Register::DX),
        (Code::Arpl_r32m16_r32, Register::ECX, Register::EDX),
    ];
    in_modes(hv, &[Mode::Prot32, Mode::Pae, Mode::Compat], |g| {
        for (code, first, second) in forms {
            g.asm(|a| {
                a.mov(ecx, 0x28)?;
                a.mov(edx, 0x13)?;
                a.add_instruction(Instruction::with2(code, first, second)?)?;
                a.sete(bl)?;
                a.mov(edx, 0x12)?;
                a.add_instruction(Instruction::with2(code, first, second)?)?;
                a.sete(bh)?;
                a.hlt()
            })?;
            g.enter_kernel()?;
            g.run_to_end()?;
            let r = g.regs()?;
            expect("selector", r.rcx & 0xffff, 0x2b)?;
            expect("ZF when raised, when not", r.rbx & 0xffff, 0x0001)?;
        }
        let bits = g.mode.bits();
        g.write_uint(DATA, 4, 0xabcd_0028);
        g.asm(|a| {
            a.mov(edx, 3)?;
            let memory = absolute(bits, DATA);
            a.add_instruction(Instruction::with2(
                Code::Arpl_rm16_r16,
                memory,
                Register::DX,
            )?)?;
            a.hlt()
        })?;
        g.enter_kernel()?;
        g.run_to_end()?;
        expect("in memory", g.read_u32(DATA), 0xabcd_002b)
    })
}

fn selectors_are_undefined_in_real_mode(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Real)?;
    let codes: [&[u8]; 7] = [
        &[0x0f, 0x00, 0xc0], // sldt ax
        &[0x0f, 0x00, 0xc8], // str ax
        &[0x0f, 0x00, 0xd0], // lldt ax
        &[0x0f, 0x00, 0xe0], // verr ax
        &[0x0f, 0x02, 0xc0], // lar ax, ax
        &[0x0f, 0x03, 0xc0], // lsl ax, ax
        &[0x63, 0xc0],       // arpl ax, ax
    ];
    for code in codes {
        g.write(CODE, code);
        g.enter_kernel()?;
        g.run_to_exception()?.expect(6, None, 0)?;
    }
    Ok(())
}

fn smsw_widths(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let smsw = [Code::Smsw_rm16, Code::Smsw_r32m16, Code::Smsw_r64m16];
    in_modes(hv, &[Mode::Prot32, Mode::Long, Mode::Compat], |g| {
        let bits = g.mode.bits();
        let value = g.cpu.sregs()?.cr0;
        for (width, code) in widths(g, smsw) {
            let got = rdx_after(g, on(code, RDX[width])?)?;
            expect_rdx(g, code, got, merged(width, value))?;
            g.write_u64(DATA, BEFORE);
            rdx_after(g, at(code, bits, DATA)?)?;
            expect(
                "in memory",
                g.read_u64(DATA),
                BEFORE & !0xffff | value & 0xffff,
            )?;
        }
        Ok(())
    })
}

fn lmsw_sets_low_bits(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let lmsw = [Code::Lmsw_rm16, Code::Lmsw_r32m16, Code::Lmsw_r64m16];
    in_modes(hv, &[Mode::Prot32, Mode::Long, Mode::Compat], |g| {
        let before = g.cpu.sregs()?.cr0;
        for (width, code) in widths(g, lmsw) {
            g.set_sregs(|s| s.cr0 = before)?;
            let insn = on(code, RAX[width])?;
            g.asm(|a| {
                // TS and, beyond the low four bits, WP and others: all clear.
                a.mov(eax, cr0::TS as u32)?;
                a.add_instruction(insn)?;
                a.hlt()
            })?;
            g.enter_kernel()?;
            g.run_to_end()?;
            // PE cannot be cleared so.
            let want = before & !(cr0::MP | cr0::EM) | cr0::TS;
            expect(&format!("{code:?}: CR0"), g.cpu.sregs()?.cr0, want)?;
        }
        g.set_sregs(|s| s.cr0 = before)
    })
}
