//! A hub: a frame from one port goes to all others.

use crate::frame::{Accepts, Frame};
use crate::{Guest, Network};
use rustix::event::{EventfdFlags, eventfd};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Frames that a port keeps for who is behind it.
const ROOM: usize = 256;
/// Frames for the guest in one go, so that what it sends gets its turn.
const BURST: usize = 256;

/// A hub; its clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Hub(Arc<Mutex<Vec<Arc<Port>>>>);

/// What others know of a port.
#[derive(Debug)]
struct Port {
    frames: Mutex<VecDeque<Vec<u8>>>,
    /// Readable when frames have come, or when others have room again.
    bell: OwnedFd,
    /// Somebody is behind it; frames for nobody are lost.
    used: AtomicBool,
    /// It has a frame that none of the others had room for.
    waits: AtomicBool,
}

/// One port, to be plugged into as any network.
#[derive(Debug)]
pub struct HubPort {
    hub: Hub,
    port: Arc<Port>,
    frame: Frame,
    more: bool,
}

/// No panic leaves anything half done.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Port {
    fn ring(&self) {
        _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    fn has_room(&self) -> bool {
        !self.used.load(Ordering::Acquire) || locked(&self.frames).len() < ROOM
    }

    fn push(&self, bytes: &[u8]) {
        if !self.used.load(Ordering::Acquire) {
            return;
        }
        let mut frames = locked(&self.frames);
        let first = frames.is_empty();
        if frames.len() < ROOM {
            frames.push_back(bytes.to_vec());
        }
        drop(frames);
        if first {
            self.ring();
        }
    }
}

impl Hub {
    /// One more port.
    ///
    /// # Errors
    /// The host has no more descriptors.
    pub fn port(&self) -> io::Result<HubPort> {
        let port = Arc::new(Port {
            frames: Mutex::default(),
            bell: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
            used: AtomicBool::new(false),
            waits: AtomicBool::new(false),
        });
        locked(&self.0).push(port.clone());
        Ok(HubPort {
            hub: self.clone(),
            port,
            frame: Frame::default(),
            more: false,
        })
    }

    /// Somebody has room again.
    fn wake(&self) {
        for port in locked(&self.0).iter() {
            if port.waits.swap(false, Ordering::AcqRel) {
                port.ring();
            }
        }
    }
}

impl HubPort {
    /// Any of the others has room. If not, [`Network::fd`] is readable when one has.
    pub fn has_room(&self) -> bool {
        let ports = locked(&self.hub.0);
        let any = || {
            let mut others = ports.iter().filter(|port| !Arc::ptr_eq(port, &self.port));
            // Whoever is alone talks to nobody, and need not wait for anybody.
            ports.len() < 2 || others.any(|port| port.has_room())
        };
        if any() {
            return true;
        }
        self.port.waits.store(true, Ordering::Release);
        // What became free before that was known to nobody.
        any()
    }
}

impl Drop for HubPort {
    fn drop(&mut self) {
        locked(&self.hub.0).retain(|port| !Arc::ptr_eq(port, &self.port));
        self.hub.wake();
    }
}

impl Network for HubPort {
    fn fd(&self) -> BorrowedFd<'_> {
        self.port.bell.as_fd()
    }

    fn deadline(&self) -> Option<Instant> {
        self.more.then(Instant::now)
    }

    /// Called as soon as somebody is behind the port. All ports get the same bytes, so
    /// nothing is left to do.
    fn accepts(&mut self, _: Accepts) {
        self.port.used.store(true, Ordering::Release);
    }

    /// What waits for an adapter is lost with it, and the others need not wait for it.
    fn left(&mut self) {
        self.port.used.store(false, Ordering::Release);
        locked(&self.port.frames).clear();
        self.hub.wake();
    }

    fn send(&mut self, frame: &Frame) -> bool {
        if !self.has_room() {
            return false;
        }
        for port in locked(&self.hub.0).iter() {
            if !Arc::ptr_eq(port, &self.port) {
                port.push(&frame.bytes);
            }
        }
        true
    }

    fn run(&mut self, _: Instant, guest: &mut dyn Guest) -> io::Result<()> {
        // What comes from now on rings again.
        _ = rustix::io::read(&self.port.bell, &mut [0; 8]);
        self.more = true;
        let mut full = false;
        for _ in 0..BURST {
            if !guest.has_room() {
                self.more = false;
                break;
            }
            let mut frames = locked(&self.port.frames);
            full |= frames.len() >= ROOM;
            let Some(bytes) = frames.pop_front() else {
                self.more = false;
                break;
            };
            drop(frames);
            self.frame.bytes = bytes;
            guest.deliver(&self.frame);
        }
        if full {
            self.hub.wake();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Room(usize, Vec<u8>);

    impl Guest for Room {
        fn has_room(&mut self) -> bool {
            self.0 > self.1.len()
        }
        fn deliver(&mut self, frame: &Frame) {
            self.1.extend(&frame.bytes);
        }
    }

    fn frame(byte: u8) -> Frame {
        Frame {
            bytes: vec![byte],
            ..Frame::default()
        }
    }

    fn ports<const N: usize>() -> [HubPort; N] {
        let hub = Hub::default();
        [(); N].map(|()| {
            let mut port = hub.port().expect("a port");
            port.accepts(Accepts::default());
            port
        })
    }

    /// What waits for a port, up to this much.
    fn taken(port: &mut HubPort, room: usize) -> Vec<u8> {
        let mut guest = Room(room, Vec::new());
        port.run(Instant::now(), &mut guest).expect("it runs");
        guest.1
    }

    fn rings(port: &HubPort) -> bool {
        use rustix::event::{PollFd, PollFlags, poll};
        let mut fds = [PollFd::from_borrowed_fd(port.fd(), PollFlags::IN)];
        poll(&mut fds, Some(&rustix::event::Timespec::default())) == Ok(1)
    }

    #[test]
    fn a_frame_goes_to_all_others() {
        let [mut a, mut b, mut c] = ports();
        assert!(a.send(&frame(1)) && c.send(&frame(2)));
        assert!(rings(&b) && rings(&c));
        assert_eq!(taken(&mut a, 9), [2]);
        assert_eq!(taken(&mut b, 9), [1, 2]);
        assert_eq!(taken(&mut c, 9), [1]);
        assert!(!rings(&a) && !rings(&b) && !rings(&c));
    }

    #[test]
    fn one_with_room_is_enough_and_nobody_waits_for_ever() {
        let [mut a, mut b, mut c] = ports();
        for _ in 0..ROOM {
            assert!(a.send(&frame(1)));
        }
        assert!(!a.send(&frame(2)), "nobody has room");
        assert!(!rings(&a));
        assert_eq!(taken(&mut b, 1).len(), 1);
        assert!(rings(&a), "there is room again");
        assert!(a.send(&frame(3)), "one has room");
        assert_eq!(taken(&mut c, ROOM * 2), [1; ROOM], "the other lost it");
        drop(c);
        assert_eq!(taken(&mut b, ROOM * 2).pop(), Some(3));
    }

    #[test]
    fn who_leaves_holds_nobody_back() {
        let [mut a, mut b] = ports();
        for _ in 0..ROOM {
            assert!(a.send(&frame(1)));
        }
        assert!(!a.send(&frame(1)), "b has no room");
        b.left();
        assert!(rings(&a), "b has left");
        assert!(a.send(&frame(2)));
        assert_eq!(taken(&mut b, 9), []);
        b.accepts(Accepts::default());
        assert!(a.send(&frame(3)));
        assert_eq!(taken(&mut b, 9), [3]);
    }

    #[test]
    fn a_port_without_anybody_holds_nobody_back() {
        let [mut a] = ports();
        let _unused = a.hub.port().expect("a port");
        for _ in 0..ROOM * 2 {
            assert!(a.send(&frame(1)));
        }
    }
}
