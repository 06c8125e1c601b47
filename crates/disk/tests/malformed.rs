//! Images with damaged metadata: whatever they say, opening, reading, writing,
//! checking and repairing end, without a panic and without taking memory that
//! the image's length does not justify.

mod support;

use disk::qcow2::{self, BackingName, CreateOptions, Qcow2, Qcow2Options, Repair};
use disk::{BlockDevice, BlockDeviceExt, Preallocation};
use std::sync::Arc;
use support::memory::MemoryFile;
use support::model;
use support::random::Random;

const SIZE: u64 = 256 << 10;

/// A sound image with something of everything in it.
fn image(random: &mut Random) -> (Vec<u8>, u64) {
    let cluster_size = random.pick(&[512, 512, 1024, 4096, 65536]);
    let backed = random.chance(3);
    let options = CreateOptions {
        size: SIZE,
        version: if random.chance(5) { 2 } else { 3 },
        cluster_size,
        lazy_refcounts: false,
        preallocation: match backed {
            true => Preallocation::Off,
            false => random.pick(&[Preallocation::Off, Preallocation::Metadata]),
        },
        backing: backed.then(|| BackingName {
            name: "base".into(),
            format: Some("raw".into()),
        }),
        ..CreateOptions::default()
    };
    let file = Arc::new(MemoryFile::default());
    qcow2::create(file.clone(), &options).expect("valid");
    let image = Qcow2::open(file.clone(), Qcow2Options::default()).expect("sound");
    for round in 0..2 {
        for _ in 0..6 {
            let step = model::step(random, SIZE, cluster_size);
            model::perform(&image, step).expect("memory");
            let at = random.below(SIZE) / cluster_size * cluster_size;
            let bytes = vec![0x42; cluster_size.min(SIZE - at) as usize];
            image.write_compressed(&bytes, at).expect("memory");
        }
        if random.chance(2) {
            image.create_snapshot(&format!("s{round}")).expect("memory");
        }
    }
    image.close().expect("memory");
    drop(image);
    (file.bytes(), cluster_size)
}

/// Changes metadata: bits, bytes, whole entries, and now and then the length.
fn damage(random: &mut Random, bytes: &mut Vec<u8>, cluster_size: u64) {
    let clusters = (bytes.len() as u64).div_ceil(cluster_size);
    for _ in 0..1 + random.below(6) {
        // The first clusters are header, refcounts and L1 table; later ones
        // are L2 tables and data.
        let cluster = match random.below(3) {
            0 => 0,
            1 => random.below(clusters.min(8)),
            _ => random.below(clusters),
        };
        let span = match cluster {
            0 => 128,
            _ => cluster_size,
        };
        let at = (cluster * cluster_size + random.below(span)) as usize;
        let Some(rest) = bytes.get_mut(at..) else {
            continue;
        };
        let entry = at % 8;
        match random.below(5) {
            0 => rest[0] ^= 1 << random.below(8),
            1 => rest[0] = random.pick(&[0, 1, 0x7f, 0x80, 0xff]),
            _ if at < entry || rest.len() < 8 => {}
            2 => {
                let value = random.below(clusters + 2) * cluster_size;
                let marks = random.pick(&[0, 1 << 63, 1 << 62, 1, 3 << 62]);
                bytes[at - entry..at - entry + 8].copy_from_slice(&(value | marks).to_be_bytes());
            }
            3 => {
                let value = random.next() >> random.below(64);
                bytes[at - entry..at - entry + 8].copy_from_slice(&value.to_be_bytes());
            }
            _ => {
                let value = u32::MAX >> random.below(32);
                let four = at - at % 4;
                bytes[four..four + 4].copy_from_slice(&value.to_be_bytes());
            }
        }
    }
    if random.chance(10) {
        let len = random.below(bytes.len() as u64 + 1);
        bytes.truncate(len as usize);
    }
}

/// Uses the image in all ways. Errors are fine.
fn exercise(random: &mut Random, bytes: &[u8], cluster_size: u64) {
    let open = |read_only, checking, bytes: Vec<u8>| {
        let options = Qcow2Options {
            read_only,
            checking,
            ..Qcow2Options::default()
        };
        Qcow2::open(Arc::new(MemoryFile::of(bytes)), options)
    };
    if let Ok(image) = open(true, false, bytes.to_vec()) {
        read_some(random, &image);
        let _ = image.snapshots();
    }
    let Ok(image) = open(true, true, bytes.to_vec()) else {
        return;
    };
    let checked = image.check(Repair::None, &mut |_| {});
    let sound = checked.is_ok_and(|r| r.corruptions + r.check_errors == 0);
    drop(image);
    if let Ok(image) = open(false, true, bytes.to_vec()) {
        let _ = image.check(Repair::All, &mut |_| {});
        read_some(random, &image);
    }
    let Ok(image) = open(false, false, bytes.to_vec()) else {
        return;
    };
    for _ in 0..10 {
        let step = model::step(random, image.len().clamp(512, SIZE), cluster_size);
        let done = model::perform(&image, step);
        assert!(
            !sound || image.len() != SIZE || done.is_ok(),
            "a sound image refused {step:?}: {done:?}"
        );
    }
    let _ = image.create_snapshot("another");
    let _ = image.apply_snapshot("s0");
    let _ = image.delete_snapshot("s1");
    let _ = image.resize(random.below(2 * SIZE), Preallocation::Off);
    let _ = image.close();
}

fn read_some(random: &mut Random, image: &Qcow2) {
    let size = image.len();
    let mut buffer = vec![0; 8192];
    for at in [0, size.saturating_sub(8192), random.below(size)] {
        let _ = image.read_at(&mut buffer, at);
        let _ = image.status(at, size - at);
    }
}

#[test]
fn damaged_images_are_survived() {
    for seed in 0..1500 {
        // The last one named is the one that failed.
        println!("seed {seed}");
        let mut random = Random::new(seed);
        let (mut bytes, cluster_size) = image(&mut random);
        damage(&mut random, &mut bytes, cluster_size);
        exercise(&mut random, &bytes, cluster_size);
    }
}
