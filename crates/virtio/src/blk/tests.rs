//! Requests through the PCI transport on a disk in memory.

mod long;

use super::*;
use crate::testing::*;
use disk::{BlockSizes, Dest, Errno, IoResult, Preallocation, Source, Status};
use parking_lot::{Condvar, MutexGuard};
use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use vm_memory::{Bytes, GuestAddress};

const SECTORS: u64 = 64;
const HEADER: u64 = BUFFERS;
const STATUS: u64 = BUFFERS + 0x100;
const DATA: u64 = BUFFERS + 0x1000;
/// Long enough for a request to be slow.
const PAUSE: Duration = Duration::from_millis(1);
const FEATURES: u64 = feature::FLUSH | feature::DISCARD | feature::WRITE_ZEROES;

struct RamDisk {
    bytes: Mutex<Vec<u8>>,
    log: Mutex<Vec<String>>,
    fails: AtomicBool,
    /// Transfers of this byte fail.
    bad: AtomicU64,
    /// Requests end when so many are there.
    together: usize,
    inside: Mutex<usize>,
    changed: Condvar,
    division: Mutex<disk::Division>,
    /// Transfers of a disk that does one after the other: how many there are,
    /// and how many there were at most.
    alone: Mutex<(u32, u32)>,
}

impl RamDisk {
    fn new() -> Arc<Self> {
        Self::with_company(1)
    }
    fn with_company(together: usize) -> Arc<Self> {
        Self::with_sectors(SECTORS, together)
    }
    fn with_sectors(sectors: u64, together: usize) -> Arc<Self> {
        let bytes = (0..sectors * 512).map(|i| (i / 512) as u8).collect();
        Arc::new(Self {
            bytes: Mutex::new(bytes),
            log: Mutex::default(),
            fails: AtomicBool::new(false),
            bad: AtomicU64::new(u64::MAX),
            together,
            inside: Mutex::new(0),
            changed: Condvar::new(),
            division: Mutex::new(disk::Division::Scattered),
            alone: Mutex::default(),
        })
    }
    fn wait_for_company(&self) {
        let mut inside = self.inside.lock();
        *inside += 1;
        self.changed.notify_all();
        while *inside < self.together {
            let waited = self.changed.wait_for(&mut inside, PATIENCE);
            assert!(!waited.timed_out(), "{} of {}", *inside, self.together);
        }
    }
    fn take_time_alone(&self) {
        let mut alone = self.alone.lock();
        alone.0 += 1;
        alone.1 = alone.1.max(alone.0);
        MutexGuard::unlocked(&mut alone, || std::thread::sleep(PAUSE));
        alone.0 -= 1;
    }
    fn note(&self, what: String) -> IoResult<()> {
        self.wait_for_company();
        if *self.division.lock() == disk::Division::Alone {
            self.take_time_alone();
        }
        self.log.lock().push(what);
        match self.fails.load(Ordering::SeqCst) {
            true => Err(Errno::ENOSPC),
            false => Ok(()),
        }
    }
    fn check(&self, offset: u64, end: usize) -> IoResult<()> {
        match (offset..end as u64).contains(&self.bad.load(Ordering::SeqCst)) {
            true => Err(Errno::EIO),
            false => Ok(()),
        }
    }
    fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock())
    }
}

impl BlockDevice for RamDisk {
    fn len(&self) -> u64 {
        self.bytes.lock().len() as u64
    }
    fn read_vectored_at(&self, buffers: &[Dest], offset: u64) -> IoResult<()> {
        let bytes = self.bytes.lock();
        let mut at = offset as usize;
        for buffer in buffers {
            buffer.fill(&bytes[at..]);
            at += disk::total_len(&[*buffer]);
        }
        drop(bytes);
        self.note(format!("read {offset}"))?;
        self.check(offset, at)
    }
    fn write_vectored_at(&self, buffers: &[Source], offset: u64) -> IoResult<()> {
        let mut bytes = self.bytes.lock();
        let mut at = offset as usize;
        for buffer in buffers {
            buffer.read(&mut bytes[at..]);
            at += disk::total_len(&[*buffer]);
        }
        drop(bytes);
        self.note(format!("write {offset}"))?;
        self.check(offset, at)
    }
    fn flush(&self) -> IoResult<()> {
        self.note("flush".into())
    }
    fn discard(&self, offset: u64, len: u64) -> IoResult<()> {
        self.note(format!("discard {offset} {len}"))
    }
    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> IoResult<()> {
        self.note(format!("zeroes {offset} {len} {unmap}"))
    }
    fn block_sizes(&self) -> BlockSizes {
        BlockSizes {
            logical: 512,
            physical: 4096,
            discard: 4096,
        }
    }
    fn division(&self, _: disk::Way, _: u64, _: u64) -> disk::Division {
        *self.division.lock()
    }
    fn read_only(&self) -> bool {
        false
    }
    fn resize(&self, _: u64, _: Preallocation) -> IoResult<()> {
        Err(Errno::ENOTSUP)
    }
    fn status(&self, _: u64, _: u64) -> IoResult<Status> {
        Err(Errno::ENOTSUP)
    }
}

fn rig(options: Options) -> (Rig, Arc<RamDisk>) {
    rig_on(RamDisk::new(), options)
}

fn rig_on(disk: Arc<RamDisk>, options: Options) -> (Rig, Arc<RamDisk>) {
    let rig = Rig::new(Arc::new(Blk::new(disk.clone(), options)));
    (rig, disk)
}

/// Sends a request with one data buffer; its status and the used length.
fn request(rig: &Rig, kind: u32, sector: u64, data: (u32, u16)) -> (u8, u32) {
    let mut header = [0; 16];
    header[..4].copy_from_slice(&kind.to_le_bytes());
    header[8..].copy_from_slice(&sector.to_le_bytes());
    rig.memory
        .write_slice(&header, GuestAddress(HEADER))
        .unwrap();
    rig.memory.write_obj(0xffu8, GuestAddress(STATUS)).unwrap();
    let all = [(HEADER, 16, 0), (DATA, data.0, data.1), (STATUS, 1, WRITE)];
    let used = match data.0 {
        0 => rig.serve(&[all[0], all[2]]),
        _ => rig.serve(&all),
    };
    (rig.memory.read_obj(GuestAddress(STATUS)).unwrap(), used)
}

fn data(rig: &Rig, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rig.memory
        .read_slice(&mut bytes, GuestAddress(DATA))
        .unwrap();
    bytes
}

#[test]
fn the_configuration_describes_the_disk() {
    let (rig, _) = rig(Options::default());
    assert_eq!(rig.read(0x2000, 8), SECTORS);
    assert_eq!(rig.read(0x200c, 4), 254);
    assert_eq!(rig.read(0x2014, 4), 512);
    // 4 KiB pages of 512-byte blocks: exponent 3.
    assert_eq!(rig.read(0x2018, 1), 3);
    assert_eq!(rig.read(0x2022, 2), 1);
    assert_eq!(rig.read(0x2fff, 8), 0);
}

#[test]
fn reads_and_writes_reach_their_sectors() {
    let (rig, disk) = rig(Options::default());
    rig.start(FEATURES);
    assert_eq!(request(&rig, 0, 5, (1024, WRITE)), (0, 1025));
    let expected: Vec<u8> = [[5; 512], [6; 512]].concat();
    assert_eq!(data(&rig, 1024), expected);
    rig.memory
        .write_slice(&[9; 512], GuestAddress(DATA))
        .unwrap();
    assert_eq!(request(&rig, 1, 63, (512, 0)), (0, 1));
    assert_eq!(disk.bytes.lock()[63 * 512..], [9; 512]);
    assert_eq!(request(&rig, 4, 0, (0, 0)), (0, 1));
    assert_eq!(disk.take_log(), ["read 2560", "write 32256", "flush"]);
}

#[test]
fn a_header_may_be_in_pieces_and_share_a_buffer() {
    let (rig, disk) = rig(Options::default());
    rig.start(FEATURES);
    let mut bytes = vec![0; 16 + 512];
    bytes[0] = 1;
    bytes[8] = 2;
    bytes[16..].fill(7);
    rig.memory
        .write_slice(&bytes, GuestAddress(HEADER))
        .unwrap();
    let pieces = [(HEADER, 3, 0), (HEADER + 3, 525, 0), (STATUS, 1, WRITE)];
    assert_eq!(rig.serve(&pieces), 1);
    assert_eq!(disk.bytes.lock()[1024..1536], [7; 512]);
    // Data and status in one buffer.
    rig.memory.write_obj(0u8, GuestAddress(HEADER)).unwrap();
    let shared = [(HEADER, 16, 0), (DATA, 513, WRITE)];
    assert_eq!(rig.serve(&shared), 513);
    assert_eq!(data(&rig, 513), [&[7; 512][..], &[0]].concat());
}

#[test]
fn what_lies_outside_is_an_error_of_the_request() {
    let (rig, disk) = rig(Options::default());
    rig.start(FEATURES);
    for (sector, len) in [
        (64, 512),
        (63, 1024),
        (u64::MAX, 512),
        (1 << 55, 512),
        (0, 100),
    ] {
        assert_eq!(
            request(&rig, 0, sector, (len, WRITE)).0,
            1,
            "{sector} {len}"
        );
        assert_eq!(request(&rig, 1, sector, (len, 0)).0, 1, "{sector} {len}");
    }
    assert_eq!(disk.take_log(), [""; 0]);
    assert_eq!(request(&rig, 2, 0, (512, WRITE)).0, 2);
    assert_eq!(request(&rig, 0xffff_ffff, 0, (0, 0)).0, 2);
    assert_eq!(rig.status(), 0xf);
}

#[test]
fn segments_are_discarded_and_zeroed() {
    let (rig, disk) = rig(Options::default());
    rig.start(FEATURES);
    let segment = |sector: u64, sectors: u32, flags: u32| {
        let mut bytes = sector.to_le_bytes().to_vec();
        bytes.extend(sectors.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        rig.memory.write_slice(&bytes, GuestAddress(DATA)).unwrap();
    };
    segment(8, 16, 0);
    assert_eq!(request(&rig, 11, 0, (16, 0)).0, 0);
    segment(0, 4, 1);
    assert_eq!(request(&rig, 13, 0, (16, 0)).0, 0);
    assert_eq!(disk.take_log(), ["discard 4096 8192", "zeroes 0 2048 true"]);
    for (sector, sectors, flags, len, status) in [
        (60, 5, 0, 16, 1),
        (u64::MAX, 1, 0, 16, 1),
        (0, u32::MAX, 0, 16, 1),
        (0, 1, 2, 16, 2),
        (0, 1, 0, 15, 1),
        (0, 1, 0, 4097 * 16, 1),
    ] {
        segment(sector, sectors, flags);
        assert_eq!(
            request(&rig, 11, 0, (len, 0)).0,
            status,
            "{sector} {sectors}"
        );
    }
    assert_eq!(disk.take_log(), [""; 0]);
}

#[test]
fn the_serial_number_is_told() {
    let serial = "0123456789abcdefghijk".into();
    let (rig, _) = rig(Options {
        serial,
        ..Options::default()
    });
    rig.start(FEATURES);
    assert_eq!(request(&rig, 8, 0, (20, WRITE)), (0, 21));
    assert_eq!(data(&rig, 20), b"0123456789abcdefghij");
}

#[test]
fn without_a_write_cache_every_write_is_flushed() {
    let (rig, disk) = rig(Options::default());
    rig.start(FEATURES);
    rig.write(0x2020, 1, 0);
    request(&rig, 1, 0, (512, 0));
    assert_eq!(disk.take_log(), ["write 0", "flush"]);
    // A driver that cannot flush has no cache either; reset turns it on.
    rig.set_status(0);
    assert_eq!(rig.read(0x2020, 1), 1);
    rig.start(0);
    request(&rig, 1, 0, (512, 0));
    assert_eq!(disk.take_log(), ["write 0", "flush"]);
}

#[test]
fn errors_are_reported_or_ignored_as_asked() {
    for (policy, status) in [(OnError::Report, 1), (OnError::Ignore, 0)] {
        let (rig, disk) = rig(Options {
            write_error: Some(policy),
            ..Options::default()
        });
        rig.start(FEATURES);
        disk.fails.store(true, Ordering::SeqCst);
        assert_eq!(request(&rig, 1, 0, (512, 0)).0, status);
        assert_eq!(request(&rig, 0, 0, (512, WRITE)).0, 1);
    }
}

/// Repairs the disk and lets the machine go on, or ends it.
struct Repairer {
    disk: Arc<RamDisk>,
    goes_on: bool,
    errors: Mutex<Vec<IoError>>,
}

impl Supervisor for Repairer {
    fn stop_and_wait(&self, error: &IoError) -> Resumed {
        self.errors.lock().push(*error);
        self.disk.fails.store(false, Ordering::SeqCst);
        match self.goes_on {
            true => Resumed::Yes,
            false => Resumed::No,
        }
    }
}

fn supervised(options: Options, goes_on: bool) -> (Rig, Arc<RamDisk>, Arc<Repairer>) {
    let disk = RamDisk::new();
    let repairer = Arc::new(Repairer {
        disk: disk.clone(),
        goes_on,
        errors: Mutex::default(),
    });
    let blk = Blk::new(disk.clone(), options).supervised(repairer.clone());
    let rig = Rig::new(Arc::new(blk));
    rig.start(FEATURES);
    disk.fails.store(true, Ordering::SeqCst);
    (rig, disk, repairer)
}

#[test]
fn a_full_host_stops_the_machine_and_the_write_is_tried_again() {
    let (rig, disk, repairer) = supervised(Options::default(), true);
    assert_eq!(request(&rig, 1, 3, (512, 0)).0, 0);
    let error = IoError {
        read: false,
        errno: Errno::ENOSPC,
    };
    assert_eq!(*repairer.errors.lock(), [error]);
    assert_eq!(disk.take_log(), ["write 1536", "write 1536"]);
    // Reads are reported by default.
    disk.fails.store(true, Ordering::SeqCst);
    assert_eq!(request(&rig, 0, 0, (512, WRITE)).0, 1);
    assert_eq!(repairer.errors.lock().len(), 1);
}

#[test]
fn other_errors_stop_only_if_asked_to() {
    let asked = Options {
        read_error: Some(OnError::Stop),
        ..Options::default()
    };
    let (rig, _, repairer) = supervised(asked, true);
    assert_eq!(request(&rig, 0, 0, (512, WRITE)).0, 0);
    assert!(repairer.errors.lock()[0].read);
    // Beyond the end is no matter of space.
    assert_eq!(request(&rig, 1, SECTORS, (512, 0)).0, 1);
    assert_eq!(repairer.errors.lock().len(), 1);
}

#[test]
fn a_machine_that_ends_does_not_try_again() {
    let (rig, disk, _) = supervised(Options::default(), false);
    assert_eq!(request(&rig, 1, 3, (512, 0)).0, 1);
    assert_eq!(disk.take_log(), ["write 1536"]);
}

#[test]
fn requests_without_header_or_status_break_the_queue() {
    let chains: [&[(u64, u32, u16)]; 4] = [
        &[(HEADER, 16, 0)],
        &[(HEADER, 15, 0), (STATUS, 1, WRITE)],
        &[(STATUS, 1, WRITE)],
        &[(HEADER, 16, 0), (STATUS, 0, WRITE)],
    ];
    let (rig, _) = rig(Options::default());
    for chain in chains {
        rig.start(FEATURES);
        rig.submit(chain);
        rig.wait_vector(0);
        assert_eq!(rig.status(), 0x4f, "{chain:x?}");
        rig.set_status(0);
    }
}

/// Makes a read of sector `n` available as chain `n`: header, data and status
/// of its own.
fn offer_read(rig: &Rig, n: u16) {
    let place = u64::from(n) * 0x2000;
    let mut header = [0; 16];
    header[8] = n as u8;
    let at = GuestAddress(HEADER + place);
    rig.memory.write_slice(&header, at).unwrap();
    rig.descriptor(DESCRIPTORS, 2 * n, (HEADER + place, 16, NEXT));
    rig.descriptor(DESCRIPTORS, 2 * n + 1, (DATA + place, 513, WRITE));
    rig.offer(2 * n);
}

#[test]
fn requests_are_in_flight_together() {
    const TOGETHER: u16 = 4;
    let disk = RamDisk::with_company(TOGETHER.into());
    let (rig, _) = rig_on(disk, Options::default());
    rig.start(FEATURES);
    (0..TOGETHER).for_each(|n| offer_read(&rig, n));
    let heads = rig.wait_used(TOGETHER);
    assert_eq!(heads, BTreeSet::from([0, 2, 4, 6]));
    for n in 0..TOGETHER {
        let at = GuestAddress(DATA + u64::from(n) * 0x2000);
        let mut bytes = [9; 513];
        rig.memory.read_slice(&mut bytes, at).unwrap();
        assert_eq!((bytes[0], bytes[511], bytes[512]), (n as u8, n as u8, 0));
    }
}

#[test]
fn every_completion_is_told_however_many_share_an_interrupt() {
    let (rig, _) = rig(Options::default());
    rig.start(FEATURES);
    // Alone, then in pairs, then alone again: a completion that waited for
    // company in vain must be told, too.
    for round in 0..600 {
        let pair = (200..400).contains(&round);
        offer_read(&rig, 0);
        if pair {
            offer_read(&rig, 1);
        }
        rig.wait_used(1 + u16::from(pair));
    }
    assert_eq!(rig.status(), 0xf);
}

#[test]
fn a_reset_waits_for_requests_in_flight() {
    let disk = RamDisk::with_company(2);
    let (rig, disk) = rig_on(disk, Options::default());
    rig.start(FEATURES);
    offer_read(&rig, 0);
    let mut inside = disk.inside.lock();
    while *inside == 0 {
        disk.changed.wait(&mut inside);
    }
    drop(inside);
    std::thread::scope(|scope| {
        let reset = scope.spawn(|| rig.set_status(0));
        assert!(!reset.is_finished());
        disk.wait_for_company();
    });
    assert_eq!(disk.take_log(), ["read 0"]);
    assert_eq!(rig.status(), 0);
}
