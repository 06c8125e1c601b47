//! `filter-dump`: what passes a network, in a file that tcpdump and others read.

use crate::frame::{Accepts, Frame};
use crate::{Guest, Network};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// What is written of each frame at most, unless told otherwise: QEMU's number.
const DEFAULT_LENGTH: u32 = 65_536;
/// The format's magic number, for microseconds; its version; Ethernet.
const MAGIC: u32 = 0xa1b2_c3d4;
const VERSION: [u16; 2] = [2, 4];
const ETHERNET: u32 = 1;

/// Which network, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DumpConfig {
    /// The object's name.
    pub id: String,
    /// The network's.
    pub netdev: String,
    /// The file, which is made anew.
    pub file: PathBuf,
    /// Bytes of each frame at most.
    pub max_length: u32,
}

impl Default for DumpConfig {
    fn default() -> Self {
        Self {
            id: String::new(),
            netdev: String::new(),
            file: PathBuf::new(),
            max_length: DEFAULT_LENGTH,
        }
    }
}

/// A file being written.
#[derive(Debug)]
struct Dump {
    config: DumpConfig,
    /// None after an error.
    file: Option<File>,
    /// Bytes of whole records.
    length: u64,
}

impl Dump {
    fn open(config: DumpConfig) -> Result<Self, String> {
        let failed = |e: io::Error| format!("file '{}': {e}", config.file.display());
        let mut file = File::create(&config.file).map_err(failed)?;
        let mut header = Vec::with_capacity(24);
        header.extend(MAGIC.to_le_bytes());
        header.extend(VERSION.iter().flat_map(|n| n.to_le_bytes()));
        // The time zone, and how exact times are: always 0.
        header.extend([0; 8]);
        header.extend(config.max_length.to_le_bytes());
        header.extend(ETHERNET.to_le_bytes());
        file.write_all(&header).map_err(failed)?;
        Ok(Self {
            length: header.len() as u64,
            file: Some(file),
            config,
        })
    }

    /// A full disk ends the dump, not the network.
    fn write(&mut self, bytes: &[u8]) {
        let Some(file) = &mut self.file else {
            return;
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default();
        let kept = &bytes[..bytes.len().min(self.config.max_length as usize)];
        let words = [
            now.as_secs() as u32,
            now.subsec_micros(),
            kept.len() as u32,
            bytes.len() as u32,
        ];
        let mut record: Vec<u8> = words.iter().flat_map(|n| n.to_le_bytes()).collect();
        record.extend(kept);
        match file.write_all(&record) {
            Ok(()) => self.length += record.len() as u64,
            Err(e) => {
                let (id, path) = (&self.config.id, self.config.file.display());
                log::error!("filter-dump '{id}': file '{path}': {e}: nothing more is written");
                // Half a record would be nothing that anybody reads; a pipe has none.
                _ = file.set_len(self.length);
                self.file = None;
            }
        }
    }
}

/// The dumps of a network, perhaps none; may be used from any thread.
#[derive(Debug, Default)]
pub struct Dumps {
    /// There are some: frames pass by without a lock otherwise.
    any: AtomicBool,
    all: Mutex<Vec<Dump>>,
}

impl Dumps {
    /// No panic leaves anything half done.
    fn all(&self) -> MutexGuard<'_, Vec<Dump>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins one.
    ///
    /// # Errors
    /// One line: what is wrong with the file.
    pub fn add(&self, config: DumpConfig) -> Result<(), String> {
        let dump = Dump::open(config)?;
        let mut all = self.all();
        all.push(dump);
        self.any.store(true, Ordering::Release);
        Ok(())
    }

    /// Ends one; false if it is not here.
    pub fn remove(&self, id: &str) -> bool {
        let mut all = self.all();
        let before = all.len();
        all.retain(|dump| dump.config.id != id);
        self.any.store(!all.is_empty(), Ordering::Release);
        all.len() < before
    }

    /// What they are.
    pub fn configs(&self) -> Vec<DumpConfig> {
        self.all().iter().map(|dump| dump.config.clone()).collect()
    }

    fn saw(&self, frame: &Frame) {
        if self.any.load(Ordering::Acquire) {
            self.all().iter_mut().for_each(|d| d.write(&frame.bytes));
        }
    }
}

/// A network whose frames dumps see, both ways.
pub struct Watched {
    inner: Box<dyn Network>,
    dumps: Arc<Dumps>,
}

impl Watched {
    /// Shows the network's frames to the dumps.
    pub fn new(inner: Box<dyn Network>, dumps: Arc<Dumps>) -> Self {
        Self { inner, dumps }
    }
}

struct Seen<'a>(&'a mut dyn Guest, &'a Dumps);

impl Guest for Seen<'_> {
    fn has_room(&mut self) -> bool {
        self.0.has_room()
    }
    fn deliver(&mut self, frame: &Frame) {
        self.1.saw(frame);
        self.0.deliver(frame);
    }
}

impl Network for Watched {
    fn fd(&self) -> BorrowedFd<'_> {
        self.inner.fd()
    }
    fn deadline(&self) -> Option<Instant> {
        self.inner.deadline()
    }
    fn has_carrier(&self) -> bool {
        self.inner.has_carrier()
    }
    fn takes(&self) -> Accepts {
        self.inner.takes()
    }
    fn attend(&mut self) {
        self.inner.attend();
    }
    fn accepts(&mut self, accepts: Accepts) {
        self.inner.accepts(accepts);
    }
    fn left(&mut self) {
        self.inner.left();
    }
    fn enable(&mut self, on: bool) -> io::Result<()> {
        self.inner.enable(on)
    }
    fn send(&mut self, frame: &Frame) -> bool {
        let taken = self.inner.send(frame);
        // One that is offered again is seen once.
        if taken {
            self.dumps.saw(frame);
        }
        taken
    }
    fn run(&mut self, now: Instant, guest: &mut dyn Guest) -> io::Result<()> {
        self.inner.run(now, &mut Seen(guest, &self.dumps))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Nowhere;

    fn config(file: PathBuf, max_length: u32) -> DumpConfig {
        DumpConfig {
            id: "f0".into(),
            netdev: "n0".into(),
            file,
            max_length,
        }
    }

    fn send(network: &mut Watched, bytes: &[u8]) {
        let bytes = bytes.to_vec();
        assert!(network.send(&Frame {
            bytes,
            ..Frame::default()
        }));
    }

    #[test]
    fn records_are_cut_and_end_with_the_dump() {
        let path = std::env::temp_dir().join(format!("dump-{}.pcap", std::process::id()));
        let dumps = Arc::new(Dumps::default());
        let mut network = Watched::new(Box::new(Nowhere::new().expect("one")), dumps.clone());
        send(&mut network, b"before");
        dumps.add(config(path.clone(), 4)).expect("a file");
        send(&mut network, b"abcdef");
        send(&mut network, b"gh");
        assert!(dumps.remove("f0") && !dumps.remove("f0"));
        send(&mut network, b"after");
        let bytes = std::fs::read(&path).expect("the file");
        std::fs::remove_file(&path).expect("the file");
        assert_eq!(bytes[..8], [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0]);
        assert_eq!(bytes[16..24], [4, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(bytes[32..44], *b"\x04\0\0\0\x06\0\0\0abcd");
        assert_eq!(bytes[52..], *b"\x02\0\0\0\x02\0\0\0gh");
    }

    #[test]
    fn a_full_disk_ends_the_dump_only() {
        let dumps = Dumps::default();
        // The header does not fit, either: that is an error at once.
        let why = dumps.add(config("/dev/full".into(), 4)).expect_err("full");
        assert!(why.starts_with("file '/dev/full': "), "{why}");
        let file = File::create("/dev/full").expect("it is always there");
        let mut dump = Dump {
            config: config("/dev/full".into(), 4),
            file: Some(file),
            length: 24,
        };
        dump.write(b"frame");
        assert!(dump.file.is_none());
        dump.write(b"frame");
    }
}
