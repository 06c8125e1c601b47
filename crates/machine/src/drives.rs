//! The disks a machine has open, by id. They stay open across resets; some
//! come and go while it runs.

use crate::config::DriveConfig;
use crate::control::Control;
use crate::counted::Counted;
use crate::events::Event;
use crate::outcome::{Error, Result};
use disk::{BlockDevice, Disk};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};
use virtio::blk::{IoError, Resumed, Supervisor};

/// Longest wait for a disk to be closed.
const CLOSING: Duration = Duration::from_secs(2);

/// The disks.
#[derive(Default)]
pub struct Drives(Mutex<Vec<(String, Arc<Counted>)>>);

impl Drives {
    /// Opens every drive; warnings of the formats' guesses go to stderr, as
    /// QEMU's do.
    pub fn open(configs: &[DriveConfig]) -> Result<Self> {
        let drives = Self::default();
        configs.iter().try_for_each(|config| drives.add(config))?;
        Ok(drives)
    }

    /// Opens one more.
    pub fn add(&self, config: &DriveConfig) -> Result<()> {
        let error = |why| Error::Drive {
            id: config.id.clone(),
            why,
        };
        let mut drives = self.0.lock();
        if drives.iter().any(|(id, _)| *id == config.id) {
            return Err(error("there is a drive of this name".into()));
        }
        let opened = match config.snapshot {
            true => Disk::open_temporary(&config.file, &config.options),
            false => Disk::open(&config.file, &config.options),
        };
        let disk = opened.map_err(|why| error(why.to_string()))?;
        if let Some(warning) = disk.warning() {
            eprintln!("{warning}");
        }
        let disk = Arc::new(Counted::new(disk));
        drives.push((config.id.clone(), disk));
        Ok(())
    }

    /// Closes one that no device uses any more. If it cannot be flushed, it
    /// stays.
    pub fn remove(&self, id: &str) -> Result<()> {
        let error = |why| Error::Drive { id: id.into(), why };
        let mut drives = self.0.lock();
        let Some(at) = drives.iter().position(|(name, _)| name == id) else {
            return Err(error("there is no such drive".into()));
        };
        let flushed = drives[at].1.flush();
        flushed.map_err(|why| error(format!("it cannot be flushed: {why}")))?;
        let (_, disk) = drives.remove(at);
        drop(drives);
        // An access to the device that was on its way when it was unplugged
        // may hold it a moment longer.
        let open = Arc::downgrade(&disk);
        drop(disk);
        let until = Instant::now() + CLOSING;
        while open.strong_count() > 0 {
            if Instant::now() > until {
                log::warn!("drive '{id}' is still being used; it is closed afterwards");
                break;
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    /// All of them.
    pub fn all(&self) -> Vec<(String, Arc<Counted>)> {
        self.0.lock().clone()
    }

    /// The disk with this id.
    pub fn get(&self, id: &str) -> std::result::Result<Arc<Counted>, String> {
        let drives = self.0.lock();
        let found = drives.iter().find(|(name, _)| name == id);
        match found {
            Some((_, disk)) => Ok(disk.clone()),
            None => Err(format!("there is no drive '{id}'")),
        }
    }
}

/// Stops the machine for errors of a drive.
pub struct StopsMachine {
    /// The machine's.
    pub control: Arc<Control>,
    /// Id of the drive.
    pub drive: String,
}

impl Supervisor for StopsMachine {
    fn stop_and_wait(&self, error: &IoError) -> Resumed {
        let tell = || {
            let what = if error.read { "reading" } else { "writing" };
            // Nobody would know otherwise: there may be no monitor.
            eprintln!(
                "trapeze: drive '{}': {what}: {}; the machine is stopped (io-error)",
                self.drive, error.errno
            );
        };
        self.control.observers.tell(&Event::BlockIoError {
            drive: self.drive.clone(),
            read: error.read,
            no_space: error.errno == disk::Errno::ENOSPC,
            reason: error.errno.to_string(),
        });
        match self.control.stop_for_error(tell) {
            true => Resumed::Yes,
            false => Resumed::No,
        }
    }
}
