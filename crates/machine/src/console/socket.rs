//! Sockets as host ends: Unix and TCP, with and without telnet's protocol.

use crate::config::{SocketAddress, SocketConfig};
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

impl fmt::Display for SocketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Inet { host, port } if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Self::Inet { host, port } => write!(f, "tcp:{host}:{port}"),
        }
    }
}

/// A connection.
#[derive(Debug)]
pub enum Connection {
    /// Unix socket.
    Unix(UnixStream),
    /// TCP.
    Tcp(TcpStream),
}

impl Connection {
    /// Connects.
    pub fn to(address: &SocketAddress) -> io::Result<Self> {
        match address {
            SocketAddress::Unix(path) => UnixStream::connect(path).map(Self::Unix),
            SocketAddress::Inet { host, port } => {
                let stream = TcpStream::connect((host_or(host, "localhost"), *port))?;
                Self::tcp(stream)
            }
        }
    }

    fn tcp(stream: TcpStream) -> io::Result<Self> {
        // Somebody types.
        stream.set_nodelay(true)?;
        Ok(Self::Tcp(stream))
    }

    /// A write that waits for longer fails.
    pub fn set_write_timeout(&self, patience: Duration) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_write_timeout(Some(patience)),
            Self::Tcp(stream) => stream.set_write_timeout(Some(patience)),
        }
    }

    /// Ends both ways; whoever reads or writes finds out.
    pub fn shut(&self) {
        let _ = match self {
            Self::Unix(stream) => stream.shutdown(Shutdown::Both),
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both),
        };
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(stream) => stream.as_fd(),
            Self::Tcp(stream) => stream.as_fd(),
        }
    }
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl Read for &Connection {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Connection::Unix(stream) => (&mut &*stream).read(bytes),
            Connection::Tcp(stream) => (&mut &*stream).read(bytes),
        }
    }
}

impl Write for &Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Connection::Unix(stream) => (&mut &*stream).write(bytes),
            Connection::Tcp(stream) => (&mut &*stream).write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn host_or<'a>(host: &'a str, default: &'a str) -> &'a str {
    if host.is_empty() { default } else { host }
}

/// Waits for connections. A Unix socket's name goes away with it.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    telnet: bool,
}

#[derive(Debug)]
enum Socket {
    /// The current folder may be another one when the name is removed, so the
    /// path is absolute.
    Unix(UnixListener, PathBuf),
    Tcp(TcpListener),
}

impl Listener {
    /// Listens.
    pub fn new(config: &SocketConfig) -> io::Result<Self> {
        let socket = match &config.address {
            SocketAddress::Unix(path) => {
                // What an earlier machine left.
                let left = std::fs::symlink_metadata(path);
                let is_socket = left.is_ok_and(|m| m.file_type().is_socket());
                if is_socket && UnixStream::connect(path).is_err() {
                    std::fs::remove_file(path)?;
                }
                Socket::Unix(UnixListener::bind(path)?, std::path::absolute(path)?)
            }
            SocketAddress::Inet { host, port } => {
                Socket::Tcp(TcpListener::bind((host_or(host, "0.0.0.0"), *port))?)
            }
        };
        let telnet = config.telnet;
        Ok(Self { socket, telnet })
    }

    /// The next connection.
    pub fn accept(&self) -> io::Result<Connection> {
        let connection = match &self.socket {
            Socket::Unix(listener, _) => Connection::Unix(listener.accept()?.0),
            Socket::Tcp(listener) => Connection::tcp(listener.accept()?.0)?,
        };
        if self.telnet {
            (&connection).write_all(&TELNET_HELLO)?;
        }
        Ok(connection)
    }

    /// Where it listens, as a TCP port chosen by the host is known only now.
    pub fn address(&self) -> Option<SocketAddress> {
        match &self.socket {
            Socket::Unix(_, path) => Some(SocketAddress::Unix(path.clone())),
            Socket::Tcp(listener) => {
                let address = listener.local_addr().ok()?;
                let (host, port) = (address.ip().to_string(), address.port());
                Some(SocketAddress::Inet { host, port })
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Unix(listener, _) => listener.as_fd(),
            Socket::Tcp(listener) => listener.as_fd(),
        }
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Socket::Unix(_, path) = &self.socket {
            let _ = std::fs::remove_file(path);
        }
    }
}

const IAC: u8 = 255;
const WILL: u8 = 251;
const DO: u8 = 253;
const DONT: u8 = 254;
const SB: u8 = 250;
const SE: u8 = 240;
const BREAK: u8 = 243;
const ECHO: u8 = 1;
const SUPPRESS_GO_AHEAD: u8 = 3;
const BINARY: u8 = 0;

/// The server echoes, neither side says "go ahead", and bytes have 8 bits: the
/// client's terminal is raw then (RFC 854, 856, 857, 858).
#[rustfmt::skip]
const TELNET_HELLO: [u8; 12] = [
    IAC, WILL, ECHO,
    IAC, WILL, SUPPRESS_GO_AHEAD,
    IAC, WILL, BINARY,
    IAC, DO, BINARY,
];

/// Writes for a telnet client: a byte that looks like a command is doubled.
pub fn write_telnet(mut to: &Connection, bytes: &[u8]) -> io::Result<usize> {
    let first = bytes.iter().position(|&byte| byte == IAC);
    match first {
        Some(0) => to.write_all(&[IAC, IAC]).map(|()| 1),
        Some(n) => to.write(&bytes[..n]),
        None => to.write(bytes),
    }
}

/// Takes telnet's commands out of what a client sends.
#[derive(Debug, Default)]
pub struct Telnet(Place);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Text,
    /// Behind a carriage return, after which a client sends NUL or line feed.
    Return,
    /// Behind IAC.
    Command,
    /// Behind WILL, WONT, DO or DONT.
    Option,
    /// In a subnegotiation, and behind IAC in it.
    Negotiation,
    NegotiationCommand,
}

/// What a byte from a telnet client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    /// A byte of text.
    Byte(u8),
    /// The break key.
    Break,
}

impl Telnet {
    /// The text among what a client sent; calls `on_break` for its break key.
    pub fn text(&mut self, bytes: &[u8], mut on_break: impl FnMut()) -> Vec<u8> {
        let mut text = Vec::with_capacity(bytes.len());
        for heard in bytes.iter().filter_map(|&byte| self.take(byte)) {
            match heard {
                Heard::Byte(byte) => text.push(byte),
                Heard::Break => on_break(),
            }
        }
        text
    }

    /// Takes a byte.
    fn take(&mut self, byte: u8) -> Option<Heard> {
        let (next, heard) = match (self.0, byte) {
            (Place::Text | Place::Return, IAC) => (Place::Command, None),
            (Place::Return, 0 | b'\n') => (Place::Text, None),
            (Place::Text | Place::Return, b'\r') => (Place::Return, Some(Heard::Byte(b'\r'))),
            (Place::Text | Place::Return, byte) => (Place::Text, Some(Heard::Byte(byte))),
            (Place::Command, IAC) => (Place::Text, Some(Heard::Byte(IAC))),
            (Place::Command, WILL..=DONT) => (Place::Option, None),
            (Place::Command, SB) => (Place::Negotiation, None),
            (Place::Command, BREAK) => (Place::Text, Some(Heard::Break)),
            (Place::Command | Place::Option, _) => (Place::Text, None),
            (Place::Negotiation, IAC) => (Place::NegotiationCommand, None),
            (Place::NegotiationCommand, SE) => (Place::Text, None),
            (Place::Negotiation | Place::NegotiationCommand, _) => (Place::Negotiation, None),
        };
        self.0 = next;
        heard
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn telnets_commands_are_taken_out() {
        let mut telnet = Telnet::default();
        let mut text =
            |bytes: &[u8]| -> Vec<Heard> { bytes.iter().filter_map(|&b| telnet.take(b)).collect() };
        let bytes = |bytes: &[u8]| bytes.iter().map(|&b| Heard::Byte(b)).collect::<Vec<_>>();
        assert_eq!(text(&[IAC, DO, ECHO, b'a', b'\r', 0, b'b']), bytes(b"a\rb"));
        assert_eq!(text(b"\r\nc\r"), bytes(b"\rc\r"));
        assert_eq!(
            text(&[IAC, IAC, IAC, BREAK]),
            [Heard::Byte(IAC), Heard::Break]
        );
        assert_eq!(
            text(&[IAC, SB, 31, 0, 80, IAC, IAC, 24, IAC, SE, b'd']),
            bytes(b"d")
        );
    }

    #[test]
    fn a_listener_takes_the_place_of_one_that_is_gone_only() {
        let path = std::env::temp_dir().join(format!("machine-socket-{}", std::process::id()));
        let config = SocketConfig {
            address: SocketAddress::Unix(path.clone()),
            server: true,
            wait: false,
            telnet: false,
        };
        // A socket that nobody listens at any more.
        drop(UnixListener::bind(&path).unwrap());
        let first = Listener::new(&config).unwrap();
        assert_eq!(
            Listener::new(&config).unwrap_err().kind(),
            io::ErrorKind::AddrInUse
        );
        drop(first);
        assert!(!path.exists());
    }
}
