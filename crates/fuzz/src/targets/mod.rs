//! The table of targets.

mod boot;
mod chips;
mod devices;
mod disk;
mod gdb;
mod monitor;
mod options;
mod pci;
mod saved;
mod tar;
mod translate;
mod user_net;
mod vcpu;
mod virtio;
mod walk;

use crate::Target;

/// Every target. What whose bytes do is in each row.
pub const TARGETS: &[Target] = &[
    Target {
        name: "insn",
        what: "guest code in a sane state of each mode, one interpreted instruction after another",
        max_len: 512,
        run: vcpu::insn,
    },
    Target {
        name: "vcpu",
        what: "vCPU state that a VMM sets, then guest code in it",
        max_len: 1024,
        run: vcpu::vcpu,
    },
    Target {
        name: "lockstep",
        what: "guest code, translated and compared with the interpreter",
        max_len: 512,
        run: vcpu::lockstep,
    },
    Target {
        name: "translate",
        what: "guest code to the translator, with any register files and features",
        max_len: 4096 + 16,
        run: translate::run,
    },
    Target {
        name: "qmp",
        what: "a client's bytes to QMP",
        max_len: 4096,
        run: monitor::qmp,
    },
    Target {
        name: "hmp",
        what: "a terminal's bytes to the monitor for people",
        max_len: 1024,
        run: monitor::hmp,
    },
    Target {
        name: "gdb",
        what: "a debugger's packets to GDB's protocol",
        max_len: 512,
        run: gdb::run,
    },
    Target {
        name: "walk",
        what: "guest page tables to the page walker and the TLB",
        max_len: 4096,
        run: walk::run,
    },
    Target {
        name: "boot",
        what: "kernel file, initrd and command line to the boot loader",
        max_len: 8192,
        run: boot::run,
    },
    Target {
        name: "uart",
        what: "guest accesses and received bytes to a serial port",
        max_len: 1024,
        run: devices::uart,
    },
    Target {
        name: "rtc",
        what: "guest accesses to the RTC while time passes",
        max_len: 1024,
        run: devices::rtc,
    },
    Target {
        name: "i8042",
        what: "guest accesses, keys and mouse movements to the keyboard controller",
        max_len: 1024,
        run: devices::i8042,
    },
    Target {
        name: "acpi-pm",
        what: "guest accesses to the ACPI power-management block while time passes",
        max_len: 1024,
        run: devices::acpi_pm,
    },
    Target {
        name: "ports",
        what: "guest accesses of any width to all ports of the board",
        max_len: 1024,
        run: devices::ports,
    },
    Target {
        name: "fw-cfg",
        what: "a guest's accesses and DMA requests to fw_cfg",
        max_len: 1024,
        run: devices::fw_cfg,
    },
    Target {
        name: "testdevs",
        what: "guest accesses to the devices of test programs while time passes",
        max_len: 1024,
        run: devices::testdevs,
    },
    Target {
        name: "pci",
        what: "configuration of a tree of PCI buses, and accesses to what it decodes",
        max_len: 1024,
        run: pci::run,
    },
    Target {
        name: "virtio",
        what: "a driver's registers, rings and descriptors to a virtio disk, network adapter and others",
        max_len: 1024,
        run: virtio::run,
    },
    Target {
        name: "irqchip",
        what: "guest accesses, interrupt lines, messages and time to the interrupt controllers",
        max_len: 2048,
        run: chips::run,
    },
    Target {
        name: "disk",
        what: "a qcow2 file, then a guest's requests to it",
        max_len: 16384,
        run: disk::run,
    },
    Target {
        name: "saved",
        what: "a saved state to the devices of a board, then accesses to them",
        max_len: 16384,
        run: saved::run,
    },
    Target {
        name: "options",
        what: "the command line of 'trapeze system'",
        max_len: 512,
        run: options::run,
    },
    Target {
        name: "tar",
        what: "the archive in a guest package",
        max_len: 4096,
        run: tar::run,
    },
    Target {
        name: "user-net",
        what: "a guest's frames to a restricted user-mode network",
        max_len: 8192,
        run: user_net::run,
    },
];
