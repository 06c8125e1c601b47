//! `-device virtio-net-pci`.

use super::{BOOT_INDEX, Property, number, property};
use crate::near::did_you_mean;
use crate::system::keyval::on_off;
use machine::{DeviceConfig, DeviceModel, MachineConfig, VirtioNetConfig};
use virtio::net::{self, feature};
use virtio::transport::MAX_VECTORS;

/// QEMU's first address; each further adapter has the next one.
const FIRST_MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];
/// An adapter without an address has this until [`resolve`].
const NO_MAC: [u8; 6] = [0; 6];

/// An adapter that is plugged in nowhere.
pub(super) fn new() -> DeviceModel {
    DeviceModel::VirtioNet(VirtioNetConfig {
        netdev: None,
        vectors: None,
        options: net::Options::default(),
    })
}

pub(super) const PROPERTIES: [Property; 32] = [
    property(
        "netdev",
        "<str> - id of its network (default: its frames go nowhere)",
        |d, v| {
            net(d).netdev = Some(v.into());
            Ok(())
        },
    ),
    property(
        "mac",
        "<str> - its address (default: 52:54:00:12:34:56, counting up)",
        |d, v| {
            net(d).options.mac = mac(v)?;
            Ok(())
        },
    ),
    property(
        "csum",
        "<bool> - the guest leaves checksums to the host (default: on)",
        switch::<{ feature::CSUM }>,
    ),
    property(
        "guest_csum",
        "<bool> - and the host to the guest (default: on)",
        switch::<{ feature::GUEST_CSUM }>,
    ),
    property(
        "guest_tso4",
        "<bool> - the guest takes long frames of TCP over IPv4 (default: on)",
        switch::<{ feature::GUEST_TSO4 }>,
    ),
    property(
        "guest_tso6",
        "<bool> - the same over IPv6 (default: on)",
        switch::<{ feature::GUEST_TSO6 }>,
    ),
    property(
        "guest_ecn",
        "<bool> - the same with ECN (default: on)",
        switch::<{ feature::GUEST_ECN }>,
    ),
    property(
        "host_tso4",
        "<bool> - the host takes long frames of TCP over IPv4 (default: on)",
        switch::<{ feature::HOST_TSO4 }>,
    ),
    property(
        "host_tso6",
        "<bool> - the same over IPv6 (default: on)",
        switch::<{ feature::HOST_TSO6 }>,
    ),
    property(
        "host_ecn",
        "<bool> - the same with ECN (default: on)",
        switch::<{ feature::HOST_ECN }>,
    ),
    property(
        "mrg_rxbuf",
        "<bool> - a frame may take several of the guest's buffers (default: on)",
        switch::<{ feature::MRG_RXBUF }>,
    ),
    property(
        "status",
        "<bool> - the guest hears of the cable (default: on)",
        switch::<{ feature::STATUS }>,
    ),
    property(
        "ctrl_vq",
        "<bool> - a queue for commands (default: on)",
        switch::<{ feature::CTRL_VQ }>,
    ),
    property(
        "ctrl_rx",
        "<bool> - commands for which frames the guest wants (default: on)",
        switch::<{ feature::CTRL_RX }>,
    ),
    property(
        "ctrl_rx_extra",
        "<bool> - more of them (default: on)",
        switch::<{ feature::CTRL_RX_EXTRA }>,
    ),
    property(
        "ctrl_mac_addr",
        "<bool> - a command for the address (default: on)",
        switch::<{ feature::CTRL_MAC_ADDR }>,
    ),
    property(
        "ctrl_guest_offloads",
        "<bool> - a command for what guest_* offer (default: on)",
        switch::<{ feature::CTRL_GUEST_OFFLOADS }>,
    ),
    property(
        "rx_queue_size",
        "<uint16> - size of the queue to the guest (default: 256)",
        |d, v| {
            net(d).options.rx_queue_size = queue_size(v)?;
            Ok(())
        },
    ),
    property(
        "tx_queue_size",
        "<uint16> - size of the queue from the guest (default: 256)",
        |d, v| {
            net(d).options.tx_queue_size = queue_size(v)?;
            Ok(())
        },
    ),
    property(
        "host_mtu",
        "<uint16> - MTU that the guest is told, 0 for none (default: 0)",
        |d, v| {
            net(d).options.host_mtu = match number(v)? {
                0 => None,
                mtu if mtu >= net::MIN_MTU => Some(mtu),
                _ => return Err(format!("takes 0 or {} and more", net::MIN_MTU)),
            };
            Ok(())
        },
    ),
    property(
        "mq",
        "<bool> - a pair of queues for each that the network has (default: off)",
        switch::<{ feature::MQ }>,
    ),
    property(
        "vectors",
        "<uint16> - MSI-X vectors (default: two for each pair of queues, and two)",
        |d, v| {
            let vectors = number(v).ok();
            let vectors = vectors.filter(|n| (1..=MAX_VECTORS).contains(n));
            let range = || format!("takes 1 to {MAX_VECTORS}");
            net(d).vectors = Some(vectors.ok_or_else(range)?);
            Ok(())
        },
    ),
    property(
        "rss",
        "<bool> - off: the network chooses the queue",
        only_off,
    ),
    property(
        "hash",
        "<bool> - off: the network chooses the queue",
        only_off,
    ),
    property(
        "ctrl_vlan",
        "<bool> - off: frames of all VLANs come",
        only_off,
    ),
    property(
        "gso",
        "<bool> - off: it was replaced by host_tso4",
        only_off,
    ),
    property("guest_ufo", "<bool> - off: no long frames of UDP", only_off),
    property("host_ufo", "<bool> - off: no long frames of UDP", only_off),
    property(
        "guest_announce",
        "<bool> - off: it is for migration, which there is not",
        only_off,
    ),
    property("failover", "<bool> - off: it is for migration", only_off),
    property(
        "romfile",
        "<str> - empty: there is no boot ROM",
        |_, v| match v {
            "" => Ok(()),
            _ => Err("there are no boot ROMs; -kernel is what boots".into()),
        },
    ),
    BOOT_INDEX,
];

/// The adapter that a row of [`PROPERTIES`] is about.
fn net(device: &mut DeviceConfig) -> &mut VirtioNetConfig {
    match &mut device.model {
        DeviceModel::VirtioNet(net) => net,
        model => unreachable!("a property of virtio-net for {model:?}"),
    }
}

/// Turns a feature on or off.
fn switch<const FEATURE: u64>(device: &mut DeviceConfig, value: &str) -> Result<(), String> {
    let features = &mut net(device).options.features;
    match on_off(value)? {
        true => *features |= FEATURE,
        false => *features &= !FEATURE,
    }
    Ok(())
}

fn only_off(_: &mut DeviceConfig, value: &str) -> Result<(), String> {
    match on_off(value)? {
        false => Ok(()),
        true => Err("not supported".into()),
    }
}

fn queue_size(text: &str) -> Result<u16, String> {
    let size: u16 = number(text)?;
    match net::QUEUE_SIZES.contains(&size) && size.is_power_of_two() {
        true => Ok(size),
        false => Err("takes a power of two from 256 to 1024".into()),
    }
}

/// An address of one adapter: six bytes, hexadecimal.
fn mac(text: &str) -> Result<[u8; 6], String> {
    let byte = |part: &str| {
        let digits = part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
        digits.then(|| u8::from_str_radix(part, 16).ok()).flatten()
    };
    let bytes: Option<Vec<u8>> = text.split([':', '-']).map(byte).collect();
    let mac = bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
    match mac {
        Some(mac) if mac[0] & 1 != 0 => Err("is the address of a group".into()),
        Some(mac) => Ok(mac),
        None => Err("takes six bytes, as 52:54:00:12:34:56".into()),
    }
}

/// Checks that every adapter has a network of its own, and gives those an address
/// that have none.
pub(in crate::system) fn resolve(config: &mut MachineConfig) -> Result<(), String> {
    let refuse = |why: String| Err(format!("-device virtio-net-pci: {why}"));
    let ids: Vec<&str> = config.netdevs.iter().map(|n| &*n.id).collect();
    let mut used: Vec<&str> = Vec::new();
    for net in config.devices.iter().filter_map(adapter) {
        if let Some(vectors) = net.vectors.filter(|_| config.board.pci.is_none()) {
            return refuse(format!(
                "vectors={vectors}: this board has no PCI, and so no MSI-X"
            ));
        }
        let Some(id) = net.netdev.as_deref() else {
            continue;
        };
        if !ids.contains(&id) {
            let near = did_you_mean(id, ids.iter().copied());
            return refuse(format!("there is no netdev '{id}'{near}"));
        }
        if used.contains(&id) {
            return refuse(format!("netdev '{id}' is in use"));
        }
        used.push(id);
    }
    give_addresses(&mut config.devices);
    Ok(())
}

fn adapter(device: &DeviceConfig) -> Option<&VirtioNetConfig> {
    match &device.model {
        DeviceModel::VirtioNet(net) => Some(net),
        _ => None,
    }
}

/// Gives those adapters an address that have none.
pub(in crate::system) fn give_addresses(devices: &mut [DeviceConfig]) {
    let adapters = devices.iter().filter_map(adapter);
    let mut taken: Vec<[u8; 6]> = adapters.map(|net| net.options.mac).collect();
    for device in devices {
        if adapter(device).is_some_and(|net| net.options.mac == NO_MAC) {
            let free = |mac: &[u8; 6]| !taken.contains(mac);
            let mac = (0..=u8::MAX).map(counted).find(free).unwrap_or(FIRST_MAC);
            net(device).options.mac = mac;
            taken.push(mac);
        }
    }
}

/// The address so many behind the first one.
fn counted(n: u8) -> [u8; 6] {
    let mut mac = FIRST_MAC;
    mac[5] = mac[5].wrapping_add(n);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::{Options, Personality};
    use machine::{NetdevConfig, NetdevKind};

    /// The adapters of a command line for a machine with networks n0 and n1.
    fn adapters(devices: &[&str]) -> Result<Vec<VirtioNetConfig>, String> {
        let mut options = Options::new(Personality::Trapeze);
        let netdev = |id: &str| NetdevConfig {
            id: id.into(),
            kind: NetdevKind::Nowhere,
        };
        options.config.netdevs = ["n0", "n1"].map(netdev).to_vec();
        for device in devices {
            super::super::apply(&mut options, device)?;
        }
        resolve(&mut options.config)?;
        let devices = options.config.devices.iter();
        Ok(devices.filter_map(adapter).cloned().collect())
    }

    #[test]
    fn properties_are_those_of_qemu() {
        let made = adapters(&[
            "virtio-net-pci,netdev=n0,mrg_rxbuf=off,host_ecn=off,ctrl_vq=on,mq=off,romfile=",
            "virtio-net-device,netdev=n1,rx_queue_size=1024,host_mtu=9000,bootindex=1",
        ]);
        let made = made.unwrap();
        let off = feature::MRG_RXBUF | feature::HOST_ECN;
        assert_eq!(made[0].options.features, feature::OPTIONAL & !off);
        assert_eq!(made[0].netdev.as_deref(), Some("n0"));
        let options = &made[1].options;
        let numbers = (
            options.rx_queue_size,
            options.tx_queue_size,
            options.host_mtu,
        );
        assert_eq!(numbers, (1024, 256, Some(9000)));
    }

    #[test]
    fn several_queues_are_asked_for_and_their_vectors_are_limited() {
        let made = adapters(&[
            "virtio-net-pci,netdev=n0,mq=on,vectors=10",
            "virtio-net-pci",
        ]);
        let made = made.unwrap();
        let looks = made.iter().map(|net| (net.options.features, net.vectors));
        let plain = feature::OPTIONAL;
        let expected = [(plain | feature::MQ, Some(10)), (plain, None)];
        assert_eq!(looks.collect::<Vec<_>>(), expected);
        for wrong in ["0", "2049", "-1", "many", "70000"] {
            let why = adapters(&[&format!("virtio-net-pci,vectors={wrong}")]).unwrap_err();
            assert!(why.contains("takes 1 to 2048"), "{wrong}: {why}");
        }
        let why = adapters(&["virtio-net-pci,rss=on"]).unwrap_err();
        assert!(why.contains("rss"), "{why}");
    }

    #[test]
    fn addresses_count_up_past_those_that_are_given() {
        let plain = "virtio-net";
        let made = adapters(&[plain, "virtio-net,mac=52-54-00-12-34-57", plain, plain]);
        let last = made
            .unwrap()
            .iter()
            .map(|net| net.options.mac[5])
            .collect::<Vec<_>>();
        assert_eq!(last, [0x56, 0x57, 0x58, 0x59]);
        let many = adapters(&[plain; 3]).unwrap();
        assert_eq!(many[2].options.mac, [0x52, 0x54, 0, 0x12, 0x34, 0x58]);
    }

    #[test]
    fn a_network_is_there_and_has_one_adapter() {
        let same = "virtio-net-pci,netdev=n1";
        let why = adapters(&[same, same]).unwrap_err();
        assert_eq!(why, "-device virtio-net-pci: netdev 'n1' is in use");
        let why = adapters(&["virtio-net-pci,netdev=net"]).unwrap_err();
        assert!(why.contains("there is no netdev 'net'"), "{why}");
    }
}
