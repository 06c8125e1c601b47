//! The adapter's thread: serves its queues and the network behind it.

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
use parking_lot::Mutex;
use std::cell::Cell;
use std::sync::Arc;
use std::time::Instant;

/// Commands after which others have their turn.
const COMMANDS: u32 = 64;

/// What the thread is given.
pub(super) struct Worker {
    pub(super) network: SharedNetwork,
    /// Frames to the driver, frames from it, and commands; those it enabled.
    pub(super) queues: [Option<ActiveQueue>; 3],
    pub(super) memory: GuestMemory,
    pub(super) interrupts: Arc<dyn Interrupts>,
    pub(super) features: u64,
    pub(super) mtu: u16,
    pub(super) settings: Arc<Mutex<Settings>>,
    pub(super) link: Arc<LinkState>,
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
        let bells = self.queues.iter().flatten().map(|q| q.doorbell.clone());
        let bells: Vec<_> = bells.collect();
        let [rx, tx, control] = self.queues;
        // Whoever has it keeps it, so waiting would be for ever.
        let Some(mut network) = self.network.try_lock() else {
            log::error!("virtio-net: another adapter has the network");
            return Ok(());
        };
        let mut adapter = Adapter {
            rx: rx.map(|queue| Rx::new(queue, &self.memory, self.features, self.mtu)),
            tx: tx.map(|queue| Tx::new(queue, self.features)),
            control,
            features: self.features,
            settings: &self.settings,
            link: &self.link,
            accepts: self.settings.lock().accepts(self.features),
            broken: None,
            dead: false,
        };
        network.accepts(adapter.accepts);
        loop {
            // What comes from now on wakes the thread again.
            self.alarm.clear();
            for bell in &bells {
                bell.quiet();
            }
            if !self.stop.quiet() {
                return Ok(());
            }
            if !adapter.turn(&mut **network)? {
                let alive = !adapter.dead;
                let deadline = network.deadline().filter(|_| alive);
                self.alarm.wait(alive.then(|| network.fd()), deadline);
            }
        }
    }
}

/// The adapter at work.
struct Adapter<'a> {
    rx: Option<Rx<'a>>,
    tx: Option<Tx>,
    control: Option<ActiveQueue>,
    features: u64,
    settings: &'a Mutex<Settings>,
    link: &'a LinkState,
    /// What the network knows of the driver.
    accepts: Accepts,
    /// What the driver did wrong with the buffers for frames to it.
    broken: Option<Broken>,
    /// The network has failed.
    dead: bool,
}

impl Adapter<'_> {
    /// Does what can be done now; true if there is more.
    fn turn(&mut self, network: &mut dyn Network) -> Result<bool, Broken> {
        let commands = self.obey(network)?;
        let mut frames = self.transmit(network)?;
        if !self.dead
            && let Err(error) = network.run(Instant::now(), self)
        {
            log::error!("virtio-net: the network has failed: {error}");
            self.dead = true;
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
    fn obey(&mut self, network: &mut dyn Network) -> Result<bool, Broken> {
        let Some(queue) = &mut self.control else {
            return Ok(false);
        };
        let (features, settings) = (self.features, self.settings);
        let left = Cell::new(COMMANDS);
        queue.drain(
            || left.get() > 0,
            |chain| {
                left.set(left.get() - 1);
                control::serve(chain, features, &mut settings.lock())
            },
        )?;
        let accepts = settings.lock().accepts(features);
        if accepts != self.accepts {
            self.accepts = accepts;
            network.accepts(accepts);
        }
        Ok(left.get() == 0)
    }

    fn transmit(&mut self, network: &mut dyn Network) -> Result<bool, Broken> {
        let Some(tx) = &mut self.tx else {
            return Ok(false);
        };
        let lost = self.dead || !self.link.is_up();
        tx.run(self.link, lost, |frame| network.send(frame))
    }

    fn try_deliver(&mut self, frame: &Frame) -> Result<bool, Broken> {
        match &mut self.rx {
            Some(rx) if self.link.is_up() => rx.deliver(frame, &self.accepts),
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
        if !self.settings.lock().filter.passes(&frame.bytes) {
            return;
        }
        match self.try_deliver(frame) {
            Ok(true) => count(&self.link.received),
            Ok(false) => count(&self.link.not_received),
            Err(broken) => {
                self.broken.get_or_insert(broken);
            }
        }
    }
}
