//! The protocol's messages, from the machine's side. The crate `vhost` has them too,
//! but waits for ever for an answer that does not come.

use rustix::net::{AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::net::{
    SocketAddrUnix, SocketFlags, SocketType, connect, sendmsg, socket_with, sockopt,
};
use std::io::{self, ErrorKind, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long an answer may take: the guest's adapter stands still meanwhile.
const PATIENCE: Duration = Duration::from_secs(2);

/// Kinds of messages (vhost-user, "Front-end message types").
pub(super) mod request {
    pub const GET_FEATURES: u32 = 1;
    pub const SET_FEATURES: u32 = 2;
    pub const SET_OWNER: u32 = 3;
    pub const SET_MEM_TABLE: u32 = 5;
    pub const SET_VRING_NUM: u32 = 8;
    pub const SET_VRING_ADDR: u32 = 9;
    pub const SET_VRING_BASE: u32 = 10;
    pub const GET_VRING_BASE: u32 = 11;
    pub const SET_VRING_KICK: u32 = 12;
    pub const SET_VRING_CALL: u32 = 13;
    pub const GET_PROTOCOL_FEATURES: u32 = 15;
    pub const SET_PROTOCOL_FEATURES: u32 = 16;
    pub const GET_QUEUE_NUM: u32 = 17;
    pub const SET_VRING_ENABLE: u32 = 18;
}

/// Flags of a message: the version, and that it is an answer.
const VERSION: u32 = 1;
const REPLY: u32 = 4;
const KNOWN_FLAGS: u32 = 0xf;
/// Bytes in front of the payload: kind, flags, and the payload's length.
const HEADER: usize = 12;
/// Bytes of every answer's payload that we ask for.
const ANSWER: usize = 8;

/// A connection to a back end.
#[derive(Debug)]
pub(super) struct Socket(UnixStream);

impl Socket {
    pub(super) fn connect(path: &Path) -> io::Result<Self> {
        let socket = socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        // It holds for the connection too: who listens may never accept it.
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(PATIENCE))?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self(socket.into()))
    }

    /// Says something that has no answer.
    pub(super) fn tell(
        &self,
        kind: u32,
        payload: &[u8],
        fd: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        let words = [kind, VERSION, payload.len() as u32];
        let header: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
        if !fds.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        }
        let parts = [IoSlice::new(&header), IoSlice::new(payload)];
        let sent = sendmsg(&self.0, &parts, &mut ancillary, SendFlags::NOSIGNAL)?;
        match sent == HEADER + payload.len() {
            true => Ok(()),
            false => Err(ErrorKind::WriteZero.into()),
        }
    }

    /// Asks something: the answer.
    pub(super) fn ask(&self, kind: u32, payload: &[u8]) -> io::Result<[u8; ANSWER]> {
        self.tell(kind, payload, None)?;
        let mut answer = [0; HEADER + ANSWER];
        self.read(&mut answer)?;
        let word = |at: usize| {
            answer[at..at + 4]
                .iter()
                .rev()
                .fold(0, |n, b| n << 8 | u32::from(*b))
        };
        let header = (word(0), word(4) & KNOWN_FLAGS & !8, word(8));
        if header != (kind, VERSION | REPLY, ANSWER as u32) {
            let why = format!("its answer to message {kind} is none");
            return Err(io::Error::new(ErrorKind::InvalidData, why));
        }
        let mut payload = [0; ANSWER];
        payload.copy_from_slice(&answer[HEADER..]);
        Ok(payload)
    }

    /// The same for a number.
    pub(super) fn ask_number(&self, kind: u32) -> io::Result<u64> {
        self.ask(kind, &[]).map(u64::from_le_bytes)
    }

    /// Fills `bytes` before the time is up. Descriptors that come along are closed by
    /// the kernel, since nobody takes them.
    fn read(&self, bytes: &mut [u8]) -> io::Result<()> {
        let end = Instant::now() + PATIENCE;
        let mut done = 0;
        while done < bytes.len() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::new(ErrorKind::TimedOut, "it does not answer"));
            }
            self.0.set_read_timeout(Some(left))?;
            match (&self.0).read(&mut bytes[done..]) {
                Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "it has gone")),
                Ok(n) => done += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
