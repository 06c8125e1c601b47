//! Memory balloon (virtio 1.2, 5.5): the guest lends pages to the host, and
//! reports pages that it has no use for; the host gets both back.

mod host;
mod stats;
#[cfg(test)]
mod tests;

use crate::chain::{Chain, Slice};
use crate::device::{Activation, Kind, VirtioDevice, copy_config};
use crate::memory::{GuestMemory, WriteHook};
use crate::queue::{ActiveQueue, Broken};
use crate::workers::Workers;
use state::Image;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use vm_memory::{Address, GuestMemory as _, GuestMemoryMmap, GuestMemoryRegion};

pub use host::{Host, Statistic};

/// The type.
pub const KIND: Kind = Kind {
    name: "virtio-balloon",
    id: 5,
    pci_id: 0x1002,
    class: 0x00_ff_00,
};

/// Bytes of a page as the balloon counts, whatever the guest's are (5.5.6).
pub const PAGE: u64 = 4096;
/// QEMU's.
const QUEUE_SIZE: u16 = 128;
/// Most pages in one request; Linux sends 256.
const MAX_PAGES: usize = 16 << 10;

/// Feature bits (5.5.3).
mod feature {
    pub const STATS_QUEUE: u64 = 1 << 1;
    pub const DEFLATE_ON_OOM: u64 = 1 << 2;
    pub const PAGE_POISON: u64 = 1 << 4;
    pub const PAGE_REPORTING: u64 = 1 << 5;
}

/// Queues, in this order (5.5.2); that of free-page hints is left out with
/// its feature.
mod queue {
    pub const INFLATE: u16 = 0;
    pub const DEFLATE: u16 = 1;
    pub const STATS: u16 = 2;
    pub const REPORTING: u16 = 3;
}

/// Gives guest memory back to the host.
pub trait Reclaim: Send + Sync {
    /// Whole pages of [`PAGE`] bytes, `gpa` and those after it, `len` bytes
    /// in all, hold nothing of use. They read as zero afterwards, or as before
    /// where the host cannot take them back, and can be written at any time.
    ///
    /// # Errors
    /// There is no RAM, or the host's reason.
    fn discard(&self, gpa: u64, len: u64) -> io::Result<()>;
}

/// What the driver may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// It takes pages back when it runs out of memory.
    pub deflate_on_oom: bool,
    /// It reports free pages.
    pub free_page_reporting: bool,
}

/// The device.
pub struct Balloon {
    host: Arc<Host>,
    reclaim: Arc<dyn Reclaim>,
    options: Options,
    workers: Workers,
}

impl Balloon {
    /// A device whose size `host` asks for and whose pages go to `reclaim`.
    pub fn new(host: Arc<Host>, reclaim: Arc<dyn Reclaim>, options: Options) -> Self {
        Self {
            host,
            reclaim,
            options,
            workers: Workers::default(),
        }
    }

    fn stop(&self) {
        self.workers.stop();
        self.host.detach();
    }

    /// What the thread of a queue does.
    fn work(&self, queue: ActiveQueue) -> Box<dyn FnOnce() + Send> {
        let (host, reclaim) = (self.host.clone(), self.reclaim.clone());
        match queue.index {
            queue::INFLATE => Box::new(move || queue.serve(|chain| inflate(chain, &*reclaim))),
            queue::DEFLATE => Box::new(move || {
                // The pages are the guest's again as soon as it touches them.
                queue.serve(|_| Ok(0));
            }),
            queue::STATS => Box::new(move || stats::serve(queue, &host)),
            queue::REPORTING => Box::new(move || {
                let memory = queue.memory.clone();
                queue.serve(|chain| report(&chain, &memory, &host, &*reclaim));
            }),
            index => unreachable!("a balloon has no queue {index}"),
        }
    }
}

/// Gives the pages back that a request lists.
fn inflate(mut chain: Chain<'_>, reclaim: &dyn Reclaim) -> Result<u32, Broken> {
    if chain.readable_len() > 4 * MAX_PAGES {
        return Err(Broken("a request to inflate lists too many pages"));
    }
    let mut list = vec![0; chain.readable_len()];
    chain.take(&mut list);
    let mut pages: Vec<u32> = (list.chunks_exact(4))
        .map(|p| p.try_into().map_or(0, u32::from_le_bytes))
        .collect();
    pages.sort_unstable();
    pages.dedup();
    for run in pages.chunk_by(|a, b| a + 1 == *b) {
        let gpa = u64::from(run[0]) * PAGE;
        discard(reclaim, gpa..gpa + run.len() as u64 * PAGE);
    }
    Ok(0)
}

/// Gives back what a report lists: its buffers are the free pages.
fn report(
    chain: &Chain<'_>,
    memory: &GuestMemory,
    host: &Host,
    reclaim: &dyn Reclaim,
) -> Result<u32, Broken> {
    // The driver relies on the pages' contents (5.5.6.5.1).
    if host.poison() != 0 {
        return Ok(0);
    }
    for slice in &chain.writable {
        if let Some(range) = place(memory, slice) {
            let begin = range.start.next_multiple_of(PAGE);
            let end = range.end / PAGE * PAGE;
            if begin < end {
                discard(reclaim, begin..end);
            }
        }
    }
    Ok(0)
}

fn discard(reclaim: &dyn Reclaim, range: Range<u64>) {
    let (gpa, len) = (range.start, range.end - range.start);
    if let Err(error) = reclaim.discard(gpa, len) {
        log::warn!(target: "guest_errors", "virtio-balloon: {len:#x} bytes at {gpa:#x}: {error}");
    }
}

/// Guest-physical addresses of a buffer.
fn place(memory: &GuestMemoryMmap<WriteHook>, slice: &Slice<'_>) -> Option<Range<u64>> {
    let at = slice.ptr_guard().as_ptr() as usize;
    let gpa = memory.iter().find_map(|region| {
        let inside = at.checked_sub(region.as_ptr() as usize)? as u64;
        (inside < region.len()).then(|| region.start_addr().raw_value() + inside)
    })?;
    Some(gpa..gpa + slice.len() as u64)
}

impl VirtioDevice for Balloon {
    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn features(&self) -> u64 {
        let when = |condition, bits| if condition { bits } else { 0 };
        feature::STATS_QUEUE
            | feature::PAGE_POISON
            | when(self.options.deflate_on_oom, feature::DEFLATE_ON_OOM)
            | when(self.options.free_page_reporting, feature::PAGE_REPORTING)
    }

    fn queue_sizes(&self) -> Vec<u16> {
        let queues = 3 + usize::from(self.options.free_page_reporting);
        vec![QUEUE_SIZE; queues]
    }

    fn config_len(&self) -> usize {
        host::CONFIG_LEN
    }

    fn read_config(&self, offset: usize, bytes: &mut [u8]) {
        copy_config(&self.host.config(), offset, bytes);
    }

    fn write_config(&self, offset: usize, bytes: &[u8]) {
        self.host.write_config(offset, bytes);
    }

    fn activate(&self, activation: Activation) -> io::Result<()> {
        let bells = activation.queues.iter().map(|q| (q.index, &q.doorbell));
        let stats = bells.into_iter().find(|(index, _)| *index == queue::STATS);
        let stats = stats.map(|(_, bell)| bell.clone());
        self.host.attach(activation.interrupts, stats);
        for queue in activation.queues {
            let doorbell = queue.doorbell.clone();
            let work = self.work(queue);
            self.workers.start(KIND.name, doorbell, work)?;
        }
        Ok(())
    }

    fn suspend(&self) -> bool {
        self.host.release_buffer(true);
        self.stop();
        self.host.release_buffer(false);
        true
    }

    fn save(&self, instance: &str, image: &mut Image) {
        image.put(instance, &self.host.save());
    }

    fn restore(&self, instance: &str, image: &mut Image) -> state::Result<()> {
        self.host.restore(&image.take(instance)?);
        Ok(())
    }

    fn reset(&self) {
        self.stop();
        self.host.reset();
    }
}
