//! What happens to a machine, for whoever watches it (QMP's events).

use crate::config::PanicAction;
use parking_lot::RwLock;
use std::sync::Arc;

/// Something happened. Whoever is told must not wait for the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The vCPUs are to stop.
    Stopped,
    /// The vCPUs go on.
    Resumed,
    /// The machine ends, or stays stopped because of `-no-shutdown`.
    Shutdown(Cause),
    /// The machine starts again.
    Reset(Cause),
    /// The power button was pressed.
    PowerDown,
    /// The guest reported a panic.
    GuestPanicked(PanicAction),
    /// The guest has loaded a kernel for its crash, and runs it.
    CrashLoaded,
    /// An I/O error of a drive stopped the machine.
    BlockIoError {
        /// Id of the drive.
        drive: String,
        /// It was a read.
        read: bool,
        /// No space was left.
        no_space: bool,
        /// The host's words.
        reason: String,
    },
}

/// Who wanted a machine to end or to start again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The guest powered itself off.
    GuestShutdown,
    /// The guest asked for a reset, or triple-faulted.
    GuestReset,
    /// The guest panicked.
    GuestPanic,
    /// A signal of the host's.
    HostSignal,
    /// The user, on the terminal.
    HostUi,
    /// The monitor: `quit`.
    HostQmpQuit,
    /// The monitor: `system_reset`.
    HostQmpSystemReset,
    /// The host had an error.
    HostError,
}

impl Cause {
    /// QMP's name (`ShutdownCause`).
    pub fn name(self) -> &'static str {
        match self {
            Self::GuestShutdown => "guest-shutdown",
            Self::GuestReset => "guest-reset",
            Self::GuestPanic => "guest-panic",
            Self::HostSignal => "host-signal",
            Self::HostUi => "host-ui",
            Self::HostQmpQuit => "host-qmp-quit",
            Self::HostQmpSystemReset => "host-qmp-system-reset",
            Self::HostError => "host-error",
        }
    }

    /// The guest did it.
    pub fn is_guest(self) -> bool {
        matches!(
            self,
            Self::GuestShutdown | Self::GuestReset | Self::GuestPanic
        )
    }
}

type Observer = dyn Fn(&Event) + Send + Sync;

/// Whoever watches.
#[derive(Default)]
pub struct Observers(RwLock<Vec<Arc<Observer>>>);

impl Observers {
    /// One more, for as long as the machine is there.
    pub fn add(&self, observer: impl Fn(&Event) + Send + Sync + 'static) {
        self.0.write().push(Arc::new(observer));
    }

    /// Tells all of them. Not while a lock of the machine is held.
    pub fn tell(&self, event: &Event) {
        let observers = self.0.read().clone();
        observers.iter().for_each(|tell| tell(event));
    }
}
