//! Descriptor tables: selectors, descriptors and their accessed and busy bits
//! (SDM vol 3, 3.4 and 3.5).

use crate::{Access, Env, Stop};
use x86::segment::attr;
use x86::{CpuState, Exception, Seg, Segment};

/// System descriptor types (SDM vol 3, table 3-2).
pub(crate) mod kind {
    pub const TSS16: u8 = 1;
    pub const LDT: u8 = 2;
    pub const TSS16_BUSY: u8 = 3;
    pub const CALL_GATE16: u8 = 4;
    pub const TASK_GATE: u8 = 5;
    pub const INT_GATE16: u8 = 6;
    pub const TRAP_GATE16: u8 = 7;
    pub const TSS: u8 = 9;
    pub const TSS_BUSY: u8 = 11;
    pub const CALL_GATE: u8 = 12;
    pub const INT_GATE: u8 = 14;
    pub const TRAP_GATE: u8 = 15;
}

/// Bit 1 of a TSS descriptor's type: busy.
const BUSY: u8 = 2;

/// The selector's index and table, as error codes carry it.
pub(crate) const fn code(selector: u16) -> u32 {
    (selector & 0xfffc) as u32
}

/// Null selectors are 0..=3.
pub(crate) const fn is_null(selector: u16) -> bool {
    selector & 0xfffc == 0
}

/// Requested privilege level.
pub(crate) const fn rpl(selector: u16) -> u8 {
    (selector & 3) as u8
}

/// A linear address as the current mode wraps it.
pub(crate) fn linear(cpu: &CpuState, la: u64) -> u64 {
    if cpu.long_mode() {
        la
    } else {
        la & 0xffff_ffff
    }
}

/// The first eight bytes of a descriptor and where they are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptor {
    /// The bytes, little-endian.
    pub raw: u64,
    /// Linear address of the descriptor.
    pub la: u64,
    /// The selector it was found with.
    pub selector: u16,
}

impl Descriptor {
    /// As a segment register would hold it.
    pub fn segment(&self) -> Segment {
        Segment::from_descriptor(self.selector, self.raw)
    }
    /// Access byte and flags as in [`Segment::attr`].
    pub const fn attr(&self) -> u16 {
        ((self.raw >> 40) & 0xf0ff) as u16
    }
    pub const fn dpl(&self) -> u8 {
        ((self.raw >> 45) & 3) as u8
    }
    pub const fn present(&self) -> bool {
        self.attr() & attr::P != 0
    }
    /// S = 0: gate, TSS or LDT.
    pub const fn is_system(&self) -> bool {
        self.attr() & attr::S == 0
    }
    /// System descriptor type.
    pub const fn kind(&self) -> u8 {
        (self.attr() & attr::TYPE) as u8
    }
    pub const fn is_code(&self) -> bool {
        self.attr() & (attr::S | attr::X) == attr::S | attr::X
    }
    pub const fn is_data(&self) -> bool {
        self.attr() & (attr::S | attr::X) == attr::S
    }
    pub const fn is_conforming(&self) -> bool {
        self.is_code() && self.attr() & attr::EC != 0
    }
    /// Data segments and readable code segments.
    pub const fn is_readable(&self) -> bool {
        self.is_data() || (self.is_code() && self.attr() & attr::RW != 0)
    }
    pub const fn is_writable_data(&self) -> bool {
        self.is_data() && self.attr() & attr::RW != 0
    }
    /// Both L and D set is reserved in IA-32e mode.
    pub const fn is_long_code(&self) -> bool {
        self.is_code() && self.attr() & attr::L != 0
    }
    pub const fn db(&self) -> bool {
        self.attr() & attr::DB != 0
    }
    /// Target selector of a gate.
    pub const fn gate_selector(&self) -> u16 {
        (self.raw >> 16) as u16
    }
    /// 32-bit offset of a gate.
    pub const fn gate_offset32(&self) -> u64 {
        (self.raw & 0xffff) | ((self.raw >> 32) & 0xffff_0000)
    }
    /// 16-bit offset of a gate.
    pub const fn gate_offset16(&self) -> u64 {
        self.raw & 0xffff
    }
}

/// Where `selector`'s descriptor of `len` bytes starts, or `None` beyond the
/// table's limit or in an unusable LDT.
fn locate(cpu: &CpuState, selector: u16, len: u32) -> Option<u64> {
    let (base, limit) = if selector & 4 == 0 {
        (cpu.gdtr.base, u32::from(cpu.gdtr.limit))
    } else {
        let ldt = cpu.seg(Seg::Ldtr);
        if !ldt.present() {
            return None;
        }
        (ldt.base, ldt.limit)
    };
    let offset = u32::from(selector & 0xfff8);
    (offset + len - 1 <= limit).then(|| linear(cpu, base.wrapping_add(u64::from(offset))))
}

/// Reads the descriptor of `selector`; `None` if it lies beyond its table.
pub(crate) fn find<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    selector: u16,
) -> Result<Option<Descriptor>, Stop> {
    let Some(la) = locate(cpu, selector, 8) else {
        return Ok(None);
    };
    let raw = env.load(cpu, la, 8, Access::SystemRead)?;
    Ok(Some(Descriptor { raw, la, selector }))
}

/// As [`find`], raising `fault(selector)` when there is none.
pub(crate) fn read<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    selector: u16,
    fault: impl FnOnce(u32) -> Exception,
) -> Result<Descriptor, Stop> {
    match find(cpu, env, selector)? {
        Some(d) => Ok(d),
        None => Err(fault(code(selector)).into()),
    }
}

/// Reads the upper half of a 16-byte descriptor (IA-32e TSS, LDT, call gate).
/// `None` beyond the table or with a type field that is not 0 (SDM vol 3,
/// 6.8.3 and figure 8-4).
pub(crate) fn upper<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    desc: &Descriptor,
) -> Result<Option<u64>, Stop> {
    if locate(cpu, desc.selector, 16).is_none() {
        return Ok(None);
    }
    let la = linear(cpu, desc.la.wrapping_add(8));
    let high = env.load(cpu, la, 8, Access::SystemRead)?;
    Ok((high & 0x1f00_0000_0000 == 0).then_some(high))
}

/// Sets the accessed bit in memory if it is clear, and returns the segment.
pub(crate) fn accessed<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    desc: &Descriptor,
) -> Result<Segment, Stop> {
    let mut seg = desc.segment();
    if seg.attr & attr::A == 0 {
        seg.attr |= attr::A;
        store_access_byte(cpu, env, desc, (desc.raw >> 40) as u8 | attr::A as u8)?;
    }
    Ok(seg)
}

/// Sets or clears the busy bit of a TSS descriptor in memory.
pub(crate) fn set_busy<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    desc: &Descriptor,
    busy: bool,
) -> Result<(), Stop> {
    let byte = (desc.raw >> 40) as u8;
    let byte = if busy { byte | BUSY } else { byte & !BUSY };
    store_access_byte(cpu, env, desc, byte)
}

fn store_access_byte<E: Env>(
    cpu: &mut CpuState,
    env: &mut E,
    desc: &Descriptor,
    byte: u8,
) -> Result<(), Stop> {
    let la = linear(cpu, desc.la.wrapping_add(5));
    env.store(cpu, la, 1, u64::from(byte), Access::SystemWrite)
}
