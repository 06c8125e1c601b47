//! Disks, network adapters and processors come and go under a Linux that uses
//! them. `TRAPEZE_CYCLES` says how often (`cargo xtask soak hotplug`).

mod live;

use live::{Folder, Guest};
use machine::cpu::Topology;
use machine::{
    DeviceConfig, DeviceModel, DriveConfig, MachineConfig, NetdevConfig, NetdevKind,
    PciBridgeConfig, PcieRootPortConfig, VirtioBlkConfig, VirtioNetConfig,
};
use std::fs;
use virtio::net::Options;

const DISK: usize = 8 << 20;
const CYCLES: usize = 10;

fn cycles() -> usize {
    match std::env::var("TRAPEZE_CYCLES") {
        Ok(text) => text.parse().expect("TRAPEZE_CYCLES is a number"),
        Err(_) => CYCLES,
    }
}

fn root_port(id: &str, chassis: u8) -> DeviceConfig {
    DeviceConfig {
        id: Some(id.into()),
        ..DeviceConfig::new(DeviceModel::PcieRootPort(PcieRootPortConfig {
            chassis,
            ..Default::default()
        }))
    }
}

fn bridge(id: &str) -> DeviceConfig {
    DeviceConfig {
        id: Some(id.into()),
        ..DeviceConfig::new(DeviceModel::PciBridge(PciBridgeConfig { chassis: 1 }))
    }
}

/// One processor of three, on q35 two ports to plug into, on pc a bridge.
fn config(board: &str) -> MachineConfig {
    MachineConfig {
        topology: Topology::of_cores(3),
        absent_vcpus: 2,
        devices: match board {
            "q35" => vec![root_port("a", 1), root_port("b", 2)],
            _ => vec![bridge("b")],
        },
        ..Default::default()
    }
}

fn on(board: &str, port: &str, id: &str, model: DeviceModel) -> DeviceConfig {
    DeviceConfig {
        id: Some(id.into()),
        bus: (board == "q35" || port == "b").then(|| port.into()),
        ..DeviceConfig::new(model)
    }
}

fn disk(board: &str) -> DeviceConfig {
    let model = DeviceModel::VirtioBlk(VirtioBlkConfig {
        drive: "d".into(),
        options: Default::default(),
    });
    on(board, "a", "disk", model)
}

fn adapter(board: &str) -> DeviceConfig {
    let model = DeviceModel::VirtioNet(VirtioNetConfig {
        netdev: Some("n".into()),
        vectors: None,
        options: Options {
            mac: [0x52, 0x54, 0, 0x12, 0x34, 0x56],
            ..Default::default()
        },
    });
    on(board, "b", "nic", model)
}

fn drive(folder: &Folder) -> DriveConfig {
    let path = folder.path("disk.img");
    DriveConfig {
        id: "d".into(),
        file: path.to_string_lossy().into_owned(),
        options: disk::DiskOptions {
            format: Some(disk::Format::Raw),
            ..Default::default()
        },
        snapshot: false,
    }
}

fn netdev() -> NetdevConfig {
    NetdevConfig {
        id: "n".into(),
        kind: NetdevKind::Nowhere,
    }
}

#[track_caller]
fn refused<T>(result: machine::Result<T>, why: &str) {
    let error = result.err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error.contains(why), "'{error}' is not about '{why}'");
}

#[test]
fn on_pc() {
    comes_and_goes("pc");
}

#[test]
fn on_q35() {
    comes_and_goes("q35");
}

fn comes_and_goes(board: &str) {
    let folder = Folder::new(board);
    fs::write(folder.path("disk.img"), vec![0; DISK]).unwrap();
    let mut guest = Guest::boot(board, config(board));
    a_disk(&mut guest, board, &folder);
    an_adapter(&mut guest, board);
    a_processor(&mut guest);
    again_and_again(&mut guest, board);
    across_resets(&mut guest, board);
    guest.finish();
}

fn a_disk(guest: &mut Guest, board: &str, folder: &Folder) {
    let handle = guest.handle.clone();
    refused(handle.add_device(disk(board)), "no drive 'd'");
    handle.add_drive(&drive(folder)).unwrap();
    refused(handle.add_drive(&drive(folder)), "drive of this name");
    handle.add_device(disk(board)).unwrap();
    refused(handle.add_device(disk(board)), "Duplicate device ID 'disk'");
    let mut other = disk(board);
    other.id = None;
    refused(handle.add_device(other), "in use by virtio-blk-pci 'disk'");
    refused(handle.remove_drive("d"), "in use by virtio-blk-pci 'disk'");
    if board == "q35" {
        let mut rng = DeviceConfig::new(DeviceModel::VirtioRng);
        let why = "Bus 'pcie.0' does not support hotplugging";
        refused(handle.add_device(rng.clone()), why);
        rng.bus = Some("a".into());
        refused(handle.add_device(rng), "slots of the bus");
    }
    guest.until("[ -b /dev/vda ]");
    guest.run("yes trapeze | head -c 8388608 > /dev/vda && sync");
    guest.run("echo 3 > /proc/sys/vm/drop_caches; [ $(grep -c ^trapeze /dev/vda) = 1048576 ]");
    handle.remove_device("disk").unwrap();
    refused(
        handle.remove_device("disk"),
        "already in the process of unplug",
    );
    let gone = guest.gone();
    assert_eq!(gone.id.as_deref(), Some("disk"));
    assert_eq!(gone.path, "/machine/peripheral/disk");
    guest.until("[ ! -e /sys/block/vda ]");
    refused(handle.remove_device("disk"), "'disk' not found");
    handle.remove_drive("d").unwrap();
    refused(handle.remove_drive("d"), "no such drive");
    let bytes = fs::read(folder.path("disk.img")).unwrap();
    assert!(bytes.len() == DISK && bytes.chunks(8).all(|c| c == b"trapeze\n"));
    handle.add_drive(&drive(folder)).unwrap();
}

fn an_adapter(guest: &mut Guest, board: &str) {
    let handle = guest.handle.clone();
    handle.add_netdev(&netdev()).unwrap();
    handle.add_device(adapter(board)).unwrap();
    guest.until("[ -e /sys/class/net/eth0 ]");
    guest.run("ip addr add 10.0.0.1/24 dev eth0 && ip link set eth0 up");
    guest.until("ping -c 1 -W 1 10.0.0.2 >/dev/null; [ $(cat /sys/class/net/eth0/statistics/tx_packets) -gt 0 ]");
    assert!(handle.link("n").is_some());
    refused(handle.remove_netdev("n"), "in use by virtio-net-pci 'nic'");
    handle.remove_device("nic").unwrap();
    assert_eq!(guest.gone().id.as_deref(), Some("nic"));
    guest.until("[ ! -e /sys/class/net/eth0 ]");
    handle.remove_netdev("n").unwrap();
    assert!(handle.link("n").is_none());
    handle.add_netdev(&netdev()).unwrap();
}

const PROCESSORS: &str = "$(grep -c ^processor /proc/cpuinfo)";

fn a_processor(guest: &mut Guest) {
    let handle = guest.handle.clone();
    let present = || -> Vec<bool> { handle.cpus().iter().map(|c| c.present).collect() };
    assert_eq!(present(), [true, false, false]);
    refused(handle.add_cpu(0, None), "there already");
    refused(handle.add_cpu(3, None), "no processor 3");
    refused(handle.remove_cpu(0), "processor 0");
    refused(handle.remove_cpu(1), "not there");
    guest.run(&format!("[ {PROCESSORS} = 1 ]"));
    // Linux numbers them as they come.
    for number in [1, 2] {
        handle
            .add_cpu(number, Some(&format!("cpu{number}")))
            .unwrap();
        let folder = format!("/sys/devices/system/cpu/cpu{number}");
        guest.until(&format!("[ -e {folder}/online ]"));
        guest.run(&format!(
            "[ $(cat {folder}/online) = 1 ] || echo 1 > {folder}/online"
        ));
    }
    assert_eq!(present(), [true, true, true]);
    guest.run(&format!("[ {PROCESSORS} = 3 ]"));
    guest.run(
        "[ $(for i in 0 1 2; do taskset -c $i md5sum /bin/busybox & done | sort -u | wc -l) = 1 ]",
    );
    handle.remove_cpu(2).unwrap();
    refused(handle.remove_cpu(2), "already in the process of unplug");
    let gone = guest.gone();
    assert_eq!(gone.path, "/machine/peripheral/cpu2");
    assert_eq!(present(), [true, true, false]);
    guest.until(&format!("[ {PROCESSORS} = 2 ]"));
}

/// The disk is read when it goes, and everything else is busy.
fn again_and_again(guest: &mut Guest, board: &str) {
    let handle = guest.handle.clone();
    guest.run("(while :; do md5sum /bin/busybox >/dev/null; done) & load=$!");
    let online = "/sys/devices/system/cpu/cpu2/online";
    for cycle in 0..cycles() {
        handle.add_device(disk(board)).unwrap();
        handle.add_device(adapter(board)).unwrap();
        handle.add_cpu(2, None).unwrap();
        guest.until("[ -b /dev/vda ] && [ -e /sys/class/net/eth0 ]");
        guest.until(&format!("[ -e {online} ]"));
        guest.run(&format!("[ $(cat {online}) = 1 ] || echo 1 > {online}"));
        guest.run("(while dd if=/dev/vda of=/dev/null bs=4k count=512; do :; done) 2>/dev/null & ip link set eth0 up");
        for id in ["disk", "nic"] {
            handle.remove_device(id).unwrap();
        }
        handle.remove_cpu(2).unwrap();
        let mut paths: Vec<_> = (0..3).map(|_| guest.gone().path).collect();
        paths.sort();
        let expected = [
            "/machine/peripheral-anon/device[2]",
            "/machine/peripheral/disk",
            "/machine/peripheral/nic",
        ];
        assert_eq!(paths, expected, "cycle {cycle}");
        guest.until("[ ! -e /sys/block/vda ] && [ ! -e /sys/class/net/eth0 ]");
        guest.until(&format!("[ ! -e {online} ]"));
    }
    guest.run("kill $load");
}

/// What was plugged in stays, what was asked to go is gone.
fn across_resets(guest: &mut Guest, board: &str) {
    let handle = guest.handle.clone();
    handle.add_device(disk(board)).unwrap();
    handle.add_device(adapter(board)).unwrap();
    guest.until("[ -b /dev/vda ] && [ -e /sys/class/net/eth0 ]");
    // Stopped, the guest cannot let go of it.
    handle.hold();
    handle.remove_device("nic").unwrap();
    guest.reset();
    assert_eq!(guest.gone().id.as_deref(), Some("nic"));
    guest.run(&format!("[ {PROCESSORS} = 2 ]"));
    guest.until("[ -b /dev/vda ]");
    guest.run("[ ! -e /sys/class/net/eth0 ] && head -c 8 /dev/vda | grep trapeze");
    handle.remove_device("disk").unwrap();
    assert_eq!(guest.gone().id.as_deref(), Some("disk"));
    handle.remove_drive("d").unwrap();
    handle.remove_netdev("n").unwrap();
}
