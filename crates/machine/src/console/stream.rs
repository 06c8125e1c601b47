//! Pipes and Unix sockets as consoles.

use super::InputQueue;
use crate::config::SocketConfig;
use crate::outcome::{Error, Result};
use crate::stop_pipe::StopPipe;
use parking_lot::Mutex;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

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
    pub fn of_pipe(pipe: File, input: Arc<InputQueue>) -> Result<Self> {
        Self::start(move |stop| {
            feed(&pipe, &input, stop);
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

/// Queues what comes until the end; false when the reader shall stop.
fn feed<'a, F: AsRawFd>(from: &'a F, input: &InputQueue, stop: &StopPipe) -> bool
where
    &'a F: Read,
{
    let mut from_bytes = from;
    let mut buffer = [0; 4096];
    while stop.wait_readable(from.as_raw_fd()) {
        match from_bytes.read(&mut buffer) {
            Ok(0) => return true,
            Ok(n) if input.push(&buffer[..n]) => {}
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

/// A Unix socket: one connection at a time.
pub struct Socket {
    path: PathBuf,
    /// Of a server.
    listener: Option<UnixListener>,
    current: Arc<Current>,
}

/// The connection there is.
#[derive(Default)]
struct Current {
    stream: Mutex<Option<Arc<UnixStream>>>,
    connected: Arc<AtomicBool>,
}

impl Current {
    fn set(&self, stream: Option<Arc<UnixStream>>) {
        let connected = stream.is_some();
        *self.stream.lock() = stream;
        self.connected.store(connected, Ordering::Release);
    }
}

impl Socket {
    /// Listens or connects, and waits for a connection if that is asked for.
    pub fn open(config: &SocketConfig) -> Result<Self> {
        Self::new(config).map_err(|source| Error::SerialFile {
            path: config.path.clone(),
            source,
        })
    }

    fn new(config: &SocketConfig) -> io::Result<Self> {
        let path = config.path.clone();
        let current = Arc::new(Current::default());
        let connect = |stream: UnixStream| current.set(Some(Arc::new(stream)));
        let listener = match config.server {
            false => {
                connect(UnixStream::connect(&path)?);
                None
            }
            true => {
                // What an earlier machine left.
                let left = std::fs::symlink_metadata(&path);
                if left.is_ok_and(|m| m.file_type().is_socket()) {
                    std::fs::remove_file(&path)?;
                }
                Some(UnixListener::bind(&path)?)
            }
        };
        if let (Some(listener), true) = (&listener, config.wait) {
            eprintln!(
                "trapeze: waiting for a connection on unix:{}",
                path.display()
            );
            connect(listener.accept()?.0);
        }
        Ok(Self {
            // The current folder may be another one when the name is removed.
            path: std::path::absolute(path)?,
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
        Sink(self.current.clone())
    }

    /// Starts to read; a server takes the next connection when one ends.
    pub fn start(&self, input: Arc<InputQueue>) -> Result<StreamReader> {
        let current = self.current.clone();
        let listener = self.listener.as_ref().map(UnixListener::try_clone);
        let listener = listener.transpose().map_err(|source| Error::SerialFile {
            path: self.path.clone(),
            source,
        })?;
        StreamReader::start(move |stop| serve(listener.as_ref(), &current, &input, stop))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.listener.is_some() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn serve(listener: Option<&UnixListener>, current: &Current, input: &InputQueue, stop: &StopPipe) {
    loop {
        let stream = current.stream.lock().clone();
        if let Some(stream) = stream {
            if !feed(&*stream, input, stop) {
                return;
            }
            current.set(None);
            input.offer();
        }
        let Some(listener) = listener else {
            return;
        };
        if !stop.wait_readable(listener.as_raw_fd()) {
            return;
        }
        if let Ok((stream, _)) = listener.accept() {
            current.set(Some(Arc::new(stream)));
            input.offer();
        }
    }
}

/// Writes to whoever is connected; without anybody bytes are dropped, as a
/// serial line's are.
struct Sink(Arc<Current>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let stream = self.0.stream.lock().clone();
        let Some(stream) = stream else {
            return Ok(bytes.len());
        };
        match (&*stream).write(bytes) {
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
