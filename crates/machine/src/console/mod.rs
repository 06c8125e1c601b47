//! Host ends of serial ports: where a guest's bytes go and come from.
//!
//! A [`Console`] lives as long as the machine; the serial port it is attached
//! to is made anew at every reset.

mod end;
mod escape;
mod input;
mod output;
mod stdio;
mod stream;
mod terminal;

pub use end::End;
pub use input::InputQueue;
pub use output::Output;

use crate::config::SerialConfig;
use crate::control::Control;
use crate::outcome::{Error, Result};
use devices::uart::SerialPort;
use std::fs::File;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

/// One host end.
pub struct Console {
    /// Bytes from the guest.
    pub output: Arc<Output>,
    /// Bytes for the guest.
    pub input: Arc<InputQueue>,
    config: SerialConfig,
    /// Somebody is at the other end.
    connected: Arc<AtomicBool>,
    source: Source,
    reader: Option<Reader>,
}

/// What is open to be read.
#[derive(Default)]
enum Source {
    /// Nothing, or what can be opened again.
    #[default]
    Other,
    Pipe(File),
    Socket(stream::Socket),
}

/// What feeds the input queue while the machine runs.
enum Reader {
    Stdio(stdio::StdinReader),
    Memory(JoinHandle<()>),
    Stream(stream::StreamReader),
}

impl Console {
    /// Opens what the configuration names; the terminal is left alone until
    /// [`Self::start`].
    pub fn open(config: &SerialConfig, control: &Control) -> Result<Self> {
        let ending = control.ending_flag();
        let mut connected = Arc::new(AtomicBool::new(true));
        let mut source = Source::default();
        let output = match config {
            SerialConfig::None => Output::discard(),
            SerialConfig::Named(id) => return Err(Error::NoChardev { id: id.clone() }),
            SerialConfig::Stdio => Output::to_file(stdio::stdout_file()?, ending),
            SerialConfig::File(path) => {
                let file = File::create(path).map_err(|source| Error::SerialFile {
                    path: path.clone(),
                    source,
                })?;
                Output::to_file(file, ending)
            }
            SerialConfig::Pipe(path) => {
                let (input, output) = stream::open_pipe(path)?;
                source = Source::Pipe(input);
                Output::to_file(output, ending)
            }
            SerialConfig::Socket(config) => {
                let socket = stream::Socket::open(config)?;
                connected = socket.connected();
                let sink = socket.sink();
                source = Source::Socket(socket);
                Output::to_file(sink, ending)
            }
            SerialConfig::Memory(memory) => Output::to_memory(memory.clone()),
        };
        Ok(Self {
            output: Arc::new(output),
            input: Arc::new(InputQueue::default()),
            config: config.clone(),
            connected,
            source,
            reader: None,
        })
    }

    /// Starts to read; `control` gets what the user asks for.
    pub fn start(&mut self, control: &Arc<Control>) -> Result<()> {
        self.reader = match &self.config {
            SerialConfig::Pipe(_) | SerialConfig::Socket(_) => self.start_stream()?,
            SerialConfig::None | SerialConfig::Named(_) | SerialConfig::File(_) => None,
            SerialConfig::Stdio => {
                let (input, output) = (self.input.clone(), self.output.clone());
                let reader = stdio::StdinReader::start(input, output, control.clone())?;
                Some(Reader::Stdio(reader))
            }
            SerialConfig::Memory(memory) => {
                memory.set_closed(false);
                let (memory, input) = (memory.clone(), self.input.clone());
                let work = move || {
                    loop {
                        let bytes = memory.take_input(256);
                        if bytes.is_empty() || !input.push(&bytes) {
                            return;
                        }
                    }
                };
                let thread = std::thread::Builder::new().name("serial-input".into());
                let thread = thread.spawn(work).map_err(|source| Error::Host {
                    what: "starting a thread",
                    source,
                })?;
                Some(Reader::Memory(thread))
            }
        };
        Ok(())
    }

    fn start_stream(&mut self) -> Result<Option<Reader>> {
        let input = self.input.clone();
        let reader = match &self.source {
            Source::Other => return Ok(None),
            Source::Pipe(pipe) => {
                let pipe = pipe.try_clone().map_err(|source| Error::Host {
                    what: "reading a pipe",
                    source,
                })?;
                stream::StreamReader::of_pipe(pipe, input)?
            }
            Source::Socket(socket) => socket.start(input)?,
        };
        Ok(Some(Reader::Stream(reader)))
    }

    /// As the host's end of a virtio port.
    pub fn end(&self) -> Arc<End> {
        let (output, input) = (self.output.clone(), self.input.clone());
        Arc::new(End::new(output, input, self.connected.clone()))
    }

    /// Connects the guest's serial port.
    pub fn attach(&self, port: &Arc<SerialPort>) {
        let port: Weak<SerialPort> = Arc::downgrade(port);
        self.input.attach(port);
    }

    /// Disconnects it.
    pub fn detach(&self) {
        self.input.attach(Weak::<SerialPort>::new());
    }

    /// Stops reading, restores the terminal and writes out what the guest
    /// sent.
    pub fn stop(&mut self) {
        self.input.close();
        if let SerialConfig::Memory(memory) = &self.config {
            memory.set_closed(true);
        }
        match self.reader.take() {
            Some(Reader::Memory(thread)) => drop(thread.join()),
            Some(Reader::Stdio(reader)) => reader.stop(),
            Some(Reader::Stream(reader)) => drop(reader),
            None => {}
        }
        self.output.flush();
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.stop();
    }
}
