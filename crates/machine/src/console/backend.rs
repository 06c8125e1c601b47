//! What is behind a console: a file, a terminal, a socket.

use super::feed::Feed;
use super::output::Output;
use super::{Console, pty, stdio, stream};
use crate::config::{LogFile, MuxConfig, SerialConfig};
use crate::control::Control;
use crate::memory_serial::MemorySerial;
use crate::outcome::{Error, Result};
use parking_lot::Mutex;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;

/// A host end.
pub struct Backend {
    /// Bytes from the guest.
    pub output: Arc<Output>,
    /// Who gets what is read.
    pub feed: Arc<Feed>,
    /// Somebody is at the other end.
    pub connected: Arc<AtomicBool>,
    source: Source,
    shared: bool,
    reader: Mutex<Option<Reader>>,
}

/// What is there to be read.
enum Source {
    Nothing,
    Stdio,
    Pipe(File),
    Pty(File),
    Socket(stream::Socket),
    Memory(MemorySerial),
}

/// What feeds the input queues while the machine runs.
enum Reader {
    Stdio(stdio::StdinReader),
    Memory(JoinHandle<()>),
    Stream(stream::StreamReader),
}

/// The host ends that are shared, by their ids.
#[derive(Default)]
pub struct Backends(Vec<(String, Arc<Backend>)>);

impl Backends {
    /// A console on what the configuration names; the terminal is left alone
    /// until [`Console::start`].
    pub fn console(&mut self, config: &SerialConfig, control: &Arc<Control>) -> Result<Console> {
        let SerialConfig::Mux(MuxConfig { id, backend }) = config else {
            let backend = Backend::open(config, control, Keys::Terminal)?;
            return Ok(Console::new(Arc::new(backend)));
        };
        let found = self.0.iter().find(|(name, _)| name == id);
        let shared = match found {
            Some((_, shared)) => shared.clone(),
            None => {
                let shared = Arc::new(Backend::open(backend, control, Keys::Shared)?);
                self.0.push((id.clone(), shared.clone()));
                shared
            }
        };
        Ok(Console::new(shared))
    }

    /// The same for a program, to which Ctrl-A is a byte like others unless several
    /// share the host end.
    pub fn raw_console(
        &mut self,
        config: &SerialConfig,
        control: &Arc<Control>,
    ) -> Result<Console> {
        match config {
            SerialConfig::Mux(_) => self.console(config, control),
            config => {
                let backend = Backend::open(config, control, Keys::None)?;
                Ok(Console::new(Arc::new(backend)))
            }
        }
    }
}

/// Where Ctrl-A is a key of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keys {
    /// Nowhere.
    None,
    /// On the terminal.
    Terminal,
    /// Several share the host end: everywhere.
    Shared,
}

/// A file that could not be opened.
fn file_error(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::SerialFile { path, source }
}

impl Backend {
    fn open(config: &SerialConfig, control: &Arc<Control>, keys: Keys) -> Result<Self> {
        // The file is opened first: a socket may wait for somebody.
        let (config, copy) = match config {
            SerialConfig::Logged(config, log) => (&**config, Some(open_log(log, control)?)),
            config => (config, None),
        };
        let ending = control.ending_flag();
        let mut connected = Arc::new(AtomicBool::new(true));
        let (source, mut output) = match config {
            SerialConfig::None => (Source::Nothing, Output::discard()),
            SerialConfig::Named(id) => return Err(Error::NoChardev { id: id.clone() }),
            SerialConfig::Mux(MuxConfig { id, .. }) => {
                return Err(Error::NoChardev { id: id.clone() });
            }
            SerialConfig::Logged(..) => (Source::Nothing, Output::discard()),
            SerialConfig::Stdio => {
                let output = Output::to_file(stdio::stdout_file()?, ending);
                (Source::Stdio, output)
            }
            SerialConfig::File(path) => {
                let file = File::create(path).map_err(file_error(path))?;
                (Source::Nothing, Output::to_file(file, ending))
            }
            SerialConfig::Pipe(path) => {
                let (input, output) = stream::open_pipe(path)?;
                (Source::Pipe(input), Output::to_file(output, ending))
            }
            SerialConfig::Pty(pty) => {
                let file = pty.open().map_err(reading("opening a pseudo-terminal"))?;
                let sink = file.try_clone().map_err(file_error(Path::new("pty")))?;
                let output = Output::to_file(pty::Sink(sink), ending);
                (Source::Pty(file), output)
            }
            SerialConfig::Ring(ring) => (Source::Nothing, Output::to_ring(ring.clone())),
            SerialConfig::Socket(config) => {
                let socket = stream::Socket::open(config)?;
                connected = socket.connected();
                let output = Output::to_file(socket.sink(), ending);
                (Source::Socket(socket), output)
            }
            SerialConfig::Memory(memory) => {
                let output = Output::to_memory(memory.clone());
                (Source::Memory(memory.clone()), output)
            }
        };
        if let Some(copy) = copy {
            output.copy_to(copy);
        }
        let output = Arc::new(output);
        let shared = keys == Keys::Shared;
        let escapes = shared || keys == Keys::Terminal && matches!(source, Source::Stdio);
        Ok(Self {
            feed: Arc::new(Feed::new(control, output.clone(), escapes)),
            output,
            connected,
            source,
            shared,
            reader: Mutex::default(),
        })
    }

    /// Several consoles are on it.
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// Starts to read, if nobody did yet.
    pub fn start(&self) -> Result<()> {
        let reader = &mut *self.reader.lock();
        if reader.is_none() {
            *reader = self.reader()?;
        }
        Ok(())
    }

    fn reader(&self) -> Result<Option<Reader>> {
        let feed = self.feed.clone();
        Ok(Some(match &self.source {
            Source::Nothing => return Ok(None),
            Source::Stdio => Reader::Stdio(stdio::StdinReader::start(feed)?),
            Source::Pipe(pipe) => {
                let pipe = pipe.try_clone().map_err(reading("reading a pipe"))?;
                Reader::Stream(stream::StreamReader::of_pipe(pipe, feed)?)
            }
            Source::Pty(pty) => {
                let pty = pty.try_clone().map_err(reading("reading a pty"))?;
                Reader::Stream(stream::StreamReader::of_pty(pty, feed)?)
            }
            Source::Socket(socket) => Reader::Stream(socket.start(feed)?),
            Source::Memory(memory) => Reader::Memory(read_memory(memory, feed)?),
        }))
    }

    /// Stops reading, restores the terminal and writes out what the guest
    /// sent.
    pub fn stop(&self) {
        self.feed.close();
        if let Source::Memory(memory) = &self.source {
            memory.set_closed(true);
        }
        match self.reader.lock().take() {
            Some(Reader::Memory(thread)) => drop(thread.join()),
            Some(Reader::Stdio(reader)) => reader.stop(),
            Some(Reader::Stream(reader)) => drop(reader),
            None => {}
        }
        self.output.flush();
    }
}

fn reading(what: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::Host { what, source }
}

fn open_log(log: &LogFile, control: &Control) -> Result<Output> {
    let mut options = File::options();
    options.create(true).write(true);
    options.append(log.append).truncate(!log.append);
    let file = options.open(&log.path).map_err(file_error(&log.path))?;
    Ok(Output::to_file(file, control.ending_flag()))
}

fn read_memory(memory: &MemorySerial, feed: Arc<Feed>) -> Result<JoinHandle<()>> {
    memory.set_closed(false);
    let memory = memory.clone();
    let work = move || {
        loop {
            let bytes = memory.take_input(256);
            if bytes.is_empty() || !feed.push(&bytes) {
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("serial-input".into());
    thread.spawn(work).map_err(reading("starting a thread"))
}
