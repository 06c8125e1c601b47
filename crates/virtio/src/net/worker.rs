//! An adapter's thread: serves a pair of queues and the network behind it, the first
//! one commands, too.

use super::SharedNetwork;
use super::control::{self, Settings};
use super::link::{LinkState, count};
use super::rx::Rx;
use super::tx::Tx;
use crate::alarm::Alarm;
use crate::device::Interrupts;
use crate::doorbell::Doorbell;
use crate::memory::GuestMemory;
use crate::queue::{ActiveQueue, Broken};
use net::{Accepts, Frame, Guest, Network};
use parking_lot::RwLock;
use std::cell::Cell;
use std::sync::Arc;
use std::time::Instant;

/// Commands after which others have their turn.
const COMMANDS: u32 = 64;

/// A thread's queues; those that the driver enabled.
#[derive(Default)]
pub(super) struct Served {
    /// Frames to the driver.
    pub(super) rx: Option<ActiveQueue>,
    /// Frames from it.
    pub(super) tx: Option<ActiveQueue>,
    /// Commands, if it is the first thread.
    pub(super) control: Option<ActiveQueue>,
}

impl Served {
    /// All of them.
    pub(super) fn queues(&self) -> impl Iterator<Item = &ActiveQueue> {
        [&self.rx, &self.tx, &self.control].into_iter().flatten()
    }
}

/// What the thread is given.
pub(super) struct Worker {
    /// Number of the pair.
    pub(super) pair: u16,
    pub(super) network: SharedNetwork,
    pub(super) served: Served,
    pub(super) memory: GuestMemory,
    pub(super) interrupts: Arc<dyn Interrupts>,
    pub(super) features: u64,
    pub(super) mtu: u16,
    pub(super) settings: Arc<RwLock<Settings>>,
    pub(super) link: Arc<LinkState>,
    /// Wake the other threads.
    pub(super) others: Vec<Arc<Alarm>>,
    /// Raised by the doorbells.
    pub(super) alarm: Arc<Alarm>,
    /// Stops the thread.
    pub(super) stop: Arc<Doorbell>,
}

impl Worker {
    /// The thread's life: ends when it is stopped, or when the driver breaks the
    /// rules.
    pub(super) fn run(self) {
        let interrupts = self.interrupts.clone();
        if let Err(Broken(why)) = self.serve() {
            interrupts.needs_reset(why);
        }
    }

    fn serve(self) -> Result<(), Broken> {
        let bells = self.served.queues().map(|q| q.doorbell.clone());
        let bells: Vec<_> = bells.collect();
        let Served { rx, tx, control } = self.served;
        // Whoever has it keeps it, so waiting would be for ever.
        let Some(mut network) = self.network.try_lock() else {
            log::error!("virtio-net: another adapter has the network");
            return Ok(());
        };
        let mut adapter = Adapter {
            rx: rx.map(|queue| Rx::new(queue, &self.memory, self.features, self.mtu)),
            tx: tx.map(|queue| Tx::new(queue, self.features)),
            control,
            pair: self.pair,
            features: self.features,
            settings: &self.settings,
            link: &self.link,
            others: &self.others,
            accepts: None,
            on: false,
            broken: None,
            dead: false,
        };
        adapter.follow(&mut **network);
        let ended = loop {
            // What comes from now on wakes the thread again.
            self.alarm.clear();
            for bell in &bells {
                bell.quiet();
            }
            if !self.stop.quiet() {
                break Ok(());
            }
            match adapter.turn(&mut **network) {
                Ok(true) => {}
                Ok(false) => {
                    let alive = adapter.on && !adapter.dead;
                    let deadline = network.deadline().filter(|_| alive);
                    self.alarm.wait(alive.then(|| network.fd()), deadline);
                }
                Err(broken) => break Err(broken),
            }
        };
        network.left();
        ended
    }
}

/// The adapter at work.
struct Adapter<'a> {
    rx: Option<Rx<'a>>,
    tx: Option<Tx>,
    control: Option<ActiveQueue>,
    pair: u16,
    features: u64,
    settings: &'a RwLock<Settings>,
    link: &'a LinkState,
    others: &'a [Arc<Alarm>],
    /// What the network knows of the driver.
    accepts: Option<Accepts>,
    /// The driver uses the pair, as far as the network knows.
    on: bool,
    /// What the driver did wrong with the buffers for frames to it.
    broken: Option<Broken>,
    /// The network has failed.
    dead: bool,
}

impl Adapter<'_> {
    /// Does what can be done now; true if there is more.
    fn turn(&mut self, network: &mut dyn Network) -> Result<bool, Broken> {
        let commands = self.obey()?;
        // What the driver sent before it gave the pair up goes yet.
        let mut frames = self.transmit(network)?;
        self.follow(network);
        if self.on
            && !self.dead
            && let Err(error) = network.run(Instant::now(), self)
        {
            log::error!("virtio-net: the network has failed: {error}");
            self.dead = true;
        }
        if self.pair == 0 {
            self.link.set_carrier(network.has_carrier());
        }
        if let Some(broken) = self.broken.take() {
            return Err(broken);
        }
        if self.tx.as_ref().is_some_and(Tx::waits) {
            frames = self.transmit(network)?;
        }
        // Once for all frames of this turn.
        self.rx.as_mut().map_or(Ok(()), Rx::signal)?;
        self.tx.as_mut().map_or(Ok(()), Tx::signal)?;
        Ok(commands || frames)
    }

    /// Serves the driver's commands; true if there may be more.
    fn obey(&mut self) -> Result<bool, Broken> {
        let Some(queue) = &mut self.control else {
            return Ok(false);
        };
        let (features, settings) = (self.features, self.settings);
        let left = Cell::new(COMMANDS);
        queue.drain(
            || left.get() > 0,
            |chain| {
                left.set(left.get() - 1);
                control::serve(chain, features, &mut settings.write())
            },
        )?;
        if left.get() < COMMANDS {
            self.others.iter().for_each(|other| other.raise());
        }
        Ok(left.get() == 0)
    }

    /// Tells the network what the driver set, perhaps by another thread.
    fn follow(&mut self, network: &mut dyn Network) {
        let (on, accepts) = {
            let settings = self.settings.read();
            let on = self.pair < settings.pairs;
            (on, settings.accepts(self.features))
        };
        if on != self.on {
            self.on = on;
            if let Err(error) = network.enable(on) {
                log::error!("virtio-net: a queue of the network: {error}");
                self.dead = true;
            }
        }
        if on && self.accepts != Some(accepts) {
            self.accepts = Some(accepts);
            network.accepts(accepts);
        }
    }

    fn transmit(&mut self, network: &mut dyn Network) -> Result<bool, Broken> {
        let Some(tx) = &mut self.tx else {
            return Ok(false);
        };
        let lost = self.dead || !self.on || !self.link.is_up();
        tx.run(self.link, lost, |frame| network.send(frame))
    }

    fn try_deliver(&mut self, frame: &Frame, settings: &Settings) -> Result<bool, Broken> {
        let on = self.link.is_up() && self.pair < settings.pairs;
        match &mut self.rx {
            Some(rx) if on => rx.deliver(frame, &settings.accepts(self.features)),
            _ => Ok(false),
        }
    }
}

impl Guest for Adapter<'_> {
    /// Where nobody listens everything has room, and is lost.
    fn has_room(&mut self) -> bool {
        let rx = self.rx.as_mut().filter(|_| self.link.is_up());
        let has_room = rx.map_or(Ok(true), Rx::has_room);
        has_room.unwrap_or_else(|broken| {
            self.broken.get_or_insert(broken);
            false
        })
    }

    fn deliver(&mut self, frame: &Frame) {
        // Locked until the frame is there: no frame comes after a command is done that
        // the command forbids.
        let settings = self.settings;
        let settings = settings.read();
        if !settings.filter.passes(&frame.bytes) {
            return;
        }
        match self.try_deliver(frame, &settings) {
            Ok(true) => count(&self.link.received),
            Ok(false) => count(&self.link.not_received),
            Err(broken) => {
                self.broken.get_or_insert(broken);
            }
        }
    }
}
