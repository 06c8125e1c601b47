//! A process that writes records and is killed at random moments: every
//! record that it acknowledged is there, and the image is sound.
//!
//! `cargo xtask soak disk 100` kills more often.

mod support;

use disk::qcow2::{self, BackingName, CreateOptions, Repair};
use disk::{
    BlockDevice, BlockDeviceExt, CacheMode, Disk, DiskOptions, Format, HostFile, HostFileOptions,
    Image, ImageOptions,
};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use support::qemu::{self, Scratch};
use support::random::Random;

/// Path of the image, for the process that is killed.
const CHILD: &str = "TRAPEZE_KILLED_IMAGE";
/// How often to kill, for each kind of image.
const KILLS: &str = "TRAPEZE_KILLS";

const SIZE: u64 = 64 << 20;
/// Records are in the first half; the second is written without flushes.
const SLOT: u64 = 12_288;
const SLOTS: u64 = SIZE / 2 / SLOT;

/// Record `n`: longer and shorter than blocks and clusters.
fn record(n: u64) -> (u64, Vec<u8>) {
    let mut random = Random::new(n);
    let len = 512 + random.below(SLOT - 512);
    let bytes = (0..len).map(|_| random.next() as u8).collect();
    // Not in the order of the disk.
    (n * 7919 % SLOTS * SLOT, bytes)
}

fn open(path: &str, format: Format) -> Disk {
    let options = DiskOptions {
        format: Some(format),
        cache: CacheMode::Writeback,
        discard: true,
        ..DiskOptions::default()
    };
    Disk::open(path, &options).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn write_records(disk: &dyn BlockDevice, from: u64, count: u64, mut acknowledge: impl FnMut(u64)) {
    for n in from..from + count {
        let (offset, bytes) = record(n);
        disk.write_at(&bytes, offset).expect("there is room");
        disk.flush().expect("the disk works");
        acknowledge(n);
    }
}

/// Unflushed writes and discards beside the records.
fn disturb(disk: &dyn BlockDevice, seed: u64) {
    let mut random = Random::new(seed);
    loop {
        let offset = SIZE / 2 + random.below(SIZE / 2 - (1 << 18));
        let len = 1 + random.below(1 << 18);
        let done = match random.below(3) {
            0 => disk.discard(offset, len),
            _ => disk.write_at(&vec![0x55; len as usize], offset),
        };
        done.expect("there is room");
    }
}

fn has_record(disk: &dyn BlockDevice, n: u64) -> bool {
    let (offset, expected) = record(n);
    let mut found = vec![0; expected.len()];
    disk.read_at(&mut found, offset).expect("readable");
    found == expected
}

/// Run by itself, a test of the records; with an image in the environment, the
/// process that is killed.
#[test]
fn records() {
    if let Ok(job) = std::env::var(CHILD) {
        let mut words = job.split(' ');
        let mut word = || words.next().expect("three words");
        let (format, from, path) = (word(), word(), word());
        let from = from.parse().expect("a number");
        let disk = open(path, Format::by_name(format).expect("a format"));
        std::thread::scope(|scope| {
            scope.spawn(|| disturb(&disk, from));
            // No further: who is killed late would write over its own records.
            write_records(&disk, from, SLOTS - from, |n| {
                println!("ack {n}");
                std::io::stdout().flush().expect("the parent listens");
            });
        });
    }
    let scratch = Scratch::new();
    let path = make(&scratch, Kind::Qcow2);
    let disk = open(&path, Format::Qcow2);
    write_records(&disk, 0, 50, |_| ());
    assert!((0..50).all(|n| has_record(&disk, n)));
    assert!(!has_record(&disk, 51));
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Raw,
    Qcow2,
    Overlay,
}

fn new_file(path: &Path) -> Arc<HostFile> {
    let options = HostFileOptions {
        writable: true,
        direct: false,
        ignore_flush: true,
        access: disk::Access::Unlocked,
        create: true,
    };
    Arc::new(HostFile::open(path, &options).unwrap_or_else(|e| panic!("{e}")))
}

fn make(scratch: &Scratch, kind: Kind) -> String {
    let path = scratch.path("image");
    if kind == Kind::Raw {
        disk::create_raw(&*new_file(&path), SIZE, Default::default()).expect("there is room");
    } else {
        let backing = (kind == Kind::Overlay).then(|| {
            std::fs::write(scratch.path("base"), vec![0x77; SIZE as usize / 2])
                .expect("there is room");
            BackingName {
                name: "base".into(),
                format: Some("raw".into()),
            }
        });
        let options = CreateOptions {
            size: SIZE,
            backing,
            ..CreateOptions::default()
        };
        qcow2::create(new_file(&path), &options).expect("there is room");
    }
    path.to_str().expect("ASCII").to_string()
}

/// Starts the writer, kills it after some records; the last one acknowledged.
fn kill_one(path: &str, format: Format, from: u64, random: &mut Random) -> Option<u64> {
    let program = std::env::current_exe().expect("it runs");
    let mut child = Command::new(program)
        .args(["--exact", "records", "--nocapture"])
        .env(CHILD, format!("{} {from} {path}", format.name()))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it can be run again");
    let wanted = random.below(60);
    let spin = random.below(20_000);
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut last = None;
    let mut seen = 0;
    for line in lines {
        let line = line.expect("text");
        // The harness writes on the same line.
        let Some((_, number)) = line.split_once("ack ") else {
            continue;
        };
        last = number.trim().parse().ok();
        seen += 1;
        if seen == wanted + 1 {
            (0..spin).for_each(|_| std::hint::spin_loop());
            child.kill().expect("it runs");
        }
    }
    let status = child.wait().expect("it was started");
    assert!(!status.success(), "it ended by itself");
    last
}

fn judge(path: &str, kind: Kind, acknowledged: u64) {
    if kind == Kind::Raw {
        let disk = open(path, Format::Raw);
        assert!((0..=acknowledged).all(|n| has_record(&disk, n)));
        return;
    }
    let (corruptions, _, text) = qemu::check(Path::new(path));
    assert_eq!(corruptions, 0, "{kind:?}: qemu-img: {text}");
    let options = ImageOptions {
        checking: true,
        ..ImageOptions::read()
    };
    let image = Image::open(path, &options).unwrap_or_else(|e| panic!("{e}"));
    let qcow2 = image.qcow2().expect("it is one");
    let mut text = String::new();
    let report = qcow2
        .check(Repair::None, &mut |l| text += l)
        .expect("readable");
    assert_eq!(report.corruptions, 0, "{kind:?}: {text}");
    let device = image.device();
    let lost = (0..=acknowledged).find(|n| !has_record(&*device, *n));
    assert_eq!(lost, None, "{kind:?}: {acknowledged} were acknowledged");
}

fn kill_often(kind: Kind) {
    let kills = std::env::var(KILLS).map_or(6, |n| n.parse().expect("a number"));
    let mut random = Random::new(kind as u64);
    let scratch = Scratch::new();
    let format = match kind {
        Kind::Raw => Format::Raw,
        _ => Format::Qcow2,
    };
    let mut path = make(&scratch, kind);
    let mut next = 0;
    for _ in 0..kills {
        if next + 200 > SLOTS {
            // Records must not overwrite each other.
            path = make(&scratch, kind);
            next = 0;
        }
        if let Some(last) = kill_one(&path, format, next, &mut random) {
            judge(&path, kind, last);
            next = last + 1;
        }
    }
}

#[test]
fn raw() {
    kill_often(Kind::Raw);
}

#[test]
fn qcow2_alone() {
    kill_often(Kind::Qcow2);
}

#[test]
fn qcow2_with_backing_file() {
    kill_often(Kind::Overlay);
}
