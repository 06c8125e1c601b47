//! The connection to the back end, which all pairs of queues share.

use super::message::{Socket, request};
use super::pair::{Pair, Places};
use super::ring::{AVAILABLE, Memory, USED};
use crate::frame::Accepts;
use rustix::event::EventfdFlags;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestMemoryRegion, MmapRegion};
use vm_memory::{GuestMemory, GuestRegionMmap};

/// Where the back end sees the memory; its rings are named by where we see it.
pub(super) const BASE: u64 = 0x10_0000;

/// Features (virtio 1.2, 5.1.3 and 6), and vhost-user's own.
mod feature {
    pub const CSUM: u64 = 1 << 0;
    pub const GUEST_CSUM: u64 = 1 << 1;
    pub const GUEST_TSO4: u64 = 1 << 7;
    pub const GUEST_TSO6: u64 = 1 << 8;
    pub const GUEST_ECN: u64 = 1 << 9;
    pub const HOST_TSO4: u64 = 1 << 11;
    pub const HOST_TSO6: u64 = 1 << 12;
    pub const HOST_ECN: u64 = 1 << 13;
    pub const MQ: u64 = 1 << 22;
    pub const PROTOCOL: u64 = 1 << 30;
    pub const VERSION_1: u64 = 1 << 32;
}
/// The protocol's feature of several queues.
const PROTOCOL_MQ: u64 = 1;

/// An eventfd.
pub(super) fn event() -> io::Result<OwnedFd> {
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    Ok(rustix::event::eventfd(0, flags)?)
}

/// Raises an eventfd; one that is about to overflow is raised already.
pub(super) fn raise(event: impl AsFd) {
    let _ = rustix::io::write(event, &1u64.to_ne_bytes());
}

/// A back end that has introduced itself.
#[derive(Debug)]
struct Back {
    socket: Socket,
    /// What it offers.
    offers: u64,
    /// What was agreed on, once it was.
    agreed: Option<u64>,
}

/// What all pairs share.
#[derive(Debug)]
pub(super) struct Session {
    path: PathBuf,
    pairs: u16,
    /// What the back end sees, and where we do.
    file: Arc<File>,
    memory: Memory,
    back: Option<Back>,
    /// What the first back end offered of checksums and segments: another one must
    /// offer that, too.
    takes: Option<u64>,
    accepts: Option<Accepts>,
    /// Vrings that the back end serves.
    started: Vec<u32>,
    /// Counts connections, and changes of what was agreed on: each pair begins anew
    /// then.
    pub(super) epoch: u64,
    /// Tell each pair to look.
    pub(super) wakes: Vec<OwnedFd>,
}

fn wrong(why: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why)
}

impl Session {
    /// Connects.
    pub(super) fn new(path: PathBuf, pairs: u16, bytes: u64) -> io::Result<Self> {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let file = File::from(rustix::fs::memfd_create("vhost-user", flags)?);
        file.set_len(bytes)?;
        let file = Arc::new(file);
        let region = MmapRegion::from_file(FileOffset::from_arc(file.clone(), 0), bytes as usize);
        let region = region.map_err(|e| io::Error::other(e.to_string()))?;
        let region = GuestRegionMmap::new(region, GuestAddress(BASE));
        let region = region.ok_or(ErrorKind::OutOfMemory)?;
        let memory = GuestMemoryMmap::from_regions(vec![region]);
        let memory = memory.map_err(|e| io::Error::other(e.to_string()))?;
        let wakes = (0..pairs).map(|_| event()).collect::<io::Result<_>>()?;
        let mut session = Self {
            path,
            pairs,
            file,
            memory: Arc::new(memory),
            back: None,
            takes: None,
            accepts: None,
            started: Vec::new(),
            epoch: 0,
            wakes,
        };
        session.adopt(meet(&session.path, pairs)?)?;
        Ok(session)
    }

    pub(super) fn memory(&self) -> Memory {
        self.memory.clone()
    }

    /// There is a back end.
    pub(super) fn is_connected(&self) -> bool {
        self.back.is_some()
    }

    /// The connection, to wait for its end.
    pub(super) fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.back.as_ref().map(|back| back.socket.as_fd())
    }

    /// What the guest may leave to do.
    pub(super) fn takes(&self) -> Accepts {
        let has = |bit| self.takes.unwrap_or(0) & bit != 0;
        let checksum = has(feature::CSUM);
        Accepts {
            checksum,
            tcp4: checksum && has(feature::HOST_TSO4),
            tcp6: checksum && has(feature::HOST_TSO6),
            ecn: checksum && has(feature::HOST_ECN),
        }
    }

    /// Goes on with a back end where the last one left off.
    pub(super) fn adopt(&mut self, (socket, offers): Met) -> io::Result<()> {
        let takes = feature::CSUM | feature::HOST_TSO4 | feature::HOST_TSO6 | feature::HOST_ECN;
        let takes = *self.takes.get_or_insert(offers & takes);
        if takes & !offers != 0 {
            let missing = takes & !offers;
            return Err(wrong(format!(
                "it lacks the features {missing:#x} of the one before"
            )));
        }
        self.back = Some(Back {
            socket,
            offers,
            agreed: None,
        });
        self.settle()
    }

    /// What the guest accepts: the back end hears of it.
    pub(super) fn accept(&mut self, accepts: Accepts) -> io::Result<()> {
        self.accepts = Some(accepts);
        self.settle()
    }

    /// Agrees on features once it is known what the guest accepts, and again when that
    /// changes; all pairs begin anew then.
    fn settle(&mut self) -> io::Result<()> {
        let (Some(back), Some(accepts)) = (&mut self.back, self.accepts) else {
            return Ok(());
        };
        let features = features(back.offers, accepts, self.takes.unwrap_or(0), self.pairs);
        if back.agreed == Some(features) {
            return Ok(());
        }
        for index in self.started.drain(..) {
            back.socket
                .ask(request::GET_VRING_BASE, &words([index, 0]))?;
        }
        back.socket
            .tell(request::SET_FEATURES, &features.to_le_bytes(), None)?;
        if back.agreed.replace(features).is_none() {
            let region = self.memory.iter().next().ok_or(ErrorKind::NotFound)?;
            let numbers = [1, BASE, region.len(), region.as_ptr() as u64, 0];
            let table: Vec<u8> = numbers.into_iter().flat_map(u64::to_le_bytes).collect();
            let file = Some(self.file.as_fd());
            back.socket.tell(request::SET_MEM_TABLE, &table, file)?;
        }
        self.begin_anew();
        Ok(())
    }

    fn begin_anew(&mut self) {
        self.epoch += 1;
        self.wakes.iter().for_each(raise);
    }

    /// Gives the back end up.
    pub(super) fn lose(&mut self, why: &io::Error) {
        if self.back.take().is_some() {
            log::warn!("{}: the back end is lost: {why}", self.path.display());
            self.started.clear();
            self.begin_anew();
        }
    }

    /// Has the back end serve the queues of a pair; false if there is none yet.
    pub(super) fn start(&mut self, pair: &Pair, on: bool) -> io::Result<bool> {
        let Some(Back {
            socket,
            agreed: Some(agreed),
            ..
        }) = &self.back
        else {
            return Ok(false);
        };
        let start = self.memory.iter().next().map_or(0, |r| r.as_ptr() as u64);
        for Places {
            index,
            ring,
            kick,
            call,
        } in pair.places()
        {
            self.started.push(index);
            let seen = start + (ring.at() - BASE);
            let state = |value| words([index, value]);
            socket.tell(request::SET_VRING_NUM, &state(ring.size().into()), None)?;
            socket.tell(request::SET_VRING_BASE, &state(0), None)?;
            let mut places = state(0);
            let rings = [seen, seen + USED, seen + AVAILABLE, 0];
            places.extend(rings.into_iter().flat_map(u64::to_le_bytes));
            socket.tell(request::SET_VRING_ADDR, &places, None)?;
            let number = u64::from(index).to_le_bytes();
            socket.tell(request::SET_VRING_CALL, &number, Some(call))?;
            socket.tell(request::SET_VRING_KICK, &number, Some(kick))?;
            if agreed & feature::PROTOCOL != 0 {
                socket.tell(request::SET_VRING_ENABLE, &state(on.into()), None)?;
            }
        }
        Ok(true)
    }

    /// The back end serves a pair that was started, or leaves it alone.
    pub(super) fn enable(&mut self, pair: &Pair, on: bool) -> io::Result<()> {
        let Some(Back {
            socket,
            agreed: Some(agreed),
            ..
        }) = &self.back
        else {
            return Ok(());
        };
        for Places { index, .. } in pair.places() {
            if agreed & feature::PROTOCOL != 0 && self.started.contains(&index) {
                let state = words([index, on.into()]);
                socket.tell(request::SET_VRING_ENABLE, &state, None)?;
            }
        }
        Ok(())
    }
}

fn words(words: [u32; 2]) -> Vec<u8> {
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

/// A back end that has introduced itself, and what it offers.
pub(super) type Met = (Socket, u64);

/// Connects to a back end.
pub(super) fn meet(path: &Path, pairs: u16) -> io::Result<Met> {
    let socket = Socket::connect(path)?;
    let offers = introduce(&socket, pairs)?;
    Ok((socket, offers))
}

/// Both sides say what they can: what the back end offers.
fn introduce(socket: &Socket, pairs: u16) -> io::Result<u64> {
    let offers = socket.ask_number(request::GET_FEATURES)?;
    if offers & feature::VERSION_1 == 0 {
        return Err(wrong("it knows no virtio 1".into()));
    }
    let mut most = 1;
    if offers & feature::PROTOCOL != 0 {
        let protocol = socket.ask_number(request::GET_PROTOCOL_FEATURES)? & PROTOCOL_MQ;
        let message = protocol.to_le_bytes();
        socket.tell(request::SET_PROTOCOL_FEATURES, &message, None)?;
        if protocol != 0 {
            most = socket.ask_number(request::GET_QUEUE_NUM)?;
        }
    }
    if u64::from(pairs) > most {
        return Err(wrong(format!("queues={pairs}: the back end has {most}")));
    }
    socket.tell(request::SET_OWNER, &[], None)?;
    Ok(offers)
}

/// What is agreed on.
fn features(offers: u64, accepts: Accepts, takes: u64, pairs: u16) -> u64 {
    let wanted = |on: bool, bit: u64| if on { bit } else { 0 };
    let wanted = wanted(accepts.checksum, feature::GUEST_CSUM)
        | wanted(accepts.tcp4, feature::GUEST_TSO4)
        | wanted(accepts.tcp6, feature::GUEST_TSO6)
        | wanted(accepts.ecn, feature::GUEST_ECN)
        | wanted(pairs > 1, feature::MQ)
        | takes
        | feature::PROTOCOL
        | feature::VERSION_1;
    offers & wanted
}
