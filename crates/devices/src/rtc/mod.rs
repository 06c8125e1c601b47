//! MC146818 real-time clock with CMOS memory: [`RtcCore`] is the chip,
//! [`Rtc`] puts it on ports 0x70 and 0x71.

mod calendar;
mod core;
mod memory_size;
mod port;

pub use self::calendar::DateTime;
pub use self::core::RtcCore;
pub use self::memory_size::MemorySize;
pub use self::port::Rtc;
