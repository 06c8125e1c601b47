//! Processes: made, replaced, and taking turns.

use super::os::{OneCpu, Pipe, Process};
use crate::row::{Outcome, attempt, mix};
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The argument of this program when the row `fork-exec` executes it, and its
/// exit code then.
pub(crate) const EXECUTED: &str = "executed";
pub(crate) const EXECUTED_CODE: u8 = 42;

/// A process that ends at once, and its parent waits.
pub(super) fn fork_exit(count: u64) -> io::Result<Outcome> {
    let _one = OneCpu::here()?;
    attempt(|| {
        (0..count).try_fold(0, |sum, round| {
            Ok(mix(sum, Process::fork(|| round as u8)?.wait()?.into()))
        })
    })
}

/// The same, but it executes this program anew, which then ends.
pub(super) fn fork_exec(count: u64) -> io::Result<Outcome> {
    let _one = OneCpu::here()?;
    attempt(|| {
        (0..count).try_fold(0, |sum, _| {
            let child = Process::fork(|| {
                // Only returns if it fails.
                let _ = Command::new("/proc/self/exe").arg(EXECUTED).exec();
                0
            })?;
            match child.wait()? {
                EXECUTED_CODE => Ok(mix(sum, EXECUTED_CODE.into())),
                code => Err(io::Error::other(format!("exec: exit code {code}"))),
            }
        })
    })
}

/// A byte there and back between two processes, with a checksum on both sides.
pub(super) fn ping_pong(count: u64) -> io::Result<Outcome> {
    let _one = OneCpu::here()?;
    let (mut there, mut back) = (Pipe::new()?, Pipe::new()?);
    let answer = |there: &mut Pipe, back: &mut Pipe| -> io::Result<()> {
        let mut byte = [0];
        for _ in 0..count {
            there.reader.read_exact(&mut byte)?;
            byte[0] = byte[0].wrapping_mul(5).wrapping_add(1);
            back.writer.write_all(&byte)?;
        }
        Ok(())
    };
    let child = Process::fork(|| u8::from(answer(&mut there, &mut back).is_err()))?;
    // If the child fails, its end must be seen.
    let Pipe {
        reader: mut from_child,
        writer,
    } = back;
    drop(writer);
    let outcome = attempt(|| {
        let (mut sum, mut byte) = (0, [1]);
        for _ in 0..count {
            there.writer.write_all(&byte)?;
            from_child.read_exact(&mut byte)?;
            sum = mix(sum, byte[0].into());
        }
        Ok(sum)
    });
    finished(child.wait()?)?;
    outcome
}

fn finished(code: u8) -> io::Result<()> {
    match code {
        0 => Ok(()),
        _ => Err(io::Error::other("the other process failed")),
    }
}

/// A byte goes round among so many processes; each adds its number.
fn ring(processes: usize, rounds: u64) -> io::Result<Outcome> {
    let _one = OneCpu::here()?;
    let mut pipes: Vec<Pipe> = (0..processes)
        .map(|_| Pipe::new())
        .collect::<Result<_, _>>()?;
    let mut children = Vec::new();
    for number in 1..processes {
        let pass = |pipes: &mut [Pipe]| -> io::Result<()> {
            let mut byte = [0];
            for _ in 0..rounds {
                pipes[number - 1].reader.read_exact(&mut byte)?;
                byte[0] = byte[0].wrapping_mul(3).wrapping_add(number as u8);
                pipes[number].writer.write_all(&byte)?;
            }
            Ok(())
        };
        children.push(Process::fork(|| u8::from(pass(&mut pipes).is_err()))?);
    }
    let outcome = attempt(|| {
        let (mut sum, mut byte) = (0, [0]);
        for _ in 0..rounds {
            pipes[0].writer.write_all(&byte)?;
            pipes[processes - 1].reader.read_exact(&mut byte)?;
            sum = mix(sum, byte[0].into());
        }
        Ok(sum)
    });
    for child in children {
        finished(child.wait()?)?;
    }
    outcome
}

/// Switches between 2 processes; a count is once around, so two switches.
pub(super) fn switch_2(count: u64) -> io::Result<Outcome> {
    ring(2, count)
}

/// Switches among 64 processes; a count is once around, so 64 switches.
pub(super) fn switch_64(count: u64) -> io::Result<Outcome> {
    ring(64, count)
}
