//! Accesses to device registers while time passes.

use crate::input::Input;
use devices::acpi_pm::{self, AcpiPm, Gpe0, ICH9_GPE0, PIIX4_GPE0};
use devices::fw_cfg::{self, DmaPort, FwCfg, Items};
use devices::i8042::{self, CommandPort, I8042};
use devices::pci::PciFunction;
use devices::pci::{self, BusId, Chip, PC_CHIPS, PciConfig, PciRoot};
use devices::pvpanic::{self, PvPanic};
use devices::reset::{self, FastA20};
use devices::rtc::{MemorySize, Rtc};
use devices::testdev::{DMA_MASK, DebugCon, DebugExit, Edu, EduWiring, PcTestdev, PciTestdev};
use devices::timed::{Timed, Waker};
use devices::uart::{ByteSink, ByteSource, SerialPort};
use devices::{Clock, Dma, IrqLine, ManualClock, MsiSink, NoIrq, PortBus, PortDevice, PowerButton};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;

/// First port of the serial port.
const COM1: u16 = 0x3f8;

/// Devices on a bus, with a clock that the input moves.
struct Board {
    bus: PortBus,
    clock: Arc<ManualClock>,
    timed: Vec<Arc<dyn Timed>>,
}

impl Board {
    fn new() -> Self {
        Self {
            bus: PortBus::new(),
            clock: Arc::new(ManualClock::at(1_700_000_000)),
            timed: Vec::new(),
        }
    }
    fn add(&mut self, first: u16, len: u16, device: Arc<dyn PortDevice>) {
        assert!(self.bus.register(first, len, device).is_ok());
    }
    /// Time passes; deadlines lie in the future, or their thread would spin.
    fn advance(&self, ns: u64) {
        // A century at a time, so that the clock does not wrap.
        self.clock.advance_ns(ns.min(1 << 61));
        for device in &self.timed {
            let next = device.run_due();
            let now = self.clock.monotonic_ns();
            assert!(next.is_none_or(|t| t > now), "{next:?} at {now}");
        }
    }
    /// One access to one of `ports`.
    fn access(&self, ports: &[u16], input: &mut Input<'_>) {
        let how = input.u8();
        let port = ports[input.below(ports.len())];
        let size = [1, 1, 2, 4][usize::from(how >> 1 & 3)];
        if how & 1 != 0 {
            self.bus.write(port, size, input.u32());
        } else {
            let value = u64::from(self.bus.read(port, size));
            assert!(value < 1 << (8 * u32::from(size)));
        }
    }
    /// Accesses and time until the input ends; `else_do` does what else can
    /// happen to the devices. At most 400 years pass.
    fn run(&self, ports: &[u16], data: &[u8], mut else_do: impl FnMut(&mut Input<'_>)) {
        let mut input = Input::new(data);
        let mut steps = 0;
        while !input.is_empty() && steps < 512 {
            steps += 1;
            match input.u8() & 3 {
                0 => self.advance(input.span_ns() >> 10),
                1 => else_do(&mut input),
                _ => self.access(ports, &mut input),
            }
        }
    }
}

/// A host stream: what it delivers, and what came back.
#[derive(Default)]
struct Wire(Mutex<VecDeque<u8>>);

impl ByteSink for Wire {
    fn put(&self, _byte: u8) {}
}

impl ByteSource for Wire {
    fn get(&self, buf: &mut [u8]) -> usize {
        let mut queue = self.0.lock();
        let n = buf.len().min(queue.len());
        for (slot, byte) in buf.iter_mut().zip(queue.drain(..n)) {
            *slot = byte;
        }
        n
    }
    fn unget(&self, bytes: &[u8]) {
        let mut queue = self.0.lock();
        bytes.iter().rev().for_each(|&b| queue.push_front(b));
    }
}

fn add_uart(board: &mut Board) -> (Arc<SerialPort>, Arc<Wire>) {
    let wire = Arc::new(Wire::default());
    let port = Arc::new(SerialPort::new(Arc::new(NoIrq), wire.clone(), wire.clone()));
    board.add(COM1, 8, port.clone());
    (port, wire)
}

/// COM1.
pub(super) fn uart(data: &[u8]) {
    let mut board = Board::new();
    let (port, wire) = add_uart(&mut board);
    let ports: Vec<u16> = (COM1..COM1 + 8).collect();
    board.run(&ports, data, |input| match input.u8() {
        0 => port.send_break(),
        n => {
            wire.0.lock().extend(input.bytes(usize::from(n) % 40));
            port.pump();
        }
    });
}

fn add_rtc(board: &mut Board) {
    let memory = MemorySize {
        below_4g: 1 << 30,
        above_4g: 0,
    };
    let time: Arc<dyn Clock> = board.clock.clone();
    let rtc = Arc::new(Rtc::new(memory, Arc::new(NoIrq), time, Waker::default()));
    board.add(Rtc::PORT, 2, rtc.clone());
    board.timed.push(rtc);
}

/// The RTC.
pub(super) fn rtc(data: &[u8]) {
    let mut board = Board::new();
    add_rtc(&mut board);
    let index_and_data = |input: &mut Input<'_>| {
        board.bus.write(Rtc::PORT, 1, input.u8().into());
        board.bus.write(Rtc::PORT + 1, 1, input.u8().into());
    };
    board.run(&[Rtc::PORT, Rtc::PORT + 1], data, index_and_data);
}

fn add_i8042(board: &mut Board) -> Arc<I8042> {
    let keyboard = Arc::new(I8042::new(Arc::new(NoIrq), Arc::new(NoIrq)));
    board.add(i8042::DATA_PORT, 1, keyboard.clone());
    board.add(
        i8042::COMMAND_PORT,
        1,
        Arc::new(CommandPort(keyboard.clone())),
    );
    keyboard
}

/// Keyboard and mouse.
pub(super) fn i8042(data: &[u8]) {
    let mut board = Board::new();
    let keyboard = add_i8042(&mut board);
    let ports = [i8042::DATA_PORT, i8042::COMMAND_PORT];
    board.run(&ports, data, |input| {
        if input.flag() {
            let codes = usize::from(input.u8() & 15);
            keyboard.press(input.bytes(codes));
        } else {
            let (dx, dy) = (input.u16().cast_signed(), input.u16().cast_signed());
            keyboard.move_mouse(dx, dy, input.u8());
        }
    });
}

fn add_pm(board: &mut Board) -> Arc<AcpiPm> {
    let time: Arc<dyn Clock> = board.clock.clone();
    let pm = Arc::new(AcpiPm::new(Arc::new(NoIrq), time, Waker::default()));
    board.add(acpi_pm::PM_BASE, acpi_pm::PM_LEN, pm.clone());
    for ports in [PIIX4_GPE0, ICH9_GPE0] {
        let gpe = Gpe0::new(pm.clone(), ports);
        board.add(ports.base, ports.len, Arc::new(gpe));
    }
    board.timed.push(pm.clone());
    pm
}

fn pm_ports() -> impl Iterator<Item = u16> {
    let pm = acpi_pm::PM_BASE..acpi_pm::PM_BASE + acpi_pm::PM_LEN;
    let gpe = [PIIX4_GPE0, ICH9_GPE0].into_iter();
    pm.chain(gpe.flat_map(|ports| ports.base..ports.base + ports.len))
}

/// ACPI power management.
pub(super) fn acpi_pm(data: &[u8]) {
    let mut board = Board::new();
    let pm = add_pm(&mut board);
    let ports: Vec<u16> = pm_ports().collect();
    board.run(&ports, data, |_| pm.press_power_button());
}

/// 64 KiB of guest memory.
struct Memory(Mutex<Vec<u8>>);

impl Memory {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(vec![0; 1 << 16])))
    }
    fn with(&self, gpa: u64, len: usize, copy: impl FnOnce(&mut [u8])) -> bool {
        let mut memory = self.0.lock();
        let end = usize::try_from(gpa).ok().and_then(|g| g.checked_add(len));
        let range = end.and_then(|end| memory.get_mut(gpa as usize..end));
        range.map(copy).is_some()
    }
}

impl Dma for Memory {
    fn read(&self, gpa: u64, bytes: &mut [u8]) -> bool {
        self.with(gpa, bytes.len(), |m| bytes.copy_from_slice(m))
    }
    fn write(&self, gpa: u64, bytes: &[u8]) -> bool {
        self.with(gpa, bytes.len(), |m| m.copy_from_slice(bytes))
    }
}

impl MsiSink for Memory {
    fn send(&self, _address: u64, _data: u32) {}
}

/// fw_cfg: requests in guest memory, selector and data.
pub(super) fn fw_cfg(data: &[u8]) {
    let mut board = Board::new();
    let memory = Memory::new();
    let mut items = Items::default();
    for (name, len) in [("etc/small", 10), ("opt/large", 9000)] {
        assert_eq!(items.add_file(name, vec![0x5a; len]), Ok(()));
    }
    let device = FwCfg::new(items, memory.clone());
    board.add(fw_cfg::PORT, fw_cfg::PORT_LEN, device.clone());
    board.add(fw_cfg::DMA_PORT, fw_cfg::DMA_LEN, Arc::new(DmaPort(device)));
    let ports: Vec<u16> = (fw_cfg::PORT..fw_cfg::DMA_PORT + fw_cfg::DMA_LEN).collect();
    board.run(&ports, data, |input| {
        let gpa = u64::from(input.u16());
        // Control, length and address, where an address will point to.
        let control = u32::from(input.u8()) | u32::from(input.u16()) << 16;
        let mut request = control.to_be_bytes().to_vec();
        let length = input.u32() & if input.flag() { 0xffff } else { u32::MAX };
        request.extend(length.to_be_bytes());
        request.extend(u64::from(input.u32()).to_be_bytes());
        memory.write(gpa, &request);
        board.bus.write(fw_cfg::DMA_PORT, 4, 0);
        let low = (gpa as u32).swap_bytes();
        board.bus.write(fw_cfg::DMA_PORT + 4, 4, low);
    });
}

/// The functions of test programs, behind their BARs and ports.
pub(super) fn testdevs(data: &[u8]) {
    let mut board = Board::new();
    let memory = Memory::new();
    let lines = (0..24).map(|_| Arc::new(NoIrq) as Arc<dyn IrqLine>);
    for (first, len, device) in PcTestdev::new(lines.collect()).rows() {
        board.add(first, len, device);
    }
    board.add(0xf4, 4, Arc::new(DebugExit { ports: 4 }));
    let wire = Arc::new(Wire::default());
    board.add(0x402, 1, Arc::new(DebugCon::new(wire, 0xe9)));
    let edu = Edu::new(
        DMA_MASK,
        EduWiring {
            intx: Arc::new(NoIrq),
            msi: memory.clone(),
            dma: memory,
            clock: board.clock.clone(),
            waker: Waker::default(),
        },
    );
    board.timed.push(edu.clone());
    let functions: [Arc<dyn PciFunction>; 2] = [edu, Arc::new(PciTestdev::default())];
    let ports = [0xe0, 0xe2, 0xe4, 0xe8, 0xe9, 0xf4, 0x402, 0x2000, 0x2017];
    board.run(&ports, data, |input| {
        let function = &functions[input.below(2)];
        let (bar, size) = (input.u8() & 1, [1, 2, 4, 8][input.below(4)]);
        let offset = match input.u8() {
            n @ 0..=0xf0 => u64::from(n),
            _ => u64::from(input.u32()),
        };
        let value = u64::from(input.u32());
        if input.flag() {
            function.config_write(offset as u16, size.min(4), value as u32);
            function.config_read(offset as u16, size.min(4));
        } else {
            function.bar_write(bar, offset, size, value);
            function.bar_read(bar, offset, size);
        }
    });
}

/// All of them and the small ones, at any port.
pub(super) fn ports(data: &[u8]) {
    let mut board = Board::new();
    add_uart(&mut board);
    add_rtc(&mut board);
    add_i8042(&mut board);
    add_pm(&mut board);
    let root = PciRoot::new();
    for row in &PC_CHIPS {
        let plugged = root.plug((BusId::ROOT, row.address()), Arc::new(Chip::new(row, None)));
        assert!(plugged.is_ok(), "two chips at {}", row.address());
    }
    let mechanism = PciConfig::new(Arc::new(root));
    board.add(pci::PORT, pci::LEN, Arc::new(mechanism));
    board.add(reset::FAST_A20_PORT, 1, Arc::new(FastA20::default()));
    board.add(pvpanic::PORT, 1, Arc::new(PvPanic));
    let mut known: Vec<u16> = (COM1 - 2..COM1 + 10).chain(pm_ports()).collect();
    known.extend([
        0x60, 0x64, 0x70, 0x71, 0x92, 0xcf8, 0xcf9, 0xcfc, 0xcff, 0x505, 0xffff, 0,
    ]);
    board.run(&known, data, |input| {
        let (port, size) = (input.u16(), [1, 2, 4][input.below(3)]);
        board.bus.read(port, size);
        board.bus.write(port, size, input.u32());
    });
}
