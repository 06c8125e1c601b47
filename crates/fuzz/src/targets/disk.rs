//! qcow2 files, and requests to the disks in them.

use crate::input::Input;
use disk::qcow2::{Qcow2, Qcow2Options, Repair};
use disk::{
    BlockDevice, BlockDeviceExt, Dest, Errno, Extent, HostBuffer, IoResult, Preallocation, Source,
    Storage, total_len,
};
use parking_lot::Mutex;
use std::sync::Arc;

/// The file does not grow beyond this.
const LARGEST: u64 = 1 << 20;
/// Requests tried.
const REQUESTS: usize = 24;

/// Requests, nine bytes each, then the file.
pub(super) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let count = usize::from(input.u8()) % REQUESTS;
    let requests: Vec<(u8, u32, u32)> = (0..count)
        .map(|_| (input.u8(), input.u32(), input.u32()))
        .collect();
    let file = input.rest();
    let open = |read_only, checking| {
        let options = Qcow2Options {
            read_only,
            checking,
            l2_cache: Some(4096),
            ..Qcow2Options::default()
        };
        Qcow2::open(Arc::new(Memory(Mutex::new(file.to_vec()))), options)
    };
    if let Ok(image) = open(true, true) {
        let _ = image.snapshots();
        let _ = image.check(Repair::None, &mut |_| {});
        read(&image, 0, 1 << 16);
    }
    if let Ok(image) = open(false, true) {
        let _ = image.check(Repair::All, &mut |_| {});
    }
    if let Ok(image) = open(false, false) {
        for request in requests {
            perform(&image, request);
        }
    }
}

/// Carries out a request; errors are fine.
fn perform(image: &Qcow2, (kind, offset, len): (u8, u32, u32)) {
    let (offset, len) = (u64::from(offset), u64::from(len % (1 << 17)));
    match kind % 10 {
        // What is read afterwards may differ: tables of a crafted image can
        // map two places of the disk to one of the file.
        0..=3 => drop(image.write_at(&vec![kind; len as usize], offset)),
        4 => read(image, offset, len),
        5 => drop(image.discard(offset, len)),
        6 => drop(image.write_zeroes(offset, len, kind & 16 != 0)),
        7 => drop(image.flush()),
        8 => drop(image.resize(offset % (1 << 20), Preallocation::Off)),
        _ => {
            let _ = image.create_snapshot("s");
            let _ = image.delete_snapshot("1");
        }
    }
}

fn read(image: &Qcow2, offset: u64, len: u64) {
    let len = len.min(image.len().saturating_sub(offset));
    let mut buffer = vec![0; len as usize];
    let _ = image.read_at(&mut buffer, offset);
    let _ = image.status(offset, len);
}

/// A small file in memory.
struct Memory(Mutex<Vec<u8>>);

impl Storage for Memory {
    fn read_vectored_at(&self, buffers: &[Dest], offset: u64) -> IoResult<()> {
        let bytes = self.0.lock();
        let mut at = usize::try_from(offset).unwrap_or(usize::MAX);
        for buffer in buffers {
            let there = bytes.get(at..).unwrap_or_default();
            if there.len() < buffer.len() {
                buffer.zero();
            }
            buffer.fill(there);
            at = at.saturating_add(buffer.len());
        }
        Ok(())
    }

    fn write_vectored_at(&self, buffers: &[Source], offset: u64) -> IoResult<()> {
        let end = offset.saturating_add(total_len(buffers) as u64);
        if end > LARGEST {
            return Err(Errno::ENOSPC);
        }
        let mut bytes = self.0.lock();
        let len = bytes.len().max(end as usize);
        bytes.resize(len, 0);
        let mut at = offset as usize;
        for buffer in buffers {
            buffer.read(&mut bytes[at..at + buffer.len()]);
            at += buffer.len();
        }
        Ok(())
    }

    fn flush(&self) -> IoResult<()> {
        Ok(())
    }

    fn length(&self) -> IoResult<u64> {
        Ok(self.0.lock().len() as u64)
    }

    fn set_len(&self, len: u64) -> IoResult<()> {
        if len > LARGEST {
            return Err(Errno::ENOSPC);
        }
        self.0.lock().resize(len as usize, 0);
        Ok(())
    }

    fn allocate(&self, offset: u64, len: u64) -> IoResult<()> {
        let end = offset.saturating_add(len);
        match end > self.length()? {
            true => self.set_len(end),
            false => Ok(()),
        }
    }

    fn zero(&self, offset: u64, len: u64, _unmap: bool) -> IoResult<()> {
        let mut bytes = self.0.lock();
        let all = bytes.len() as u64;
        let (from, to) = (offset.min(all), offset.saturating_add(len).min(all));
        bytes[from as usize..to as usize].fill(0);
        Ok(())
    }

    fn extent(&self, _offset: u64, len: u64) -> IoResult<Extent> {
        Ok(Extent { len, data: true })
    }

    fn alignment(&self) -> u32 {
        1
    }

    fn space_used(&self) -> IoResult<u64> {
        self.length()
    }
}
