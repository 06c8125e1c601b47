//! Putting a vCPU into a mode: descriptors, tables, registers.

use super::Failure;
use super::guest::{Guest, Mode};
use super::layout::*;
use crate::abi::{kvm_regs, kvm_segment, kvm_sregs};
use iced_x86::code_asm::dword_ptr;
use x86::paging::pte;
use x86::segment::attr;
use x86::{cr0, cr4, efer, flags};

/// Access bytes of the usual descriptors (SDM vol 3, 3.4.5), accessed bit set.
pub mod rights {
    #![allow(missing_docs, reason = "the names are the documentation")]
    use x86::segment::attr;
    pub const CODE: u16 = attr::P | attr::S | attr::X | attr::RW | attr::A;
    pub const DATA: u16 = attr::P | attr::S | attr::RW | attr::A;
    pub const CODE64: u16 = CODE | attr::L | attr::G;
    pub const CODE32: u16 = CODE | attr::DB | attr::G;
    pub const DATA32: u16 = DATA | attr::DB | attr::G;
    /// Busy TSS, 32- or 64-bit.
    pub const TSS_BUSY: u16 = attr::P | 0xb;
    /// Available TSS.
    pub const TSS: u16 = attr::P | 0x9;
    pub const LDT: u16 = attr::P | 2;
    pub const DPL3: u16 = attr::DPL;
}

/// An 8-byte descriptor. `limit` is in bytes, or in pages if `attr` has G.
pub fn descriptor(base: u64, limit: u32, attr: u16) -> u64 {
    u64::from(limit & 0xffff)
        | (base & 0xff_ffff) << 16
        | u64::from(attr & 0xf0ff) << 40
        | u64::from(limit & 0xf_0000) << 32
        | (base & 0xff00_0000) << 32
}

/// A segment register that matches [`descriptor`].
pub fn segment(selector: u16, base: u64, limit: u32, attr: u16) -> kvm_segment {
    let has = |bit| u8::from(attr & bit != 0);
    kvm_segment {
        base,
        limit: if attr & attr::G != 0 {
            limit << 12 | 0xfff
        } else {
            limit
        },
        selector,
        type_: (attr & attr::TYPE) as u8,
        s: has(attr::S),
        dpl: ((attr & attr::DPL) >> attr::DPL_SHIFT) as u8,
        present: has(attr::P),
        avl: has(attr::AVL),
        l: has(attr::L),
        db: has(attr::DB),
        g: has(attr::G),
        unusable: 0,
        padding: 0,
    }
}

/// A flat segment: 4 GiB in pages.
pub fn flat(selector: u16, attr: u16) -> kvm_segment {
    segment(selector, 0, 0xf_ffff, attr)
}

/// A real-mode segment.
pub fn real(selector: u16, attr: u16) -> kvm_segment {
    segment(selector, u64::from(selector) << 4, 0xffff, attr)
}

impl Guest {
    /// Writes a descriptor into the GDT.
    pub fn set_descriptor(&self, selector: u16, raw: u64) {
        self.write_u64(GDT + u64::from(selector & !7), raw);
    }

    /// Installs a handler: an interrupt gate of the mode, DPL 3 so that INT n
    /// works from user mode.
    pub fn set_gate(&self, vector: u8, handler: u64) {
        self.set_gate_raw(vector, sel::CODE, handler, 0xee00);
    }

    /// A gate with `type_word` as bits 32..=47 of the descriptor (P, DPL,
    /// type, IST); SDM vol 3, 6.11 and 6.14.1.
    pub fn set_gate_raw(&self, vector: u8, selector: u16, handler: u64, type_word: u16) {
        let v = u64::from(vector);
        if self.mode == Mode::Real {
            let far = (handler & 0xf) | (handler >> 4) << 16;
            self.write_uint(v * 4, 4, far);
            return;
        }
        let low = (handler & 0xffff)
            | u64::from(selector) << 16
            | u64::from(type_word) << 32
            | (handler >> 16 & 0xffff) << 48;
        if self.mode.ia32e() {
            self.write_u64(IDT + v * 16, low);
            self.write_u64(IDT + v * 16 + 8, handler >> 32);
        } else {
            self.write_u64(IDT + v * 8, low);
        }
    }

    /// Puts the vCPU into user mode at [`USER_CODE`] in the mode's bitness.
    pub fn enter_user(&mut self) -> Result<(), Failure> {
        use rights::{CODE32, CODE64, DATA32, DPL3};
        let code = match self.mode {
            Mode::Long => flat(sel::USER64, CODE64 | DPL3),
            _ => flat(sel::USER32, CODE32 | DPL3),
        };
        self.set_sregs(|s| load_flat(s, code, flat(sel::USER_DATA, DATA32 | DPL3)))?;
        self.set(|r| {
            r.rip = USER_CODE;
            r.rsp = USER_STACK_TOP;
            r.rflags = flags::FIXED1;
        })
    }

    /// Back to the start of the program at ring 0.
    pub fn enter_kernel(&mut self) -> Result<(), Failure> {
        let real = self.mode == Mode::Real;
        let code = match self.mode {
            Mode::Long => flat(sel::CODE, rights::CODE64),
            Mode::Compat => flat(sel::CODE32, rights::CODE32),
            _ => flat(sel::CODE, rights::CODE32),
        };
        self.set_sregs(|s| match real {
            true => real_segments(s),
            false => load_flat(s, code, flat(sel::DATA, rights::DATA32)),
        })?;
        self.set(|r| {
            r.rip = if real { 0 } else { CODE };
            r.rsp = STACK_TOP;
            r.rflags = flags::FIXED1;
        })
    }

    /// Has the guest touch a word of each page (below 2 GiB), as code at
    /// [`CODE`], before the case proper. KVM then has mapped them: on AMD's
    /// processors an event whose delivery met a nested page fault is injected
    /// again, which is not quite the same (APM vol 2, 15.20).
    pub fn touch(&mut self, pages: &[u64]) -> Result<(), Failure> {
        self.asm(|a| {
            for page in pages {
                a.or(dword_ptr(*page as u32 + 0xff0), 0)?;
            }
            a.hlt()
        })?;
        self.run_to_end()?;
        self.enter_kernel()
    }

    /// Changes segment and control registers.
    pub fn set_sregs<F: FnOnce(&mut kvm_sregs)>(&mut self, f: F) -> Result<(), Failure> {
        let mut sregs = self.cpu.sregs()?;
        f(&mut sregs);
        if self.idle_tss {
            sregs.tr.type_ &= !2;
        }
        Ok(self.cpu.set_sregs(&sregs)?)
    }

    /// Descriptors, stubs, tables, segment and control registers.
    pub(super) fn set_up_mode(&mut self) -> Result<(), Failure> {
        self.write_stubs();
        if self.mode != Mode::Real {
            self.write_gdt();
            self.write_tss();
        }
        if !matches!(self.mode, Mode::Real | Mode::Prot32) {
            self.write_tables();
        }
        let mode = self.mode;
        self.set_sregs(|s| match mode {
            Mode::Real => real_sregs(s),
            mode => protected_sregs(s, mode),
        })?;
        self.cpu.set_regs(&kvm_regs {
            rip: if self.mode == Mode::Real { 0 } else { CODE },
            rsp: STACK_TOP,
            rflags: flags::FIXED1,
            ..Default::default()
        })?;
        Ok(())
    }

    /// `out 0xc0+v, al` and `hlt` have the same bytes in every mode.
    fn write_stubs(&self) {
        for vector in 0..32u8 {
            let at = STUBS + u64::from(vector) * 16;
            self.write(at, &[0xe6, EXCEPTION_PORT as u8 + vector, 0xf4]);
            self.set_gate(vector, at);
        }
    }

    fn write_gdt(&self) {
        use rights::{CODE, CODE32, CODE64, DATA, DATA32, DPL3};
        let main = if self.mode.ia32e() { CODE64 } else { CODE32 };
        for (selector, limit, attr) in [
            (sel::CODE, 0xf_ffff, main),
            (sel::DATA, 0xf_ffff, DATA32),
            (sel::CODE32, 0xf_ffff, CODE32),
            (sel::CODE32 + 8, 0xf_ffff, DATA32),
            (sel::CODE16, 0xffff, CODE),
            (sel::DATA16, 0xffff, DATA),
            (sel::USER32, 0xf_ffff, CODE32 | DPL3),
            (sel::USER_DATA, 0xf_ffff, DATA32 | DPL3),
            (sel::USER64, 0xf_ffff, CODE64 | DPL3),
        ] {
            self.set_descriptor(selector, descriptor(0, limit, attr));
        }
        self.set_descriptor(sel::TSS, descriptor(TSS, 0x67, rights::TSS_BUSY));
    }

    /// Ring-0 stack and, in long mode, IST1 (SDM vol 3, 7.2.1 and 7.7).
    fn write_tss(&self) {
        if self.mode.ia32e() {
            self.write_u64(TSS + 4, RING0_TOP);
            self.write_u64(TSS + 36, IST1_TOP);
        } else {
            self.write_uint(TSS + 4, 4, RING0_TOP);
            self.write_uint(TSS + 8, 4, u64::from(sel::DATA));
        }
        self.write_uint(TSS + 102, 2, 0x68); // I/O map outside the limit
    }

    fn write_tables(&mut self) {
        for page in (0..RAM_SIZE).step_by(4096) {
            let user = if (USER..USER_END).contains(&page) {
                pte::US
            } else {
                0
            };
            self.map(page, page, pte::P | pte::RW | user);
        }
    }
}

/// CS and the data segments.
fn load_flat(sregs: &mut kvm_sregs, code: kvm_segment, data: kvm_segment) {
    sregs.cs = code;
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
}

fn real_segments(sregs: &mut kvm_sregs) {
    let data = |base: u64| real((base >> 4) as u16, rights::DATA);
    sregs.cs = real((CODE >> 4) as u16, rights::CODE);
    sregs.ds = data(DATA);
    sregs.es = data(MMIO);
    sregs.fs = data(0);
    sregs.gs = data(0);
    sregs.ss = data(0);
}

fn real_sregs(sregs: &mut kvm_sregs) {
    real_segments(sregs);
    sregs.idt.base = 0;
    sregs.idt.limit = 0x3ff;
    sregs.cr0 = cr0::ET | cr0::NE;
    sregs.cr4 = cr4::OSFXSR | cr4::OSXMMEXCPT;
}

fn protected_sregs(sregs: &mut kvm_sregs, mode: Mode) {
    let (code, code_rights) = match mode {
        Mode::Long => (sel::CODE, rights::CODE64),
        Mode::Compat => (sel::CODE32, rights::CODE32),
        _ => (sel::CODE, rights::CODE32),
    };
    let data = flat(sel::DATA, rights::DATA32);
    load_flat(sregs, flat(code, code_rights), data);
    sregs.tr = segment(sel::TSS, TSS, 0x67, rights::TSS_BUSY);
    sregs.ldt = segment(0, 0, 0xffff, rights::LDT);
    sregs.gdt.base = GDT;
    sregs.gdt.limit = sel::END - 1;
    sregs.idt.base = IDT;
    sregs.idt.limit = 0xfff;
    sregs.cr0 = cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP;
    sregs.cr4 = cr4::OSFXSR | cr4::OSXMMEXCPT;
    if mode == Mode::Prot32 {
        return;
    }
    sregs.cr0 |= cr0::PG;
    sregs.cr3 = TABLES;
    sregs.cr4 |= cr4::PGE | cr4::PSE;
    if mode != Mode::Paging32 {
        sregs.cr4 |= cr4::PAE;
        sregs.efer |= efer::NXE;
    }
    if mode.ia32e() {
        sregs.efer |= efer::LME | efer::LMA | efer::SCE;
    }
}
