//! Sockets of either family.

use super::StreamAddress;
use crate::inherited;
use rustix::net::{SocketType, sockopt};
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

/// How long a connection may take: the guest's adapter stands still meanwhile.
const PATIENCE: Duration = Duration::from_secs(1);

impl fmt::Display for StreamAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Opened(fd) => write!(f, "fd={fd}"),
        }
    }
}

/// A socket that does not block, connected to `address`.
pub(super) fn connect(address: &StreamAddress) -> io::Result<File> {
    match address {
        StreamAddress::Unix(path) => plain(UnixStream::connect(path)?, UnixStream::set_nonblocking),
        StreamAddress::Tcp(host, port) => {
            let mut failed = io::Error::from(ErrorKind::AddrNotAvailable);
            for to in (&**host, *port).to_socket_addrs()? {
                match TcpStream::connect_timeout(&to, PATIENCE) {
                    Ok(socket) => return tcp(socket),
                    Err(e) => failed = e,
                }
            }
            Err(failed)
        }
        StreamAddress::Opened(fd) => adopt(*fd),
    }
}

/// Takes over what somebody else connected.
fn adopt(fd: i32) -> io::Result<File> {
    let socket = inherited::adopt(fd).map_err(io::Error::other)?;
    let kind = sockopt::socket_type(&socket).map_err(|_| io::Error::other("it is no socket"))?;
    if kind != SocketType::STREAM {
        return Err(io::Error::other("it is no stream"));
    }
    rustix::io::ioctl_fionbio(&socket, true)?;
    Ok(File::from(socket))
}

fn tcp(socket: TcpStream) -> io::Result<File> {
    socket.set_nodelay(true)?;
    plain(socket, TcpStream::set_nonblocking)
}

fn plain<S: Into<OwnedFd>>(
    socket: S,
    set_nonblocking: fn(&S, bool) -> io::Result<()>,
) -> io::Result<File> {
    set_nonblocking(&socket, true)?;
    Ok(File::from(socket.into()))
}

/// Waits for somebody to connect. A Unix socket's file goes with it.
#[derive(Debug)]
pub(super) enum Listener {
    /// With the file's path.
    Unix(UnixListener, std::path::PathBuf),
    Tcp(TcpListener),
}

impl Listener {
    pub(super) fn bind(address: &StreamAddress) -> io::Result<Self> {
        match address {
            StreamAddress::Unix(path) => {
                remove_dead(path)?;
                let listener = UnixListener::bind(path)?;
                listener.set_nonblocking(true)?;
                Ok(Self::Unix(listener, path.clone()))
            }
            StreamAddress::Tcp(host, port) => {
                let listener = TcpListener::bind((&**host, *port))?;
                listener.set_nonblocking(true)?;
                Ok(Self::Tcp(listener))
            }
            StreamAddress::Opened(_) => {
                let why = "a connection already: nobody listens there";
                Err(io::Error::new(ErrorKind::InvalidInput, why))
            }
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(listener, _) => listener.as_fd(),
            Self::Tcp(listener) => listener.as_fd(),
        }
    }

    /// Who has connected, if anybody has.
    pub(super) fn accept(&self) -> io::Result<Option<File>> {
        let accepted = match self {
            Self::Unix(listener, _) => listener
                .accept()
                .and_then(|(socket, _)| plain(socket, UnixStream::set_nonblocking)),
            Self::Tcp(listener) => listener.accept().and_then(|(socket, _)| tcp(socket)),
        };
        match accepted {
            Ok(socket) => Ok(Some(socket)),
            // Whoever was there may have gone again; that is not our end.
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(e) if e.kind() == ErrorKind::ConnectionAborted => Ok(None),
            Err(e) => Err(e),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            _ = std::fs::remove_file(path);
        }
    }
}

/// Removes a socket's file that nobody listens at any more.
fn remove_dead(path: &std::path::Path) -> io::Result<()> {
    match UnixStream::connect(path) {
        Ok(_) => Err(ErrorKind::AddrInUse.into()),
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(_) => Ok(()),
    }
}
