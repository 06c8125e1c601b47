//! `rep movs` and `rep stos` page by page, upwards and downwards, between places in
//! RAM; devices are left to the interpreter.
#![allow(unsafe_code, reason = "copies between host pages found by the TLBs")]

use crate::ctx::Ctx;
use crate::ram::Ram;
use crate::vcpu::SoftVcpu;
use iced_x86::{Code, Instruction, OpKind, Register};
use isa::Access;
use jit::translate::string_info;
use softmmu::SlotMap;
use x86::paging::{PAGE_MASK, PAGE_SIZE};
use x86::{CpuState, flags, gpr};

/// Bits of a register in 32-bit code.
const LOW_HALF: u64 = u32::MAX as u64;

/// Pages per call, so that interrupts are noticed.
const PAGES: usize = 64;

/// A `rep movs` or `rep stos` of translated code: its segments are flat.
#[derive(Clone, Copy)]
pub(crate) struct Bulk {
    /// Element bytes.
    size: u64,
    /// There is a source (MOVS).
    source: bool,
    /// Bits of the registers that the address size uses.
    mask: u64,
}

impl Bulk {
    fn of(insn: &Instruction) -> Option<Self> {
        // CS may be unreadable.
        let other = matches!(
            insn.memory_segment(),
            Register::FS | Register::GS | Register::CS
        );
        let mask = match insn.op0_kind() {
            OpKind::MemoryESRDI => u64::MAX,
            OpKind::MemoryESEDI => LOW_HALF,
            _ => return None,
        };
        let (size, source) = match insn.code() {
            Code::Stosb_m8_AL => (1, false),
            Code::Stosw_m16_AX => (2, false),
            Code::Stosd_m32_EAX => (4, false),
            Code::Stosq_m64_RAX => (8, false),
            Code::Movsb_m8_m8 => (1, true),
            Code::Movsw_m16_m16 => (2, true),
            Code::Movsd_m32_m32 => (4, true),
            Code::Movsq_m64_m64 => (8, true),
            _ => return None,
        };
        (insn.has_rep_prefix() && !other).then_some(Self { size, source, mask })
    }

    /// As generated code says it.
    pub(crate) fn from_info(info: u32) -> Self {
        let narrow = info & string_info::NARROW != 0;
        Self {
            size: u64::from(info & string_info::SIZE),
            source: info & string_info::SOURCE != 0,
            mask: if narrow { LOW_HALF } else { u64::MAX },
        }
    }

    /// Elements that remain.
    pub(crate) fn left(self, cpu: &CpuState) -> u64 {
        cpu.gpr[gpr::RCX] & self.mask
    }
}

/// Elements in one page of RAM each way.
struct Piece {
    elements: u64,
    bytes: u64,
    /// From the last byte to the first.
    down: bool,
    /// Linear address of the lowest byte that it writes to.
    at: u64,
    to: Ram,
    from: Option<Ram>,
}

/// Does the next elements of `bulk` if all of them are in plain RAM: those that
/// stay inside the current page or pages.
pub(crate) fn plain_piece(ctx: &mut Ctx, map: &SlotMap, bulk: Bulk) -> bool {
    let Some(piece) = Piece::next(ctx, map, bulk).filter(|piece| piece.to.plain) else {
        return false;
    };
    let value = ctx.cpu.gpr[gpr::RAX];
    piece.write(piece.to.host as *mut u8, bulk.size, value);
    piece.finish(&mut ctx.cpu, bulk);
    true
}

impl Piece {
    fn next(ctx: &mut Ctx, map: &SlotMap, bulk: Bulk) -> Option<Self> {
        let Bulk { size, source, mask } = bulk;
        let gpr = &ctx.cpu.gpr;
        let (to, from) = (gpr[gpr::RDI] & mask, gpr[gpr::RSI] & mask);
        let down = ctx.cpu.rflags & flags::DF != 0;
        let room = |la: u64| elements_in_page(la, size, down);
        let room = if source {
            room(to).min(room(from))
        } else {
            room(to)
        };
        let elements = room.min(bulk.left(&ctx.cpu));
        if elements == 0 {
            return None;
        }
        let bytes = elements * size;
        let start = |la: u64| if down { la - (bytes - size) } else { la };
        let at = start(to);
        let to = ram(ctx, map, at, true)?;
        let from = match source {
            true => Some(ram(ctx, map, start(from), false)?),
            false => None,
        };
        // A copy onto what it has yet to read repeats its source.
        let unfit = |from: &Ram| match down {
            false => to.host.wrapping_sub(from.host) < bytes,
            true => from.host.wrapping_sub(to.host) < bytes,
        };
        (!from.as_ref().is_some_and(unfit)).then_some(Self {
            elements,
            bytes,
            down,
            at,
            to,
            from,
        })
    }

    /// Writes its bytes, elements of `size` bytes of `value` if it has no source,
    /// to `to`.
    fn write(&self, to: *mut u8, size: u64, value: u64) {
        match &self.from {
            // SAFETY: the range lies inside a mapped page of a slot, and `to`
            // is one of the same length elsewhere.
            Some(from) => unsafe {
                std::ptr::copy(from.host as *const u8, to, self.bytes as usize);
            },
            // SAFETY: `to` is writable for so many bytes.
            None => unsafe { fill(to as u64, self.bytes, size, value) },
        }
    }

    /// Registers are as behind it.
    fn finish(&self, cpu: &mut CpuState, bulk: Bulk) {
        let mask = bulk.mask;
        let by = match self.down {
            true => self.bytes.wrapping_neg(),
            false => self.bytes,
        };
        let behind = |pointer: u64| pointer.wrapping_add(by) & mask;
        cpu.gpr[gpr::RCX] = bulk.left(cpu) - self.elements;
        cpu.gpr[gpr::RDI] = behind(cpu.gpr[gpr::RDI]);
        if self.from.is_some() {
            cpu.gpr[gpr::RSI] = behind(cpu.gpr[gpr::RSI]);
        }
    }
}

/// Elements from the one at `la` on, upwards or `down`, that lie in its page.
fn elements_in_page(la: u64, size: u64, down: bool) -> u64 {
    let offset = la & PAGE_MASK;
    match down {
        false => (PAGE_SIZE - offset) / size,
        true if offset + size > PAGE_SIZE => 0,
        true => offset / size + 1,
    }
}

/// The RAM at `la` if the access may be made.
fn ram(ctx: &mut Ctx, map: &SlotMap, la: u64, write: bool) -> Option<Ram> {
    let found = Ram::at(ctx, map, la, write).ok()?;
    found.filter(|ram| ram.writable || !write)
}

impl SoftVcpu {
    /// Does as much of a `rep movs/stos` as lies in RAM. True if
    /// something was done: registers then stand as after those iterations,
    /// RIP after the instruction if it is complete.
    pub(crate) fn bulk_string(&mut self, insn: &Instruction) -> bool {
        let Some(bulk) = Bulk::of(insn) else {
            return false;
        };
        let mut done = false;
        for _ in 0..PAGES {
            if bulk.left(self.cpu()) == 0 {
                break;
            }
            if !self.bulk_piece(bulk) {
                return done;
            }
            done = true;
        }
        if bulk.left(self.cpu()) == 0 {
            let cpu = self.cpu_mut();
            cpu.rip = insn.next_ip();
            if !cpu.code64() {
                cpu.rip &= 0xffff_ffff;
            }
            done = true;
        }
        done
    }

    /// The elements that stay inside the current page or pages.
    fn bulk_piece(&mut self, bulk: Bulk) -> bool {
        let map = self.map.clone();
        let Some(piece) = Piece::next(self.ctx_mut(), &map, bulk) else {
            return false;
        };
        let value = self.cpu().gpr[gpr::RAX];
        if piece.to.plain {
            piece.write(piece.to.host as *mut u8, bulk.size, value);
        } else {
            let mut bytes = [0; PAGE_SIZE as usize];
            piece.write(bytes.as_mut_ptr(), bulk.size, value);
            let (cpu, mut world) = self.parts();
            let bytes = &bytes[..piece.bytes as usize];
            if world
                .write_from(cpu, piece.at, bytes, Access::Write)
                .is_err()
            {
                return false;
            }
        }
        piece.finish(self.cpu_mut(), bulk);
        true
    }
}

/// Fills `len` bytes with the low `size` bytes of `value`.
///
/// # Safety
/// The range is mapped writable; `len` is a multiple of `size`.
unsafe fn fill(dst: u64, len: u64, size: u64, value: u64) {
    let byte = value as u8;
    let pattern = u64::from_ne_bytes([byte; 8]);
    let mask = if size == 8 { !0 } else { (1 << (8 * size)) - 1 };
    // SAFETY: the caller's contract.
    unsafe {
        if (value ^ pattern) & mask == 0 {
            std::ptr::write_bytes(dst as *mut u8, byte, len as usize);
            return;
        }
        let bytes = value.to_le_bytes();
        for at in (0..len).step_by(size as usize) {
            let to = (dst + at) as *mut u8;
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, size as usize);
        }
    }
}
