//! `rep movs` and `rep stos` page by page, for RAM in both directions; devices
//! are left to the interpreter.
#![allow(unsafe_code, reason = "copies between host pages found by the TLBs")]

use crate::vcpu::SoftVcpu;
use iced_x86::{Code, Instruction, OpKind, Register};
use isa::Access;
use softmmu::tlb::Bank;
use softmmu::walk::Need;
use x86::paging::{PAGE_MASK, PAGE_SIZE};
use x86::{canonical48, flags, gpr};

/// A page of RAM at some address.
struct Ram {
    /// Host address of the byte in question.
    host: u64,
    /// Writes may go straight there.
    plain: bool,
}

/// Pages per call, so that interrupts are noticed.
const PAGES: usize = 64;

/// A `rep movs` or `rep stos` of translated code: its segments are flat.
#[derive(Clone, Copy)]
struct Bulk {
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
            OpKind::MemoryESEDI => 0xffff_ffff,
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
}

impl SoftVcpu {
    /// Does as much of a `rep movs/stos` as lies in RAM. True if
    /// something was done: registers then stand as after those iterations,
    /// RIP after the instruction if it is complete.
    pub(crate) fn bulk_string(&mut self, insn: &Instruction) -> bool {
        let Some(bulk) = Bulk::of(insn) else {
            return false;
        };
        if self.cpu().rflags & flags::DF != 0 {
            return false;
        }
        let mut done = false;
        for _ in 0..PAGES {
            let left = self.cpu().gpr[gpr::RCX] & bulk.mask;
            if left == 0 {
                break;
            }
            if !self.bulk_page(bulk, left) {
                return done;
            }
            done = true;
        }
        if self.cpu().gpr[gpr::RCX] & bulk.mask == 0 {
            let cpu = self.cpu_mut();
            cpu.rip = insn.next_ip();
            if !cpu.code64() {
                cpu.rip &= 0xffff_ffff;
            }
            done = true;
        }
        done
    }

    /// The iterations that stay inside the current page or pages.
    fn bulk_page(&mut self, bulk: Bulk, left: u64) -> bool {
        let Bulk { size, source, mask } = bulk;
        let cpu = self.cpu();
        let (to, from) = (cpu.gpr[gpr::RDI] & mask, cpu.gpr[gpr::RSI] & mask);
        let value = cpu.gpr[gpr::RAX];
        let room = |la: u64| PAGE_SIZE - (la & PAGE_MASK);
        let bytes = if source {
            room(to).min(room(from))
        } else {
            room(to)
        };
        let n = (bytes / size).min(left);
        if n == 0 {
            return false;
        }
        let len = n * size;
        let Some(dst) = self.ram(to, true) else {
            return false;
        };
        let src = if source { self.ram(from, false) } else { None };
        // A forward copy onto itself repeats its source.
        let unfit = |src: &Ram| dst.host.wrapping_sub(src.host) < len;
        if source && src.as_ref().is_none_or(unfit) {
            return false;
        }
        let write = |to: *mut u8| match &src {
            // SAFETY: the range lies inside a mapped page of a slot, and `to`
            // is one of the same length elsewhere.
            Some(src) => unsafe { std::ptr::copy(src.host as *const u8, to, len as usize) },
            // SAFETY: `to` is writable for `len` bytes.
            None => unsafe { fill(to as u64, len, size, value) },
        };
        if dst.plain {
            write(dst.host as *mut u8);
        } else {
            let mut bytes = [0; PAGE_SIZE as usize];
            write(bytes.as_mut_ptr());
            let (cpu, mut world) = self.parts();
            let bytes = &bytes[..len as usize];
            if world.write_from(cpu, to, bytes, Access::Write).is_err() {
                return false;
            }
        }
        let cpu = self.cpu_mut();
        cpu.gpr[gpr::RDI] = to.wrapping_add(len) & mask;
        if source {
            cpu.gpr[gpr::RSI] = from.wrapping_add(len) & mask;
        }
        cpu.gpr[gpr::RCX] = left - n;
        true
    }

    /// The RAM at `la` if the access may be made.
    fn ram(&mut self, la: u64, write: bool) -> Option<Ram> {
        let ctx = self.ctx_mut();
        let bank = Bank::of(&ctx.cpu);
        if let Some(host) = ctx.tlb.hit(bank, la, 1, write) {
            return Some(Ram { host, plain: true });
        }
        if !canonical48(la) {
            return None;
        }
        let need = Need {
            write,
            exec: false,
            user: bank == Bank::User,
            implicit: false,
        };
        let page = ctx.tlb.resolve(&ctx.cpu, &self.map, la, need).ok()?;
        if write && self.map.page(page.gpa)?.slot.readonly {
            return None;
        }
        Some(Ram {
            host: page.host? + (la & PAGE_MASK),
            plain: page.plain_write,
        })
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
