//! The front end of vhost-user: another program has the guest's frames, through queues
//! in memory that both share. That memory is this network's own, not the guest's: the
//! back end sees the frames and nothing else, and what it writes reaches the guest as
//! any other network's frames do.

mod message;
mod pair;
mod ring;
mod session;
#[cfg(test)]
mod tests;

use crate::frame::{Accepts, Frame};
use crate::{Guest, Network};
use log::info;
use pair::Pair;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use session::{Met, Session, meet, raise};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Most pairs of queues: messages name their queues in 8 bits.
pub const MAX_PAIRS: u16 = 128;
/// Pause between attempts to connect again.
const PAUSE: Duration = Duration::from_secs(1);

/// What the epoll says: the back end did something, or another pair did, or the
/// connection is lost.
const CALL: u64 = 0;
const WAKE: u64 = 1;
const SOCKET: u64 = 2;

/// Which back end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VhostUserConfig {
    /// Name of the character device that says where it is.
    pub chardev: String,
    /// The Unix socket that it listens at.
    pub path: PathBuf,
    /// Pairs of queues, up to [`MAX_PAIRS`].
    pub queues: u16,
}

/// A pair of queues of a back end.
#[derive(Debug)]
pub struct VhostUser {
    config: VhostUserConfig,
    session: Arc<Mutex<Session>>,
    pair: Pair,
    epoll: OwnedFd,
    /// What of the session it knows.
    epoch: u64,
    /// The back end serves it.
    live: bool,
    on: bool,
    more: bool,
    connected: bool,
    /// When to connect again; the first pair does.
    again: Option<Instant>,
    /// Where a thread says whom it met: the guest's adapter waits for no stranger.
    met: Option<Receiver<io::Result<Met>>>,
    first: bool,
}

fn locked(session: &Mutex<Session>) -> MutexGuard<'_, Session> {
    // It is as sound as whatever one pair left.
    session.lock().unwrap_or_else(PoisonError::into_inner)
}

impl VhostUser {
    /// Connects: the pairs, the first of which looks after the connection.
    ///
    /// # Errors
    /// One line: what is wrong and what would work.
    pub fn open(config: &VhostUserConfig) -> Result<Vec<Self>, String> {
        let path = config.path.display();
        let failed =
            |e: io::Error| format!("{path}: {e}; a vhost-user back end has to listen there");
        let bytes = pair::BYTES * u64::from(config.queues);
        let session = Session::new(config.path.clone(), config.queues, bytes).map_err(failed)?;
        let session = Arc::new(Mutex::new(session));
        let pairs = (0..config.queues).map(|number| Self::new(config, number, session.clone()));
        pairs.collect::<io::Result<_>>().map_err(failed)
    }

    fn new(config: &VhostUserConfig, number: u16, shared: Arc<Mutex<Session>>) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let session = locked(&shared);
        let pair = Pair::new(number, session.memory())?;
        let wake = &session.wakes[usize::from(number)];
        let calls = pair.places().map(|place| (place.call, CALL));
        // At each raise: nobody reads them, since the back end could make that wait.
        for (fd, what) in calls.into_iter().chain([(wake.as_fd(), WAKE)]) {
            epoll::add(
                &epoll,
                fd,
                EventData::new_u64(what),
                EventFlags::IN | EventFlags::ET,
            )?;
        }
        let first = number == 0;
        if let Some(socket) = session.socket().filter(|_| first) {
            epoll::add(&epoll, socket, EventData::new_u64(SOCKET), EventFlags::IN)?;
        }
        drop(session);
        Ok(Self {
            config: config.clone(),
            session: shared,
            pair,
            epoll,
            epoch: 0,
            live: false,
            on: true,
            more: false,
            connected: true,
            again: None,
            met: None,
            first,
        })
    }

    /// What has happened, each once.
    fn happened(&self) -> io::Result<bool> {
        let mut events = [Event {
            flags: EventFlags::empty(),
            data: EventData::new_u64(0),
        }; 4];
        let none = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let n = match epoll::wait(&self.epoll, &mut events, Some(&none)) {
            Err(rustix::io::Errno::INTR) => 0,
            n => n?,
        };
        // A back end has nothing to say unless it is asked.
        Ok(events[..n].iter().any(|event| event.data.u64() == SOCKET))
    }

    /// Begins anew if the session has.
    fn follow(&mut self) {
        let shared = self.session.clone();
        let mut session = locked(&shared);
        self.connected = session.is_connected();
        if session.epoch == self.epoch {
            return;
        }
        self.epoch = session.epoch;
        let started = match self.pair.reset() {
            Ok(()) => session.start(&self.pair, self.on),
            Err(e) => Err(e),
        };
        self.live = started.unwrap_or_else(|why| {
            session.lose(&why);
            false
        });
        if self.live {
            self.pair.kick();
        }
    }

    /// What went wrong ends the connection, not the machine.
    fn lose(&mut self, why: &io::Error) {
        locked(&self.session).lose(why);
        self.live = false;
    }

    /// The first pair connects again, now and then.
    fn look_after(&mut self, lost: bool, now: Instant) -> io::Result<()> {
        if lost {
            self.lose(&io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "it has gone",
            ));
        }
        let shared = self.session.clone();
        let mut session = locked(&shared);
        if session.is_connected() {
            return Ok(());
        }
        let Some(met) = &self.met else {
            if now < *self.again.get_or_insert(now + PAUSE) {
                return Ok(());
            }
            let wake = session.wakes[0].try_clone()?;
            self.met = Some(self.look_for_another(wake)?);
            self.again = None;
            return Ok(());
        };
        let met = match met.try_recv() {
            Err(TryRecvError::Empty) => return Ok(()),
            Err(TryRecvError::Disconnected) => Err(io::ErrorKind::BrokenPipe.into()),
            Ok(met) => met,
        };
        self.met = None;
        match met.and_then(|met| session.adopt(met)) {
            Ok(()) => {
                info!("{}: connected again", self.config.path.display());
                if let Some(socket) = session.socket() {
                    let what = EventData::new_u64(SOCKET);
                    epoll::add(&self.epoll, socket, what, EventFlags::IN)?;
                }
            }
            Err(why) => {
                log::debug!("{}: {why}", self.config.path.display());
                session.lose(&why);
                self.again = Some(now + PAUSE);
            }
        }
        Ok(())
    }

    /// A thread connects, says so and raises `wake`. It ends soon, whatever the back
    /// end does.
    fn look_for_another(&self, wake: OwnedFd) -> io::Result<Receiver<io::Result<Met>>> {
        let (say, hear) = channel();
        let (path, pairs) = (self.config.path.clone(), self.config.queues);
        let work = move || {
            // Nobody listens if the network has gone.
            let _ = say.send(meet(&path, pairs));
            raise(&wake);
        };
        std::thread::Builder::new()
            .name("vhost-user".into())
            .spawn(work)?;
        Ok(hear)
    }
}

impl Network for VhostUser {
    fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    fn deadline(&self) -> Option<Instant> {
        match self.more {
            true => Some(Instant::now()),
            false => self.again,
        }
    }

    fn takes(&self) -> Accepts {
        locked(&self.session).takes()
    }

    fn has_carrier(&self) -> bool {
        self.connected
    }

    fn accepts(&mut self, accepts: Accepts) {
        let settled = locked(&self.session).accept(accepts);
        if let Err(why) = settled {
            self.lose(&why);
        }
        self.follow();
    }

    fn enable(&mut self, on: bool) -> io::Result<()> {
        if self.on != on {
            self.on = on;
            let enabled = locked(&self.session).enable(&self.pair, on);
            if let Err(why) = enabled {
                self.lose(&why);
            }
        }
        Ok(())
    }

    fn send(&mut self, frame: &Frame) -> bool {
        if !self.live {
            // A wire without another end.
            return true;
        }
        self.pair.send(frame).unwrap_or_else(|why| {
            self.lose(&why);
            true
        })
    }

    fn run(&mut self, now: Instant, guest: &mut dyn Guest) -> io::Result<()> {
        let lost = self.happened()?;
        if self.first {
            self.look_after(lost, now)?;
        }
        self.follow();
        self.more = false;
        if self.live {
            match self.pair.receive(guest) {
                Ok(more) => self.more = more,
                Err(why) => self.lose(&why),
            }
        }
        Ok(())
    }
}
