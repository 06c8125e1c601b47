//! The execution context of one instruction: registers, effective addresses,
//! segmentation and the stack (SDM vol 1, 3.7 and vol 3, 5.3 and 6.15).

use crate::env::{Access, Env, Stop};
use iced_x86::{Instruction, OpKind, Register};
use x86::segment::attr;
use x86::{CpuState, Exception, Seg, Segment, canonical48, cr0, flags, gpr};

/// Low `size` bytes set; `size` is 1, 2, 4 or 8.
pub(crate) const fn mask(size: u32) -> u64 {
    if size >= 8 {
        u64::MAX
    } else {
        (1 << (size * 8)) - 1
    }
}

/// Sign-extends the low `size` bytes of `v`.
pub(crate) const fn sext(v: u64, size: u32) -> u64 {
    if size >= 8 {
        return v;
    }
    let shift = 64 - size * 8;
    (((v << shift) as i64) >> shift) as u64
}

/// How an instruction ended; the caller owns RIP unless the instruction set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handled {
    /// Done; RIP is still at the instruction and is to move to the next one.
    Next,
    /// Done; RIP was set.
    Jump,
    /// A `rep` instruction stopped between two iterations: RIP stays, pending
    /// interrupts are to be looked at, then it is executed again.
    Again,
    /// Not an instruction of this part of the interpreter.
    No,
}

/// One instruction being executed.
pub(crate) struct Ctx<'a, E: Env> {
    pub cpu: &'a mut CpuState,
    pub env: &'a mut E,
    pub insn: &'a Instruction,
    /// Data breakpoints hit so far, as bits B0..=B3 of DR6.
    pub db_hits: u64,
    /// Running 64-bit code.
    pub long: bool,
}

/// The segment register that `r` names; DS for anything else.
pub(crate) const fn seg_of(r: Register) -> Seg {
    match r {
        Register::ES => Seg::Es,
        Register::CS => Seg::Cs,
        Register::SS => Seg::Ss,
        Register::FS => Seg::Fs,
        Register::GS => Seg::Gs,
        _ => Seg::Ds,
    }
}

const AL: usize = Register::AL as usize;
const AH: usize = Register::AH as usize;
const SPL: usize = Register::SPL as usize;
const AX: usize = Register::AX as usize;
const EAX: usize = Register::EAX as usize;
const RAX: usize = Register::RAX as usize;
const EIP: usize = Register::EIP as usize;
const ES: usize = Register::ES as usize;
const GS: usize = Register::GS as usize;

/// Bytes of a general or segment register (2 for the latter), 0 for others.
pub(crate) const fn reg_size(r: Register) -> u32 {
    match r as usize {
        0 => 0,
        AL..AX => 1,
        AX..EAX => 2,
        EAX..RAX => 4,
        RAX..EIP => 8,
        ES..=GS => 2,
        _ => 0,
    }
}

/// Reads a general register (zero-extended) or a selector; 0 for others.
pub(crate) fn get_reg(cpu: &CpuState, r: Register) -> u64 {
    let n = r as usize;
    match n {
        AL..AH => cpu.gpr[n - AL] & 0xff,
        AH..SPL => (cpu.gpr[n - AH] >> 8) & 0xff,
        SPL..AX => cpu.gpr[n - SPL + 4] & 0xff,
        AX..EAX => cpu.gpr[n - AX] & 0xffff,
        EAX..RAX => cpu.gpr[n - EAX] & 0xffff_ffff,
        RAX..EIP => cpu.gpr[n - RAX],
        ES..=GS => u64::from(cpu.seg[n - ES].selector),
        _ => 0,
    }
}

/// Writes a general register: 8- and 16-bit writes keep the rest, 32-bit
/// writes clear bits 63:32 (SDM vol 1, 3.4.1.1). Others are ignored.
pub(crate) fn set_reg(cpu: &mut CpuState, r: Register, v: u64) {
    let n = r as usize;
    let low = |old: u64, size: u32| (old & !mask(size)) | (v & mask(size));
    match n {
        AL..AH => cpu.gpr[n - AL] = low(cpu.gpr[n - AL], 1),
        AH..SPL => {
            let g = &mut cpu.gpr[n - AH];
            *g = (*g & !0xff00) | ((v & 0xff) << 8);
        }
        SPL..AX => cpu.gpr[n - SPL + 4] = low(cpu.gpr[n - SPL + 4], 1),
        AX..EAX => cpu.gpr[n - AX] = low(cpu.gpr[n - AX], 2),
        EAX..RAX => cpu.gpr[n - EAX] = v & 0xffff_ffff,
        RAX..EIP => cpu.gpr[n - RAX] = v,
        _ => {}
    }
}

/// RIP of the instruction behind `insn`, which is at RIP.
pub(crate) fn next_rip(cpu: &CpuState, insn: &Instruction) -> u64 {
    let ip = cpu.rip.wrapping_add(insn.len() as u64);
    if cpu.code64() { ip } else { ip & 0xffff_ffff }
}

/// Writes the low `size` bytes of register number `n` with the same rules.
pub(crate) fn set_gpr(cpu: &mut CpuState, n: usize, size: u32, v: u64) {
    let g = &mut cpu.gpr[n & 15];
    *g = match size {
        8 => v,
        4 => v & 0xffff_ffff,
        _ => (*g & !mask(size)) | (v & mask(size)),
    };
}

/// Checks `len` bytes at `offset` against a segment outside 64-bit mode
/// (SDM vol 3, 5.3 and 5.4). In real mode only the limit counts.
fn segment_allows(cpu: &CpuState, s: &Segment, offset: u64, len: u32, how: Access) -> bool {
    let last = offset.saturating_add(u64::from(len.max(1)) - 1);
    if cpu.protected() {
        let code = s.attr & attr::X != 0;
        let rw = s.attr & attr::RW != 0;
        let refused = if how.is_write() {
            code || !rw
        } else {
            code && !rw
        };
        if !s.present() || refused {
            return false;
        }
    }
    if s.attr & (attr::X | attr::EC) == attr::EC && cpu.protected() {
        let top = if s.db() { 0xffff_ffff } else { 0xffff };
        return offset > u64::from(s.limit) && last <= top;
    }
    last <= u64::from(s.limit)
}

/// DR6 bits of the data breakpoints that `len` bytes at `la` hit
/// (SDM vol 3, 17.2.4 and 17.2.5).
fn breakpoint_hits(cpu: &CpuState, la: u64, len: u32, how: Access) -> u64 {
    let dr7 = cpu.dr[7];
    let mut hits = 0;
    for i in 0..4 {
        if dr7 & (3 << (i * 2)) == 0 {
            continue;
        }
        let kind = (dr7 >> (16 + i * 4)) & 3;
        let matches = kind == 3 || (kind == 1 && how.is_write());
        let size = [1u64, 2, 8, 4][((dr7 >> (18 + i * 4)) & 3) as usize];
        let start = cpu.dr[i] & !(size - 1);
        let before = la.wrapping_sub(start) < size;
        let inside = start.wrapping_sub(la) < u64::from(len);
        if matches && (before || inside) {
            hits |= 1 << i;
        }
    }
    hits
}

impl<'a, E: Env> Ctx<'a, E> {
    /// A context for `insn`, decoded at the current CS:RIP.
    pub fn new(cpu: &'a mut CpuState, env: &'a mut E, insn: &'a Instruction) -> Self {
        let long = cpu.code64();
        Self {
            cpu,
            env,
            insn,
            db_hits: 0,
            long,
        }
    }

    /// RIP of the next instruction.
    pub fn next_rip(&self) -> u64 {
        next_rip(self.cpu, self.insn)
    }

    /// Address size of the instruction's memory operand in bytes (2, 4 or 8).
    pub fn address_size(&self) -> u32 {
        // The base decides: XLAT's index is AL.
        for r in [self.insn.memory_base(), self.insn.memory_index()] {
            let size = reg_size_addr(r);
            if size != 0 {
                return size;
            }
        }
        match self.insn.memory_displ_size() {
            n @ (2 | 4 | 8) => n,
            _ => self.cpu.bitness() / 8,
        }
    }

    /// Effective address of a ModRM/moffs memory operand whose index, if any,
    /// is a general register; the caller adds vector indices itself.
    pub fn effective(&self) -> u64 {
        let insn = self.insn;
        let mut ea = insn.memory_displacement64();
        let base = insn.memory_base();
        // RIP-relative displacements are already absolute in iced's view.
        if base != Register::None && !matches!(base, Register::RIP | Register::EIP) {
            ea = ea.wrapping_add(get_reg(self.cpu, base));
        }
        let index = insn.memory_index();
        if index != Register::None {
            let scale = u64::from(insn.memory_index_scale());
            ea = ea.wrapping_add(get_reg(self.cpu, index).wrapping_mul(scale));
        }
        ea & mask(self.address_size())
    }

    /// Segment and offset of memory operand `i`, implicit ones included.
    pub fn ea(&self, i: u32) -> (Seg, u64) {
        let seg = || seg_of(self.insn.memory_segment());
        let g = &self.cpu.gpr;
        match self.insn.op_kind(i) {
            OpKind::MemorySegSI => (seg(), g[gpr::RSI] & 0xffff),
            OpKind::MemorySegESI => (seg(), g[gpr::RSI] & 0xffff_ffff),
            OpKind::MemorySegRSI => (seg(), g[gpr::RSI]),
            OpKind::MemorySegDI => (seg(), g[gpr::RDI] & 0xffff),
            OpKind::MemorySegEDI => (seg(), g[gpr::RDI] & 0xffff_ffff),
            OpKind::MemorySegRDI => (seg(), g[gpr::RDI]),
            OpKind::MemoryESDI => (Seg::Es, g[gpr::RDI] & 0xffff),
            OpKind::MemoryESEDI => (Seg::Es, g[gpr::RDI] & 0xffff_ffff),
            OpKind::MemoryESRDI => (Seg::Es, g[gpr::RDI]),
            _ => (seg(), self.effective()),
        }
    }

    /// Linear address of `len` bytes at `seg:offset`, after the segment and
    /// canonical checks, the alignment check and the data breakpoints.
    pub fn linear(&mut self, seg: Seg, offset: u64, len: u32, how: Access) -> Result<u64, Stop> {
        let la = self.translate(seg, offset, len, how)?;
        if how.is_system() {
            return Ok(la);
        }
        if self.cpu.rflags & flags::AC != 0 {
            self.check_alignment(la, len)?;
        }
        if self.cpu.dr[7] & x86::dr::DR7_ENABLES != 0 {
            self.db_hits |= breakpoint_hits(self.cpu, la, len, how);
        }
        Ok(la)
    }

    /// The segment or canonical part of [`Self::linear`].
    fn translate(&self, seg: Seg, offset: u64, len: u32, how: Access) -> Result<u64, Stop> {
        let fault = if seg == Seg::Ss {
            Exception::SS0
        } else {
            Exception::GP0
        };
        let s = self.cpu.seg(seg);
        if self.long {
            let la = match seg {
                Seg::Fs | Seg::Gs => offset.wrapping_add(s.base),
                _ => offset,
            };
            let last = la.wrapping_add(u64::from(len.max(1)) - 1);
            if canonical48(la) && canonical48(last) {
                return Ok(la);
            }
            return Err(fault.into());
        }
        if !segment_allows(self.cpu, s, offset, len, how) {
            return Err(fault.into());
        }
        Ok(s.base.wrapping_add(offset) & 0xffff_ffff)
    }

    /// #GP(0) unless the linear address of `seg:offset` is a multiple of
    /// `unit`, a power of two. Comes before what else is wrong with the address.
    pub fn require_aligned(&self, seg: Seg, offset: u64, unit: u64) -> Result<(), Stop> {
        let flat = self.long && !matches!(seg, Seg::Fs | Seg::Gs);
        let base = if flat { 0 } else { self.cpu.seg(seg).base };
        if base.wrapping_add(offset) & (unit - 1) == 0 {
            Ok(())
        } else {
            Err(Exception::GP0.into())
        }
    }

    /// #AC(0) for a misaligned user access with CR0.AM and EFLAGS.AC (SDM vol
    /// 3, 6.15 and table 6-7). Processors report it before a page fault.
    fn check_alignment(&mut self, la: u64, len: u32) -> Result<(), Stop> {
        let unit = match len {
            2 | 4 | 8 => len,
            10 => 8,       // extended real, packed decimal
            14 | 94 => 2,  // x87 environment and state, 16-bit
            28 | 108 => 4, // and 32-bit
            _ => return Ok(()),
        };
        let aligned = la & u64::from(unit - 1) == 0;
        if aligned || self.cpu.cr0 & cr0::AM == 0 || self.cpu.cpl() != 3 {
            return Ok(());
        }
        Err(Exception::AC.into())
    }

    /// Reads `size` (1, 2, 4, 8) bytes at `seg:offset`.
    pub fn read_mem(&mut self, seg: Seg, offset: u64, size: u32) -> Result<u64, Stop> {
        let la = self.linear(seg, offset, size, Access::Read)?;
        self.env.load(self.cpu, la, size, Access::Read)
    }

    /// Writes the low `size` (1, 2, 4, 8) bytes of `v` at `seg:offset`.
    pub fn write_mem(&mut self, seg: Seg, offset: u64, size: u32, v: u64) -> Result<(), Stop> {
        let la = self.linear(seg, offset, size, Access::Write)?;
        self.env
            .store(self.cpu, la, size, v & mask(size), Access::Write)
    }

    /// Reads `buf.len()` (up to 4096) bytes at `seg:offset`.
    pub fn read_bytes(&mut self, seg: Seg, offset: u64, buf: &mut [u8]) -> Result<(), Stop> {
        let la = self.linear(seg, offset, buf.len() as u32, Access::Read)?;
        self.env.load_bytes(self.cpu, la, buf, Access::Read)
    }

    /// Writes `buf.len()` (up to 4096) bytes at `seg:offset`, all or none.
    pub fn write_bytes(&mut self, seg: Seg, offset: u64, buf: &[u8]) -> Result<(), Stop> {
        let la = self.linear(seg, offset, buf.len() as u32, Access::Write)?;
        self.env.store_bytes(self.cpu, la, buf, Access::Write)
    }

    /// Is operand `i` in memory?
    pub fn is_mem(&self, i: u32) -> bool {
        self.insn.op_kind(i) as u32 >= OpKind::MemorySegSI as u32
    }

    /// Bytes of operand `i`: register width, memory access width or the
    /// immediate's extended width.
    pub fn op_size(&self, i: u32) -> u32 {
        match self.insn.op_kind(i) {
            OpKind::Register => reg_size(self.insn.op_register(i)),
            OpKind::Immediate8 | OpKind::Immediate8_2nd => 1,
            OpKind::Immediate16 | OpKind::Immediate8to16 | OpKind::NearBranch16 => 2,
            OpKind::Immediate32 | OpKind::Immediate8to32 | OpKind::NearBranch32 => 4,
            OpKind::Immediate64 | OpKind::Immediate8to64 | OpKind::Immediate32to64 => 8,
            OpKind::NearBranch64 => 8,
            OpKind::FarBranch16 | OpKind::FarBranch32 => 0,
            _ => self.insn.memory_size().size() as u32,
        }
    }

    /// Reads operand `i`, zero-extended from its own width. A memory operand
    /// must be 1, 2, 4 or 8 bytes wide.
    pub fn read_op(&mut self, i: u32) -> Result<u64, Stop> {
        let insn = self.insn;
        match insn.op_kind(i) {
            OpKind::Register => Ok(get_reg(self.cpu, insn.op_register(i))),
            OpKind::NearBranch16 => Ok(u64::from(insn.near_branch16())),
            OpKind::NearBranch32 => Ok(u64::from(insn.near_branch32())),
            OpKind::NearBranch64 => Ok(insn.near_branch64()),
            OpKind::FarBranch16 | OpKind::FarBranch32 => Err(Exception::UD.into()),
            _ if self.is_mem(i) => {
                let (seg, off) = self.ea(i);
                let size = self.word_size(i)?;
                self.read_mem(seg, off, size)
            }
            _ => Ok(insn.immediate(i)),
        }
    }

    /// Writes operand `i` (register or memory of 1, 2, 4 or 8 bytes).
    pub fn write_op(&mut self, i: u32, v: u64) -> Result<(), Stop> {
        if self.insn.op_kind(i) == OpKind::Register {
            set_reg(self.cpu, self.insn.op_register(i), v);
            return Ok(());
        }
        let (seg, off) = self.ea(i);
        let size = self.word_size(i)?;
        self.write_mem(seg, off, size, v)
    }

    /// Replaces operand `i` by `f(old)`, atomically with a LOCK prefix. `f`
    /// may run more than once; the last run counts.
    pub fn modify_op(&mut self, i: u32, f: &mut dyn FnMut(u64) -> u64) -> Result<(), Stop> {
        if self.insn.op_kind(i) == OpKind::Register {
            let r = self.insn.op_register(i);
            let v = f(get_reg(self.cpu, r));
            set_reg(self.cpu, r, v);
            return Ok(());
        }
        let (seg, off) = self.ea(i);
        let size = self.word_size(i)?;
        let locked = self.insn.has_lock_prefix();
        self.modify_mem(seg, off, size, locked, f)
    }

    /// Replaces `size` bytes at `seg:offset` by `f(old)`.
    pub fn modify_mem(
        &mut self,
        seg: Seg,
        offset: u64,
        size: u32,
        locked: bool,
        f: &mut dyn FnMut(u64) -> u64,
    ) -> Result<(), Stop> {
        let la = self.linear(seg, offset, size, Access::ReadModify)?;
        if locked {
            self.env.update(self.cpu, la, size, f)?;
            return Ok(());
        }
        let old = self.env.load(self.cpu, la, size, Access::ReadModify)?;
        let new = f(old) & mask(size);
        self.env.store(self.cpu, la, size, new, Access::Write)
    }

    /// Size of memory operand `i`, if it fits a general register.
    fn word_size(&self, i: u32) -> Result<u32, Stop> {
        match self.op_size(i) {
            n @ (1 | 2 | 4 | 8) => Ok(n),
            _ => Err(Exception::UD.into()),
        }
    }

    /// Width of the stack pointer in bytes (SDM vol 1, 6.2.3).
    pub fn stack_size(&self) -> u32 {
        if self.long {
            8
        } else if self.cpu.seg(Seg::Ss).db() {
            4
        } else {
            2
        }
    }

    /// RSP truncated to the stack's width.
    pub fn sp(&self) -> u64 {
        self.cpu.gpr[gpr::RSP] & mask(self.stack_size())
    }

    /// Commits a new stack pointer of the stack's width.
    pub fn set_sp(&mut self, sp: u64) {
        let size = self.stack_size();
        set_gpr(self.cpu, gpr::RSP, size, sp);
    }

    /// Pushes the low `size` (2, 4, 8) bytes of `v`; RSP changes on success.
    pub fn push(&mut self, v: u64, size: u32) -> Result<(), Stop> {
        let sp = self.sp().wrapping_sub(u64::from(size)) & mask(self.stack_size());
        self.write_mem(Seg::Ss, sp, size, v)?;
        self.set_sp(sp);
        Ok(())
    }

    /// Pops `size` (2, 4, 8) bytes; RSP changes on success.
    pub fn pop(&mut self, size: u32) -> Result<u64, Stop> {
        let v = self.peek(0, size)?;
        self.set_sp(self.sp().wrapping_add(u64::from(size)));
        Ok(v)
    }

    /// Reads `size` bytes at `disp` above the stack pointer, popping nothing.
    pub fn peek(&mut self, disp: u64, size: u32) -> Result<u64, Stop> {
        let sp = self.sp().wrapping_add(disp) & mask(self.stack_size());
        self.read_mem(Seg::Ss, sp, size)
    }

    /// Checks a near-branch target of operand size `size` bytes and returns
    /// the new RIP: #GP(0) if beyond the CS limit or not canonical.
    pub fn near_target(&self, target: u64, size: u32) -> Result<u64, Stop> {
        let target = target & mask(size);
        let ok = if self.long {
            canonical48(target)
        } else {
            target <= u64::from(self.cpu.seg(Seg::Cs).limit)
        };
        if ok {
            Ok(target)
        } else {
            Err(Exception::GP0.into())
        }
    }
}

/// Bytes of an address register: 4 or 8 for EIP/RIP, 0 if there is none or it
/// is a vector index.
const fn reg_size_addr(r: Register) -> u32 {
    match r {
        Register::RIP => 8,
        Register::EIP => 4,
        _ => reg_size(r),
    }
}
