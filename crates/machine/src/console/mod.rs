//! Host ends of serial ports: where a guest's bytes go and come from.
//!
//! A [`Console`] lives as long as the machine; the serial port it is attached
//! to is made anew at every reset.

mod escape;
mod input;
mod output;
mod stdio;
mod terminal;

pub use input::InputQueue;
pub use output::Output;

use crate::config::SerialConfig;
use crate::control::Control;
use crate::outcome::{Error, Result};
use devices::uart::SerialPort;
use std::fs::File;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

/// One host end.
pub struct Console {
    /// Bytes from the guest.
    pub output: Arc<Output>,
    /// Bytes for the guest.
    pub input: Arc<InputQueue>,
    config: SerialConfig,
    reader: Option<Reader>,
}

/// What feeds the input queue while the machine runs.
enum Reader {
    Stdio(stdio::StdinReader),
    Memory(JoinHandle<()>),
}

impl Console {
    /// Opens what the configuration names; the terminal is left alone until
    /// [`Self::start`].
    pub fn open(config: &SerialConfig, control: &Control) -> Result<Self> {
        let ending = control.ending_flag();
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
            SerialConfig::Memory(memory) => Output::to_memory(memory.clone()),
        };
        Ok(Self {
            output: Arc::new(output),
            input: Arc::new(InputQueue::default()),
            config: config.clone(),
            reader: None,
        })
    }

    /// Starts to read; `control` gets what the user asks for.
    pub fn start(&mut self, control: &Arc<Control>) -> Result<()> {
        self.reader = match &self.config {
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

    /// Connects the guest's serial port.
    pub fn attach(&self, port: &Arc<SerialPort>) {
        self.input.attach(Arc::downgrade(port));
    }

    /// Disconnects it.
    pub fn detach(&self) {
        self.input.attach(Weak::new());
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
