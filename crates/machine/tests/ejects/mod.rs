//! A guest that ejects whatever it can name, asked or not.

use crate::kernel;
use crate::scripted::{Scripted, Step, out, out16};
use hv::VcpuExit;
use machine::boards::{BoardKind, PC, Q35};
use machine::cpu::Topology;
use machine::{
    DeviceConfig, DeviceModel, Machine, MachineConfig, Outcome, PcieRootPortConfig,
    VirtioSerialConfig,
};
use std::sync::mpsc::channel;

fn out32(port: u16, value: u32) -> Step {
    Step::Exit(VcpuExit::IoOut {
        port,
        size: 4,
        value,
    })
}

fn rng(id: Option<&str>, bus: Option<&str>) -> DeviceConfig {
    DeviceConfig {
        id: id.map(Into::into),
        bus: bus.map(Into::into),
        ..DeviceConfig::new(DeviceModel::VirtioRng)
    }
}

/// Selects buses and writes to every register in every width, then looks at
/// what was there, and ejects processors that cannot go.
fn attack(slots: u16, processors: u16) -> Vec<Step> {
    let mut steps = Vec::new();
    for bus in [0, 1, 2, 3, u32::MAX] {
        steps.push(out32(slots + 0x10, bus));
        for offset in 0..0x14 {
            steps.push(Step::Exit(out(slots + offset, 0xff)));
            steps.push(Step::Exit(out16(slots + offset, 0xffff)));
        }
        steps.push(out32(slots + 0x10, bus));
        for _ in 0..2 {
            steps.push(out32(slots + 0x08, u32::MAX));
        }
    }
    for slot in 0..32 {
        steps.push(out32(0xcf8, 0x8000_0004 | slot << 11));
        steps.push(out32(0xcfc, 7));
        steps.push(Step::Exit(VcpuExit::IoIn {
            port: 0xcfc,
            size: 4,
        }));
    }
    for gpa in (0xfe00_0000..0xfec0_0000u64).step_by(0x1000) {
        let size = 4;
        steps.push(Step::Exit(VcpuExit::MmioRead { gpa, size }));
        let value = 0xff;
        steps.push(Step::Exit(VcpuExit::MmioWrite { gpa, size, value }));
    }
    for number in [0, 2, 3, u32::MAX] {
        steps.push(out32(processors, number));
        steps.push(Step::Exit(out(processors + 4, 0xff)));
    }
    steps.push(Step::Exit(out16(0x604, 0x2000)));
    steps
}

/// The names of what went, `None` for those without one.
fn ejected(
    board: &'static BoardKind,
    devices: Vec<DeviceConfig>,
    ports: (u16, u16),
) -> Vec<Option<String>> {
    let config = MachineConfig {
        board,
        ram_bytes: 8 << 20,
        kernel: kernel(),
        no_reboot: true,
        topology: Topology::of_cores(3),
        absent_vcpus: 1,
        devices,
        ..Default::default()
    };
    let script = Scripted::new(vec![attack(ports.0, ports.1)]);
    let machine = Machine::new(script, config).unwrap();
    let handle = machine.handle();
    let (sender, gone) = channel();
    handle.when_deleted(move |what| sender.send(what.id.clone()).expect("we listen"));
    assert_eq!(machine.run().unwrap(), Outcome::PowerOff);
    let present: Vec<bool> = handle.cpus().iter().map(|c| c.present).collect();
    assert_eq!(present, [true, true, false]);
    gone.try_iter().collect()
}

#[test]
fn what_can_go_goes_once_and_nothing_else() {
    let ports = DeviceModel::VirtioSerial(VirtioSerialConfig {
        max_ports: 31,
        ports: Vec::new(),
    });
    let devices = vec![
        rng(Some("a"), None),
        DeviceConfig::new(ports),
        DeviceConfig::new(DeviceModel::Edu { dma_mask: u64::MAX }),
        rng(None, None),
    ];
    let gone = ejected(&PC, devices, (0xae00, 0xaf00));
    assert_eq!(gone, [Some("a".into()), None]);
}

#[test]
fn on_q35_only_what_is_behind_a_port_goes() {
    let port = |id: &str, chassis| DeviceConfig {
        id: Some(id.into()),
        ..DeviceConfig::new(DeviceModel::PcieRootPort(PcieRootPortConfig {
            chassis,
            fixed: id == "fixed",
            ..Default::default()
        }))
    };
    let devices = vec![
        port("p", 1),
        port("empty", 2),
        port("fixed", 3),
        rng(Some("stays"), Some("fixed")),
        rng(Some("root"), None),
        rng(Some("behind"), Some("p")),
    ];
    let gone = ejected(&Q35, devices, (0x0cc0, 0x0cd8));
    assert_eq!(gone, [Some("behind".into())]);
}
