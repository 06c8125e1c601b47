//! A crash at any moment leaves an image that is sound and has everything
//! that was flushed.
//!
//! Requests go to an image in a file in memory, which records every write and
//! flush. From the record, states are made that a crash may leave: every
//! prefix (the process was killed), and, after the last flush before a point,
//! any selection of the sectors written since (the host lost its power).

mod support;

use disk::qcow2::{self, CreateOptions, Qcow2, Qcow2Options, Repair};
use disk::{BlockDevice, BlockDeviceExt, Storage};
use std::sync::Arc;
use support::memory::{Event, MemoryFile, apply};
use support::model::{self, Model, Step};
use support::qemu::{self, Scratch};
use support::random::Random;

const SIZE: u64 = 1 << 20;

/// A recorded session.
struct Session {
    /// The image before it.
    start: Vec<u8>,
    events: Vec<Event>,
    /// What the disk must contain once mark n is durable, by n.
    durable: Vec<Model>,
    /// The requests between one mark and the next.
    between: Vec<Vec<Step>>,
    backing: Option<Vec<u8>>,
    what: String,
}

fn open(file: Arc<MemoryFile>, backing: &Option<Vec<u8>>, read_only: bool) -> Qcow2 {
    let backing = backing.as_ref().map(|bytes| {
        let file = Arc::new(MemoryFile::of(bytes.clone()));
        let raw = disk::Raw::open(file, true, false).expect("memory");
        Arc::new(raw) as Arc<dyn BlockDevice>
    });
    let options = Qcow2Options {
        read_only,
        backing,
        checking: read_only,
        ..Qcow2Options::default()
    };
    Qcow2::open(file, options).unwrap_or_else(|e| panic!("{e}"))
}

/// Random requests, with a mark after each flush that succeeded.
fn record(seed: u64) -> Session {
    let mut random = Random::new(seed);
    let cluster_size = random.pick(&[512, 4096, 16384, 65536]);
    let options = CreateOptions {
        size: SIZE,
        version: if random.chance(5) { 2 } else { 3 },
        cluster_size,
        ..CreateOptions::default()
    };
    let backing = random.chance(2).then(|| vec![0x77; SIZE as usize - 5000]);
    let file = Arc::new(MemoryFile::default());
    qcow2::create(file.clone(), &options).unwrap_or_else(|e| panic!("{e}"));
    let mut initial = backing.clone().unwrap_or_default();
    initial.resize(SIZE as usize, 0);
    let mut session = Session {
        start: file.bytes(),
        events: Vec::new(),
        durable: vec![Model::new(initial)],
        between: vec![Vec::new()],
        what: format!("seed {seed} {options:?} backing {}", backing.is_some()),
        backing,
    };
    file.take_events();
    let image = open(file.clone(), &session.backing, false);
    let mut model = session.durable[0].clone();
    for _ in 0..40 {
        let step = model::step(&mut random, SIZE, cluster_size);
        if let Step::Flush = step {
            model::perform(&image, step).expect("memory");
            session.durable.push(model.clone());
            session.between.push(Vec::new());
            file.mark(session.durable.len() - 1);
        } else {
            session.between.last_mut().expect("one").push(step);
            model::perform(&image, step).unwrap_or_else(|e| panic!("{step:?}: {e}"));
            model.apply(step);
        }
    }
    image.close().expect("memory");
    drop(image);
    session.events = file.take_events();
    session
}

/// Judges what a crash left after mark `mark`.
fn judge(session: &Session, bytes: Vec<u8>, mark: usize, what: &str) {
    let file = Arc::new(MemoryFile::of(bytes));
    let image = open(file, &session.backing, true);
    let mut text = String::new();
    let report = image
        .check(Repair::None, &mut |line| text = format!("{text}{line}\n"))
        .unwrap_or_else(|e| panic!("{}: {what}: {e}", session.what));
    assert_eq!(
        (report.corruptions, report.check_errors),
        (0, 0),
        "{}: {what}: {text}",
        session.what
    );
    // What was requested after the mark may or may not have happened, byte by
    // byte.
    let mut expected = session.durable[mark].clone();
    let mut later = Vec::new();
    for step in &session.between[mark] {
        if let Step::Discard { .. } = step {
            expected.apply(*step);
        } else {
            later.push(*step);
        }
    }
    let found = model::contents(&image);
    for (at, &byte) in found.iter().enumerate() {
        let ok = expected.unknown[at]
            || byte == expected.bytes[at]
            || later.iter().any(|s| may_leave(*s, at as u64, byte));
        assert!(
            ok,
            "{}: {what}: byte {at:#x} is {:#x}, durable was {:#x}",
            session.what, byte, expected.bytes[at]
        );
    }
}

fn may_leave(step: Step, at: u64, byte: u8) -> bool {
    match step {
        Step::Write { offset, len, fill } => {
            (offset..offset + len).contains(&at) && byte == model::pattern(fill, at)
        }
        Step::Zero { offset, len, .. } => (offset..offset + len).contains(&at) && byte == 0,
        Step::Discard { .. } | Step::Flush => false,
    }
}

#[test]
fn killed_at_any_moment() {
    for seed in 0..24 {
        let session = record(seed);
        let mut bytes = session.start.clone();
        let mut mark = 0;
        let mut random = Random::new(seed);
        for (n, event) in session.events.iter().enumerate() {
            apply(&mut bytes, event);
            if let Event::Mark(m) = event {
                mark = *m;
            }
            // Most states; all of some sessions.
            if seed < 4 || random.chance(6) {
                judge(&session, bytes.clone(), mark, &format!("after event {n}"));
            }
        }
    }
}

#[test]
fn without_power_at_any_moment() {
    for seed in 100..124 {
        let session = record(seed);
        let mut random = Random::new(seed);
        let mut durable = session.start.clone();
        // Written since the last flush, and how much of it was flushed.
        let mut pending: Vec<&Event> = Vec::new();
        let mut mark = 0;
        for (n, event) in session.events.iter().enumerate() {
            match event {
                Event::Flush => {
                    pending.drain(..).for_each(|e| apply(&mut durable, e));
                }
                Event::Mark(m) => mark = *m,
                other => pending.push(other),
            }
            for round in 0..2 {
                if pending.is_empty() || !random.chance(4) {
                    continue;
                }
                let mut bytes = durable.clone();
                lose_some(&mut random, &pending, &mut bytes);
                judge(&session, bytes, mark, &format!("after event {n}, {round}"));
            }
        }
    }
}

/// Applies some sectors of what was written.
fn lose_some(random: &mut Random, pending: &[&Event], bytes: &mut Vec<u8>) {
    let one_in = random.pick(&[2, 2, 4, 16]);
    let keep = random.chance(2);
    for event in pending {
        match event {
            Event::Write { offset, bytes: new } => {
                let mut at = 0;
                while at < new.len() {
                    let sector = 512 - (offset + at as u64) % 512;
                    let end = new.len().min(at + sector as usize);
                    if random.chance(one_in) == keep {
                        let part = Event::Write {
                            offset: offset + at as u64,
                            bytes: new[at..end].to_vec(),
                        };
                        apply(bytes, &part);
                    }
                    at = end;
                }
            }
            other => apply(bytes, other),
        }
    }
}

#[test]
fn qemu_agrees_on_crashed_images() {
    let scratch = Scratch::new();
    let path = scratch.path("crashed.qcow2");
    for seed in 200..210 {
        let session = record(seed);
        let mut random = Random::new(seed);
        let mut durable = session.start.clone();
        let mut pending: Vec<&Event> = Vec::new();
        for (n, event) in session.events.iter().enumerate() {
            match event {
                Event::Flush => pending.drain(..).for_each(|e| apply(&mut durable, e)),
                other => pending.push(other),
            }
            if !random.chance(40) {
                continue;
            }
            let mut bytes = durable.clone();
            lose_some(&mut random, &pending, &mut bytes);
            std::fs::write(&path, bytes).expect("the scratch directory is writable");
            let (corruptions, _, text) = qemu::check(&path);
            assert_eq!(corruptions, 0, "{}: event {n}: {text}", session.what);
        }
    }
}

#[test]
fn a_full_host_disk_is_an_error_and_no_damage() {
    for seed in 300..330 {
        let mut random = Random::new(seed);
        let cluster_size = random.pick(&[512, 4096, 65536]);
        let file = Arc::new(MemoryFile::default());
        let options = CreateOptions {
            size: SIZE,
            cluster_size,
            ..CreateOptions::default()
        };
        qcow2::create(file.clone(), &options).expect("memory");
        let image = open(file.clone(), &None, false);
        let mut model = Model::new(vec![0; SIZE as usize]);
        let mut refused = 0;
        for n in 0..60 {
            let full = n % 20 > 10;
            file.set_budget(full.then(|| random.below(3 * cluster_size)));
            let step = model::step(&mut random, SIZE, cluster_size);
            match model::perform(&image, step) {
                Ok(()) => model.apply(step),
                Err(errno) => {
                    assert_eq!(errno, disk::Errno::ENOSPC, "seed {seed} {step:?}");
                    refused += 1;
                    // A part of it may have happened.
                    if let Step::Write { offset, len, .. }
                    | Step::Zero { offset, len, .. }
                    | Step::Discard { offset, len } = step
                    {
                        model.apply(Step::Discard { offset, len });
                    }
                }
            }
        }
        assert!(refused > 0, "the disk was never full");
        file.set_budget(None);
        assert_eq!(
            model.difference(&model::contents(&image)),
            None,
            "seed {seed}"
        );
        image.close().expect("there is room again");
        drop(image);
        let image = open(file, &None, true);
        let mut text = String::new();
        let report = image
            .check(Repair::None, &mut |l| text += l)
            .expect("memory");
        assert_eq!(report.corruptions, 0, "seed {seed}: {text}");
        assert_eq!(
            model.difference(&model::contents(&image)),
            None,
            "seed {seed}"
        );
    }
}

#[test]
fn lazy_refcounts_are_counted_anew_after_a_crash() {
    let file = Arc::new(MemoryFile::default());
    let options = CreateOptions {
        size: SIZE,
        lazy_refcounts: true,
        ..CreateOptions::default()
    };
    qcow2::create(file.clone(), &options).expect("memory");
    let image = open(file.clone(), &None, false);
    for n in 0..8 {
        image
            .write_at(&[n as u8 + 1; 1000], n * 100_000)
            .expect("memory");
    }
    image.flush().expect("memory");
    // The process is killed here.
    let bytes = file.bytes();
    drop(image);
    let check = |bytes: Vec<u8>| {
        let image = open(Arc::new(MemoryFile::of(bytes)), &None, true);
        let report = image.check(Repair::None, &mut |_| {}).expect("memory");
        report.corruptions
    };
    assert!(check(bytes.clone()) > 0, "the refcounts were not written");
    let file = Arc::new(MemoryFile::of(bytes));
    let image = open(file.clone(), &None, false);
    for n in 0..8 {
        let mut found = [0; 1000];
        image.read_at(&mut found, n * 100_000).expect("memory");
        assert_eq!(found, [n as u8 + 1; 1000]);
    }
    image.close().expect("memory");
    assert_eq!(check(file.bytes()), 0);
    assert_eq!(file.length(), Ok(file.bytes().len() as u64));
}
