//! Register access: the xAPIC page and the x2APIC MSRs are one table of
//! registers, numbered by page offset / 16 (SDM vol 3, tables 12-1 and 12-6).

use super::{
    ESR_ILLEGAL_REGISTER, Effect, LVT_COUNT, LVT_READ_ONLY, LVT_WRITABLE, Lapic, MsrFault,
    SVR_WRITABLE,
};

pub(super) const ID: u32 = 0x02;
pub(super) const VERSION: u32 = 0x03;
pub(super) const TPR: u32 = 0x08;
const APR: u32 = 0x09;
pub(super) const PPR: u32 = 0x0a;
const EOI: u32 = 0x0b;
const RRD: u32 = 0x0c;
pub(super) const LDR: u32 = 0x0d;
pub(super) const DFR: u32 = 0x0e;
pub(super) const SVR: u32 = 0x0f;
pub(super) const ISR: u32 = 0x10;
const ISR_LAST: u32 = 0x17;
pub(super) const TMR: u32 = 0x18;
const TMR_LAST: u32 = 0x1f;
pub(super) const IRR: u32 = 0x20;
const IRR_LAST: u32 = 0x27;
pub(super) const ESR: u32 = 0x28;
const LVT_CMCI: u32 = 0x2f;
pub(super) const ICR_LOW: u32 = 0x30;
pub(super) const ICR_HIGH: u32 = 0x31;
const LVT_FIRST: u32 = 0x32;
const LVT_LAST: u32 = 0x37;
pub(super) const INITIAL_COUNT: u32 = 0x38;
pub(super) const CURRENT_COUNT: u32 = 0x39;
pub(super) const DIVIDE: u32 = 0x3e;
const SELF_IPI: u32 = 0x3f;

/// First x2APIC MSR.
const X2APIC_FIRST: u32 = 0x800;

/// LVT index of a register number.
pub(super) fn lvt_index(register: u32) -> Option<usize> {
    match register {
        LVT_FIRST..=LVT_LAST => Some((register - LVT_FIRST) as usize),
        LVT_CMCI => Some(LVT_COUNT - 1),
        _ => None,
    }
}

/// Register number of an LVT index.
pub(super) fn lvt_register(index: usize) -> u32 {
    if index == LVT_COUNT - 1 {
        LVT_CMCI
    } else {
        LVT_FIRST + index as u32
    }
}

impl Lapic {
    /// Reads the xAPIC page at a byte offset: the register's 32 bits, 0 for
    /// bytes 4..16 of its slot and for what is not there.
    pub fn read(&mut self, offset: u32, now_ns: u64) -> u32 {
        if offset & 0xc != 0 {
            return 0;
        }
        let register = offset >> 4 & 0xff;
        let value = match register {
            // Write-only registers and those of long ago read as zero.
            APR | RRD | EOI => Some(0),
            SELF_IPI => None,
            _ => self.get(register, now_ns),
        };
        value.unwrap_or_else(|| {
            self.error(ESR_ILLEGAL_REGISTER);
            0
        })
    }

    /// Writes the xAPIC page at a byte offset. Only aligned 32-bit writes
    /// reach a register; the caller drops others.
    pub fn write(&mut self, offset: u32, value: u32, now_ns: u64) -> Effect {
        if offset & 0xf != 0 {
            return Effect::None;
        }
        match offset >> 4 & 0xff {
            // Read-only since the P6 family.
            ID | VERSION | PPR | APR | RRD | CURRENT_COUNT => {}
            ISR..=IRR_LAST => {}
            LDR => self.ldr = value & 0xff00_0000,
            DFR => self.dfr = value | 0x0fff_ffff,
            ICR_HIGH => self.icr = self.icr & 0xffff_ffff | u64::from(value & 0xff00_0000) << 32,
            ICR_LOW => {
                let high = self.icr & !0xffff_ffff;
                return self.write_icr(high | u64::from(value & 0x000c_dfff));
            }
            SELF_IPI => self.error(ESR_ILLEGAL_REGISTER),
            register => {
                return self.put(register, value, now_ns).unwrap_or_else(|| {
                    self.error(ESR_ILLEGAL_REGISTER);
                    Effect::None
                });
            }
        }
        Effect::None
    }

    /// RDMSR of 0x800..=0x8ff.
    ///
    /// # Errors
    /// Not in x2APIC mode, or no readable register there.
    pub fn read_msr(&self, index: u32, now_ns: u64) -> Result<u64, MsrFault> {
        let register = self.x2apic_register(index)?;
        match register {
            ICR_LOW => Ok(self.icr),
            DFR | ICR_HIGH => Err(MsrFault),
            _ => self.get(register, now_ns).map(u64::from).ok_or(MsrFault),
        }
    }

    /// WRMSR of 0x800..=0x8ff.
    ///
    /// # Errors
    /// Not in x2APIC mode, no writable register there, or reserved bits set.
    pub fn write_msr(&mut self, index: u32, value: u64, now_ns: u64) -> Result<Effect, MsrFault> {
        let register = self.x2apic_register(index)?;
        if value & !writable_in_x2apic(register).ok_or(MsrFault)? != 0 {
            return Err(MsrFault);
        }
        match register {
            ICR_LOW => Ok(self.write_icr(value)),
            // An edge-triggered fixed IPI with the self shorthand (12.12.11).
            SELF_IPI => Ok(self.ipi(1 << 18 | 1 << 14 | value)),
            _ => self.put(register, value as u32, now_ns).ok_or(MsrFault),
        }
    }

    fn x2apic_register(&self, index: u32) -> Result<u32, MsrFault> {
        let register = index.checked_sub(X2APIC_FIRST).filter(|r| *r < 0x100);
        register.filter(|_| self.is_x2apic()).ok_or(MsrFault)
    }

    /// A register that both modes can read; `None` if there is none.
    pub(super) fn get(&self, register: u32, now_ns: u64) -> Option<u32> {
        if let Some(index) = lvt_index(register) {
            return Some(self.lvt[index]);
        }
        Some(match register {
            ID => self.id_register(),
            // Version 0x14 with EOI-broadcast suppression.
            VERSION => 0x14 | (LVT_COUNT as u32 - 1) << 16 | 1 << 24,
            TPR => self.tpr.into(),
            PPR => self.ppr().into(),
            LDR => self.logical_id(),
            DFR => self.dfr,
            SVR => self.svr,
            ISR..=ISR_LAST => self.isr.word(register - ISR),
            TMR..=TMR_LAST => self.tmr.word(register - TMR),
            IRR..=IRR_LAST => self.irr.word(register - IRR),
            ESR => self.esr,
            ICR_LOW => self.icr as u32,
            ICR_HIGH => (self.icr >> 32) as u32,
            INITIAL_COUNT => self.timer.initial(),
            CURRENT_COUNT => self.timer.current(now_ns),
            DIVIDE => self.timer.divide(),
            _ => return None,
        })
    }

    fn id_register(&self) -> u32 {
        if self.is_x2apic() {
            self.id
        } else {
            self.id << 24
        }
    }

    /// A register that both modes write alike; `None` if there is none.
    fn put(&mut self, register: u32, value: u32, now_ns: u64) -> Option<Effect> {
        if let Some(index) = lvt_index(register) {
            self.write_lvt(index, value);
            return Some(Effect::None);
        }
        match register {
            TPR => {
                self.tpr = value as u8;
                self.refresh();
            }
            EOI => return Some(self.eoi()),
            SVR => self.write_svr(value),
            ESR => self.write_esr(),
            INITIAL_COUNT => self.timer.set_initial(value, now_ns),
            DIVIDE => self.timer.set_divide(value, now_ns),
            _ => return None,
        }
        Some(Effect::None)
    }

    /// True if the register page is what a guest access at `gpa` reaches.
    pub fn owns_gpa(&self, gpa: u64) -> bool {
        self.mmio_base() == Some(gpa & !0xfff)
    }
}

/// The bits of an MSR that may be set in a WRMSR; `None` if it is not writable.
fn writable_in_x2apic(register: u32) -> Option<u64> {
    if let Some(index) = lvt_index(register) {
        return Some((LVT_WRITABLE[index] | LVT_READ_ONLY).into());
    }
    Some(match register {
        TPR | SELF_IPI => 0xff,
        EOI | ESR => 0,
        SVR => SVR_WRITABLE.into(),
        // Bit 12 was delivery status; writes of it are ignored.
        ICR_LOW => 0xffff_ffff_000c_dfff,
        INITIAL_COUNT => 0xffff_ffff,
        DIVIDE => 0xb,
        _ => return None,
    })
}
