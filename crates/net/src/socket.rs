//! QEMU's `-netdev socket`: either a stream or datagrams.

use crate::dgram::{Dgram, DgramConfig};
use crate::stream::{Stream, StreamAddress, StreamConfig};
use crate::{Network, inherited};
use rustix::net::{SocketType, sockopt};
use std::fmt;

/// Which one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketConfig {
    /// `listen=` and `connect=`.
    Stream(StreamConfig),
    /// `udp=` and `mcast=`.
    Dgram(DgramConfig),
    /// `fd=`: a connected socket of either kind.
    Opened(i32),
}

impl fmt::Display for SocketConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream(config) => config.address.fmt(f),
            Self::Dgram(config) => config.fmt(f),
            Self::Opened(fd) => write!(f, "fd={fd}"),
        }
    }
}

impl SocketConfig {
    /// Opens it.
    ///
    /// # Errors
    /// One line: what is wrong.
    pub fn open(&self) -> Result<Box<dyn Network>, String> {
        let config = match self {
            Self::Opened(fd) => &opened(*fd)?,
            config => config,
        };
        Ok(match config {
            Self::Stream(config) => Box::new(Stream::open(config.clone())?),
            Self::Dgram(config) => Box::new(Dgram::open(config)?),
            Self::Opened(fd) => return Err(format!("fd={fd}: it is of no known kind")),
        })
    }
}

/// What a descriptor is. Whoever serves it takes it over by its number.
fn opened(fd: i32) -> Result<SocketConfig, String> {
    let socket = inherited::adopt(fd)?;
    match sockopt::socket_type(&socket) {
        Ok(SocketType::STREAM) => Ok(SocketConfig::Stream(StreamConfig {
            address: StreamAddress::Opened(inherited::give_back(socket)?),
            server: false,
            reconnect: None,
        })),
        Ok(SocketType::DGRAM) => Ok(SocketConfig::Dgram(DgramConfig::Opened {
            fd: inherited::give_back(socket)?,
            group: None,
        })),
        Ok(_) => Err(format!("fd={fd}: neither a stream nor datagrams")),
        Err(_) => Err(format!("fd={fd}: it is no socket")),
    }
}
