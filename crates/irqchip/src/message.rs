//! Interrupt messages: what the I/O APIC, MSIs and the ICR send to local APICs.

/// Delivery mode, the 3-bit field of ICR, LVT, RTE and MSI data (SDM vol 3,
/// 12.6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// To every addressed local APIC.
    Fixed,
    /// To one of the addressed local APICs.
    LowestPriority,
    /// System management interrupt; ignored.
    Smi,
    /// Remote read of old, ignored.
    Reserved,
    /// Non-maskable interrupt.
    Nmi,
    /// INIT.
    Init,
    /// Startup IPI; the vector is the start page.
    Startup,
    /// Vector supplied by the 8259 pair.
    ExtInt,
}

impl Delivery {
    /// Decodes the low three bits.
    pub const fn from_bits(bits: u32) -> Self {
        match bits & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::Smi,
            3 => Self::Reserved,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::Startup,
            _ => Self::ExtInt,
        }
    }
}

/// Which local APICs a message addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The one with this APIC id.
    Physical(u32),
    /// Those whose logical id matches.
    Logical(u32),
    /// The one at this vCPU index.
    Only(usize),
    /// All of them.
    All,
    /// All except that of this vCPU index.
    AllBut(usize),
}

/// An interrupt message on its way to local APICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Addressed local APICs.
    pub destination: Destination,
    /// Delivery mode.
    pub delivery: Delivery,
    /// Vector; below 16 it is illegal except for startup.
    pub vector: u8,
    /// Level-triggered: EOI is broadcast to the I/O APIC.
    pub level: bool,
    /// False only for the INIT level de-assert of old.
    pub assert: bool,
}

impl Message {
    /// Decodes an MSI (SDM vol 3, 12.11). `None` if the address is not in the
    /// interrupt window 0xfee0_0000 .. 0xfef0_0000.
    ///
    /// Destination ids beyond 8 bits come in address bits 11:5 (bits 14:8 of
    /// the id, `KVM_FEATURE_MSI_EXT_DEST_ID`) or 63:40 (bits 31:8, KVM's
    /// x2APIC API).
    pub fn from_msi(address: u64, data: u32) -> Option<Self> {
        if address as u32 >> 20 != 0xfee {
            return None;
        }
        let low = (address >> 12) as u32 & 0xff;
        let extended = (address >> 5) as u32 & 0x7f;
        let high = (address >> 32) as u32 & 0xffff_ff00;
        let hint = address & 1 << 3 != 0;
        let delivery = match Delivery::from_bits(data >> 8) {
            Delivery::Fixed if hint => Delivery::LowestPriority,
            other => other,
        };
        Some(Self {
            destination: Self::external(low | extended << 8 | high, address & 1 << 2 != 0),
            delivery,
            vector: data as u8,
            level: data & 1 << 15 != 0,
            assert: data & 1 << 15 == 0 || data & 1 << 14 != 0,
        })
    }

    /// The destination of a message from outside the CPUs. They know 8-bit
    /// ids, so 0xff is broadcast even to local APICs in x2APIC mode.
    pub(crate) const fn external(id: u32, logical: bool) -> Destination {
        match (id, logical) {
            (0xff, _) => Destination::All,
            (id, true) => Destination::Logical(id),
            (id, false) => Destination::Physical(id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn msi_fields() {
        let msg = Message::from_msi(0xfee0_3000, 0x0000_0041).unwrap();
        assert_eq!(msg.destination, Destination::Physical(3));
        assert_eq!(msg.delivery, Delivery::Fixed);
        assert_eq!((msg.vector, msg.level, msg.assert), (0x41, false, true));

        let logical = Message::from_msi(0xfee0_100c, 0xc141).unwrap();
        assert_eq!(logical.destination, Destination::Logical(1));
        assert_eq!(logical.delivery, Delivery::LowestPriority);
        assert!(logical.level && logical.assert);

        assert_eq!(Message::from_msi(0xfed0_0000, 0x41), None);
        assert_eq!(Message::from_msi(0xfef0_0000, 0x41), None);
    }

    #[test]
    fn msi_extended_destinations() {
        let ext = Message::from_msi(0xfee0_1020, 0x41).unwrap();
        assert_eq!(ext.destination, Destination::Physical(0x101));
        let high = Message::from_msi(0x0000_0100_fee0_2000, 0x41).unwrap();
        assert_eq!(high.destination, Destination::Physical(0x102));
        let all = Message::from_msi(0xfeef_f000, 0x41).unwrap();
        assert_eq!(all.destination, Destination::All);
    }
}
