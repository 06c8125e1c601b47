//! What a person sees while packages come in.

use std::io::{IsTerminal, Write};

/// Progress on standard error: one line that is redrawn on a terminal, one
/// line a step elsewhere.
pub struct Progress {
    step: String,
    percent: u32,
    redraw: bool,
    silent: bool,
}

impl Progress {
    /// Shows progress on standard error.
    pub fn stderr() -> Self {
        Self {
            step: String::new(),
            percent: 0,
            redraw: std::io::stderr().is_terminal(),
            silent: false,
        }
    }
    /// Shows nothing.
    pub fn silent() -> Self {
        let mut progress = Self::stderr();
        progress.silent = true;
        progress
    }
    /// Begins a step.
    pub fn step(&mut self, text: impl Into<String>) {
        self.finish();
        self.step = text.into();
        self.percent = 0;
        if self.redraw {
            self.draw();
        } else if !self.silent {
            eprintln!("trapeze: {}", self.step);
        }
    }
    /// How far the step has come, 0..=100.
    pub fn percent(&mut self, percent: u32) {
        if percent > self.percent && self.redraw {
            self.percent = percent.min(100);
            self.draw();
        }
    }
    /// Ends the step's line.
    pub fn finish(&mut self) {
        if self.redraw && !self.silent && !self.step.is_empty() {
            eprintln!();
        }
        self.step.clear();
    }
    fn draw(&self) {
        if self.silent {
            return;
        }
        let percent = if self.percent > 0 {
            format!(" {:3}%", self.percent)
        } else {
            String::new()
        };
        // A progress line that cannot be written is no reason to stop.
        let mut err = std::io::stderr();
        let _ = write!(err, "\r\x1b[Ktrapeze: {}{percent}", self.step);
        let _ = err.flush();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}
