//! A network adapter whose network has two queues that give back what they are sent,
//! and its commands.

use super::{RINGS, notify, start};
use crate::input::Input;
use devices::pci::PciFunction;
use net::{Accepts, Frame, Guest, Network};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Instant;
use virtio::net::{Net, Options, feature};
use virtio::transport::VirtioPci;
use virtio::{GuestMemory, VirtioDevice};
use vm_memory::{Bytes, GuestAddress};

/// Frames on their way back; more have to wait.
const ROOM: usize = 4;
/// Queues of the network, and that of commands behind them.
const PAIRS: u16 = 2;
const COMMANDS: u16 = 2 * PAIRS;
/// Everything that has to do with commands.
const FEATURES: u64 = feature::MQ
    | feature::CTRL_VQ
    | feature::CTRL_RX
    | feature::CTRL_RX_EXTRA
    | feature::CTRL_MAC_ADDR
    | feature::CTRL_GUEST_OFFLOADS
    | feature::GUEST_CSUM;
/// Where commands and their answers are.
const COMMAND: u64 = 0x4000;
const ANSWER: u64 = 0x5000;

struct Echo {
    /// Never readable.
    quiet: net::Nowhere,
    frames: VecDeque<Frame>,
    on: bool,
}

impl Network for Echo {
    fn fd(&self) -> BorrowedFd<'_> {
        self.quiet.fd()
    }
    fn takes(&self) -> Accepts {
        Accepts::ALL
    }
    fn accepts(&mut self, _: Accepts) {}
    fn enable(&mut self, on: bool) -> io::Result<()> {
        self.on = on;
        Ok(())
    }
    fn send(&mut self, frame: &Frame) -> bool {
        assert!(self.on, "a frame for a queue that is off");
        let len = frame.bytes.len();
        assert!((14..=65_792).contains(&len), "a frame of {len} bytes");
        if let Some(partial) = frame.offload.checksum {
            assert!(partial.fits(len), "a checksum outside the frame");
        }
        let room = self.frames.len() < ROOM;
        if room {
            self.frames.push_back(frame.clone());
        }
        room
    }
    fn run(&mut self, _: Instant, guest: &mut dyn Guest) -> io::Result<()> {
        assert!(self.on, "a queue that is off is asked for frames");
        while !self.frames.is_empty() && guest.has_room() {
            if let Some(frame) = self.frames.pop_front() {
                guest.deliver(&frame);
            }
        }
        Ok(())
    }
}

/// The adapter.
pub(super) fn device() -> Arc<dyn VirtioDevice> {
    let echo = || {
        let echo = Echo {
            quiet: net::Nowhere::new().expect("a pair of sockets"),
            frames: VecDeque::new(),
            on: true,
        };
        Arc::new(Mutex::new(Box::new(echo) as Box<dyn Network>))
    };
    let networks = (0..PAIRS).map(|_| echo()).collect();
    let options = Options {
        features: feature::OPTIONAL | feature::MQ,
        ..Options::default()
    };
    Arc::new(Net::new(networks, Arc::default(), options))
}

/// A command that may make sense, most often one for the number of pairs. The driver
/// begins anew now and then.
pub(super) fn command(function: &VirtioPci, memory: &GuestMemory, input: &mut Input<'_>) {
    if input.flag() {
        function.bar_write(super::BAR, 0x14, 1, 0);
        start(function, FEATURES as u32, COMMANDS);
    }
    let mut bytes = match input.below(4) {
        0 => input.u16().to_le_bytes().to_vec(),
        _ => vec![4, 0],
    };
    let len = usize::from(input.u8() & 31);
    bytes.extend(input.bytes(len));
    let write = |at, bytes: &[u8]| {
        // Fixed places inside memory.
        let _ = memory.write_slice(bytes, GuestAddress(at));
    };
    write(COMMAND, &bytes);
    let chain = [(COMMAND, bytes.len() as u32, 1u16), (ANSWER, 1, 2)];
    for (i, (address, length, flags)) in (0u16..).zip(chain) {
        let at = RINGS[0] + 16 * u64::from(i);
        write(at, &address.to_le_bytes());
        write(at + 8, &length.to_le_bytes());
        write(at + 12, &flags.to_le_bytes());
        write(at + 14, &(i + 1).to_le_bytes());
    }
    notify(function, memory, 0);
}
