//! The character device `/dev/net/tun` and what Linux's `if_tun.h` says of it.
#![allow(unsafe_code, reason = "the device's ioctls")]

use crate::frame::Accepts;
use crate::header::HEADER;
use crate::inherited;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

const DEVICE: &str = "/dev/net/tun";
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
const TUNSETQUEUE: libc::c_ulong = 0x4004_54d9;
const TUNGETIFF: libc::c_ulong = 0x8004_54d2;
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;
const IFF_TAP: u16 = 2;
const IFF_MULTI_QUEUE: u16 = 0x100;
const IFF_ATTACH_QUEUE: u16 = 0x200;
const IFF_DETACH_QUEUE: u16 = 0x400;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
const TUN_F_CSUM: u32 = 1;
const TUN_F_TSO4: u32 = 2;
const TUN_F_TSO6: u32 = 4;
const TUN_F_TSO_ECN: u32 = 8;
/// Bytes of a name with its terminating zero.
const NAME: usize = 16;

/// `struct ifreq` with flags.
#[repr(C)]
struct Request {
    name: [u8; NAME],
    flags: u16,
    rest: [u8; 22],
}

impl Request {
    fn new(flags: u16) -> Self {
        Self {
            name: [0; NAME],
            flags,
            rest: [0; 22],
        }
    }
}

/// A tap device's descriptor: one of its queues, if it has several.
#[derive(Debug)]
pub(super) struct Device {
    file: File,
    name: String,
    /// It may be one of several.
    multi: bool,
}

impl Device {
    /// Makes the interface or attaches to it; `multi` says that it has or may have
    /// several queues.
    ///
    /// # Errors
    /// One line.
    pub(super) fn open(name: Option<&str>, multi: bool) -> Result<Self, String> {
        let several = if multi { IFF_MULTI_QUEUE } else { 0 };
        let mut request = Request::new(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | several);
        let wanted = name.unwrap_or("tap%d");
        if wanted.is_empty() || wanted.len() >= NAME || wanted.contains(['/', '\0', ' ']) {
            return Err(format!(
                "ifname={wanted}: takes 1 to {} characters",
                NAME - 1
            ));
        }
        request.name[..wanted.len()].copy_from_slice(wanted.as_bytes());
        let file = File::options().read(true).write(true).open(DEVICE);
        let file = file.map_err(|e| format!("{DEVICE}: {}", explain(&e, "opening it")))?;
        // SAFETY: TUNSETIFF reads and writes an ifreq.
        let done = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) };
        if done < 0 {
            let e = io::Error::last_os_error();
            let why = match e.raw_os_error() {
                Some(libc::EINVAL) => wrong_kind(multi).into(),
                _ => explain(&e, "making it"),
            };
            return Err(format!("tap device '{wanted}': {why}"));
        }
        Self::set_up(file, &request)
    }

    /// Takes one that somebody else opened.
    ///
    /// # Errors
    /// One line, if it is none.
    pub(super) fn adopt(fd: i32) -> Result<Self, String> {
        let file = File::from(inherited::adopt(fd)?);
        let mut request = Request::new(0);
        // SAFETY: TUNGETIFF writes an ifreq.
        let done = unsafe { libc::ioctl(file.as_raw_fd(), TUNGETIFF, &raw mut request) };
        if done < 0 || request.flags & IFF_TAP == 0 {
            return Err(format!("fd={fd}: it is no tap device"));
        }
        if request.flags & IFF_VNET_HDR == 0 {
            return Err(format!(
                "fd={fd}: a tap device without IFF_VNET_HDR, which is needed"
            ));
        }
        Self::set_up(file, &request)
    }

    fn set_up(file: File, request: &Request) -> Result<Self, String> {
        let (name, multi) = (name_of(request), request.flags & IFF_MULTI_QUEUE != 0);
        let size = HEADER as libc::c_int;
        // SAFETY: TUNSETVNETHDRSZ reads an int; F_SETFL takes flags.
        let done = unsafe {
            let fd = file.as_raw_fd();
            libc::ioctl(fd, TUNSETVNETHDRSZ, &raw const size) >= 0
                && libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK) >= 0
        };
        match done {
            true => Ok(Self { file, name, multi }),
            false => Err(format!(
                "tap device '{name}': {}",
                io::Error::last_os_error()
            )),
        }
    }

    /// The interface's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// It may be one of several queues.
    pub(super) fn is_multi(&self) -> bool {
        self.multi
    }

    /// Frames come here, or to the interface's other queues only.
    ///
    /// # Errors
    /// The host's.
    pub(super) fn attach(&self, on: bool) -> io::Result<()> {
        let flags = if on {
            IFF_ATTACH_QUEUE
        } else {
            IFF_DETACH_QUEUE
        };
        let request = Request::new(flags);
        // SAFETY: TUNSETQUEUE reads an ifreq.
        let done = unsafe { libc::ioctl(self.file.as_raw_fd(), TUNSETQUEUE, &raw const request) };
        match done {
            0.. => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// What the host may leave to the guest.
    ///
    /// # Errors
    /// The host's.
    pub(super) fn offload(&self, accepts: Accepts) -> io::Result<()> {
        let flag = |on: bool, flag| if on { flag } else { 0 };
        let flags = flag(accepts.checksum, TUN_F_CSUM)
            | flag(accepts.tcp4, TUN_F_TSO4)
            | flag(accepts.tcp6, TUN_F_TSO6)
            | flag(accepts.ecn, TUN_F_TSO_ECN);
        // SAFETY: TUNSETOFFLOAD takes flags.
        let done = unsafe {
            libc::ioctl(
                self.file.as_raw_fd(),
                TUNSETOFFLOAD,
                libc::c_ulong::from(flags),
            )
        };
        match done {
            0.. => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRef<File> for Device {
    fn as_ref(&self) -> &File {
        &self.file
    }
}

fn name_of(request: &Request) -> String {
    let name = request.name.split(|b| *b == 0).next().unwrap_or_default();
    String::from_utf8_lossy(name).into_owned()
}

/// What EINVAL means: the interface is another than was asked for.
fn wrong_kind(multi: bool) -> &'static str {
    match multi {
        true => {
            "there is an interface of this name that is no tap device with several queues \
             ('ip tuntap add NAME mode tap multi_queue' makes one)"
        }
        false => {
            "there is an interface of this name that is no tap device, or is one with several \
             queues, for which queues= is needed"
        }
    }
}

/// What an error means here, and what would work.
fn explain(e: &io::Error, doing: &str) -> String {
    match e.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => format!(
            "{doing} needs CAP_NET_ADMIN; 'ip tuntap add NAME mode tap user USER' makes one for \
             USER, and -netdev user needs no rights"
        ),
        Some(libc::EBUSY) => "it is in use by another program".into(),
        Some(libc::E2BIG) => "it has no more queues".into(),
        Some(libc::ENOENT | libc::ENODEV) => "the host has no tap devices (module tun)".into(),
        _ => e.to_string(),
    }
}
