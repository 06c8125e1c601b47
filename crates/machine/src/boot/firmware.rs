//! What firmware would have set up on every processor before a kernel runs.

use hv::Vcpu;
use x86::msr;

/// MTRRs enabled, default type write-back (SDM vol 3, 12.11.2.1).
const MTRR_WRITE_BACK: u64 = 1 << 11 | 6;
/// Fast string operations (SDM vol 4, IA32_MISC_ENABLE).
const FAST_STRINGS: u64 = 1;
/// Local APIC registers (SDM vol 3, 11.5.1): offset, value.
const LVT_LINT0: (usize, u32) = (0x350, 0x700); // ExtINT
const LVT_LINT1: (usize, u32) = (0x360, 0x400); // NMI

/// Puts processor `id` into the state a PC's firmware leaves.
pub fn firmware_state(vcpu: &mut dyn Vcpu, id: u32) -> hv::Result<()> {
    for (index, value) in [
        (msr::MTRR_DEF_TYPE, MTRR_WRITE_BACK),
        (msr::MISC_ENABLE, FAST_STRINGS),
    ] {
        match vcpu.set_msr(index, value) {
            // A backend without it has the behaviour anyway.
            Ok(()) | Err(hv::Error::NoSuchMsr(_)) => {}
            Err(error) => return Err(error),
        }
    }
    // "Virtual wire": the 8259's output reaches the bootstrap processor.
    if id == 0 {
        let mut lapic = vcpu.lapic()?;
        for (offset, value) in [LVT_LINT0, LVT_LINT1] {
            for (to, from) in lapic.regs[offset..].iter_mut().zip(value.to_le_bytes()) {
                *to = from as _;
            }
        }
        vcpu.set_lapic(&lapic)?;
    }
    Ok(())
}
