//! What a machine has, as monitors show it.

use crate::config::{DeviceConfig, MachineConfig, NetdevConfig, SerialConfig};
use crate::counted::{BlockStats, Counted};
use crate::handle::MachineHandle;
use crate::layout::RamRange;
use crate::outcome::Error;
use crate::saved::chips;
use devices::pci::{Address, PciRoot};
use disk::BlockDevice;
use hv::abi::kvm_pic_state;
use std::sync::{Arc, Weak};

/// A drive.
#[derive(Clone, Debug)]
pub struct DriveView {
    /// Its id.
    pub id: String,
    /// The image.
    pub file: String,
    /// Name of its format.
    pub format: &'static str,
    /// The file behind it, if it has one.
    pub backing: Option<String>,
    /// Nobody writes to it.
    pub read_only: bool,
    /// Size that the guest sees, in bytes.
    pub bytes: u64,
    /// What it has done.
    pub stats: BlockStats,
}

/// A function of PCI.
#[derive(Clone, Debug)]
pub struct PciView {
    /// Number of its bus, as the guest set it.
    pub bus: u8,
    /// Slot.
    pub slot: u8,
    /// Function.
    pub function: u8,
    /// The first 64 bytes of its configuration space.
    pub header: [u8; 64],
    /// Lengths of the regions behind its BARs; 0 for none.
    pub bars: [u64; 6],
}

/// The I/O APIC.
#[derive(Clone, Debug)]
pub struct IoApicView {
    /// Its identity.
    pub id: u32,
    /// Pins with pending interrupts.
    pub irr: u32,
    /// Redirection table entries.
    pub entries: Vec<u64>,
}

/// What the machine is made of; stays across resets.
#[derive(Default)]
pub(crate) struct Parts {
    pub(crate) ranges: Vec<RamRange>,
    pub(crate) pci: Option<Weak<PciRoot>>,
}

impl MachineHandle {
    /// How the machine was configured; `None` if it has not been made.
    pub fn config(&self) -> Option<Arc<MachineConfig>> {
        self.hotplug().config().map(Arc::new)
    }

    /// Its drives.
    pub fn drives(&self) -> Vec<DriveView> {
        let drives = self.hotplug().drives().all();
        let view = |(id, drive): &(String, Arc<Counted>)| {
            let image = drive.disk().image();
            DriveView {
                id: id.clone(),
                file: image.path().display().to_string(),
                format: image.format().name(),
                backing: image.backing().map(|b| b.path().display().to_string()),
                read_only: drive.read_only(),
                bytes: drive.len(),
                stats: drive.stats(),
            }
        };
        drives.iter().map(view).collect()
    }

    /// Devices beside the board's own.
    pub fn devices(&self) -> Vec<DeviceConfig> {
        self.config().map_or(Vec::new(), |c| c.devices.clone())
    }

    /// Networks.
    pub fn netdevs(&self) -> Vec<NetdevConfig> {
        self.hotplug().networks().all()
    }

    /// Host ends: what uses each, and what it is.
    pub fn chardevs(&self) -> Vec<(String, SerialConfig)> {
        let Some(config) = self.config() else {
            return Vec::new();
        };
        let serial = (0..).zip(&config.serial);
        let serial = serial.map(|(n, host)| (format!("serial{n}"), host.clone()));
        let monitors = (0..).zip(&config.monitors);
        let monitors = monitors.map(|(n, m)| (format!("compat_monitor{n}"), m.host.clone()));
        let debugger = config.debugger.iter();
        let debugger = debugger.map(|host| ("gdb".to_string(), host.clone()));
        serial.chain(monitors).chain(debugger).collect()
    }

    /// Where RAM is, in guest-physical addresses.
    pub fn ram_ranges(&self) -> Vec<RamRange> {
        self.0.live.lock().parts.ranges.clone()
    }

    /// The user's name for the device at a place of PCI, if it has one.
    pub fn pci_id(&self, view: &PciView) -> Option<String> {
        let root = self.0.live.lock().parts.pci.clone();
        let root = root.as_ref().and_then(Weak::upgrade)?;
        let place = root.place(view.bus, Address::new(view.slot, view.function)?)?;
        self.hotplug().id_at(place)
    }

    /// Changes the size of a drive and tells the guest.
    ///
    /// # Errors
    /// In QEMU's words where it has some.
    pub fn resize_drive(&self, id: &str, bytes: u64) -> Result<(), String> {
        let drive = self.hotplug().drives().get(id);
        let drive = drive.map_err(|_| format!("Cannot find device='{id}' nor node-name=''"))?;
        if !bytes.is_multiple_of(512) {
            return Err("Parameter 'size' expects a multiple of 512".into());
        }
        let resized = drive.resize(bytes, disk::Preallocation::Off);
        resized.map_err(|errno| format!("'{id}' cannot have {bytes} bytes: {errno}"))?;
        drive.tell_resized();
        Ok(())
    }

    /// The 8259 pair, and identity, pending interrupts and entries of the I/O
    /// APIC.
    ///
    /// # Errors
    /// The machine does not run, or the backend has none.
    pub fn interrupt_controllers(&self) -> Result<([kvm_pic_state; 2], IoApicView), Error> {
        let vm = self
            .vm()
            .ok_or_else(|| Error::State("the machine does not run".into()))?;
        let (pics, ioapic) = chips::interrupt_controllers(&*vm)?;
        let view = IoApicView {
            id: ioapic.id,
            irr: ioapic.irr,
            entries: ioapic.redirtbl,
        };
        Ok((pics, view))
    }

    /// How often the inputs of the interrupt controllers rose; see
    /// [`hv::Vm::irq_counts`].
    pub fn irq_counts(&self) -> Vec<(&'static str, Vec<u64>)> {
        self.vm().map(|vm| vm.irq_counts()).unwrap_or_default()
    }

    /// The functions of PCI, bus by bus; none if the board has no PCI bus.
    pub fn pci_functions(&self) -> Vec<PciView> {
        let root = self.0.live.lock().parts.pci.clone();
        let Some(root) = root.as_ref().and_then(Weak::upgrade) else {
            return Vec::new();
        };
        let mut views = Vec::new();
        scan(&root, 0, &mut views);
        views
    }
}

/// As kernels do: every place of a bus, and the buses behind its bridges. They
/// are numbered by the guest; each lies above the one before it, or the scan ends.
fn scan(root: &PciRoot, bus: u8, views: &mut Vec<PciView>) {
    let mut behind = Vec::new();
    for address in Address::all() {
        let mut header = [0; 64];
        for (offset, word) in (0..).step_by(4).zip(header.chunks_exact_mut(4)) {
            let value = root.config_read(bus, address, offset, 4);
            word.copy_from_slice(&value.to_le_bytes());
        }
        if header[..2] == [0xff, 0xff] {
            continue;
        }
        let mut bars = [0; 6];
        for (index, bar) in root.bars(bus, address) {
            if let Some(to) = bars.get_mut(usize::from(index)) {
                *to = bar.size;
            }
        }
        // Header type 1, and the number of the bus behind it.
        if header[0x0e] & 0x7f == 1 && header[0x19] > bus {
            behind.push(header[0x19]);
        }
        views.push(PciView {
            bus,
            slot: address.slot(),
            function: address.function(),
            header,
            bars,
        });
    }
    behind.into_iter().for_each(|bus| scan(root, bus, views));
}
