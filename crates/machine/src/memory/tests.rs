//! Backends as guest RAM sees them.
#![allow(unsafe_code, reason = "asks the host which pages are there")]

use super::{MemoryBackend, MemorySource, Merge, Part, open};
use crate::boards::PC;
use crate::config::MachineConfig;
use crate::layout::{Layout, PAGE};
use crate::outcome::Result;
use crate::ram::GuestRam;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const MIB: u64 = 1 << 20;

/// A folder of a test's own, gone at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let name = format!("trapeze-memory-{test}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn file(path: &Path, size: u64, share: bool) -> MemoryBackend {
    MemoryBackend {
        source: MemorySource::File {
            path: path.into(),
            offset: 0,
        },
        share,
        ..MemoryBackend::anonymous("m", size)
    }
}

fn memfd(size: u64) -> MemoryBackend {
    MemoryBackend {
        source: MemorySource::Memfd {
            huge: None,
            seal: true,
        },
        share: true,
        ..MemoryBackend::anonymous("m", size)
    }
}

fn parts(memory: Vec<MemoryBackend>, ram_bytes: u64) -> Result<Vec<Part>> {
    open(&MachineConfig {
        ram_bytes,
        memory,
        ..MachineConfig::default()
    })
}

fn refused(memory: Vec<MemoryBackend>, ram_bytes: u64, why: &str) {
    let error = parts(memory, ram_bytes).unwrap_err().to_string();
    assert!(error.contains(why), "{error}");
}

fn ram(parts: &[Part], bytes: u64) -> GuestRam {
    GuestRam::of(&Layout::new(bytes, 39, &PC).unwrap(), parts).unwrap()
}

/// Pages of a range of the RAM that the host has in memory (mincore(2)).
fn resident(ram: &GuestRam, slot: usize) -> usize {
    let (range, hva) = ram.slots().nth(slot).unwrap();
    let mut pages = vec![0; (range.size / PAGE) as usize];
    let size = range.size as usize;
    // SAFETY: the range is RAM's own mapping and `pages` has a byte for each
    // of its pages.
    let asked = unsafe { libc::mincore(hva as *mut _, size, pages.as_mut_ptr()) };
    assert_eq!(asked, 0);
    pages.iter().filter(|&&p| p & 1 != 0).count()
}

#[test]
fn a_shared_file_gets_what_the_guest_writes() {
    let folder = Folder::new("shared");
    let path = folder.0.join("ram");
    let opened = parts(vec![file(&path, 8 * MIB, true)], 8 * MIB).unwrap();
    ram(&opened, 8 * MIB).write(0x12_3456, b"guest").unwrap();
    let mut back = [0; 5];
    let on_disk = std::fs::File::open(&path).unwrap();
    on_disk.read_exact_at(&mut back, 0x12_3456).unwrap();
    assert_eq!(&back, b"guest");
    assert_eq!(on_disk.metadata().unwrap().len(), 8 * MIB);
    // The next life finds it.
    let again = parts(vec![file(&path, 8 * MIB, true)], 8 * MIB).unwrap();
    ram(&again, 8 * MIB).read(0x12_3456, &mut back).unwrap();
    assert_eq!(&back, b"guest");
}

#[test]
fn a_private_file_and_one_in_a_folder_stay_as_they_are() {
    let folder = Folder::new("private");
    let path = folder.0.join("ram");
    let opened = parts(vec![file(&path, 8 * MIB, false)], 8 * MIB).unwrap();
    ram(&opened, 8 * MIB).write(0x12_3456, b"guest").unwrap();
    let mut back = [1; 5];
    let on_disk = std::fs::File::open(&path).unwrap();
    on_disk.read_exact_at(&mut back, 0x12_3456).unwrap();
    assert_eq!(back, [0; 5]);
    std::fs::remove_file(&path).unwrap();
    let nameless = parts(vec![file(&folder.0, 8 * MIB, true)], 8 * MIB).unwrap();
    ram(&nameless, 8 * MIB).write(0, b"guest").unwrap();
    assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 0);
}

#[test]
fn backends_lie_one_after_the_other() {
    let memory = vec![
        memfd(4 * MIB),
        MemoryBackend::anonymous("b", 2 * MIB),
        memfd(2 * MIB),
    ];
    let opened = parts(memory, 8 * MIB).unwrap();
    let ram = ram(&opened, 8 * MIB);
    assert_eq!(ram.slots().count(), 2, "slots follow the layout only");
    assert!(!ram.slots().any(|(range, _)| ram.is_anonymous(&range)));
    ram.write(4 * MIB - 2, b"seam").unwrap();
    ram.write(6 * MIB, b"last").unwrap();
    let read = |part: usize, at| {
        let mut bytes = [0; 4];
        let file = opened[part].file.as_ref().unwrap();
        file.read_at(&mut bytes, at).unwrap();
        bytes
    };
    assert_eq!(read(0, 4 * MIB - 2)[..2], *b"se");
    assert_eq!(read(2, 0), *b"last");
    let mut seam = [0; 4];
    ram.read(4 * MIB - 2, &mut seam).unwrap();
    assert_eq!(&seam, b"seam");
}

#[test]
fn memory_is_taken_when_touched_or_at_once() {
    let bytes = 32 * MIB;
    let lazy = parts(Vec::new(), bytes).unwrap();
    let untouched = ram(&lazy, bytes);
    assert_eq!(resident(&untouched, 1), 0);
    assert!(
        untouched
            .slots()
            .all(|(range, _)| untouched.is_anonymous(&range))
    );
    for backend in [MemoryBackend::anonymous("m", bytes), memfd(bytes)] {
        let all = MemoryBackend {
            prealloc: true,
            ..backend
        };
        let ram = ram(&parts(vec![all], bytes).unwrap(), bytes);
        let pages = (bytes - 0xc_0000) / PAGE;
        assert_eq!(resident(&ram, 1) as u64, pages);
    }
}

#[test]
fn what_cannot_be_is_said() {
    let folder = Folder::new("refused");
    let path = folder.0.join("small");
    std::fs::write(&path, [0; 4096]).unwrap();
    refused(vec![file(&path, MIB * 8, false)], MIB * 8, "4096 bytes");
    let missing = folder.0.join("no").join("file");
    refused(
        vec![file(&missing, MIB * 8, false)],
        MIB * 8,
        "No such file",
    );
    refused(
        vec![file(Path::new("/dev/null"), MIB, true)],
        MIB,
        "neither",
    );
    let half = MemoryBackend::anonymous("half", 4 * MIB);
    refused(vec![half.clone()], 8 * MIB, "4194304 bytes");
    let odd = MemoryBackend { size: 5000, ..half };
    refused(vec![odd], 8 * MIB, "multiple of its pages");
    let merged = MemoryBackend {
        merge: Merge::On,
        ..memfd(8 * MIB)
    };
    refused(vec![merged], 8 * MIB, "merge=on");
    let strange = MemoryBackend {
        source: MemorySource::Memfd {
            huge: Some(1 << 12),
            seal: false,
        },
        ..memfd(8 * MIB)
    };
    refused(vec![strange], 8 * MIB, "huge pages of 4 KiB");
}
