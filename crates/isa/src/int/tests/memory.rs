//! Effective addresses, segmentation, alignment, breakpoints, the stack and
//! branches, with expectations from the manual sections named.

use super::{READ_ONLY, SUSPENDS, UNMAPPED, World, cpu16, cpu32, cpu64, step};
use crate::env::Stop;
use crate::operand::{Ctx, Handled};
use iced_x86::{Decoder, DecoderOptions};
use x86::segment::attr;
use x86::{CpuState, Exception, Seg, cr0, flags, gpr};

const NEXT: Result<Handled, Stop> = Ok(Handled::Next);

fn fault(e: Exception) -> Result<Handled, Stop> {
    Err(Stop::Fault(e))
}

#[test]
fn effective_addresses_of_every_address_size() {
    let mut cpu = cpu64();
    cpu.gpr[gpr::RAX] = 0xffff_ffff_ffff_fff0;
    cpu.gpr[gpr::RBX] = 0x30;
    cpu.gpr[gpr::RSI] = 0xffff;
    // (bitness, LEA into rCX, expected)
    let cases: [(u32, &[u8], u64); 6] = [
        (64, &[0x48, 0x8d, 0x4c, 0x58, 0x08], 0x58), // [rax+rbx*2+8]
        (64, &[0x67, 0x48, 0x8d, 0x0c, 0x18], 0x20), // [eax+ebx]
        (64, &[0x48, 0x8d, 0x0d, 0xf9, 0xff, 0xff, 0xff], 0x1000), // [rip-7]
        (32, &[0x8d, 0x4c, 0x58, 0x08], 0x58),
        (16, &[0x8d, 0x48, 0x02], 0x31), // [bx+si+2], wraps at 64 KiB
        (16, &[0x67, 0x8d, 0x0c, 0x18], 0x20), // [eax+ebx], 16-bit operand
    ];
    for (bits, code, expected) in cases {
        let mut cpu = CpuState {
            gpr: cpu.gpr,
            ..match bits {
                64 => cpu64(),
                32 => cpu32(),
                _ => cpu16(),
            }
        };
        cpu.gpr[gpr::RCX] = 0;
        assert_eq!(step(&mut cpu, &mut World::new(), code), NEXT);
        assert_eq!(cpu.gpr[gpr::RCX], expected, "{bits} {code:x?}");
    }
}

#[test]
fn fs_and_gs_have_a_base_in_64_bit_mode_and_the_others_none() {
    let (mut cpu, mut w) = (cpu64(), World::new());
    cpu.seg_mut(Seg::Gs).base = 0x2000;
    cpu.seg_mut(Seg::Ds).base = 0x5000;
    w.put(0x2010, 8, 0x1122_3344_5566_7788);
    w.put(0x3000, 1, 0x99);
    // mov rax, gs:[0x10]
    let code = [0x65, 0x48, 0x8b, 0x04, 0x25, 0x10, 0, 0, 0];
    assert_eq!(step(&mut cpu, &mut w, &code), NEXT);
    assert_eq!(cpu.gpr[gpr::RAX], 0x1122_3344_5566_7788);
    // mov al, ds:[0x3000]: DS base ignored
    let code = [0x3e, 0x8a, 0x04, 0x25, 0, 0x30, 0, 0];
    assert_eq!(step(&mut cpu, &mut w, &code), NEXT);
    assert_eq!(cpu.gpr[gpr::RAX], 0x1122_3344_5566_7799);
}

/// SDM vol 3, 5.3: what `mov al, [ebx]` and `mov [ebx], al` do to DS.
#[test]
fn limits_and_types_are_checked_outside_64_bit_mode() {
    const D: u16 = attr::P | attr::S;
    let gp = fault(Exception::GP0);
    let cases = [
        // attr, limit, offset, read, write
        (D | attr::RW, 0x1fff, 0x1fff, NEXT, NEXT),
        (D | attr::RW, 0x1fff, 0x2000, gp, gp),
        (D, 0x1fff, 0x1000, NEXT, gp),                 // read-only data
        (D | attr::X | attr::RW, 0x1fff, 0, NEXT, gp), // readable code
        (D | attr::X, 0x1fff, 0, gp, gp),              // execute-only
        (0, 0xffff, 0, gp, gp),                        // null selector
        (D | attr::RW | attr::EC, 0x1fff, 0x1fff, gp, gp), // expand-down
        (D | attr::RW | attr::EC, 0x1fff, 0x2000, NEXT, NEXT),
        (D | attr::RW | attr::EC, 0x1fff, 0x1_0000, gp, gp), // 64 KiB top
        (
            D | attr::RW | attr::EC | attr::DB,
            0x1fff,
            0x1_0000,
            NEXT,
            NEXT,
        ),
    ];
    for (at, limit, offset, read, write) in cases {
        let (mut cpu, mut w) = (cpu32(), World::new());
        *cpu.seg_mut(Seg::Ds) = x86::Segment {
            base: 0x1_0000,
            limit,
            selector: 0x10,
            attr: at,
        };
        cpu.gpr[gpr::RBX] = offset;
        assert_eq!(
            step(&mut cpu, &mut w, &[0x8a, 0x03]),
            read,
            "{at:x} {offset:x}"
        );
        assert_eq!(
            step(&mut cpu, &mut w, &[0x88, 0x03]),
            write,
            "{at:x} {offset:x}"
        );
    }
}

#[test]
fn the_whole_operand_must_fit_the_limit() {
    let (mut cpu, mut w) = (cpu16(), World::new());
    cpu.gpr[gpr::RBX] = 0xffff;
    assert_eq!(step(&mut cpu, &mut w, &[0x8b, 0x07]), fault(Exception::GP0));
    cpu.gpr[gpr::RBP] = 0xffff; // mov ax, [bp]: the stack segment
    assert_eq!(
        step(&mut cpu, &mut w, &[0x8b, 0x46, 0]),
        fault(Exception::SS0)
    );
}

#[test]
fn addresses_must_be_canonical() {
    let (mut cpu, mut w) = (cpu64(), World::new());
    for (addr, code, expected) in [
        (0x8000_0000_0000, [0x8a, 0x03], fault(Exception::GP0)), // [rbx]
        (0x7fff_ffff_ffff, [0x8b, 0x03], fault(Exception::GP0)), // last byte out
        (0x8000_0000_0000, [0x8a, 0x04], fault(Exception::SS0)), // [rsp]
    ] {
        cpu.gpr[gpr::RBX] = addr;
        cpu.gpr[gpr::RSP] = addr;
        assert_eq!(step(&mut cpu, &mut w, &[code[0], code[1], 0x24]), expected);
    }
}

#[test]
fn alignment_check_needs_am_ac_and_cpl_3_and_precedes_a_page_fault() {
    let (mut cpu, mut w) = (cpu32(), World::new());
    cpu.gpr[gpr::RBX] = 0x2001;
    cpu.cr0 |= cr0::AM;
    cpu.rflags |= flags::AC;
    let load = [0x8b, 0x03];
    assert_eq!(step(&mut cpu, &mut w, &load), NEXT);
    cpu.seg_mut(Seg::Ss).attr |= attr::DPL;
    assert_eq!(step(&mut cpu, &mut w, &load), fault(Exception::AC));
    assert_eq!(step(&mut cpu, &mut w, &[0x8a, 0x03]), NEXT); // a byte
    cpu.gpr[gpr::RBX] = UNMAPPED + 1;
    assert_eq!(step(&mut cpu, &mut w, &load), fault(Exception::AC));
}

/// SDM vol 3, 17.2.5: a breakpoint covers 1, 2, 4 or 8 aligned bytes.
#[test]
fn data_breakpoints_are_collected() {
    let hits = |dr7: u64, addr: u64, code: &[u8]| {
        let (mut cpu, mut w) = (cpu64(), World::new());
        cpu.dr[1] = 0x2004;
        cpu.dr[7] = dr7;
        cpu.gpr[gpr::RBX] = addr;
        let insn = Decoder::with_ip(64, code, cpu.rip, DecoderOptions::NONE).decode();
        let mut ctx = Ctx::new(&mut cpu, &mut w, &insn);
        assert_eq!(crate::int::execute(&mut ctx), NEXT);
        ctx.db_hits
    };
    let (load, store): (&[u8], &[u8]) = (&[0x8b, 0x03], &[0x89, 0x03]);
    let write4 = 1 << 2 | 1 << 20 | 3 << 22; // L1, R/W1 = 01, LEN1 = 11
    let any4 = 1 << 2 | 3 << 20 | 3 << 22;
    assert_eq!(hits(write4, 0x2004, store), 2);
    assert_eq!(hits(write4, 0x2004, load), 0);
    assert_eq!(hits(any4, 0x2007, load), 2);
    assert_eq!(hits(any4, 0x2001, load), 2);
    assert_eq!(hits(any4, 0x2000, load), 0);
    assert_eq!(hits(any4, 0x2008, load), 0);
    assert_eq!(hits(any4 & !(1 << 2), 0x2004, load), 0);
}

#[test]
fn faulting_writes_change_nothing() {
    let stores: [&[u8]; 6] = [
        &[0x01, 0x03],             // add [rbx], eax
        &[0xf0, 0x0f, 0xc1, 0x03], // lock xadd [rbx], eax
        &[0x87, 0x03],             // xchg [rbx], eax
        &[0x8f, 0x03],             // pop [rbx]
        &[0xc1, 0x23, 4],          // shl dword [rbx], 4
        &[0x0f, 0xc7, 0x0b],       // cmpxchg8b [rbx]
    ];
    for (page, stop) in [
        (READ_ONLY, Stop::Fault(Exception::pf(READ_ONLY, 2))),
        (SUSPENDS, Stop::Suspend),
    ] {
        for code in stores {
            let (mut cpu, mut w) = (cpu64(), World::new());
            cpu.gpr[gpr::RBX] = page;
            cpu.gpr[gpr::RAX] = 0x1234;
            let before = cpu.clone();
            assert_eq!(step(&mut cpu, &mut w, code), Err(stop), "{code:x?}");
            assert!(cpu == before, "{code:x?}");
        }
    }
}

/// SDM vol 2, PUSH and POP: RSP as source, destination and base.
#[test]
fn push_and_pop_of_the_stack_pointer() {
    let (mut cpu, mut w) = (cpu64(), World::new());
    step(&mut cpu, &mut w, &[0x54]).expect("push rsp");
    assert_eq!((cpu.gpr[gpr::RSP], w.get(0x6ff8, 8)), (0x6ff8, 0x7000));
    w.put(0x6ff8, 8, 0x4000);
    step(&mut cpu, &mut w, &[0x5c]).expect("pop rsp");
    assert_eq!(cpu.gpr[gpr::RSP], 0x4000);
    w.put(0x4000, 8, 0x77);
    step(&mut cpu, &mut w, &[0x8f, 0x44, 0x24, 8]).expect("pop [rsp+8]");
    assert_eq!((cpu.gpr[gpr::RSP], w.get(0x4010, 8)), (0x4008, 0x77));
}

#[test]
fn the_stack_is_as_wide_as_ss_says() {
    let (mut cpu, mut w) = (cpu32(), World::new());
    cpu.seg_mut(Seg::Ss).attr &= !attr::DB;
    cpu.gpr[gpr::RSP] = 0x1234_0002;
    cpu.gpr[gpr::RAX] = 0xdead_beef;
    // The push wraps to 0xfffe, which a 4-byte write overruns only at the
    // segment limit, here 4 GiB.
    step(&mut cpu, &mut w, &[0x50]).expect("push eax");
    assert_eq!(cpu.gpr[gpr::RSP], 0x1234_fffe);
    assert_eq!(w.get(0xfffe, 4), 0xdead_beef);
}

#[test]
fn pusha_and_popa_skip_sp() {
    let (mut cpu, mut w) = (cpu32(), World::new());
    for n in 0..8 {
        cpu.gpr[n] = if n == gpr::RSP {
            0x7000
        } else {
            0x100 + n as u64
        };
    }
    step(&mut cpu, &mut w, &[0x60]).expect("pushad");
    assert_eq!(cpu.gpr[gpr::RSP], 0x6fe0);
    let stored: Vec<u64> = (0..8).map(|i| w.get(0x6fe0 + 4 * i, 4)).collect();
    let expected = [0x107, 0x106, 0x105, 0x7000, 0x103, 0x102, 0x101, 0x100];
    assert_eq!(stored, expected);
    let before = cpu.gpr;
    cpu.gpr = [0; 16];
    cpu.gpr[gpr::RSP] = before[gpr::RSP];
    step(&mut cpu, &mut w, &[0x61]).expect("popad");
    assert_eq!(cpu.gpr[gpr::RSP], 0x7000);
    assert_eq!((cpu.gpr[gpr::RDI], cpu.gpr[gpr::RAX]), (0x107, 0x100));
}

/// SDM vol 1, figure 6-9 ff.: ENTER with nesting copies the display.
#[test]
fn enter_and_leave() {
    let (mut cpu, mut w) = (cpu32(), World::new());
    cpu.gpr[gpr::RBP] = 0x6f00;
    w.put(0x6efc, 4, 0xaaaa);
    step(&mut cpu, &mut w, &[0xc8, 0x10, 0, 2]).expect("enter 16, 2");
    assert_eq!(cpu.gpr[gpr::RBP], 0x6ffc);
    assert_eq!(cpu.gpr[gpr::RSP], 0x7000 - 12 - 16);
    assert_eq!(w.get(0x6ffc, 4), 0x6f00);
    assert_eq!(w.get(0x6ff8, 4), 0xaaaa);
    assert_eq!(w.get(0x6ff4, 4), 0x6ffc);
    step(&mut cpu, &mut w, &[0xc9]).expect("leave");
    assert_eq!((cpu.gpr[gpr::RSP], cpu.gpr[gpr::RBP]), (0x7000, 0x6f00));
}

#[test]
fn branches_truncate_and_check_their_target() {
    let (mut cpu, mut w) = (cpu64(), World::new());
    assert_eq!(
        step(&mut cpu, &mut w, &[0xe8, 0x10, 0, 0, 0]),
        Ok(Handled::Jump)
    );
    assert_eq!((cpu.rip, w.get(0x6ff8, 8)), (0x1015, 0x1005));
    assert_eq!(step(&mut cpu, &mut w, &[0xc2, 8, 0]), Ok(Handled::Jump));
    assert_eq!((cpu.rip, cpu.gpr[gpr::RSP]), (0x1005, 0x7008));
    cpu.gpr[gpr::RAX] = 1 << 47;
    let before = cpu.clone();
    assert_eq!(step(&mut cpu, &mut w, &[0xff, 0xd0]), fault(Exception::GP0));
    assert!(cpu == before);
    // A 16-bit operand size clears the upper half of EIP.
    let mut cpu = cpu32();
    cpu.rip = 0x1_2000;
    assert_eq!(
        step(&mut cpu, &mut w, &[0x66, 0xeb, 0x10]),
        Ok(Handled::Jump)
    );
    assert_eq!(cpu.rip, 0x2013);
    cpu.seg_mut(Seg::Cs).limit = 0x2020;
    assert_eq!(step(&mut cpu, &mut w, &[0xeb, 0x10]), fault(Exception::GP0));
}

#[test]
fn loops_count_in_the_address_size() {
    let (mut cpu, mut w) = (cpu64(), World::new());
    cpu.gpr[gpr::RCX] = 0xffff_ffff_0000_0001;
    assert_eq!(step(&mut cpu, &mut w, &[0x67, 0xe2, 0x10]), NEXT);
    assert_eq!(cpu.gpr[gpr::RCX], 0);
    assert_eq!(step(&mut cpu, &mut w, &[0xe3, 0x10]), Ok(Handled::Jump)); // jrcxz
    cpu.rflags |= flags::ZF;
    assert_eq!(step(&mut cpu, &mut w, &[0xe0, 0x10]), NEXT); // loopne
    assert_eq!(cpu.gpr[gpr::RCX], u64::MAX);
    assert_eq!(step(&mut cpu, &mut w, &[0xe1, 0x10]), Ok(Handled::Jump)); // loope
}

#[test]
fn bit_offsets_reach_beyond_the_operand() {
    let (mut cpu, mut w) = (cpu64(), World::new());
    cpu.gpr[gpr::RBX] = 0x2000;
    cpu.gpr[gpr::RAX] = (-35i64) as u64;
    step(&mut cpu, &mut w, &[0xf0, 0x0f, 0xab, 0x03]).expect("lock bts [rbx], eax");
    assert_eq!(w.get(0x1ff8, 4), 1 << 29);
    assert_eq!(cpu.rflags & flags::CF, 0);
    step(&mut cpu, &mut w, &[0x48, 0x0f, 0xa3, 0x03]).expect("bt [rbx], rax");
    assert_eq!(cpu.rflags & flags::CF, flags::CF);
    step(&mut cpu, &mut w, &[0x0f, 0xba, 0x3b, 0x2d]).expect("btc dword [rbx], 45");
    assert_eq!(w.get(0x2000, 4), 1 << 13);
}

#[test]
fn compare_and_exchange_pairs() {
    let (mut cpu, mut w) = (cpu64(), World::new());
    cpu.gpr[gpr::RSI] = 0x2000;
    w.put(0x2000, 8, 0x0000_0002_0000_0001);
    cpu.gpr[gpr::RAX] = 1;
    cpu.gpr[gpr::RDX] = 2;
    cpu.gpr[gpr::RBX] = 0x33;
    cpu.gpr[gpr::RCX] = 0x44;
    let cmpxchg8b = [0xf0, 0x0f, 0xc7, 0x0e];
    step(&mut cpu, &mut w, &cmpxchg8b).expect("equal");
    assert_eq!(w.get(0x2000, 8), 0x0000_0044_0000_0033);
    assert_eq!(cpu.rflags & flags::ZF, flags::ZF);
    step(&mut cpu, &mut w, &cmpxchg8b).expect("different");
    assert_eq!(cpu.rflags & flags::ZF, 0);
    assert_eq!((cpu.gpr[gpr::RAX], cpu.gpr[gpr::RDX]), (0x33, 0x44));
    cpu.gpr[gpr::RSI] = 0x2008;
    let cmpxchg16b = [0x48, 0x0f, 0xc7, 0x0e];
    let gp = fault(Exception::GP0);
    assert_eq!(step(&mut cpu, &mut w, &cmpxchg16b), gp);
    cpu.gpr[gpr::RSI] = 0x2000;
    step(&mut cpu, &mut w, &cmpxchg16b).expect("aligned");
    assert_eq!(cpu.gpr[gpr::RAX], 0x0000_0044_0000_0033);
}

#[test]
fn a_missing_feature_is_an_invalid_opcode_or_its_old_meaning() {
    use iced_x86::CpuidFeature as F;
    let (mut cpu, mut w) = (cpu64(), World::new());
    w.hidden = vec![F::POPCNT, F::LZCNT, F::BMI1, F::MOVBE, F::RDRAND];
    cpu.gpr[gpr::RBX] = 0x10;
    let ud = fault(Exception::UD);
    assert_eq!(step(&mut cpu, &mut w, &[0xf3, 0x0f, 0xb8, 0xc3]), ud); // popcnt
    assert_eq!(step(&mut cpu, &mut w, &[0x0f, 0x38, 0xf0, 0x03]), ud); // movbe
    assert_eq!(step(&mut cpu, &mut w, &[0x0f, 0xc7, 0xf0]), ud); // rdrand
    assert_eq!(step(&mut cpu, &mut w, &[0xf3, 0x0f, 0xbd, 0xc3]), NEXT); // lzcnt
    assert_eq!(cpu.gpr[gpr::RAX], 4); // as BSR
}

/// SDM vol 2, DAA/DAS/AAA/AAS examples and AAM/AAD.
#[test]
fn decimal_adjustment() {
    let run = |code: &[u8], ax: u64, f: u64| {
        let (mut cpu, mut w) = (cpu32(), World::new());
        cpu.gpr[gpr::RAX] = ax;
        cpu.rflags |= f;
        let done = step(&mut cpu, &mut w, code);
        done.map(|_| (cpu.gpr[gpr::RAX], cpu.rflags & (flags::CF | flags::AF)))
    };
    let both = flags::CF | flags::AF;
    assert_eq!(run(&[0x27], 0xae, 0), Ok((0x14, both))); // DAA of 79H + 35H
    assert_eq!(run(&[0x2f], 0xee, flags::AF | flags::CF), Ok((0x88, both)));
    assert_eq!(run(&[0x37], 0x0f, 0), Ok((0x105, both))); // AAA
    assert_eq!(run(&[0x3f], 0x2ff, 0), Ok((0x109, both))); // AAS
    assert_eq!(run(&[0xd4, 10], 0x3f, 0), Ok((0x603, 0))); // AAM
    assert_eq!(run(&[0xd5, 10], 0x603, 0), Ok((0x3f, 0))); // AAD
    assert_eq!(run(&[0xd4, 0], 0x3f, 0), Err(Stop::Fault(Exception::DE)));
}

#[test]
fn bound_is_signed_and_inclusive() {
    let (mut cpu, mut w) = (cpu32(), World::new());
    cpu.gpr[gpr::RBX] = 0x2000;
    w.put(0x2000, 4, 0xffff_fffe);
    w.put(0x2004, 4, 5);
    for (index, expected) in [
        (0xffff_fffe, NEXT),
        (5, NEXT),
        (6, fault(Exception::BR)),
        (0xffff_fffd, fault(Exception::BR)),
    ] {
        cpu.gpr[gpr::RAX] = index;
        assert_eq!(step(&mut cpu, &mut w, &[0x62, 0x03]), expected, "{index:x}");
    }
}

#[test]
fn xlat_adds_al_to_the_base() {
    let (mut cpu, mut w) = (cpu64(), World::new());
    cpu.gpr[gpr::RBX] = 0x2000;
    cpu.gpr[gpr::RAX] = 0xff10;
    w.put(0x2010, 1, 0x5a);
    step(&mut cpu, &mut w, &[0xd7]).expect("xlat");
    assert_eq!(cpu.gpr[gpr::RAX], 0xff5a);
    let mut cpu = cpu32();
    cpu.gpr[gpr::RBX] = 0xffff_ffff;
    cpu.gpr[gpr::RAX] = 0x11;
    step(&mut cpu, &mut w, &[0xd7]).expect("xlat wraps at 4 GiB");
}

/// Measured on the Intel processor of `hardware.txt`: OF, which the SDM leaves
/// undefined for counts above 1, is computed from memory and kept for registers.
#[test]
fn rotates_of_memory_compute_of_rotates_of_registers_keep_it() {
    for (code, value, of) in [
        (&[0xc1, 0x0b, 5][..], 0u64, false), // ror dword [rbx], 5
        (&[0xc1, 0x0b, 5], 1, true),
        (&[0xc1, 0x03, 5], 0x4000_0000, true), // rol dword [rbx], 5
        (&[0xc1, 0xc9, 5], 0, true),           // ror ecx, 5
        (&[0xd3, 0xc8], 0, false),             // ror eax, cl
    ] {
        let (mut cpu, mut w) = (cpu64(), World::new());
        cpu.gpr[gpr::RBX] = 0x2000;
        cpu.gpr[gpr::RCX] = 5;
        w.mem[0x2000..0x2008].copy_from_slice(&value.to_le_bytes());
        cpu.rflags |= x86::flags::OF;
        step(&mut cpu, &mut w, code).unwrap();
        let got = cpu.rflags & x86::flags::OF != 0;
        assert_eq!(got, of, "{code:x?} of {value:#x}");
    }
}
