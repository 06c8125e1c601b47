//! A file in memory. It remembers writes and flushes in their order, so that
//! any state that a crash may leave can be made.

use disk::{Dest, Errno, Extent, HostBuffer, IoResult, Source, Storage, total_len};
use std::sync::{Mutex, MutexGuard};

/// What was done to a file.
#[derive(Clone)]
pub enum Event {
    Write {
        offset: u64,
        bytes: Vec<u8>,
    },
    Truncate(u64),
    /// Everything before it is durable.
    Flush,
    /// Set by a test: so many of its own steps were acknowledged as durable.
    Mark(usize),
}

#[derive(Default)]
struct Inner {
    bytes: Vec<u8>,
    events: Vec<Event>,
    /// Bytes that may be written before the disk is full.
    budget: Option<u64>,
    fail_flushes: bool,
}

/// The file.
#[derive(Default)]
pub struct MemoryFile(Mutex<Inner>);

/// Applies an event to a file's bytes.
pub fn apply(bytes: &mut Vec<u8>, event: &Event) {
    match event {
        Event::Write { offset, bytes: new } => {
            let end = *offset as usize + new.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[*offset as usize..end].copy_from_slice(new);
        }
        Event::Truncate(len) => bytes.resize(*len as usize, 0),
        Event::Flush | Event::Mark(_) => {}
    }
}

impl MemoryFile {
    pub fn of(bytes: Vec<u8>) -> Self {
        Self(Mutex::new(Inner {
            bytes,
            ..Inner::default()
        }))
    }

    /// Lets other threads run now and then, as a slow disk does.
    fn pause(&self) {
        std::thread::yield_now();
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no panic inside")
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.inner().bytes.clone()
    }

    /// What happened since the last call.
    pub fn take_events(&self) -> Vec<Event> {
        std::mem::take(&mut self.inner().events)
    }

    pub fn mark(&self, number: usize) {
        self.inner().events.push(Event::Mark(number));
    }

    /// The disk is full after so many bytes more.
    pub fn set_budget(&self, budget: Option<u64>) {
        self.inner().budget = budget;
    }

    pub fn fail_flushes(&self, fail: bool) {
        self.inner().fail_flushes = fail;
    }

    fn happen(&self, event: Event) {
        let mut inner = self.inner();
        apply(&mut inner.bytes, &event);
        inner.events.push(event);
    }
}

impl Storage for MemoryFile {
    fn read_vectored_at(&self, buffers: &[Dest], offset: u64) -> IoResult<()> {
        self.pause();
        let inner = self.inner();
        let mut at = offset as usize;
        for buffer in buffers {
            let mut piece = vec![0; buffer.len()];
            let there = inner.bytes.get(at..).unwrap_or_default();
            let len = there.len().min(piece.len());
            piece[..len].copy_from_slice(&there[..len]);
            buffer.fill(&piece);
            at += piece.len();
        }
        Ok(())
    }

    fn write_vectored_at(&self, buffers: &[Source], offset: u64) -> IoResult<()> {
        let mut bytes = vec![0; total_len(buffers)];
        let mut at = 0;
        for buffer in buffers {
            buffer.read(&mut bytes[at..at + buffer.len()]);
            at += buffer.len();
        }
        self.pause();
        if offset + bytes.len() as u64 > 1 << 26 {
            return Err(Errno(libc::EFBIG));
        }
        if let Some(budget) = &mut self.inner().budget {
            match budget.checked_sub(bytes.len() as u64) {
                Some(left) => *budget = left,
                None => return Err(Errno::ENOSPC),
            }
        }
        self.happen(Event::Write { offset, bytes });
        Ok(())
    }

    fn flush(&self) -> IoResult<()> {
        if self.inner().fail_flushes {
            return Err(Errno::EIO);
        }
        self.happen(Event::Flush);
        Ok(())
    }

    fn length(&self) -> IoResult<u64> {
        Ok(self.inner().bytes.len() as u64)
    }

    fn set_len(&self, len: u64) -> IoResult<()> {
        if len > 1 << 26 {
            return Err(Errno(libc::EFBIG));
        }
        self.happen(Event::Truncate(len));
        Ok(())
    }

    fn allocate(&self, offset: u64, len: u64) -> IoResult<()> {
        match offset + len > self.length()? {
            true => self.set_len(offset + len),
            false => Ok(()),
        }
    }

    fn zero(&self, offset: u64, len: u64, _unmap: bool) -> IoResult<()> {
        let end = self.length()?.min(offset + len);
        if offset < end {
            self.happen(Event::Write {
                offset,
                bytes: vec![0; (end - offset) as usize],
            });
        }
        Ok(())
    }

    fn extent(&self, _offset: u64, len: u64) -> IoResult<Extent> {
        Ok(Extent { len, data: true })
    }

    fn alignment(&self) -> u32 {
        1
    }

    fn space_used(&self) -> IoResult<u64> {
        self.length()
    }
}
