//! The chip and the schema.

use super::RtcCore;
use crate::rtc::calendar::DateTime;

impl RtcCore {
    /// What a saved state says of the chip; index latch and line are its
    /// ports'.
    pub fn saved(&self) -> state::devices::Rtc {
        let stopped = self.stopped.map(|t| {
            [
                t.year.into(),
                t.month.into(),
                t.day.into(),
                t.hour.into(),
                t.minute.into(),
                t.second.into(),
                t.weekday.into(),
            ]
        });
        state::devices::Rtc {
            ram: self.ram.to_vec(),
            a: self.a,
            b: self.b,
            c: self.c,
            offset_ns: self.offset_ns,
            stopped,
            seen_ns: self.seen_ns,
            index: 0,
            level: false,
        }
    }

    /// The chip that a saved state describes; `None` if there is none such.
    pub fn from_saved(saved: &state::devices::Rtc) -> Option<Self> {
        let stopped = match saved.stopped {
            None => None,
            Some(fields) => Some(date(fields)?),
        };
        Some(Self {
            ram: saved.ram.as_slice().try_into().ok()?,
            a: saved.a,
            b: saved.b,
            c: saved.c,
            offset_ns: saved.offset_ns,
            stopped,
            seen_ns: saved.seen_ns,
        })
    }
}

/// Year, month, day, hour, minute, second, weekday; in the ranges that
/// registers can give them.
fn date([year, month, day, hour, minute, second, weekday]: [u32; 7]) -> Option<DateTime> {
    let byte = |value: u32| u8::try_from(value).ok();
    Some(DateTime {
        second: byte(second)?,
        minute: byte(minute)?,
        hour: byte(hour)?,
        weekday: byte(weekday)?,
        day: byte(day)?,
        month: byte(month)?,
        year: u16::try_from(year).ok().filter(|&y| y <= 9999)?,
    })
}
