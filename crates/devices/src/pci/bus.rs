//! The root bus: functions by address, and the ranges they decode.

use super::config::Space;
use super::function::{Address, PciFunction, Window};
use crate::bus::{Claim, Decoder};
use crate::{Effect, all_ones};
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Why a function cannot be plugged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlugError {
    /// Something is there already.
    Taken(Address),
    /// All slots are taken.
    Full,
}

/// The bus behind the host bridge, bus number 0. The guest changes nothing
/// but the decoded ranges while the machine runs.
#[derive(Default)]
pub struct PciRoot {
    functions: BTreeMap<u8, Arc<dyn PciFunction>>,
    /// Sorted by space and first address. Taken before any function's lock,
    /// and never held while a BAR is accessed.
    decoded: RwLock<Vec<Decoded>>,
}

struct Decoded {
    window: Window,
    function: Arc<dyn PciFunction>,
}

impl Decoded {
    fn key(&self) -> (Space, u64) {
        (self.window.space, self.window.first)
    }
}

impl PciRoot {
    /// A bus without functions.
    pub fn new() -> Self {
        Self::default()
    }

    /// Plugs a function in.
    pub fn plug(
        &mut self,
        address: Address,
        function: Arc<dyn PciFunction>,
    ) -> Result<(), PlugError> {
        if self.functions.contains_key(&address.devfn()) {
            return Err(PlugError::Taken(address));
        }
        self.functions.insert(address.devfn(), function);
        self.refresh();
        Ok(())
    }

    /// The first slot without a function, as QEMU chooses it.
    pub fn free_slot(&self) -> Result<Address, PlugError> {
        let taken = |slot: u8| self.functions.keys().any(|devfn| devfn >> 3 == slot);
        let slot = (0..32).find(|&slot| !taken(slot));
        slot.and_then(|slot| Address::new(slot, 0))
            .ok_or(PlugError::Full)
    }

    /// The functions, by address.
    pub fn functions(&self) -> impl Iterator<Item = (Address, &dyn PciFunction)> {
        let entries = self.functions.iter();
        entries.map(|(&devfn, function)| (Address::from_devfn(devfn), &**function))
    }

    /// Reads `size` (1, 2, 4) bytes of configuration space; all ones where
    /// no function is.
    pub fn config_read(&self, bus: u8, address: Address, offset: u16, size: u8) -> u32 {
        match self.function(bus, address) {
            Some(function) => function.config_read(offset, size),
            None => all_ones(size) as u32,
        }
    }

    /// Writes `size` (1, 2, 4) bytes of configuration space.
    pub fn config_write(
        &self,
        bus: u8,
        address: Address,
        offset: u16,
        size: u8,
        value: u32,
    ) -> Option<Effect> {
        let function = self.function(bus, address)?;
        let effect = function.config_write(offset, size, value);
        if function.moves_windows(offset) {
            self.refresh();
        }
        effect
    }

    fn function(&self, bus: u8, address: Address) -> Option<&dyn PciFunction> {
        let function = self.functions.get(&address.devfn());
        function.filter(|_| bus == 0).map(|f| &**f)
    }

    /// Asks every function what it decodes.
    fn refresh(&self) {
        let mut decoded = self.decoded.write();
        decoded.clear();
        for function in self.functions.values() {
            decoded.extend(function.windows().into_iter().map(|window| Decoded {
                window,
                function: function.clone(),
            }));
        }
        decoded.sort_by_key(Decoded::key);
    }

    /// The function, BAR and offset behind an access that lies in one range.
    /// Where ranges overlap, the one that begins last wins.
    fn find(
        &self,
        space: Space,
        address: u64,
        size: u8,
    ) -> Option<(Arc<dyn PciFunction>, u8, u64)> {
        let last = address.checked_add(u64::from(size).checked_sub(1)?)?;
        let decoded = self.decoded.read();
        let at = decoded.partition_point(|d| d.key() <= (space, address));
        let Decoded { window, function } = decoded[..at].last()?;
        let inside = window.space == space && last <= window.last;
        inside.then(|| (function.clone(), window.bar, address - window.first))
    }

    fn read(&self, space: Space, address: u64, size: u8) -> Option<u64> {
        let (function, bar, offset) = self.find(space, address, size)?;
        Some(function.bar_read(bar, offset, size))
    }

    fn write(&self, space: Space, address: u64, size: u8, value: u64) -> Claim {
        match self.find(space, address, size) {
            Some((function, bar, offset)) => {
                Claim::Done(function.bar_write(bar, offset, size, value))
            }
            None => Claim::NotMine,
        }
    }
}

impl Decoder for PciRoot {
    fn port_read(&self, port: u16, size: u8) -> Option<u32> {
        self.read(Space::Io, port.into(), size).map(|v| v as u32)
    }
    fn port_write(&self, port: u16, size: u8, value: u32) -> Claim {
        self.write(Space::Io, port.into(), size, value.into())
    }
    fn memory_read(&self, gpa: u64, size: u8) -> Option<u64> {
        self.read(Space::Memory, gpa, size)
    }
    fn memory_write(&self, gpa: u64, size: u8, value: u64) -> Claim {
        self.write(Space::Memory, gpa, size, value)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::config::{Bar, BarKind, ConfigSpace, Identity};
    use super::*;
    use crate::{MmioBus, PortBus};
    use parking_lot::Mutex;

    /// 16 ports and 4 KiB of memory that remember the last byte written.
    pub(crate) struct Scratch {
        config: Mutex<ConfigSpace>,
        last: Mutex<u64>,
    }

    impl Scratch {
        pub(crate) fn new(device: u16) -> Arc<Self> {
            let mut config = ConfigSpace::new(&Identity {
                vendor: 0x1234,
                device,
                revision: 0,
                class: 0,
                subsystem: (0, 0),
            });
            let bar = |kind, size| Bar { kind, size };
            config.add_bar(0, bar(BarKind::Io, 16));
            config.add_bar(2, bar(BarKind::Memory64, 4096));
            config.set_interrupt_pin(1);
            Arc::new(Self {
                config: Mutex::new(config),
                last: Mutex::new(0),
            })
        }
    }

    impl PciFunction for Scratch {
        fn config_read(&self, offset: u16, size: u8) -> u32 {
            self.config.lock().read(offset, size)
        }
        fn config_write(&self, offset: u16, size: u8, value: u32) -> Option<Effect> {
            self.config.lock().write(offset, size, value);
            None
        }
        fn bars(&self) -> Vec<(u8, Bar)> {
            self.config.lock().bars()
        }
        fn windows(&self) -> Vec<Window> {
            self.config.lock().windows()
        }
        fn bar_read(&self, bar: u8, offset: u64, _size: u8) -> u64 {
            *self.last.lock() << 32 | u64::from(bar) << 16 | offset
        }
        fn bar_write(&self, _bar: u8, _offset: u64, _size: u8, value: u64) -> Option<Effect> {
            *self.last.lock() = value;
            None
        }
    }

    fn buses(root: &Arc<PciRoot>) -> (PortBus, MmioBus) {
        let (mut ports, mut mmio) = (PortBus::new(), MmioBus::new());
        ports.set_decoder(root.clone());
        mmio.set_decoder(root.clone());
        (ports, mmio)
    }

    #[test]
    fn ranges_move_with_their_bars() {
        let address = Address::new(3, 0).unwrap();
        let mut root = PciRoot::new();
        root.plug(address, Scratch::new(1)).unwrap();
        let root = Arc::new(root);
        let (ports, mmio) = buses(&root);
        let write = |offset, value| root.config_write(0, address, offset, 4, value);
        write(0x10, 0xc000);
        write(0x18, 0xfe00_0000);
        assert_eq!(ports.read(0xc004, 1), 0xff);
        write(0x04, 3);
        assert_eq!(ports.read(0xc004, 2), 4);
        assert_eq!(mmio.read(0xfe00_0008, 4), 2 << 16 | 8);
        mmio.write(0xfe00_0008, 4, 7);
        assert_eq!(mmio.read(0xfe00_0ff8, 8), 7 << 32 | 2 << 16 | 0xff8);
        // Across the end of the range: nobody's.
        assert_eq!(mmio.read(0xfe00_0ffc, 8), u64::MAX);
        write(0x1c, 1);
        assert_eq!(mmio.read(0xfe00_0008, 4), 0xffff_ffff);
        assert_eq!(mmio.read(0x1_fe00_0008, 4), 2 << 16 | 8);
        assert_eq!(mmio.read(u64::MAX, 8), u64::MAX);
    }

    #[test]
    fn slots_are_given_in_order_and_only_once() {
        let mut root = PciRoot::new();
        let at = |slot| Address::new(slot, 0).unwrap();
        root.plug(at(0), Scratch::new(1)).unwrap();
        root.plug(at(2), Scratch::new(1)).unwrap();
        assert_eq!(root.free_slot(), Ok(at(1)));
        assert_eq!(
            root.plug(at(2), Scratch::new(1)),
            Err(PlugError::Taken(at(2)))
        );
        for slot in (1..32).filter(|&s| s != 2) {
            root.plug(at(slot), Scratch::new(1)).unwrap();
        }
        assert_eq!(root.free_slot(), Err(PlugError::Full));
        assert_eq!(root.config_read(1, at(3), 0, 2), 0xffff);
        assert_eq!(root.config_read(0, at(3), 0, 2), 0x1234);
    }
}
