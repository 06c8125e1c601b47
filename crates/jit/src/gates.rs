//! SYSCALL, SYSRET and IRET of 64-bit code without a return to the engine, as
//! kernels of our time use them: flat segments, between 64-bit code at CPL 0 and
//! 3, no flag that other code than translations would have to look at (SDM
//! vol 2, SYSCALL, SYSRET, IRET). With anything else the interpreter executes
//! the instruction, which the code leaves with nothing changed.
//!
//! Blocks jump here with the guest's flags in the slot and `exit_site` naming the
//! instruction.

use crate::asm::{Asm, cc, op};
use crate::layout::{ExitKind, Layout, Realm};
use crate::regs::{GUEST_RSP, RSP, T0, T1, T2};
use crate::stubs::Stubs;
use crate::translate::{NO_BRANCH, TlbField, find_entry, probe, probe_other, tlb_field};
use std::mem::offset_of;
use x86::segment::attr;
use x86::{Segment, efer, flags};

const RAX: u8 = 0;
const RCX: u8 = 1;
const RDX: u8 = 2;
/// Guest registers that IRET puts aside to compute with.
const PUT_ASIDE: [u8; 3] = [RAX, RCX, RDX];

/// Flags that stay in the vCPU's memory and concern no translation.
const KEPT: u64 = flags::IF | flags::DF | flags::ID | flags::FIXED1;
/// Bytes of what IRET pops.
const FRAME: u32 = 40;
/// A selector's table and privilege level.
const RPL_AND_TABLE: u32 = 7;
/// A selector without its privilege level.
const INDEX: u32 = 0xfffc;
const HIGHEST_USER_BIT: u8 = 47;
/// ES, DS, FS, GS: a return to CPL 3 may have to empty them.
const DATA_SEGMENTS: [u32; 4] = [0, 3, 4, 5];

/// Offsets in the arena.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gates {
    /// SYSCALL; T0 = address of the instruction behind it.
    pub syscall: usize,
    /// SYSRET to 64-bit code.
    pub sysret: usize,
    /// IRET of 64 bits, by the TLB bank of kernel accesses.
    pub iret: [usize; 2],
}

/// Emits them; the other stubs are in place.
pub fn emit(a: &mut Asm, l: &Layout, stubs: &Stubs) -> Gates {
    let mut emitter = Emitter {
        a,
        l,
        stubs,
        refused: Vec::new(),
    };
    Gates {
        syscall: emitter.syscall(),
        sysret: emitter.sysret(),
        iret: [1, 2].map(|bank| emitter.iret(bank)),
    }
}

/// The second half of a flat segment register with rights `rights`, without its
/// selector.
const fn flat(rights: u16) -> u64 {
    u32::MAX as u64 | (rights as u64) << 48
}

/// An 8-byte descriptor of a flat segment, accessed.
const fn descriptor(rights: u16) -> u64 {
    let rights = rights as u64;
    0xf_0000_0000_ffff | (rights & 0xff) << 40 | (rights & 0xf000) << 40
}

/// Rights of a 64-bit code segment.
const fn code(cpl: u16) -> u16 {
    attr::P | attr::S | attr::X | attr::RW | attr::A | attr::L | attr::G | cpl << attr::DPL_SHIFT
}

/// Rights of a data segment.
const fn data(cpl: u16) -> u16 {
    attr::P | attr::S | attr::RW | attr::A | attr::DB | attr::G | cpl << attr::DPL_SHIFT
}

/// What SYSCALL and SYSRET load into CS and SS, of which IA32_STAR has the selectors:
/// the second halves of the segment registers, whose bases are 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct FlatSegments {
    /// The IA32_STAR that they were made of.
    star: u64,
    syscall: [u64; 2],
    sysret: [u64; 2],
}

impl FlatSegments {
    /// Those of `star`.
    pub fn follow(&mut self, star: u64) {
        if self.star == star && self.syscall != [0; 2] {
            return;
        }
        let half = |selector: u16, rights| flat(rights) | u64::from(selector) << 32;
        let (kernel, user) = ((star >> 32) as u16, (star >> 48) as u16);
        *self = Self {
            star,
            syscall: [
                half(kernel & INDEX as u16, code(0)),
                half(kernel.wrapping_add(8), data(0)),
            ],
            sysret: [
                half(user.wrapping_add(16) | 3, code(3)),
                half(user.wrapping_add(8) | 3, data(3)),
            ],
        };
    }
}

struct Emitter<'a> {
    a: &'a mut Asm,
    l: &'a Layout,
    stubs: &'a Stubs,
    /// Jumps to where the interpreter gets the instruction.
    refused: Vec<usize>,
}

impl Emitter<'_> {
    fn refuse_if(&mut self, cond: u8) {
        let at = self.a.jcc(cond);
        self.refused.push(at);
    }

    /// Where the refused go.
    fn refuse(&mut self, put_aside: &[u8]) {
        for at in std::mem::take(&mut self.refused) {
            self.a.land(at);
        }
        self.bring_back(put_aside);
        self.leave(ExitKind::Interp);
    }

    fn bring_back(&mut self, put_aside: &[u8]) {
        for &r in put_aside {
            self.a.gs(true, op::MOV, r, self.l.reg(r.into()));
        }
    }

    fn leave(&mut self, kind: ExitKind) {
        let at = self.a.jmp();
        self.a.link(at, self.stubs.slot_exits[kind as usize]);
    }

    /// #UD without EFER.SCE.
    fn check_enabled(&mut self) {
        self.a.gs_test_imm(self.l.gates.efer, efer::SCE as u32);
        self.refuse_if(cc::E);
    }

    /// Where an interrupt waits, the interpreter sets IF. One that comes later
    /// is noticed at the poll.
    fn check_interrupts(&mut self, new_flags: u8) {
        self.a.test_imm(new_flags, flags::IF as u32);
        let disabled = self.a.jcc(cc::E);
        self.a.gs_cmp_imm8(self.l.irq_waiting(), 0);
        self.refuse_if(cc::NE);
        self.a.land(disabled);
    }

    /// The arithmetic flags in `from` become those set aside. Clobbers it.
    fn set_aside(&mut self, from: u8) {
        self.a.and_imm(from, flags::ARITH as u32);
        self.a.or_imm(from, flags::IF as u32);
        self.a.mem(false, op::MOV_STORE, from, RSP, None, 0);
    }

    /// Loads a flat segment register whose selector is in `selector`. Clobbers
    /// that and T2.
    fn load_flat(&mut self, at: u32, selector: u8, rights: u16) {
        let a = &mut *self.a;
        a.shl_imm(selector, 32);
        a.mov_imm(T2, flat(rights));
        a.rr(true, op::OR, selector, T2);
        a.gs(true, op::MOV_STORE, selector, at + 8);
        a.gs_store_zero(at);
    }

    /// Loads CS and SS with those at `which` in [`FlatSegments`]. Clobbers T0.
    fn load_code_and_stack(&mut self, which: usize) {
        let l = self.l;
        for (i, at) in [l.gates.cs, l.gates.ss].into_iter().enumerate() {
            let from = l.segments() + which as u32 + 8 * i as u32;
            self.a.gs(true, op::MOV, T0, from);
            self.a.gs(true, op::MOV_STORE, T0, at + 8);
            self.a.gs_store_zero(at);
        }
    }

    /// Goes on at T0.
    fn go_on(&mut self, realm: Realm) {
        let at = self.a.jmp();
        self.a.link(at, self.stubs.probe[realm as usize]);
    }

    fn syscall(&mut self) -> usize {
        let at = self.a.len();
        let l = self.l;
        self.check_enabled();
        // T1 = RFLAGS, T2 = what it becomes
        let a = &mut *self.a;
        a.gs(true, op::MOV, T1, l.rflags);
        a.and_imm(T1, !(flags::ARITH | flags::RF) as u32);
        a.mem(false, op::MOV, T2, RSP, None, 0);
        a.and_imm(T2, flags::ARITH as u32);
        a.rr(true, op::OR, T1, T2);
        a.gs(true, op::MOV, T2, l.gates.sfmask);
        a.not(T2);
        a.rr(true, op::AND, T2, T1);
        a.or_imm(T2, flags::FIXED1 as u32);
        a.test_imm(T2, flags::AC as u32);
        self.refuse_if(cc::NE);
        let a = &mut *self.a;
        a.gs(true, op::MOV_STORE, T1, l.reg(11));
        a.rr(true, op::MOV, RCX, T0);
        a.gs(true, op::MOV_STORE, T2, l.rflags);
        a.gs_store_zero(l.page());
        self.set_aside(T2);
        self.load_code_and_stack(offset_of!(FlatSegments, syscall));
        self.a.gs(true, op::MOV, T0, l.gates.lstar);
        self.go_on(Realm::Kernel);
        self.refuse(&[]);
        at
    }

    fn sysret(&mut self) -> usize {
        let at = self.a.len();
        let l = self.l;
        self.check_enabled();
        let a = &mut *self.a;
        a.rr(true, op::MOV, T0, RCX);
        a.shr_imm(T0, HIGHEST_USER_BIT);
        self.refuse_if(cc::NE);
        self.a.gs(true, op::MOV, T1, l.reg(11));
        self.a.test_imm64(T1, !(flags::ARITH | KEPT) as i32);
        self.refuse_if(cc::NE);
        self.check_interrupts(T1);
        self.a.or_imm(T1, flags::FIXED1 as u32);
        self.a.gs(true, op::MOV_STORE, T1, l.rflags);
        self.set_aside(T1);
        self.load_code_and_stack(offset_of!(FlatSegments, sysret));
        self.a.rr(true, op::MOV, T0, RCX);
        self.go_on(Realm::User);
        self.refuse(&[]);
        at
    }

    /// T2 = the flags popped, RCX and RAX = the selectors of CS and SS, RDX = the
    /// frame in host memory.
    fn iret(&mut self, bank: usize) -> usize {
        let at = self.a.len();
        for r in PUT_ASIDE {
            self.a.gs(true, op::MOV_STORE, r, self.l.reg(r.into()));
        }
        self.frame(bank);
        let a = &mut *self.a;
        a.rr(false, op::MOV, T0, RCX);
        a.and_imm(T0, RPL_AND_TABLE);
        let to_kernel = a.jcc(cc::E);
        a.cmp_imm(T0, 3);
        self.refuse_if(cc::NE);
        self.user_return(bank);
        self.a.land(to_kernel);
        self.kernel_return(bank);
        self.refuse(&PUT_ASIDE);
        at
    }

    /// Reads the frame, each field once, since others may write to it.
    fn frame(&mut self, bank: usize) {
        let l = self.l;
        self.a.gs_cmp8_imm8(l.gates.nmi_blocked, 0);
        self.refuse_if(cc::NE);
        self.a.gs_test_imm(l.rflags, flags::NT as u32);
        self.refuse_if(cc::NE);
        self.a.rr(true, op::MOV, T0, GUEST_RSP);
        self.find(bank, FRAME);
        let a = &mut *self.a;
        a.rr(true, op::MOV, RDX, T0);
        a.mem_movzx16(RCX, RDX, 8);
        a.mem(true, op::MOV, T2, RDX, None, 16);
        a.mem_movzx16(RAX, RDX, 32);
        let known = flags::ARITH | KEPT | flags::RF | flags::AC;
        a.test_imm64(T2, !known as i32);
        self.refuse_if(cc::NE);
        self.check_interrupts(T2);
    }

    /// T0 = host address of the `size` bytes at linear address T0, if the
    /// first-level TLB has them. Clobbers T1.
    fn find(&mut self, bank: usize, size: u32) {
        let (a, l) = (&mut *self.a, self.l);
        find_entry(a, l, bank);
        tlb_field(a, l, (op::XOR, T0), TlbField::ReadTag);
        a.cmp_imm(T0, 4096 - size);
        let missed = a.jcc(cc::A);
        tlb_field(a, l, (op::ADD, T0), TlbField::Host);
        self.refused.push(missed);
    }

    /// Demands that the GDT has `descriptor` for `selector`, which is none of
    /// the first one's. Clobbers T0 and T1.
    fn check_descriptor(&mut self, bank: usize, selector: u8, descriptor: u64) {
        let l = self.l;
        let a = &mut *self.a;
        a.rr(false, op::MOV, T0, selector);
        a.and_imm(T0, !RPL_AND_TABLE);
        self.refuse_if(cc::E);
        let a = &mut *self.a;
        a.gs_movzx16(T1, l.gates.gdt_limit);
        a.mem(true, op::LEA, T1, T1, None, -7);
        a.rr(true, op::CMP, T0, T1);
        self.refuse_if(cc::G);
        self.a.gs(true, op::ADD, T0, l.gates.gdt_base);
        self.find(bank, 8);
        self.a.mov_imm(T1, descriptor);
        self.a.mem(true, op::CMP, T1, T0, None, 0);
        self.refuse_if(cc::NE);
    }

    fn user_return(&mut self, bank: usize) {
        let l = self.l;
        self.a.test_imm(T2, flags::AC as u32);
        self.refuse_if(cc::NE);
        for index in DATA_SEGMENTS {
            let selector = l.selectors + index * l.seg_stride;
            self.a.gs_test_imm(selector, INDEX); // the rights lie behind it
            self.refuse_if(cc::NE);
        }
        let a = &mut *self.a;
        a.rr(false, op::MOV, T0, RAX);
        a.and_imm(T0, RPL_AND_TABLE);
        a.cmp_imm(T0, 3);
        self.refuse_if(cc::NE);
        self.check_descriptor(bank, RCX, descriptor(code(3)));
        self.check_descriptor(bank, RAX, descriptor(data(3)));
        self.pop_address();
        self.pop_flags();
        self.load_flat(l.gates.cs, RCX, code(3));
        self.load_flat(l.gates.ss, RAX, data(3));
        self.bring_back(&PUT_ASIDE);
        self.returned(Realm::User);
    }

    fn kernel_return(&mut self, bank: usize) {
        let l = self.l;
        self.check_descriptor(bank, RCX, descriptor(code(0)));
        self.a.test_imm(RAX, u32::from(u16::MAX));
        let null = self.a.jcc(cc::E);
        self.a.test_imm(RAX, RPL_AND_TABLE);
        self.refuse_if(cc::NE);
        self.check_descriptor(bank, RAX, descriptor(data(0)));
        self.pop_address();
        self.pop_flags();
        self.load_flat(l.gates.ss, RAX, data(0));
        let loaded = self.a.jmp();
        self.a.land(null);
        self.pop_address();
        self.pop_flags();
        self.load_flat(l.gates.ss, RAX, 0);
        self.a.land(loaded);
        self.load_flat(l.gates.cs, RCX, code(0));
        self.bring_back(&PUT_ASIDE);
        self.a.gs_test_imm(l.rflags, flags::AC as u32);
        let clear = self.a.jcc(cc::E);
        self.returned(Realm::KernelAc);
        self.a.land(clear);
        self.returned(Realm::Kernel);
    }

    /// `rip` and RSP = what was popped; nothing is refused afterwards. Clobbers
    /// T0 and T1.
    fn pop_address(&mut self) {
        let l = self.l;
        let a = &mut *self.a;
        a.mem(true, op::MOV, T0, RDX, None, 0);
        a.rr(true, op::MOV, T1, T0);
        a.sar_imm(T1, HIGHEST_USER_BIT); // 0 or -1 if canonical
        a.mem(true, op::LEA, T1, T1, None, 1);
        a.cmp_imm(T1, 1);
        self.refuse_if(cc::A);
        let a = &mut *self.a;
        a.gs(true, op::MOV_STORE, T0, l.rip);
        a.mem(true, op::MOV, GUEST_RSP, RDX, None, 24);
    }

    /// RFLAGS = those popped, without RF; `temp` = with it. Clobbers T1 and T2.
    fn pop_flags(&mut self) {
        let l = self.l;
        let a = &mut *self.a;
        a.or_imm(T2, flags::FIXED1 as u32);
        a.gs(true, op::MOV_STORE, T2, l.temp());
        a.rr(true, op::MOV, T1, T2);
        a.and_imm(T1, !flags::RF as u32);
        a.gs(true, op::MOV_STORE, T1, l.rflags);
        self.set_aside(T2);
    }

    /// Goes on at `rip`. RF is for the first instruction only, and nothing but
    /// breakpoints minds it: it is seen where generated code is left before that.
    fn returned(&mut self, realm: Realm) {
        let l = self.l;
        self.a.gs(true, op::MOV, T0, l.rip);
        for place in [probe, probe_other] {
            let missed = place(self.a, l, realm as usize);
            self.a.land(missed);
        }
        self.a.gs(true, op::MOV, T1, l.temp());
        self.a.gs(true, op::MOV_STORE, T1, l.rflags);
        self.a.gs_store_imm(l.exit_site(), NO_BRANCH);
        self.leave(ExitKind::Lookup);
    }
}

const _: () = {
    let user = Segment::from_descriptor(0, descriptor(code(3)));
    assert!(user.limit == u32::MAX && user.base == 0 && user.attr == code(3));
    // `load_flat` writes the second half at once.
    assert!(offset_of!(Segment, base) == 0 && offset_of!(Segment, limit) == 8);
    assert!(offset_of!(Segment, selector) == 12 && offset_of!(Segment, attr) == 14);
};
