//! Waits for debuggers, one after the other.

use crate::session::Host;
use crate::target::Monitor;
use crate::wire::LineWire;
use machine::MachineHandle;
use machine::SocketConfig;
use machine::console::{Connection, Line, Listener};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::AsFd;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// A debugger that takes nothing for so long is gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where debuggers come from.
pub enum Place {
    /// They connect.
    Server(SocketConfig),
    /// They are at the other end of something: the terminal, a pty.
    Line(Line),
}

/// Where a thread waits for them.
enum Door {
    Listener(Listener, Option<Connection>),
    Line(LineWire),
}

/// The place where debuggers connect. Dropped, it is gone.
pub struct Server {
    host: Arc<Host>,
    ended: Receiver<()>,
}

impl Server {
    /// Opens the place, and serves debuggers of the machine on a thread of its own.
    ///
    /// # Errors
    /// The host's: the address is in use, for example.
    pub fn start(
        place: Place,
        handle: MachineHandle,
        monitor: Option<Box<Monitor>>,
    ) -> io::Result<Self> {
        let host = Arc::new(Host::new(handle, monitor)?);
        let mut door = match place {
            Place::Line(line) => Door::Line(LineWire::start(line, host.wake.clone())?),
            Place::Server(config) => {
                let listener = Listener::new(&config)?;
                let first = config.wait.then(|| {
                    eprintln!("trapeze: waiting for a connection on {}", config.address);
                    listener.accept()
                });
                Door::Listener(listener, first.transpose()?)
            }
        };
        let (end, ended) = channel();
        let served = host.clone();
        let thread = std::thread::Builder::new().name("gdb".into());
        thread.spawn(move || {
            accept(&mut door, &served);
            drop(door);
            // Nobody need be waiting.
            let _ = end.send(());
        })?;
        Ok(Self { host, ended })
    }

    /// The machine has ended with this exit code, which a debugger is told.
    pub fn finish(self, code: u8) {
        *self.host.ended.lock() = Some(code);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.host.ended.lock().get_or_insert(0);
        self.host.wake.wake();
        // A debugger that takes its time must not keep the process.
        let _ = self.ended.recv_timeout(PATIENCE);
    }
}

/// Serves whoever comes until the machine ends.
fn accept(door: &mut Door, host: &Host) {
    while host.ended.lock().is_none() {
        let served = match door {
            Door::Listener(_, Some(_)) => Ok(true),
            Door::Listener(listener, None) => wait(Some(listener), host),
            Door::Line(line) if line.is_called() => Ok(true),
            Door::Line(_) => wait(None, host),
        };
        let served = served.and_then(|comes| match comes {
            true => serve(door, host),
            false => Ok(()),
        });
        if let Err(why) = served {
            // Out of descriptors: somebody may leave.
            log::warn!("gdb: nobody can connect: {why}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// True if somebody connects; false if somebody called.
fn wait(listener: Option<&Listener>, host: &Host) -> io::Result<bool> {
    let mut fds = vec![PollFd::new(&host.wake, PollFlags::IN)];
    fds.extend(listener.map(|l| PollFd::from_borrowed_fd(l.as_fd(), PollFlags::IN)));
    match poll(&mut fds, None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(why) => return Err(why.into()),
    }
    let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
    if ready[0] {
        host.wake.clear();
    }
    Ok(ready.get(1) == Some(&true))
}

fn serve(door: &mut Door, host: &Host) -> io::Result<()> {
    log::info!("gdb: a debugger has connected");
    let end = match door {
        Door::Line(line) => host.serve(line),
        Door::Listener(listener, first) => {
            let connection = first.take().map_or_else(|| listener.accept(), Ok)?;
            connection.set_write_timeout(PATIENCE)?;
            host.serve(&connection)
        }
    };
    log::info!("gdb: it is gone: {end:?}");
    Ok(())
}
