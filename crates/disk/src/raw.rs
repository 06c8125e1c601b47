//! Raw images: the disk's bytes are the file's.

use crate::buffer::{Dest, Source, gather, total_len};
use crate::device::{BlockDevice, BlockSizes, Division, Preallocation, Status, Way, within};
use crate::errno::{Errno, IoResult};
use crate::format::{Format, PROBE_LEN, Probed, probe};
use crate::preallocate::preallocate;
use crate::storage::{Storage, StorageExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A raw image.
pub struct Raw {
    file: Arc<dyn Storage>,
    len: AtomicU64,
    read_only: bool,
    /// Nobody said that the image is raw: a guest must not make it look like
    /// an image of another format, which the next start would then open, with
    /// whatever backing file the guest wrote into it.
    guarded: bool,
}

impl Raw {
    /// The image in `file`. With `guarded`, writes that would let it be taken
    /// for another format are refused.
    ///
    /// # Errors
    /// The host's.
    pub fn open(file: Arc<dyn Storage>, read_only: bool, guarded: bool) -> IoResult<Self> {
        let len = file.length()?.next_multiple_of(512);
        Ok(Self {
            file,
            len: len.into(),
            read_only,
            guarded,
        })
    }

    fn writable(&self) -> IoResult<()> {
        match self.read_only {
            true => Err(Errno::EPERM),
            false => Ok(()),
        }
    }

    /// Refuses a write that changes what probing would guess.
    fn guard(&self, buffers: &[Source], offset: u64) -> IoResult<()> {
        if !self.guarded || offset >= PROBE_LEN as u64 {
            return Ok(());
        }
        let mut head = [0; PROBE_LEN];
        let head = &mut head[..PROBE_LEN.min(self.len() as usize)];
        self.file.read_at(head, 0)?;
        if let Some(changed) = head.get_mut(offset as usize..) {
            gather(buffers, changed);
        }
        match probe(head) {
            Probed::Known(Format::Raw) => Ok(()),
            _ => Err(Errno::EPERM),
        }
    }
}

impl BlockDevice for Raw {
    fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    fn read_vectored_at(&self, buffers: &[Dest], offset: u64) -> IoResult<()> {
        within(offset, total_len(buffers) as u64, self.len())?;
        self.file.read_vectored_at(buffers, offset)
    }

    fn write_vectored_at(&self, buffers: &[Source], offset: u64) -> IoResult<()> {
        self.writable()?;
        within(offset, total_len(buffers) as u64, self.len())?;
        self.guard(buffers, offset)?;
        self.file.write_vectored_at(buffers, offset)
    }

    fn flush(&self) -> IoResult<()> {
        match self.read_only {
            true => Ok(()),
            false => self.file.flush(),
        }
    }

    fn discard(&self, offset: u64, len: u64) -> IoResult<()> {
        self.write_zeroes(offset, len, true)
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> IoResult<()> {
        self.writable()?;
        within(offset, len, self.len())?;
        self.file.zero(offset, len, unmap)
    }

    fn block_sizes(&self) -> BlockSizes {
        let block = self.file.alignment();
        BlockSizes {
            logical: 512,
            physical: block.max(512),
            discard: block.max(512),
        }
    }

    fn division(&self, way: Way, _offset: u64, _len: u64) -> Division {
        self.file.division(way, false)
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn resize(&self, len: u64, preallocation: Preallocation) -> IoResult<()> {
        self.writable()?;
        preallocate(&*self.file, len, preallocation)?;
        self.len.store(len.next_multiple_of(512), Ordering::Release);
        Ok(())
    }

    fn status(&self, offset: u64, len: u64) -> IoResult<Status> {
        let end = within(offset, len, self.len())?;
        let extent = self.file.extent(offset, end - offset)?;
        Ok(Status {
            len: extent.len,
            data: extent.data,
            zero: !extent.data,
            allocated: true,
            compressed: false,
            host_offset: Some(offset),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::BlockDeviceExt;
    use crate::host_file::{Access, HostFile, HostFileOptions};
    use crate::testing::TempDir;

    fn image(dir: &TempDir, len: u64, direct: bool, guarded: bool) -> Raw {
        let options = HostFileOptions {
            writable: true,
            direct,
            ignore_flush: false,
            access: Access::Write,
            create: true,
        };
        let file = HostFile::open(&dir.path("image"), &options).expect("writable");
        file.set_len(len).expect("sparse");
        Raw::open(Arc::new(file), false, guarded).expect("it has a length")
    }

    #[test]
    fn what_is_written_is_read_in_every_alignment() {
        for direct in [false, true] {
            let dir = TempDir::new();
            let disk = image(&dir, 1 << 20, direct, false);
            let mut shadow = vec![0u8; 1 << 20];
            for (n, (offset, len)) in [(0, 512), (511, 2), (4096, 8192), (5000, 70_000), (1, 1)]
                .into_iter()
                .enumerate()
            {
                let data = vec![n as u8 + 1; len];
                shadow[offset..offset + len].copy_from_slice(&data);
                disk.write_at(&data, offset as u64).expect("in range");
            }
            let mut all = vec![9u8; 1 << 20];
            disk.read_at(&mut all, 0).expect("in range");
            assert!(all == shadow, "direct {direct}");
            let mut part = vec![9u8; 1000];
            disk.read_at(&mut part, 4999).expect("in range");
            assert!(part == shadow[4999..5999]);
        }
    }

    #[test]
    fn a_length_that_is_no_multiple_stays_in_direct_mode() {
        let dir = TempDir::new();
        let disk = image(&dir, 1536, true, false);
        disk.write_at(&[1; 100], 1400).expect("in range");
        assert_eq!(disk.file.length(), Ok(1536));
        let mut tail = [0; 200];
        disk.read_at(&mut tail, 1336).expect("in range");
        assert_eq!((tail[63], tail[64], tail[163], tail[164]), (0, 1, 1, 0));
    }

    #[test]
    fn requests_beyond_the_end_are_refused() {
        let dir = TempDir::new();
        let disk = image(&dir, 1024, false, false);
        let mut two = [0; 2];
        assert_eq!(disk.read_at(&mut two, 1023), Err(Errno::EINVAL));
        assert_eq!(disk.write_at(&two, u64::MAX), Err(Errno::EINVAL));
        assert_eq!(disk.write_zeroes(1024, 1, true), Err(Errno::EINVAL));
    }

    #[test]
    fn a_probed_image_cannot_be_made_to_look_like_qcow2() {
        let dir = TempDir::new();
        let disk = image(&dir, 1024, false, true);
        let header = b"QFI\xfb\0\0\0\x03";
        assert_eq!(disk.write_at(header, 0), Err(Errno::EPERM));
        assert_eq!(disk.write_at(&header[..4], 0), Ok(()));
        // The second half would complete it.
        assert_eq!(disk.write_at(&header[4..], 4), Err(Errno::EPERM));
        assert_eq!(disk.write_at(header, 512), Ok(()));
    }

    #[test]
    fn zeroed_ranges_are_zero_and_become_holes() {
        let dir = TempDir::new();
        let disk = image(&dir, 1 << 20, false, false);
        disk.write_at(&vec![7; 1 << 20], 0).expect("in range");
        disk.write_zeroes(65536, 1 << 19, true).expect("in range");
        let mut all = vec![9u8; 1 << 20];
        disk.read_at(&mut all, 0).expect("in range");
        assert!(all[65536..65536 + (1 << 19)].iter().all(|b| *b == 0));
        assert_eq!((all[65535], all[65536 + (1 << 19)]), (7, 7));
        let status = disk.status(65536, 1 << 19).expect("in range");
        assert_eq!((status.len, status.zero), (1 << 19, true));
    }
}
