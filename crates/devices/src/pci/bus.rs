//! The buses: functions by place, the ranges they decode, and what bridges
//! forward.

mod saved;

use super::config::{MULTIFUNCTION, Space, header};
use super::function::{Address, Forwarding, PciFunction, Range, Window};
use crate::bus::{Claim, Decoder};
use crate::{Effect, all_ones};
use parking_lot::RwLock;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Why a function cannot be plugged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlugError {
    /// Something is there already.
    Taken(Address),
    /// All slots are taken.
    Full,
    /// A bus behind a root port has slot 0 only.
    NoSlot(Address),
}

/// A bus, whatever number the guest gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BusId(usize);

impl BusId {
    /// The bus behind the host bridge, always number 0.
    pub const ROOT: Self = Self(0);

    /// Its place in [`PciRoot::buses`]; nothing the guest knows.
    pub const fn number(self) -> u32 {
        self.0 as u32
    }
}

/// A place on a bus.
pub type Place = (BusId, Address);

/// All buses of a machine. Which there are is settled before it runs; functions
/// come and go, and the guest changes bus numbers and decoded ranges.
///
/// A function is asked outside of the locks whatever may take time: an access
/// that found one goes on with it though it is unplugged meanwhile.
pub struct PciRoot {
    /// Taken before `decoded`.
    buses: RwLock<Tree>,
    /// By space and first address, so that the common access is a search of
    /// this list alone.
    decoded: RwLock<Vec<Decoded>>,
}

/// The buses; one behind a bridge comes after the bridge's.
struct Tree(Vec<Bus>);

#[derive(Default)]
struct Bus {
    functions: BTreeMap<u8, Arc<dyn PciFunction>>,
    /// Functions that say that their slot has more, beside those that do so of
    /// their own.
    multifunction: BTreeSet<u8>,
    /// Where the bridge in front of it is; none in front of the root.
    bridge: Option<Place>,
    /// Slots it has.
    slots: u8,
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

impl Default for PciRoot {
    fn default() -> Self {
        Self::new()
    }
}

/// Slots of a conventional bus.
const SLOTS: u8 = 32;

impl Tree {
    fn buses(&self) -> impl Iterator<Item = BusId> + use<> {
        (0..self.0.len()).map(BusId)
    }

    fn bridge(&self, bus: BusId) -> Option<Place> {
        self.0[bus.0].bridge
    }

    fn function(&self, (bus, address): Place) -> Option<&Arc<dyn PciFunction>> {
        self.0[bus.0].functions.get(&address.devfn())
    }

    /// What the bridge in front of a bus forwards.
    fn forwarding(&self, bus: BusId) -> Option<Forwarding> {
        self.function(self.bridge(bus)?)?.forwarding()
    }

    /// The bus with this number: bridge by bridge, each asked in the order of
    /// their buses.
    fn numbered(&self, number: u8) -> Option<BusId> {
        let mut at = BusId::ROOT;
        if number == 0 {
            return Some(at);
        }
        // A bus lies behind those before it, so one pass finds the way.
        for bus in self.buses().skip(1) {
            let Some((parent, _)) = self.bridge(bus) else {
                continue;
            };
            let Some(to) = self.forwarding(bus).filter(|_| parent == at) else {
                continue;
            };
            if to.secondary != 0 && (to.secondary..=to.subordinate).contains(&number) {
                at = bus;
                if to.secondary == number {
                    return Some(bus);
                }
            }
        }
        None
    }

    /// What every function decodes.
    fn decoded(&self) -> Vec<Decoded> {
        let mut decoded = Vec::new();
        // What reaches each bus; everything reaches the root.
        let mut reach: Vec<Option<Vec<Range>>> = vec![None];
        for bus in self.buses() {
            if let Some((parent, _)) = self.bridge(bus) {
                let to = self.forwarding(bus).map_or(Vec::new(), |f| f.ranges);
                reach.push(Some(clip(&to, reach[parent.0].as_deref())));
            }
            let reach = reach[bus.0].as_deref();
            let passes = |w: &Window| reach.is_none_or(|r| r.iter().any(|range| range.contains(w)));
            for function in self.0[bus.0].functions.values() {
                let windows = function.windows().into_iter().filter(passes);
                decoded.extend(windows.map(|window| Decoded {
                    window,
                    function: function.clone(),
                }));
            }
        }
        decoded.sort_by_key(Decoded::key);
        decoded
    }
}

impl PciRoot {
    /// The root bus without functions.
    pub fn new() -> Self {
        let root = Bus {
            slots: SLOTS,
            ..Bus::default()
        };
        Self {
            buses: RwLock::new(Tree(vec![root])),
            decoded: RwLock::default(),
        }
    }

    /// Plugs a function in.
    pub fn plug(
        &self,
        (bus, address): Place,
        function: Arc<dyn PciFunction>,
    ) -> Result<(), PlugError> {
        let mut tree = self.buses.write();
        let Bus {
            functions, slots, ..
        } = &mut tree.0[bus.0];
        if address.slot() >= *slots {
            return Err(PlugError::NoSlot(address));
        }
        if functions.contains_key(&address.devfn()) {
            return Err(PlugError::Taken(address));
        }
        functions.insert(address.devfn(), function);
        drop(tree);
        self.refresh();
        Ok(())
    }

    /// Pulls a function out: no access that comes from now on reaches it.
    pub fn unplug(&self, (bus, address): Place) -> Option<Arc<dyn PciFunction>> {
        let mut tree = self.buses.write();
        let bus = &mut tree.0[bus.0];
        let function = bus.functions.remove(&address.devfn())?;
        bus.multifunction.remove(&address.devfn());
        drop(tree);
        self.refresh();
        Some(function)
    }

    /// Adds the bus behind the bridge at `bridge`; a `link` has one slot.
    pub fn add_bus(&self, bridge: Place, link: bool) -> BusId {
        let mut tree = self.buses.write();
        tree.0.push(Bus {
            bridge: Some(bridge),
            slots: if link { 1 } else { SLOTS },
            ..Bus::default()
        });
        BusId(tree.0.len() - 1)
    }

    /// The first slot of a bus without a function that is not in `reserved`, as
    /// QEMU chooses it.
    pub fn free_slot(&self, bus: BusId, reserved: &[u8]) -> Result<Address, PlugError> {
        let tree = self.buses.read();
        let Bus {
            functions, slots, ..
        } = &tree.0[bus.0];
        let plugged = |slot: u8| functions.keys().any(|devfn| devfn >> 3 == slot);
        let taken = |slot| plugged(slot) || reserved.contains(&slot);
        let slot = (0..*slots).find(|&slot| !taken(slot));
        slot.and_then(|slot| Address::new(slot, 0))
            .ok_or(PlugError::Full)
    }

    /// All buses; a bridge's comes before those behind it.
    pub fn buses(&self) -> impl Iterator<Item = BusId> + use<> {
        self.buses.read().buses()
    }

    /// Where the bridge in front of a bus is; none in front of the root.
    pub fn bridge(&self, bus: BusId) -> Option<Place> {
        self.buses.read().bridge(bus)
    }

    /// The buses behind a bus's bridges, by the bridges' addresses.
    pub fn behind(&self, bus: BusId) -> Vec<(Address, BusId)> {
        let tree = self.buses.read();
        let bridges = tree.buses().filter_map(|b| Some((tree.bridge(b)?, b)));
        let here = bridges.filter(|((front, _), _)| *front == bus);
        let mut list: Vec<_> = here.map(|((_, address), b)| (address, b)).collect();
        list.sort_unstable();
        list
    }

    /// Number of slots that a bus has: a link has one.
    pub fn slots(&self, bus: BusId) -> u8 {
        self.buses.read().0[bus.0].slots
    }

    /// The bus is a link: it has one slot.
    pub fn is_link(&self, bus: BusId) -> bool {
        self.slots(bus) == 1
    }

    /// The functions of a bus, by address.
    pub fn functions(&self, bus: BusId) -> Vec<(Address, Arc<dyn PciFunction>)> {
        let tree = self.buses.read();
        let entries = tree.0[bus.0].functions.iter();
        entries
            .map(|(&devfn, function)| (Address::from_devfn(devfn), function.clone()))
            .collect()
    }

    /// The slot and pin (1 to 4) of the root bus that a pin reaches: each
    /// bridge turns it by the slot (PCI-to-PCI Bridge Architecture 1.2, 9.1).
    pub fn pin_at_root(&self, (bus, address): Place, pin: u8) -> (u8, u8) {
        match self.bridge(bus) {
            None => (address.slot(), pin),
            Some(bridge) => {
                let pin = pin.wrapping_sub(1).wrapping_add(address.slot()) % 4;
                self.pin_at_root(bridge, pin + 1)
            }
        }
    }

    /// Reads `size` (1, 2, 4) bytes of configuration space; all ones where
    /// no function is.
    pub fn config_read(&self, bus: u8, address: Address, offset: u16, size: u8) -> u32 {
        let place = self.numbered(bus).map(|bus| (bus, address));
        let value = place.and_then(|place| self.place_read(place, offset, size));
        value.unwrap_or(all_ones(size) as u32)
    }

    /// A place by the number that the guest gave its bus.
    pub fn place(&self, bus: u8, address: Address) -> Option<Place> {
        self.numbered(bus).map(|bus| (bus, address))
    }

    /// The BARs of a function; none where there is no function.
    pub fn bars(&self, bus: u8, address: Address) -> Vec<(u8, super::Bar)> {
        let place = self.numbered(bus).map(|bus| (bus, address));
        let function = place.and_then(|place| self.function(place));
        function.map_or(Vec::new(), |function| function.bars())
    }

    /// Reads configuration space whatever the bus's number.
    fn place_read(&self, place: Place, offset: u16, size: u8) -> Option<u32> {
        let (bus, address) = place;
        let tree = self.buses.read();
        let marked = tree.0[bus.0].multifunction.contains(&address.devfn());
        let function = tree.function(place)?.clone();
        drop(tree);
        let value = function.config_read(offset, size);
        let byte = (header::HEADER_TYPE as u16).checked_sub(offset);
        let bit = byte.filter(|&b| marked && b < size.into());
        Some(value | bit.map_or(0, |b| u32::from(MULTIFUNCTION) << (8 * b)))
    }

    /// Lets the function at a place say that its slot has more.
    pub fn set_multifunction(&self, (bus, address): Place) {
        let mut tree = self.buses.write();
        tree.0[bus.0].multifunction.insert(address.devfn());
    }

    /// The function at a place says so.
    pub fn is_multifunction(&self, place: Place) -> bool {
        let header = self.place_read(place, header::HEADER_TYPE as u16, 1);
        header.is_some_and(|h| h & u32::from(MULTIFUNCTION) != 0)
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
        let bus = self.numbered(bus)?;
        self.place_write((bus, address), offset, size, value)
    }

    /// Writes configuration space whatever the bus's number.
    pub(super) fn place_write(
        &self,
        place: Place,
        offset: u16,
        size: u8,
        value: u32,
    ) -> Option<Effect> {
        let function = self.function(place)?;
        let effect = function.config_write(offset, size, value);
        if function.moves_windows(offset) {
            self.refresh();
        }
        effect
    }

    /// The function at a place.
    pub fn function(&self, place: Place) -> Option<Arc<dyn PciFunction>> {
        self.buses.read().function(place).cloned()
    }

    fn numbered(&self, number: u8) -> Option<BusId> {
        self.buses.read().numbered(number)
    }

    /// Asks every function what it decodes.
    fn refresh(&self) {
        let tree = self.buses.read();
        // Locked first: of two at the same time the later one has the last word.
        let mut decoded = self.decoded.write();
        *decoded = tree.decoded();
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

/// The parts of `ranges` that lie in those of the bus in front, if that has
/// bounds.
fn clip(ranges: &[Range], outer: Option<&[Range]>) -> Vec<Range> {
    let Some(outer) = outer else {
        return ranges.to_vec();
    };
    let meet = |a: &Range, b: &Range| Range {
        space: a.space,
        first: a.first.max(b.first),
        last: a.last.min(b.last),
    };
    let pairs = ranges.iter().flat_map(|a| {
        let same = outer.iter().filter(|b| b.space == a.space);
        same.map(move |b| meet(a, b))
    });
    pairs.filter(|r| r.first <= r.last).collect()
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
        let root = PciRoot::new();
        root.plug((BusId::ROOT, address), Scratch::new(1)).unwrap();
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
    fn what_is_unplugged_is_not_reached() {
        let address = Address::new(3, 0).unwrap();
        let place = (BusId::ROOT, address);
        let root = Arc::new(PciRoot::new());
        let (ports, _) = buses(&root);
        let round = |device| {
            root.plug(place, Scratch::new(device)).unwrap();
            root.set_multifunction(place);
            assert_eq!(ports.read(0xc004, 2), 0xffff);
            root.config_write(0, address, 0x10, 4, 0xc000);
            root.config_write(0, address, 0x04, 4, 1);
            assert_eq!(ports.read(0xc004, 2), 4);
            assert_eq!(root.config_read(0, address, 2, 2), u32::from(device));
            assert!(root.unplug(place).is_some());
            assert_eq!(ports.read(0xc004, 2), 0xffff);
            assert_eq!(root.config_read(0, address, 0, 4), u32::MAX);
            assert!(root.unplug(place).is_none());
            assert!(!root.is_multifunction(place));
        };
        round(1);
        round(2);
    }

    #[test]
    fn slots_are_given_in_order_and_only_once() {
        let root = PciRoot::new();
        let at = |slot| Address::new(slot, 0).unwrap();
        let place = |slot| (BusId::ROOT, at(slot));
        root.plug(place(0), Scratch::new(1)).unwrap();
        root.plug(place(2), Scratch::new(1)).unwrap();
        assert_eq!(root.free_slot(BusId::ROOT, &[]), Ok(at(1)));
        assert_eq!(root.free_slot(BusId::ROOT, &[1, 3]), Ok(at(4)));
        assert_eq!(
            root.plug(place(2), Scratch::new(1)),
            Err(PlugError::Taken(at(2)))
        );
        for slot in (1..32).filter(|&s| s != 2) {
            root.plug(place(slot), Scratch::new(1)).unwrap();
        }
        assert_eq!(root.free_slot(BusId::ROOT, &[]), Err(PlugError::Full));
        assert_eq!(root.config_read(1, at(3), 0, 2), 0xffff);
        assert_eq!(root.config_read(0, at(3), 0, 2), 0x1234);
    }
}
