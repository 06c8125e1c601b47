//! MSI-X (PCI Local Bus 3.0, 6.8.2): a table of messages in memory and a bit
//! array of those that wait behind a mask.

use super::config::ConfigSpace;
use crate::stateful::impossible;
use state::{Image, Result};

const CAPABILITY: u8 = 0x11;
/// Message control: bits the guest changes.
const ENABLE: u16 = 1 << 15;
const FUNCTION_MASK: u16 = 1 << 14;
/// Vector control of an entry.
const MASKED: u32 = 1;
const ENTRY: u64 = 16;
const ENTRY_WORDS: usize = 4;

/// Where the capability points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsixCapability {
    /// BAR with the table at offset 0.
    pub bar: u8,
    /// Offset of the pending bits in the same BAR.
    pub pba: u32,
}

/// A message to send: address and data.
pub type Message = (u64, u32);

/// The table, the pending bits and the two control bits.
#[derive(Clone, Debug)]
pub struct Msix {
    /// Address low and high, data, vector control.
    table: Vec<[u32; ENTRY_WORDS]>,
    pending: Vec<bool>,
    /// Offset of the capability in configuration space.
    capability: u16,
    pba: u64,
    control: u16,
    /// The function may master the bus: a message is a memory write.
    master: bool,
}

impl Msix {
    /// `vectors` (1..=2048) entries, all masked; adds the capability.
    pub fn new(config: &mut ConfigSpace, vectors: u16, place: MsixCapability) -> Self {
        let mut body = [0; 10];
        body[..2].copy_from_slice(&(vectors - 1).to_le_bytes());
        body[2..6].copy_from_slice(&u32::from(place.bar).to_le_bytes());
        body[6..].copy_from_slice(&(place.pba | u32::from(place.bar)).to_le_bytes());
        let capability = config.add_capability(CAPABILITY, &body);
        config.allow(capability + 2, &(ENABLE | FUNCTION_MASK).to_le_bytes());
        Self {
            table: vec![[0, 0, 0, MASKED]; vectors.into()],
            pending: vec![false; vectors.into()],
            capability: capability as u16,
            pba: place.pba.into(),
            control: 0,
            master: false,
        }
    }

    /// Puts the table into `image`.
    pub fn save(&self, instance: &str, image: &mut Image) {
        let (table, pending) = (self.table.clone(), self.pending.clone());
        image.put(instance, &state::pci::Msix { table, pending });
    }

    /// Takes the table, after `config` was restored. What is pending goes
    /// out with the next refresh.
    pub fn restore(
        &mut self,
        config: &ConfigSpace,
        instance: &str,
        image: &mut Image,
    ) -> Result<()> {
        let saved: state::pci::Msix = image.take(instance)?;
        let lens = (saved.table.len(), saved.pending.len());
        if lens != (self.table.len(), self.pending.len()) {
            return Err(impossible("msix", instance, "another number of vectors"));
        }
        self.table = saved.table;
        self.pending = saved.pending;
        self.control = config.read(self.capability + 2, 2) as u16;
        self.master = config.command() & super::config::command::MASTER != 0;
        Ok(())
    }

    /// The guest uses MSI-X, not INTx.
    pub fn enabled(&self) -> bool {
        self.control & ENABLE != 0
    }

    /// Number of entries.
    pub fn vectors(&self) -> u16 {
        self.table.len() as u16
    }

    /// Takes over what a configuration write may have changed. Returns the
    /// messages that waited for it.
    pub fn refresh(&mut self, config: &ConfigSpace) -> Vec<Message> {
        self.control = config.read(self.capability + 2, 2) as u16;
        self.master = config.command() & super::config::command::MASTER != 0;
        (0..self.vectors()).filter_map(|v| self.unpend(v)).collect()
    }

    /// The device asks for vector `vector`: a message to send now, or it
    /// waits behind a mask. A vector that does not exist is lost.
    pub fn raise(&mut self, vector: u16) -> Option<Message> {
        let entry = self.table.get(usize::from(vector))?;
        if !self.enabled() {
            return None;
        }
        if self.is_masked(entry) {
            self.pending[usize::from(vector)] = true;
            return None;
        }
        Some(message(entry))
    }

    fn is_masked(&self, entry: &[u32; ENTRY_WORDS]) -> bool {
        self.control & FUNCTION_MASK != 0 || entry[3] & MASKED != 0 || !self.master
    }

    fn unpend(&mut self, vector: u16) -> Option<Message> {
        let at = usize::from(vector);
        let entry = self.table.get(at)?;
        if !self.pending[at] || !self.enabled() || self.is_masked(entry) {
            return None;
        }
        self.pending[at] = false;
        Some(message(entry))
    }

    /// Reads `size` bytes of the BAR: aligned dwords and qwords only, as the
    /// specification demands of drivers; anything else reads as 0.
    pub fn read(&self, offset: u64, size: u8) -> u64 {
        match (size, offset % u64::from(size.max(1))) {
            (4, 0) => self.dword(offset).into(),
            (8, 0) => u64::from(self.dword(offset)) | u64::from(self.dword(offset + 4)) << 32,
            _ => 0,
        }
    }

    fn dword(&self, offset: u64) -> u32 {
        if let Some(word) = offset.checked_sub(self.pba) {
            let bits = self.pending.iter().enumerate();
            let first = (word as usize).saturating_mul(8);
            let inside = bits.skip(first).take(32);
            return inside.fold(0, |v, (i, &p)| v | u32::from(p) << (i - first));
        }
        let entry = self.table.get((offset / ENTRY) as usize);
        entry.map_or(0, |e| e[(offset % ENTRY / 4) as usize])
    }

    /// Writes `size` bytes of the BAR; returns the message that waited.
    pub fn write(&mut self, offset: u64, size: u8, value: u64) -> Option<Message> {
        match (size, offset % u64::from(size.max(1))) {
            (4, 0) => self.set_dword(offset, value as u32),
            (8, 0) => {
                let low = self.set_dword(offset, value as u32);
                let high = self.set_dword(offset + 4, (value >> 32) as u32);
                low.or(high)
            }
            _ => None,
        }
    }

    fn set_dword(&mut self, offset: u64, value: u32) -> Option<Message> {
        if offset >= self.pba {
            return None;
        }
        let at = (offset / ENTRY) as usize;
        let word = (offset % ENTRY / 4) as usize;
        let entry = self.table.get_mut(at)?;
        entry[word] = match word {
            0 => value & !3,
            3 => value & MASKED,
            _ => value,
        };
        self.unpend(at as u16)
    }
}

fn message(entry: &[u32; ENTRY_WORDS]) -> Message {
    (u64::from(entry[1]) << 32 | u64::from(entry[0]), entry[2])
}

#[cfg(test)]
mod tests {
    use super::super::config::{Identity, command};
    use super::*;

    fn msix() -> (ConfigSpace, Msix) {
        let mut config = ConfigSpace::new(&Identity {
            vendor: 1,
            device: 2,
            revision: 0,
            class: 0,
            subsystem: (0, 0),
        });
        let place = MsixCapability { bar: 1, pba: 0x800 };
        let msix = Msix::new(&mut config, 3, place);
        (config, msix)
    }

    fn enable(config: &mut ConfigSpace, msix: &mut Msix, control: u16) -> Vec<Message> {
        config.write(4, 2, command::MASTER.into());
        config.write(0x42, 2, control.into());
        msix.refresh(config)
    }

    #[test]
    fn the_capability_says_where_things_are() {
        let (mut config, mut msix) = msix();
        assert_eq!(config.read(0x40, 4), 0x0002_0011);
        assert_eq!(config.read(0x44, 4), 1);
        assert_eq!(config.read(0x48, 4), 0x801);
        enable(&mut config, &mut msix, 0xffff);
        assert_eq!(config.read(0x42, 2), 0xc002);
    }

    #[test]
    fn a_message_goes_out_once_it_is_unmasked() {
        let (mut config, mut msix) = msix();
        assert_eq!(msix.raise(1), None);
        enable(&mut config, &mut msix, ENABLE);
        msix.write(0x10, 4, 0xfee0_0000);
        msix.write(0x18, 4, 0x41);
        assert_eq!(msix.raise(1), None, "entries begin masked");
        assert_eq!(msix.read(0x800, 4), 0b010);
        assert_eq!(msix.write(0x1c, 4, 0), Some((0xfee0_0000, 0x41)));
        assert_eq!(msix.read(0x800, 8), 0);
        assert_eq!(msix.raise(1), Some((0xfee0_0000, 0x41)));
        assert_eq!(msix.raise(3), None, "no such vector");
    }

    #[test]
    fn function_mask_and_bus_mastering_hold_messages_back() {
        let (mut config, mut msix) = msix();
        enable(&mut config, &mut msix, ENABLE | FUNCTION_MASK);
        msix.write(0x0c, 4, 0);
        assert_eq!(msix.raise(0), None);
        assert_eq!(enable(&mut config, &mut msix, ENABLE), [(0, 0)]);
        config.write(4, 2, 0);
        msix.refresh(&config);
        assert_eq!(msix.raise(0), None);
        assert_eq!(enable(&mut config, &mut msix, ENABLE).len(), 1);
    }

    #[test]
    fn no_access_panics() {
        let (_, mut msix) = msix();
        for offset in (0..0x1010).chain([u64::MAX - 8, u64::MAX - 7]) {
            for size in [0, 1, 2, 3, 4, 8, 255] {
                msix.write(offset, size, u64::MAX);
                msix.read(offset, size);
            }
        }
        assert_eq!(msix.read(0x800, 4), 0, "pending bits are read-only");
    }
}
