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
use crate::ram::{GuestRam, NotRam};
use crate::saved::Named;
use crate::smbios::Smbios;
use crate::{acpi, boot, cpu, fw_cfg, isa, mmio, pci, routing};
use devices::timed::{Timed, Waker};
use devices::{IrqLine, MmioBus, PortBus, PowerButton, SystemClock};
use hv::{Hypervisor, MemFlags, MemSlot, Vcpu, Vm};
use std::sync::{Arc, Weak};

mod onboard;

pub use onboard::Devices;

/// COM1 to COM4: first port and ISA interrupt.
pub const SERIAL_PORTS: [(u16, u32); 4] = [(0x3f8, 4), (0x2f8, 3), (0x3e8, 4), (0x2e8, 3)];

/// The machine between two resets. Fields drop in this order: everything that
/// uses guest RAM goes before it.
pub struct Board {
    /// Processors, by APIC id.
    pub vcpus: Vec<Box<dyn Vcpu>>,
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
    /// For the power button.
    pub power_button: Arc<dyn PowerButton>,
    /// The virtual machine.
    pub vm: Arc<dyn Vm>,
    /// What a saved state holds of the devices.
    pub stateful: Vec<Named>,
    /// Guest memory.
    pub ram: GuestRam,
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
        let too_small = |_| Error::Ram {
            bytes: config.ram_bytes,
            why: "too small for the ACPI tables".into(),
        };
        let tables = describe(config, layout, host.consoles.len(), &ram).map_err(too_small)?;
        let smbios = Smbios::new(config, layout)?;
        ram.write(smbios.gpa, &smbios.image()).map_err(too_small)?;
        let items = fw_cfg::items(config, layout, &tables, &smbios)?;
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
        let mut devices = Devices::new(config, layout, host.consoles, &connections, pci);
        devices.add_fw_cfg(items, connections.memory.clone());
        mmio::add(config, &connections, &mut devices)?;
        let mut buses = isa::Buses {
            ports: &mut devices.ports,
            mmio: &mut devices.mmio,
            stateful: &mut devices.stateful,
        };
        isa::add(config, host.debug_consoles, |n| gsi(&vm, n), &mut buses)?;
        let vcpus = create_vcpus(hypervisor, &*vm, config, &start, &ram)?;
        Ok(Self {
            vcpus,
            ports: devices.ports,
            mmio: devices.mmio,
            timed: devices.timed,
            waker,
            clock,
            power_button: devices.power_button,
            vm,
            stateful: devices.stateful,
            ram,
        })
    }
}

/// Writes the ACPI tables.
fn describe(
    config: &MachineConfig,
    layout: &Layout,
    serial_ports: usize,
    ram: &GuestRam,
) -> std::result::Result<acpi::Tables, NotRam> {
    let mmio = config.devices.iter().filter(|d| d.mmio).count();
    let description = acpi::Description {
        board: config.board,
        topology: config.topology,
        serial: &SERIAL_PORTS[..serial_ports],
        low_end: layout.low_end,
        numa: &config.numa,
        node_ranges: &config.numa.ranges(layout),
        mmio: &config.board.mmio_places(mmio),
    };
    acpi::write(&description, ram)
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
    start: &boot::Start,
    ram: &GuestRam,
) -> Result<Vec<Box<dyn Vcpu>>> {
    let supported = hypervisor.supported_cpuid()?;
    let mut vcpus = Vec::new();
    for (index, id) in (0..).zip(config.topology.apic_ids()) {
        let mut vcpu = vm.create_vcpu(id)?;
        let mut cpuid = cpu::for_vcpu(&supported, index, &config.cpu, &config.topology);
        if let Ok(khz) = vcpu.tsc_khz() {
            cpu::tell_frequency(&mut cpuid, khz);
        }
        vcpu.set_cpuid(&cpuid)?;
        boot::firmware_state(&mut *vcpu, id)?;
        if id == 0 {
            boot::apply(start, ram, &mut *vcpu)?;
        }
        vcpus.push(vcpu);
    }
    Ok(vcpus)
}
