//! Several threads on one image: each owns blocks of its own, which lie
//! between the others' in the same clusters, and finds in them what it wrote.

mod support;

use disk::qcow2::{self, CreateOptions, Qcow2, Qcow2Options, Repair};
use disk::{BlockDevice, BlockDeviceExt, Dest, Extent, IoResult, Raw, Source, Storage};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use support::memory::MemoryFile;
use support::model::{self, Step};
use support::random::Random;

const SIZE: u64 = 2 << 20;
const THREADS: u64 = 4;

/// The blocks of one thread, and what they must contain.
struct Owner {
    number: u64,
    block: u64,
    random: Random,
    /// `None`: anything, after a discard.
    fills: Vec<Option<Vec<u8>>>,
}

impl Owner {
    fn new(number: u64, block: u64, seed: u64, initial: u8) -> Self {
        let blocks = SIZE / block / THREADS;
        Self {
            number,
            block,
            random: Random::new(seed * 100 + number),
            fills: vec![Some(vec![initial; block as usize]); blocks as usize],
        }
    }

    fn offset(&self, index: u64) -> u64 {
        (index * THREADS + self.number) * self.block
    }

    fn work(&mut self, disk: &dyn BlockDevice, rounds: u32) {
        for _ in 0..rounds {
            let index = self.random.below(self.fills.len() as u64);
            let (offset, len) = (self.offset(index), self.block);
            let fill = self.random.next() as u8;
            let step = match self.random.below(12) {
                0 => Step::Flush,
                1 => Step::Discard { offset, len },
                2 => Step::Zero {
                    offset,
                    len,
                    unmap: self.random.chance(2),
                },
                3..6 => {
                    self.verify(disk, index);
                    continue;
                }
                _ => Step::Write { offset, len, fill },
            };
            model::perform(disk, step).unwrap_or_else(|e| panic!("{step:?}: {e}"));
            let all = offset..offset + len;
            self.fills[index as usize] = match step {
                Step::Write { .. } => Some(all.map(|i| model::pattern(fill, i)).collect()),
                Step::Zero { .. } => Some(vec![0; len as usize]),
                Step::Discard { .. } => None,
                Step::Flush => continue,
            };
        }
    }

    fn verify(&self, disk: &dyn BlockDevice, index: u64) {
        let mut found = vec![0xee; self.block as usize];
        let offset = self.offset(index);
        disk.read_at(&mut found, offset).expect("memory");
        if let Some(expected) = &self.fills[index as usize] {
            assert!(
                found == *expected,
                "thread {} block at {offset:#x}: found {:#x}, wrote {:#x}",
                self.number,
                found[0],
                expected[0]
            );
        }
    }

    fn verify_all(&self, disk: &dyn BlockDevice) {
        for index in 0..self.fills.len() as u64 {
            self.verify(disk, index);
        }
    }
}

#[test]
fn threads_do_not_disturb_each_other() {
    for seed in 0..24 {
        let mut random = Random::new(seed);
        let cluster_size = random.pick(&[512, 4096, 16384, 65536]);
        let block = random.pick(&[512, 4096, cluster_size]);
        let what = format!("seed {seed} clusters {cluster_size} blocks {block}");
        println!("{what}");
        let file = Arc::new(MemoryFile::default());
        let options = CreateOptions {
            size: SIZE,
            cluster_size,
            lazy_refcounts: random.chance(3),
            ..CreateOptions::default()
        };
        qcow2::create(file.clone(), &options).expect("memory");
        let backed = random.chance(2);
        let base: Arc<dyn Storage> = Arc::new(MemoryFile::of(vec![0x31; SIZE as usize]));
        let backing = backed.then(|| {
            let raw = Raw::open(base, true, false).expect("memory");
            Arc::new(raw) as Arc<dyn BlockDevice>
        });
        let qcow2_options = Qcow2Options {
            backing,
            // Often so small that pieces are dropped and read all the time.
            l2_cache: random.chance(2).then_some(2 * 4096),
            ..Qcow2Options::default()
        };
        let image = Qcow2::open(file.clone(), qcow2_options.clone()).expect("memory");
        let initial = if backed { 0x31 } else { 0 };
        let mut owners: Vec<Owner> = (0..THREADS)
            .map(|n| Owner::new(n, block, seed, initial))
            .collect();
        run(&image, &mut owners, &mut random);
        owners.iter().for_each(|o| o.verify_all(&image));
        image.close().unwrap_or_else(|e| panic!("{what}: {e}"));
        drop(image);
        let again = Qcow2Options {
            read_only: true,
            checking: true,
            ..qcow2_options
        };
        let image = Qcow2::open(file, again).expect("memory");
        owners.iter().for_each(|o| o.verify_all(&image));
        let mut text = String::new();
        let report = image
            .check(Repair::None, &mut |l| text += l)
            .expect("memory");
        assert_eq!((report.corruptions, report.leaks), (0, 0), "{what}: {text}");
    }
}

/// All owners at once, while somebody takes and removes snapshots.
fn run(image: &Qcow2, owners: &mut [Owner], random: &mut Random) {
    let with_snapshots = random.chance(2);
    let working = AtomicBool::new(true);
    std::thread::scope(|scope| {
        let workers: Vec<_> = owners
            .iter_mut()
            .map(|owner| scope.spawn(|| owner.work(image, 300)))
            .collect();
        let (working, image) = (&working, &image);
        scope.spawn(move || {
            for _ in 0..if with_snapshots { 10 } else { 0 } {
                if !working.load(Ordering::Relaxed) {
                    break;
                }
                image.create_snapshot("s").expect("memory");
                image.delete_snapshot("s").expect("memory");
            }
        });
        let ended: Vec<_> = workers.into_iter().map(|w| w.join()).collect();
        working.store(false, Ordering::Relaxed);
        assert!(ended.iter().all(|e| e.is_ok()), "a worker failed");
    });
}

/// A file whose writes of a certain byte wait until they are let go.
struct Held {
    file: MemoryFile,
    byte: u8,
    state: Mutex<(bool, bool)>,
    changed: Condvar,
}

impl Held {
    fn new(byte: u8) -> Self {
        Self {
            file: MemoryFile::default(),
            byte,
            state: Mutex::new((false, false)),
            changed: Condvar::new(),
        }
    }

    /// Waits until a write waits.
    fn await_write(&self) {
        let mut state = self.state.lock().expect("no panic");
        while !state.0 {
            state = self.changed.wait(state).expect("no panic");
        }
    }

    fn let_go(&self) {
        self.state.lock().expect("no panic").1 = true;
        self.changed.notify_all();
    }

    fn hold(&self) {
        let mut state = self.state.lock().expect("no panic");
        state.0 = true;
        self.changed.notify_all();
        while !state.1 {
            state = self.changed.wait(state).expect("no panic");
        }
    }
}

impl Storage for Held {
    fn read_vectored_at(&self, buffers: &[Dest], offset: u64) -> IoResult<()> {
        self.file.read_vectored_at(buffers, offset)
    }

    fn write_vectored_at(&self, buffers: &[Source], offset: u64) -> IoResult<()> {
        let mut first = [0];
        buffers[0].read(&mut first);
        if first[0] == self.byte {
            self.hold();
        }
        self.file.write_vectored_at(buffers, offset)
    }

    fn flush(&self) -> IoResult<()> {
        self.file.flush()
    }

    fn length(&self) -> IoResult<u64> {
        self.file.length()
    }

    fn set_len(&self, len: u64) -> IoResult<()> {
        self.file.set_len(len)
    }

    fn allocate(&self, offset: u64, len: u64) -> IoResult<()> {
        self.file.allocate(offset, len)
    }

    fn zero(&self, offset: u64, len: u64, unmap: bool) -> IoResult<()> {
        self.file.zero(offset, len, unmap)
    }

    fn extent(&self, offset: u64, len: u64) -> IoResult<Extent> {
        self.file.extent(offset, len)
    }

    fn alignment(&self) -> u32 {
        1
    }

    fn space_used(&self) -> IoResult<u64> {
        self.file.space_used()
    }
}

/// A guest discards a cluster while its own write there is still under way.
/// The cluster's place in the file must not go to somebody else before that
/// write has ended.
#[test]
fn a_late_write_hits_nobody_else() {
    const CLUSTER: usize = 65536;
    let file = Arc::new(Held::new(0x99));
    let options = CreateOptions {
        size: SIZE,
        ..CreateOptions::default()
    };
    qcow2::create(file.clone(), &options).expect("memory");
    let image = Qcow2::open(file.clone(), Qcow2Options::default()).expect("memory");
    image.write_at(&[1; CLUSTER], 0).expect("memory");
    image.flush().expect("memory");
    std::thread::scope(|scope| {
        let late = scope.spawn(|| image.write_at(&[0x99; CLUSTER], 0));
        file.await_write();
        image.discard(0, CLUSTER as u64).expect("memory");
        for _ in 0..4 {
            image.flush().expect("memory");
        }
        for n in 1..8 {
            image
                .write_at(&[2; CLUSTER], n * CLUSTER as u64)
                .expect("memory");
        }
        file.let_go();
        late.join().expect("no panic").expect("memory");
    });
    for n in 1..8 {
        let mut found = [0; CLUSTER];
        image
            .read_at(&mut found, n * CLUSTER as u64)
            .expect("memory");
        assert!(found == [2; CLUSTER], "cluster {n} has the late write");
    }
    // Afterwards the place can be used again.
    image.flush().expect("memory");
    image.flush().expect("memory");
    let before = file.length().expect("memory");
    image.write_at(&[3; CLUSTER], 0).expect("memory");
    image.close().expect("memory");
    assert_eq!(file.length(), Ok(before));
}
