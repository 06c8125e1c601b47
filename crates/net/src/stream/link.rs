//! A connection: bytes into frames, frames into bytes.

use crate::frame::Frame;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};

/// Longest frame: no more than any adapter sends.
const LONGEST: usize = 65_535 + 64;
/// Bytes of the length in front of a frame.
const LENGTH: usize = 4;
/// Bytes read at once.
const CHUNK: usize = 256 << 10;

/// A connection.
#[derive(Debug)]
pub(super) struct Link {
    socket: File,
    /// What came and is no frame yet, from `taken` on.
    came: Vec<u8>,
    taken: usize,
    /// What has to go yet, from `gone` on.
    goes: Vec<u8>,
    gone: usize,
    frame: Frame,
    /// There may be more frames to receive without waiting.
    pub(super) more: bool,
}

impl Link {
    /// Over a socket that does not block.
    pub(super) fn new(socket: File) -> Self {
        Self {
            socket,
            came: Vec::new(),
            taken: 0,
            goes: Vec::new(),
            gone: 0,
            frame: Frame::default(),
            more: false,
        }
    }

    pub(super) fn socket(&self) -> &File {
        &self.socket
    }

    /// Something has to go before the next frame can be sent.
    pub(super) fn is_full(&self) -> bool {
        !self.goes.is_empty()
    }

    /// Sends a frame, or as much as there is room for.
    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.goes.extend((bytes.len() as u32).to_be_bytes());
        self.goes.extend(bytes);
        self.flush()
    }

    /// Sends what has to go yet, as far as there is room.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while self.gone < self.goes.len() {
            match (&self.socket).write(&self.goes[self.gone..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => self.gone += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.goes.clear();
        self.gone = 0;
        Ok(())
    }

    /// Gives a frame to `to`; false if none has come whole.
    pub(super) fn receive(&mut self, to: impl FnOnce(&Frame)) -> io::Result<bool> {
        loop {
            if self.next()? {
                to(&self.frame);
                return Ok(true);
            }
            if !self.read()? {
                return Ok(false);
            }
        }
    }

    /// Takes a frame from what came.
    fn next(&mut self) -> io::Result<bool> {
        let rest = &self.came[self.taken..];
        let Some((length, rest)) = rest.split_first_chunk::<LENGTH>() else {
            return Ok(false);
        };
        let length = u32::from_be_bytes(*length) as usize;
        if length > LONGEST {
            let why = format!("a frame of {length} bytes is too long");
            return Err(io::Error::new(ErrorKind::InvalidData, why));
        }
        let Some(bytes) = rest.get(..length) else {
            return Ok(false);
        };
        self.frame.bytes.clear();
        self.frame.bytes.extend(bytes);
        self.taken += LENGTH + length;
        Ok(true)
    }

    /// Reads what is there; false if nothing is.
    fn read(&mut self) -> io::Result<bool> {
        self.came.drain(..self.taken);
        self.taken = 0;
        let kept = self.came.len();
        self.came.resize(kept + CHUNK, 0);
        let read = (&self.socket).read(&mut self.came[kept..]);
        self.came.truncate(kept + read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => Err(io::Error::new(
                ErrorKind::UnexpectedEof,
                "the other side has gone",
            )),
            Ok(_) => Ok(true),
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(e) if e.kind() == ErrorKind::Interrupted => Ok(true),
            Err(e) => Err(e),
        }
    }
}
