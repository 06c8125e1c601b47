//! Sockets for datagrams, bound and ready.

use super::DgramConfig;
use crate::inherited;
use rustix::io::ioctl_fionbio;
use rustix::net::{
    AddressFamily, SocketAddrAny, SocketAddrUnix, SocketFlags, SocketType, bind, getsockname,
    socket_with, sockopt,
};
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

/// Where frames come and go.
#[derive(Debug)]
pub(super) struct Ends {
    /// Where they come.
    pub(super) comes: OwnedFd,
    /// Where they go, if that is another one.
    goes: Option<OwnedFd>,
    /// To whom; none if the socket is connected.
    pub(super) to: Option<SocketAddrAny>,
    /// Frames from there are our own: a group's come back.
    pub(super) own: Option<SocketAddrAny>,
    /// A file that goes with it.
    file: Option<PathBuf>,
}

impl Drop for Ends {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            _ = std::fs::remove_file(file);
        }
    }
}

impl Ends {
    fn one(comes: OwnedFd, to: Option<SocketAddrAny>) -> Self {
        Self {
            comes,
            goes: None,
            to,
            own: None,
            file: None,
        }
    }

    /// Where frames go.
    pub(super) fn goes(&self) -> &OwnedFd {
        self.goes.as_ref().unwrap_or(&self.comes)
    }

    pub(super) fn open(config: &DgramConfig) -> Result<Self, String> {
        let failed = |e: io::Error| format!("{config}: {e}");
        match config {
            DgramConfig::Udp { local, remote } => udp(*local, *remote).map_err(failed),
            DgramConfig::Multicast { group, interface } => {
                multicast(*group, *interface).map_err(failed)
            }
            DgramConfig::Unix { local, remote } => unix(local, remote).map_err(failed),
            DgramConfig::Opened { fd, group } => opened(*fd, *group),
        }
    }
}

/// A socket that shares its address with others who ask for it, too, as QEMU's do.
fn shared(local: SocketAddr) -> io::Result<UdpSocket> {
    let family = match local {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::DGRAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &local)?;
    Ok(socket.into())
}

fn udp(local: SocketAddr, remote: SocketAddr) -> io::Result<Ends> {
    Ok(Ends::one(shared(local)?.into(), Some(remote.into())))
}

/// Frames go by a socket of their own, so that they are known when they come back.
fn multicast(group: SocketAddrV4, interface: Ipv4Addr) -> io::Result<Ends> {
    let comes = shared(group.into())?;
    comes.join_multicast_v4(group.ip(), &interface)?;
    let goes = UdpSocket::bind((interface, 0))?;
    goes.set_nonblocking(true)?;
    goes.set_multicast_loop_v4(true)?;
    if !interface.is_unspecified() {
        sockopt::set_ip_multicast_if(&goes, &interface)?;
    }
    // Says which of the host's addresses it is.
    goes.connect(group)?;
    let own = getsockname(&goes)?;
    let mut ends = Ends::one(comes.into(), None);
    (ends.goes, ends.own) = (Some(goes.into()), Some(own));
    Ok(ends)
}

fn unix(local: &Path, remote: &Path) -> io::Result<Ends> {
    let to = SocketAddrUnix::new(remote)?;
    remove_dead(local)?;
    let socket = UnixDatagram::bind(local)?;
    socket.set_nonblocking(true)?;
    let mut ends = Ends::one(socket.into(), Some(to.into()));
    ends.file = Some(local.into());
    Ok(ends)
}

/// Removes a socket's file that nobody has open any more.
fn remove_dead(path: &Path) -> io::Result<()> {
    match UnixDatagram::unbound()?.connect(path) {
        Ok(()) => Err(ErrorKind::AddrInUse.into()),
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(_) => Ok(()),
    }
}

/// Takes over what somebody else opened.
fn opened(fd: i32, group: Option<SocketAddrV4>) -> Result<Ends, String> {
    let socket = inherited::adopt(fd)?;
    match sockopt::socket_type(&socket) {
        Ok(SocketType::DGRAM) => {}
        Ok(_) => return Err(format!("fd={fd}: a socket, but not for datagrams")),
        Err(_) => return Err(format!("fd={fd}: it is no socket")),
    }
    let failed = |e| format!("fd={fd}: {e}");
    ioctl_fionbio(&socket, true).map_err(|e| failed(e.into()))?;
    let Some(group) = group else {
        return Ok(Ends::one(socket, None));
    };
    let socket = UdpSocket::from(socket);
    let joined = socket.join_multicast_v4(group.ip(), &Ipv4Addr::UNSPECIFIED);
    joined.map_err(failed)?;
    Ok(Ends::one(socket.into(), Some(SocketAddr::V4(group).into())))
}
