//! A vhost-user back end made of rust-vmm's crates: somebody at every address, who
//! answers ARP and echoes of ICMP. `vhost_user SOCKET PAIRS` serves one machine.

use std::io;
use std::path::Path;
use std::sync::{Arc, RwLock};
use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost_user_backend::{VhostUserBackendMut, VhostUserDaemon, VringRwLock, VringT};
use virtio_queue::QueueOwnedT;
use vm_memory::{Bytes, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{
    EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier,
};

/// Virtio 1, vhost-user's own features, and several queues.
const VERSION_1: u64 = 1 << 32;
const PROTOCOL: u64 = 1 << 30;
const MQ: u64 = 1 << 22;
/// The address of whoever answers.
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];
const HEADER: usize = 12;

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;
/// A chain: its head, and where its parts are and how long.
type Chain = (u16, Vec<(u64, u32)>);

struct Answers {
    pairs: usize,
    memory: Memory,
}

fn failed(e: impl std::fmt::Debug) -> io::Error {
    io::Error::other(format!("{e:?}"))
}

impl Answers {
    /// Takes the next chain of a queue.
    fn pop(&self, vring: &VringRwLock<Memory>) -> io::Result<Option<Chain>> {
        let memory = self.memory.memory();
        let mut state = vring.get_mut();
        let Some(chain) = state.get_queue_mut().iter(memory).map_err(failed)?.next() else {
            return Ok(None);
        };
        let head = chain.head_index();
        let parts = chain.map(|d| (d.addr().0, d.len())).collect();
        Ok(Some((head, parts)))
    }

    fn send(&self, vring: &VringRwLock<Memory>, frame: &[u8]) -> io::Result<()> {
        let Some((head, parts)) = self.pop(vring)? else {
            return Ok(());
        };
        let mut bytes = vec![0; HEADER];
        bytes[10] = 1;
        bytes.extend(frame);
        let mut rest = &bytes[..];
        for (at, len) in parts {
            let (now, later) = rest.split_at(rest.len().min(len as usize));
            let place = vm_memory::GuestAddress(at);
            self.memory
                .memory()
                .write_slice(now, place)
                .map_err(failed)?;
            rest = later;
        }
        vring.add_used(head, bytes.len() as u32).map_err(failed)?;
        vring.signal_used_queue()
    }
}

impl VhostUserBackendMut for Answers {
    type Bitmap = ();
    type Vring = VringRwLock<Memory>;

    fn num_queues(&self) -> usize {
        2 * self.pairs
    }
    fn max_queue_size(&self) -> usize {
        256
    }
    fn features(&self) -> u64 {
        VERSION_1 | PROTOCOL | MQ
    }
    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ
    }
    fn set_event_idx(&mut self, _: bool) {}
    fn update_memory(&mut self, memory: Memory) -> io::Result<()> {
        self.memory = memory;
        Ok(())
    }
    fn exit_event(&self, _: usize) -> Option<(EventConsumer, EventNotifier)> {
        new_event_consumer_and_notifier(EventFlag::NONBLOCK).ok()
    }
    fn handle_event(
        &mut self,
        event: u16,
        _: EventSet,
        vrings: &[VringRwLock<Memory>],
        _: usize,
    ) -> io::Result<()> {
        let queue = usize::from(event);
        // Buffers to receive are taken when there is something for them.
        if queue % 2 == 0 {
            return Ok(());
        }
        while let Some((head, parts)) = self.pop(&vrings[queue])? {
            let mut frame = Vec::new();
            for (at, len) in parts {
                let mut part = vec![0; len as usize];
                let place = vm_memory::GuestAddress(at);
                self.memory
                    .memory()
                    .read_slice(&mut part, place)
                    .map_err(failed)?;
                frame.extend(part);
            }
            vrings[queue].add_used(head, 0).map_err(failed)?;
            if let Some(answer) = frame.get(HEADER..).and_then(answer) {
                self.send(&vrings[queue - 1], &answer)?;
            }
        }
        vrings[queue].signal_used_queue()
    }
}

/// What is answered to a frame.
fn answer(frame: &[u8]) -> Option<Vec<u8>> {
    let mut answer = frame.to_vec();
    answer[..6].copy_from_slice(frame.get(6..12)?);
    answer[6..12].copy_from_slice(&MAC);
    match frame.get(12..14)? {
        [8, 6] if frame.get(20..22)? == [0, 1] => {
            let (asker, asked) = (frame.get(22..32)?, frame.get(38..42)?);
            answer[21] = 2;
            answer[22..28].copy_from_slice(&MAC);
            answer[28..32].copy_from_slice(asked);
            answer[32..42].copy_from_slice(asker);
        }
        [8, 0] if *frame.get(23)? == 1 && *frame.get(34)? == 8 => {
            answer[26..30].copy_from_slice(frame.get(30..34)?);
            answer[30..34].copy_from_slice(frame.get(26..30)?);
            // An answer is 0 where the question is 8, and the checksum says so.
            answer[34] = 0;
            let sum = u16::from_be_bytes([*frame.get(36)?, *frame.get(37)?]);
            let (sum, carry) = sum.overflowing_add(0x800);
            let sum = sum + u16::from(carry);
            answer[36..38].copy_from_slice(&sum.to_be_bytes());
        }
        _ => return None,
    }
    Some(answer)
}

/// Listens at `path` and serves one machine until it has gone.
///
/// # Errors
/// The host's.
pub fn serve(path: &Path, pairs: usize) -> io::Result<()> {
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let answers = Answers {
        pairs,
        memory: memory.clone(),
    };
    let answers = Arc::new(RwLock::new(answers));
    let mut daemon = VhostUserDaemon::new("back-end".into(), answers, memory).map_err(failed)?;
    daemon.serve(path).map_err(failed)
}

#[allow(dead_code, reason = "a test has this file as a module")]
fn main() -> io::Result<()> {
    let mut words = std::env::args().skip(1);
    let path = words.next().ok_or(io::ErrorKind::InvalidInput)?;
    let pairs = words.next().and_then(|n| n.parse().ok()).unwrap_or(1);
    serve(Path::new(&path), pairs)
}
