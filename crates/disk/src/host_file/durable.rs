//! Flushes: none that is not needed, and one for many who wait.

use crate::errno::{Errno, IoResult};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Which writes of a file are durable. Writes are numbered as they complete.
#[derive(Default)]
pub(super) struct Durable {
    written: AtomicU64,
    flushed: Mutex<Flushed>,
}

#[derive(Default)]
struct Flushed {
    /// Writes that are durable.
    number: u64,
    /// A flush failed.
    failed: Option<Errno>,
}

impl Durable {
    /// Something has been written.
    pub(super) fn written(&self) {
        self.written.fetch_add(1, Ordering::SeqCst);
    }

    /// Everything written is durable.
    #[cfg(test)]
    pub(super) fn all(&self) -> bool {
        self.flushed.lock().number == self.written.load(Ordering::SeqCst)
    }

    /// Makes durable what was written before the call; `sync` does it. Threads
    /// that come while another one syncs wait for it, and then one of them
    /// syncs for all.
    pub(super) fn flush(&self, sync: impl FnOnce() -> IoResult<()>) -> IoResult<()> {
        let wanted = self.written.load(Ordering::SeqCst);
        let mut flushed = self.flushed.lock();
        if let Some(errno) = flushed.failed {
            return Err(errno);
        }
        if flushed.number >= wanted {
            return Ok(());
        }
        // Others have written while we waited: theirs is included.
        let included = self.written.load(Ordering::SeqCst);
        sync().inspect_err(|errno| {
            // The kernel may have marked the lost pages clean: trying again
            // would succeed and prove nothing.
            flushed.failed = Some(*errno);
        })?;
        flushed.number = included;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn only_what_is_not_durable_is_synced() {
        let (durable, syncs) = (Durable::default(), Cell::new(0));
        let flush = || {
            durable.flush(|| {
                syncs.set(syncs.get() + 1);
                Ok(())
            })
        };
        assert_eq!((flush(), syncs.get()), (Ok(()), 0));
        durable.written();
        assert_eq!((flush(), syncs.get()), (Ok(()), 1));
        assert_eq!((flush(), syncs.get()), (Ok(()), 1));
        // Written during the sync: the next one must not skip it.
        durable.written();
        let during = durable.flush(|| {
            durable.written();
            Ok(())
        });
        assert_eq!((during, flush(), syncs.get()), (Ok(()), Ok(()), 2));
    }

    #[test]
    fn a_failure_stays() {
        let durable = Durable::default();
        durable.written();
        assert_eq!(durable.flush(|| Err(Errno::EIO)), Err(Errno::EIO));
        assert_eq!(durable.flush(|| Ok(())), Err(Errno::EIO));
    }

    #[test]
    fn those_who_wait_share_a_sync() {
        let (durable, syncs) = (Durable::default(), AtomicU64::new(0));
        let syncing = AtomicBool::new(false);
        const THREADS: u64 = 8;
        std::thread::scope(|scope| {
            let first = scope.spawn(|| {
                durable.written();
                durable.flush(|| {
                    syncing.store(true, Ordering::SeqCst);
                    // Until all others have written.
                    while durable.written.load(Ordering::SeqCst) < THREADS {
                        std::thread::yield_now();
                    }
                    Ok(())
                })
            });
            for _ in 1..THREADS {
                scope.spawn(|| {
                    while !syncing.load(Ordering::SeqCst) {
                        std::thread::yield_now();
                    }
                    durable.written();
                    durable.flush(|| {
                        syncs.fetch_add(1, Ordering::SeqCst);
                        Ok(())
                    })
                });
            }
            first.join().expect("no panic").expect("it works");
        });
        assert_eq!(durable.flush(|| Err(Errno::EIO)), Ok(()));
        assert_eq!(syncs.into_inner(), 1);
    }
}
