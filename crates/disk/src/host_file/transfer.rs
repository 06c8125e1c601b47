//! Whole transfers from the kernel's partial ones.
#![allow(unsafe_code, reason = "preadv and pwritev on raw host memory")]

use crate::buffer::{Dest, HostBuffer, Source, as_iovecs, total_len};
use crate::errno::{Errno, IoResult};
use crate::storage::{Storage, StorageExt};
use std::fs::File;
use std::os::fd::AsRawFd;

/// Buffers the kernel takes in one call (`UIO_MAXIOV`).
const MAX_BUFFERS: usize = 1024;

/// Reads all; what is beyond the end of the file is zero.
pub(super) fn read(file: &File, buffers: &[Dest], offset: u64) -> IoResult<()> {
    all(buffers, offset, |list, at| {
        // SAFETY: the list's buffers are valid for writes by `Dest`'s
        // contract, and it has at most MAX_BUFFERS entries.
        unsafe { libc::preadv64(file.as_raw_fd(), as_iovecs(list), list.len() as i32, at) }
    })?
    .for_each(|b| b.zero());
    Ok(())
}

/// Writes all.
pub(super) fn write(file: &File, buffers: &[Source], offset: u64) -> IoResult<()> {
    let mut rest = all(buffers, offset, |list, at| {
        // SAFETY: the list's buffers are valid for reads by `Source`'s
        // contract, and it has at most MAX_BUFFERS entries.
        unsafe { libc::pwritev64(file.as_raw_fd(), as_iovecs(list), list.len() as i32, at) }
    })?;
    match rest.next() {
        None => Ok(()),
        // A file that takes no byte and reports no error is full.
        Some(_) => Err(Errno::ENOSPC),
    }
}

/// Calls `once` until everything is transferred or it transfers nothing; what
/// is left then.
fn all<B: HostBuffer>(
    mut buffers: &[B],
    offset: u64,
    once: impl Fn(&[B], i64) -> isize,
) -> IoResult<impl Iterator<Item = B>> {
    let mut at = i64::try_from(offset).map_err(|_| Errno::EINVAL)?;
    // A buffer of which a part is done.
    let mut head: Option<B> = None;
    loop {
        let list = match &head {
            Some(part) => std::slice::from_ref(part),
            None => &buffers[..buffers.len().min(MAX_BUFFERS)],
        };
        if total_len(list) == 0 {
            if head.is_none() && list.len() == buffers.len() {
                break;
            }
        } else {
            let done = match once(list, at) {
                0 => break,
                n if n > 0 => n as usize,
                _ => match Errno::last() {
                    Errno(libc::EINTR) => continue,
                    errno => return Err(errno),
                },
            };
            at += done as i64;
            if done < total_len(list) {
                (head, buffers) = skip(head, buffers, done);
                continue;
            }
        }
        if head.take().is_none() {
            buffers = &buffers[list_len(buffers)..];
        }
    }
    Ok(head.into_iter().chain(buffers.iter().copied()))
}

fn list_len<B>(buffers: &[B]) -> usize {
    buffers.len().min(MAX_BUFFERS)
}

/// Drops `done` bytes from the front.
fn skip<B: HostBuffer>(head: Option<B>, mut buffers: &[B], mut done: usize) -> (Option<B>, &[B]) {
    if let Some(part) = head {
        // The call had only this part.
        return (Some(part.part(done, usize::MAX)), buffers);
    }
    while let Some((first, rest)) = buffers.split_first() {
        buffers = rest;
        if done < first.len() {
            let part = first.part(done, usize::MAX);
            return (Some(part), buffers);
        }
        done -= first.len();
    }
    (None, buffers)
}

/// Writes zeros, a piece at a time.
pub(super) fn write_zeros(storage: &impl Storage, offset: u64, len: u64) -> IoResult<()> {
    const PIECE: usize = 1 << 16;
    static ZEROS: [u8; PIECE] = [0; PIECE];
    let mut at = offset;
    let end = offset + len;
    while at < end {
        let piece = (end - at).min(PIECE as u64);
        storage.write_at(&ZEROS[..piece as usize], at)?;
        at += piece;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    /// A file that transfers at most `step` bytes at once and ends at `end`.
    fn transferred(lengths: &[usize], step: usize, end: usize) -> (Vec<u8>, usize) {
        let text: Vec<u8> = (0..lengths.iter().sum::<usize>() as u8).collect();
        let mut cut = &text[..];
        let mut list = Vec::new();
        for &len in lengths {
            let (now, later) = cut.split_at(len);
            list.push(Source::from(now));
            cut = later;
        }
        let seen = RefCell::new(Vec::new());
        let rest = all(&list, 100, |list, at| {
            let mut seen = seen.borrow_mut();
            assert_eq!(at as usize, 100 + seen.len());
            let mut bytes = vec![0; total_len(list)];
            crate::buffer::gather(list, &mut bytes);
            let n = step.min(bytes.len()).min(end - seen.len());
            seen.extend_from_slice(&bytes[..n]);
            n as isize
        })
        .expect("no error is returned");
        let rest = rest.map(|b| b.len()).sum();
        (seen.into_inner(), rest)
    }

    #[test]
    fn partial_transfers_are_continued_where_they_stopped() {
        for step in 1..12 {
            for end in 0..=10 {
                let (seen, rest) = transferred(&[3, 0, 4, 1, 2], step, end);
                assert_eq!(seen, (0..end as u8).collect::<Vec<_>>(), "{step} {end}");
                assert_eq!(rest, 10 - end);
            }
        }
    }

    #[test]
    fn long_lists_are_cut() {
        let lengths = vec![0usize, 0, 1]
            .into_iter()
            .cycle()
            .take(3000)
            .map(|n| n.min(1))
            .collect::<Vec<_>>();
        let ones = lengths.iter().sum::<usize>();
        let bytes = vec![7u8; ones];
        let mut at = 0;
        let list: Vec<Source> = lengths
            .iter()
            .map(|&n| {
                let part = Source::from(&bytes[at..at + n]);
                at += n;
                part
            })
            .collect();
        let longest = RefCell::new(0);
        let rest = all(&list, 0, |list, _| {
            let mut longest = longest.borrow_mut();
            *longest = list.len().max(*longest);
            total_len(list) as isize
        })
        .expect("no error is returned");
        assert_eq!(rest.count(), 0);
        assert_eq!(longest.into_inner(), MAX_BUFFERS);
    }
}
