//! What is on the board itself, on its buses.

use super::{Host, SERIAL_PORTS, gsi};
use crate::acpi::SlotTree;
use crate::boards::{HotplugKind, Power};
use crate::config::MachineConfig;
use crate::console::Console;
use crate::layout::{HIGH_RAM, Layout};
use crate::saved::Named;
use crate::{acpi, hotplug, pci};
use devices::acpi_pm::{self, AcpiPm, Gpe0, Gpe0Ports};
use devices::fw_cfg::{self as device_fw_cfg, DmaPort, FwCfg, Items};
use devices::ged::{self, Ged, SleepRegisters};
use devices::hotplug::{
    Ejector, PROCESSORS_LEN, ProcessorRegisters, ProcessorsCore, SLOTS_LEN, SlotRegisters,
    SlotsCore,
};
use devices::i8042::{self, CommandPort, I8042};
use devices::pci::{LEN, PORT, PciConfig};
use devices::pvpanic::{self, PvPanic};
use devices::reset::{self, FastA20};
use devices::rtc::{MemorySize, Rtc};
use devices::sink_port::SinkPort;
use devices::timed::Timed;
use devices::uart::SerialPort;
use devices::{IrqLine, MmioBus, OrGate, PortBus, PortDevice, PowerButton, ShiftedClock, Stateful};
use hv::Vm;
use std::sync::{Arc, Weak};
use virtio::GuestMemory;

const RTC_IRQ: u32 = 8;
const KEYBOARD_IRQ: u32 = 1;
const MOUSE_IRQ: u32 = 12;
const POST_PORT: u16 = 0x80;
const DELAY_PORT: u16 = 0xed;

/// Devices on their buses.
pub struct Devices {
    /// I/O ports.
    pub ports: PortBus,
    /// Guest-physical addresses without RAM.
    pub mmio: MmioBus,
    /// Those with deadlines.
    pub timed: Vec<Arc<dyn Timed>>,
    /// The power button.
    pub power_button: Arc<dyn PowerButton>,
    /// What a saved state holds of them.
    pub stateful: Vec<Named>,
    /// Registers of hot-plug.
    pub registers: Option<Registers>,
}

/// How the guest is told of what comes and goes.
#[derive(Clone)]
pub struct Registers {
    /// PCI slots.
    pub slots: Arc<SlotRegisters>,
    /// Processors, if any may come.
    pub processors: Option<Arc<ProcessorRegisters>>,
}

impl Registers {
    /// Who pulls things out.
    pub fn set_ejector(&self, ejector: &Weak<dyn Ejector>) {
        self.slots.set_ejector(ejector.clone());
        if let Some(processors) = &self.processors {
            processors.set_ejector(ejector.clone());
        }
    }
}

impl Devices {
    /// What the board has, and its PCI buses with the slots that take part in
    /// hot-plug.
    pub fn new(
        config: &MachineConfig,
        layout: &Layout,
        host: &Host<'_>,
        to: &pci::Connections<'_>,
        (pci, slots): (Option<pci::Buses>, &SlotTree),
    ) -> Self {
        let mut parts = Parts::default();
        let rtc = build_rtc(config, layout, to);
        parts.timed.push(rtc.clone());
        parts.add(&[(Rtc::PORT, 2)], rtc);
        let mut registers = None;
        let power_button: Arc<dyn PowerButton> = match config.board.power {
            Power::Fixed(gpe0) => {
                let pm = parts.add_pm(gpe0, to);
                let kind = config.board.hotplug.as_ref();
                registers = kind.map(|kind| parts.add_hotplug(kind, &pm, slots, (config, host)));
                pm
            }
            Power::Reduced => parts.add_ged(gsi(to.vm, acpi::GED_GSI)),
        };
        for port in [POST_PORT, DELAY_PORT] {
            parts.register(port, 1, Arc::new(SinkPort));
        }
        if config.board.legacy {
            parts.add_legacy(to.vm);
        }
        if let Some(pci) = pci {
            parts.add_pci(pci);
        }
        parts.add_serial(to.vm, host.consoles);
        Self {
            ports: parts.ports,
            mmio: parts.mmio,
            timed: parts.timed,
            power_button,
            stateful: parts.stateful,
            registers,
        }
    }

    /// Adds fw_cfg with its DMA.
    pub fn add_fw_cfg(&mut self, items: Items, memory: GuestMemory) {
        let device = FwCfg::new(items, Arc::new(pci::Ram(memory)));
        self.stateful.push((String::new(), device.clone()));
        let ports = &mut self.ports;
        let dma = Arc::new(DmaPort(device.clone()));
        let registered = ports
            .register(device_fw_cfg::PORT, device_fw_cfg::PORT_LEN, device)
            .and_then(|()| ports.register(device_fw_cfg::DMA_PORT, device_fw_cfg::DMA_LEN, dma));
        assert!(registered.is_ok(), "fw_cfg's ports are taken");
    }
}

/// The board while it is put together.
#[derive(Default)]
struct Parts {
    ports: PortBus,
    mmio: MmioBus,
    timed: Vec<Arc<dyn Timed>>,
    stateful: Vec<Named>,
}

impl Parts {
    fn register(&mut self, first: u16, count: u16, device: Arc<dyn PortDevice>) {
        let registered = self.ports.register(first, count, device);
        assert!(
            registered.is_ok(),
            "the board's port table overlaps at {first:#x}"
        );
    }

    /// A device that there is once, at these ports (first, number).
    fn add<D: PortDevice + Stateful + 'static>(&mut self, ports: &[(u16, u16)], device: Arc<D>) {
        for &(first, count) in ports {
            self.register(first, count, device.clone());
        }
        self.stateful.push((String::new(), device));
    }

    /// ACPI's fixed hardware.
    fn add_pm(&mut self, gpe0: Gpe0Ports, to: &pci::Connections<'_>) -> Arc<AcpiPm> {
        let sci = gsi(to.vm, acpi::SCI.into());
        let pm = Arc::new(AcpiPm::new(sci, to.clock.clone(), to.waker.clone()));
        self.timed.push(pm.clone());
        self.register(gpe0.base, gpe0.len, Arc::new(Gpe0::new(pm.clone(), gpe0)));
        self.add(&[(acpi_pm::PM_BASE, acpi_pm::PM_LEN)], pm.clone());
        pm
    }

    /// Registers of PCI slots, and of processors if any may come.
    fn add_hotplug(
        &mut self,
        kind: &HotplugKind,
        pm: &Arc<AcpiPm>,
        slots: &SlotTree,
        (config, host): (&MachineConfig, &Host<'_>),
    ) -> Registers {
        let core = SlotsCore::new(hotplug::masks(slots));
        let slots = Arc::new(SlotRegisters::new(core, pm.clone()));
        self.add(&[(kind.slots, SLOTS_LEN)], slots.clone());
        let processors = (config.absent_vcpus > 0).then(|| {
            let present = host.present.iter().copied();
            let core = ProcessorsCore::new(config.topology.apic_ids().zip(present));
            let registers = Arc::new(ProcessorRegisters::new(core, pm.clone()));
            self.add(&[(kind.processors, PROCESSORS_LEN)], registers.clone());
            registers
        });
        Registers { slots, processors }
    }

    /// What hardware-reduced ACPI has instead.
    fn add_ged(&mut self, line: Arc<dyn IrqLine>) -> Arc<dyn PowerButton> {
        let (events, mmio) = (Arc::new(Ged::new(line)), &mut self.mmio);
        let registered = mmio
            .register(ged::EVENTS, ged::EVENTS_LEN, events.clone())
            .and_then(|()| {
                let registers = Arc::new(SleepRegisters);
                mmio.register(ged::REGISTERS, ged::REGISTERS_LEN, registers)
            });
        assert!(registered.is_ok(), "the event device's place is taken");
        self.stateful.push((String::new(), events.clone()));
        events
    }

    /// What boards with a PC's past have.
    fn add_legacy(&mut self, vm: &Arc<dyn Vm>) {
        let keyboard = Arc::new(I8042::new(gsi(vm, KEYBOARD_IRQ), gsi(vm, MOUSE_IRQ)));
        let commands = Arc::new(CommandPort(keyboard.clone()));
        self.register(i8042::COMMAND_PORT, 1, commands);
        self.add(&[(i8042::DATA_PORT, 1)], keyboard);
        self.add(&[(reset::FAST_A20_PORT, 1)], Arc::new(FastA20::default()));
        self.register(pvpanic::PORT, 1, Arc::new(PvPanic));
    }

    fn add_pci(&mut self, pci: pci::Buses) {
        self.timed.extend(pci.timed);
        self.add(&[(PORT, LEN)], Arc::new(PciConfig::new(pci.root.clone())));
        self.ports.set_decoder(pci.root.clone());
        self.mmio.set_decoder(pci.root.clone());
        self.stateful.push((String::new(), pci.root));
    }

    /// One port per console; COM1 and COM3, COM2 and COM4 share an interrupt.
    fn add_serial(&mut self, vm: &Arc<dyn Vm>, consoles: &[Console]) {
        let gates = [4, 3].map(|irq| OrGate::new(gsi(vm, irq)));
        for (i, (console, (first, _))) in consoles.iter().zip(SERIAL_PORTS).enumerate() {
            let irq = gates[i % 2].input();
            let output = console.output.clone();
            let port = Arc::new(SerialPort::new(irq, output, console.input.clone()));
            console.attach(&port);
            self.register(first, 8, port.clone());
            self.stateful.push((format!("com{}", i + 1), port));
        }
    }
}

fn build_rtc(config: &MachineConfig, layout: &Layout, to: &pci::Connections<'_>) -> Arc<Rtc> {
    let memory = MemorySize {
        below_4g: layout.low_end,
        above_4g: layout.high_end - HIGH_RAM,
    };
    let line = gsi(to.vm, RTC_IRQ);
    let clock = Arc::new(ShiftedClock {
        clock: to.clock.clone(),
        wall_offset_ns: config.rtc_offset_ns,
    });
    Arc::new(Rtc::new(memory, line, clock, to.waker.clone()))
}
