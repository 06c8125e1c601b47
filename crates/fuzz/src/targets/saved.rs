//! Saved states.

use devices::acpi_pm::AcpiPm;
use devices::fw_cfg::{FwCfg, Items};
use devices::i8042::I8042;
use devices::pci::{BusId, Chip, PC_CHIPS, PciConfig, PciRoot};
use devices::reset::FastA20;
use devices::rtc::{MemorySize, Rtc};
use devices::testdev::{Iomem, PcTestdev, PciTestdev};
use devices::timed::Waker;
use devices::uart::{ByteSink, ByteSource, SerialPort};
use devices::{Clock, Dma, ManualClock, NoIrq, PortDevice, Stateful};
use state::Image;
use std::sync::Arc;

/// A host end that takes everything and has nothing.
struct Nothing;

impl ByteSink for Nothing {
    fn put(&self, _byte: u8) {}
}

impl ByteSource for Nothing {
    fn get(&self, _buf: &mut [u8]) -> usize {
        0
    }
    fn unget(&self, _bytes: &[u8]) {}
}

impl Dma for Nothing {
    fn read(&self, _gpa: u64, _bytes: &mut [u8]) -> bool {
        false
    }
    fn write(&self, _gpa: u64, _bytes: &[u8]) -> bool {
        false
    }
}

/// A device that is saved, and the same behind ports.
struct Device {
    stateful: Arc<dyn Stateful>,
    ports: Arc<dyn PortDevice>,
}

fn device<D: Stateful + PortDevice + 'static>(device: D) -> Device {
    let device = Arc::new(device);
    Device {
        stateful: device.clone(),
        ports: device,
    }
}

fn devices() -> Vec<Device> {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(1_700_000_000));
    let waker = Waker::default;
    let nothing = || Arc::new(Nothing);
    let irq = || Arc::new(NoIrq);
    let root = PciRoot::new();
    for row in &PC_CHIPS {
        assert!(
            root.plug((BusId::ROOT, row.address()), Arc::new(Chip::new(row, None)))
                .is_ok()
        );
    }
    if let Ok(free) = root.free_slot(BusId::ROOT, &[]) {
        assert!(
            root.plug((BusId::ROOT, free), Arc::new(PciTestdev::default()))
                .is_ok()
        );
    }
    let root = Arc::new(root);
    let mechanism = Arc::new(PciConfig::new(root.clone()));
    let fw_cfg = FwCfg::new(Items::default(), nothing());
    vec![
        device(SerialPort::new(irq(), nothing(), nothing())),
        device(Rtc::new(
            MemorySize::default(),
            irq(),
            clock.clone(),
            waker(),
        )),
        device(I8042::new(irq(), irq())),
        device(AcpiPm::new(irq(), clock, waker())),
        device(FastA20::default()),
        Device {
            stateful: mechanism.clone(),
            ports: mechanism.clone(),
        },
        Device {
            stateful: root,
            ports: mechanism,
        },
        Device {
            stateful: fw_cfg.clone(),
            ports: fw_cfg,
        },
    ]
}

/// Restores what there is. What a device takes it gives back the same, and
/// it works afterwards.
pub(super) fn run(data: &[u8]) {
    let Ok(image) = state::decode(data) else {
        return;
    };
    let memory = Iomem::default();
    let _ = memory.restore("", &mut image.clone());
    let _ = PcTestdev::new(Vec::new()).restore("", &mut image.clone());
    for device in devices() {
        if device.stateful.restore("", &mut image.clone()).is_err() {
            continue;
        }
        let mut again = Image::default();
        assert_eq!(device.stateful.save("", &mut again), Ok(()));
        device.stateful.resume();
        for offset in 0..8 {
            device.ports.read(offset, 1);
            device.ports.write(offset, 1, 0xa5);
            device.ports.read(offset, 1);
        }
    }
}
