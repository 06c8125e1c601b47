//! Where clusters of an image come to lie: neighbours on the disk are
//! neighbours in the file, in whatever order they are written.

mod support;

use disk::qcow2::{self, CheckReport, CreateOptions, Qcow2, Qcow2Options, Repair};
use disk::{BlockDevice, BlockDeviceExt};
use std::sync::Arc;
use support::memory::MemoryFile;
use support::random::Random;

const CLUSTER: u64 = 1 << 12;
/// What is kept together: 64 clusters of this size.
const REGION: u64 = 64 * CLUSTER;
const REGIONS: u64 = 8;
const SIZE: u64 = REGIONS * REGION;

fn image(size: u64) -> (Arc<MemoryFile>, Qcow2) {
    let file = Arc::new(MemoryFile::default());
    let options = CreateOptions {
        size,
        cluster_size: CLUSTER,
        ..CreateOptions::default()
    };
    qcow2::create(file.clone(), &options).expect("in memory");
    let image = open(&file);
    (file, image)
}

fn open(file: &Arc<MemoryFile>) -> Qcow2 {
    Qcow2::open(file.clone(), Qcow2Options::default()).expect("whole")
}

/// All clusters of a disk in a random order.
fn shuffled(seed: u64) -> Vec<u64> {
    let mut random = Random::new(seed);
    let mut all: Vec<u64> = (0..SIZE / CLUSTER).collect();
    for n in (1..all.len()).rev() {
        all.swap(n, random.below(n as u64 + 1) as usize);
    }
    all
}

fn write(image: &Qcow2, cluster: u64, fill: u8) {
    // A part of it: the rest must read as zeros.
    let at = cluster * CLUSTER + 512;
    image.write_at(&[fill; 1024], at).expect("in memory");
}

fn verify(image: &Qcow2, cluster: u64, fill: u8) {
    let mut bytes = [0xee; CLUSTER as usize];
    let at = cluster * CLUSTER;
    image.read_at(&mut bytes, at).expect("in memory");
    let (before, rest) = bytes.split_at(512);
    let (written, behind) = rest.split_at(1024);
    assert!(written.iter().all(|b| *b == fill), "cluster {cluster}");
    assert!(before.iter().chain(behind).all(|b| *b == 0), "{cluster}");
}

fn checked(image: &Qcow2) -> CheckReport {
    let mut said = String::new();
    let say = &mut |line: &str| said.push_str(line);
    let report = image.check(Repair::None, say).expect("in memory");
    assert_eq!((report.corruptions, report.leaks), (0, 0), "{said}");
    report
}

/// The file's pieces that hold a region.
fn pieces(image: &Qcow2, region: u64) -> usize {
    let end = (region + 1) * REGION;
    let mut at = region * REGION;
    let mut next = None;
    let mut pieces = 0;
    while at < end {
        let status = image.status(at, end - at).expect("in memory");
        pieces += usize::from(status.host_offset != next);
        next = status.host_offset.map(|h| h + status.len);
        at += status.len;
    }
    pieces
}

#[test]
fn neighbours_stay_together_in_any_order_of_writes() {
    for seed in 0..8 {
        let (file, image) = image(SIZE);
        for cluster in shuffled(seed) {
            write(&image, cluster, seed as u8 + 1);
        }
        for region in 0..REGIONS {
            assert_eq!(pieces(&image, region), 1, "seed {seed} region {region}");
        }
        checked(&image);
        drop(image);
        let image = open(&file);
        for cluster in 0..SIZE / CLUSTER {
            verify(&image, cluster, seed as u8 + 1);
        }
    }
}

#[test]
fn what_is_written_later_comes_to_its_neighbours() {
    let (file, mut image) = image(SIZE);
    for clusters in shuffled(7).chunks(40) {
        for &cluster in clusters {
            write(&image, cluster, 7);
        }
        drop(image);
        image = open(&file);
    }
    for region in 0..REGIONS {
        assert_eq!(pieces(&image, region), 1, "region {region}");
    }
    let report = checked(&image);
    let data = report.allocated_clusters * CLUSTER;
    let end = report.image_end_offset;
    assert!(end < data + REGION, "{data} bytes of data in {end}");
    for cluster in 0..SIZE / CLUSTER {
        verify(&image, cluster, 7);
    }
}

#[test]
fn in_order_clusters_follow_each_other_as_they_are_written() {
    let (file, _) = image(SIZE);
    let options = Qcow2Options {
        in_order: true,
        ..Qcow2Options::default()
    };
    let image = Qcow2::open(file, options).expect("whole");
    let mut places = Vec::new();
    for cluster in shuffled(3) {
        write(&image, cluster, 1);
        let status = image.status(cluster * CLUSTER, 1).expect("in memory");
        places.push(status.host_offset.expect("data"));
    }
    let follows = |w: &[u64]| w[1] == w[0] + CLUSTER;
    let breaks = places.windows(2).filter(|w| !follows(w)).count();
    // A table for each 512 of them lies between.
    assert!(breaks <= 2, "{breaks} of {}", places.len());
}

#[test]
fn regions_move_on_from_what_a_snapshot_keeps() {
    let (_, image) = image(SIZE);
    let order = shuffled(9);
    for &cluster in &order {
        write(&image, cluster, 3);
    }
    image.create_snapshot("before").expect("in memory");
    for &cluster in &order {
        write(&image, cluster, 4);
    }
    for region in 0..REGIONS {
        assert_eq!(pieces(&image, region), 1, "region {region}");
    }
    checked(&image);
    image.apply_snapshot("before").expect("in memory");
    for &cluster in &order {
        verify(&image, cluster, 3);
    }
}

#[test]
fn discarded_and_written_again_for_long_the_file_stays_small() {
    let (_, image) = image(SIZE);
    let mut random = Random::new(4);
    for round in 0..40 {
        for cluster in shuffled(round) {
            if random.chance(3) {
                image
                    .discard(cluster * CLUSTER, CLUSTER)
                    .expect("in memory");
            } else {
                write(&image, cluster, round as u8);
            }
        }
        image.flush().expect("in memory");
    }
    let report = checked(&image);
    let data = report.allocated_clusters * CLUSTER;
    let end = report.image_end_offset;
    assert!(end < 2 * SIZE, "{data} bytes of data in {end}");
}
