//! Pushes and pops on an explicit stack: the current one, or the one a gate
//! is about to switch to. Nothing in the vCPU changes until the caller stores
//! [`Stack::sp`] back.

use super::descriptor::code;
use crate::{Access, Env, Stop};
use x86::segment::attr;
use x86::{CpuState, Exception, Seg, Segment, canonical48, gpr};

/// A stack segment with a running stack pointer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stack {
    seg: Segment,
    /// The stack pointer, full width; only the bits of `mask` move.
    pub sp: u64,
    mask: u64,
    write: Access,
    /// Error code of a #SS.
    error: u32,
}

/// True if `[offset, offset + size)` lies inside the segment (SDM vol 3, 5.3).
fn in_limit(seg: &Segment, offset: u64, size: u32) -> bool {
    let last = offset + u64::from(size) - 1;
    let limit = u64::from(seg.limit);
    if seg.attr & (attr::X | attr::EC) == attr::EC {
        let top = if seg.db() { 0xffff_ffff } else { 0xffff };
        offset > limit && last <= top
    } else {
        last <= limit
    }
}

impl Stack {
    /// The stack of the running code, accessed with the current privilege.
    pub fn current(cpu: &CpuState) -> Self {
        let seg = *cpu.seg(Seg::Ss);
        Self {
            seg,
            sp: cpu.gpr[gpr::RSP],
            mask: width(cpu.code64(), &seg),
            write: Access::Write,
            error: 0,
        }
    }

    /// The current stack, but a #SS carries `error` (EXT while an event is
    /// delivered).
    pub fn current_with_error(cpu: &CpuState, error: u32) -> Self {
        Self {
            error,
            ..Self::current(cpu)
        }
    }

    /// The stack of an inner privilege level outside IA-32e mode.
    pub fn inner(seg: Segment, sp: u64, ext: u32) -> Self {
        Self {
            mask: width(false, &seg),
            write: system_write(seg.dpl()),
            error: code(seg.selector) | ext,
            seg,
            sp,
        }
    }

    /// A 64-bit stack for code running at `cpl`.
    pub fn long(sp: u64, cpl: u8, switches: bool, error: u32) -> Self {
        Self {
            seg: null_ss(cpl),
            sp,
            mask: u64::MAX,
            write: if switches {
                system_write(cpl)
            } else {
                Access::Write
            },
            error,
        }
    }

    fn address(&self, sp: u64, size: u32) -> Result<u64, Stop> {
        let fault = Exception::ss(self.error);
        if self.mask == u64::MAX {
            let last = sp.wrapping_add(u64::from(size) - 1);
            return if canonical48(sp) && canonical48(last) {
                Ok(sp)
            } else {
                Err(fault.into())
            };
        }
        let offset = sp & self.mask;
        if !self.seg.present() || !in_limit(&self.seg, offset, size) {
            return Err(fault.into());
        }
        Ok(self.seg.base.wrapping_add(offset) & 0xffff_ffff)
    }

    fn moved(&self, delta: i64) -> u64 {
        (self.sp & !self.mask) | (self.sp.wrapping_add_signed(delta) & self.mask)
    }

    /// Pushes the low `size` bytes of `value`.
    pub fn push<E: Env>(
        &mut self,
        cpu: &mut CpuState,
        env: &mut E,
        size: u32,
        value: u64,
    ) -> Result<(), Stop> {
        let sp = self.moved(-i64::from(size));
        let la = self.address(sp, size)?;
        env.store(cpu, la, size, value, self.write)?;
        self.sp = sp;
        Ok(())
    }

    /// Pushes `values` in order, each `size` bytes.
    pub fn push_all<E: Env>(
        &mut self,
        cpu: &mut CpuState,
        env: &mut E,
        size: u32,
        values: &[u64],
    ) -> Result<(), Stop> {
        values
            .iter()
            .try_for_each(|&v| self.push(cpu, env, size, v))
    }

    /// Pushes up to six quadwords as one access of a 64-bit stack.
    pub fn push_frame64<E: Env>(
        &mut self,
        cpu: &mut CpuState,
        env: &mut E,
        values: &[u64],
    ) -> Result<(), Stop> {
        let mut image = [0u8; 48];
        let len = values.len().min(6) * 8;
        for (slot, value) in image[..len].rchunks_exact_mut(8).zip(values.iter()) {
            slot.copy_from_slice(&value.to_le_bytes());
        }
        let sp = self.moved(-(len as i64));
        let la = self.address(sp, len as u32)?;
        match env.store_bytes(cpu, la, &image[..len], self.write) {
            // The first push is at the top: it names the faulting address.
            Err(Stop::Fault(_)) => self.push_all(cpu, env, 8, values),
            Ok(()) => {
                self.sp = sp;
                Ok(())
            }
            Err(stop) => Err(stop),
        }
    }

    /// Pops `size` bytes, zero-extended.
    pub fn pop<E: Env>(&mut self, cpu: &mut CpuState, env: &mut E, size: u32) -> Result<u64, Stop> {
        let la = self.address(self.sp, size)?;
        let value = env.load(cpu, la, size, Access::Read)?;
        self.sp = self.moved(i64::from(size));
        Ok(value)
    }

    /// Releases `bytes` of parameters.
    pub fn release(&mut self, bytes: u64) {
        self.sp = self.moved(bytes as i64);
    }
}

/// Explicit accesses at CPL 3 stay user accesses; inner stacks are reached
/// with supervisor privilege while CPL still is the outer level.
fn system_write(cpl: u8) -> Access {
    if cpl == 3 {
        Access::Write
    } else {
        Access::SystemWrite
    }
}

/// The bits of RSP that a stack in `seg` uses.
pub(crate) fn width(code64: bool, seg: &Segment) -> u64 {
    match (code64, seg.db()) {
        (true, _) => u64::MAX,
        (false, true) => 0xffff_ffff,
        (false, false) => 0xffff,
    }
}

/// SS as 64-bit mode leaves it after a switch to `cpl`: null, unusable.
pub(crate) fn null_ss(cpl: u8) -> Segment {
    Segment {
        base: 0,
        limit: u32::MAX,
        selector: u16::from(cpl),
        attr: (u16::from(cpl)) << attr::DPL_SHIFT,
    }
}
