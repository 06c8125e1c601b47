//! pvpanic, ISA flavour: the guest tells that it panicked
//! (QEMU docs/specs/pvpanic).

use crate::{Effect, PortDevice};

/// The port QEMU gives it.
pub const PORT: u16 = 0x505;
/// Event bit: the guest panicked.
pub const PANICKED: u8 = 1 << 0;
/// Event bit: the guest panicked and a crash kernel takes over.
pub const CRASH_LOADED: u8 = 1 << 1;

/// The device: a read tells the supported events, a write reports some.
#[derive(Clone, Copy, Debug, Default)]
pub struct PvPanic;

impl PortDevice for PvPanic {
    fn read(&self, _offset: u16, _size: u8) -> u32 {
        (PANICKED | CRASH_LOADED).into()
    }
    fn write(&self, _offset: u16, _size: u8, value: u32) -> Option<Effect> {
        let events = value as u8;
        if events & PANICKED != 0 {
            Some(Effect::GuestPanicked)
        } else if events & CRASH_LOADED != 0 {
            Some(Effect::CrashLoaded)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events() {
        assert_eq!(PvPanic.read(0, 1), 3);
        assert_eq!(PvPanic.write(0, 1, 1), Some(Effect::GuestPanicked));
        assert_eq!(PvPanic.write(0, 1, 3), Some(Effect::GuestPanicked));
        assert_eq!(PvPanic.write(0, 1, 2), Some(Effect::CrashLoaded));
        assert_eq!(PvPanic.write(0, 1, 0x80), None);
    }
}
