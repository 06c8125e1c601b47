//! Long transfers, which are done in parts.

use super::*;

/// Of the disk, in sectors, and of a transfer, in bytes: neither is a multiple
/// of a part's.
const DISK: u64 = 2001;
const LEN: usize = 1201 * 512;
/// The transfer's three buffers.
const LENGTHS: [u32; 3] = [1, 300_000, LEN as u32 - 300_001];
/// A place on the disk. A transfer there ends with it.
const SECTOR: u64 = 800;
const BEGIN: u64 = SECTOR * 512;

/// Where the parts begin: there, then at multiples of 64 KiB.
fn all_parts() -> Vec<u64> {
    let others = (7..16).map(|n| n << 16);
    std::iter::once(BEGIN).chain(others).collect()
}

fn long_rig(together: usize) -> (Rig, Arc<RamDisk>) {
    let (rig, disk) = rig_on(
        RamDisk::with_sectors(DISK, together),
        Options {
            write_error: Some(OnError::Report),
            ..Options::default()
        },
    );
    rig.start(FEATURES);
    (rig, disk)
}

/// Status of a transfer.
fn transfer(rig: &Rig, kind: u32) -> u8 {
    let mut header = [0; 16];
    header[..4].copy_from_slice(&kind.to_le_bytes());
    header[8..].copy_from_slice(&SECTOR.to_le_bytes());
    let at = GuestAddress(HEADER);
    rig.memory.write_slice(&header, at).unwrap();
    let flags = if kind == 0 { WRITE } else { 0 };
    let mut chain = vec![(HEADER, 16, 0)];
    let mut at = DATA;
    for len in LENGTHS {
        chain.push((at, len, flags));
        at += u64::from(len);
    }
    chain.push((STATUS, 1, WRITE));
    let used = rig.serve(&chain);
    let status = rig.memory.read_obj(GuestAddress(STATUS)).unwrap();
    let data = if kind == 0 && status == 0 { LEN } else { 0 };
    assert_eq!(used, 1 + data as u32);
    status
}

/// Bytes that differ from part to part and within them.
fn pattern() -> Vec<u8> {
    (0..LEN).map(|i| (i % 251) as u8).collect()
}

/// Offsets of the parts that were done.
fn parts(disk: &RamDisk, what: &str) -> Vec<u64> {
    let log = disk.take_log();
    let offset = |line: &String| line.strip_prefix(what)?.trim().parse().ok();
    let mut offsets: Vec<u64> = log.iter().filter_map(offset).collect();
    assert_eq!(offsets.len(), log.len(), "{log:?}");
    offsets.sort_unstable();
    offsets
}

#[test]
fn several_threads_do_a_long_transfer() {
    // No part ends before another thread has begun one.
    let (rig, disk) = long_rig(2);
    disk.bytes.lock()[BEGIN as usize..].copy_from_slice(&pattern());
    assert_eq!(transfer(&rig, 0), 0);
    assert!(data(&rig, LEN) == pattern());
    assert_eq!(parts(&disk, "read"), all_parts());
    let fresh: Vec<u8> = pattern().iter().map(|b| !b).collect();
    rig.memory.write_slice(&fresh, GuestAddress(DATA)).unwrap();
    *disk.inside.lock() = 0;
    assert_eq!(transfer(&rig, 1), 0);
    assert!(disk.bytes.lock()[BEGIN as usize..] == fresh);
    assert_eq!(parts(&disk, "write"), all_parts());
}

#[test]
fn an_error_in_any_part_is_the_transfers() {
    let (rig, disk) = long_rig(1);
    for round in 0..20 {
        for bad in [BEGIN, all_parts()[2], DISK * 512 - 1] {
            disk.bad.store(bad, Ordering::SeqCst);
            let kind = round % 2;
            assert_eq!(transfer(&rig, kind), 1, "{kind} {bad}");
            disk.bad.store(u64::MAX, Ordering::SeqCst);
            assert_eq!(transfer(&rig, kind), 0, "{kind} {bad}");
        }
    }
    assert_eq!(rig.status(), 0xf);
}

#[test]
fn a_stop_waits_for_those_who_help() {
    let (rig, disk) = long_rig(1);
    for _ in 0..50 {
        assert_eq!(transfer(&rig, 0), 0);
        rig.set_status(0);
        assert_eq!(parts(&disk, "read"), all_parts());
        rig.start(FEATURES);
    }
}

#[test]
fn what_is_durable_at_once_is_written_at_once() {
    let (rig, disk) = long_rig(1);
    rig.write(0x2020, 1, 0);
    assert_eq!(transfer(&rig, 1), 0);
    assert_eq!(disk.take_log(), [format!("write {BEGIN}"), "flush".into()]);
}

#[test]
fn what_the_host_does_one_after_the_other_is_begun_so() {
    let (rig, disk) = long_rig(1);
    *disk.division.lock() = disk::Division::Alone;
    let mut header = [0; 16];
    header[0] = 1;
    let at = GuestAddress(HEADER);
    rig.memory.write_slice(&header, at).unwrap();
    let chain = [
        (HEADER, 16, NEXT),
        (DATA, 128 << 10, NEXT),
        (STATUS, 1, WRITE),
    ];
    for (at, buffer) in (0..).zip(chain) {
        rig.descriptor(DESCRIPTORS, at, buffer);
    }
    // The same ones again and again.
    (0..SIZE).for_each(|_| rig.offer(0));
    // However slow they are, which calls for threads.
    rig.wait_used(SIZE);
    assert_eq!(*disk.alone.lock(), (0, 1));
}

#[test]
fn what_is_behind_the_end_of_the_file_is_zero() {
    let name = format!("trapeze-long-{}", std::process::id());
    let path = std::env::temp_dir().join(name);
    // The file ends in the last part and in the middle of a sector.
    let whole = pattern();
    let there = LEN - 300;
    let bytes = [vec![7; BEGIN as usize], whole[..there].to_vec()].concat();
    std::fs::write(&path, bytes).unwrap();
    let options = disk::DiskOptions {
        format: Some(disk::Format::Raw),
        ..Default::default()
    };
    let image = disk::Disk::open(path.to_str().unwrap(), &options).unwrap();
    std::fs::remove_file(&path).unwrap();
    let rig = Rig::new(Arc::new(Blk::new(Arc::new(image), Options::default())));
    rig.start(FEATURES);
    let room = vec![9; LEN];
    rig.memory.write_slice(&room, GuestAddress(DATA)).unwrap();
    assert_eq!(transfer(&rig, 0), 0);
    let read = data(&rig, LEN);
    assert!(read[..there] == whole[..there] && read[there..] == [0; 300]);
}
