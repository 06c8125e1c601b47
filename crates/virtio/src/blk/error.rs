//! What I/O errors do: QEMU's `rerror` and `werror`.

use disk::Errno;

/// What an I/O error does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// The guest is told.
    Report,
    /// The guest is told that all went well.
    Ignore,
    /// The machine stops; when it goes on, the request is tried again.
    Stop,
    /// `Stop` if the host has no space left, else `Report`. For writes.
    Enospc,
}

impl OnError {
    /// For reads, if nothing was asked for.
    pub const READ: Self = Self::Report;
    /// For writes, if nothing was asked for.
    pub const WRITE: Self = Self::Enospc;
}

/// A request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoError {
    /// It was a read; everything else is a write.
    pub read: bool,
    /// Why.
    pub errno: Errno,
}

/// What became of a machine that was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resumed {
    /// It goes on.
    Yes,
    /// It ends, or starts anew.
    No,
}

/// Stops the machine for a device.
pub trait Supervisor: Send + Sync {
    /// Stops it because of `error` and waits until it goes on or ends. Called
    /// from any thread but a vCPU's, also while it is stopped already.
    fn stop_and_wait(&self, error: &IoError) -> Resumed;
}

/// For reads and for writes.
pub(super) struct Policies {
    pub(super) read: OnError,
    pub(super) write: OnError,
}

/// What is done about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reaction {
    Report,
    Ignore,
    Stop,
}

impl Policies {
    pub(super) fn reaction(&self, read: bool, errno: Errno) -> Reaction {
        match if read { self.read } else { self.write } {
            OnError::Report => Reaction::Report,
            OnError::Ignore => Reaction::Ignore,
            OnError::Stop => Reaction::Stop,
            OnError::Enospc if errno == Errno::ENOSPC => Reaction::Stop,
            OnError::Enospc => Reaction::Report,
        }
    }
}
