//! Virtio over PCI (4.1): the structures of W-18's layout behind BAR 4, MSI-X
//! behind BAR 1, for transitional devices the legacy block behind BAR 0.

mod saved;

use super::setup::status;
use super::{Setup, Signals, pci_legacy as legacy, pci_registers as modern};
use crate::device::{Interrupts, VirtioDevice};
use crate::memory::GuestMemory;
use devices::pci::{
    Bar, BarKind, ConfigSpace, Identity, Msix, MsixCapability, PciFunction, Window, add_endpoint,
    command, header,
};
use devices::{Effect, IrqLine, MsiSink, Stateful};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, Ordering};

/// Red Hat, which owns the virtio ids.
const VENDOR: u16 = 0x1af4;
/// QEMU's subsystem of devices that are not transitional.
const MODERN_SUBSYSTEM: u16 = 0x1100;
/// PCI device ids of devices that are not transitional: this plus the virtio
/// id (4.1.2.1).
const MODERN_IDS: u16 = 0x1040;

const LEGACY_BAR: u8 = 0;
const MSIX_BAR: u8 = 1;
const BAR: u8 = 4;
const BAR_SIZE: u64 = 0x4000;
/// Smallest BAR of MSI-X, with the pending bits in its second half; both grow with
/// the table.
const MSIX_BAR_SIZE: u64 = 0x1000;
const PBA: u32 = 0x800;
const VECTOR_SIZE: u32 = 16;
/// The legacy registers with MSI-X; the configuration follows.
const LEGACY_REGISTERS: u64 = 0x18;
/// Most vectors (PCI Local Bus 3.0, 6.8.2.3).
pub const MAX_VECTORS: u16 = 2048;

/// The structures in BAR 4, each of 4 KiB (4.1.4): type, offset.
const STRUCTURE: u64 = 0x1000;
const STRUCTURES: [(u8, u64); 4] = [(1, COMMON), (3, ISR), (4, DEVICE), (2, NOTIFY)];
const COMMON: u64 = 0x0000;
const ISR: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
const NOTIFY_MULTIPLIER: u32 = 4;
const TYPE_NOTIFY: u8 = 2;
const TYPE_PCI_CONFIG: u8 = 5;
const VENDOR_CAPABILITY: u8 = 0x09;
/// Offsets inside the PCI configuration access capability (4.1.4.9).
const WINDOW_BAR: u16 = 4;
const WINDOW_OFFSET: u16 = 8;
const WINDOW_LENGTH: u16 = 12;
const WINDOW_DATA: u16 = 16;

/// Bits of the ISR (4.1.4.5).
const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

/// How a function reaches the rest of the machine.
#[derive(Clone)]
pub struct PciWiring {
    /// Its interrupt pin.
    pub intx: Arc<dyn IrqLine>,
    /// For its messages.
    pub msi: Arc<dyn MsiSink>,
    /// Guest memory.
    pub memory: GuestMemory,
    /// It is behind a PCI Express port: then it is a PCI Express function, and
    /// has no legacy registers.
    pub express: bool,
}

/// A virtio device as a PCI function.
pub struct VirtioPci {
    device: Arc<dyn VirtioDevice>,
    /// Taken before the link's lock. A worker never takes it.
    common: Mutex<Setup>,
    link: Arc<Link>,
    /// The command register's bus master bit: notifications wait for it.
    master: AtomicBool,
    /// Where the configuration access capability is.
    window: u16,
    vectors: u16,
    /// BAR 0 is the legacy register block.
    legacy: bool,
}

/// The way from a device's threads to its driver. It knows nothing of the
/// device, so that threads keep no device alive.
struct Link {
    name: &'static str,
    signals: Arc<Signals>,
    bus: Mutex<BusState>,
    isr: AtomicU8,
    intx: Arc<dyn IrqLine>,
    msi: Arc<dyn MsiSink>,
}

impl Link {
    /// The driver reads the ISR, which acknowledges (4.1.4.5.1).
    fn take_isr(&self) -> u8 {
        let mut bus = self.bus.lock();
        let isr = self.isr.swap(0, Ordering::AcqRel);
        self.drive_intx(&mut bus);
        isr
    }

    /// Sets the pin to what ISR and command register say.
    fn drive_intx(&self, bus: &mut BusState) {
        let asks = self.isr.load(Ordering::Acquire) != 0 && !bus.msix.enabled();
        let level = bus.config.drive_intx(asks);
        self.intx.set_level(level);
    }

    /// Tells the driver: by the vector in `vector` or through ISR and pin.
    fn interrupt(&self, isr: u8, vector: Option<&AtomicU16>) {
        let mut bus = self.bus.lock();
        if bus.msix.enabled() {
            let vector = vector.map(|v| v.load(Ordering::Relaxed));
            let message = vector.and_then(|v| bus.msix.raise(v));
            drop(bus);
            if let Some((address, data)) = message {
                self.msi.send(address, data);
            }
        } else {
            self.isr.fetch_or(isr, Ordering::AcqRel);
            self.drive_intx(&mut bus);
        }
    }
}

/// What configuration accesses and interrupts change.
struct BusState {
    config: ConfigSpace,
    msix: Msix,
}

impl VirtioPci {
    /// A function with `vectors` MSI-X vectors.
    pub fn new(device: Arc<dyn VirtioDevice>, vectors: u16, wiring: PciWiring) -> Arc<Self> {
        let signals = Arc::new(Signals::new(device.queue_sizes().len()));
        let vectors = vectors.clamp(1, MAX_VECTORS);
        let legacy = device.kind().transitional() && !wiring.express;
        let mut config = config_space(&*device, legacy, vectors);
        if wiring.express {
            config.extend();
            add_endpoint(&mut config);
        }
        let window = add_structures(&mut config);
        let place = MsixCapability {
            bar: MSIX_BAR,
            pba: pending_bits(vectors),
        };
        let msix = Msix::new(&mut config, vectors, place);
        let common = Setup::new(device.clone(), wiring.memory, signals.clone());
        let link = Link {
            name: device.kind().name,
            signals,
            bus: Mutex::new(BusState { config, msix }),
            isr: AtomicU8::new(0),
            intx: wiring.intx,
            msi: wiring.msi,
        };
        Arc::new(Self {
            device,
            common: Mutex::new(common),
            link: Arc::new(link),
            master: AtomicBool::new(false),
            window,
            vectors,
            legacy,
        })
    }

    /// Rings a queue's doorbell, unless the function may not use memory yet.
    fn notify(&self, queue: u16) {
        if self.master.load(Ordering::Acquire) {
            self.link.signals.notify(queue);
        }
    }

    fn set_status(&self, value: u8) {
        self.common.lock().set_status(value, self.link.clone());
        if value == 0 {
            self.link.take_isr();
        } else if value & status::DRIVER_OK != 0 {
            self.ring_all();
        }
    }

    /// Buffers may have been made available before anybody listened.
    fn ring_all(&self) {
        (0..self.link.signals.doorbells.len()).for_each(|q| self.notify(q as u16));
    }

    fn read_device(&self, offset: u64, size: u8) -> u64 {
        let mut bytes = [0; 8];
        let n = usize::from(size).min(8);
        self.device.read_config(offset as usize, &mut bytes[..n]);
        u64::from_le_bytes(bytes)
    }

    fn write_device(&self, offset: u64, size: u8, value: u64) {
        let n = usize::from(size).min(8);
        self.device
            .write_config(offset as usize, &value.to_le_bytes()[..n]);
    }

    fn read_structure(&self, offset: u64, size: u8) -> u64 {
        let inside = offset % STRUCTURE;
        match offset - inside {
            COMMON => modern::read(&self.common.lock(), &self.link.signals, inside, size),
            ISR if inside == 0 => self.link.take_isr().into(),
            DEVICE => self.read_device(inside, size),
            _ => 0,
        }
    }

    fn write_structure(&self, offset: u64, size: u8, value: u64) {
        let inside = offset % STRUCTURE;
        match offset - inside {
            COMMON if inside == modern::STATUS => self.set_status(value as u8),
            COMMON => {
                let mut common = self.common.lock();
                modern::write(
                    &mut common,
                    &self.link.signals,
                    self.vectors,
                    (inside, size),
                    value,
                );
            }
            DEVICE => self.write_device(inside, size, value),
            NOTIFY => self.notify((inside / u64::from(NOTIFY_MULTIPLIER)) as u16),
            _ => {}
        }
    }

    fn msix_enabled(&self) -> bool {
        self.link.bus.lock().msix.enabled()
    }

    fn read_legacy(&self, offset: u64, size: u8) -> u64 {
        if offset == legacy::at::ISR {
            return self.link.take_isr().into();
        }
        let config = legacy::config_offset(self.msix_enabled());
        match offset.checked_sub(config) {
            Some(inside) => self.read_device(inside, size),
            None => legacy::read(&mut self.common.lock(), &self.link.signals, offset),
        }
    }

    fn write_legacy(&self, offset: u64, size: u8, value: u64) {
        let config = legacy::config_offset(self.msix_enabled());
        match (offset, offset.checked_sub(config)) {
            (legacy::at::STATUS, _) => self.set_status(value as u8),
            (legacy::at::QUEUE_NOTIFY, _) => self.notify(value as u16),
            (_, Some(inside)) => self.write_device(inside, size, value),
            (_, None) => {
                let mut common = self.common.lock();
                legacy::write(&mut common, &self.link.signals, self.vectors, offset, value);
            }
        }
    }

    /// The access that the PCI configuration access capability stands for:
    /// BAR, offset and width.
    fn window(&self) -> Option<(u8, u64, u8)> {
        let bus = self.link.bus.lock();
        let read = |at, size| bus.config.read(self.window + at, size);
        let (bar, offset) = (read(WINDOW_BAR, 1), read(WINDOW_OFFSET, 4));
        let length = read(WINDOW_LENGTH, 4);
        let valid = matches!(length, 1 | 2 | 4) && offset % length == 0;
        valid.then_some((bar as u8, offset.into(), length as u8))
    }

    fn window_data(&self, offset: u16) -> bool {
        offset == self.window + WINDOW_DATA
    }

    /// Follows the command register and the MSI-X control bits.
    fn config_written(&self) {
        let mut bus = self.link.bus.lock();
        let BusState { config, msix } = &mut *bus;
        let messages = msix.refresh(config);
        let master = config.command() & command::MASTER != 0;
        self.link.drive_intx(&mut bus);
        drop(bus);
        for (address, data) in messages {
            self.link.msi.send(address, data);
        }
        if master && !self.master.swap(master, Ordering::AcqRel) {
            self.ring_all();
        }
        self.master.store(master, Ordering::Release);
    }
}

/// Where the pending bits are: behind the table.
fn pending_bits(vectors: u16) -> u32 {
    (VECTOR_SIZE * u32::from(vectors)).max(PBA)
}

/// Ids and BARs.
fn config_space(device: &dyn VirtioDevice, legacy: bool, vectors: u16) -> ConfigSpace {
    let kind = device.kind();
    let (id, subsystem) = match legacy {
        true => (kind.pci_id, kind.id),
        false => (MODERN_IDS + kind.id, MODERN_SUBSYSTEM),
    };
    let mut config = ConfigSpace::new(&Identity {
        vendor: VENDOR,
        device: id,
        revision: u8::from(!legacy),
        class: kind.class,
        subsystem: (VENDOR, subsystem),
    });
    config.set_interrupt_pin(1);
    if legacy {
        let bytes = LEGACY_REGISTERS + device.config_len() as u64;
        let size = bytes.next_power_of_two().max(32);
        let kind = BarKind::Io;
        config.add_bar(LEGACY_BAR, Bar { kind, size });
    }
    let end = u64::from(pending_bits(vectors)) + u64::from(vectors.div_ceil(64)) * 8;
    let size = end.next_power_of_two().max(MSIX_BAR_SIZE);
    let kind = BarKind::Memory32;
    config.add_bar(MSIX_BAR, Bar { kind, size });
    let size = BAR_SIZE;
    let kind = BarKind::Memory64;
    config.add_bar(BAR, Bar { kind, size });
    config
}

/// Adds the capabilities of 4.1.4; returns where the configuration access
/// one is.
fn add_structures(config: &mut ConfigSpace) -> u16 {
    for (kind, offset) in STRUCTURES {
        let multiplier = (kind == TYPE_NOTIFY).then_some(NOTIFY_MULTIPLIER);
        config.add_capability(
            VENDOR_CAPABILITY,
            &structure(kind, BAR, offset as u32, STRUCTURE as u32, multiplier),
        );
    }
    let body = structure(TYPE_PCI_CONFIG, 0, 0, 0, Some(0));
    let at = config.add_capability(VENDOR_CAPABILITY, &body);
    config.allow(at + usize::from(WINDOW_BAR), &[0xff]);
    config.allow(at + usize::from(WINDOW_OFFSET), &[0xff; 8]);
    at as u16
}

/// `virtio_pci_cap` behind its next pointer, and the word that two kinds have
/// more.
fn structure(kind: u8, bar: u8, offset: u32, length: u32, more: Option<u32>) -> Vec<u8> {
    let mut body = vec![if more.is_some() { 20 } else { 16 }, kind, bar, 0, 0, 0];
    let words = [Some(offset), Some(length), more];
    body.extend(words.into_iter().flatten().flat_map(u32::to_le_bytes));
    body
}

impl PciFunction for VirtioPci {
    fn removed(&self) {
        self.common.lock().retire();
        self.link.take_isr();
    }

    fn stateful(&self) -> Option<&dyn Stateful> {
        Some(self)
    }

    fn config_read(&self, offset: u16, size: u8) -> u32 {
        if self.window_data(offset)
            && let Some((bar, at, width)) = self.window()
        {
            return self.bar_read(bar, at, width) as u32;
        }
        self.link.bus.lock().config.read(offset, size)
    }

    fn config_write(&self, offset: u16, size: u8, value: u32) -> Option<Effect> {
        if self.window_data(offset) {
            let (bar, at, width) = self.window()?;
            return self.bar_write(bar, at, width, value.into());
        }
        self.link.bus.lock().config.write(offset, size, value);
        let touches_header = usize::from(offset) < header::STATUS;
        if touches_header || usize::from(offset) >= header::END {
            self.config_written();
        }
        None
    }

    fn bars(&self) -> Vec<(u8, Bar)> {
        self.link.bus.lock().config.bars()
    }

    fn windows(&self) -> Vec<Window> {
        self.link.bus.lock().config.windows()
    }

    fn bar_read(&self, bar: u8, offset: u64, size: u8) -> u64 {
        match bar {
            LEGACY_BAR if self.legacy => self.read_legacy(offset, size),
            MSIX_BAR => self.link.bus.lock().msix.read(offset, size),
            BAR => self.read_structure(offset, size),
            _ => 0,
        }
    }

    fn bar_write(&self, bar: u8, offset: u64, size: u8, value: u64) -> Option<Effect> {
        match bar {
            LEGACY_BAR if self.legacy => {
                self.write_legacy(offset, size, value);
            }
            MSIX_BAR => {
                let message = self.link.bus.lock().msix.write(offset, size, value);
                if let Some((address, data)) = message {
                    self.link.msi.send(address, data);
                }
            }
            BAR => self.write_structure(offset, size, value),
            _ => {}
        }
        None
    }
}

impl Interrupts for Link {
    fn queue(&self, index: u16) {
        let vector = self.signals.queue_vectors.get(usize::from(index));
        self.interrupt(ISR_QUEUE, vector);
    }

    fn config_changed(&self) {
        self.signals.generation.fetch_add(1, Ordering::AcqRel);
        self.interrupt(ISR_CONFIG, Some(&self.signals.config_vector));
    }

    fn needs_reset(&self, why: &str) {
        if self.signals.set_needs_reset(self.name, why) {
            self.config_changed();
        }
    }
}

impl Drop for VirtioPci {
    fn drop(&mut self) {
        self.common.get_mut().reset();
    }
}
