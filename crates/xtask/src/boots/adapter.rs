//! The boot test of network adapters with nobody at the other end: Linux finds
//! one, sends, and sets what can be set.

use super::{Devices, PROMPT};

pub(super) const DEVICES: Devices = Devices {
    modules: &["failover", "net_failover", "virtio_net"],
    act: |_, _| Ok(()),
};

pub(super) const OPTIONS: &[&str] = &[
    "-smp",
    "2",
    "-device",
    "virtio-net-pci,host_mtu=1400",
    "-device",
    "virtio-net-pci,mrg_rxbuf=off,ctrl_vq=off,csum=off,guest_csum=off,rx_queue_size=1024",
];

pub(super) const MICROVM_OPTIONS: &[&str] = &[
    "-M",
    "microvm",
    "-device",
    "virtio-net-device,host_mtu=1400",
    "-device",
    "virtio-net-device,tx_queue_size=512",
];

pub(super) const STEPS: &[(&str, &str)] = &[
    (PROMPT, super::boards::LOAD),
    ("\nin 0", ""),
    (
        PROMPT,
        "ln -s /sys/class/net n; cat n/eth?/address n/eth?/mtu\r",
    ),
    ("\n52:54:00:12:34:56", ""),
    ("\n52:54:00:12:34:57", ""),
    ("\n1400", ""),
    ("\n1500", ""),
    (
        PROMPT,
        "for i in 0 1; do ip addr add 10.$i.0.1/24 dev eth$i; ip link set eth$i up; done; sleep 1; cat n/eth?/carrier\r",
    ),
    ("\n1", ""),
    ("\n1", ""),
    (
        PROMPT,
        "for i in 0 1; do ping -c 3 -W 1 10.$i.0.2; sent=$(cat n/eth$i/statistics/tx_packets); [ $sent -gt 2 ] && echo eth$i sends; done\r",
    ),
    ("\neth0 sends", ""),
    ("\neth1 sends", ""),
    (
        PROMPT,
        "ip link set eth0 promisc on; ip link set eth0 address 02:00:00:00:00:09; cat n/eth0/address\r",
    ),
    ("\n02:00:00:00:00:09", ""),
    (
        PROMPT,
        "ip link set eth0 down; ip link set eth1 down; echo down $?\r",
    ),
    ("\ndown 0", ""),
    (PROMPT, "poweroff\r"),
];
