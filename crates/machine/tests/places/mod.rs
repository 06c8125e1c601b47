//! Where devices can be plugged in, on a backend that powers off at once.

use crate::kernel;
use crate::scripted::{Scripted, Step, out16};
use machine::boards::{BoardKind, MICROVM, PC, Q35};
use machine::{
    DeviceConfig, DeviceModel, Machine, MachineConfig, Outcome, PciBridgeConfig, PcieRootPortConfig,
};

fn device(model: DeviceModel, id: &str) -> DeviceConfig {
    DeviceConfig {
        id: Some(id.into()),
        ..DeviceConfig::new(model)
    }
}

fn rng(bus: &str, address: Option<(u8, u8)>) -> DeviceConfig {
    DeviceConfig {
        bus: Some(bus.into()),
        address,
        ..device(DeviceModel::VirtioRng, "rng")
    }
}

fn port(id: &str, chassis: u8) -> DeviceConfig {
    let port = PcieRootPortConfig {
        chassis,
        ..PcieRootPortConfig::default()
    };
    device(DeviceModel::PcieRootPort(port), id)
}

fn bridge(id: &str, chassis: u8) -> DeviceConfig {
    device(DeviceModel::PciBridge(PciBridgeConfig { chassis }), id)
}

/// Powers off, or says why the machine cannot be.
fn run(board: &'static BoardKind, devices: Vec<DeviceConfig>) -> Result<(), String> {
    let config = MachineConfig {
        board,
        ram_bytes: 8 << 20,
        kernel: kernel(),
        no_reboot: true,
        devices,
        ..Default::default()
    };
    let off = Step::Exit(out16(0x604, 0x2000));
    let machine = Machine::new(Scripted::new(vec![vec![off]]), config);
    let outcome = machine.and_then(Machine::run).map_err(|e| e.to_string())?;
    assert_eq!(outcome, Outcome::PowerOff);
    Ok(())
}

#[track_caller]
fn refused(board: &'static BoardKind, devices: Vec<DeviceConfig>, why: &str) {
    let error = run(board, devices).expect_err(why);
    assert!(error.contains(why), "{error}");
}

#[test]
fn trees_of_bridges() {
    run(
        &Q35,
        vec![port("a", 1), port("b", 2), rng("a", None), rng("b", None)],
    )
    .unwrap();
    let mut inner = bridge("inner", 2);
    inner.bus = Some("outer".into());
    let outer = bridge("outer", 1);
    run(&PC, vec![outer, inner, rng("inner", Some((31, 7)))]).unwrap();
}

#[test]
fn buses_and_slots_that_are_not_there() {
    refused(&PC, vec![rng("pcie.0", None)], "no bus 'pcie.0'");
    refused(&Q35, vec![rng("a", None), port("a", 1)], "no bus 'a'");
    refused(&PC, vec![port("a", 1)], "q35");
    refused(
        &Q35,
        vec![port("a", 1), rng("a", Some((1, 0)))],
        "slot 0 only",
    );
    let two = || rng("a", None);
    refused(&Q35, vec![port("a", 1), two(), two()], "slots of the bus");
    refused(&PC, vec![rng("pci.0", Some((1, 3)))], "01.3 is in use");
    refused(&PC, vec![rng("pci.0", Some((32, 0)))], "no place");
}

#[test]
fn chassis_numbers() {
    refused(&PC, vec![bridge("a", 0)], "chassis_nr=");
    refused(&Q35, vec![port("a", 1), port("b", 1)], "the same chassis=");
}

#[test]
fn function_0_speaks_for_its_slot() {
    let at = |function, multifunction| DeviceConfig {
        multifunction,
        ..rng("pci.0", Some((5, function)))
    };
    run(&PC, vec![at(0, true), at(3, false)]).unwrap();
    run(&PC, vec![at(3, false)]).unwrap();
    let why = "multifunction=on";
    refused(&PC, vec![at(0, false), at(3, true)], why);
    refused(&PC, vec![at(3, true), at(0, false)], why);
}

#[test]
fn a_slot_that_is_asked_for_is_kept() {
    let anywhere = || rng("pci.0", None);
    run(
        &PC,
        vec![anywhere(), anywhere(), rng("pci.0", Some((3, 0)))],
    )
    .unwrap();
}

#[test]
fn mmio_is_microvms_and_pci_is_not() {
    let mmio = || DeviceConfig {
        mmio: true,
        ..device(DeviceModel::VirtioRng, "rng")
    };
    let many = |n| (0..n).map(|_| mmio()).collect::<Vec<_>>();
    refused(&MICROVM, many(9), "all 8 places");
    refused(&PC, many(1), "only the board microvm");
    let pci = device(DeviceModel::VirtioRng, "rng");
    refused(&MICROVM, vec![pci], "no PCI bus");
}
