//! Where log records go: warnings and errors to standard error, what `-d` and
//! `-trace` asked for to standard error or the file of `-D`.

use super::held_back::HeldBack;
use super::log_items::{self, Request};
use std::fs::File;
use std::io::{LineWriter, Write};
use std::path::Path;
use std::sync::{Mutex, RwLock};
use std::time::Instant;

/// Libraries that log what a guest does wrong as errors, with the guest's bytes:
/// only for those who ask.
const GUESTS: [&str; 1] = ["fuse_backend_rs"];

/// Patterns of what is asked for; the monitor changes them.
static TARGETS: RwLock<Vec<String>> = RwLock::new(Vec::new());

struct Logger {
    program: &'static str,
    /// The file of `-D`; a leaf lock.
    file: Option<Mutex<LineWriter<File>>>,
    /// Of what nobody asked for.
    held_back: HeldBack,
}

impl Logger {
    fn asked_for(&self, target: &str) -> bool {
        let targets = TARGETS
            .read()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        targets.iter().any(|p| log_items::matches(p, target))
    }

    /// A warning or an error for everybody. Who did not ask for it is shown
    /// only so many.
    fn warn(&self, record: &log::Record<'_>, asked: bool) {
        let place = (
            record.module_path_static().unwrap_or_default(),
            record.line().unwrap_or_default(),
        );
        let held = match asked {
            true => Some(0),
            false => self.held_back.admit(place, Instant::now()),
        };
        let Some(held) = held else {
            return;
        };
        let program = self.program;
        if held > 0 {
            eprintln!("{program}: warning: {held} more like the following were held back");
        }
        let level = match record.level() {
            log::Level::Error => "error",
            _ => "warning",
        };
        eprintln!("{program}: {level}: {}", record.args());
    }
}

/// Everybody sees it.
fn important(metadata: &log::Metadata<'_>) -> bool {
    let of_guest = GUESTS.iter().any(|g| metadata.target().starts_with(g));
    metadata.level() <= log::Level::Warn && !of_guest
}

impl log::Log for Logger {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        important(metadata) || self.asked_for(metadata.target())
    }
    fn log(&self, record: &log::Record<'_>) {
        let asked = self.asked_for(record.target());
        if asked && let Some(file) = &self.file {
            let mut file = file.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            // A full disk must not stop the machine.
            let _ = writeln!(file, "{}: {}", record.target(), record.args());
        } else if important(record.metadata()) {
            self.warn(record, asked);
        } else if asked {
            eprintln!("{}: {}", record.target(), record.args());
        }
    }
    /// At the end of the program: says what was held back.
    fn flush(&self) {
        for ((module, line), held) in self.held_back.take() {
            let program = self.program;
            eprintln!("{program}: warning: {held} more of {module}, line {line}, were held back");
        }
    }
}

/// Installs the logger; what else may write to the file, if there is one. The
/// error names it.
pub(crate) fn install(
    program: &'static str,
    request: &Request,
    path: Option<&Path>,
) -> Result<Option<File>, String> {
    let file = path.map(open).transpose()?;
    let (file, other) = file.unzip();
    let logger = Logger {
        program,
        file: file.map(|file| Mutex::new(LineWriter::new(file))),
        held_back: HeldBack::default(),
    };
    // A logger lives as long as the process.
    if log::set_logger(Box::leak(Box::new(logger))).is_ok() {
        ask_for(&request.targets);
    }
    Ok(other)
}

/// Logs these from now on, and nothing else that nobody needs.
pub(crate) fn ask_for(targets: &[String]) {
    log::set_max_level(match targets.is_empty() {
        true => log::LevelFilter::Warn,
        false => log::LevelFilter::Trace,
    });
    let mut now = TARGETS
        .write()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    *now = targets.to_vec();
}

/// The file twice, with one position for both.
fn open(path: &Path) -> Result<(File, File), String> {
    let file = File::create(path).and_then(|file| Ok((file.try_clone()?, file)));
    file.map_err(|e| format!("-D {}: {e}", path.display()))
}
