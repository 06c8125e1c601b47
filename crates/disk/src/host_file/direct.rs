//! `O_DIRECT`: transfers whose address, length and place in the file are
//! multiples of a block go straight; others through an aligned buffer.
#![allow(unsafe_code, reason = "aligned memory and statx")]

use super::{space, transfer};
use crate::buffer::{Dest, HostBuffer, Source, gather, scatter, total_len};
use crate::errno::{Errno, IoResult};
use parking_lot::RwLock;
use std::alloc::Layout;
use std::fs::File;
use std::os::fd::AsRawFd;

/// Largest buffer of a bounced transfer; longer ones go in pieces.
const BOUNCE: usize = 1 << 20;

/// What direct transfers of a file need.
pub(super) struct DirectIo {
    /// Multiple for lengths and offsets.
    block: u32,
    /// Multiple for addresses.
    memory: u32,
    /// Held by every write: shared, or alone by one that reads a block in
    /// order to change a part of it.
    partial: RwLock<()>,
}

impl DirectIo {
    pub(super) fn of(file: &File, block_device: bool) -> Self {
        let (memory, block) = alignment(file, block_device);
        Self {
            block,
            memory,
            partial: RwLock::new(()),
        }
    }

    pub(super) fn block(&self) -> u32 {
        self.block
    }

    fn aligned<B: HostBuffer>(&self, buffers: &[B], offset: u64) -> bool {
        let (block, memory) = (self.block as usize, self.memory as usize);
        offset.is_multiple_of(block as u64)
            && buffers.iter().all(|b| {
                (b.iovec().iov_base as usize).is_multiple_of(memory)
                    && b.len().is_multiple_of(block)
            })
    }

    pub(super) fn read(&self, file: &File, buffers: &[Dest], offset: u64) -> IoResult<()> {
        if self.aligned(buffers, offset) {
            return transfer::read(file, buffers, offset);
        }
        let mut cursor = crate::buffer::Cursor::new(buffers);
        for piece in self.pieces(offset, total_len(buffers))? {
            let mut bounce = Bounce::new(piece.span, self.memory)?;
            transfer::read(file, &[Dest::from(bounce.bytes())], piece.start)?;
            let data = &bounce.bytes()[piece.skip..piece.skip + piece.len];
            scatter(data, &cursor.take(piece.len));
        }
        Ok(())
    }

    pub(super) fn write(&self, file: &File, buffers: &[Source], offset: u64) -> IoResult<()> {
        if self.aligned(buffers, offset) {
            let _shared = self.partial.read();
            return transfer::write(file, buffers, offset);
        }
        let mut cursor = crate::buffer::Cursor::new(buffers);
        for piece in self.pieces(offset, total_len(buffers))? {
            let data = cursor.take(piece.len);
            let mut bounce = Bounce::new(piece.span, self.memory)?;
            if piece.len == piece.span {
                gather(&data, bounce.bytes());
                let _shared = self.partial.read();
                transfer::write(file, &[Source::from(&*bounce.bytes())], piece.start)?;
            } else {
                let _alone = self.partial.write();
                transfer::read(file, &[Dest::from(bounce.bytes())], piece.start)?;
                gather(
                    &data,
                    &mut bounce.bytes()[piece.skip..piece.skip + piece.len],
                );
                self.write_blocks(file, &mut bounce, &piece)?;
            }
        }
        Ok(())
    }

    /// Writes whole blocks of which the file may hold a part only: it must
    /// not end later than the piece says.
    fn write_blocks(&self, file: &File, bounce: &mut Bounce, piece: &Piece) -> IoResult<()> {
        let end = space::end(file)?;
        transfer::write(file, &[Source::from(&*bounce.bytes())], piece.start)?;
        let wanted = end.max(piece.start + (piece.skip + piece.len) as u64);
        if wanted < piece.start + piece.span as u64 && wanted < space::end(file)? {
            file.set_len(wanted)?;
        }
        Ok(())
    }

    /// Cuts a request into spans of whole blocks.
    fn pieces(&self, offset: u64, len: usize) -> IoResult<impl Iterator<Item = Piece> + use<>> {
        let block = u64::from(self.block);
        let end = offset.checked_add(len as u64).ok_or(Errno::EINVAL)?;
        end.checked_add(block).ok_or(Errno::EINVAL)?;
        let mut at = offset;
        Ok(std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let start = at - at % block;
            let stop = end.min(start + BOUNCE as u64);
            let piece = Piece {
                start,
                span: (stop.next_multiple_of(block) - start) as usize,
                skip: (at - start) as usize,
                len: (stop - at) as usize,
            };
            at = stop;
            Some(piece)
        }))
    }
}

struct Piece {
    /// First byte of the first block.
    start: u64,
    /// Bytes of the blocks.
    span: usize,
    /// Bytes before those asked for.
    skip: usize,
    /// Bytes asked for.
    len: usize,
}

/// Aligned memory, zeroed.
struct Bounce {
    pointer: std::ptr::NonNull<u8>,
    layout: Layout,
}

impl Bounce {
    fn new(len: usize, align: u32) -> IoResult<Self> {
        let layout =
            Layout::from_size_align(len.max(1), align as usize).map_err(|_| Errno::EINVAL)?;
        // SAFETY: the layout's size is not 0.
        let pointer = unsafe { std::alloc::alloc_zeroed(layout) };
        let pointer = std::ptr::NonNull::new(pointer).ok_or(Errno(libc::ENOMEM))?;
        Ok(Self { pointer, layout })
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: allocated and initialized for the layout's size, and
        // borrowed through `&mut self` only.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.as_ptr(), self.layout.size()) }
    }
}

impl Drop for Bounce {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout in `new`.
        unsafe { std::alloc::dealloc(self.pointer.as_ptr(), self.layout) }
    }
}

/// Multiples for (addresses, offsets and lengths). Where the kernel does not
/// say (before Linux 6.1), a page is enough for every file system.
fn alignment(file: &File, block_device: bool) -> (u32, u32) {
    const PAGE: (u32, u32) = (4096, 4096);
    // SAFETY: all-zero bytes are a valid statx.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: an open descriptor, an empty path, and a statx to fill.
    let result = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            &raw mut stat,
        )
    };
    let known = result == 0 && stat.stx_mask & libc::STATX_DIOALIGN != 0;
    let (memory, block) = (stat.stx_dio_mem_align, stat.stx_dio_offset_align);
    if known && memory.is_power_of_two() && block.is_power_of_two() && block <= 1 << 16 {
        return (memory, block);
    }
    match block_device {
        true => space::sector_size(file).map_or(PAGE, |s| (s.max(512), s)),
        false => PAGE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_whole_blocks_and_cover_the_request() {
        let direct = DirectIo {
            block: 512,
            memory: 512,
            partial: RwLock::new(()),
        };
        for (offset, len) in [(0, 1), (511, 2), (512, 512), (1000, 3 << 20), (7, 0)] {
            let mut at = offset;
            for p in direct.pieces(offset, len).expect("in range") {
                assert_eq!(p.start + p.skip as u64, at);
                assert!(p.start.is_multiple_of(512) && p.span.is_multiple_of(512));
                assert!(p.skip + p.len <= p.span && p.span <= BOUNCE);
                at += p.len as u64;
            }
            assert_eq!(at, offset + len as u64);
        }
        assert!(direct.pieces(u64::MAX - 3, 8).is_err());
    }
}
