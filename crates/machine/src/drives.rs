//! The disks a machine has open, by id. They stay open across resets.

use crate::config::DriveConfig;
use crate::control::Control;
use crate::outcome::{Error, Result};
use disk::{BlockDevice, Disk};
use std::sync::Arc;
use virtio::blk::{IoError, Resumed, Supervisor};

/// The disks.
#[derive(Default)]
pub struct Drives(Vec<(String, Arc<Disk>)>);

impl Drives {
    /// Opens every drive; warnings of the formats' guesses go to stderr, as
    /// QEMU's do.
    pub fn open(configs: &[DriveConfig]) -> Result<Self> {
        let mut drives = Self::default();
        for config in configs {
            let opened = match config.snapshot {
                true => Disk::open_temporary(&config.file, &config.options),
                false => Disk::open(&config.file, &config.options),
            };
            let disk = opened.map_err(|why| Error::Drive {
                id: config.id.clone(),
                why: why.to_string(),
            })?;
            if let Some(warning) = disk.warning() {
                eprintln!("{warning}");
            }
            drives.0.push((config.id.clone(), Arc::new(disk)));
        }
        Ok(drives)
    }

    /// The disk with this id.
    pub fn get(&self, id: &str) -> std::result::Result<Arc<dyn BlockDevice>, String> {
        let found = self.0.iter().find(|(name, _)| name == id);
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
        match self.control.stop_for_error(tell) {
            true => Resumed::Yes,
            false => Resumed::No,
        }
    }
}
