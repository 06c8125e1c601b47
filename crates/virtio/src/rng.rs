//! Entropy device (virtio 1.2, 5.4): fills buffers with the host's random
//! bytes.

use crate::chain::Chain;
use crate::device::{Activation, Kind, VirtioDevice};
use crate::queue::Broken;
use crate::workers::Workers;
use std::fs::File;
use std::io::{self, Read};

/// The type.
pub const KIND: Kind = Kind {
    name: "virtio-rng",
    id: 4,
    pci_id: 0x1005,
    class: 0x00_ff_00,
};

/// Most bytes for one request; a driver asks again for more.
const MAX_BYTES: usize = 64 << 10;
const QUEUE_SIZE: u16 = 8;

/// The device.
#[derive(Debug, Default)]
pub struct Rng {
    workers: Workers,
}

impl Rng {
    /// A device fed by the host's random number generator.
    pub fn new() -> Self {
        Self::default()
    }
}

/// Fills the chain's buffers; 0 if the host has nothing to give.
fn serve(source: &mut File, chain: &Chain<'_>) -> Result<u32, Broken> {
    let len = chain.writable_len();
    if len == 0 || !chain.readable.is_empty() {
        return Err(Broken("a request for random bytes has no room for them"));
    }
    let mut bytes = vec![0; len.min(MAX_BYTES)];
    if let Err(error) = source.read_exact(&mut bytes) {
        log::warn!("virtio-rng: the host's random numbers: {error}");
        return Ok(0);
    }
    Ok(chain.fill(&bytes) as u32)
}

impl VirtioDevice for Rng {
    fn kind(&self) -> &'static Kind {
        &KIND
    }
    fn features(&self) -> u64 {
        0
    }
    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }
    fn activate(&self, activation: Activation) -> io::Result<()> {
        for queue in activation.queues {
            let mut source = File::open("/dev/urandom")?;
            let doorbell = queue.doorbell.clone();
            self.workers.start(KIND.name, doorbell, move || {
                queue.serve(|chain| serve(&mut source, &chain));
            })?;
        }
        Ok(())
    }
    fn suspend(&self) -> bool {
        self.reset();
        true
    }

    fn reset(&self) {
        self.workers.stop();
    }
}
