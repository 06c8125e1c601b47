//! Repeated string instructions over several pages of plain memory, which
//! backends do in larger pieces (SDM vol 2, REP, MOVS, STOS).

use super::in_modes;
use crate::Hypervisor;
use crate::conformance::guest::{Guest, Mode};
use crate::conformance::layout::*;
use crate::conformance::{Failure, ensure, expect};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

group! { "strings":
    rep_movs_over_pages "SDM 2 REP, MOVS",
    rep_stos_over_pages "SDM 2 REP, STOS",
    rep_movs_onto_itself_repeats_its_start "SDM 2 REP, MOVS",
    rep_movs_backwards "SDM 2 MOVS, DF",
    rep_movs_backwards_onto_itself "SDM 2 MOVS, DF",
    rep_stos_backwards "SDM 2 STOS, DF",
    rep_movs_with_a_segment_base "SDM 2 MOVS",
    rep_with_short_addresses "SDM 2 REP, SDM 1 3.4.1.1",
    rep_in_user_mode "SDM 2 REP, MOVS",
    single_elements "SDM 2 MOVS, STOS, LODS",
    single_movs_that_faults "SDM 2 MOVS, SDM 3 6.5",
}

const PAGED: [Mode; 3] = [Mode::Paging32, Mode::Long, Mode::Compat];
/// Source and target; neither starts a page, and their offsets differ.
const FROM: u64 = USER_DATA + 0x123;
const TO: u64 = USER_DATA + 0x8_789;
/// Bytes moved: more than two pages.
const LEN: u64 = 0x2468;

fn pattern(i: u64) -> u8 {
    (i.wrapping_mul(2_654_435_761) >> 13) as u8
}

/// Fills the source with a pattern and clears the target's surroundings.
fn prepare(g: &Guest) {
    let source: Vec<u8> = (0..LEN).map(pattern).collect();
    g.write(FROM, &source);
    g.write(TO - 16, &[0; LEN as usize + 32]);
}

fn bytes(g: &Guest, at: u64, len: u64) -> Vec<u8> {
    let mut all = vec![0; len as usize];
    g.ram.read(at, &mut all);
    all
}

/// Compares the target and the bytes around it.
fn expect_target(g: &Guest, want: impl Fn(u64) -> u8) -> Result<(), Failure> {
    let got = bytes(g, TO, LEN);
    let wrong = (0..LEN).find(|&i| got[i as usize] != want(i));
    expect("first wrong byte", wrong, None)?;
    let around = (g.read_u64(TO - 8), g.read_u64(TO + LEN));
    expect("bytes around the target", around, (0, 0))
}

/// Runs one repeated instruction over [`LEN`] bytes of elements of `size`.
fn run(
    g: &mut Guest,
    size: u64,
    f: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Result<(), Failure> {
    prepare(g);
    g.asm(|a| {
        f(a)?;
        a.hlt()
    })?;
    g.enter_kernel()?;
    g.set(|r| {
        (r.rsi, r.rdi, r.rcx) = (FROM, TO, LEN / size);
        r.rax = 0x8877_6655_4433_2211;
    })?;
    g.run_to_end()
}

type Repeated = fn(&mut CodeAssembler) -> Result<(), IcedError>;

fn rep_movs_over_pages(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let widths: [(u64, Repeated); 4] = [
        (1, |a| a.rep().movsb()),
        (2, |a| a.rep().movsw()),
        (4, |a| a.rep().movsd()),
        (8, |a| a.rep().movsq()),
    ];
    in_modes(hv, &Mode::FLAT, |g| {
        for (size, f) in widths {
            if size == 8 && g.mode != Mode::Long {
                continue;
            }
            run(g, size, f)?;
            expect_target(g, pattern)?;
            let r = g.regs()?;
            let want = (FROM + LEN, TO + LEN, 0);
            expect("ESI, EDI, ECX", (r.rsi, r.rdi, r.rcx), want)?;
        }
        Ok(())
    })
}

fn rep_stos_over_pages(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let widths: [(u64, Repeated); 4] = [
        (1, |a| a.rep().stosb()),
        (2, |a| a.rep().stosw()),
        (4, |a| a.rep().stosd()),
        (8, |a| a.rep().stosq()),
    ];
    in_modes(hv, &Mode::FLAT, |g| {
        for (size, f) in widths {
            if size == 8 && g.mode != Mode::Long {
                continue;
            }
            run(g, size, f)?;
            expect_target(g, |i| 0x11 * (i % size + 1) as u8)?;
            let r = g.regs()?;
            let want = (FROM, TO + LEN, 0);
            expect("ESI, EDI, ECX", (r.rsi, r.rdi, r.rcx), want)?;
        }
        Ok(())
    })
}

fn rep_movs_onto_itself_repeats_its_start(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &Mode::FLAT, |g| {
        prepare(g);
        g.write(TO, &[0xa1, 0xa2, 0xa3, 0xa4]);
        g.asm(|a| {
            a.rep().movsd()?;
            a.hlt()
        })?;
        g.set(|r| (r.rsi, r.rdi, r.rcx) = (TO, TO + 4, LEN / 4 - 1))?;
        g.run_to_end()?;
        expect_target(g, |i| 0xa1 + (i % 4) as u8)
    })
}

fn rep_movs_backwards(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &Mode::FLAT, |g| {
        prepare(g);
        g.asm(|a| {
            a.std()?;
            a.rep().movsb()?;
            a.hlt()
        })?;
        let end = LEN - 1;
        g.set(|r| (r.rsi, r.rdi, r.rcx) = (FROM + end, TO + end, LEN))?;
        g.run_to_end()?;
        expect_target(g, pattern)?;
        let r = g.regs()?;
        expect("ESI, EDI", (r.rsi, r.rdi), (FROM - 1, TO - 1))
    })
}

/// Upwards, as kernels move themselves, each byte arrives; downwards, the last element
/// is repeated.
fn rep_movs_backwards_onto_itself(hv: &dyn Hypervisor) -> Result<(), Failure> {
    for by in [0x30, 4, 0, -4, -0x30] {
        in_modes(hv, &Mode::FLAT, |g| {
            prepare(g);
            g.asm(|a| {
                a.std()?;
                a.rep().movsd()?;
                a.hlt()
            })?;
            let (start, len) = (TO, LEN + 0x80);
            let mut want: Vec<u8> = (0..len).map(pattern).collect();
            g.write(start, &want);
            let first = LEN + 0x3d;
            let target = first.wrapping_add_signed(by);
            for back in (0..LEN).step_by(4) {
                let (from, to) = (first - back, target - back);
                want.copy_within(from as usize..from as usize + 4, to as usize);
            }
            let at = |offset| start + offset;
            g.set(|r| (r.rsi, r.rdi, r.rcx) = (at(first), at(target), LEN / 4))?;
            g.run_to_end()?;
            let got = bytes(g, start, len);
            let wrong = got.iter().zip(&want).position(|(got, want)| got != want);
            expect(&format!("first wrong byte, moved by {by}"), wrong, None)?;
            let r = g.regs()?;
            let end = (at(first - LEN), at(target - LEN), 0);
            expect("ESI, EDI, ECX", (r.rsi, r.rdi, r.rcx), end)
        })?;
    }
    Ok(())
}

fn rep_stos_backwards(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &Mode::FLAT, |g| {
        prepare(g);
        g.asm(|a| {
            a.std()?;
            a.rep().stosd()?;
            a.hlt()
        })?;
        let value: u32 = 0x4433_2211;
        g.set(|r| {
            (r.rdi, r.rcx) = (TO + LEN - 4, LEN / 4);
            r.rax = value.into();
        })?;
        g.run_to_end()?;
        expect_target(g, |i| value.to_le_bytes()[i as usize % 4])?;
        expect("EDI", g.regs()?.rdi, TO - 4)
    })
}

fn rep_movs_with_a_segment_base(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &Mode::FLAT, |g| {
        prepare(g);
        g.asm(|a| {
            a.db(&[0x65, 0xf3, 0xa4])?; // rep movsb es:[edi], gs:[esi]
            a.hlt()
        })?;
        g.set_sregs(|s| s.gs.base = 0x1000)?;
        g.set(|r| (r.rsi, r.rdi, r.rcx) = (FROM - 0x1000, TO, LEN))?;
        g.run_to_end()?;
        expect_target(g, pattern)
    })
}

fn rep_with_short_addresses(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // An address-size prefix: ESI, EDI and ECX in 64-bit mode, whose upper
    // halves the first iteration clears; SI, DI and CX elsewhere.
    let mut g = Guest::new(hv, Mode::Long)?;
    prepare(&g);
    g.asm(|a| {
        a.db(&[0x67, 0xf3, 0xa4])?;
        a.hlt()
    })?;
    let high = 0x7777_0000_0000_0000;
    g.set(|r| (r.rsi, r.rdi, r.rcx) = (high | FROM, high | TO, high | LEN))?;
    g.run_to_end()?;
    expect_target(&g, pattern)?;
    let r = g.regs()?;
    let want = (FROM + LEN, TO + LEN, 0);
    expect("RSI, RDI, RCX", (r.rsi, r.rdi, r.rcx), want)?;
    in_modes(hv, &[Mode::Prot32, Mode::Pae, Mode::Compat], |g| {
        // DI wraps at 64 KiB.
        g.write(0xfff0, &[0; 16]);
        g.write(0x0, &[0; 16]);
        g.asm(|a| {
            a.db(&[0x67, 0xf3, 0xaa])?; // rep stosb
            a.hlt()
        })?;
        g.set(|r| {
            (r.rdi, r.rcx) = (0x0005_fff8, 0x0003_0010);
            r.rax = 0x5a;
        })?;
        g.run_to_end()?;
        let r = g.regs()?;
        expect("EDI, ECX", (r.rdi, r.rcx), (0x0005_0008, 0x0003_0000))?;
        let stored = [bytes(g, 0xfff0, 16), bytes(g, 0, 16)].concat();
        let want = (0..32).map(|i| if (8..24).contains(&i) { 0x5a } else { 0 });
        ensure("stored bytes", stored.into_iter().eq(want))
    })
}

fn rep_in_user_mode(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &Mode::FLAT, |g| {
        prepare(g);
        let len = g.user_asm(|a| a.rep().movsb())?;
        g.enter_user()?;
        g.set(|r| (r.rsi, r.rdi, r.rcx) = (FROM, TO, LEN))?;
        g.run_to_exception()?.expect(6, None, USER_CODE + len)?;
        expect_target(g, pattern)
    })
}

/// Elements of each size, one after the other, upwards and downwards.
fn single_elements(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &PAGED, |g| {
        let long = g.mode == Mode::Long;
        let element = |a: &mut CodeAssembler, size| match size {
            1 => a.movsb().and_then(|()| a.stosb()).and_then(|()| a.lodsb()),
            2 => a.movsw().and_then(|()| a.stosw()).and_then(|()| a.lodsw()),
            4 => a.movsd().and_then(|()| a.stosd()).and_then(|()| a.lodsd()),
            _ => a.movsq().and_then(|()| a.stosq()).and_then(|()| a.lodsq()),
        };
        for size in [1_u64, 2, 4, 8].into_iter().take(if long { 4 } else { 3 }) {
            for down in [false, true] {
                prepare(g);
                g.asm(|a| {
                    a.mov(eax, 0x9876_5432_u32.cast_signed())?;
                    if down {
                        a.std()?;
                    }
                    a.cmp(eax, eax)?;
                    a.stc()?;
                    element(a, size)?;
                    a.setz(bl)?;
                    a.adc(bl, 0)?;
                    a.cld()?;
                    a.hlt()
                })?;
                let (from, to) = (FROM + 0x40, TO + 0x40);
                g.enter_kernel()?;
                g.set(|r| (r.rsi, r.rdi, r.rbx) = (from, to, 0))?;
                g.run_to_end()?;
                let by = if down { size.wrapping_neg() } else { size };
                let what = format!("size {size}, down {down}");
                let r = g.regs()?;
                let at = [1, 1, 2, 2].map(|n: u64| by.wrapping_mul(n));
                let pointers = (from.wrapping_add(at[2]), to.wrapping_add(at[3]));
                expect(&format!("SI, DI; {what}"), (r.rsi, r.rdi), pointers)?;
                let loaded = |at: u64| {
                    let bytes = (0..size).rev();
                    bytes.fold(0, |all, i| all << 8 | u64::from(pattern(at - FROM + i)))
                };
                let got = number(g, to, size);
                expect(&format!("moved; {what}"), got, loaded(from))?;
                let mask = u64::MAX >> (64 - 8 * size);
                let got = number(g, to.wrapping_add(at[0]), size);
                expect(&format!("stored; {what}"), got, 0x9876_5432 & mask)?;
                let kept = if size == 8 || size == 4 {
                    0
                } else {
                    0x9876_5432 & !mask
                };
                let want = kept | loaded(from.wrapping_add(at[1]));
                expect(&format!("loaded; {what}"), r.rax, want)?;
                expect(&format!("ZF and CF; {what}"), r.rbx, 2)?;
            }
        }
        Ok(())
    })
}

fn number(g: &Guest, at: u64, size: u64) -> u64 {
    let bytes = bytes(g, at, size);
    bytes
        .iter()
        .rev()
        .fold(0, |all, &b| all << 8 | u64::from(b))
}

/// Nothing has happened when the target's page is missing.
fn single_movs_that_faults(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &PAGED, |g| {
        g.map(SPARE, SPARE, 0);
        g.asm(|a| {
            a.cmp(eax, eax)?;
            a.movsd()?;
            a.hlt()
        })?;
        g.set(|r| (r.rsi, r.rdi) = (FROM, SPARE + 8))?;
        let frame = g.run_to_exception()?;
        let r = g.regs()?;
        expect("SI, DI", (r.rsi, r.rdi), (FROM, SPARE + 8))?;
        expect("CR2", g.cpu.sregs()?.cr2, SPARE + 8)?;
        frame.expect(14, Some(2), CODE + 2)
    })
}
