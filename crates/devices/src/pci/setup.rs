//! What a PC's firmware does to the buses before a kernel runs: bus numbers,
//! addresses for all BARs and windows of bridges, decoding on, interrupt lines.
//! Places are SeaBIOS's: ports from 0xc000 up, memory below the I/O APIC.

use super::bridge::{IO_WINDOW, MEMORY_WINDOW};
use super::bus::{BusId, PciRoot, Place};
use super::config::{BRIDGE_SERR, BarKind, command, header};

/// Addresses free for BARs.
#[derive(Clone, Copy, Debug)]
pub struct Apertures {
    /// First port; BARs are placed upwards.
    pub io_first: u64,
    /// First address behind the last port.
    pub io_end: u64,
    /// Lowest memory address.
    pub memory_first: u64,
    /// First address behind the memory.
    pub memory_end: u64,
}

/// A BAR or a window that needs an address.
struct Request {
    size: u64,
    align: u64,
    what: What,
}

enum What {
    /// BAR of a function, by number.
    Bar(Place, u8),
    /// The window of the bridge in front of a bus.
    Window(BusId),
}

/// Sets up every function; `line` says which interrupt a pin (1 to 4) of a
/// function reaches. False if the BARs do not fit; then those left over have
/// no address.
pub fn assign(
    root: &PciRoot,
    apertures: &Apertures,
    line: impl Fn(Place, u8) -> Option<u8>,
) -> bool {
    let mut next = 0;
    number(root, BusId::ROOT, &mut next);
    let ports = requests(root, BusId::ROOT, BarKind::Io);
    let mut fits = place(
        root,
        BarKind::Io,
        ports,
        apertures.io_first,
        apertures.io_end,
    );
    // Downwards. The kind with the smaller alignment is on top; if they are
    // equal, what can be prefetched.
    let mut kinds = [BarKind::Memory64, BarKind::Memory32]
        .map(|kind| (kind, requests(root, BusId::ROOT, kind)));
    kinds.sort_by_key(|(_, wanted)| align(wanted));
    let mut end = apertures.memory_end;
    for (kind, wanted) in kinds {
        let first = end.saturating_sub(total(&wanted)) / align(&wanted) * align(&wanted);
        let room = first >= apertures.memory_first;
        fits &= room && place(root, kind, wanted, first, end);
        end = first;
    }
    enable_all(root, line);
    fits
}

/// Numbers the buses behind a bus, depth first; `last` is the highest number
/// given.
fn number(root: &PciRoot, bus: BusId, last: &mut u8) {
    let own = *last;
    for (address, behind) in root.behind(bus) {
        *last = last.saturating_add(1);
        let write = |offset: usize, value: u8| {
            root.place_write((bus, address), offset as u16, 1, value.into());
        };
        write(header::PRIMARY_BUS, own);
        write(header::SECONDARY_BUS, *last);
        // While those behind it get theirs.
        write(header::SUBORDINATE_BUS, u8::MAX);
        number(root, behind, last);
        write(header::SUBORDINATE_BUS, *last);
    }
}

fn total(requests: &[Request]) -> u64 {
    requests.iter().map(|r| r.size).sum()
}

/// The largest alignment; requests begin with the largest.
fn align(requests: &[Request]) -> u64 {
    requests.first().map_or(1, |r| r.align)
}

/// What a bus needs of one kind: BARs by address, then windows, the last bus's
/// first; the most aligned at the front.
fn requests(root: &PciRoot, bus: BusId, kind: BarKind) -> Vec<Request> {
    let bars = root
        .functions(bus)
        .into_iter()
        .flat_map(|(address, function)| {
            let bars = function.bars().into_iter();
            let bars = bars.filter(|(_, bar)| bar.kind == kind);
            bars.map(move |(number, bar)| Request {
                size: bar.size,
                align: bar.size,
                what: What::Bar((bus, address), number),
            })
        });
    let behind = root.behind(bus).into_iter().rev();
    let windows = behind.filter_map(|(_, behind)| window(root, behind, kind));
    let mut requests: Vec<Request> = bars.chain(windows).collect();
    requests.sort_by_key(|r| std::cmp::Reverse(r.align));
    requests
}

/// The least a window has, as SeaBIOS opens it.
const fn least_window(kind: BarKind) -> u64 {
    match kind {
        BarKind::Io => IO_WINDOW,
        _ => 2 * MEMORY_WINDOW,
    }
}

/// The window that the bus behind a bridge needs; none if it needs nothing,
/// but behind a root port there is always memory.
fn window(root: &PciRoot, bus: BusId, kind: BarKind) -> Option<Request> {
    let inside = requests(root, bus, kind);
    let least = least_window(kind);
    let always = root.is_link(bus) && kind != BarKind::Io;
    if inside.is_empty() && !always {
        return None;
    }
    let align = align(&inside).max(least);
    Some(Request {
        size: total(&inside).max(1).next_multiple_of(align),
        align,
        what: What::Window(bus),
    })
}

fn place(root: &PciRoot, kind: BarKind, requests: Vec<Request>, first: u64, end: u64) -> bool {
    let mut at = first;
    for request in requests {
        let base = at.next_multiple_of(request.align);
        let behind = base + request.size;
        if behind > end {
            return false;
        }
        let fits = match request.what {
            What::Bar(function, number) => {
                set_bar(root, function, number, kind, base);
                true
            }
            What::Window(bus) => {
                set_window(root, bus, kind, base, behind - 1);
                place(root, kind, self::requests(root, bus, kind), base, behind)
            }
        };
        if !fits {
            return false;
        }
        at = behind;
    }
    true
}

fn set_bar(root: &PciRoot, function: Place, number: u8, kind: BarKind, base: u64) {
    let offset = header::BARS as u16 + 4 * u16::from(number);
    root.place_write(function, offset, 4, base as u32);
    if kind == BarKind::Memory64 {
        root.place_write(function, offset + 4, 4, (base >> 32) as u32);
    }
}

/// Opens a window of the bridge in front of a bus.
fn set_window(root: &PciRoot, bus: BusId, kind: BarKind, first: u64, last: u64) {
    let Some(bridge) = root.bridge(bus) else {
        return;
    };
    let write = |offset: usize, size, value: u64| {
        root.place_write(bridge, offset as u16, size, value as u32);
    };
    match kind {
        BarKind::Io => {
            write(header::IO_BASE, 1, first >> 8);
            write(header::IO_LIMIT, 1, last >> 8);
        }
        BarKind::Memory32 => {
            write(header::MEMORY_BASE, 2, first >> 16);
            write(header::MEMORY_LIMIT, 2, last >> 16);
        }
        BarKind::Memory64 => {
            write(header::PREFETCH_BASE, 2, first >> 16);
            write(header::PREFETCH_LIMIT, 2, last >> 16);
            write(header::PREFETCH_BASE_UPPER, 4, first >> 32);
            write(header::PREFETCH_LIMIT_UPPER, 4, last >> 32);
        }
    }
}

/// Decoding, forwarding and interrupt lines.
fn enable_all(root: &PciRoot, line: impl Fn(Place, u8) -> Option<u8>) {
    for bus in root.buses() {
        for (address, function) in root.functions(bus) {
            let here = (bus, address);
            let bridge = function.forwarding().is_some();
            if bridge || !function.bars().is_empty() {
                enable(root, here, bridge);
            }
            let pin = function.config_read(header::INTERRUPT_PIN as u16, 1) as u8;
            if let Some(line) = line(here, pin).filter(|_| pin != 0) {
                let offset = header::INTERRUPT_LINE as u16;
                root.place_write(here, offset, 1, line.into());
            }
        }
    }
}

/// Turns decoding and forwarding of both spaces on, as SeaBIOS does.
fn enable(root: &PciRoot, function: Place, bridge: bool) {
    let value = command::IO | command::MEMORY | command::SERR;
    root.place_write(function, header::COMMAND as u16, 2, value.into());
    if bridge {
        let offset = header::BRIDGE_CONTROL as u16;
        root.place_write(function, offset, 2, BRIDGE_SERR.into());
    }
}

#[cfg(test)]
mod tests {
    use super::super::bridge::{Bridge, BridgeKind};
    use super::super::bus::tests::Scratch;
    use super::super::function::Address;
    use super::*;
    use crate::{Decoder, MsiSink};
    use std::sync::Arc;

    const APERTURES: Apertures = Apertures {
        io_first: 0xc000,
        io_end: 0x1_0000,
        memory_first: 0xc000_0000,
        memory_end: 0xfec0_0000,
    };

    fn root(functions: u8) -> PciRoot {
        let root = PciRoot::new();
        for slot in 0..functions {
            let address = Address::new(slot, 0).unwrap();
            root.plug((BusId::ROOT, address), Scratch::new(1)).unwrap();
        }
        root
    }

    #[test]
    fn every_bar_gets_its_own_range() {
        let root = root(3);
        assert!(assign(&root, &APERTURES, |(_, address), _| Some(
            address.slot() + 5
        )));
        let bars = |slot| {
            let address = Address::new(slot, 0).unwrap();
            [0x10, 0x18, 0x1c, 0x3c, 0x04].map(|o| root.config_read(0, address, o, 4))
        };
        assert_eq!(bars(0), [0xc001, 0xfebf_d00c, 0, 0x105, 0x103]);
        assert_eq!(bars(1), [0xc011, 0xfebf_e00c, 0, 0x106, 0x103]);
        assert_eq!(bars(2), [0xc021, 0xfebf_f00c, 0, 0x107, 0x103]);
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let narrow = Apertures {
            memory_first: APERTURES.memory_end - 0x2000,
            ..APERTURES
        };
        assert!(assign(&root(2), &narrow, |_, _| None));
        assert!(!assign(&root(3), &narrow, |_, _| None));
        let few_ports = Apertures {
            io_end: 0xc020,
            ..APERTURES
        };
        assert!(!assign(&root(3), &few_ports, |_, _| None));
    }

    struct NoMessages;

    impl MsiSink for NoMessages {
        fn send(&self, address: u64, data: u32) {
            panic!("a bridge sent {address:#x} {data:#x}");
        }
    }

    /// A root port in slot 1, a `pci-bridge` in slot 2 and another behind it
    /// in slot 5; a function in slot 0, and one behind each of them.
    fn tree() -> PciRoot {
        let at = |slot| Address::new(slot, 0).unwrap();
        let root = root(1);
        let add = |bus, slot, kind| {
            let bridge = Bridge::new(kind, Arc::new(NoMessages));
            root.plug((bus, at(slot)), bridge).unwrap();
            let link = matches!(kind, BridgeKind::RootPort { .. });
            root.add_bus((bus, at(slot)), link)
        };
        let port = add(BusId::ROOT, 1, BridgeKind::RootPort { port: 0, slot: 0 });
        let outer = add(BusId::ROOT, 2, BridgeKind::Pci { chassis: 1 });
        let inner = add(outer, 5, BridgeKind::Pci { chassis: 2 });
        for place in [(port, at(0)), (outer, at(3)), (inner, at(4))] {
            root.plug(place, Scratch::new(2)).unwrap();
        }
        root
    }

    #[test]
    fn bridges_get_numbers_and_windows() {
        let root = tree();
        assert!(assign(&root, &APERTURES, |place, pin| {
            let (slot, pin) = root.pin_at_root(place, pin);
            Some(slot * 16 + pin)
        }));
        let read = |bus, slot, offset| {
            let address = Address::new(slot, 0).unwrap();
            root.config_read(bus, address, offset, 4)
        };
        // Primary, secondary, subordinate.
        assert_eq!(read(0, 1, 0x18), 0x0001_0100);
        assert_eq!(read(0, 2, 0x18), 0x0003_0200);
        assert_eq!(read(2, 5, 0x18), 0x0003_0302);
        // Prefetchable windows, one inside the other; bus 1's is above bus 2's.
        // Then ports.
        assert_eq!(read(0, 1, 0x24), 0xfe91_fe81);
        assert_eq!(read(0, 2, 0x24), 0xfe71_fe41);
        assert_eq!(read(2, 5, 0x24), 0xfe51_fe41);
        assert_eq!(read(0, 2, 0x1c) & 0xffff, 0xd0c0);
        assert_eq!(read(2, 5, 0x1c) & 0xffff, 0xc0c0);
        assert_eq!(read(0, 1, 0x1c) & 0xffff, 0xe0e0);
        // Slot 4 pin A behind slot 5 behind slot 2: turned by 4 and by 5.
        assert_eq!(read(3, 4, 0x3c) & 0xffff, 0x0122);
        assert_eq!(read(1, 0, 0x3c) & 0xffff, 0x0111);
    }

    #[test]
    fn bridges_forward_only_what_their_windows_hold() {
        let root = tree();
        assert!(assign(&root, &APERTURES, |_, _| None));
        let address = |slot| Address::new(slot, 0).unwrap();
        let bar = root.config_read(3, address(4), 0x18, 4) & !0xf;
        let decodes = || root.memory_read(bar.into(), 4).is_some();
        assert!(decodes());
        // The inner bridge stops forwarding, and goes on.
        for (command, expected) in [(1, false), (3, true)] {
            root.config_write(2, address(5), 4, 2, command);
            assert_eq!(decodes(), expected);
        }
        // The outer window shuts: the inner one lies in it.
        root.config_write(0, address(2), 0x24, 4, 0x0000_fff0);
        assert!(!decodes());
        root.config_write(0, address(2), 0x24, 4, 0xfe70_fe40);
        assert!(decodes());
        // The BAR moves inside the window, then out of it.
        root.config_write(3, address(4), 0x18, 4, bar + 0x1000);
        assert!(!decodes());
        assert!(root.memory_read((bar + 0x1000).into(), 4).is_some());
        root.config_write(3, address(4), 0x18, 4, 0xc000_0000);
        assert!(root.memory_read(0xc000_0000, 4).is_none());
        // Without a number nothing behind it can be configured.
        root.config_write(0, address(2), 0x18, 4, 0);
        assert_eq!(root.config_read(3, address(4), 0, 4), 0xffff_ffff);
        assert_eq!(root.config_read(2, address(5), 0, 4), 0xffff_ffff);
        root.config_write(0, address(2), 0x18, 4, 0x0007_0700);
        assert_eq!(root.config_read(7, address(5), 0, 4), 0x0001_1b36);
    }
}
