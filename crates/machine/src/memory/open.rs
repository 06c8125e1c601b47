//! Opening backends: files, nameless files in folders, memfds.
#![allow(unsafe_code, reason = "fstatfs, memfd_create and seals")]

use super::{MemoryBackend, MemorySource, Merge, Part, show};
use crate::layout::PAGE;
use crate::outcome::Result;
use std::fs::{File, OpenOptions};
use std::io::{Error as IoError, ErrorKind};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

/// Opens what a backend names and checks what it asks for.
pub(super) fn part(backend: MemoryBackend) -> Result<Part> {
    if backend.merge == Merge::On && !backend.can_merge() {
        return Err(backend.refuse("merge=on: only private anonymous memory can be merged"));
    }
    let (file, page) = match &backend.source {
        MemorySource::Anonymous => {
            whole_pages(&backend, PAGE)?;
            (None, PAGE)
        }
        MemorySource::File { path, offset } => {
            let failed = |why: IoError| backend.refuse(format!("'{}': {why}", show(path)));
            let (file, is_ours) = open_file(path).map_err(failed)?;
            let page = page_size(&file).map_err(failed)?;
            if offset % page != 0 {
                let why = format!("offset={offset} is no multiple of {} KiB", page >> 10);
                return Err(backend.refuse(why));
            }
            whole_pages(&backend, page)?;
            set_size(&file, &backend, *offset, is_ours)?;
            (Some(file), page)
        }
        MemorySource::Memfd { huge, seal } => {
            let file = memfd(&backend, *huge, *seal)?;
            let page = page_size(&file).map_err(|why| backend.refuse(why.to_string()))?;
            whole_pages(&backend, page)?;
            (Some(file), page)
        }
    };
    Ok(Part {
        backend,
        file,
        page,
    })
}

fn whole_pages(backend: &MemoryBackend, page: u64) -> Result<()> {
    match backend.size > 0 && backend.size.is_multiple_of(page) {
        true => Ok(()),
        false => Err(backend.refuse(format!(
            "{} bytes are no multiple of its pages, {} KiB",
            backend.size,
            page >> 10
        ))),
    }
}

/// The file, and whether it was made here.
fn open_file(path: &Path) -> std::io::Result<(File, bool)> {
    if path.is_dir() {
        return Ok((nameless(path)?, true));
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    match options.open(path) {
        Err(why) if why.kind() == ErrorKind::NotFound => {
            let made = options.create_new(true).open(path)?;
            Ok((made, true))
        }
        done => Ok((done?, false)),
    }
}

/// A new file in a folder that loses its name at once: its memory is gone
/// with the process.
fn nameless(folder: &Path) -> std::io::Result<File> {
    for number in 0..1000 {
        let name = format!("trapeze-ram-{}-{number}", std::process::id());
        let path = folder.join(name);
        let made = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path);
        match made {
            Err(why) if why.kind() == ErrorKind::AlreadyExists => {}
            made => {
                let file = made?;
                std::fs::remove_file(&path)?;
                return Ok(file);
            }
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}

/// A new or empty file gets its size; another must be large enough.
fn set_size(file: &File, backend: &MemoryBackend, offset: u64, is_ours: bool) -> Result<()> {
    let failed = |why: IoError| backend.refuse(format!("its file's size: {why}"));
    let metadata = file.metadata().map_err(failed)?;
    let end = offset
        .checked_add(backend.size)
        .ok_or_else(|| backend.refuse("offset and size are too large"))?;
    if !metadata.is_file() {
        return Err(backend.refuse("neither a file nor a folder"));
    }
    match metadata.len() {
        len if len >= end && !is_ours => Ok(()),
        0 => file.set_len(end).map_err(failed),
        len => Err(backend.refuse(format!("its file has {len} bytes, not {end}"))),
    }
}

/// Bytes of the pages that a file's memory comes in.
fn page_size(file: &File) -> std::io::Result<u64> {
    // SAFETY: all zeros are a `statfs`, plain numbers.
    let mut about: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the file is open and `about` is writable for the call.
    if unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut about) } != 0 {
        return Err(IoError::last_os_error());
    }
    Ok(match about.f_type == libc::HUGETLBFS_MAGIC {
        true => about.f_bsize as u64,
        false => PAGE,
    })
}

fn memfd(backend: &MemoryBackend, huge: Option<u64>, seal: bool) -> Result<File> {
    let mut flags = libc::MFD_CLOEXEC;
    if seal {
        flags |= libc::MFD_ALLOW_SEALING;
    }
    if let Some(size) = huge {
        // Its logarithm is in the flags; 0 is the host's default.
        flags |= libc::MFD_HUGETLB;
        flags |= size.checked_ilog2().unwrap_or(0) << libc::MFD_HUGE_SHIFT;
    }
    // SAFETY: the name is a string with its NUL.
    let fd = unsafe { libc::memfd_create(c"memory-backend-memfd".as_ptr(), flags) };
    if fd < 0 {
        let why = IoError::last_os_error();
        return Err(backend.refuse(match huge {
            Some(size) if size > 0 => {
                format!("the host has no huge pages of {} KiB ({why})", size >> 10)
            }
            _ => format!("memfd: {why}"),
        }));
    }
    // SAFETY: the descriptor is new and nobody else's.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    let failed = |why: IoError| backend.refuse(format!("memfd: {why}"));
    file.set_len(backend.size).map_err(failed)?;
    if seal {
        let seals = libc::F_SEAL_GROW | libc::F_SEAL_SHRINK | libc::F_SEAL_SEAL;
        // SAFETY: the file is open; seals concern only it.
        if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } != 0 {
            return Err(failed(IoError::last_os_error()));
        }
    }
    Ok(file)
}
