//! Network adapter (virtio 1.2, 5.1) in front of any [`Network`]. One thread
//! serves a pair of its queues and the network, or the network's queue, behind it;
//! frames are copied once, from or to guest memory.

mod control;
mod filter;
mod header;
mod link;
mod rx;
#[cfg(test)]
mod tests;
mod tx;
mod worker;

use crate::alarm::Alarm;
use crate::device::{self, Activation, Kind, VirtioDevice, copy_config};
use crate::doorbell::Doorbell;
use crate::workers::Workers;
use ::net::Network;
use control::Settings;
use filter::{Filter, Table};
use parking_lot::{Mutex, RwLock};
use state::Image;
use std::io;
use std::sync::Arc;
use worker::{Served, Worker};

pub use filter::{RxFilter, RxMode};
pub use link::{Counters, LinkState};

/// The type.
pub const KIND: Kind = Kind {
    name: "virtio-net",
    id: 1,
    pci_id: 0x1000,
    class: 0x02_00_00,
};

/// QEMU's default for both queues of frames.
pub const DEFAULT_QUEUE_SIZE: u16 = 256;
/// Smallest and largest of them.
pub const QUEUE_SIZES: std::ops::RangeInclusive<u16> = 256..=1024;
/// Smallest MTU that the specification allows (5.1.4.1).
pub const MIN_MTU: u16 = 68;
/// The network's MTU if the driver is told of none.
const DEFAULT_MTU: u16 = 1500;
/// QEMU's size of the queue of commands.
const CONTROL_QUEUE_SIZE: u16 = 64;

/// Feature bits (5.1.3).
#[allow(missing_docs, reason = "the specification's names")]
pub mod feature {
    pub const CSUM: u64 = 1 << 0;
    pub const GUEST_CSUM: u64 = 1 << 1;
    pub const CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
    pub const MTU: u64 = 1 << 3;
    pub const MAC: u64 = 1 << 5;
    pub const GUEST_TSO4: u64 = 1 << 7;
    pub const GUEST_TSO6: u64 = 1 << 8;
    pub const GUEST_ECN: u64 = 1 << 9;
    pub const HOST_TSO4: u64 = 1 << 11;
    pub const HOST_TSO6: u64 = 1 << 12;
    pub const HOST_ECN: u64 = 1 << 13;
    pub const MRG_RXBUF: u64 = 1 << 15;
    pub const STATUS: u64 = 1 << 16;
    pub const CTRL_VQ: u64 = 1 << 17;
    pub const CTRL_RX: u64 = 1 << 18;
    pub const CTRL_RX_EXTRA: u64 = 1 << 20;
    pub const MQ: u64 = 1 << 22;
    pub const CTRL_MAC_ADDR: u64 = 1 << 23;

    /// Those that can be turned off, and are on at first; [`MQ`] is off.
    pub const OPTIONAL: u64 = CSUM
        | GUEST_CSUM
        | CTRL_GUEST_OFFLOADS
        | GUEST_TSO4
        | GUEST_TSO6
        | GUEST_ECN
        | HOST_TSO4
        | HOST_TSO6
        | HOST_ECN
        | MRG_RXBUF
        | STATUS
        | CTRL_VQ
        | CTRL_RX
        | CTRL_RX_EXTRA
        | CTRL_MAC_ADDR;

    /// Features, and those of which they need one (5.1.3.1).
    pub(super) const NEEDS: [(u64, u64); 5] = [
        (GUEST_TSO4 | GUEST_TSO6, GUEST_CSUM),
        (GUEST_ECN, GUEST_TSO4 | GUEST_TSO6),
        (HOST_TSO4 | HOST_TSO6, CSUM),
        (HOST_ECN, HOST_TSO4 | HOST_TSO6),
        (
            CTRL_GUEST_OFFLOADS | CTRL_RX | CTRL_RX_EXTRA | CTRL_MAC_ADDR | MQ,
            CTRL_VQ,
        ),
    ];
}

/// Configuration (5.1.4): offsets, and bytes in all.
mod at {
    pub const STATUS: usize = 6;
    pub const PAIRS: usize = 8;
    pub const MTU: usize = 10;
    pub const END: usize = 12;
}

/// Bit of the configuration's status: the cable is plugged in.
const LINK_UP: u16 = 1;

/// A network that stays when the machine resets and its devices are made anew.
/// The thread of the adapter that is running has it locked.
pub type SharedNetwork = Arc<Mutex<Box<dyn Network>>>;

/// What an adapter is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// Which of [`feature::OPTIONAL`] and [`feature::MQ`] it has; those that need one it has not are
    /// left out.
    pub features: u64,
    /// Size of the queue of frames to the driver, a power of two of
    /// [`QUEUE_SIZES`].
    pub rx_queue_size: u16,
    /// Size of that of frames from it, likewise.
    pub tx_queue_size: u16,
    /// The network's MTU, at least [`MIN_MTU`], if the driver is to be told.
    pub host_mtu: Option<u16>,
}

impl Default for Options {
    /// QEMU's, without an address.
    fn default() -> Self {
        Self {
            mac: [0; 6],
            features: feature::OPTIONAL,
            rx_queue_size: DEFAULT_QUEUE_SIZE,
            tx_queue_size: DEFAULT_QUEUE_SIZE,
            host_mtu: None,
        }
    }
}

impl Options {
    /// The features that go together.
    fn offered(&self) -> u64 {
        let mut features = self.features & (feature::OPTIONAL | feature::MQ) | feature::MAC;
        for (features_that, need) in feature::NEEDS {
            if features & need == 0 {
                features &= !features_that;
            }
        }
        match self.host_mtu {
            Some(_) => features | feature::MTU,
            None => features,
        }
    }
}

/// The device.
pub struct Net {
    /// One for each pair of queues.
    networks: Vec<SharedNetwork>,
    link: Arc<LinkState>,
    options: Options,
    settings: Arc<RwLock<Settings>>,
    /// Features of the driver that has the device running; none if there is none.
    driver: Mutex<Option<u64>>,
    workers: Workers,
}

impl Net {
    /// An adapter in front of a network with these queues, at least one; `link` is its
    /// cable. It offers no more than the network takes, and has one pair of queues
    /// unless it has [`feature::MQ`].
    pub fn new(networks: Vec<SharedNetwork>, link: Arc<LinkState>, mut options: Options) -> Self {
        let takes = networks.iter().map(|network| network.lock().takes());
        options.features &= !takes.map(header::beyond).fold(0, |all, one| all | one);
        let net = Self {
            networks,
            link,
            settings: Arc::new(RwLock::new(Settings::new(options.mac, 1))),
            options,
            driver: Mutex::default(),
            workers: Workers::default(),
        };
        *net.settings.write() = net.settings_at_first();
        net.link.set_settings(&net.settings);
        net.leave_to_first();
        net
    }

    /// Pairs of queues.
    pub fn pairs(&self) -> u16 {
        match self.options.offered() & feature::MQ {
            0 => 1,
            _ => u16::try_from(self.networks.len()).unwrap_or(u16::MAX),
        }
    }

    fn settings_at_first(&self) -> Settings {
        Settings::new(self.options.mac, self.pairs())
    }

    /// All frames come to the network's first queue, as long as nobody serves the
    /// others.
    fn leave_to_first(&self) {
        for network in self.networks.iter().skip(1) {
            let left = network.try_lock().map(|mut network| network.enable(false));
            if let Some(Err(error)) = left {
                log::error!("virtio-net: a queue of the network: {error}");
            }
        }
    }

    /// Queues in the hands of threads: those of frames by their pairs, and commands.
    /// A driver that knows of one pair has its commands behind that (5.1.2).
    fn serve(&self, activation: Activation) -> Vec<Served> {
        let has = |bit| activation.features & bit != 0;
        let pairs = if has(feature::MQ) { self.pairs() } else { 1 };
        let mut served: Vec<Served> = (0..pairs).map(|_| Served::default()).collect();
        for queue in activation.queues {
            let (pair, place) = (queue.index / 2, queue.index % 2);
            if let Some(served) = served.get_mut(usize::from(pair)) {
                match place {
                    0 => served.rx = Some(queue),
                    _ => served.tx = Some(queue),
                }
            } else if pair == pairs && place == 0 && has(feature::CTRL_VQ) {
                served[0].control = Some(queue);
            }
        }
        served
    }

    fn config(&self) -> [u8; at::END] {
        let mut config = [0; at::END];
        config[..at::STATUS].copy_from_slice(&self.settings.read().filter.mac);
        let status = if self.link.is_up() { LINK_UP } else { 0 };
        let words = [
            (at::STATUS, status),
            (at::PAIRS, self.pairs()),
            (at::MTU, self.options.host_mtu.unwrap_or(0)),
        ];
        for (at, word) in words {
            config[at..at + 2].copy_from_slice(&word.to_le_bytes());
        }
        config
    }

    /// Afterwards nothing of it touches guest memory, and nobody changes its
    /// settings.
    fn stop(&self) {
        self.link.detach();
        self.workers.stop();
        *self.driver.lock() = None;
    }
}

impl VirtioDevice for Net {
    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn features(&self) -> u64 {
        self.options.offered()
    }

    fn queue_sizes(&self) -> Vec<u16> {
        let pair = [self.options.rx_queue_size, self.options.tx_queue_size];
        let mut sizes = pair.repeat(self.pairs().into());
        if self.features() & feature::CTRL_VQ != 0 {
            sizes.push(CONTROL_QUEUE_SIZE);
        }
        sizes
    }

    /// As QEMU: no longer than the features ask for.
    fn config_len(&self) -> usize {
        match self.options.host_mtu {
            Some(_) => at::END,
            None if self.features() & feature::MQ != 0 => at::MTU,
            None => at::PAIRS,
        }
    }

    fn read_config(&self, offset: usize, bytes: &mut [u8]) {
        copy_config(&self.config()[..self.config_len()], offset, bytes);
    }

    /// A driver that has no command for it sets the address here, byte by byte
    /// (5.1.4.3).
    fn write_config(&self, offset: usize, bytes: &[u8]) {
        let commands = device::feature::VERSION_1 | feature::CTRL_MAC_ADDR;
        if self.driver.lock().is_none_or(|f| f & commands != 0) {
            return;
        }
        let mac = &mut self.settings.write().filter.mac;
        let places = mac.iter_mut().skip(offset);
        places.zip(bytes).for_each(|(to, from)| *to = *from);
    }

    fn activate(&self, activation: Activation) -> io::Result<()> {
        let (features, memory) = (activation.features, activation.memory.clone());
        let interrupts = activation.interrupts.clone();
        let served = self.serve(activation);
        let alarms = served.iter().map(|_| Alarm::new().map(Arc::new));
        let alarms = alarms.collect::<io::Result<Vec<_>>>()?;
        *self.driver.lock() = Some(features);
        self.link.attach(interrupts.clone(), alarms.clone());
        for (pair, served) in (0..).zip(served) {
            let alarm = &alarms[usize::from(pair)];
            let stop = Arc::<Doorbell>::default();
            let bells = served.queues().map(|queue| &queue.doorbell);
            bells.chain([&stop]).for_each(|b| b.attach(alarm.clone()));
            let others = alarms.iter().filter(|other| !Arc::ptr_eq(other, alarm));
            let worker = Worker {
                pair,
                network: self.networks[usize::from(pair)].clone(),
                served,
                memory: memory.clone(),
                interrupts: interrupts.clone(),
                features,
                mtu: self.options.host_mtu.unwrap_or(DEFAULT_MTU),
                settings: self.settings.clone(),
                link: self.link.clone(),
                others: others.cloned().collect(),
                alarm: alarm.clone(),
                stop: stop.clone(),
            };
            self.workers.start(KIND.name, stop, move || worker.run())?;
        }
        Ok(())
    }

    fn suspend(&self) -> bool {
        self.stop();
        true
    }

    fn save(&self, instance: &str, image: &mut Image) {
        // A command that is being served would change what is saved.
        self.stop();
        let settings = self.settings.read().clone();
        let (filter, offloads) = (settings.filter, settings.offloads);
        let saved = state::virtio::Net {
            mac: filter.mac,
            modes: filter.modes,
            unicast: filter.unicast.addresses,
            all_unicast: filter.unicast.all,
            multicast: filter.multicast.addresses,
            all_multicast: filter.multicast.all,
            offloads,
            pairs: settings.pairs,
            link_up: self.link.is_plugged(),
        };
        image.put(instance, &saved);
    }

    fn restore(&self, instance: &str, image: &mut Image) -> state::Result<()> {
        let saved: state::virtio::Net = image.take(instance)?;
        if !(1..=self.pairs()).contains(&saved.pairs) {
            return Err(state::Error::Impossible {
                name: format!("virtio-net/{instance}"),
                why: format!("{} pairs of queues in use", saved.pairs),
            });
        }
        let table = |addresses: Vec<_>, all| Table {
            all,
            ..Table::new(addresses.into_iter())
        };
        let filter = Filter {
            mac: saved.mac,
            modes: saved.modes,
            unicast: table(saved.unicast, saved.all_unicast),
            multicast: table(saved.multicast, saved.all_multicast),
        };
        *self.settings.write() = Settings {
            filter,
            offloads: saved.offloads,
            pairs: saved.pairs,
            most_pairs: self.pairs(),
        };
        self.link.set_up(saved.link_up);
        Ok(())
    }

    fn reset(&self) {
        self.stop();
        *self.settings.write() = self.settings_at_first();
        self.leave_to_first();
    }
}
