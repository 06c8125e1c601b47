//! Saved state: the register page as `kvm_lapic_state` holds it.
//!
//! IA32_APIC_BASE and IA32_TSC_DEADLINE are not in it; they are MSRs. Set
//! IA32_APIC_BASE before the page, and IA32_TSC_DEADLINE after it. Pending
//! NMI, INIT and SIPI belong to `kvm_vcpu_events`.

use super::registers::{
    CURRENT_COUNT, DFR, DIVIDE, ESR, ICR_HIGH, ICR_LOW, ID, INITIAL_COUNT, IRR, ISR, LDR, PPR, SVR,
    TMR, TPR, VERSION, lvt_register,
};
use super::{LVT_COUNT, LVT_READ_ONLY, LVT_TIMER, LVT_WRITABLE, Lapic, SVR_WRITABLE, timer::Mode};

/// Size of the register page in bytes (`KVM_APIC_REG_SIZE`).
pub const LAPIC_PAGE: usize = 0x400;

fn word(page: &[u8; LAPIC_PAGE], register: u32) -> u32 {
    let at = (register as usize) << 4;
    match page.get(at..at + 4) {
        Some(&[a, b, c, d]) => u32::from_le_bytes([a, b, c, d]),
        _ => 0,
    }
}

impl Lapic {
    /// The register page. In x2APIC mode the id register holds all 32 bits
    /// and the ICR halves are the MSR's, as under `KVM_CAP_X2APIC_API`.
    pub fn page(&self, now_ns: u64) -> [u8; LAPIC_PAGE] {
        let mut page = [0; LAPIC_PAGE];
        let single = [
            ID,
            VERSION,
            TPR,
            PPR,
            LDR,
            DFR,
            SVR,
            ESR,
            ICR_LOW,
            ICR_HIGH,
            INITIAL_COUNT,
            CURRENT_COUNT,
            DIVIDE,
        ];
        let sets = (0..8).flat_map(|i| [ISR + i, TMR + i, IRR + i]);
        let lvts = (0..LVT_COUNT).map(lvt_register);
        for register in single.into_iter().chain(sets).chain(lvts) {
            let value = self.get(register, now_ns).unwrap_or(0);
            let at = (register as usize) << 4;
            page[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        page
    }

    /// Restores a register page; reserved bits and the id are ignored. The
    /// timer goes on from the page's current count.
    pub fn set_page(&mut self, page: &[u8; LAPIC_PAGE], now_ns: u64) {
        self.tpr = word(page, TPR) as u8;
        if !self.is_x2apic() {
            self.ldr = word(page, LDR) & 0xff00_0000;
        }
        self.dfr = word(page, DFR) | 0x0fff_ffff;
        self.svr = word(page, SVR) & SVR_WRITABLE;
        for i in 0..8 {
            self.isr.set_word(i, word(page, ISR + i));
            self.tmr.set_word(i, word(page, TMR + i));
            self.irr.set_word(i, word(page, IRR + i));
        }
        self.esr = word(page, ESR);
        self.errors = 0;
        let high = word(page, ICR_HIGH);
        self.icr = u64::from(word(page, ICR_LOW) & 0x000c_dfff & !(1 << 12))
            | u64::from(if self.is_x2apic() {
                high
            } else {
                high & 0xff00_0000
            }) << 32;
        for (index, lvt) in self.lvt.iter_mut().enumerate() {
            let bits = LVT_WRITABLE[index] | LVT_READ_ONLY & (1 << 14);
            *lvt = word(page, lvt_register(index)) & bits;
        }
        self.timer.restore(
            Mode::of_lvt(self.lvt[LVT_TIMER]),
            word(page, INITIAL_COUNT),
            word(page, CURRENT_COUNT),
            word(page, DIVIDE),
            now_ns,
        );
        self.refresh();
    }
}
