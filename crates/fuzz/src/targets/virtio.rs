//! Virtio devices behind PCI, with a driver that does anything.

mod echo;
mod fuse;

use crate::input::Input;
use devices::pci::PciFunction;
use devices::{IrqLine, MsiSink};
use disk::{BlockDevice, BlockSizes, Dest, Errno, IoResult, Preallocation, Source, Status};
use std::io;
use std::sync::{Arc, Weak};
use virtio::transport::{PciWiring, VirtioPci};
use virtio::{GuestMemory, VirtioDevice, WriteHook, WriteObserver, balloon, blk, rng, serial};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, GuestRegionMmap};

/// Guest memory, and where the first queue's rings begin in it.
const MEMORY: usize = 64 << 10;
const RINGS: [u64; 3] = [0x1000, 0x2000, 0x3000];
const BAR: u8 = 4;

struct Nowhere;

impl WriteObserver for Nowhere {
    fn written(&self, gpa: u64, len: u64) {
        assert!(gpa + len <= MEMORY as u64, "a write outside guest memory");
    }
}

impl IrqLine for Nowhere {
    fn set_level(&self, _high: bool) {}
}

impl MsiSink for Nowhere {
    fn send(&self, _address: u64, _data: u32) {}
}

impl balloon::Reclaim for Nowhere {
    fn discard(&self, gpa: u64, len: u64) -> io::Result<()> {
        let whole = gpa.is_multiple_of(balloon::PAGE) && len.is_multiple_of(balloon::PAGE);
        assert!(whole && len > 0, "{len:#x} bytes at {gpa:#x}");
        Ok(())
    }
}

const BALLOON: balloon::Options = balloon::Options {
    deflate_on_oom: true,
    free_page_reporting: true,
};

/// Takes every second byte, and always has one.
impl serial::HostEnd for Nowhere {
    fn put(&self, bytes: &[u8]) -> usize {
        bytes.len().div_ceil(2)
    }
    fn wait_for_room(&self) {}
    fn get(&self, bytes: &mut [u8]) -> usize {
        bytes.len().min(1)
    }
    fn has_input(&self) -> bool {
        true
    }
    fn connected(&self) -> bool {
        true
    }
    fn attach(&self, _listener: Weak<dyn serial::Listener>) {}
}

fn serial(max_ports: u16) -> Arc<dyn VirtioDevice> {
    let port = |number: u16| serial::PortOptions {
        number,
        console: number == 0,
        name: "port".into(),
        host: Arc::new(Nowhere),
    };
    let ports = (0..max_ports.min(2)).map(port).collect();
    Arc::new(serial::Serial::new(max_ports, ports))
}

/// 8 KiB of zeros that forgets what is written, and insists on requests
/// inside it.
struct Zeros;

const DISK: u64 = 8192;

fn inside(offset: u64, len: u64) {
    let end = offset.checked_add(len);
    assert!(
        end.is_some_and(|end| end <= DISK),
        "a request outside the disk"
    );
}

impl BlockDevice for Zeros {
    fn len(&self) -> u64 {
        DISK
    }
    fn read_vectored_at(&self, buffers: &[Dest], offset: u64) -> IoResult<()> {
        inside(offset, disk::total_len(buffers) as u64);
        buffers.iter().for_each(Dest::zero);
        Ok(())
    }
    fn write_vectored_at(&self, buffers: &[Source], offset: u64) -> IoResult<()> {
        inside(offset, disk::total_len(buffers) as u64);
        Ok(())
    }
    fn flush(&self) -> IoResult<()> {
        Ok(())
    }
    fn discard(&self, offset: u64, len: u64) -> IoResult<()> {
        inside(offset, len);
        Ok(())
    }
    fn write_zeroes(&self, offset: u64, len: u64, _unmap: bool) -> IoResult<()> {
        inside(offset, len);
        Err(Errno::ENOSPC)
    }
    fn block_sizes(&self) -> BlockSizes {
        BlockSizes {
            logical: 512,
            physical: 4096,
            discard: 512,
        }
    }
    fn read_only(&self) -> bool {
        false
    }
    fn resize(&self, _: u64, _: Preallocation) -> IoResult<()> {
        Err(Errno::ENOTSUP)
    }
    fn status(&self, _: u64, _: u64) -> IoResult<Status> {
        Err(Errno::ENOTSUP)
    }
}

fn memory() -> GuestMemory {
    let hook = WriteHook::new(0, Arc::new(Nowhere));
    let region = MmapRegionBuilder::new_with_bitmap(MEMORY, hook)
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .build();
    let region = GuestRegionMmap::new(region.expect("64 KiB"), GuestAddress(0));
    let memory = GuestMemoryMmap::from_regions(vec![region.expect("no overflow")]);
    Arc::new(memory.expect("one region"))
}

/// Brings the device up with a queue of 8, number `queue`, as a sane driver
/// would.
fn start(function: &VirtioPci, features: u32, queue: u16) {
    let write = |offset, size, value| {
        function.bar_write(BAR, offset, size, value);
    };
    function.config_write(4, 2, 6);
    write(0x14, 1, 3);
    write(0x08, 4, 0);
    write(0x0c, 4, features.into());
    write(0x08, 4, 1);
    write(0x0c, 4, 1);
    write(0x14, 1, 0xb);
    write(0x16, 2, queue.into());
    write(0x18, 2, 8);
    for (offset, ring) in [0x20, 0x28, 0x30].into_iter().zip(RINGS) {
        write(offset, 8, ring);
    }
    write(0x1c, 2, 1);
    write(0x14, 1, 0xf);
}

/// A chain of up to three descriptors, mostly sane, and its notification.
fn submit(function: &VirtioPci, memory: &GuestMemory, input: &mut Input<'_>) {
    for i in 0..3u16 {
        let mut descriptor = [0; 16];
        let address = u64::from(input.u16()) | u64::from(input.u8() & 1) << 16;
        descriptor[..8].copy_from_slice(&address.to_le_bytes());
        descriptor[8..12].copy_from_slice(&u32::from(input.u16()).to_le_bytes());
        descriptor[12] = input.u8() & 7;
        let next = if input.flag() {
            i + 1
        } else {
            input.u8().into()
        };
        descriptor[14..].copy_from_slice(&next.to_le_bytes());
        let at = GuestAddress(RINGS[0] + 16 * u64::from(i));
        // Fixed places inside memory.
        let _ = memory.write_slice(&descriptor, at);
    }
    notify(function, memory, u16::from(input.u8() & 15));
}

/// Makes the chain that begins at `head` available.
fn notify(function: &VirtioPci, memory: &GuestMemory, head: u16) {
    let index: u16 = memory.read_obj(GuestAddress(RINGS[1] + 2)).unwrap_or(0);
    let slot = GuestAddress(RINGS[1] + 4 + 2 * u64::from(index % 8));
    let _ = memory.write_obj(head, slot);
    let _ = memory.write_obj(index.wrapping_add(1), GuestAddress(RINGS[1] + 2));
    // Of all queues it may be any.
    for queue in 0..8 {
        function.bar_write(BAR, 0x3000 + 4 * queue, 2, queue);
    }
}

type Submit = fn(&VirtioPci, &GuestMemory, &mut Input<'_>);

fn step(function: &VirtioPci, memory: &GuestMemory, input: &mut Input<'_>, send: Submit) {
    let size = [1, 2, 4, 8][input.below(4)];
    match input.below(8) {
        0 => drop(function.config_read(input.u8().into(), size.min(4))),
        1 => drop(function.config_write(input.u8().into(), size.min(4), input.u32())),
        2 => drop(function.bar_read(input.u8() % 6, input.u16().into(), size)),
        3 => drop(function.bar_write(input.u8() % 6, input.u16().into(), size, input.u64())),
        4 => {
            let len = usize::from(input.u8() & 31);
            let at = GuestAddress(input.u16().into());
            // Past the end of memory there is nothing to test.
            let _ = memory.write_slice(input.bytes(len), at);
        }
        5 => start(function, input.u32(), input.u16() % 8),
        6 => send(function, memory, input),
        _ => submit(function, memory, input),
    }
}

/// One of the devices, then steps.
pub(super) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = input.u8() % 7;
    let device: Arc<dyn VirtioDevice> = match kind {
        0 => Arc::new(blk::Blk::new(Arc::new(Zeros), blk::Options::default())),
        1 => Arc::new(rng::Rng::new()),
        2 => Arc::new(balloon::Balloon::new(
            Arc::default(),
            Arc::new(Nowhere),
            BALLOON,
        )),
        3 => serial(1),
        4 => serial(3),
        5 => fuse::device(),
        _ => echo::device(),
    };
    // Its first queue is not that of requests.
    let (send, queue): (Submit, u16) = match kind {
        5 => (fuse::request, 1),
        6 => (echo::command, 0),
        _ => (submit, 0),
    };
    let memory = memory();
    let wiring = PciWiring {
        intx: Arc::new(Nowhere),
        msi: Arc::new(Nowhere),
        memory: memory.clone(),
        express: false,
    };
    let function = VirtioPci::new(device, 2, wiring);
    start(&function, 0, queue);
    while !input.is_empty() {
        step(&function, &memory, &mut input, send);
    }
    // Reset waits for the device's threads.
    function.bar_write(BAR, 0x14, 1, 0);
    assert_eq!(function.bar_read(BAR, 0x14, 1), 0);
}
