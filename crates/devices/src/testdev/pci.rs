//! `pci-testdev` (QEMU docs/specs/pci-testdev): counts writes to an address
//! it names. BAR 0 is memory, BAR 1 ports; each has three tests, of which
//! those with an eventfd take their writes without counting.

use crate::pci::{Bar, BarKind, ConfigSpace, Identity, PciFunction, Window};
use crate::stateful::impossible;
use crate::{Effect, Stateful};
use parking_lot::Mutex;
use state::{Image, Result};

const MEMORY: Bar = Bar {
    kind: BarKind::Memory32,
    size: 0x1000,
};
const PORTS: Bar = Bar {
    kind: BarKind::Io,
    size: 0x100,
};
/// By BAR: prefix of the tests' names, where the first one's writes go.
const BARS: [(&str, u32); 2] = [("mmio", 0x800), ("portio", 0x80)];
/// By test: rest of the name, data to be written, whether writes count.
const TESTS: [(&str, u8, bool); 3] = [
    ("no-eventfd", 0xfa, true),
    ("wildcard-eventfd", 0xce, false),
    ("datamatch-eventfd", 0xfa, false),
];
/// Tests and their writes are one byte wide.
const WIDTH: u8 = 1;
/// Bytes of the header in front of the name.
const HEADER: usize = 16;

/// A test that runs.
struct Run {
    /// Number over all BARs.
    number: u8,
    bar: u8,
    offset: u32,
    data: u8,
    counts: bool,
    count: u32,
    name: String,
}

impl Run {
    /// Test `number` of a BAR.
    fn new(bar: u8, number: u8) -> Option<Self> {
        let &(suffix, data, counts) = TESTS.get(usize::from(number))?;
        let &(prefix, first) = BARS.get(usize::from(bar))?;
        let number = bar * TESTS.len() as u8 + number;
        Some(Self {
            number,
            bar,
            offset: first + u32::from(number),
            data,
            counts,
            count: 0,
            name: format!("{prefix}-{suffix}"),
        })
    }

    /// The header and the name, as the guest reads them.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.number, WIDTH, 0, 0];
        for word in [self.offset, self.data.into(), self.count] {
            bytes.extend(word.to_le_bytes());
        }
        debug_assert_eq!(bytes.len(), HEADER);
        bytes.extend(self.name.bytes());
        bytes
    }
}

/// The function.
pub struct PciTestdev(Mutex<State>);

struct State {
    config: ConfigSpace,
    run: Option<Run>,
}

impl Default for PciTestdev {
    fn default() -> Self {
        let mut config = ConfigSpace::new(&Identity {
            vendor: 0x1b36,
            device: 0x0005,
            revision: 0,
            class: 0x00_ff_00,
            subsystem: (0x1af4, 0x1100),
        });
        config.add_bar(0, MEMORY);
        config.add_bar(1, PORTS);
        Self(Mutex::new(State { config, run: None }))
    }
}

impl Stateful for PciTestdev {
    fn save(&self, instance: &str, image: &mut Image) -> Result<()> {
        let state = self.0.lock();
        state.config.save(instance, image);
        let run = state.run.as_ref();
        let run = run.map(|r| (r.bar, r.number % TESTS.len() as u8, r.count));
        image.put(instance, &state::pci::PciTestdev { run });
        Ok(())
    }

    fn restore(&self, instance: &str, image: &mut Image) -> Result<()> {
        let mut state = self.0.lock();
        state.config.restore(instance, image)?;
        let saved: state::pci::PciTestdev = image.take(instance)?;
        state.run = saved.run.and_then(|(bar, number, count)| {
            let run = Run::new(bar, number)?;
            Some(Run { count, ..run })
        });
        match state.run.is_some() == saved.run.is_some() {
            true => Ok(()),
            false => Err(impossible("pci-testdev", instance, "there is no such test")),
        }
    }
}

impl PciFunction for PciTestdev {
    fn stateful(&self) -> Option<&dyn Stateful> {
        Some(self)
    }
    fn config_read(&self, offset: u16, size: u8) -> u32 {
        self.0.lock().config.read(offset, size)
    }
    fn config_write(&self, offset: u16, size: u8, value: u32) -> Option<Effect> {
        self.0.lock().config.write(offset, size, value);
        None
    }
    fn bars(&self) -> Vec<(u8, Bar)> {
        self.0.lock().config.bars()
    }
    fn windows(&self) -> Vec<Window> {
        self.0.lock().config.windows()
    }
    fn bar_read(&self, _bar: u8, offset: u64, size: u8) -> u64 {
        let state = self.0.lock();
        let bytes = state.run.as_ref().map(Run::bytes).unwrap_or_default();
        (0..u64::from(size)).fold(0, |value, i| {
            let at = usize::try_from(offset.saturating_add(i)).ok();
            let byte = at.and_then(|at| bytes.get(at)).copied().unwrap_or(0);
            value | u64::from(byte) << (8 * i)
        })
    }
    /// Byte by byte, as QEMU takes it.
    fn bar_write(&self, bar: u8, offset: u64, size: u8, value: u64) -> Option<Effect> {
        let mut state = self.0.lock();
        for i in 0..u64::from(size) {
            let (at, byte) = (offset.saturating_add(i), (value >> (8 * i)) as u8);
            if at == 0 {
                state.run = Run::new(bar, byte);
            } else if let Some(run) = &mut state.run {
                let hit = run.bar == bar && at == u64::from(run.offset) && byte == run.data;
                run.count = run.count.wrapping_add(u32::from(hit && run.counts));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(device: &PciTestdev, bar: u8) -> [u64; 4] {
        [0, 4, 8, 12].map(|offset| device.bar_read(bar, offset, 4))
    }

    fn name(device: &PciTestdev, bar: u8) -> Vec<u8> {
        let bytes = (16..).map(|offset| device.bar_read(bar, offset, 1) as u8);
        bytes.take_while(|&b| b != 0).collect()
    }

    /// Headers and counts as QEMU 10 answers.
    #[test]
    fn tests_describe_themselves() {
        let device = PciTestdev::default();
        assert_eq!(words(&device, 0), [0; 4]);
        for (bar, test, header, text) in [
            (0, 0, [0x100, 0x800, 0xfa, 0], "mmio-no-eventfd"),
            (1, 1, [0x104, 0x84, 0xce, 0], "portio-wildcard-eventfd"),
            (0, 2, [0x102, 0x802, 0xfa, 0], "mmio-datamatch-eventfd"),
        ] {
            device.bar_write(bar, 0, 1, test);
            assert_eq!(words(&device, bar), header);
            assert_eq!(name(&device, bar), text.as_bytes());
        }
        device.bar_write(0, 0, 1, 3);
        assert_eq!(words(&device, 0), [0; 4]);
    }

    #[test]
    fn only_the_named_write_counts() {
        let device = PciTestdev::default();
        device.bar_write(0, 0, 1, 0);
        for (offset, size, value, count) in [
            (0x800, 1, 0xfa, 1),
            (0x800, 1, 0xfb, 1),
            (0x800, 4, 0xfa, 2),
            (0x801, 1, 0xfa, 2),
        ] {
            device.bar_write(0, offset, size, value);
            assert_eq!(device.bar_read(0, 12, 4), count);
        }
        device.bar_write(1, 0x800, 1, 0xfa);
        assert_eq!(device.bar_read(0, 12, 4), 2);
        device.bar_write(0, u64::MAX, 8, 0);
        device.bar_write(0, 0, 1, 1);
        device.bar_write(0, 0x801, 1, 0xce);
        assert_eq!(device.bar_read(0, 12, 4), 0);
    }

    #[test]
    fn bars_are_qemus() {
        let device = PciTestdev::default();
        device.config_write(0x10, 4, u32::MAX);
        device.config_write(0x14, 4, u32::MAX);
        let read = [0, 8, 0x10, 0x14, 0x2c].map(|o| device.config_read(o, 4));
        let expected = [
            0x0005_1b36,
            0x00ff_0000,
            0xffff_f000,
            0xffff_ff01,
            0x1100_1af4,
        ];
        assert_eq!(read, expected);
    }
}
