//! Frames to the driver.

use super::header::{LONG, Layout, build};
use super::{feature, tx::MAX_FRAME};
use crate::burst::Burst;
use crate::chain::Chain;
use crate::memory::WriteHook;
use crate::queue::{ActiveQueue, Broken};
use net::{Accepts, Frame};
use std::collections::VecDeque;
use virtio_queue::QueueT;
use vm_memory::GuestMemoryMmap;

/// Room that is taken from the ring ahead, in frames of the longest kind.
const AHEAD: usize = 4;
/// Bytes of a frame beside what the MTU counts: addresses, type and a VLAN tag.
const BESIDE_MTU: usize = 18;

/// The queue. Buffers taken ahead are not given back when the device stops, so
/// who serves the queue next finds them again.
pub(super) struct Rx<'m> {
    burst: Burst,
    memory: &'m GuestMemoryMmap<WriteHook>,
    ready: VecDeque<Chain<'m>>,
    /// Bytes of those, and the most there have been.
    room: usize,
    most: usize,
    header_len: usize,
    /// A frame may be in several of the driver's buffers.
    merges: bool,
    /// Bytes of the longest frame that is to be expected.
    longest: usize,
}

impl<'m> Rx<'m> {
    /// `mtu` is that of the network.
    pub(super) fn new(
        queue: ActiveQueue,
        memory: &'m GuestMemoryMmap<WriteHook>,
        features: u64,
        mtu: u16,
    ) -> Self {
        let long = features & (feature::GUEST_TSO4 | feature::GUEST_TSO6) != 0;
        let frame = match long {
            true => MAX_FRAME,
            false => usize::from(mtu) + BESIDE_MTU,
        };
        let header_len = Layout::new(features).len;
        Self {
            burst: Burst::new(queue),
            memory,
            ready: VecDeque::new(),
            room: 0,
            most: 0,
            header_len,
            merges: features & feature::MRG_RXBUF != 0,
            longest: header_len + frame,
        }
    }

    /// There is room for a frame; for one of the longest kind, if the driver has
    /// ever had that much. If not, the driver will say when it has.
    pub(super) fn has_room(&mut self) -> Result<bool, Broken> {
        loop {
            self.gather(AHEAD * self.longest)?;
            let enough = self.longest.min(self.most / AHEAD).max(1);
            let has_room = match self.merges {
                true => self.room >= enough,
                false => !self.ready.is_empty(),
            };
            if has_room {
                self.burst.queue.hush()?;
                return Ok(true);
            }
            // Something may have come before notifications were on.
            if !self.burst.queue.listen()? {
                return Ok(false);
            }
        }
    }

    /// Takes buffers from the ring until they have room for `bytes`; one is
    /// enough if each frame has one.
    fn gather(&mut self, bytes: usize) -> Result<(), Broken> {
        while self.room < bytes && (self.merges || self.ready.is_empty()) {
            let Some(chain) = self.burst.queue.pop(self.memory)? else {
                break;
            };
            let room = chain.writable_len();
            if room < self.header_len || !chain.readable.is_empty() {
                return Err(Broken("a buffer to receive has no room for a header"));
            }
            if self.ready.len() >= self.burst.queue.queue.size().into() {
                return Err(Broken("there are more buffers than the queue holds"));
            }
            self.ready.push_back(chain);
            self.room += room;
            self.most = self.most.max(self.room);
        }
        Ok(())
    }

    /// Gives a frame to the driver; false if there is no room, or it leaves more
    /// to do than the driver `accepts`.
    pub(super) fn deliver(&mut self, frame: &Frame, accepts: &Accepts) -> Result<bool, Broken> {
        let need = self.header_len + frame.bytes.len();
        self.gather(need)?;
        let Some(count) = self.chains_for(need) else {
            return Ok(false);
        };
        let Some(header) = build(frame, accepts, count as u16) else {
            return Ok(false);
        };
        self.fill(count, &header, &frame.bytes)?;
        Ok(true)
    }

    /// How many of the buffers `need` bytes take; `None` if there are too few.
    fn chains_for(&self, need: usize) -> Option<usize> {
        let mut room = 0;
        let most = if self.merges { self.ready.len() } else { 1 };
        let chains = self.ready.iter().take(most).position(|chain| {
            room += chain.writable_len();
            room >= need
        });
        chains.map(|last| last + 1)
    }

    fn fill(&mut self, count: usize, header: &[u8; LONG], frame: &[u8]) -> Result<(), Broken> {
        let mut rest = frame;
        let mut used = Vec::with_capacity(count);
        for (i, chain) in self.ready.drain(..count).enumerate() {
            let skip = match i {
                0 => chain.fill(&header[..self.header_len]),
                _ => 0,
            };
            let n = chain.fill_behind(skip, rest);
            rest = &rest[n..];
            self.room -= chain.writable_len();
            used.push((chain.head, (skip + n) as u32));
        }
        self.burst.put(used.into_iter())
    }

    /// Tells the driver what has come.
    pub(super) fn signal(&mut self) -> Result<(), Broken> {
        self.burst.signal()
    }
}
