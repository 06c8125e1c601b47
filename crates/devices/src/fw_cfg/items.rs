//! What can be read: items by key, files by name.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Keys of items, QEMU's.
pub mod key {
    #![allow(missing_docs, reason = "the specification's names")]
    pub const SIGNATURE: u16 = 0x00;
    pub const ID: u16 = 0x01;
    pub const UUID: u16 = 0x02;
    pub const RAM_SIZE: u16 = 0x03;
    pub const NOGRAPHIC: u16 = 0x04;
    pub const NB_CPUS: u16 = 0x05;
    pub const KERNEL_SIZE: u16 = 0x08;
    pub const INITRD_SIZE: u16 = 0x0b;
    pub const NUMA: u16 = 0x0d;
    pub const BOOT_MENU: u16 = 0x0e;
    pub const MAX_CPUS: u16 = 0x0f;
    pub const KERNEL_DATA: u16 = 0x11;
    pub const INITRD_DATA: u16 = 0x12;
    pub const CMDLINE_SIZE: u16 = 0x14;
    pub const CMDLINE_DATA: u16 = 0x15;
    pub const FILE_DIR: u16 = 0x19;
    pub const FILE_FIRST: u16 = 0x20;
    /// IRQ 0 of the ISA bus is GSI 2.
    pub const IRQ0_OVERRIDE: u16 = 0x8002;
}

/// Traditional interface and DMA.
const VERSION: u32 = 0b11;
/// Longest name of a file in bytes, without its NUL.
pub const NAME_MAX: usize = 55;
/// Most files.
pub const MAX_FILES: usize = 1024;

/// The bytes of an item.
#[derive(Clone)]
pub enum Content {
    /// Here they are.
    Bytes(Arc<[u8]>),
    /// They are fetched when a guest selects the item, and dropped with the
    /// next selection: a kernel need not stay in memory for this.
    Load(Arc<dyn Fn() -> Vec<u8> + Send + Sync>),
}

impl Content {
    /// The bytes now.
    pub(super) fn bytes(&self) -> Arc<[u8]> {
        match self {
            Self::Bytes(bytes) => bytes.clone(),
            Self::Load(load) => load().into(),
        }
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

/// Why a file cannot be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileError {
    /// Empty, longer than [`NAME_MAX`], or with a NUL.
    Name,
    /// There is one with this name.
    Exists,
    /// More than [`MAX_FILES`], or more than 4 GiB in one.
    TooLarge,
}

/// All items. Files get their keys by name once the directory is made.
pub struct Items {
    items: BTreeMap<u16, Content>,
    files: BTreeMap<String, Arc<[u8]>>,
}

impl Default for Items {
    fn default() -> Self {
        let mut items = Self {
            items: BTreeMap::new(),
            files: BTreeMap::new(),
        };
        items.set(key::SIGNATURE, b"QEMU".to_vec());
        items.set(key::ID, VERSION.to_le_bytes().to_vec());
        items
    }
}

impl Items {
    /// Sets an item that is no file.
    pub fn set(&mut self, key: u16, content: impl Into<Content>) {
        self.items.insert(key, content.into());
    }

    /// Adds a file.
    pub fn add_file(&mut self, name: &str, bytes: Vec<u8>) -> Result<(), FileError> {
        if name.is_empty() || name.len() > NAME_MAX || name.contains('\0') {
            return Err(FileError::Name);
        }
        if self.files.contains_key(name) {
            return Err(FileError::Exists);
        }
        if self.files.len() >= MAX_FILES || u32::try_from(bytes.len()).is_err() {
            return Err(FileError::TooLarge);
        }
        self.files.insert(name.into(), bytes.into());
        Ok(())
    }

    /// The table of items with the files and their directory: a big-endian
    /// count, then 64 bytes each.
    pub(super) fn finish(mut self) -> BTreeMap<u16, Content> {
        let mut directory = (self.files.len() as u32).to_be_bytes().to_vec();
        for (key, (name, bytes)) in (key::FILE_FIRST..).zip(self.files) {
            let mut padded = [0; NAME_MAX + 1];
            padded[..name.len()].copy_from_slice(name.as_bytes());
            directory.extend((bytes.len() as u32).to_be_bytes());
            directory.extend(key.to_be_bytes());
            directory.extend([0; 2]);
            directory.extend(padded);
            self.items.insert(key, Content::Bytes(bytes));
        }
        self.items.insert(key::FILE_DIR, directory.into());
        self.items
    }
}
