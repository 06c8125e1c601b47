//! What a machine is made of, as plain data.

use crate::boards::{BOARDS, BoardKind};
use crate::console::{Pty, Ring};
use crate::cpu::{CpuConfig, Topology};
use crate::fw_cfg::FwCfgFile;
use crate::image::HostFile;
use crate::memory::MemoryBackend;
use crate::memory_serial::MemorySerial;
use crate::numa::Numa;
use crate::smbios::SmbiosValue;
use std::path::PathBuf;
use std::sync::Arc;

/// Everything [`crate::Machine::new`] needs to know. Plain data: it neither
/// parses nor validates; [`crate::Machine::new`] refuses what cannot be.
#[derive(Clone, Debug)]
pub struct MachineConfig {
    /// The board.
    pub board: &'static BoardKind,
    /// Guest RAM in bytes; rounded down to a multiple of 4 KiB.
    pub ram_bytes: u64,
    /// What the RAM is made of, in this order; private anonymous memory if
    /// empty.
    pub memory: Vec<MemoryBackend>,
    /// The processors.
    pub topology: Topology,
    /// How many of them, the last ones, are not there at start.
    pub absent_vcpus: u32,
    /// Which of both are near each other.
    pub numa: Numa,
    /// Kernel: a bzImage, or an ELF file with a PVH entry.
    pub kernel: Option<Image>,
    /// Initial RAM disk.
    pub initrd: Option<Image>,
    /// Kernel command line.
    pub cmdline: String,
    /// Disk images by id; they stay open across resets.
    pub drives: Vec<DriveConfig>,
    /// Networks by id; they stay across resets.
    pub netdevs: Vec<NetdevConfig>,
    /// What is written of their frames.
    pub dumps: Vec<net::DumpConfig>,
    /// Devices beside the board's own.
    pub devices: Vec<DeviceConfig>,
    /// Files for guests, through fw_cfg.
    pub fw_cfg: Vec<FwCfgFile>,
    /// The machine's UUID, in the order of its text; zeros for none.
    pub uuid: [u8; 16],
    /// What SMBIOS tables say instead of the defaults.
    pub smbios: Vec<SmbiosValue>,
    /// Serial ports COM1, COM2, ...: at most four.
    pub serial: Vec<SerialConfig>,
    /// Monitors.
    pub monitors: Vec<MonitorConfig>,
    /// Where debuggers are.
    pub debugger: Option<SerialConfig>,
    /// What the RTC's time is ahead of the host's UTC, in ns.
    pub rtc_offset_ns: i64,
    /// A guest that powers itself off leaves the machine stopped.
    pub no_shutdown: bool,
    /// A guest reset ends the machine ([`crate::Outcome::Reset`]).
    pub no_reboot: bool,
    /// What a guest panic does.
    pub panic_action: PanicAction,
    /// The CPU the guest sees.
    pub cpu: CpuConfig,
}

impl Default for MachineConfig {
    /// QEMU's defaults: `pc`, 128 MiB, one vCPU, no kernel.
    fn default() -> Self {
        Self {
            board: BOARDS[0],
            ram_bytes: 128 << 20,
            memory: Vec::new(),
            topology: Topology::default(),
            absent_vcpus: 0,
            numa: Numa::default(),
            kernel: None,
            initrd: None,
            cmdline: String::new(),
            drives: Vec::new(),
            netdevs: Vec::new(),
            dumps: Vec::new(),
            devices: Vec::new(),
            fw_cfg: Vec::new(),
            uuid: [0; 16],
            smbios: Vec::new(),
            serial: Vec::new(),
            monitors: Vec::new(),
            debugger: None,
            rtc_offset_ns: 0,
            no_shutdown: false,
            no_reboot: false,
            panic_action: PanicAction::Shutdown,
            cpu: CpuConfig::default(),
        }
    }
}

/// A file the machine loads at every reset.
#[derive(Clone, Debug)]
pub enum Image {
    /// A file of the host; [`Image::at`] makes one.
    File(HostFile),
    /// Bytes already in memory, with a name for messages.
    Bytes {
        /// Name used in messages.
        name: String,
        /// The contents.
        bytes: Arc<[u8]>,
    },
}

/// A disk image.
#[derive(Clone, Debug)]
pub struct DriveConfig {
    /// What devices call it.
    pub id: String,
    /// The image: a path, as `disk` takes it.
    pub file: String,
    /// How it is opened.
    pub options: disk::DiskOptions,
    /// What is written goes into a temporary file on top of it.
    pub snapshot: bool,
}

/// The host's side of a network adapter.
#[derive(Clone, Debug)]
pub struct NetdevConfig {
    /// What devices call it; each is for one of them.
    pub id: String,
    /// What it is.
    pub kind: NetdevKind,
}

/// Kinds of networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetdevKind {
    /// Nobody else is on it: every frame is taken, none comes.
    Nowhere,
    /// The guest goes out through sockets of this process.
    User(net::UserConfig),
    /// An interface of the host's.
    Tap(net::TapConfig),
    /// Frames over a stream socket.
    Stream(net::StreamConfig),
    /// A frame in each datagram.
    Dgram(net::DgramConfig),
    /// Either, as QEMU had them first.
    Socket(net::SocketConfig),
    /// A port of a hub.
    HubPort {
        /// The hub's number.
        hub: u32,
        /// The network that is plugged into it; an adapter otherwise.
        netdev: Option<String>,
    },
    /// Another program has the frames, by shared memory.
    VhostUser(net::VhostUserConfig),
}

/// A device of PCI or ISA.
#[derive(Clone, Debug)]
pub struct DeviceConfig {
    /// What it is.
    pub model: DeviceModel,
    /// The user's name for it.
    pub id: Option<String>,
    /// The PCI bus it is on; the board's own if `None`.
    pub bus: Option<String>,
    /// PCI slot and function; the first free slot if `None`.
    pub address: Option<(u8, u8)>,
    /// The slot has more functions.
    pub multifunction: bool,
    /// A virtio device over MMIO, not on PCI.
    pub mmio: bool,
}

impl DeviceConfig {
    /// A device without a name, anywhere.
    pub fn new(model: DeviceModel) -> Self {
        Self {
            model,
            id: None,
            bus: None,
            address: None,
            multifunction: false,
            mmio: false,
        }
    }

    /// It is on the PCI bus.
    pub fn is_pci(&self) -> bool {
        self.model.is_pci() && !self.mmio
    }

    /// It can come and go while the machine runs.
    pub fn is_hot_pluggable(&self) -> bool {
        !self.mmio && self.model.is_hot_pluggable()
    }

    /// A name for messages.
    pub(crate) fn name(&self) -> String {
        let model = match self.mmio {
            true => self.model.name().replace("-pci", "-device"),
            false => self.model.name().into(),
        };
        match &self.id {
            Some(id) => format!("{model} '{id}'"),
            None => model,
        }
    }
}

/// Models of devices.
#[derive(Clone, Debug)]
pub enum DeviceModel {
    /// Virtio block device.
    VirtioBlk(VirtioBlkConfig),
    /// Virtio network adapter.
    VirtioNet(VirtioNetConfig),
    /// Virtio entropy device, fed by the host's random numbers.
    VirtioRng,
    /// Virtio balloon; a machine has one at most.
    VirtioBalloon(virtio::balloon::Options),
    /// Virtio console device and its ports.
    VirtioSerial(VirtioSerialConfig),
    /// Virtio file system: a folder of the host.
    VirtioFs(VirtioFsConfig),
    /// `isa-debug-exit`.
    DebugExit {
        /// First port.
        iobase: u16,
        /// Number of ports.
        iosize: u16,
    },
    /// `isa-debugcon`.
    DebugCon {
        /// The port.
        iobase: u16,
        /// What a read delivers.
        readback: u8,
        /// Where the bytes go.
        host: SerialConfig,
    },
    /// `pc-testdev`.
    PcTestdev,
    /// `pci-testdev`.
    PciTestdev,
    /// `edu`.
    Edu {
        /// Addresses its DMA can reach.
        dma_mask: u64,
    },
    /// Bridge from PCI to PCI; its bus has the device's name.
    PciBridge(PciBridgeConfig),
    /// PCI Express root port; its bus has the device's name.
    PcieRootPort(PcieRootPortConfig),
}

impl DeviceModel {
    /// QEMU's name for it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::VirtioBlk(_) => "virtio-blk-pci",
            Self::VirtioNet(_) => "virtio-net-pci",
            Self::VirtioRng => "virtio-rng-pci",
            Self::VirtioBalloon(_) => "virtio-balloon-pci",
            Self::VirtioSerial(_) => "virtio-serial-pci",
            Self::VirtioFs(_) => "virtio-fs-pci",
            Self::DebugExit { .. } => "isa-debug-exit",
            Self::DebugCon { .. } => "isa-debugcon",
            Self::PcTestdev => "pc-testdev",
            Self::PciTestdev => "pci-testdev",
            Self::Edu { .. } => "edu",
            Self::PciBridge(_) => "pci-bridge",
            Self::PcieRootPort(_) => "pcie-root-port",
        }
    }

    /// On PCI it can come and go while the machine runs. The others are part
    /// of something that stays: buses, host ends, deadlines.
    pub fn is_hot_pluggable(&self) -> bool {
        match self {
            Self::VirtioBlk(_)
            | Self::VirtioNet(_)
            | Self::VirtioRng
            | Self::VirtioFs(_)
            | Self::PciTestdev => true,
            Self::VirtioBalloon(_)
            | Self::VirtioSerial(_)
            | Self::DebugExit { .. }
            | Self::DebugCon { .. }
            | Self::PcTestdev
            | Self::Edu { .. }
            | Self::PciBridge(_)
            | Self::PcieRootPort(_) => false,
        }
    }

    /// It is on the PCI bus; the others are on ISA.
    pub fn is_pci(&self) -> bool {
        match self {
            Self::VirtioBlk(_)
            | Self::VirtioNet(_)
            | Self::VirtioRng
            | Self::VirtioBalloon(_)
            | Self::VirtioSerial(_)
            | Self::VirtioFs(_)
            | Self::PciTestdev
            | Self::Edu { .. }
            | Self::PciBridge(_)
            | Self::PcieRootPort(_) => true,
            Self::DebugExit { .. } | Self::DebugCon { .. } | Self::PcTestdev => false,
        }
    }
}

/// A bridge from PCI to PCI.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PciBridgeConfig {
    /// Number of the chassis it opens, at least 1.
    pub chassis: u8,
}

/// A PCI Express root port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PcieRootPortConfig {
    /// Number of the port.
    pub port: u8,
    /// Numbers of chassis and slot: no two ports have the same.
    pub chassis: u8,
    /// 13 bits.
    pub slot: u16,
    /// What is in its slot stays while the machine runs (`hotplug=off`).
    pub fixed: bool,
}

/// A folder of the host that the guest mounts.
#[derive(Clone, Debug)]
pub struct VirtioFsConfig {
    /// The folder.
    pub folder: PathBuf,
    /// The guest changes nothing in it.
    pub read_only: bool,
    /// The rest.
    pub options: virtio::fs::Options,
}

/// A virtio console device.
#[derive(Clone, Debug)]
pub struct VirtioSerialConfig {
    /// Most ports, 1 to [`virtio::serial::MAX_PORTS`].
    pub max_ports: u16,
    /// Its ports.
    pub ports: Vec<VirtioPortConfig>,
}

/// A port of a virtio console device.
#[derive(Clone, Debug)]
pub struct VirtioPortConfig {
    /// The user's name for it.
    pub id: Option<String>,
    /// It is a console of the guest (`virtconsole`), not a stream of bytes
    /// (`virtserialport`).
    pub console: bool,
    /// Its name in the guest; none if empty.
    pub name: String,
    /// Its number, below the device's most; no two are the same.
    pub number: u16,
    /// The host's end.
    pub host: SerialConfig,
}

/// A virtio block device.
#[derive(Clone, Debug)]
pub struct VirtioBlkConfig {
    /// Id of its drive.
    pub drive: String,
    /// The rest; 0 queues mean one for each vCPU.
    pub options: virtio::blk::Options,
}

/// A virtio network adapter.
#[derive(Clone, Debug)]
pub struct VirtioNetConfig {
    /// Id of its network; without one its frames go nowhere.
    pub netdev: Option<String>,
    /// Its MSI-X vectors; as many as it needs if nothing is said.
    pub vectors: Option<u16>,
    /// The rest.
    pub options: virtio::net::Options,
}

/// The host end of a serial port.
#[derive(Clone, Debug)]
pub enum SerialConfig {
    /// The port exists, output is dropped.
    None,
    /// The process's standard input and output; a terminal is put into raw
    /// mode, Ctrl-A is the escape key.
    Stdio,
    /// Output to a file, truncated first; no input.
    File(PathBuf),
    /// Two named pipes, `PATH.in` and `PATH.out`, or one for both ways.
    Pipe(PathBuf),
    /// A socket.
    Socket(SocketConfig),
    /// A pseudo-terminal, whose name is printed.
    Pty(Pty),
    /// Output to the end of a buffer that the monitor reads.
    Ring(Ring),
    /// One of several that share a host end; Ctrl-A C goes to the next.
    Mux(MuxConfig),
    /// What the user calls so (`-chardev id=`); to be replaced by what it
    /// stands for before the machine is made.
    Named(String),
    /// A buffer in memory.
    Memory(MemorySerial),
    /// Another host end, with a copy of the output in a file.
    Logged(Box<SerialConfig>, LogFile),
}

impl SerialConfig {
    /// A socket that waits for connections.
    pub fn server(&self) -> Option<&SocketConfig> {
        match self {
            Self::Socket(socket) if socket.server => Some(socket),
            _ => None,
        }
    }
}

/// A file that gets a copy of what the guest sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFile {
    /// Its path.
    pub path: PathBuf,
    /// What it holds already stays.
    pub append: bool,
}

/// A host end that several share: all with the same id get the same.
#[derive(Clone, Debug)]
pub struct MuxConfig {
    /// Its name.
    pub id: String,
    /// What is shared.
    pub backend: Box<SerialConfig>,
}

/// A socket; who connects gets what is sent from then on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketConfig {
    /// Where it is.
    pub address: SocketAddress,
    /// Waits for connections instead of connecting.
    pub server: bool,
    /// The machine starts when somebody has connected to the server.
    pub wait: bool,
    /// Speaks telnet's protocol (RFC 854).
    pub telnet: bool,
}

/// Where a socket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketAddress {
    /// A Unix socket's path.
    Unix(PathBuf),
    /// TCP.
    Inet {
        /// Name or number; all of the host's addresses if empty.
        host: String,
        /// The port; 0 for any.
        port: u16,
    },
}

/// One of the monitors.
#[derive(Clone, Debug)]
pub struct MonitorConfig {
    /// Its host end.
    pub host: SerialConfig,
    /// It speaks QMP; otherwise it is for people.
    pub control: bool,
    /// QMP is indented.
    pub pretty: bool,
}

impl MonitorConfig {
    /// It waits for connections of its own, of which there may be several.
    pub fn is_server(&self) -> bool {
        self.host.server().is_some()
    }
}

/// What a guest panic (pvpanic, or a kernel panic seen on the console before
/// a reset) does; QEMU's `-action panic=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PanicAction {
    /// Report and go on.
    None,
    /// Stop the vCPUs and wait for the user to quit.
    Pause,
    /// End with [`crate::Outcome::GuestPanic`], exit code 0.
    Shutdown,
    /// End with [`crate::Outcome::GuestPanic`], exit code 1.
    ExitFailure,
}
