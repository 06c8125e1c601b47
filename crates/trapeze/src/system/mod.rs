//! `trapeze system`: a machine from QEMU's options.

pub(crate) mod accel;
mod blockdev;
mod board;
mod chardev;
mod daemon;
mod debugger;
mod device;
mod drive;
mod firmware;
mod held_back;
mod help;
mod keyval;
mod limits;
mod log_items;
mod logger;
mod maker;
mod memory;
mod monitor;
mod netdev;
mod numa;
mod object;
mod parse;
mod pidfile;
mod rtc;
mod run;
mod runtime;
mod size;
mod table;
mod values;

pub(crate) use parse::Options;
pub(crate) use run::run;
pub(crate) use size::{parse as parse_size, show as show_size};

/// Under which name the options came.
#[derive(Clone, Copy)]
pub(crate) enum Personality {
    /// `trapeze system`.
    Trapeze,
    /// One of QEMU's names, with the accelerators it tries by default.
    Qemu {
        /// The name.
        name: &'static str,
        /// Accelerators tried in order.
        accelerators: &'static [&'static str],
    },
}

impl Personality {
    /// What messages begin with.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Trapeze => "trapeze",
            Self::Qemu { name, .. } => name,
        }
    }
}

/// The version line.
pub(crate) fn version() -> String {
    format!("Trapeze emulator version {}", env!("CARGO_PKG_VERSION"))
}

/// Name, value and meaning of every option.
pub(crate) fn options() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    table::OPTIONS.iter().flat_map(|row| {
        let value = match row.shape {
            table::Shape::Flag => "",
            table::Shape::Value(value) => value,
        };
        let names = std::iter::once(&row.name).chain(row.aliases);
        names.map(move |name| (*name, value, row.help))
    })
}

/// Name and meaning of what `-d` logs.
pub(crate) fn items_to_log() -> impl Iterator<Item = (&'static str, &'static str)> {
    log_items::ITEMS.iter().map(|item| (item.name, item.help))
}

/// Parses and runs; the exit code.
pub(crate) fn main(personality: Personality, arguments: &[String]) -> u8 {
    engine::begin_to_measure();
    let mut options = Options::new(personality);
    match options.parse(arguments) {
        Ok(()) => run(options),
        Err(why) => {
            eprintln!("{}: {why}", personality.name());
            1
        }
    }
}
