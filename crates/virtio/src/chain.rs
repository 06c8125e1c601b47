//! A descriptor chain taken from a queue, checked whole before it is used.

use crate::memory::WriteHook;
use crate::queue::Broken;
use virtio_queue::DescriptorChain;
use virtio_queue::desc::split::Descriptor;
use vm_memory::bitmap::RefSlice;
use vm_memory::{GuestMemory, GuestMemoryMmap, VolatileSlice};

/// A piece of guest memory.
pub type Slice<'m> = VolatileSlice<'m, RefSlice<'m, WriteHook>>;

/// Most buffers in a chain: the largest queue QEMU offers. A chain is no
/// longer than its queue (2.7.5.3.1), but Linux's can be in indirect tables.
const MAX_BUFFERS: usize = 1024;

/// The buffers of one request: those the device reads, then those it writes.
#[derive(Debug)]
pub struct Chain<'m> {
    /// Index of its first descriptor, which names it in the used ring.
    pub head: u16,
    /// What the driver wrote.
    pub readable: Vec<Slice<'m>>,
    /// What the device fills.
    pub writable: Vec<Slice<'m>>,
    memory: &'m GuestMemoryMmap<WriteHook>,
    descriptors: DescriptorChain<&'m GuestMemoryMmap<WriteHook>>,
}

/// Bytes of `slices`.
fn total(slices: &[Slice<'_>]) -> usize {
    slices.iter().map(Slice::len).sum()
}

impl<'m> Chain<'m> {
    /// Follows a chain to its end. A chain that is cyclic, leaves its table
    /// or guest memory, or has a readable buffer behind a writable one is
    /// [`Broken`].
    pub(crate) fn collect(
        memory: &'m GuestMemoryMmap<WriteHook>,
        mut descriptors: DescriptorChain<&'m GuestMemoryMmap<WriteHook>>,
    ) -> Result<Self, Broken> {
        let mut chain = Self {
            head: descriptors.head_index(),
            readable: Vec::new(),
            writable: Vec::new(),
            memory,
            descriptors: descriptors.clone(),
        };
        let mut last = None;
        let mut count = 0;
        for descriptor in &mut descriptors {
            count += 1;
            if count > MAX_BUFFERS {
                return Err(Broken("a chain has more than 1024 buffers"));
            }
            chain.add(memory, &descriptor)?;
            last = Some(descriptor);
        }
        // The iterator also ends where it cannot go on.
        match last {
            Some(last) if !last.has_next() => Ok(chain),
            Some(_) => Err(Broken("a chain does not end")),
            None => Err(Broken("a chain has no descriptor")),
        }
    }

    fn add(
        &mut self,
        memory: &'m GuestMemoryMmap<WriteHook>,
        descriptor: &Descriptor,
    ) -> Result<(), Broken> {
        let target = match descriptor.is_write_only() {
            true => &mut self.writable,
            false if self.writable.is_empty() => &mut self.readable,
            false => return Err(Broken("a readable buffer follows a writable one")),
        };
        let len = descriptor.len() as usize;
        for slice in GuestMemory::get_slices(memory, descriptor.addr(), len) {
            target.push(slice.map_err(|_| Broken("a buffer is not in guest memory"))?);
        }
        Ok(())
    }

    /// Guest memory and the chain's descriptors, which the driver may have
    /// changed since they were checked.
    pub(crate) fn origin(
        &self,
    ) -> (
        &'m GuestMemoryMmap<WriteHook>,
        &DescriptorChain<&'m GuestMemoryMmap<WriteHook>>,
    ) {
        (self.memory, &self.descriptors)
    }

    /// Bytes to read.
    pub fn readable_len(&self) -> usize {
        total(&self.readable)
    }

    /// Bytes to write.
    pub fn writable_len(&self) -> usize {
        total(&self.writable)
    }

    /// Takes the first `buffer.len()` readable bytes off the chain; false if
    /// there are fewer.
    pub fn take_header(&mut self, buffer: &mut [u8]) -> bool {
        self.take(buffer) == buffer.len()
    }

    /// Takes readable bytes off the chain's start: as many as there are and
    /// `buffer` holds.
    pub fn take(&mut self, buffer: &mut [u8]) -> usize {
        let mut done = 0;
        while done < buffer.len() {
            let Some(first) = self.readable.first() else {
                break;
            };
            let n = first.len().min(buffer.len() - done);
            first.copy_to(&mut buffer[done..done + n]);
            match first.offset(n) {
                Ok(rest) if !rest.is_empty() => self.readable[0] = rest,
                _ => drop(self.readable.remove(0)),
            }
            done += n;
        }
        done
    }

    /// Takes the last writable byte off the chain.
    pub fn take_last_byte(&mut self) -> Option<Slice<'m>> {
        while self.writable.last().is_some_and(Slice::is_empty) {
            self.writable.pop();
        }
        let last = self.writable.pop()?;
        let (front, byte) = last.split_at(last.len() - 1).ok()?;
        if !front.is_empty() {
            self.writable.push(front);
        }
        Some(byte)
    }

    /// Fills the writable buffers from their start; the number of bytes that
    /// had room.
    pub fn fill(&self, bytes: &[u8]) -> usize {
        self.fill_behind(0, bytes)
    }

    /// The same behind the first `skip` writable bytes.
    pub(crate) fn fill_behind(&self, mut skip: usize, mut bytes: &[u8]) -> usize {
        let before = bytes.len();
        for slice in &self.writable {
            if bytes.is_empty() {
                break;
            }
            let Ok(rest) = slice.offset(skip.min(slice.len())) else {
                break;
            };
            skip -= skip.min(slice.len());
            let (now, later) = bytes.split_at(bytes.len().min(rest.len()));
            rest.copy_from(now);
            bytes = later;
        }
        before - bytes.len()
    }
}
