//! Bytes on their way out of the guest.
//!
//! A guest sends single bytes; a host call for each would dominate a boot.
//! Bytes for files and terminals gather in a buffer that a writer thread
//! empties at once, but not again within a short time in which more may come.

use super::ring::Ring;
use crate::memory_serial::MemorySerial;
use devices::uart::ByteSink;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A guest that sends faster than the host reads waits beyond this.
const CAPACITY: usize = 64 << 10;
/// How long the writer lets bytes gather after others.
const GATHER: Duration = Duration::from_micros(500);
/// How often a guest that waits for the host looks whether the machine ends.
const LOOK: Duration = Duration::from_millis(50);
/// How long the end of a machine waits for a reader that takes nothing.
const PATIENCE: Duration = Duration::from_secs(1);

/// The host end of a transmitter.
pub struct Output {
    target: Target,
    panic_watch: PanicWatch,
    /// Gets the same.
    copy: Option<Box<Output>>,
}

enum Target {
    Discard,
    Memory(MemorySerial),
    Ring(Ring),
    Buffered(Writer),
}

struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// The machine is about to end: nobody waits for the reader any more.
    ending: Arc<AtomicBool>,
    state: Mutex<State>,
    /// The writer has something to do.
    work: Condvar,
    /// The buffer shrank, or all of it was written.
    drained: Condvar,
}

#[derive(Default)]
struct State {
    buffer: Vec<u8>,
    writing: bool,
    closed: bool,
}

impl Output {
    /// Drops everything.
    pub fn discard() -> Self {
        Self::with(Target::Discard)
    }

    /// Keeps everything in memory.
    pub fn to_memory(memory: MemorySerial) -> Self {
        Self::with(Target::Memory(memory))
    }

    /// Keeps the last bytes.
    pub fn to_ring(ring: Ring) -> Self {
        Self::with(Target::Ring(ring))
    }

    /// Writes to a file, pipe, socket or terminal.
    /// Once `ending` is set, bytes that find the buffer full are dropped.
    pub fn to_file(mut file: impl Write + Send + 'static, ending: Arc<AtomicBool>) -> Self {
        let shared = Arc::new(Shared {
            ending,
            ..Shared::default()
        });
        let for_thread = shared.clone();
        let work = move || for_thread.write_until_closed(&mut file);
        let thread = std::thread::Builder::new().name("serial-output".into());
        let thread = thread.spawn(work).ok();
        Self::with(Target::Buffered(Writer { shared, thread }))
    }

    fn with(target: Target) -> Self {
        Self {
            target,
            panic_watch: PanicWatch::default(),
            copy: None,
        }
    }

    /// Gives everything to `copy`, too.
    pub fn copy_to(&mut self, copy: Self) {
        self.copy = Some(Box::new(copy));
    }

    /// Writes a text of our own.
    pub fn print(&self, text: &str) {
        self.print_bytes(text.as_bytes());
    }

    /// Writes bytes of our own.
    pub fn print_bytes(&self, bytes: &[u8]) {
        match &self.target {
            Target::Discard => {}
            Target::Memory(memory) => memory.append(bytes),
            Target::Ring(ring) => ring.write(bytes),
            Target::Buffered(writer) => {
                let pieces = bytes.chunks(CAPACITY / 2);
                pieces.for_each(|piece| writer.shared.append(piece));
            }
        }
        if let Some(copy) = &self.copy {
            copy.print_bytes(bytes);
        }
    }

    /// Takes bytes of the guest, as many as there is room for.
    pub fn offer(&self, bytes: &[u8]) -> usize {
        let taken = match &self.target {
            Target::Discard => bytes.len(),
            Target::Memory(memory) => {
                memory.append(bytes);
                bytes.len()
            }
            Target::Ring(ring) => {
                ring.write(bytes);
                bytes.len()
            }
            Target::Buffered(writer) => writer.shared.offer(bytes),
        };
        bytes[..taken]
            .iter()
            .for_each(|&b| self.panic_watch.take(b));
        if let Some(copy) = &self.copy {
            copy.print_bytes(&bytes[..taken]);
        }
        taken
    }

    /// Waits a moment for room.
    pub fn wait_for_room(&self) {
        if let Target::Buffered(writer) = &self.target {
            let mut state = writer.shared.state.lock();
            if state.buffer.len() >= CAPACITY {
                writer.shared.drained.wait_for(&mut state, LOOK);
            }
        }
    }

    /// Waits until everything was written.
    pub fn flush(&self) {
        if let Target::Buffered(writer) = &self.target {
            let _ = writer.flush();
        }
        if let Some(copy) = &self.copy {
            copy.flush();
        }
    }

    /// Whether a Linux kernel reported its panic on this console and said
    /// little since.
    pub fn saw_kernel_panic(&self) -> bool {
        self.panic_watch.recent()
    }
}

impl ByteSink for Output {
    fn put(&self, byte: u8) {
        self.panic_watch.take(byte);
        self.print_bytes(&[byte]);
    }
}

impl Writer {
    /// False if the reader took nothing for too long.
    fn flush(&self) -> bool {
        let mut state = self.shared.state.lock();
        let alive = self.thread.as_ref().is_some_and(|t| !t.is_finished());
        while alive && (state.writing || !state.buffer.is_empty()) {
            let waited = self.shared.drained.wait_for(&mut state, PATIENCE);
            if waited.timed_out() {
                return false;
            }
        }
        alive
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let done = self.flush();
        self.shared.state.lock().closed = true;
        self.shared.work.notify_all();
        // A thread that is stuck in a write is left behind.
        if let Some(thread) = self.thread.take().filter(|_| done) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn append(&self, bytes: &[u8]) {
        let mut state = self.state.lock();
        while state.buffer.len() + bytes.len() > CAPACITY {
            if state.closed || self.ending.load(Ordering::Acquire) {
                return;
            }
            self.drained.wait_for(&mut state, LOOK);
        }
        self.put(state, bytes);
    }

    /// Takes what there is room for.
    fn offer(&self, bytes: &[u8]) -> usize {
        let state = self.state.lock();
        let room = CAPACITY.saturating_sub(state.buffer.len());
        let n = room.min(bytes.len());
        let drops = state.closed || self.ending.load(Ordering::Acquire);
        self.put(state, &bytes[..n]);
        if drops { bytes.len() } else { n }
    }

    fn put(&self, mut state: MutexGuard<'_, State>, bytes: &[u8]) {
        let idle = state.buffer.is_empty() && !state.writing;
        state.buffer.extend_from_slice(bytes);
        drop(state);
        if idle {
            self.work.notify_one();
        }
    }

    /// The writer thread. A target that takes no more bytes (a closed pipe)
    /// swallows the rest: the guest goes on.
    fn write_until_closed(&self, file: &mut impl Write) {
        let mut broken = false;
        let mut gathered = Instant::now();
        let mut state = self.state.lock();
        loop {
            while state.buffer.is_empty() {
                if state.closed {
                    return;
                }
                self.work.wait(&mut state);
            }
            state.writing = true;
            let rest = gathered.saturating_duration_since(Instant::now());
            if !rest.is_zero() {
                parking_lot::MutexGuard::unlocked(&mut state, || std::thread::sleep(rest));
            }
            let bytes = std::mem::take(&mut state.buffer);
            self.drained.notify_all();
            parking_lot::MutexGuard::unlocked(&mut state, || {
                broken = broken || write_all(file, &bytes).is_err();
            });
            state.writing = false;
            self.drained.notify_all();
            gathered = Instant::now() + GATHER;
        }
    }
}

/// Like `write_all`, also where somebody made the terminal non-blocking.
fn write_all(file: &mut impl Write, mut bytes: &[u8]) -> std::io::Result<()> {
    use std::io::ErrorKind::{Interrupted, WouldBlock};
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(std::io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.kind() == Interrupted => {}
            Err(e) if e.kind() == WouldBlock => std::thread::sleep(LOOK),
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Recognises a Linux kernel's panic report. A kernel with `panic=-1` resets
/// the machine right after it; without a pvpanic driver in the guest this is
/// the only difference from an ordinary reboot.
#[derive(Default)]
struct PanicWatch {
    /// Number of bytes of [`REPORT`] matched so far.
    matched: AtomicU64,
    /// Bytes sent since the report, or 0 if there was none.
    since: AtomicU64,
}

const REPORT: &[u8] = b"Kernel panic - not syncing";
/// A report is followed by a stack trace, not by another life.
const RECENT: u64 = 16 << 10;

impl PanicWatch {
    fn take(&self, byte: u8) {
        let matched = self.matched.load(Ordering::Relaxed) as usize;
        let next = match byte {
            b if REPORT[matched] == b => matched + 1,
            // No proper prefix of the report is also its suffix but "K".
            b if REPORT[0] == b => 1,
            _ => 0,
        };
        let since = self.since.load(Ordering::Relaxed);
        if next == REPORT.len() {
            self.since.store(1, Ordering::Relaxed);
        } else if since > 0 {
            self.since.store(since + 1, Ordering::Relaxed);
        }
        self.matched
            .store((next % REPORT.len()) as u64, Ordering::Relaxed);
    }

    fn recent(&self) -> bool {
        (1..=RECENT).contains(&self.since.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn recognises_a_panic_report() {
        let output = Output::discard();
        let send = |text: &str| text.bytes().for_each(|b| output.put(b));
        send("[ 1.0] Kernel panic - not sync");
        assert!(!output.saw_kernel_panic());
        send("KKernel panic - not syncing: VFS");
        assert!(output.saw_kernel_panic());
        send(&"x".repeat(20_000));
        assert!(!output.saw_kernel_panic());
    }

    #[test]
    fn a_file_gets_every_byte_in_order() {
        let path = std::env::temp_dir().join(format!("trapeze-output-{}", std::process::id()));
        let text: Vec<u8> = (0..200_000u32).map(|i| (i % 253) as u8).collect();
        let output = Output::to_file(File::create(&path).unwrap(), Arc::default());
        text.iter().for_each(|&b| output.put(b));
        output.flush();
        let written = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(written == text);
    }

    #[test]
    fn a_copy_gets_what_the_target_took() {
        let (target, copy) = (MemorySerial::new(), MemorySerial::new());
        let mut output = Output::to_memory(target.clone());
        output.copy_to(Output::to_memory(copy.clone()));
        output.put(b'a');
        assert_eq!(output.offer(b"bc"), 2);
        output.print("d");
        assert_eq!((&*target.output(), &*copy.output()), ("abcd", "abcd"));
    }

    #[test]
    fn a_stuck_reader_does_not_keep_the_machine_from_ending() {
        let (_stuck, write_end) = std::io::pipe().unwrap();
        let ending = Arc::new(AtomicBool::new(true));
        let file = File::from(std::os::fd::OwnedFd::from(write_end));
        let output = Output::to_file(file, ending);
        (0..1_000_000).for_each(|_| output.put(b'x'));
    }

    #[test]
    fn a_broken_pipe_does_not_stop_the_guest() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = Output::to_file(full, Arc::default());
        (0..100_000).for_each(|_| output.put(b'x'));
        output.flush();
    }
}
