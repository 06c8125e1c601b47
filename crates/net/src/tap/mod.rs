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

/// Most queues of a tap device: Linux's limit.
pub const MAX_QUEUES: u16 = 256;

/// Which tap device, and what to do with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TapConfig {
    /// Its name; the host chooses one otherwise.
    pub name: Option<String>,
    /// How many queues it has, up to [`MAX_QUEUES`].
    pub queues: u16,
    /// Numbers of descriptors that are its queues already, with `IFF_VNET_HDR`, and
    /// nobody else's; `queues` is how many, unless there are none.
    pub opened: Vec<i32>,
    /// Run with the interface's name once it is there.
    pub up: Option<PathBuf>,
    /// The same before it goes.
    pub down: Option<PathBuf>,
}

impl Default for TapConfig {
    /// One queue.
    fn default() -> Self {
        Self {
            name: None,
            queues: 1,
            opened: Vec::new(),
            up: None,
            down: None,
        }
    }
}

/// The network behind a tap device, or behind one of its queues.
#[derive(Debug)]
pub struct Tap {
    device: Device,
    watch: Watch,
    /// Frames come here.
    on: bool,
    /// What was read last.
    frame: Frame,
    down: Option<PathBuf>,
}

impl Tap {
    /// Opens the device's queues, the first of which stands for all when the device
    /// is closed, and runs the script.
    ///
    /// # Errors
    /// One line: what is wrong and what would work.
    pub fn open(config: &TapConfig) -> Result<Vec<Self>, String> {
        let devices = match &*config.opened {
            [] => open_queues(config)?,
            opened => adopt_queues(opened)?,
        };
        if let (Some(up), Some(first)) = (&config.up, devices.first()) {
            script::run(up, first.name())?;
        }
        let mut taps = Vec::with_capacity(devices.len());
        for device in devices {
            let failed = |e| format!("epoll: {e}");
            let mut watch = Watch::new().map_err(failed)?;
            watch.begin(&device).map_err(failed)?;
            taps.push(Self {
                device,
                watch,
                on: true,
                frame: Frame::default(),
                down: config.down.clone().filter(|_| taps.is_empty()),
            });
        }
        Ok(taps)
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

/// Makes the interface; the others of its queues go by the name that it got.
fn open_queues(config: &TapConfig) -> Result<Vec<Device>, String> {
    let several = config.queues > 1;
    let mut devices = vec![Device::open(config.name.as_deref(), several)?];
    for _ in 1..config.queues {
        let name = devices[0].name().to_string();
        devices.push(Device::open(Some(&name), several)?);
    }
    Ok(devices)
}

/// Takes queues that somebody opened, if they belong together.
fn adopt_queues(opened: &[i32]) -> Result<Vec<Device>, String> {
    let mut devices: Vec<Device> = Vec::new();
    for (i, &fd) in opened.iter().enumerate() {
        if opened[..i].contains(&fd) {
            return Err(format!("fd={fd}: it is named twice"));
        }
        let device = Device::adopt(fd)?;
        if let Some(first) = devices.first()
            && first.name() != device.name()
        {
            let (name, other) = (device.name(), first.name());
            return Err(format!("fd={fd}: a queue of '{name}', not of '{other}'"));
        }
        if opened.len() > 1 && !device.is_multi() {
            return Err(format!(
                "fd={fd}: a tap device without IFF_MULTI_QUEUE, which several queues need"
            ));
        }
        devices.push(device);
    }
    Ok(devices)
}

impl Network for Tap {
    fn fd(&self) -> BorrowedFd<'_> {
        self.watch.fd()
    }

    fn takes(&self) -> Accepts {
        Accepts::ALL
    }

    fn accepts(&mut self, accepts: Accepts) {
        // It is the whole interface's, and one of its queues is always on.
        if self.on
            && let Err(e) = self.device.offload(accepts)
        {
            warn!("{}: the interface's offloads: {e}", self.name());
        }
    }

    fn enable(&mut self, on: bool) -> io::Result<()> {
        if self.on != on {
            self.device.attach(on)?;
            self.on = on;
            // One that is off has nothing to wait for but its own error.
            let flags = if on { EventFlags::IN } else { NOTHING };
            self.watch.set(&self.device, flags)?;
        }
        Ok(())
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
