//! Pipes and sockets as consoles.

use super::feed::Feed;
use super::socket::{self, Connection, Listener, Telnet};
use crate::config::SocketConfig;
use crate::outcome::{Error, Result};
use crate::stop_pipe::StopPipe;
use parking_lot::Mutex;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often a pseudo-terminal that nobody has open is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// A thread that feeds an input queue.
pub struct StreamReader {
    thread: Option<JoinHandle<()>>,
    stop: Arc<StopPipe>,
}

impl StreamReader {
    /// Starts `work`, which ends soon after the pipe says so.
    pub(super) fn start(work: impl FnOnce(&StopPipe) + Send + 'static) -> Result<Self> {
        let stop = Arc::new(StopPipe::new()?);
        let for_thread = stop.clone();
        let thread = std::thread::Builder::new().name("serial-input".into());
        let thread = thread.spawn(move || work(&for_thread));
        let thread = thread.map_err(|source| Error::Host {
            what: "starting a thread",
            source,
        })?;
        Ok(Self {
            thread: Some(thread),
            stop,
        })
    }

    /// Reads a pipe.
    pub fn of_pipe(pipe: File, feed: Arc<Feed>) -> Result<Self> {
        Self::start(move |stop| {
            read_all(&pipe, stop, |bytes| feed.push(bytes));
        })
    }

    /// Reads a pseudo-terminal, whoever opens it and as often as they do.
    pub fn of_pty(pty: File, feed: Arc<Feed>) -> Result<Self> {
        Self::start(move |stop| {
            while read_all(&pty, stop, |bytes| feed.push(bytes)) {
                if stop.wait_for(LOOK) {
                    return;
                }
            }
        })
    }
}

impl Drop for StreamReader {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Reads to the end; false when the reader shall stop.
fn read_all<'a, F: AsRawFd>(
    from: &'a F,
    stop: &StopPipe,
    mut take: impl FnMut(&[u8]) -> bool,
) -> bool
where
    &'a F: Read,
{
    let mut from_bytes = from;
    let mut buffer = [0; 4096];
    while stop.wait_readable(from.as_raw_fd()) {
        match from_bytes.read(&mut buffer) {
            Ok(0) => return true,
            Ok(n) if take(&buffer[..n]) => {}
            Ok(_) => return false,
            Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
            Err(_) => return true,
        }
    }
    false
}

/// The two ends of a pipe as QEMU finds them: `PATH.in` is read, `PATH.out`
/// written, or both are `PATH`.
pub fn open_pipe(path: &Path) -> Result<(File, File)> {
    let open = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        File::options().read(true).write(true).open(name)
    };
    let both = || open("").and_then(|file| Ok((file.try_clone()?, file)));
    let ends = open(".in").and_then(|input| Ok((input, open(".out")?)));
    ends.or_else(|_| both())
        .map_err(|source| Error::SerialFile {
            path: path.into(),
            source,
        })
}

/// A socket: one connection at a time.
pub struct Socket {
    config: SocketConfig,
    /// Of a server.
    listener: Option<Arc<Listener>>,
    current: Arc<Current>,
}

/// The connection there is.
#[derive(Default)]
struct Current {
    connection: Mutex<Option<Arc<Connection>>>,
    connected: Arc<AtomicBool>,
}

impl Current {
    fn set(&self, connection: Option<Connection>) {
        let connected = connection.is_some();
        *self.connection.lock() = connection.map(Arc::new);
        self.connected.store(connected, Ordering::Release);
    }
}

impl Socket {
    /// Listens or connects, and waits for a connection if that is asked for.
    pub fn open(config: &SocketConfig) -> Result<Self> {
        Self::new(config).map_err(|source| Error::Socket {
            address: config.address.clone(),
            source,
        })
    }

    fn new(config: &SocketConfig) -> io::Result<Self> {
        let current = Arc::new(Current::default());
        let listener = match config.server {
            false => {
                current.set(Some(Connection::to(&config.address)?));
                None
            }
            true => Some(Arc::new(Listener::new(config)?)),
        };
        if let (Some(listener), true) = (&listener, config.wait) {
            eprintln!("trapeze: waiting for a connection on {}", config.address);
            current.set(Some(listener.accept()?));
        }
        Ok(Self {
            config: config.clone(),
            listener,
            current,
        })
    }

    /// Set while somebody is connected.
    pub fn connected(&self) -> Arc<AtomicBool> {
        self.current.connected.clone()
    }

    /// Where the guest's bytes go.
    pub fn sink(&self) -> impl Write + Send + use<> {
        Sink {
            current: self.current.clone(),
            telnet: self.config.telnet,
        }
    }

    /// Starts to read; a server takes the next connection when one ends.
    pub fn start(&self, feed: Arc<Feed>) -> Result<StreamReader> {
        let (current, listener) = (self.current.clone(), self.listener.clone());
        let telnet = self.config.telnet;
        StreamReader::start(move |stop| serve(listener.as_deref(), &current, &feed, telnet, stop))
    }
}

fn serve(
    listener: Option<&Listener>,
    current: &Current,
    feed: &Feed,
    telnet: bool,
    stop: &StopPipe,
) {
    loop {
        let connection = current.connection.lock().clone();
        if let Some(connection) = connection {
            let mut client = telnet.then(Telnet::default);
            let take = |bytes: &[u8]| push(feed, client.as_mut(), bytes);
            if !read_all(&*connection, stop, take) {
                return;
            }
            current.set(None);
            feed.tell_all();
        }
        let Some(listener) = listener else {
            return;
        };
        if !stop.wait_readable(listener.as_raw_fd()) {
            return;
        }
        if let Ok(connection) = listener.accept() {
            current.set(Some(connection));
            feed.tell_all();
        }
    }
}

fn push(feed: &Feed, telnet: Option<&mut Telnet>, bytes: &[u8]) -> bool {
    let Some(telnet) = telnet else {
        return feed.push(bytes);
    };
    let text = telnet.text(bytes, || feed.send_break());
    text.is_empty() || feed.push(&text)
}

/// Writes to whoever is connected; without anybody bytes are dropped, as a
/// serial line's are.
struct Sink {
    current: Arc<Current>,
    telnet: bool,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let connection = self.current.connection.lock().clone();
        let Some(connection) = connection else {
            return Ok(bytes.len());
        };
        let written = match self.telnet {
            true => socket::write_telnet(&connection, bytes),
            false => (&*connection).write(bytes),
        };
        match written {
            Err(e) if e.kind() == ErrorKind::Interrupted => Err(e),
            // The reader finds out that it is gone.
            Err(_) => Ok(bytes.len()),
            done => done,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
