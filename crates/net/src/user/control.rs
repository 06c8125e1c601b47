//! What others ask a user-mode network, which its thread answers.

use super::forward::{self, Forward};
use super::schedule::Token;
use super::{HostForward, Transport, UserNet};
use rustix::event::{EventfdFlags, eventfd};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long the network's thread may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often to look whether it has a thread.
const PAUSE: Duration = Duration::from_millis(10);

/// One row of QEMU's `info usernet`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserSocket {
    /// `TCP`, `UDP` or `ICMP`.
    pub protocol: &'static str,
    /// A state's name; of UDP and ICMP the seconds it still has.
    pub state: String,
    /// The host's descriptor.
    pub fd: i32,
    /// Where it begins.
    pub from: SocketAddr,
    /// Where it leads.
    pub to: SocketAddr,
    /// Bytes from the guest that the host has not taken yet.
    pub from_guest: usize,
    /// Bytes for the guest that it has not said it has.
    pub to_guest: usize,
}

/// Something to do with the network.
type Request = Box<dyn FnOnce(&mut UserNet) + Send>;

/// Asks a network; its clones ask the same one.
#[derive(Clone)]
pub struct UserControl(Arc<Asked>);

struct Asked {
    requests: Mutex<Vec<Request>>,
    bell: OwnedFd,
}

impl fmt::Debug for UserControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UserControl")
    }
}

impl UserControl {
    pub(super) fn new() -> io::Result<Self> {
        let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
        Ok(Self(Arc::new(Asked {
            requests: Mutex::default(),
            bell: eventfd(0, flags)?,
        })))
    }

    pub(super) fn bell(&self) -> &OwnedFd {
        &self.0.bell
    }

    /// What was asked since the last time.
    pub(super) fn take(&self) -> Vec<Request> {
        _ = rustix::io::read(&self.0.bell, &mut [0; 8]);
        std::mem::take(&mut *self.requests())
    }

    fn requests(&self) -> std::sync::MutexGuard<'_, Vec<Request>> {
        let requests = self.0.requests.lock();
        requests.unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the network do this. `idle` calls [`crate::Network::attend`] if no thread
    /// has the network.
    fn ask<T: Send + 'static>(
        &self,
        idle: &dyn Fn(),
        what: impl FnOnce(&mut UserNet) -> T + Send + 'static,
    ) -> Result<T, String> {
        let (answer, answers) = mpsc::channel();
        let request: Request = Box::new(move |net| _ = answer.send(what(net)));
        self.requests().push(request);
        _ = rustix::io::write(&self.0.bell, &1u64.to_ne_bytes());
        let limit = Instant::now() + PATIENCE;
        loop {
            idle();
            match answers.recv_timeout(PAUSE) {
                Ok(answer) => return Ok(answer),
                Err(_) if Instant::now() < limit => {}
                Err(_) => return Err("the network does not answer".into()),
            }
        }
    }

    /// All connections, flows and forwards.
    ///
    /// # Errors
    /// The network's thread is stuck.
    pub fn sockets(&self, idle: &dyn Fn()) -> Result<Vec<UserSocket>, String> {
        self.ask(idle, UserNet::sockets)
    }

    /// Forwards one more address of the host's.
    ///
    /// # Errors
    /// It makes no sense, or cannot be listened at.
    pub fn add_forward(&self, idle: &dyn Fn(), forward: HostForward) -> Result<(), String> {
        self.ask(idle, move |net| net.add_forward(&forward))?
    }

    /// Ends that; false if there is none.
    ///
    /// # Errors
    /// The network's thread is stuck.
    pub fn remove_forward(
        &self,
        idle: &dyn Fn(),
        transport: Transport,
        host: SocketAddr,
    ) -> Result<bool, String> {
        self.ask(idle, move |net| net.remove_forward(transport, host))
    }
}

impl UserNet {
    /// Asks it things while somebody else has it.
    pub fn control(&self) -> UserControl {
        self.control.clone()
    }

    fn sockets(&mut self) -> Vec<UserSocket> {
        let forwards = self.forwards.iter().flatten().filter_map(Forward::row);
        let mut rows: Vec<UserSocket> = forwards.collect();
        self.connections.rows(&mut rows);
        self.flows.rows(self.shared.now(), &mut rows);
        rows
    }

    fn add_forward(&mut self, forward: &HostForward) -> Result<(), String> {
        let mut config = self.shared.config.clone();
        config.host_forwards = vec![forward.clone()];
        config.check()?;
        // A place that is free, so that others keep theirs.
        let free = self.forwards.iter().position(Option::is_none);
        let place = free.unwrap_or(self.forwards.len());
        let opened = forward::listen_at(&self.shared, &config, forward, place);
        let opened = Some(opened.map_err(|e| e.to_string())?);
        match self.forwards.get_mut(place) {
            Some(slot) => *slot = opened,
            None => self.forwards.push(opened),
        }
        self.shared.schedule.add(Token::Forward(place as u64));
        Ok(())
    }

    fn remove_forward(&mut self, transport: Transport, host: SocketAddr) -> bool {
        let is = |f: &Forward| f.is(transport, host);
        let mut slots = self.forwards.iter_mut();
        let found = slots.find(|slot| slot.as_ref().is_some_and(is));
        found.map(|slot| *slot = None).is_some()
    }
}
