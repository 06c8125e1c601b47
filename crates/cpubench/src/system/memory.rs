//! Page faults and mappings.

use super::os::{Mapping, Process};
use crate::row::{Outcome, attempt, mix};
use std::fs::File;
use std::io::{self, Write};

const PAGE: usize = 4096;
const PAGES: usize = 1024;

/// First writes to anonymous pages; a count is 1024 pages and their release.
pub(super) fn fault_anonymous(count: u64) -> io::Result<Outcome> {
    attempt(|| {
        let mut sum = 0;
        for round in 0..count {
            let mut mapping = Mapping::new(PAGES * PAGE, None::<&File>)?;
            mapping.small_pages()?;
            for page in 0..PAGES {
                mapping.write(page * PAGE, page as u8 ^ round as u8);
            }
            sum = mix(
                sum,
                u64::from(mapping.read(7 * PAGE)) << 8 | u64::from(mapping.read(1)),
            );
        }
        Ok(sum)
    })
}

/// A file with 1024 pages in the current folder; it has no name.
fn file() -> io::Result<File> {
    let name = "cpubench-pages";
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(name)?;
    std::fs::remove_file(name)?;
    for page in 0..PAGES {
        file.write_all(&[page as u8; PAGE])?;
    }
    Ok(file)
}

/// First reads of a mapped file's pages, which the kernel maps some at a time;
/// a count is 1024 pages and their release.
pub(super) fn fault_file(count: u64) -> io::Result<Outcome> {
    let file = file()?;
    attempt(|| {
        let mut sum = 0;
        for _ in 0..count {
            let mapping = Mapping::new(PAGES * PAGE, Some(&file))?;
            for page in 0..PAGES {
                sum = mix(sum, mapping.read(page * PAGE + 5).into());
            }
        }
        Ok(sum)
    })
}

/// Writes to pages that a parent shares; a count is a process that does so 1024
/// times.
pub(super) fn fault_copy_on_write(count: u64) -> io::Result<Outcome> {
    let mut mapping = Mapping::new(PAGES * PAGE, None::<&File>)?;
    mapping.small_pages()?;
    for page in 0..PAGES {
        mapping.write(page * PAGE, page as u8);
    }
    attempt(|| {
        let mut sum = 0;
        for round in 0..count {
            let act = || {
                (0..PAGES).fold(0u8, |sum, page| {
                    let old = mapping.read(page * PAGE);
                    mapping.write(page * PAGE, old.wrapping_add(round as u8));
                    sum.wrapping_mul(3).wrapping_add(mapping.read(page * PAGE))
                })
            };
            sum = mix(sum, Process::fork(act)?.wait()?.into());
        }
        // The parent's pages are as before.
        Ok((0..PAGES).fold(sum, |sum, page| mix(sum, mapping.read(page * PAGE).into())))
    })
}

/// Maps 64 KiB, touches one page, unmaps.
pub(super) fn map_unmap(count: u64) -> io::Result<Outcome> {
    attempt(|| {
        let mut sum = 0;
        for round in 0..count {
            let mut mapping = Mapping::new(16 * PAGE, None::<&File>)?;
            mapping.write(3 * PAGE, round as u8);
            sum = mix(sum, mapping.read(3 * PAGE).into());
        }
        Ok(sum)
    })
}
