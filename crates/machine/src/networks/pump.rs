//! A network on a port of a hub: a thread moves its frames.

use log::error;
use net::{Accepts, Frame, Guest, HubPort, Network};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use virtio::net::{LinkState, SharedNetwork};

/// The thread; ends when it is dropped.
pub struct Pump {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Pump {
    pub fn start(port: HubPort, network: SharedNetwork, link: Arc<LinkState>) -> io::Result<Self> {
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let heard = stop.clone();
        let body = move || {
            // Adapters cannot name it, so nobody else has it.
            let Some(mut network) = network.try_lock() else {
                return error!("a hub: an adapter has the network");
            };
            if let Err(why) = serve(port, &mut **network, &link, &heard) {
                error!("a hub: the network has failed: {why}");
            }
        };
        let thread = std::thread::Builder::new().name("hub".into()).spawn(body)?;
        let thread = Some(thread);
        Ok(Self { stop, thread })
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            _ = thread.join();
        }
    }
}

/// The hub, as its network sees it.
struct ToHub<'a> {
    port: &'a mut HubPort,
    link: &'a LinkState,
}

impl Guest for ToHub<'_> {
    /// Where nobody listens everything has room, and is lost.
    fn has_room(&mut self) -> bool {
        !self.link.is_up() || self.port.has_room()
    }
    fn deliver(&mut self, frame: &Frame) {
        if self.link.is_up() {
            self.port.send(frame);
            self.link.count_received();
        }
    }
}

/// The network, as the hub sees it.
struct ToNetwork<'a> {
    network: &'a mut dyn Network,
    /// What the network had no room for.
    kept: &'a mut Option<Frame>,
    link: &'a LinkState,
}

impl Guest for ToNetwork<'_> {
    fn has_room(&mut self) -> bool {
        let sent = self.kept.take_if(|frame| self.network.send(frame));
        drop(sent);
        self.kept.is_none()
    }
    fn deliver(&mut self, frame: &Frame) {
        if !self.link.is_up() {
            return;
        }
        self.link.count_sent();
        if !self.network.send(frame) {
            *self.kept = Some(frame.clone());
        }
    }
}

fn serve(
    mut port: HubPort,
    network: &mut dyn Network,
    link: &LinkState,
    stop: &OwnedFd,
) -> io::Result<()> {
    port.accepts(Accepts::default());
    network.accepts(Accepts::default());
    let mut kept = None;
    loop {
        let now = Instant::now();
        let port_side = &mut port;
        network.run(
            now,
            &mut ToHub {
                port: port_side,
                link,
            },
        )?;
        link.set_carrier(network.has_carrier());
        let kept = &mut kept;
        port.run(
            now,
            &mut ToNetwork {
                network,
                kept,
                link,
            },
        )?;
        let deadlines = [network.deadline(), port.deadline()];
        let deadline = deadlines.into_iter().flatten().min();
        let fds = [stop.as_fd(), network.fd(), port.fd()];
        let mut fds = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        match poll(&mut fds, deadline.map(until).as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if !fds[0].revents().is_empty() {
            return Ok(());
        }
    }
}

fn until(deadline: Instant) -> Timespec {
    let left = deadline.saturating_duration_since(Instant::now());
    // More than a day is as good as a day.
    Timespec::try_from(left.min(Duration::from_hours(24))).unwrap_or_default()
}
