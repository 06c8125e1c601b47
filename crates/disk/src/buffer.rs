//! Host memory that data is read into or written from.
//!
//! The memory may be a guest's: it changes under us at any time, so it is
//! never lent out as a reference. [`Dest`] and [`Source`] are pointers with a
//! length, laid out as the kernel's `struct iovec`.
#![allow(unsafe_code, reason = "raw host memory")]

use smallvec::SmallVec;
use std::marker::PhantomData;
use std::ops::Range;

/// What [`Dest`] and [`Source`] have in common.
pub trait HostBuffer: Copy {
    /// Address and length.
    fn iovec(&self) -> libc::iovec;

    /// The part from `skip`, at most `len` bytes.
    #[must_use]
    fn part(&self, skip: usize, len: usize) -> Self;

    /// Bytes.
    fn len(&self) -> usize {
        self.iovec().iov_len
    }

    /// No bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

macro_rules! host_buffer {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        #[repr(transparent)]
        pub struct $name<'a> {
            iovec: libc::iovec,
            lifetime: PhantomData<&'a ()>,
        }

        // SAFETY: the memory is valid for 'a by the constructors' contract,
        // and only the kernel and raw copies touch it, from whatever thread.
        unsafe impl Send for $name<'_> {}
        // SAFETY: as above.
        unsafe impl Sync for $name<'_> {}

        impl $name<'_> {
            /// A buffer of memory that is not Rust's, such as a guest's.
            ///
            /// # Safety
            /// `pointer` must be mapped for `len` bytes as long as the buffer
            /// is used. The caller may let others write there meanwhile; what
            /// is transferred then is unspecified.
            pub unsafe fn from_raw(pointer: *mut u8, len: usize) -> Self {
                Self {
                    iovec: libc::iovec { iov_base: pointer.cast(), iov_len: len },
                    lifetime: PhantomData,
                }
            }
        }

        impl HostBuffer for $name<'_> {
            fn iovec(&self) -> libc::iovec {
                self.iovec
            }

            fn part(&self, skip: usize, len: usize) -> Self {
                let skip = skip.min(self.iovec.iov_len);
                let len = len.min(self.iovec.iov_len - skip);
                Self {
                    iovec: libc::iovec {
                        iov_base: self.iovec.iov_base.wrapping_byte_add(skip),
                        iov_len: len,
                    },
                    lifetime: PhantomData,
                }
            }
        }
    };
}

host_buffer! {
    /// Memory that data is read into.
    Dest
}
host_buffer! {
    /// Memory that data is written from.
    Source
}

impl<'a> From<&'a mut [u8]> for Dest<'a> {
    fn from(slice: &'a mut [u8]) -> Self {
        // SAFETY: the borrow keeps the memory ours and mapped for 'a.
        unsafe { Self::from_raw(slice.as_mut_ptr(), slice.len()) }
    }
}

impl<'a> From<&'a [u8]> for Source<'a> {
    fn from(slice: &'a [u8]) -> Self {
        // SAFETY: the borrow keeps the memory mapped for 'a, and a source is
        // only read.
        unsafe { Self::from_raw(slice.as_ptr().cast_mut(), slice.len()) }
    }
}

impl Dest<'_> {
    /// Copies into the buffer, as much as fits.
    pub fn fill(&self, from: &[u8]) {
        let len = from.len().min(self.len());
        // SAFETY: both are valid for `len` bytes; a `Dest` never overlaps a
        // slice we hold, since it was made from other memory or from an
        // exclusive borrow.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), self.iovec.iov_base.cast(), len) }
    }

    /// Makes every byte zero.
    pub fn zero(&self) {
        // SAFETY: valid for its length by the constructors' contract.
        unsafe { std::ptr::write_bytes(self.iovec.iov_base.cast::<u8>(), 0, self.len()) }
    }
}

impl Source<'_> {
    /// Copies out of the buffer, as much as fits.
    pub fn read(&self, to: &mut [u8]) {
        let len = to.len().min(self.len());
        // SAFETY: both are valid for `len` bytes; `to` is an exclusive borrow
        // of memory that is not the source's.
        unsafe { std::ptr::copy_nonoverlapping(self.iovec.iov_base.cast(), to.as_mut_ptr(), len) }
    }
}

/// Bytes in all.
pub fn total_len<B: HostBuffer>(buffers: &[B]) -> usize {
    // Sums of what fits in memory can overflow only if a caller lists the
    // same memory many times; such a request is refused by its length.
    buffers.iter().fold(0, |n, b| n.saturating_add(b.len()))
}

/// A part of a list of buffers. Short lists need no allocation.
pub(crate) type Parts<B> = SmallVec<[B; 16]>;

/// Walks a list of buffers piece by piece.
pub(crate) struct Cursor<'b, B> {
    buffers: &'b [B],
    skip: usize,
}

impl<'b, B: HostBuffer> Cursor<'b, B> {
    pub(crate) fn new(buffers: &'b [B]) -> Self {
        Self { buffers, skip: 0 }
    }

    /// The next `len` bytes.
    pub(crate) fn take(&mut self, mut len: usize) -> Parts<B> {
        let mut parts = Parts::new();
        while len > 0 {
            let Some(first) = self.buffers.first() else {
                break;
            };
            let part = first.part(self.skip, len);
            len -= part.len();
            self.skip += part.len();
            if self.skip >= first.len() {
                self.buffers = &self.buffers[1..];
                self.skip = 0;
            }
            if !part.is_empty() {
                parts.push(part);
            }
        }
        parts
    }
}

/// The bytes `range` of a list of buffers.
pub fn part<B: HostBuffer>(buffers: &[B], range: Range<usize>) -> Vec<B> {
    let mut cursor = Cursor::new(buffers);
    cursor.take(range.start);
    cursor.take(range.len()).into_vec()
}

/// Copies `from` into the buffers, in order.
pub(crate) fn scatter(mut from: &[u8], buffers: &[Dest]) {
    for buffer in buffers {
        let len = buffer.len().min(from.len());
        buffer.fill(&from[..len]);
        from = &from[len..];
    }
}

/// Copies the buffers into `to`, in order.
pub(crate) fn gather(buffers: &[Source], mut to: &mut [u8]) {
    for buffer in buffers {
        let len = buffer.len().min(to.len());
        let (now, later) = to.split_at_mut(len);
        buffer.read(now);
        to = later;
    }
}

/// The list as the kernel takes it.
pub(crate) fn as_iovecs<B: HostBuffer>(buffers: &[B]) -> *const libc::iovec {
    const { assert!(size_of::<Dest>() == size_of::<libc::iovec>()) };
    const { assert!(size_of::<Source>() == size_of::<libc::iovec>()) };
    buffers.as_ptr().cast()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_cuts_across_buffers() {
        let (a, b) = ([1u8, 2, 3], [4u8, 5]);
        let list = [
            Source::from(&a[..]),
            Source::from(&[][..]),
            Source::from(&b[..]),
        ];
        let mut cursor = Cursor::new(&list);
        let mut piece = |len| {
            let mut out = [0u8; 5];
            let parts = cursor.take(len);
            gather(&parts, &mut out);
            out[..total_len(&parts)].to_vec()
        };
        assert_eq!(piece(2), [1, 2]);
        assert_eq!(piece(2), [3, 4]);
        assert_eq!(piece(9), [5]);
        assert_eq!(piece(1), [0u8; 0]);
    }

    #[test]
    fn scattered_data_arrives_in_order() {
        let (mut a, mut b) = ([9u8; 2], [9u8; 3]);
        scatter(
            &[1, 2, 3, 4],
            &[Dest::from(&mut a[..]), Dest::from(&mut b[..])],
        );
        assert_eq!((a, b), ([1, 2], [3, 4, 9]));
    }
}
