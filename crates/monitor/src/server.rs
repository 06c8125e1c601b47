//! The threads of all sessions.

use crate::outbox::Outbox;
use crate::target::Target;
use crate::{hmp, qmp};
use machine::console::{Connection, Heard, Line, Listener, Telnet};
use machine::{MonitorConfig, SerialConfig, SocketConfig};
use parking_lot::Mutex;
use std::io::{self, Read, Write};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Clients that a server has at most at one time.
const MOST_CLIENTS: usize = 64;
/// How long the end of a machine waits for clients that do not read.
const PATIENCE: Duration = Duration::from_secs(1);

/// Everybody's sessions.
#[derive(Default)]
pub struct Monitors {
    outboxes: Arc<Mutex<Vec<Weak<Outbox>>>>,
}

/// One of both kinds.
enum Session {
    Qmp(qmp::Session),
    Hmp(hmp::Session),
}

/// What kind a session is of.
#[derive(Clone, Copy)]
struct Manner {
    control: bool,
    pretty: bool,
}

impl Session {
    fn new(target: &Arc<Target>, outbox: &Arc<Outbox>, manner: Manner) -> Self {
        let (target, outbox) = (target.clone(), outbox.clone());
        match manner.control {
            true => Self::Qmp(qmp::Session::new(target, outbox, manner.pretty)),
            false => {
                let mut session = hmp::Session::new(target, outbox);
                session.greet();
                Self::Hmp(session)
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) -> bool {
        match self {
            Self::Qmp(session) => session.take(bytes),
            Self::Hmp(session) => session.take(bytes),
        }
    }
}

impl Monitors {
    /// Starts to listen, and to serve `lines`, which are those of the monitors
    /// that are no servers.
    ///
    /// # Errors
    /// An address that cannot be listened at, or no more threads.
    pub fn start(
        &self,
        target: &Arc<Target>,
        monitors: &[MonitorConfig],
        lines: Vec<Line>,
    ) -> Result<(), String> {
        let mut lines = lines.into_iter();
        for monitor in monitors {
            let manner = Manner {
                control: monitor.control,
                pretty: monitor.pretty,
            };
            match &monitor.host {
                SerialConfig::Socket(socket) if monitor.is_server() => {
                    self.listen(target, socket, manner)?;
                }
                _ => {
                    if let Some(line) = lines.next() {
                        self.serve_line(target, line, manner)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn outbox(&self) -> Arc<Outbox> {
        let outbox = Arc::new(Outbox::default());
        let mut all = self.outboxes.lock();
        all.retain(|other| other.strong_count() > 0);
        all.push(Arc::downgrade(&outbox));
        outbox
    }

    fn clients(&self) -> usize {
        let all = self.outboxes.lock();
        all.iter().filter(|other| other.strong_count() > 0).count()
    }

    /// Waits a moment until every client has read what it was sent.
    pub fn finish(&self) {
        let deadline = Instant::now() + PATIENCE;
        let all: Vec<_> = self
            .outboxes
            .lock()
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        for outbox in all {
            outbox.flush(deadline);
            outbox.close();
        }
    }

    fn serve_line(
        &self,
        target: &Arc<Target>,
        mut line: Line,
        manner: Manner,
    ) -> Result<(), String> {
        let (target, outbox) = (target.clone(), self.outbox());
        let writer = line.writer();
        let box_of_writer = outbox.clone();
        spawn("monitor-out", move || {
            box_of_writer.drain(|text| {
                writer.write(text);
                true
            });
        })?;
        spawn("monitor", move || {
            let mut session: Option<Session> = None;
            let mut bytes = [0; 4096];
            loop {
                match line.read(&mut bytes) {
                    Heard::Closed => return,
                    Heard::Left => session = None,
                    Heard::Opened => session = Some(Session::new(&target, &outbox, manner)),
                    Heard::Bytes(n) => {
                        let begin = || Session::new(&target, &outbox, manner);
                        if !session.get_or_insert_with(begin).take(&bytes[..n]) {
                            return;
                        }
                    }
                }
            }
        })
    }

    fn listen(
        &self,
        target: &Arc<Target>,
        socket: &SocketConfig,
        manner: Manner,
    ) -> Result<(), String> {
        let failed = |error: io::Error| format!("{}: {error}", socket.address);
        let listener = Listener::new(socket).map_err(failed)?;
        if socket.wait {
            eprintln!("trapeze: waiting for a connection on {}", socket.address);
            let first = listener.accept().map_err(failed)?;
            self.connected(target, first, socket.telnet, manner)?;
        }
        let (target, telnet) = (target.clone(), socket.telnet);
        let this = Self {
            outboxes: self.outboxes.clone(),
        };
        spawn("monitor-accept", move || {
            loop {
                match listener.accept() {
                    Ok(connection) if this.clients() >= MOST_CLIENTS => connection.shut(),
                    Ok(connection) => {
                        if let Err(why) = this.connected(&target, connection, telnet, manner) {
                            log::warn!("a monitor's client: {why}");
                        }
                    }
                    // Out of descriptors: some client may leave.
                    Err(error) => {
                        log::warn!("a monitor's client: {error}");
                        std::thread::sleep(Duration::from_millis(100));
                    }
                }
            }
        })
    }

    fn connected(
        &self,
        target: &Arc<Target>,
        connection: Connection,
        telnet: bool,
        manner: Manner,
    ) -> Result<(), String> {
        let (target, outbox) = (target.clone(), self.outbox());
        let connection = Arc::new(connection);
        let (to, from_box) = (connection.clone(), outbox.clone());
        spawn("monitor-out", move || {
            from_box.drain(|text| (&*to).write_all(text.as_bytes()).is_ok());
            to.shut();
        })?;
        spawn("monitor", move || {
            let mut session = Session::new(&target, &outbox, manner);
            let mut telnet = telnet.then(Telnet::default);
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = read(&connection, &mut bytes) {
                let taken = match &mut telnet {
                    // Its break key means nothing here.
                    Some(telnet) => session.take(&telnet.text(&bytes[..n], || ())),
                    None => session.take(&bytes[..n]),
                };
                if !taken {
                    break;
                }
            }
            drop(session);
            // Answers to what was sent before the client stopped sending.
            outbox.flush(Instant::now() + PATIENCE);
            outbox.close();
        })
    }
}

fn read(mut connection: &Connection, bytes: &mut [u8]) -> io::Result<usize> {
    loop {
        match connection.read(bytes) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let thread = std::thread::Builder::new().name(name.into()).spawn(work);
    thread
        .map(drop)
        .map_err(|error| format!("starting a thread: {error}"))
}
