//! What the vCPUs leave the guest for, recorded while somebody wants to know. While
//! nobody does it costs a vCPU one load for each exit.

use hv::VcpuExit;
use parking_lot::Mutex;
use quanta::{Clock, Instant};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// Exits of one vCPU that wait to be read; those behind them are lost.
const KEPT: usize = 1 << 16;
/// So many lost ones, and nobody reads any more: the recording ends.
const ABANDONED: u64 = 1 << 20;

/// One exit. Times are in ns since the recorder's beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitRecord {
    /// Who left.
    pub vcpu: u32,
    /// When it had entered the guest.
    pub entered_ns: u64,
    /// When it left.
    pub left_ns: u64,
    /// When that was dealt with.
    pub served_ns: u64,
    /// What for.
    pub exit: VcpuExit,
}

/// What was read of a recording.
#[derive(Debug, Default)]
pub struct Recorded {
    /// It goes on.
    pub recording: bool,
    /// The time now, on the same clock.
    pub now_ns: u64,
    /// Exits since the last time that there was no room for.
    pub lost: u64,
    /// The others, those of each vCPU in their order.
    pub exits: Vec<ExitRecord>,
}

#[derive(Default)]
struct Kept {
    exits: Vec<ExitRecord>,
    lost: u64,
}

/// The recorder of a machine.
#[derive(Default)]
pub struct Recorder {
    shared: Arc<Shared>,
    logs: Mutex<BTreeMap<u32, Arc<Mutex<Kept>>>>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// Taken from the logs, but not given out yet.
    taken: VecDeque<ExitRecord>,
    /// Empty: changes places with a log's.
    spare: Vec<ExitRecord>,
}

#[derive(Default)]
struct Shared {
    on: AtomicBool,
    /// Made when it is first wanted, since it is calibrated then.
    clock: OnceLock<(Clock, Instant)>,
}

impl Shared {
    fn clock(&self) -> &(Clock, Instant) {
        self.clock.get_or_init(|| {
            let clock = Clock::new();
            let begin = clock.now();
            (clock, begin)
        })
    }

    fn now_ns(&self) -> u64 {
        let (clock, begin) = self.clock();
        clock.now().duration_since(*begin).as_nanos() as u64
    }

    fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }
}

impl Recorder {
    /// Begins anew, or ends. What nobody has read is gone.
    pub fn switch(&self, on: bool) {
        self.shared.on.store(false, Ordering::Relaxed);
        for log in self.logs.lock().values() {
            *log.lock() = Kept::default();
        }
        *self.waiting.lock() = Waiting::default();
        self.shared.clock();
        self.shared.on.store(on, Ordering::Relaxed);
    }

    /// Takes up to `limit` exits.
    pub fn read(&self, limit: usize) -> Recorded {
        let mut waiting = self.waiting.lock();
        let Waiting { taken, spare } = &mut *waiting;
        let mut lost = 0;
        if taken.is_empty() {
            for log in self.logs.lock().values() {
                // The vCPU waits no longer than this takes, and finds room that has
                // been used before.
                let mut log = log.lock();
                lost += std::mem::take(&mut log.lost);
                std::mem::swap(&mut log.exits, spare);
                drop(log);
                taken.extend(spare.drain(..));
            }
        }
        let some = taken.len().min(limit);
        Recorded {
            recording: self.shared.is_on(),
            now_ns: self.shared.now_ns(),
            lost,
            exits: taken.drain(..some).collect(),
        }
    }

    /// For the thread of a vCPU.
    pub fn of(&self, vcpu: u32) -> Log {
        Log {
            vcpu,
            shared: self.shared.clone(),
            kept: self.logs.lock().entry(vcpu).or_default().clone(),
        }
    }
}

/// One vCPU's part.
pub struct Log {
    vcpu: u32,
    shared: Arc<Shared>,
    kept: Arc<Mutex<Kept>>,
}

impl Log {
    /// The time in ns, if somebody wants to know.
    pub fn now(&self) -> Option<u64> {
        self.shared.is_on().then(|| self.shared.now_ns())
    }

    /// An exit that was dealt with, if its times are known; when that was.
    pub fn add(&self, entered: Option<u64>, left: Option<u64>, exit: VcpuExit) -> Option<u64> {
        let served_ns = self.now()?;
        let (Some(entered_ns), Some(left_ns)) = (entered, left) else {
            return Some(served_ns);
        };
        let mut kept = self.kept.lock();
        if kept.exits.len() < KEPT {
            kept.exits.push(ExitRecord {
                vcpu: self.vcpu,
                entered_ns,
                left_ns,
                served_ns,
                exit,
            });
            return Some(served_ns);
        }
        kept.lost += 1;
        if kept.lost >= ABANDONED {
            self.shared.on.store(false, Ordering::Relaxed);
        }
        Some(served_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXIT: VcpuExit = VcpuExit::IoIn { port: 7, size: 1 };

    fn one(log: &Log) {
        let entered = log.now();
        log.add(entered, log.now(), EXIT);
    }

    #[test]
    fn nothing_is_kept_unless_asked_for() {
        let recorder = Recorder::default();
        let log = recorder.of(3);
        one(&log);
        recorder.switch(true);
        one(&log);
        // Half of one that was under way is none.
        log.add(None, log.now(), EXIT);
        let read = recorder.read(10);
        assert!(read.recording && read.lost == 0);
        let [exit] = read.exits[..] else {
            panic!("{read:?}");
        };
        assert_eq!((exit.vcpu, exit.exit), (3, EXIT));
        assert!(exit.entered_ns <= exit.left_ns && exit.left_ns <= exit.served_ns);
        assert!(exit.served_ns <= read.now_ns);
        one(&log);
        recorder.switch(false);
        one(&log);
        let read = recorder.read(10);
        assert!(!read.recording && read.exits.is_empty());
    }

    #[test]
    fn reads_are_bounded_and_in_order() {
        let recorder = Recorder::default();
        let logs = [recorder.of(0), recorder.of(1)];
        recorder.switch(true);
        for _ in 0..3 {
            logs.iter().for_each(one);
        }
        let vcpus = |read: Recorded| -> Vec<u32> { read.exits.iter().map(|e| e.vcpu).collect() };
        assert_eq!(vcpus(recorder.read(4)), [0, 0, 0, 1]);
        assert_eq!(vcpus(recorder.read(4)), [1, 1]);
    }

    #[test]
    fn an_abandoned_recording_ends() {
        let recorder = Recorder::default();
        let log = recorder.of(0);
        recorder.switch(true);
        for _ in 0..KEPT as u64 + ABANDONED + 5 {
            one(&log);
        }
        let read = recorder.read(usize::MAX);
        assert!(!read.recording);
        assert_eq!((read.exits.len(), read.lost), (KEPT, ABANDONED));
        assert!(recorder.read(1).exits.is_empty());
    }
}
