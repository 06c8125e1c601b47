//! What is to be done, and when.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Instant;

/// Something that has sockets or timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Token {
    /// A connection.
    Tcp(u64),
    /// A flow of datagrams.
    Flow(u64),
    /// A forward from the host, by its place in the list.
    Forward(u64),
    /// What others ask.
    Control,
}

impl Token {
    /// As the host's kernel keeps it.
    pub(super) fn to_bits(self) -> u64 {
        match self {
            Self::Tcp(id) => id << 2,
            Self::Flow(id) => id << 2 | 1,
            Self::Forward(id) => id << 2 | 2,
            Self::Control => 3,
        }
    }

    pub(super) fn from_bits(bits: u64) -> Self {
        match bits & 3 {
            0 => Self::Tcp(bits >> 2),
            1 => Self::Flow(bits >> 2),
            2 => Self::Forward(bits >> 2),
            _ => Self::Control,
        }
    }
}

/// Work in the order in which it came up, and at most one timer each.
#[derive(Default)]
pub(super) struct Schedule {
    work: VecDeque<Token>,
    queued: HashSet<Token>,
    timers: BTreeSet<(Instant, Token)>,
    at: HashMap<Token, Instant>,
}

impl Schedule {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.work.len() + self.timers.len()
    }

    /// `token` has something to do, once.
    pub(super) fn add(&mut self, token: Token) {
        if self.queued.insert(token) {
            self.work.push_back(token);
        }
    }

    pub(super) fn next(&mut self) -> Option<Token> {
        let token = self.work.pop_front()?;
        self.queued.remove(&token);
        Some(token)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.work.is_empty()
    }

    /// `token` has something to do at `when`, or at no time.
    pub(super) fn set_timer(&mut self, token: Token, when: Option<Instant>) {
        let before = match when {
            Some(when) => self.at.insert(token, when),
            None => self.at.remove(&token),
        };
        if before == when {
            return;
        }
        if let Some(before) = before {
            self.timers.remove(&(before, token));
        }
        if let Some(when) = when {
            self.timers.insert((when, token));
        }
    }

    pub(super) fn first_timer(&self) -> Option<Instant> {
        self.timers.first().map(|t| t.0)
    }

    /// Timers that are due become work.
    pub(super) fn fire(&mut self, now: Instant) {
        while let Some(&(when, token)) = self.timers.first()
            && when <= now
        {
            self.set_timer(token, None);
            self.add(token);
        }
    }
}
