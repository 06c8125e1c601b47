//! `pc-testdev`: what kvm-unit-tests drives on a PC. A 32-bit register behind
//! ports of any width, interrupt lines at the guest's command, and memory
//! that is not RAM.

use crate::stateful::impossible;
use crate::{Effect, IrqLine, MmioDevice, PortDevice, Stateful, all_ones};
use parking_lot::Mutex;
use state::{Image, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The register's ports.
pub const DATA: u16 = 0xe0;
/// Writing an address here makes QEMU unmap and map the page again; the guest
/// must not notice, so there is nothing to do.
pub const FLUSH: u16 = 0xe4;
/// The register again, where every access is made of bytes.
pub const DATA_BYTES: u16 = 0xe8;
/// One port for each interrupt line.
pub const LINES: u16 = 0x2000;
/// Interrupt lines: ISA's and the rest of the I/O APIC.
pub const LINE_COUNT: u16 = 24;

/// The register and the interrupt lines.
pub struct PcTestdev {
    data: AtomicU32,
    lines: Vec<Arc<dyn IrqLine>>,
}

/// Reads or, with a value, writes: offset, size.
type Access = fn(&PcTestdev, u16, u8, Option<u32>) -> u32;

/// A part of the device on the bus.
struct Part {
    device: Arc<PcTestdev>,
    width: u8,
    access: Access,
}

/// A row for the bus: first port, number of ports, device.
pub type PortRow = (u16, u16, Arc<dyn PortDevice>);

impl PcTestdev {
    /// A device that drives `lines`, by number.
    pub fn new(lines: Vec<Arc<dyn IrqLine>>) -> Arc<Self> {
        let data = AtomicU32::new(0);
        Arc::new(Self { data, lines })
    }

    /// What it has on the port bus. The ports of [`DATA_BYTES`] are rows of
    /// their own: `isa-debugcon`'s lies among them, and goes first.
    pub fn rows(self: &Arc<Self>) -> Vec<PortRow> {
        let device = self.clone();
        let part = |width, access: Access| {
            let device = device.clone();
            let part: Arc<dyn PortDevice> = Arc::new(Part {
                device,
                width,
                access,
            });
            part
        };
        let mut rows = vec![
            (DATA, 4, part(4, Self::data)),
            (FLUSH, 4, part(4, |_, _, _, _| 0)),
            (LINES, LINE_COUNT, part(4, Self::line)),
        ];
        let bytes: [Access; 4] = [
            |d, _, size, v| d.data(0, size, v),
            |d, _, size, v| d.data(1, size, v),
            |d, _, size, v| d.data(2, size, v),
            |d, _, size, v| d.data(3, size, v),
        ];
        rows.extend((DATA_BYTES..).zip(bytes).map(|(p, f)| (p, 1, part(1, f))));
        rows
    }

    /// Reads or, with a value, writes part of the register.
    fn data(&self, offset: u16, size: u8, value: Option<u32>) -> u32 {
        let shift = 8 * u32::from(offset & 3);
        let mask = (all_ones(size) as u32) << shift;
        if let Some(value) = value {
            let set = |old| Some(old & !mask | value << shift & mask);
            let _ = self
                .data
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, set);
        }
        (self.data.load(Ordering::Relaxed) & mask) >> shift
    }

    fn line(&self, offset: u16, _size: u8, value: Option<u32>) -> u32 {
        if let (Some(line), Some(value)) = (self.lines.get(usize::from(offset)), value) {
            line.set_level(value != 0);
        }
        0
    }
}

impl PortDevice for Part {
    fn max_width(&self) -> u8 {
        self.width
    }
    fn read(&self, offset: u16, size: u8) -> u32 {
        (self.access)(&self.device, offset, size, None)
    }
    fn write(&self, offset: u16, size: u8, value: u32) -> Option<Effect> {
        (self.access)(&self.device, offset, size, Some(value));
        None
    }
}

/// 64 KiB that answer as memory does, by exits.
pub struct Iomem(Mutex<Vec<u8>>);

impl Iomem {
    /// Where it is in the guest-physical address space.
    pub const GPA: u64 = 0xff00_0000;
    /// Bytes.
    pub const SIZE: u64 = 0x1_0000;
}

impl Default for Iomem {
    fn default() -> Self {
        Self(Mutex::new(vec![0; Self::SIZE as usize]))
    }
}

impl MmioDevice for Iomem {
    fn read(&self, offset: u64, size: u8) -> u64 {
        let bytes = self.0.lock();
        (0..u64::from(size.min(8))).fold(0, |value, i| {
            let byte = bytes.get((offset + i) as usize).copied().unwrap_or(0);
            value | u64::from(byte) << (8 * i)
        })
    }
    fn write(&self, offset: u64, size: u8, value: u64) -> Option<Effect> {
        let mut bytes = self.0.lock();
        for i in 0..u64::from(size.min(8)) {
            if let Some(byte) = bytes.get_mut((offset + i) as usize) {
                *byte = (value >> (8 * i)) as u8;
            }
        }
        None
    }
}

impl Stateful for PcTestdev {
    fn save(&self, instance: &str, image: &mut Image) -> Result<()> {
        let data = self.data.load(Ordering::Relaxed);
        image.put(instance, &state::devices::PcTestdev { data });
        Ok(())
    }

    fn restore(&self, instance: &str, image: &mut Image) -> Result<()> {
        let saved: state::devices::PcTestdev = image.take(instance)?;
        self.data.store(saved.data, Ordering::Relaxed);
        Ok(())
    }
}

impl Stateful for Iomem {
    fn save(&self, instance: &str, image: &mut Image) -> Result<()> {
        let bytes = self.0.lock().clone();
        image.put(instance, &state::devices::Iomem { bytes });
        Ok(())
    }

    fn restore(&self, instance: &str, image: &mut Image) -> Result<()> {
        let saved: state::devices::Iomem = image.take(instance)?;
        if saved.bytes.len() as u64 != Self::SIZE {
            return Err(impossible("pc-testdev-memory", instance, "another size"));
        }
        *self.0.lock() = saved.bytes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MmioBus, PortBus};

    #[derive(Default)]
    struct Line(Mutex<Vec<bool>>);
    impl IrqLine for Line {
        fn set_level(&self, high: bool) {
            self.0.lock().push(high);
        }
    }

    /// The values are what QEMU 10 answers through its qtest interface.
    #[test]
    fn the_register_answers_as_qemus() {
        let mut bus = PortBus::new();
        for (first, len, device) in PcTestdev::new(Vec::new()).rows() {
            bus.register(first, len, device).unwrap();
        }
        bus.write(0xe0, 4, 0x1122_3344);
        assert_eq!((bus.read(0xe2, 2), bus.read(0xe1, 1)), (0x1122, 0x33));
        bus.write(0xe1, 1, 0xaa);
        bus.write(0xe2, 2, 0xbeef);
        assert_eq!(
            (bus.read(0xe0, 4), bus.read(0xe8, 4)),
            (0xbeef_aa44, 0xbeef_aa44)
        );
        bus.write(0xe8, 4, 0x5566_7788);
        assert_eq!((bus.read(0xe0, 1), bus.read(0xea, 1)), (0x88, 0x66));
        bus.write(0xe4, 4, 0x1000);
        assert_eq!((bus.read(0xe4, 4), bus.read(0x2000, 1)), (0, 0));
    }

    #[test]
    fn lines_follow_their_ports() {
        let lines: Vec<Arc<Line>> = (0..24).map(|_| Arc::default()).collect();
        let mut bus = PortBus::new();
        let outputs = lines.iter().map(|l| l.clone() as Arc<dyn IrqLine>);
        for (first, len, device) in PcTestdev::new(outputs.collect()).rows() {
            bus.register(first, len, device).unwrap();
        }
        bus.write(0x2005, 1, 1);
        bus.write(0x2005, 1, 0);
        bus.write(0x2017, 1, 0x80);
        assert_eq!(*lines[5].0.lock(), [true, false]);
        assert_eq!(*lines[23].0.lock(), [true]);
    }

    #[test]
    fn memory_keeps_bytes_of_any_access() {
        let mut bus = MmioBus::new();
        bus.register(Iomem::GPA, Iomem::SIZE, Arc::new(Iomem::default()))
            .unwrap();
        bus.write(Iomem::GPA + 8, 8, 0x1122_3344_5566_7788);
        assert_eq!(bus.read(Iomem::GPA + 0xb, 2), 0x4455);
        assert_eq!(bus.read(Iomem::GPA + 9, 4), 0x4455_6677);
        bus.write(Iomem::GPA + 0xffff, 1, 7);
        assert_eq!(bus.read(Iomem::GPA + 0xfffc, 4), 0x0700_0000);
    }
}
