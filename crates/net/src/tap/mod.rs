//! A tap device: the guest's frames come and go through a network interface of the
//! host's.

mod device;
mod script;

use crate::frame::{Accepts, Frame};
use crate::header::{self, HEADER};
use crate::watch::{NOTHING, Watch};
use crate::{Guest, Network};
use device::Device;
use log::warn;
use rustix::event::epoll::EventFlags;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Instant;

/// Longest frame with its headers: TCP's longest segment.
const LONGEST: usize = 65_535 + 64;
/// Frames for the guest in one go, so that what it sends gets its turn.
const BURST: usize = 256;

/// Which tap device, and what to do with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TapConfig {
    /// Its name; the host chooses one otherwise.
    pub name: Option<String>,
    /// Number of a descriptor that is one already, with `IFF_VNET_HDR`, and nobody
    /// else's.
    pub opened: Option<i32>,
    /// Run with the interface's name once it is there.
    pub up: Option<PathBuf>,
    /// The same before it goes.
    pub down: Option<PathBuf>,
}

/// The network behind a tap device.
#[derive(Debug)]
pub struct Tap {
    device: Device,
    watch: Watch,
    /// What was read last.
    frame: Frame,
    down: Option<PathBuf>,
}

impl Tap {
    /// Opens the device and runs the script.
    ///
    /// # Errors
    /// One line: what is wrong and what would work.
    pub fn open(config: TapConfig) -> Result<Self, String> {
        let device = match config.opened {
            Some(fd) => Device::adopt(fd)?,
            None => Device::open(config.name.as_deref())?,
        };
        if let Some(up) = &config.up {
            script::run(up, device.name())?;
        }
        let failed = |e| format!("epoll: {e}");
        let mut watch = Watch::new().map_err(failed)?;
        watch.begin(&device).map_err(failed)?;
        Ok(Self {
            device,
            watch,
            frame: Frame::default(),
            down: config.down,
        })
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        self.device.name()
    }

    /// Reads a frame; false if there is none.
    fn read(&mut self) -> io::Result<bool> {
        let mut header = [0; HEADER];
        let bytes = &mut self.frame.bytes;
        bytes.resize(LONGEST, 0);
        let mut file: &File = self.device.as_ref();
        let parts = &mut [IoSliceMut::new(&mut header), IoSliceMut::new(bytes)];
        let length = match file.read_vectored(parts) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            length => length?,
        };
        bytes.truncate(length.saturating_sub(HEADER));
        self.frame.offload = header::decode(&header).unwrap_or_default();
        Ok(true)
    }
}

impl Network for Tap {
    fn fd(&self) -> BorrowedFd<'_> {
        self.watch.fd()
    }

    fn takes(&self) -> Accepts {
        Accepts::ALL
    }

    fn accepts(&mut self, accepts: Accepts) {
        if let Err(e) = self.device.offload(accepts) {
            warn!("{}: the interface's offloads: {e}", self.name());
        }
    }

    fn send(&mut self, frame: &Frame) -> bool {
        let header = header::encode(&frame.offload, 1);
        let mut file: &File = self.device.as_ref();
        let parts = [IoSlice::new(&header), IoSlice::new(&frame.bytes)];
        match file.write_vectored(&parts) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                let flags = self.watch.flags() | EventFlags::OUT;
                // Without it the frame is as lost as on a full wire.
                self.watch.set(&self.device, flags).is_err()
            }
            // An interface that is down takes nothing; neither does one a frame
            // that it finds malformed.
            _ => true,
        }
    }

    fn run(&mut self, _: Instant, guest: &mut dyn Guest) -> io::Result<()> {
        for _ in 0..BURST {
            if !guest.has_room() {
                return self.watch.set(&self.device, NOTHING);
            }
            if !self.read()? {
                break;
            }
            guest.deliver(&self.frame);
        }
        self.watch.set(&self.device, EventFlags::IN)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        if let Some(down) = &self.down
            && let Err(why) = script::run(down, self.device.name())
        {
            warn!("{why}");
        }
    }
}
