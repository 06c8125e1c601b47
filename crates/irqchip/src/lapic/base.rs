//! IA32_APIC_BASE and the modes it selects (SDM vol 3, 12.4.3, 12.4.4 and
//! 12.12.5).

use super::{BASE_BSP, BASE_ENABLE, BASE_X2APIC, Lapic, MsrFault};

const MODE: u64 = BASE_ENABLE | BASE_X2APIC;

impl Lapic {
    /// IA32_APIC_BASE.
    pub fn apic_base(&self) -> u64 {
        self.apic_base
    }

    /// True if globally enabled, in either mode.
    pub fn is_enabled(&self) -> bool {
        self.apic_base & BASE_ENABLE != 0
    }

    /// True in x2APIC mode.
    pub fn is_x2apic(&self) -> bool {
        self.apic_base & MODE == MODE
    }

    /// Guest-physical address of the register page in xAPIC mode.
    pub fn mmio_base(&self) -> Option<u64> {
        (self.apic_base & MODE == BASE_ENABLE).then_some(self.apic_base & !0xfff)
    }

    /// WRMSR to IA32_APIC_BASE.
    ///
    /// # Errors
    /// Reserved bits, and the transitions that figure 12-27 lacks: into
    /// x2APIC mode from disabled, from x2APIC to xAPIC mode, and to EXTD
    /// without EN.
    pub fn write_apic_base(&mut self, value: u64) -> Result<(), MsrFault> {
        let address = ((1u64 << self.phys_bits) - 1) & !0xfff;
        if value & !(address | MODE | BASE_BSP) != 0 {
            return Err(MsrFault);
        }
        let (old, new) = (self.apic_base & MODE, value & MODE);
        let illegal = matches!(
            (old, new),
            (_, BASE_X2APIC) | (0, MODE) | (MODE, BASE_ENABLE)
        );
        if illegal {
            return Err(MsrFault);
        }
        self.enter(value);
        Ok(())
    }

    /// Sets IA32_APIC_BASE with host privilege: any mode from any mode.
    ///
    /// # Errors
    /// EXTD without EN.
    pub fn set_apic_base(&mut self, value: u64) -> Result<(), MsrFault> {
        if value & MODE == BASE_X2APIC {
            return Err(MsrFault);
        }
        self.enter(value);
        Ok(())
    }

    fn enter(&mut self, value: u64) {
        let (old, new) = (self.apic_base & MODE, value & MODE);
        self.apic_base = value;
        if new == 0 && old != 0 {
            // State is not kept while disabled (12.4.3, 12.12.5.1).
            self.reset_registers();
        }
        if new == MODE && old != MODE {
            // The destination half means something else now.
            self.icr &= 0xffff_ffff;
        }
        self.refresh();
    }
}
