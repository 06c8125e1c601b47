//! What guest RAM is made of on the host: memory backends, as QEMU's.

use crate::config::MachineConfig;
use crate::outcome::{Error, Result};
use std::fs::File;
use std::path::{Path, PathBuf};

mod open;

/// Host memory for guest RAM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryBackend {
    /// The user's name for it.
    pub id: String,
    /// Bytes.
    pub size: u64,
    /// Where they come from.
    pub source: MemorySource,
    /// What the guest writes reaches the file, and whoever else maps it.
    pub share: bool,
    /// All of it is taken from the host at the start.
    pub prealloc: bool,
    /// The host sets pages aside for it (it may refuse); else it takes them
    /// when they are touched.
    pub reserve: bool,
    /// Pages are shared with others of the same contents (KSM).
    pub merge: Merge,
    /// It is part of the process's core dumps.
    pub dump: bool,
}

/// Kinds of host memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemorySource {
    /// Anonymous memory.
    Anonymous,
    /// A file, or a nameless file in a folder; on hugetlbfs huge pages.
    File {
        /// The file or folder.
        path: PathBuf,
        /// Where in the file it begins; a multiple of the page size.
        offset: u64,
    },
    /// A memfd.
    Memfd {
        /// Huge pages of this many bytes; 0 for the host's usual huge pages.
        huge: Option<u64>,
        /// Its size cannot be changed.
        seal: bool,
    },
}

/// Whether pages may be merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merge {
    /// No.
    Off,
    /// If the host can.
    IfPossible,
    /// The host must be able to.
    On,
}

impl MemoryBackend {
    /// Private anonymous memory with QEMU's defaults.
    pub fn anonymous(id: &str, size: u64) -> Self {
        Self {
            id: id.into(),
            size,
            source: MemorySource::Anonymous,
            share: false,
            prealloc: false,
            reserve: false,
            merge: Merge::IfPossible,
            dump: true,
        }
    }

    /// Only private anonymous pages can be merged.
    pub fn can_merge(&self) -> bool {
        self.source == MemorySource::Anonymous && !self.share
    }

    pub(crate) fn refuse(&self, why: impl Into<String>) -> Error {
        Error::Memory {
            id: self.id.clone(),
            why: why.into(),
        }
    }
}

/// A backend whose file is open.
#[derive(Debug)]
pub struct Part {
    /// Its configuration.
    pub backend: MemoryBackend,
    /// `None` for anonymous memory.
    pub file: Option<File>,
    /// Bytes of its pages on the host.
    pub page: u64,
}

impl Part {
    /// It is in huge pages that were set aside.
    pub fn is_huge(&self) -> bool {
        self.page > crate::layout::PAGE
    }

    /// Its pages are ordinary ones of this process alone.
    pub fn is_anonymous(&self) -> bool {
        self.file.is_none() && !self.is_huge() && !self.backend.share
    }

    /// Where in the file it begins.
    pub fn file_offset(&self) -> u64 {
        match &self.backend.source {
            MemorySource::File { offset, .. } => *offset,
            MemorySource::Anonymous | MemorySource::Memfd { .. } => 0,
        }
    }
}

impl From<MemoryBackend> for Part {
    /// Anonymous memory needs no file.
    fn from(backend: MemoryBackend) -> Self {
        Self {
            backend,
            file: None,
            page: crate::layout::PAGE,
        }
    }
}

/// Opens the backends of a machine, in the order of their memory. Files stay
/// open across resets.
pub fn open(config: &MachineConfig) -> Result<Vec<Part>> {
    let bytes = config.ram_bytes & !(crate::layout::PAGE - 1);
    if config.memory.is_empty() {
        let backend = MemoryBackend::anonymous("ram", bytes);
        return Ok(vec![backend.into()]);
    }
    let parts: Vec<Part> = config
        .memory
        .iter()
        .map(|backend| open::part(backend.clone()))
        .collect::<Result<_>>()?;
    let mut end = 0u64;
    for Part { backend, page, .. } in &parts {
        if !end.is_multiple_of(*page) {
            let page = page >> 10;
            return Err(backend.refuse(format!(
                "it begins at {end} bytes of RAM, no multiple of its pages, {page} KiB"
            )));
        }
        let sum = end.checked_add(backend.size);
        end = sum.ok_or_else(|| backend.refuse("too large"))?;
    }
    match end == bytes {
        true => Ok(parts),
        false => Err(Error::Ram {
            bytes,
            why: format!("the memory backends have {end} bytes"),
        }),
    }
}

/// For messages.
fn show(path: &Path) -> std::path::Display<'_> {
    path.display()
}

#[cfg(test)]
mod tests;
