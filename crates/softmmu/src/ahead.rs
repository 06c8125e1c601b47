//! Memory of the host provided before it is needed. Zeroing a large page takes the
//! host as long as translating hundreds of blocks takes us, or far longer where the
//! host is itself a guest; a thread on another CPU does it meanwhile.
#![allow(unsafe_code, reason = "madvise")]

mod used;

pub(crate) use used::Used;

use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::thread::JoinHandle;

/// Size of a large page.
const LARGE: u64 = 2 << 20;

/// Requests that may wait: who is so far behind is no help.
const MOST: usize = 8;

/// A thread that has the host provide memory; it ends with this value.
#[derive(Debug)]
pub struct Ahead {
    requests: Arc<Requests>,
    thread: Option<JoinHandle<()>>,
}

/// What is to be provided.
#[derive(Debug, Default)]
pub struct Requests {
    state: Mutex<State>,
    called: Condvar,
    done: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Range<u64>>,
    /// What the thread is at.
    current: Option<Range<u64>>,
    ended: bool,
}

impl Ahead {
    /// Starts the thread.
    ///
    /// # Errors
    /// The host has no thread to give.
    pub fn start() -> io::Result<Self> {
        let requests = Arc::new(Requests::default());
        let work = requests.clone();
        let name = std::thread::Builder::new().name("memory-ahead".into());
        let thread = name.spawn(move || work.serve())?;
        Ok(Self {
            requests,
            thread: Some(thread),
        })
    }

    /// Where to ask.
    pub fn requests(&self) -> &Arc<Requests> {
        &self.requests
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.requests.end();
        if let Some(thread) = self.thread.take() {
            // It does not panic.
            let _ = thread.join();
        }
    }
}

impl Requests {
    /// Asks for writable pages at these host addresses: private anonymous memory
    /// or memory of our own, mapped until [`Self::forget`] or the end of the
    /// thread.
    pub fn ask(&self, host: Range<u64>) {
        let mut state = self.state.lock();
        if state.waiting.len() < MOST && !host.is_empty() {
            state.waiting.push_back(host);
            drop(state);
            self.called.notify_one();
        }
    }

    /// Nothing at these addresses is touched any more once this returns.
    pub fn forget(&self, host: &Range<u64>) {
        let overlaps = |r: &Range<u64>| r.start < host.end && host.start < r.end;
        let mut state = self.state.lock();
        state.waiting.retain(|r| !overlaps(r));
        while state.current.as_ref().is_some_and(overlaps) {
            self.done.wait(&mut state);
        }
    }

    fn end(&self) {
        self.state.lock().ended = true;
        self.called.notify_one();
    }

    fn serve(&self) {
        let mut state = self.state.lock();
        while !state.ended {
            state.current = state.waiting.pop_front();
            let Some(host) = state.current.clone() else {
                self.called.wait(&mut state);
                continue;
            };
            drop(state);
            let known = provide(&host);
            state = self.state.lock();
            state.current = None;
            // Hosts before Linux 5.14 do not know what is wanted.
            state.ended |= !known;
            self.done.notify_all();
        }
    }
}

/// Has the host provide pages; false if it does not know how. Pages that are there
/// keep what they hold, and one that is not to be had is found out by who needs it.
fn provide(host: &Range<u64>) -> bool {
    let (at, len) = (host.start as *mut libc::c_void, host.end - host.start);
    // SAFETY: changes no contents; `ask` demands that the range is mapped.
    let done = unsafe { libc::madvise(at, len as usize, libc::MADV_POPULATE_WRITE) };
    done == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: usize = 64 << 10;

    /// Anonymous memory, mapped for as long as the test runs.
    fn memory() -> Range<u64> {
        let (protection, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        // SAFETY: a new mapping at an address of the kernel's choice.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), LEN, protection, flags, -1, 0) };
        assert_ne!(at, libc::MAP_FAILED);
        at as u64..at as u64 + LEN as u64
    }

    fn resident(host: &Range<u64>) -> usize {
        let mut pages = [0u8; LEN / 4096];
        // SAFETY: a mapping of LEN bytes, and a byte for each of its pages.
        let result = unsafe { libc::mincore(host.start as *mut _, LEN, pages.as_mut_ptr()) };
        assert_eq!(result, 0);
        pages.iter().filter(|p| **p & 1 != 0).count()
    }

    #[test]
    fn what_is_asked_for_is_provided_and_keeps_its_contents() {
        let (host, other) = (memory(), memory());
        // SAFETY: the mapping's first byte.
        unsafe { *(host.start as *mut u8) = 7 };
        let ahead = Ahead::start().expect("a thread");
        ahead.requests().ask(host.clone());
        while resident(&host) < LEN / 4096 {
            std::thread::yield_now();
        }
        assert_eq!(resident(&other), 0);
        // SAFETY: as above.
        assert_eq!(unsafe { *(host.start as *const u8) }, 7);
    }

    #[test]
    fn what_is_forgotten_is_left_alone() {
        let requests = Requests::default();
        let host = memory();
        requests.ask(host.clone());
        requests.ask(host.end..host.end + 1);
        requests.forget(&host);
        assert_eq!(requests.state.lock().waiting.len(), 1);
        requests.forget(&(0..u64::MAX));
        for _ in 0..2 * MOST {
            requests.ask(host.clone());
        }
        assert_eq!(requests.state.lock().waiting.len(), MOST);
        requests.end();
        requests.serve();
        assert_eq!(resident(&host), 0);
    }
}
