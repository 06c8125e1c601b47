//! From words to [`Options`], row by row of the table.

use super::table::{OPTIONS, Row, Shape};
use super::{
    Personality, accel, blockdev, chardev, device, drive, help, log_items, memory, monitor, netdev,
    numa,
};
use crate::near::did_you_mean;
use machine::{MachineConfig, PanicAction, SerialConfig};
use std::path::PathBuf;

/// What the command line asked for.
pub(crate) struct Options {
    /// Under which name.
    pub(crate) personality: Personality,
    /// The machine.
    pub(crate) config: MachineConfig,
    /// Accelerators to try in order; the personality's if empty.
    pub(crate) accelerators: Vec<&'static accel::Row>,
    /// How the software engine runs, if it does.
    pub(crate) engine: engine::Options,
    /// Text to print instead of running.
    pub(crate) print: Option<String>,
    /// What to log.
    pub(crate) log: log_items::Request,
    /// The guest's name, for messages.
    pub(crate) name: Option<String>,
    /// `-serial` in order; `None` for a port that does not exist.
    pub(crate) serial: Vec<Option<SerialConfig>>,
    /// `-nographic` was given.
    pub(crate) nographic: bool,
    /// `-display none` was given.
    pub(crate) no_display: bool,
    /// `-nodefaults` was given.
    pub(crate) no_defaults: bool,
    /// COM1's terminal has no monitor: `-monitor` was given.
    pub(super) no_monitor: bool,
    /// `-chardev` in order.
    pub(crate) chardevs: Vec<chardev::Chardev>,
    /// What `-net` named.
    pub(super) hubs: netdev::Hub,
    /// `-fsdev` in order.
    pub(crate) folders: Vec<device::fs::Folder>,
    /// `-drive` in order.
    pub(crate) drives: Vec<drive::Drive>,
    /// `-blockdev` in order.
    pub(crate) nodes: Vec<blockdev::Node>,
    /// `-snapshot` was given.
    pub(crate) snapshot: bool,
    /// What RAM is made of.
    pub(crate) memory: memory::Memory,
    /// `-pidfile`.
    pub(crate) pid_file: Option<PathBuf>,
    /// `-numa` in order.
    pub(crate) numa: numa::Asked,
    /// `-D`.
    pub(crate) log_file: Option<PathBuf>,
    /// `-S`.
    pub(crate) stopped: bool,
    /// `-daemonize`.
    pub(crate) daemonize: bool,
}

impl Options {
    /// Nothing asked for yet: QEMU's defaults.
    pub(crate) fn new(personality: Personality) -> Self {
        let config = MachineConfig {
            panic_action: PanicAction::Shutdown,
            ..MachineConfig::default()
        };
        Self {
            personality,
            config,
            accelerators: Vec::new(),
            engine: engine::Options::default(),
            print: None,
            log: log_items::Request::default(),
            name: None,
            serial: Vec::new(),
            nographic: false,
            no_display: false,
            no_defaults: false,
            no_monitor: false,
            chardevs: Vec::new(),
            hubs: netdev::Hub::default(),
            folders: Vec::new(),
            drives: Vec::new(),
            nodes: Vec::new(),
            snapshot: false,
            memory: memory::Memory::default(),
            numa: numa::Asked::default(),
            pid_file: None,
            log_file: None,
            stopped: false,
            daemonize: false,
        }
    }

    /// Applies the words of a command line. The error is one line that names
    /// the option.
    pub(crate) fn parse(&mut self, arguments: &[String]) -> Result<(), String> {
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            if !word.starts_with('-') {
                // An image.
                drive::plain(self, word)?;
                continue;
            }
            let row = find(word)?;
            let value = match row.shape {
                Shape::Flag => "",
                Shape::Value(what) => words
                    .next()
                    .ok_or_else(|| format!("-{}: {what} is missing", row.name))?,
            };
            match ((row.apply)(self, value), value) {
                (Ok(()), _) => {}
                // Options that list nothing say what they take.
                (Err(_), "help" | "?") => {
                    self.print.get_or_insert_with(|| help::of(row));
                }
                (Err(why), "") => return Err(format!("-{}: {why}", row.name)),
                (Err(why), value) => return Err(format!("-{} {value}: {why}", row.name)),
            }
        }
        netdev::resolve(self)?;
        netdev::find_back_ends(self)?;
        let nodes = numa::resolve(self)?;
        memory::resolve(self, nodes)?;
        drive::resolve(self)?;
        blockdev::resolve(self)?;
        device::check(self)?;
        device::fs::resolve(self)?;
        device::net::resolve(&mut self.config)?;
        self.resolve_serial()?;
        monitor::resolve(self);
        chardev::resolve(self)?;
        self.check_daemon()
    }

    /// A daemon has no terminal, so nothing may ask for it.
    fn check_daemon(&mut self) -> Result<(), String> {
        if !self.daemonize {
            return Ok(());
        }
        if self.nographic {
            return Err("-daemonize: -nographic needs the terminal; write -display none".into());
        }
        if chardev::has_terminal(self) {
            return Err(
                "-daemonize: a serial port or device has the terminal (stdio); there are file, \
                 pipe, socket, null"
                    .into(),
            );
        }
        match self.log.asks() && self.log_file.is_none() {
            true => {
                Err("-daemonize: what -d and -trace ask for needs a file; write -D FILE".into())
            }
            false => Ok(()),
        }
    }

    /// `-nographic` puts COM1 on the terminal; so does asking for no display
    /// option at all, since there is no window COM1 could be shown in.
    fn resolve_serial(&mut self) -> Result<(), String> {
        if self.serial.is_empty() && !self.no_defaults {
            let taken = chardev::terminal_is_taken(self);
            let hidden = self.no_display || self.daemonize;
            let console = self.nographic || !(hidden || taken);
            self.config.serial = vec![match console {
                true => monitor::terminal(self),
                false => SerialConfig::None,
            }];
            return Ok(());
        }
        while self.serial.last().is_some_and(|s| s.is_none()) {
            self.serial.pop();
        }
        let ports = std::mem::take(&mut self.serial);
        self.config.serial = ports
            .into_iter()
            .collect::<Option<_>>()
            .ok_or("-serial none: only the last ports can be left out; use null")?;
        Ok(())
    }
}

/// The row for a word such as `-kernel` or `--kernel`.
fn find(word: &str) -> Result<&'static Row, String> {
    let name = word.trim_start_matches('-');
    let matches = |row: &&Row| row.name == name || row.aliases.contains(&name);
    OPTIONS.iter().find(matches).ok_or_else(|| {
        let names = OPTIONS
            .iter()
            .flat_map(|r| std::iter::once(r.name).chain(r.aliases.iter().copied()));
        format!(
            "{word}: unknown or unsupported option{}; -help lists what there is",
            did_you_mean(name, names)
        )
    })
}
