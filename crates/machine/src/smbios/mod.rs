//! SMBIOS 2.8 tables (DMTF DSP0134) where a PC's firmware leaves them, so
//! that a directly booted kernel finds them: the entry point lies at a
//! multiple of 16 between 0xf0000 and 0xfffff. Structures, handles and
//! defaults follow QEMU's.

mod fields;
mod structure;
mod tables;

pub use fields::{FIELDS, FieldRow, SmbiosValue};

use crate::config::MachineConfig;
use crate::layout::{Layout, SMBIOS_FIRST};
use crate::outcome::{Error, Result};
use structure::Structure;

/// Behind the tables; the last bytes of the area are the reset vector's and
/// the BIOS date's.
const END: u64 = 0xf_ff00;
const ANCHOR_LEN: usize = 31;
/// Length of the second half of the entry point.
const INTERMEDIATE: usize = 16;

/// Entry point and structures, and where they go.
pub struct Smbios {
    /// Guest-physical address of the entry point; the structures follow at
    /// the next multiple of 16.
    pub gpa: u64,
    /// The entry point.
    pub anchor: Vec<u8>,
    /// The structures.
    pub tables: Vec<u8>,
}

impl Smbios {
    /// Builds the tables of a machine.
    pub fn new(config: &MachineConfig, layout: &Layout) -> Result<Self> {
        let structures = tables::all(config, layout);
        let tables: Vec<u8> = structures.iter().flat_map(Structure::bytes).collect();
        let len = (ANCHOR_LEN.next_multiple_of(16) + tables.len()) as u64;
        let gpa = END.checked_sub(len).map(|gpa| gpa & !15);
        let gpa = gpa.filter(|&gpa| gpa >= SMBIOS_FIRST).ok_or_else(|| {
            let room = END - SMBIOS_FIRST;
            Error::Smbios(format!("{len} bytes of tables, there is room for {room}"))
        })?;
        let largest = structures.iter().map(|s| s.bytes().len()).max();
        let anchor = anchor(
            (gpa + ANCHOR_LEN.next_multiple_of(16) as u64) as u32,
            tables.len() as u16,
            structures.len() as u16,
            largest.unwrap_or(0) as u16,
        );
        Ok(Self {
            gpa,
            anchor,
            tables,
        })
    }

    /// Everything, from [`Self::gpa`] on.
    pub fn image(&self) -> Vec<u8> {
        let mut image = self.anchor.clone();
        image.resize(ANCHOR_LEN.next_multiple_of(16), 0);
        image.extend(&self.tables);
        image
    }
}

/// The 32-bit entry point (5.2.1).
fn anchor(address: u32, len: u16, count: u16, largest: u16) -> Vec<u8> {
    let mut bytes = b"_SM_".to_vec();
    bytes.extend([0, ANCHOR_LEN as u8, 2, 8]);
    bytes.extend(largest.to_le_bytes());
    bytes.extend([0; 6]);
    bytes.extend(b"_DMI_\0");
    bytes.extend(len.to_le_bytes());
    bytes.extend(address.to_le_bytes());
    bytes.extend(count.to_le_bytes());
    bytes.push(0x28);
    bytes[21] = negative_sum(&bytes[INTERMEDIATE..]);
    bytes[4] = negative_sum(&bytes);
    bytes
}

fn negative_sum(bytes: &[u8]) -> u8 {
    let sum = bytes.iter().fold(0u8, |a, b| a.wrapping_add(*b));
    sum.wrapping_neg()
}

#[cfg(test)]
mod tests;
