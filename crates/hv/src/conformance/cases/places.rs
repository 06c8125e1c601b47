//! Where operands are: in the second byte of a register, in two pages that are no neighbours in memory, and in pages
//! of which there are more than a cache of translations has places for.

use super::in_modes;
use super::tlb::reload_cr3;
use crate::Hypervisor;
use crate::conformance::guest::{Guest, Mode};
use crate::conformance::layout::*;
use crate::conformance::{Failure, expect};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use x86::paging::pte;

group! { "places":
    high_bytes_and_memory "SDM 1 3.4.1.1",
    atomics_of_user_code "SDM 2 XCHG, LOCK",
    read_from_two_pages "SDM 3 4.1",
    read_of_a_vector_from_two_pages "SDM 3 4.1",
    write_to_two_pages "SDM 3 4.1",
    change_in_two_pages "SDM 3 4.1",
    stack_in_two_pages "SDM 3 4.1",
    stack_in_the_first_pages "SDM 1 6.2.1",
    stack_after_a_read_only_page "SDM 3 4.6",
    aligned_operand_at_the_edge "SDM 2 MOVAPS",
    pages_a_stride_apart "SDM 3 4.10.2",
    invlpg_of_pages_a_stride_apart "SDM 3 4.10.4.1",
    cr3_write_with_pages_a_stride_apart "SDM 3 4.10.4.1",
    code_changed_through_pages_a_stride_apart "SDM 3 8.1.3",
    read_only_page_a_stride_apart "SDM 3 4.6",
}

const PAGED: [Mode; 4] = [Mode::Paging32, Mode::Pae, Mode::Long, Mode::Compat];
const RW: u64 = pte::P | pte::RW;
/// Linear address at which two pages meet.
const EDGE: u64 = 0x4000_1000;
/// What is mapped below and above it: neither is the other's neighbour.
const BELOW: u64 = USER_DATA + 0x5000;
const ABOVE: u64 = USER_DATA + 0x2000;

/// The 128 bytes around the edge, which is at the middle.
struct Around([u8; 128]);

const HALF: u64 = 64;

impl Around {
    /// A pattern, written to both pages, which get mapped.
    fn prepare(g: &mut Guest) -> Result<Self, Failure> {
        let around = Self(std::array::from_fn(|i| (i * 37 + 11) as u8));
        g.map(EDGE - 0x1000, BELOW, RW);
        g.map(EDGE, ABOVE, RW);
        let (below, above) = around.0.split_at(HALF as usize);
        g.write(BELOW + 0x1000 - HALF, below);
        g.write(ABOVE, above);
        g.flush_tlb()?;
        Ok(around)
    }

    /// What both pages hold.
    fn read(g: &Guest) -> Self {
        let mut all = [0; 128];
        let (below, above) = all.split_at_mut(HALF as usize);
        g.ram.read(BELOW + 0x1000 - HALF, below);
        g.ram.read(ABOVE, above);
        Self(all)
    }

    /// `n` bytes at `by` from the edge, as a number.
    fn number(&self, by: i64, n: usize) -> u64 {
        let start = (HALF as i64 + by) as usize;
        let bytes = self.0[start..start + n].iter().rev();
        bytes.fold(0, |all, &b| all << 8 | u64::from(b))
    }

    fn set(&mut self, by: i64, bytes: &[u8]) {
        let start = (HALF as i64 + by) as usize;
        self.0[start..start + bytes.len()].copy_from_slice(bytes);
    }

    fn expect(&self, g: &Guest) -> Result<(), Failure> {
        let got = Self::read(g);
        let wrong = (0..128).find(|&i| got.0[i] != self.0[i]);
        expect("first wrong byte", wrong, None)
    }
}

/// An address at `by` from the edge.
fn edge(by: i32) -> u32 {
    EDGE.wrapping_add_signed(by.into()) as u32
}

fn high_bytes_and_memory(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &PAGED, |g| {
        g.write(DATA, &[0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88]);
        g.asm(|a| {
            let at = |by: u32| byte_ptr(DATA as u32 + by);
            a.mov(at(0), ah)?;
            a.add(at(1), ch)?;
            a.add(dh, at(2))?;
            a.cmp(at(3), bh)?;
            a.setb(at(7))?;
            a.xchg(at(4), ah)?;
            a.mov(ebx, DATA as u32 + 5)?;
            a.mov(ch, byte_ptr(ebx))?;
            a.mov(bh, byte_ptr(ebx + 1))?;
            a.hlt()
        })?;
        g.set(|r| {
            (r.rax, r.rcx) = (0xa1a2_a3a4, 0xc1c2_c3c4);
            (r.rdx, r.rbx) = (0xd1d2_d3d4, 0xb1b2_b3b4);
        })?;
        g.run_to_end()?;
        let bytes = [0xa3, 0x22 + 0xc3, 0x33, 0x44, 0xa3, 0x66, 0x77, 1];
        expect("bytes", g.read_u64(DATA), u64::from_le_bytes(bytes))?;
        let r = g.regs()?;
        expect("EAX, ECX", (r.rax, r.rcx), (0xa1a2_55a4, 0xc1c2_66c4))?;
        let base = (DATA + 5) & !0xff00 | 0x7700;
        expect("EDX, EBX", (r.rdx, r.rbx), (0xd1d2_06d4, base))
    })
}

fn atomics_of_user_code(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut g = Guest::new(hv, Mode::Long)?;
    g.user_asm(|a| {
        let at = |by: u64| qword_ptr(rbx + by);
        a.xchg(at(0), rax)?;
        a.xchg(at(8), r9)?;
        a.xchg(dword_ptr(rbx + 16), ecx)?;
        a.xchg(dword_ptr(rbx + 20), r10d)?;
        a.xchg(word_ptr(rbx + 24), dx)?;
        a.lock().xadd(at(32), rsi)?;
        a.lock().or(at(32), 0)?;
        a.lock().inc(at(40))?;
        a.lock().bts(at(48), 3)?;
        a.lock().add(at(56), r11)?;
        a.xchg(at(64), rbx)?;
        a.ud2()
    })?;
    for round in 0..3 {
        let cells: [u64; 9] = std::array::from_fn(|i| 0x0101_0101_0101_0101 * (i as u64 + 1));
        for (i, cell) in cells.into_iter().enumerate() {
            g.write_u64(USER_DATA + 8 * i as u64, cell);
        }
        g.enter_user()?;
        let wide = |n: u64| n << 56 | 0xfeed << 32 | n | round;
        g.set(|r| {
            (r.rbx, r.rax, r.r9, r.rcx, r.r10) = (USER_DATA, wide(1), wide(2), wide(3), wide(4));
            (r.rdx, r.rsi, r.r11) = (wide(5), wide(6), wide(7));
        })?;
        let frame = g.run_to_exception()?;
        expect("vector", frame.vector, 6)?;
        let r = g.regs()?;
        let low = |v: u64| v & 0xffff_ffff;
        expect(
            "RAX, R9, RBX",
            (r.rax, r.r9, r.rbx),
            (cells[0], cells[1], cells[8]),
        )?;
        expect("RCX, R10", (r.rcx, r.r10), (low(cells[2]), cells[2] >> 32))?;
        expect("RDX", r.rdx, wide(5) & !0xffff | cells[3] & 0xffff)?;
        expect("RSI", r.rsi, cells[4])?;
        let want = [
            wide(1),
            wide(2),
            low(wide(4)) << 32 | low(wide(3)),
            cells[3] & !0xffff | wide(5) & 0xffff,
            cells[4].wrapping_add(wide(6)),
            cells[5] + 1,
            cells[6] | 1 << 3,
            cells[7].wrapping_add(wide(7)),
            USER_DATA,
        ];
        let got: [u64; 9] = std::array::from_fn(|i| g.read_u64(USER_DATA + 8 * i as u64));
        expect("cells", got, want)?;
    }
    Ok(())
}

fn read_from_two_pages(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &PAGED, |g| {
        let around = Around::prepare(g)?;
        g.asm(|a| {
            a.mov(ebx, dword_ptr(edge(-1)))?;
            a.mov(ecx, dword_ptr(edge(-3)))?;
            a.movzx(edx, word_ptr(edge(-1)))?;
            a.mov(eax, 5)?;
            a.imul_2(eax, dword_ptr(edge(-2)))?;
            a.hlt()
        })?;
        g.run_to_end()?;
        let r = g.regs()?;
        let loaded = (around.number(-1, 4), around.number(-3, 4));
        expect("EBX, ECX", (r.rbx, r.rcx), loaded)?;
        let product = around.number(-2, 4).wrapping_mul(5) & 0xffff_ffff;
        expect("EDX, EAX", (r.rdx, r.rax), (around.number(-1, 2), product))
    })
}

fn read_of_a_vector_from_two_pages(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &PAGED, |g| {
        let around = Around::prepare(g)?;
        g.asm(|a| {
            a.movdqu(xmm1, xmmword_ptr(edge(-13)))?;
            a.movdqu(xmmword_ptr(DATA as u32), xmm1)?;
            a.movdqu(xmm2, xmmword_ptr(edge(-2)))?;
            a.movdqu(xmmword_ptr(DATA as u32 + 16), xmm2)?;
            a.hlt()
        })?;
        g.run_to_end()?;
        let got = [0, 8, 16, 24].map(|at| g.read_u64(DATA + at));
        expect(
            "halves",
            got,
            [-13, -5, -2, 6].map(|by| around.number(by, 8)),
        )
    })
}

fn write_to_two_pages(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &PAGED, |g| {
        let mut around = Around::prepare(g)?;
        g.asm(|a| {
            a.movdqu(xmm1, xmmword_ptr(edge(20)))?;
            a.movdqu(xmmword_ptr(edge(-13)), xmm1)?;
            a.mov(dword_ptr(edge(-3)), 0x1122_3344)?;
            a.mov(word_ptr(edge(-1)), 0x5566)?;
            a.hlt()
        })?;
        g.run_to_end()?;
        let vector: Vec<u8> = around.0[84..100].to_vec();
        around.set(-13, &vector);
        around.set(-3, &[0x44, 0x33, 0x66, 0x55]);
        around.expect(g)
    })
}

fn change_in_two_pages(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &PAGED, |g| {
        let mut around = Around::prepare(g)?;
        g.asm(|a| {
            a.add(dword_ptr(edge(-2)), 0x0102_0304)?;
            a.mov(ebx, 0x1234_5678)?;
            a.xadd(dword_ptr(edge(9)), ebx)?;
            a.mov(ecx, 0x0bad_cafe)?;
            a.xchg(dword_ptr(edge(-3)), ecx)?;
            a.hlt()
        })?;
        g.run_to_end()?;
        let sum = (around.number(-2, 4) as u32).wrapping_add(0x0102_0304);
        around.set(-2, &sum.to_le_bytes());
        let old = around.number(9, 4) as u32;
        around.set(9, &old.wrapping_add(0x1234_5678).to_le_bytes());
        let swapped = around.number(-3, 4);
        around.set(-3, &0x0bad_cafe_u32.to_le_bytes());
        let r = g.regs()?;
        expect("EBX, ECX", (r.rbx, r.rcx), (old.into(), swapped))?;
        around.expect(g)
    })
}

fn stack_in_two_pages(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &PAGED, |g| {
        let mut around = Around::prepare(g)?;
        let word = if g.mode == Mode::Long { 8 } else { 4 };
        let top = edge(word - 1);
        g.asm(|a| {
            a.mov(edx, esp)?;
            a.mov(esp, top)?;
            match a.bitness() {
                64 => {
                    a.push(rax)?;
                    a.pop(rbx)?;
                }
                _ => {
                    a.push(eax)?;
                    a.pop(ebx)?;
                }
            }
            a.mov(ecx, esp)?;
            a.mov(esp, edx)?;
            a.hlt()
        })?;
        g.set(|r| r.rax = 0x1122_3344)?;
        g.run_to_end()?;
        let r = g.regs()?;
        expect("popped, ESP", (r.rbx, r.rcx), (0x1122_3344, top.into()))?;
        around.set(-1, &0x1122_3344_u64.to_le_bytes()[..word as usize]);
        around.expect(g)
    })
}

fn stack_in_the_first_pages(hv: &dyn Hypervisor) -> Result<(), Failure> {
    const TOP: u64 = 0x700;
    in_modes(hv, &PAGED, |g| {
        let old = g.read_u64(TOP - 8);
        g.asm(|a| {
            a.mov(edx, esp)?;
            a.mov(esp, TOP as u32)?;
            a.push(0x1234_5678)?;
            match a.bitness() {
                64 => a.pop(rbx)?,
                _ => a.pop(ebx)?,
            }
            a.mov(esp, edx)?;
            a.hlt()
        })?;
        g.run_to_end()?;
        expect("popped", g.regs()?.rbx, 0x1234_5678)?;
        let word = if g.mode == Mode::Long { 8 } else { 4 };
        expect("pushed", g.read_uint(TOP - word, 4), 0x1234_5678)?;
        g.write_u64(TOP - 8, old);
        Ok(())
    })
}

/// What nobody may write to is read by the stack; then the stack is elsewhere, in pages
/// whose addresses are nearly 0.
fn stack_after_a_read_only_page(hv: &dyn Hypervisor) -> Result<(), Failure> {
    const ROUNDS: u32 = 4;
    const INSIDE: u64 = 0x800;
    for (read_only, stack) in [(EDGE + 0x1000, 0), (EDGE - 0x1000, 0x1000)] {
        in_modes(hv, &PAGED, |g| {
            g.map(read_only, BELOW, pte::P);
            g.write(BELOW, &[0x77; 0x1000]);
            g.flush_tlb()?;
            g.asm(|a| {
                let mut top = a.create_label();
                a.mov(ecx, ROUNDS)?;
                a.set_label(&mut top)?;
                a.mov(esp, (read_only + INSIDE) as u32)?;
                if a.bitness() == 64 {
                    a.pop(rbx)?;
                } else {
                    a.pop(ebx)?;
                }
                a.dec(ecx)?;
                a.jne(top)?;
                a.mov(esp, (stack + INSIDE) as u32)?;
                a.push(0x1234_5678)?;
                a.hlt()
            })?;
            g.run_to_end()?;
            expect("popped", g.regs()?.rbx & 0xffff_ffff, 0x7777_7777)?;
            let word = if g.mode.bits() == 64 { 8 } else { 4 };
            let pushed = g.read_u64(stack + INSIDE - word) & 0xffff_ffff;
            expect("pushed", pushed, 0x1234_5678)?;
            let kept = g.read_u64(BELOW + INSIDE - word);
            expect("page", kept, 0x7777_7777_7777_7777)
        })?;
    }
    Ok(())
}

fn aligned_operand_at_the_edge(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &PAGED, |g| {
        let around = Around::prepare(g)?;
        g.asm(|a| {
            a.movaps(xmm1, xmmword_ptr(edge(-16)))?;
            a.movdqu(xmmword_ptr(DATA as u32), xmm1)?;
            a.movaps(xmm1, xmmword_ptr(edge(-8)))
        })?;
        g.run_to_exception()?;
        expect("first half", g.read_u64(DATA), around.number(-16, 8))
    })
}

/// Pages that caches with few places for translations put into the same one.
const STRIDE: u64 = 8 << 20;
const STRIDES: u64 = 3;
/// Linear address of the first of them.
const FIRST: u64 = 0x4000_3000;

/// Maps pages a stride apart to pages of RAM that hold their numbers.
fn strided(g: &mut Guest, flags: u64) -> Result<(), Failure> {
    for n in 0..STRIDES {
        g.write_uint(USER_DATA + 0x1000 * n, 4, 0x100 + n);
        g.map(FIRST + STRIDE * n, USER_DATA + 0x1000 * n, flags);
    }
    g.flush_tlb()
}

/// Runs a check for each of the pages, each time in a new guest.
fn each_page(
    hv: &dyn Hypervisor,
    check: impl Fn(&mut Guest, u64) -> Result<(), Failure>,
) -> Result<(), Failure> {
    (0..STRIDES).try_for_each(|n| in_modes(hv, &PAGED, |g| check(g, n)))
}

fn page(n: u64) -> u32 {
    (FIRST + STRIDE * n) as u32
}

/// EAX = the sum of the words at the starts of the pages; clobbers EDX.
fn add_all(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(eax, 0)?;
    for n in 0..STRIDES {
        a.mov(edx, dword_ptr(page(n)))?;
        a.add(eax, edx)?;
    }
    Ok(())
}

/// The page that the cases change is mapped here instead.
const ELSEWHERE: u64 = USER_DATA + 0x9000;

/// Looks at all pages twice, maps page `changed` elsewhere, does `forget`, and
/// looks at all again.
fn remapped(
    g: &mut Guest,
    changed: u64,
    forget: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Result<(), Failure> {
    strided(g, RW)?;
    g.write_uint(ELSEWHERE, 4, 0x9000);
    let entry = g.pte_at(page(changed).into());
    g.asm(|a| {
        add_all(a)?;
        add_all(a)?;
        a.mov(ebx, eax)?;
        a.mov(dword_ptr(entry as u32), (ELSEWHERE | RW) as u32)?;
        forget(a)?;
        add_all(a)?;
        a.hlt()
    })?;
    g.run_to_end()?;
    let r = g.regs()?;
    let all: u64 = (0..STRIDES).map(|n| 0x100 + n).sum();
    let now = all - (0x100 + changed) + 0x9000;
    expect("sums before and after", (r.rbx, r.rax), (all, now))
}

fn pages_a_stride_apart(hv: &dyn Hypervisor) -> Result<(), Failure> {
    in_modes(hv, &PAGED, |g| {
        strided(g, RW)?;
        g.asm(|a| {
            for _ in 0..3 {
                for n in 0..STRIDES {
                    a.add(dword_ptr(page(n)), 0x10 << (4 * n))?;
                }
                add_all(a)?;
            }
            a.hlt()
        })?;
        g.run_to_end()?;
        let words = [0, 1, 2].map(|n| g.read_uint(USER_DATA + 0x1000 * n, 4));
        expect("words", words, [0x130, 0x401, 0x3102])?;
        expect("their sum", g.regs()?.rax, 0x3633)
    })
}

fn invlpg_of_pages_a_stride_apart(hv: &dyn Hypervisor) -> Result<(), Failure> {
    each_page(hv, |g, n| remapped(g, n, |a| a.invlpg(ptr(page(n)))))
}

fn cr3_write_with_pages_a_stride_apart(hv: &dyn Hypervisor) -> Result<(), Failure> {
    each_page(hv, |g, n| remapped(g, n, reload_cr3))
}

fn code_changed_through_pages_a_stride_apart(hv: &dyn Hypervisor) -> Result<(), Failure> {
    each_page(hv, |g, changed| {
        strided(g, RW)?;
        // mov ebx, imm32; ret
        g.write(
            USER_DATA + 0x1000 * changed,
            &[0xbb, 0x11, 0, 0, 0, 0xc3, 0x90, 0x90],
        );
        g.asm(|a| {
            for n in 0..STRIDES {
                a.mov(dword_ptr(page(n) + 16), 1)?; // writable in the cache
            }
            a.mov(eax, page(changed))?;
            let call = |a: &mut CodeAssembler| match a.bitness() {
                64 => a.call(rax),
                _ => a.call(eax),
            };
            call(a)?;
            a.mov(ecx, ebx)?;
            a.mov(byte_ptr(page(changed) + 1), 0x22)?;
            call(a)?;
            a.hlt()
        })?;
        g.run_to_end()?;
        let r = g.regs()?;
        expect("before and after", (r.rcx, r.rbx), (0x11, 0x22))?;
        Ok(())
    })
}

fn read_only_page_a_stride_apart(hv: &dyn Hypervisor) -> Result<(), Failure> {
    each_page(hv, |g, guarded| {
        strided(g, RW)?;
        let at = FIRST + STRIDE * guarded;
        g.map(at, USER_DATA + 0x1000 * guarded, pte::P | pte::US);
        g.flush_tlb()?;
        g.user_asm(|a| {
            add_all(a)?;
            a.mov(dword_ptr(at as u32), 7)
        })?;
        for n in (0..STRIDES).filter(|&n| n != guarded) {
            let page = FIRST + STRIDE * n;
            g.map(page, USER_DATA + 0x1000 * n, RW | pte::US);
        }
        g.flush_tlb()?;
        g.enter_user()?;
        g.run_to_exception()?;
        expect("CR2", g.cpu.sregs()?.cr2, at)?;
        let word = g.read_uint(USER_DATA + 0x1000 * guarded, 4);
        expect("the page", word, 0x100 + guarded)?;
        Ok(())
    })
}
