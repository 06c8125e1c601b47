//! Progress as `-p` shows it.

use std::io::Write;

/// Shows how far something is.
pub(super) struct Progress {
    shown: bool,
    total: u64,
    last: Option<f64>,
}

impl Progress {
    /// Of `total` bytes; shows nothing unless `shown`.
    pub(super) fn new(shown: bool, total: u64) -> Self {
        let mut progress = Self {
            shown,
            total,
            last: None,
        };
        progress.at(0);
        progress
    }

    /// So many bytes are done. Said when that is a percent more than before.
    pub(super) fn at(&mut self, done: u64) {
        let percent = match self.total {
            0 => 0.0,
            total => done as f64 * 100.0 / total as f64,
        };
        if self.last.is_none_or(|last| percent >= last + 1.0) {
            self.say(percent);
        }
    }

    fn say(&mut self, percent: f64) {
        self.last = Some(percent);
        if self.shown {
            print!("    ({percent:.2}/100%)\r");
            // Nobody can be told that nobody can be told.
            let _ = std::io::stdout().flush();
        }
    }

    /// Everything is done.
    pub(super) fn end(mut self) {
        self.say(100.0);
        if self.shown {
            println!();
        }
    }
}
