//! Memory of the first level's arrays, whose place their owner chooses.
#![allow(unsafe_code, reason = "memory that somebody else mapped")]

use super::first::Array;
use super::{ARRAY_BYTES, KERNEL_BANKS, USER_SPACES};
use std::any::Any;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

/// Memory of one array.
pub struct Room {
    at: NonNull<Array>,
    /// Whose memory it is.
    _owner: Arc<dyn Any + Send + Sync>,
}

// SAFETY: who has the room has its memory for himself, see `Room::new`.
unsafe impl Send for Room {}
// SAFETY: as above.
unsafe impl Sync for Room {}

impl Room {
    /// The [`ARRAY_BYTES`] at `at`. What is not used of them is not touched.
    ///
    /// # Safety
    /// They are aligned to 64, all zero, live as long as `owner`, and nobody writes
    /// to them but whoever has the room.
    pub unsafe fn new(at: NonNull<u8>, owner: Arc<dyn Any + Send + Sync>) -> Self {
        Self {
            at: at.cast(),
            _owner: owner,
        }
    }
}

impl Deref for Room {
    type Target = Array;
    fn deref(&self) -> &Array {
        // SAFETY: alive and nobody else's, see `Room::new`; any bytes are integers.
        unsafe { self.at.as_ref() }
    }
}

impl DerefMut for Room {
    fn deref_mut(&mut self) -> &mut Array {
        // SAFETY: as in `deref`.
        unsafe { self.at.as_mut() }
    }
}

/// Memory of all arrays of one vCPU.
pub struct Rooms {
    /// Those of [`super::Bank::Kernel`] and [`super::Bank::KernelAc`].
    pub kernel: [Room; KERNEL_BANKS],
    /// Those of user accesses; at least one.
    pub users: Vec<Room>,
}

/// Rooms anywhere, for a TLB that no generated code looks at.
impl Default for Rooms {
    fn default() -> Self {
        /// What an array consists of, aligned as it is.
        #[derive(Clone, Copy)]
        #[repr(align(64))]
        struct Line(#[allow(dead_code, reason = "read as an array")] [u64; 8]);
        let room = |_| {
            let mut lines = vec![Line([0; 8]); ARRAY_BYTES / size_of::<Line>()];
            let at = NonNull::new(lines.as_mut_ptr()).unwrap_or(NonNull::dangling());
            // SAFETY: as many bytes, aligned, zero, and the owner's buffer, which
            // nobody else reaches, does not move.
            unsafe { Room::new(at.cast(), Arc::new(lines)) }
        };
        Self {
            kernel: std::array::from_fn(room),
            users: (0..USER_SPACES).map(room).collect(),
        }
    }
}
