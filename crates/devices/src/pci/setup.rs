//! What a PC's firmware does to the bus before a kernel runs: addresses for
//! all BARs, decoding on, interrupt lines. Places are SeaBIOS's: ports from
//! 0xc000 up, memory below the I/O APIC.

use super::bus::PciRoot;
use super::config::{Bar, BarKind, Space, command, header};
use super::function::Address;

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

/// A BAR that needs an address.
struct Request {
    address: Address,
    number: u8,
    bar: Bar,
}

/// Sets up every function; `line` says which interrupt a pin (1 to 4) of a
/// function reaches. False if the BARs do not fit; then those left over have
/// no address.
pub fn assign(
    root: &PciRoot,
    apertures: &Apertures,
    line: impl Fn(Address, u8) -> Option<u8>,
) -> bool {
    let kinds = |kind| requests(root, kind);
    let mut fits = place(
        root,
        kinds(BarKind::Io),
        apertures.io_first,
        apertures.io_end,
    );
    // Downwards: what is not prefetchable at the end, the rest below it.
    let mut end = apertures.memory_end;
    for kind in [BarKind::Memory32, BarKind::Memory64] {
        let wanted = kinds(kind);
        let total: u64 = wanted.iter().map(|r| r.bar.size).sum();
        let align = wanted.first().map_or(1, |r| r.bar.size);
        let first = end.saturating_sub(total) / align * align;
        let room = first >= apertures.memory_first;
        fits &= room && place(root, wanted, first, end);
        end = first;
    }
    for (address, function) in root.functions() {
        enable(root, address, function.bars());
        let pin = function.config_read(header::INTERRUPT_PIN as u16, 1) as u8;
        if let Some(line) = line(address, pin).filter(|_| pin != 0) {
            let offset = header::INTERRUPT_LINE as u16;
            root.config_write(0, address, offset, 1, line.into());
        }
    }
    fits
}

/// The BARs of one kind, largest first: then each is aligned by itself.
fn requests(root: &PciRoot, kind: BarKind) -> Vec<Request> {
    let mut requests: Vec<Request> = root
        .functions()
        .flat_map(|(address, function)| {
            let bars = function.bars().into_iter();
            bars.map(move |(number, bar)| Request {
                address,
                number,
                bar,
            })
        })
        .filter(|r| r.bar.kind == kind)
        .collect();
    requests.sort_by_key(|r| std::cmp::Reverse(r.bar.size));
    requests
}

fn place(root: &PciRoot, requests: Vec<Request>, first: u64, end: u64) -> bool {
    let mut at = first;
    for request in requests {
        let base = at.next_multiple_of(request.bar.size);
        if base + request.bar.size > end {
            return false;
        }
        let offset = header::BARS as u16 + 4 * u16::from(request.number);
        root.config_write(0, request.address, offset, 4, base as u32);
        if request.bar.kind == BarKind::Memory64 {
            root.config_write(0, request.address, offset + 4, 4, (base >> 32) as u32);
        }
        at = base + request.bar.size;
    }
    true
}

/// Turns decoding of the spaces on that the function has BARs in.
fn enable(root: &PciRoot, address: Address, bars: Vec<(u8, Bar)>) {
    if bars.is_empty() {
        return;
    }
    let has = |space| bars.iter().any(|(_, bar)| bar.kind.space() == space);
    let io = if has(Space::Io) { command::IO } else { 0 };
    let memory = if has(Space::Memory) {
        command::MEMORY
    } else {
        0
    };
    let value = io | memory | command::SERR;
    root.config_write(0, address, header::COMMAND as u16, 2, value.into());
}

#[cfg(test)]
mod tests {
    use super::super::bus::tests::Scratch;
    use super::*;

    const APERTURES: Apertures = Apertures {
        io_first: 0xc000,
        io_end: 0x1_0000,
        memory_first: 0xc000_0000,
        memory_end: 0xfec0_0000,
    };

    fn root(functions: u8) -> PciRoot {
        let mut root = PciRoot::new();
        for slot in 0..functions {
            let address = Address::new(slot, 0).unwrap();
            root.plug(address, Scratch::new(1)).unwrap();
        }
        root
    }

    #[test]
    fn every_bar_gets_its_own_range() {
        let root = root(3);
        assert!(assign(&root, &APERTURES, |address, _| Some(
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
}
