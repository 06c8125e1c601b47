//! Console device with ports (virtio 1.2, 5.3): consoles and byte streams
//! with names between the guest and the host.

mod control;
mod port;
#[cfg(test)]
mod tests;

use crate::device::{Activation, Kind, VirtioDevice, copy_config};
use crate::queue::ActiveQueue;
use crate::workers::Workers;
use control::Control;
use parking_lot::Mutex;
use port::Port;
use state::Image;
use std::io;
use std::sync::{Arc, Weak};

/// The type.
pub const KIND: Kind = Kind {
    name: "virtio-serial",
    id: 3,
    pci_id: 0x1003,
    class: 0x07_80_00,
};

/// Most ports of a device, QEMU's default.
pub const MAX_PORTS: u16 = 31;
/// QEMU's.
const QUEUE_SIZE: u16 = 128;
/// Queues of the control messages (5.3.2).
const CONTROL_IN: u16 = 2;
const CONTROL_OUT: u16 = 3;
/// Bytes of the configuration (5.3.4), and where its last field is.
const CONFIG_LEN: usize = 12;
const EMERGENCY_WRITE: usize = 8;

/// Feature bits (5.3.3).
mod feature {
    pub const MULTIPORT: u64 = 1 << 1;
    pub const EMERGENCY_WRITE: u64 = 1 << 2;
}

/// The host's end of a port. No call waits for the host's reader or writer,
/// but [`Self::wait_for_room`].
pub trait HostEnd: Send + Sync {
    /// Takes bytes from the guest: how many it had room for. Where nobody is
    /// connected all are taken, and lost.
    fn put(&self, bytes: &[u8]) -> usize;
    /// Waits a moment for room, a fraction of a second at most.
    fn wait_for_room(&self);
    /// Takes bytes for the guest; how many there were.
    fn get(&self, bytes: &mut [u8]) -> usize;
    /// There are bytes for the guest.
    fn has_input(&self) -> bool;
    /// Somebody is connected.
    fn connected(&self) -> bool;
    /// Whom to tell when bytes come or somebody connects or leaves; replaces
    /// the one before.
    fn attach(&self, listener: Weak<dyn Listener>);
}

/// Hears of a [`HostEnd`]; called from any thread.
pub trait Listener: Send + Sync {
    /// There may be bytes for the guest, or somebody came or left.
    fn changed(&self);
}

/// What a port is.
#[derive(Clone)]
pub struct PortOptions {
    /// Its number, below the device's most.
    pub number: u16,
    /// The guest has a console (`hvc`) on it; otherwise it is a stream of
    /// bytes, which the guest opens.
    pub console: bool,
    /// The guest finds it by this name.
    pub name: String,
    /// The other end.
    pub host: Arc<dyn HostEnd>,
}

/// The device.
pub struct Serial {
    max_ports: u16,
    control: Arc<Control>,
    ports: Vec<Arc<Port>>,
    workers: Workers,
    /// Guest's writes to its configuration are done one by one.
    emergency: Mutex<()>,
}

impl Serial {
    /// A device that may have `max_ports` (1 to [`MAX_PORTS`]), with `ports`.
    /// With one only there are no control messages, and the port is a
    /// console.
    pub fn new(max_ports: u16, ports: Vec<PortOptions>) -> Self {
        let control = Arc::new(Control::default());
        let new = |options| Port::new(options, control.clone());
        Self {
            max_ports,
            ports: ports.into_iter().map(new).collect(),
            control,
            workers: Workers::default(),
            emergency: Mutex::default(),
        }
    }

    /// Starts the thread of a queue, if anything uses it.
    fn start(&self, queue: ActiveQueue) -> io::Result<()> {
        let doorbell = queue.doorbell.clone();
        let work: Box<dyn FnOnce() + Send> = match queue.index {
            CONTROL_IN => {
                self.control.attach(doorbell.clone());
                let control = self.control.clone();
                Box::new(move || control::send(queue, &control))
            }
            CONTROL_OUT => {
                let (control, ports) = (self.control.clone(), self.ports.clone());
                Box::new(move || {
                    queue.serve(|chain| control::receive(chain, &control, &ports));
                })
            }
            index => {
                let Some(port) = self.ports.iter().find(|p| p.queues().contains(&index)) else {
                    return Ok(());
                };
                let port = port.clone();
                match index == port.queues()[0] {
                    true => {
                        port.attach(doorbell.clone());
                        Box::new(move || port::receive(queue, &port))
                    }
                    false => Box::new(move || port::transmit(queue, &port)),
                }
            }
        };
        self.workers.start(KIND.name, doorbell, work)
    }

    fn stop(&self) {
        self.workers.stop();
        self.control.detach();
        self.ports.iter().for_each(|p| p.detach());
    }
}

impl VirtioDevice for Serial {
    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn features(&self) -> u64 {
        match self.max_ports {
            1 => feature::EMERGENCY_WRITE,
            _ => feature::EMERGENCY_WRITE | feature::MULTIPORT,
        }
    }

    fn queue_sizes(&self) -> Vec<u16> {
        let pairs = match self.max_ports {
            1 => 1,
            ports => usize::from(ports) + 1,
        };
        vec![QUEUE_SIZE; 2 * pairs]
    }

    fn config_len(&self) -> usize {
        CONFIG_LEN
    }

    fn read_config(&self, offset: usize, bytes: &mut [u8]) {
        // Columns and rows belong to a feature that is not offered.
        let mut config = [0; CONFIG_LEN];
        config[4..6].copy_from_slice(&self.max_ports.to_le_bytes());
        copy_config(&config, offset, bytes);
    }

    /// A byte for the first console, before or without its queues.
    fn write_config(&self, offset: usize, bytes: &[u8]) {
        if offset == EMERGENCY_WRITE
            && let (Some(port), Some(byte)) = (self.ports.first(), bytes.first())
        {
            let _one = self.emergency.lock();
            port.host().put(&[*byte]);
        }
    }

    fn activate(&self, activation: Activation) -> io::Result<()> {
        let multiport = activation.features & feature::MULTIPORT != 0;
        self.ports.iter().for_each(|p| p.listen(multiport));
        let mut queues = activation.queues.into_iter();
        queues.try_for_each(|queue| self.start(queue))
    }

    fn suspend(&self) -> bool {
        self.stop();
        true
    }

    fn save(&self, instance: &str, image: &mut Image) {
        let saved = state::virtio::Serial {
            ports: self.ports.iter().map(|p| p.save()).collect(),
            messages: self.control.save(),
        };
        image.put(instance, &saved);
    }

    fn restore(&self, instance: &str, image: &mut Image) -> state::Result<()> {
        let saved: state::virtio::Serial = image.take(instance)?;
        let numbers = |p: &Arc<Port>| u32::from(p.number());
        let same = saved.ports.iter().map(|p| p.number);
        if !same.eq(self.ports.iter().map(numbers)) {
            return Err(state::Error::Impossible {
                name: format!("virtio-serial/{instance}"),
                why: "other ports".into(),
            });
        }
        let pairs = self.ports.iter().zip(&saved.ports);
        pairs.for_each(|(port, saved)| port.restore(saved));
        self.control.restore(saved.messages);
        Ok(())
    }

    fn reset(&self) {
        self.stop();
        self.control.clear();
        self.ports.iter().for_each(|p| p.reset());
    }
}
