//! Where the bytes go that a host end reads: to one of those that share it.

use super::InputQueue;
use super::escape::{Action, Escape, HELP};
use super::output::Output;
use crate::control::Control;
use crate::outcome::Outcome;
use parking_lot::Mutex;
use std::sync::Arc;

/// The receivers' side of a host end.
pub struct Feed {
    control: Arc<Control>,
    output: Arc<Output>,
    /// Ctrl-A is a key of its own.
    escapes: bool,
    escape: Mutex<Escape>,
    ends: Mutex<Ends>,
}

#[derive(Default)]
struct Ends {
    queues: Vec<Arc<InputQueue>>,
    /// Index of the one that gets what comes.
    focus: usize,
}

impl Feed {
    /// For nobody yet.
    pub fn new(control: &Arc<Control>, output: Arc<Output>, escapes: bool) -> Self {
        Self {
            control: control.clone(),
            output,
            escapes,
            escape: Mutex::default(),
            ends: Mutex::default(),
        }
    }

    /// One more receiver; the first one begins.
    pub fn add(&self, queue: Arc<InputQueue>) {
        self.ends.lock().queues.push(queue);
    }

    fn focused(&self) -> Option<Arc<InputQueue>> {
        let ends = self.ends.lock();
        ends.queues.get(ends.focus).cloned()
    }

    /// The next receiver's turn.
    fn turn(&self) {
        let mut ends = self.ends.lock();
        if ends.queues.len() < 2 {
            return;
        }
        ends.focus = (ends.focus + 1) % ends.queues.len();
        let queue = ends.queues[ends.focus].clone();
        drop(ends);
        queue.focus();
    }

    /// Passes bytes on, waiting for room; false when the reader should end.
    pub fn push(&self, bytes: &[u8]) -> bool {
        if !self.escapes {
            return self.focused().is_some_and(|queue| queue.push(bytes));
        }
        let mut text = Vec::new();
        for &byte in bytes {
            let action = self.escape.lock().take(byte);
            match action {
                Some(Action::Byte(byte)) => text.push(byte),
                Some(action) if !self.flush(&mut text) || !self.act(action) => return false,
                Some(_) | None => {}
            }
        }
        self.flush(&mut text)
    }

    fn flush(&self, text: &mut Vec<u8>) -> bool {
        let text = std::mem::take(text);
        text.is_empty() || self.focused().is_some_and(|queue| queue.push(&text))
    }

    fn act(&self, action: Action) -> bool {
        match action {
            Action::Byte(_) => {}
            Action::Help => self.output.print(HELP),
            Action::Break => self.send_break(),
            Action::Next => self.turn(),
            Action::Quit => {
                self.control.end(Outcome::Quit);
                return false;
            }
        }
        true
    }

    /// The user sends a break.
    pub fn send_break(&self) {
        if let Some(queue) = self.focused() {
            queue.send_break();
        }
    }

    /// Wakes and refuses whoever pushes.
    pub fn close(&self) {
        let queues = self.ends.lock().queues.clone();
        queues.iter().for_each(|queue| queue.close());
    }

    /// Somebody connected or left.
    pub fn tell_all(&self) {
        let queues = self.ends.lock().queues.clone();
        queues.iter().for_each(|queue| queue.offer());
    }
}
