//! The I/O APIC (Intel 82093AA data sheet 290566; EOI register and version
//! 0x20 as in the ICH/82801 data sheets).

use crate::message::{Delivery, Message};

/// Default guest-physical address of the register window.
pub const IOAPIC_BASE: u64 = 0xfec0_0000;
/// Size of the register window in bytes.
pub const IOAPIC_SIZE: u64 = 0x1000;

const PINS: usize = 24;
/// From version 0x20 on there is an EOI register.
const VERSION: u32 = 0x20;

const LOGICAL: u64 = 1 << 11;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
/// Delivery status and remote IRR are read-only; bits 17..=48 are reserved.
/// Bits 49..=55 are the extended destination id (`KVM_FEATURE_MSI_EXT_DEST_ID`).
const WRITABLE: u64 = 0xfffe_0000_0001_afff;

const REG_SELECT: u32 = 0x00;
const REG_WINDOW: u32 = 0x10;
const REG_EOI: u32 = 0x40;

/// True if the entry's message is one that software ends with an EOI.
fn has_eoi(entry: u64) -> bool {
    matches!(
        Delivery::from_bits(entry as u32 >> 8),
        Delivery::Fixed | Delivery::LowestPriority
    )
}

/// Saved state with `kvm_ioapic_state`'s fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "names and meaning are kvm_ioapic_state's")]
pub struct IoApicState {
    pub base_address: u64,
    pub ioregsel: u32,
    pub id: u32,
    pub irr: u32,
    pub redirtbl: [u64; PINS],
}

/// A 24-pin I/O APIC.
///
/// It does not deliver: [`IoApic::service`] says which message a pin has to
/// send, and whoever delivered it reports acceptance with
/// [`IoApic::accepted`].
#[derive(Clone, Debug)]
pub struct IoApic {
    select: u8,
    id: u32,
    /// Input levels.
    lines: u32,
    table: [u64; PINS],
}

impl Default for IoApic {
    fn default() -> Self {
        Self::new()
    }
}

impl IoApic {
    /// Power-up state: all pins masked.
    pub fn new() -> Self {
        Self {
            select: 0,
            id: 0,
            lines: 0,
            table: [MASKED; PINS],
        }
    }

    /// Back to power-up; the input lines stay as they are driven.
    pub fn reset(&mut self) {
        *self = Self {
            lines: self.lines,
            ..Self::new()
        };
    }

    /// Drives a pin. Returns true if it may have a message to send now: call
    /// [`IoApic::service`].
    pub fn set_pin(&mut self, pin: u8, level: bool) -> bool {
        if usize::from(pin) >= PINS {
            return false;
        }
        let bit = 1 << pin;
        let rose = level && self.lines & bit == 0;
        self.lines = if level {
            self.lines | bit
        } else {
            self.lines & !bit
        };
        // An edge on a masked pin is lost (82093AA 3.2.4, interrupt mask).
        rose || level && self.table[usize::from(pin)] & LEVEL != 0
    }

    /// The message a pin must send, if it is unmasked and, level-triggered,
    /// asserted and not waiting for an EOI. For an edge-triggered pin the
    /// caller knows that an edge came.
    pub fn service(&self, pin: u8) -> Option<Message> {
        let entry = *self.table.get(usize::from(pin))?;
        if entry & MASKED != 0 {
            return None;
        }
        let level = entry & LEVEL != 0;
        if level && (entry & REMOTE_IRR != 0 || self.lines >> pin & 1 == 0) {
            return None;
        }
        let id = (entry >> 56) as u32 | ((entry >> 49) as u32 & 0x7f) << 8;
        let delivery = Delivery::from_bits(entry as u32 >> 8);
        // SMI, NMI, INIT and ExtINT are always edges (82093AA 3.2.4).
        let level = level && has_eoi(entry);
        Some(Message {
            destination: Message::external(id, entry & LOGICAL != 0),
            delivery,
            vector: entry as u8,
            level,
            assert: true,
        })
    }

    /// Some local APIC accepted the pin's message.
    pub fn accepted(&mut self, pin: u8) {
        if let Some(entry) = self.table.get_mut(usize::from(pin))
            && *entry & LEVEL != 0
            && has_eoi(*entry)
        {
            *entry |= REMOTE_IRR;
        }
    }

    /// An EOI for `vector` came. Returns the pins (bit n for pin n) that it
    /// was for and that should be serviced again.
    pub fn eoi(&mut self, vector: u8) -> u32 {
        let mut pins = 0;
        for (pin, entry) in self.table.iter_mut().enumerate() {
            if *entry as u8 == vector && *entry & (LEVEL | REMOTE_IRR) == LEVEL | REMOTE_IRR {
                *entry &= !REMOTE_IRR;
                pins |= 1 << pin;
            }
        }
        pins
    }

    /// Pins whose redirection entry has this vector, bit n for pin n.
    pub fn pins_with_vector(&self, vector: u8) -> u32 {
        let with = |(pin, entry): (usize, &u64)| u32::from(*entry as u8 == vector) << pin;
        self.table.iter().enumerate().map(with).sum()
    }

    /// True if the pin is masked or does not exist.
    pub fn is_masked(&self, pin: u8) -> bool {
        let entry = self.table.get(usize::from(pin));
        entry.is_none_or(|entry| entry & MASKED != 0)
    }

    /// Reads the register at a byte offset of the window.
    pub fn read(&self, offset: u32) -> u32 {
        match offset & 0xff0 {
            REG_SELECT => self.select.into(),
            REG_WINDOW => self.read_indirect(),
            _ => 0,
        }
    }

    /// Writes a register. Returns the pins that should be serviced.
    pub fn write(&mut self, offset: u32, value: u32) -> u32 {
        match offset & 0xff0 {
            REG_SELECT => self.select = value as u8,
            REG_WINDOW => return self.write_indirect(value),
            REG_EOI => return self.eoi(value as u8),
            _ => {}
        }
        0
    }

    /// True for the offset of the EOI register.
    pub(crate) const fn is_eoi(offset: u32) -> bool {
        offset & 0xff0 == REG_EOI
    }

    fn read_indirect(&self) -> u32 {
        match self.select {
            // The arbitration id follows the id.
            0 | 2 => self.id << 24,
            1 => VERSION | (PINS as u32 - 1) << 16,
            select => match self.entry_of(select) {
                Some((pin, high)) => (self.table[pin] >> high) as u32,
                None => 0,
            },
        }
    }

    /// Redirection entry and shift of the half that the register is.
    fn entry_of(&self, select: u8) -> Option<(usize, u32)> {
        let index = usize::from(select.checked_sub(0x10)?);
        (index / 2 < PINS).then_some((index / 2, if index & 1 == 0 { 0 } else { 32 }))
    }

    fn write_indirect(&mut self, value: u32) -> u32 {
        if self.select == 0 {
            self.id = value >> 24 & 0xf;
        }
        let Some((pin, shift)) = self.entry_of(self.select) else {
            return 0;
        };
        let mask = WRITABLE & u64::from(u32::MAX) << shift;
        let old = self.table[pin];
        let mut entry = old & !mask | u64::from(value) << shift & mask;
        if entry & LEVEL == 0 {
            // Software without an EOI register clears remote IRR by switching
            // the pin to edge and back.
            entry &= !REMOTE_IRR;
        }
        self.table[pin] = entry;
        if entry & LEVEL != 0 { 1 << pin } else { 0 }
    }

    /// The entry of pin 0 if it passes the 8259s' interrupts on (ExtINT).
    pub(crate) fn extint(&self) -> Option<Message> {
        self.service(0)
            .filter(|message| message.delivery == Delivery::ExtInt)
    }

    /// Saved state.
    pub fn state(&self) -> IoApicState {
        IoApicState {
            base_address: IOAPIC_BASE,
            ioregsel: self.select.into(),
            id: self.id,
            irr: self.lines,
            redirtbl: self.table,
        }
    }

    /// Restores what [`IoApic::state`] returned; the base address is fixed.
    /// Returns the pins that should be serviced.
    pub fn set_state(&mut self, state: &IoApicState) -> u32 {
        self.select = state.ioregsel as u8;
        self.id = state.id & 0xf;
        self.lines = state.irr & ((1 << PINS) - 1);
        self.table = state.redirtbl.map(|e| e & (WRITABLE | REMOTE_IRR));
        self.lines
            & (0..PINS).fold(0, |pins, pin| {
                pins | u32::from(self.table[pin] & LEVEL != 0) << pin
            })
    }
}

#[cfg(test)]
mod tests;
