//! One life of the machine, from reset to reset: VM, RAM, devices, vCPUs.
#![allow(unsafe_code, reason = "lends guest RAM to the backend")]

use crate::config::MachineConfig;
use crate::console::Console;
use crate::control::Control;
use crate::drives::Drives;
use crate::layout::{HIGH_RAM, Layout};
use crate::outcome::{Error, Result};
use crate::ram::GuestRam;
use crate::saved::Named;
use crate::smbios::Smbios;
use crate::{acpi, boot, cpu, fw_cfg, isa, pci, routing};
use devices::acpi_pm::{self, AcpiPm, Gpe0};
use devices::fw_cfg::{self as device_fw_cfg, DmaPort, FwCfg, Items};
use devices::i8042::{self, CommandPort, I8042};
use devices::pci::{LEN, PORT, PciConfig, PciRoot};
use devices::pvpanic::{self, PvPanic};
use devices::reset::{self, FastA20};
use devices::rtc::{MemorySize, Rtc};
use devices::sink_port::SinkPort;
use devices::timed::{Timed, Waker};
use devices::uart::SerialPort;
use devices::{Clock, IrqLine, MmioBus, OrGate, PortBus, PortDevice, Stateful, SystemClock};
use hv::{Hypervisor, MemFlags, MemSlot, Vcpu, Vm};
use std::sync::{Arc, Weak};
use virtio::GuestMemory;

/// COM1 to COM4: first port and ISA interrupt.
pub const SERIAL_PORTS: [(u16, u32); 4] = [(0x3f8, 4), (0x2f8, 3), (0x3e8, 4), (0x2e8, 3)];
const RTC_IRQ: u32 = 8;
const KEYBOARD_IRQ: u32 = 1;
const MOUSE_IRQ: u32 = 12;
const POST_PORT: u16 = 0x80;
const DELAY_PORT: u16 = 0xed;

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
    pub pm: Arc<AcpiPm>,
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
    /// Open disks.
    pub drives: &'a Drives,
    /// Stops the machine.
    pub control: &'a Arc<Control>,
}

/// Devices on their buses.
struct Devices {
    ports: PortBus,
    mmio: MmioBus,
    timed: Vec<Arc<dyn Timed>>,
    pm: Arc<AcpiPm>,
    stateful: Vec<Named>,
}

impl Board {
    /// Builds the machine, loads the kernel and readies the vCPUs.
    pub fn new(
        hypervisor: &dyn Hypervisor,
        config: &MachineConfig,
        layout: &Layout,
        host: &Host<'_>,
    ) -> Result<Self> {
        let ram = GuestRam::new(layout)?;
        let serial = &SERIAL_PORTS[..host.consoles.len()];
        let description = acpi::Description {
            board: config.board,
            topology: config.topology,
            serial,
            low_end: layout.low_end,
        };
        let too_small = |_| Error::Ram {
            bytes: config.ram_bytes,
            why: "too small for the ACPI tables".into(),
        };
        let tables = acpi::write(&description, &ram).map_err(too_small)?;
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
            line: gsi,
            drives: host.drives,
            control: host.control,
            clock: clock.clone(),
            waker: waker.clone(),
        };
        let pci = pci::build(config, &connections, layout.low_end)?;
        let mut devices = build_devices(&vm, config, layout, host.consoles, &connections, pci);
        add_fw_cfg(&mut devices, items, connections.memory.clone());
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
            pm: devices.pm,
            vm,
            stateful: devices.stateful,
            ram,
        })
    }
}

/// Gives the VM its memory slots.
fn map(ram: &GuestRam, vm: &dyn Vm) -> Result<()> {
    for (slot, (range, hva)) in ram.slots().enumerate() {
        let slot = MemSlot {
            slot: slot as u32,
            gpa: range.gpa,
            size: range.size,
            hva,
            flags: MemFlags::NONE,
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
        vcpu.set_cpuid(&cpu::for_vcpu(
            &supported,
            index,
            &config.cpu,
            &config.topology,
        ))?;
        boot::firmware_state(&mut *vcpu, id)?;
        if id == 0 {
            boot::apply(start, ram, &mut *vcpu)?;
        }
        vcpus.push(vcpu);
    }
    Ok(vcpus)
}

fn build_devices(
    vm: &Arc<dyn Vm>,
    config: &MachineConfig,
    layout: &Layout,
    consoles: &[Console],
    to: &pci::Connections<'_>,
    pci: pci::Buses,
) -> Devices {
    let (time, waker): (Arc<dyn Clock>, _) = (to.clock.clone(), &to.waker);
    let root: Arc<PciRoot> = pci.root;
    let kind = config.board;
    let sci = gsi(vm, acpi::SCI.into());
    let pm = Arc::new(AcpiPm::new(sci, time.clone(), waker.clone()));
    let rtc = build_rtc(vm, layout, time, waker);
    let mut timed: Vec<Arc<dyn Timed>> = vec![pm.clone(), rtc.clone()];
    timed.extend(pci.timed);
    let keyboard = Arc::new(I8042::new(gsi(vm, KEYBOARD_IRQ), gsi(vm, MOUSE_IRQ)));
    let sink = Arc::new(SinkPort);
    let fast_a20 = Arc::new(FastA20::default());
    let mechanism = Arc::new(PciConfig::new(root.clone()));
    let alone: [Arc<dyn Stateful>; 6] = [
        pm.clone(),
        rtc.clone(),
        keyboard.clone(),
        fast_a20.clone(),
        mechanism.clone(),
        root.clone(),
    ];
    let mut stateful: Vec<Named> = alone.map(|d| (String::new(), d)).into();
    let fixed: [(u16, u16, Arc<dyn PortDevice>); 10] = [
        (acpi_pm::PM_BASE, acpi_pm::PM_LEN, pm.clone()),
        (
            kind.gpe0.base,
            kind.gpe0.len,
            Arc::new(Gpe0::new(pm.clone(), kind.gpe0)),
        ),
        (Rtc::PORT, 2, rtc.clone()),
        (i8042::DATA_PORT, 1, keyboard.clone()),
        (i8042::COMMAND_PORT, 1, Arc::new(CommandPort(keyboard))),
        (PORT, LEN, mechanism),
        (reset::FAST_A20_PORT, 1, fast_a20),
        (pvpanic::PORT, 1, Arc::new(PvPanic)),
        (POST_PORT, 1, sink.clone()),
        (DELAY_PORT, 1, sink),
    ];
    let serial = build_serial(vm, consoles);
    let ends = serial.iter().enumerate();
    stateful.extend(ends.map(|(i, s)| (format!("com{}", i + 1), s.clone() as _)));
    let mut ports = PortBus::new();
    let serial_rows = SERIAL_PORTS.iter().zip(&serial);
    let serial_rows =
        serial_rows.map(|(&(port, _), s)| (port, 8, s.clone() as Arc<dyn PortDevice>));
    for (first, len, device) in fixed.into_iter().chain(serial_rows) {
        let registered = ports.register(first, len, device);
        assert!(
            registered.is_ok(),
            "the board's port table overlaps at {first:#x}"
        );
    }
    ports.set_decoder(root.clone());
    let mut mmio = MmioBus::new();
    mmio.set_decoder(root);
    Devices {
        ports,
        mmio,
        timed,
        pm,
        stateful,
    }
}

fn build_rtc(vm: &Arc<dyn Vm>, layout: &Layout, time: Arc<dyn Clock>, waker: &Waker) -> Arc<Rtc> {
    let memory = MemorySize {
        below_4g: layout.low_end,
        above_4g: layout.high_end - HIGH_RAM,
    };
    Arc::new(Rtc::new(memory, gsi(vm, RTC_IRQ), time, waker.clone()))
}

fn add_fw_cfg(to: &mut Devices, items: Items, memory: GuestMemory) {
    let device = FwCfg::new(items, Arc::new(pci::Ram(memory)));
    to.stateful.push((String::new(), device.clone()));
    let ports = &mut to.ports;
    let dma = Arc::new(DmaPort(device.clone()));
    let registered = ports
        .register(device_fw_cfg::PORT, device_fw_cfg::PORT_LEN, device)
        .and_then(|()| ports.register(device_fw_cfg::DMA_PORT, device_fw_cfg::DMA_LEN, dma));
    assert!(registered.is_ok(), "fw_cfg's ports are taken");
}

/// One port per console; COM1 and COM3, COM2 and COM4 share an interrupt.
fn build_serial(vm: &Arc<dyn Vm>, consoles: &[Console]) -> Vec<Arc<SerialPort>> {
    let gates = [4, 3].map(|irq| OrGate::new(gsi(vm, irq)));
    let build = |(i, console): (usize, &Console)| {
        let irq = gates[i % 2].input();
        let output = console.output.clone();
        let port = Arc::new(SerialPort::new(irq, output, console.input.clone()));
        console.attach(&port);
        port
    };
    consoles.iter().enumerate().map(build).collect()
}
