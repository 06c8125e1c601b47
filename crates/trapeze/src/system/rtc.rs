//! `-rtc`: what time the machine's clock shows.
#![allow(unsafe_code, reason = "localtime_r")]

use super::keyval;
use super::parse::Options;
use crate::near::did_you_mean;
use machine::DateTime;
use std::time::{SystemTime, UNIX_EPOCH};

const NAMES: [&str; 3] = ["base", "clock", "driftfix"];

/// `-rtc`.
pub(super) fn apply(options: &mut Options, value: &str) -> Result<(), String> {
    for (key, value) in keyval::parse(value) {
        let value = value.ok_or_else(|| format!("{key}= needs a value"))?;
        match (&*key, &*value) {
            ("base", base) => {
                let offset = offset_s(base, now_s())?;
                options.config.rtc_offset_ns = offset.saturating_mul(1_000_000_000);
            }
            ("clock", "host") | ("driftfix", "none") => {}
            ("clock", _) => {
                return Err(format!(
                    "clock={value}: the clock follows the host's, clock=host"
                ));
            }
            ("driftfix", _) => {
                return Err(format!(
                    "driftfix={value}: ticks are never made up, driftfix=none"
                ));
            }
            (key, _) => {
                let near = did_you_mean(key, NAMES.into_iter());
                let names = NAMES.join(", ");
                return Err(format!(
                    "property '{key}' is not supported{near}; there are {names}"
                ));
            }
        }
    }
    Ok(())
}

fn now_s() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |d| d.as_secs() as i64)
}

/// Seconds from the host's UTC, `now`, to what the clock shows.
fn offset_s(base: &str, now: i64) -> Result<i64, String> {
    match base {
        "utc" => Ok(0),
        "localtime" => local_offset_s(now),
        date => {
            let date = parse_date(date).ok_or_else(|| {
                format!(
                    "base={base}: neither utc, localtime nor a date from 1970 on, such as \
                     2006-06-17T16:01:21 or 2006-06-17"
                )
            })?;
            Ok(date.to_epoch() as i64 - now)
        }
    }
}

/// `YYYY-MM-DD`, possibly with `THH:MM:SS`.
fn parse_date(text: &str) -> Option<DateTime> {
    let (date, time) = text.split_once('T').unwrap_or((text, "00:00:00"));
    let fields = |text: &str, separator| -> Option<[u16; 3]> {
        let digits = |w: &str| w.bytes().all(|b| b.is_ascii_digit());
        let numbers = text
            .split(separator)
            .map(|w| w.parse().ok().filter(|_| digits(w)));
        numbers.collect::<Option<Vec<_>>>()?.try_into().ok()
    };
    let ([year, month, day], [hour, minute, second]) = (fields(date, '-')?, fields(time, ':')?);
    let byte = |n: u16| u8::try_from(n).ok();
    let date = DateTime {
        second: byte(second)?,
        minute: byte(minute)?,
        hour: byte(hour)?,
        weekday: 1,
        day: byte(day)?,
        month: byte(month).filter(|m| (1..=12).contains(m))?,
        year,
    };
    // A date that there is comes back; the week's day is computed.
    let back = DateTime::from_epoch(date.to_epoch());
    let weekday = back.weekday;
    (back == DateTime { weekday, ..date }).then_some(back)
}

fn local_offset_s(now: i64) -> Result<i64, String> {
    // SAFETY: all zeros are a `tm`: numbers and a null pointer.
    let mut local: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to values that live during the call; no other
    // thread of this process changes the environment.
    match unsafe { libc::localtime_r(&raw const now, &raw mut local) }.is_null() {
        true => Err("base=localtime: the host does not know its local time".into()),
        false => Ok(local.tm_gmtoff),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_utc() {
        // date -u -d 2006-06-17T16:01:21 +%s
        assert_eq!(offset_s("2006-06-17T16:01:21", 0), Ok(1_150_560_081));
        assert_eq!(offset_s("2006-06-17", 100), Ok(1_150_502_400 - 100));
        assert_eq!(offset_s("2024-02-29", 0), Ok(1_709_164_800));
        assert_eq!(offset_s("utc", 77), Ok(0));
        for bad in [
            "2023-02-29",
            "2006-13-01",
            "2006-00-01",
            "2006-06-17T24:00:00",
            "1969-12-31",
            "2006-06",
            "2006-06-17T1:2",
            "+2006-06-17",
            "",
        ] {
            assert!(offset_s(bad, 0).is_err(), "{bad}");
        }
    }
}
