//! Frames from the driver.

use super::header::{LONG, Layout};
use super::link::{LinkState, count};
use crate::burst::Burst;
use crate::chain::Chain;
use crate::queue::{ActiveQueue, Broken};
use net::Frame;

/// Bytes of both addresses and the type: a frame has no fewer.
const MIN_FRAME: usize = 14;
/// A frame that stands for several has up to 64 KiB behind its first headers.
pub(super) const MAX_FRAME: usize = (64 << 10) + 256;
/// Frames after which others have their turn.
const BURST: usize = 256;

/// The queue.
pub(super) struct Tx {
    burst: Burst,
    layout: Layout,
    /// The last frame that was read.
    frame: Frame,
    /// Its request, if the network has not taken it yet. Such a request is not
    /// given back when the device stops, so who serves the queue next reads it
    /// again.
    kept: Option<u16>,
}

impl Tx {
    pub(super) fn new(queue: ActiveQueue, features: u64) -> Self {
        Self {
            burst: Burst::new(queue),
            layout: Layout::new(features),
            frame: Frame::default(),
            kept: None,
        }
    }

    /// A frame waits for the network.
    pub(super) fn waits(&self) -> bool {
        self.kept.is_some()
    }

    /// Gives frames to `send` until it takes no more or there are none; true if
    /// there are more but others shall have their turn. If they are `lost` there
    /// is nobody to send them to.
    pub(super) fn run(
        &mut self,
        link: &LinkState,
        lost: bool,
        mut send: impl FnMut(&Frame) -> bool,
    ) -> Result<bool, Broken> {
        self.burst.queue.hush()?;
        for _ in 0..BURST {
            let (head, sound) = match self.kept.take() {
                Some(head) => (head, true),
                None => match self.read()? {
                    Some(read) => read,
                    None => return self.burst.queue.listen(),
                },
            };
            if !sound || lost {
                count(&link.not_sent);
            } else if send(&self.frame) {
                count(&link.sent);
            } else {
                self.kept = Some(head);
                return Ok(false);
            }
            self.burst.put([(head, 0)].into_iter())?;
        }
        Ok(true)
    }

    /// Tells the driver what was sent.
    pub(super) fn signal(&mut self) -> Result<(), Broken> {
        self.burst.signal()
    }

    /// Reads the next frame: its request, and whether it makes sense.
    fn read(&mut self) -> Result<Option<(u16, bool)>, Broken> {
        let memory = self.burst.queue.memory.clone();
        let Some(chain) = self.burst.queue.pop(&memory)? else {
            return Ok(None);
        };
        let head = chain.head;
        let read = self.copy(chain)?;
        if let Err(why) = read {
            log::debug!(target: "guest_errors", "virtio-net: {why}");
        }
        Ok(Some((head, read.is_ok())))
    }

    fn copy(&mut self, mut chain: Chain<'_>) -> Result<Result<(), &'static str>, Broken> {
        if !chain.writable.is_empty() {
            return Err(Broken("a frame to be sent has room to write"));
        }
        let mut header = [0; LONG];
        if !chain.take_header(&mut header[..self.layout.len]) {
            return Err(Broken("a frame to be sent has no header"));
        }
        let len = chain.readable_len();
        if !(MIN_FRAME..=MAX_FRAME).contains(&len) {
            return Ok(Err("a frame that is too short or too long"));
        }
        self.frame.bytes.resize(len, 0);
        chain.take(&mut self.frame.bytes);
        let offload = self.layout.parse(&header, len);
        Ok(offload.map(|offload| self.frame.offload = offload))
    }
}
