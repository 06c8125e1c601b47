//! A pair of queues of frames.

use super::ring::{BYTES as RING_BYTES, Memory, Ring, WRITE};
use super::session::{BASE, event, raise};
use crate::Guest;
use crate::frame::Frame;
use crate::header::{self, HEADER};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use vm_memory::{Bytes, GuestAddress};

/// Bytes of a buffer: the longest frame of any adapter and its header.
const SLOT: u64 = 0x1_1000;
const RX_SIZE: u16 = 128;
const TX_SIZE: u16 = 64;
const RX_SLOTS: u64 = 2 * RING_BYTES;
const TX_SLOTS: u64 = RX_SLOTS + RX_SIZE as u64 * SLOT;
/// Bytes of everything. What was never written takes no memory.
pub(super) const BYTES: u64 = TX_SLOTS + TX_SIZE as u64 * SLOT;
/// Frames for the guest in one go, so that what it sends gets its turn.
const BURST: usize = 256;

/// The queues and their buffers.
#[derive(Debug)]
pub(super) struct Pair {
    number: u16,
    memory: Memory,
    rx: Ring,
    tx: Ring,
    /// To the back end, and from it: of each queue.
    kicks: [OwnedFd; 2],
    calls: [OwnedFd; 2],
    /// Buffers to send that are ours.
    free: Vec<u16>,
    frame: Frame,
}

/// What the back end hears of a queue.
pub(super) struct Places<'a> {
    pub(super) index: u32,
    pub(super) ring: &'a Ring,
    pub(super) kick: BorrowedFd<'a>,
    pub(super) call: BorrowedFd<'a>,
}

impl Pair {
    pub(super) fn new(number: u16, memory: Memory) -> io::Result<Self> {
        let at = BASE + BYTES * u64::from(number);
        Ok(Self {
            number,
            rx: Ring::new(memory.clone(), at, RX_SIZE),
            tx: Ring::new(memory.clone(), at + RING_BYTES, TX_SIZE),
            memory,
            kicks: [event()?, event()?],
            calls: [event()?, event()?],
            free: Vec::new(),
            frame: Frame::default(),
        })
    }

    pub(super) fn places(&self) -> [Places<'_>; 2] {
        let place = |queue: usize, ring| Places {
            index: 2 * u32::from(self.number) + queue as u32,
            ring,
            kick: self.kicks[queue].as_fd(),
            call: self.calls[queue].as_fd(),
        };
        [place(0, &self.rx), place(1, &self.tx)]
    }

    fn slot(&self, first: u64, index: u16) -> u64 {
        BASE + BYTES * u64::from(self.number) + first + SLOT * u64::from(index)
    }

    /// As a back end that begins finds it: all buffers to receive are its.
    pub(super) fn reset(&mut self) -> io::Result<()> {
        self.rx.reset()?;
        self.tx.reset()?;
        self.tx.listen(false)?;
        self.free = (0..TX_SIZE).collect();
        (0..RX_SIZE).try_for_each(|index| self.lend(index))
    }

    /// The back end has something to look for.
    pub(super) fn kick(&self) {
        self.kicks.iter().for_each(raise);
    }

    /// Lends a buffer to receive.
    fn lend(&mut self, index: u16) -> io::Result<()> {
        let at = self.slot(RX_SLOTS, index);
        self.rx.lend(index, at, SLOT as u32, WRITE)
    }

    /// Sends a frame; false if all buffers are the back end's.
    pub(super) fn send(&mut self, frame: &Frame) -> io::Result<bool> {
        if self.free.is_empty() {
            self.reclaim()?;
        }
        if self.free.is_empty() {
            self.tx.listen(true)?;
            self.reclaim()?;
        }
        let Some(index) = self.free.pop() else {
            return Ok(false);
        };
        self.tx.listen(false)?;
        let at = self.slot(TX_SLOTS, index);
        let header = header::encode(&frame.offload, 0);
        let len = frame.bytes.len().min(SLOT as usize - HEADER);
        let bytes = &frame.bytes[..len];
        let put = |bytes: &[u8], at| self.memory.write_slice(bytes, GuestAddress(at));
        put(&header, at).map_err(io::Error::other)?;
        put(bytes, at + HEADER as u64).map_err(io::Error::other)?;
        self.tx.lend(index, at, (HEADER + len) as u32, 0)?;
        if self.tx.wants_kick()? {
            raise(&self.kicks[1]);
        }
        Ok(true)
    }

    /// Takes back what was sent.
    fn reclaim(&mut self) -> io::Result<()> {
        while let Some((index, _)) = self.tx.take()? {
            self.free.push(index);
        }
        Ok(())
    }

    /// Gives what came to the guest while it has room; true if there may be more.
    pub(super) fn receive(&mut self, guest: &mut dyn Guest) -> io::Result<bool> {
        let mut came = 0;
        while came < BURST && guest.has_room() {
            let Some((index, len)) = self.rx.take()? else {
                break;
            };
            came += 1;
            if self.read(index, len)? {
                guest.deliver(&self.frame);
            }
            self.lend(index)?;
        }
        if came > 0 && self.rx.wants_kick()? {
            raise(&self.kicks[0]);
        }
        Ok(came == BURST)
    }

    /// Reads a frame of so many bytes with its header; false if it is none.
    fn read(&mut self, index: u16, len: u32) -> io::Result<bool> {
        let at = self.slot(RX_SLOTS, index);
        let Some(len) = (len as usize).checked_sub(HEADER) else {
            return Ok(false);
        };
        if len > SLOT as usize - HEADER {
            return Ok(false);
        }
        let mut header = [0; HEADER];
        let get = |bytes: &mut [u8], at| self.memory.read_slice(bytes, GuestAddress(at));
        get(&mut header, at).map_err(io::Error::other)?;
        self.frame.bytes.resize(len, 0);
        get(&mut self.frame.bytes, at + HEADER as u64).map_err(io::Error::other)?;
        let Some(offload) = header::decode(&header) else {
            return Ok(false);
        };
        self.frame.offload = offload;
        Ok(offload.checksum.is_none_or(|partial| partial.fits(len)))
    }
}
