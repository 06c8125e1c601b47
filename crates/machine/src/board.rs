//! One life of the machine, from reset to reset: VM, RAM, devices, vCPUs.
#![allow(unsafe_code, reason = "lends guest RAM to the backend")]

use crate::config::MachineConfig;
use crate::console::Console;
use crate::control::Control;
use crate::drives::Drives;
use crate::layout::Layout;
use crate::memory::Part;
use crate::networks::Networks;
use crate::outcome::{Error, Result};
use crate::ram::GuestRam;
use crate::saved::Named;
use crate::smbios::Smbios;
use crate::{acpi, boot, cpu, fw_cfg, hotplug, isa, mmio, pci, routing};
use devices::fw_cfg::Items;
use devices::pci::{PciRoot, Place};
use devices::timed::{Timed, Waker};
use devices::{IrqLine, MmioBus, PortBus, PowerButton, SystemClock};
use hv::abi::kvm_cpuid_entry2;
use hv::{Hypervisor, MemFlags, MemSlot, Vcpu, Vm};
use std::sync::{Arc, Weak};
use virtio::GuestMemory;

mod onboard;

pub use onboard::{Devices, Registers};

/// COM1 to COM4: first port and ISA interrupt.
pub const SERIAL_PORTS: [(u16, u32); 4] = [(0x3f8, 4), (0x2f8, 3), (0x3e8, 4), (0x2e8, 3)];

/// The machine between two resets. Fields drop in this order: everything that
/// uses guest RAM goes before it.
pub struct Board {
    /// Processors that are there, by number.
    pub vcpus: Vec<Processor>,
    /// I/O ports.
    pub ports: PortBus,
    /// Guest-physical addresses without RAM.
    pub mmio: MmioBus,
    /// Devices with deadlines, and who wakes their thread.
    pub timed: Vec<Arc<dyn Timed>>,
    /// Wakes the thread that serves `timed`.
    pub waker: Waker,
    /// Time of `timed`.
    pub clock: Arc<SystemClock>,
    /// Its PCI buses.
    pub pci: Option<Arc<PciRoot>>,
    /// For the power button.
    pub power_button: Arc<dyn PowerButton>,
    /// The virtual machine.
    pub vm: Arc<dyn Vm>,
    /// What a saved state holds of the devices.
    pub stateful: Vec<Named>,
    /// Guest memory, as devices have it.
    pub memory: GuestMemory,
    /// What plugs in while it runs, if there is a PCI bus.
    pub plugger: Option<Arc<pci::Plugger>>,
    /// How the guest is told of that.
    pub registers: Option<Registers>,
    /// Where the configured devices are; `None` if not on PCI.
    pub places: Vec<Option<Place>>,
    /// Guest memory.
    pub ram: GuestRam,
}

/// A processor.
pub struct Processor {
    /// Its number in the topology.
    pub number: u32,
    /// The vCPU.
    pub vcpu: Box<dyn Vcpu>,
}

/// An interrupt input of the VM.
struct GsiLine {
    /// Weak: a console thread may outlive the board's last moment.
    vm: Weak<dyn Vm>,
    gsi: u32,
}

impl IrqLine for GsiLine {
    fn set_level(&self, high: bool) {
        if let Some(vm) = self.vm.upgrade()
            && let Err(error) = vm.set_irq_line(self.gsi, high)
        {
            log::warn!("interrupt line {}: {error}", self.gsi);
        }
    }
}

fn gsi(vm: &Arc<dyn Vm>, gsi: u32) -> Arc<dyn IrqLine> {
    Arc::new(GsiLine {
        vm: Arc::downgrade(vm),
        gsi,
    })
}

/// Host ends; they stay across resets.
#[derive(Clone, Copy)]
pub struct Host<'a> {
    /// Of COM1 to COM4.
    pub consoles: &'a [Console],
    /// Of `isa-debugcon`, in the order of the devices.
    pub debug_consoles: &'a [Console],
    /// What guest RAM is made of.
    pub memory: &'a [Part],
    /// Of the ports of virtio console devices, in their order.
    pub port_consoles: &'a [Console],
    /// Open disks.
    pub drives: &'a Drives,
    /// Networks.
    pub networks: &'a Networks,
    /// Which processors there are, by number.
    pub present: &'a [bool],
    /// Stops the machine.
    pub control: &'a Arc<Control>,
    /// Asks the guest for memory.
    pub balloon: &'a Arc<virtio::balloon::Host>,
}

impl Board {
    /// Builds the machine, loads the kernel and readies the vCPUs.
    pub fn new(
        hypervisor: &dyn Hypervisor,
        config: &MachineConfig,
        layout: &Layout,
        host: &Host<'_>,
    ) -> Result<Self> {
        let ram = GuestRam::of(layout, host.memory)?;
        let start = boot::load(config, layout, &ram, acpi::RSDP)?;

        let vm = hypervisor.create_vm()?;
        map(&ram, &*vm)?;
        vm.create_irqchip()?;
        vm.set_gsi_routing(&routing::pc())?;
        vm.create_pit()?;
        let clock = Arc::new(SystemClock::new());
        let waker = Waker::default();
        let connections = pci::Connections {
            vm: &vm,
            memory: ram.for_devices(Arc::downgrade(&vm))?,
            reclaim: ram.reclaim(Arc::downgrade(&vm)),
            balloon: host.balloon,
            port_consoles: host.port_consoles,
            line: gsi,
            drives: host.drives,
            networks: host.networks,
            control: host.control,
            clock: clock.clone(),
            waker: waker.clone(),
        };
        let pci = pci::build(config, &connections, layout.low_end)?;
        let root = pci.as_ref().map(|buses| buses.root.clone());
        let plugger = pci.as_ref().map(|pci| pci.plugger.clone());
        let places = pci.as_ref().map_or(Vec::new(), |pci| pci.places.clone());
        let fixed = hotplug::fixed(&config.devices, &places);
        let slots = plugger.as_ref().map(|plugger| plugger.tree(&fixed));
        let slots = slots.unwrap_or_default();
        let items = describe(config, layout, host, &slots, &ram)?;
        let mut devices = Devices::new(config, layout, host, &connections, (pci, &slots));
        devices.add_fw_cfg(items, connections.memory.clone());
        mmio::add(config, &connections, &mut devices)?;
        let mut buses = isa::Buses {
            ports: &mut devices.ports,
            mmio: &mut devices.mmio,
            stateful: &mut devices.stateful,
        };
        isa::add(config, host.debug_consoles, |n| gsi(&vm, n), &mut buses)?;
        let memory = connections.memory.clone();
        let mut vcpus = create_vcpus(hypervisor, &*vm, config, host.present)?;
        if let Some(first) = vcpus.first_mut() {
            boot::apply(&start, &ram, &mut *first.vcpu)?;
        }
        Ok(Self {
            vcpus,
            ports: devices.ports,
            mmio: devices.mmio,
            timed: devices.timed,
            waker,
            clock,
            pci: root,
            power_button: devices.power_button,
            vm,
            stateful: devices.stateful,
            memory,
            plugger,
            registers: devices.registers,
            places,
            ram,
        })
    }
}

/// Writes the ACPI and SMBIOS tables; returns what fw_cfg has, which is them
/// again.
fn describe(
    config: &MachineConfig,
    layout: &Layout,
    host: &Host<'_>,
    slots: &acpi::SlotTree,
    ram: &GuestRam,
) -> Result<Items> {
    let too_small = |_| Error::Ram {
        bytes: config.ram_bytes,
        why: "too small for the ACPI tables".into(),
    };
    let mmio = config.devices.iter().filter(|d| d.mmio).count();
    let numbered = (0u32..).zip(host.present);
    let absent: Vec<u32> = numbered
        .filter(|(_, there)| !**there)
        .map(|(n, _)| n)
        .collect();
    let description = acpi::Description {
        board: config.board,
        topology: config.topology,
        vcpus_change: config.absent_vcpus > 0,
        absent: &absent,
        slots,
        serial: &SERIAL_PORTS[..host.consoles.len()],
        low_end: layout.low_end,
        numa: &config.numa,
        node_ranges: &config.numa.ranges(layout),
        mmio: &config.board.mmio_places(mmio),
    };
    let tables = acpi::write(&description, ram).map_err(too_small)?;
    let smbios = Smbios::new(config, layout)?;
    ram.write(smbios.gpa, &smbios.image()).map_err(too_small)?;
    fw_cfg::items(config, layout, &tables, &smbios)
}

/// Gives the VM its memory slots.
fn map(ram: &GuestRam, vm: &dyn Vm) -> Result<()> {
    for (slot, (range, hva)) in ram.slots().enumerate() {
        let slot = MemSlot {
            slot: slot as u32,
            gpa: range.gpa,
            size: range.size,
            hva,
            flags: match ram.is_anonymous(&range) {
                true => MemFlags::ANONYMOUS,
                false => MemFlags::NONE,
            },
        };
        // SAFETY: the mapping lives in `ram`, which the board drops after
        // vCPUs and VM, and is accessed through raw pointers only.
        unsafe { vm.set_memory(slot)? };
    }
    Ok(())
}

fn create_vcpus(
    hypervisor: &dyn Hypervisor,
    vm: &dyn Vm,
    config: &MachineConfig,
    present: &[bool],
) -> Result<Vec<Processor>> {
    let supported = hypervisor.supported_cpuid()?;
    let numbered = (0..).zip(present).filter(|(_, there)| **there);
    numbered
        .map(|(number, _)| create_vcpu(vm, &supported, config, number))
        .collect()
}

/// Makes a processor as firmware leaves it, of those that `supported` says can
/// be made.
pub fn create_vcpu(
    vm: &dyn Vm,
    supported: &[kvm_cpuid_entry2],
    config: &MachineConfig,
    number: u32,
) -> Result<Processor> {
    let id = config.topology.apic_id(number);
    let mut vcpu = vm.create_vcpu(id)?;
    let mut cpuid = cpu::for_vcpu(supported, number, &config.cpu, &config.topology);
    if let Ok(khz) = vcpu.tsc_khz() {
        cpu::tell_frequency(&mut cpuid, khz);
    }
    vcpu.set_cpuid(&cpuid)?;
    boot::firmware_state(&mut *vcpu, id)?;
    Ok(Processor { number, vcpu })
}
