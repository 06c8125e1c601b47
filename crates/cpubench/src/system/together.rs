//! Copies of a row that run at the same time, each in a process of its own.

use super::os::{Pipe, Process};
use crate::row::{Outcome, Row, attempt};
use std::io::{self, Read, Write};

/// Measures `copies` of `row` from the first one's start to the last one's end. What
/// they compute must be the same.
pub(crate) fn together(row: &Row, copies: usize, count: u64) -> io::Result<Outcome> {
    let mut pipe = Pipe::new()?;
    attempt(|| {
        let tell = || (row.run)(count).and_then(|o| (&pipe.writer).write_all(&sum(&o)));
        let start = |_| Process::fork(|| u8::from(tell().is_err()));
        let started: Vec<Process> = (0..copies).map(start).collect::<io::Result<_>>()?;
        for process in started {
            if process.wait()? != 0 {
                return Err(io::Error::other("one of the copies failed"));
            }
        }
        let mut sums = vec![[0; 8]; copies];
        sums.iter_mut()
            .try_for_each(|s| pipe.reader.read_exact(s))?;
        match sums.windows(2).all(|pair| pair[0] == pair[1]) {
            true => Ok(sums.first().map_or(0, |s| u64::from_le_bytes(*s))),
            false => Err(io::Error::other("the copies' results differ")),
        }
    })
}

fn sum(outcome: &Outcome) -> [u8; 8] {
    outcome.checksum.to_le_bytes()
}
