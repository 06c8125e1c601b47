//! Seconds since 1970 to calendar fields and back (proleptic Gregorian).

/// Broken-down UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DateTime {
    /// 0..=59.
    pub second: u8,
    /// 0..=59.
    pub minute: u8,
    /// 0..=23.
    pub hour: u8,
    /// 1 = Sunday, as the MC146818 counts.
    pub weekday: u8,
    /// 1..=31.
    pub day: u8,
    /// 1..=12.
    pub month: u8,
    /// Full year, 0..=9999 when it came from registers.
    pub year: u16,
}

const SECONDS_PER_DAY: u64 = 86_400;

fn leap(year: u64) -> bool {
    year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400)
}

fn month_days(year: u64, month: u64) -> u64 {
    match month {
        2 => 28 + u64::from(leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 0000-01-01 to the first of January of `year`.
fn days_before_year(year: u64) -> u64 {
    let past = year.saturating_sub(1);
    let leaps = past / 4 - past / 100 + past / 400;
    // The year 0 is a leap year of its own.
    year * 365 + if year > 0 { leaps + 1 } else { 0 }
}

const EPOCH_DAYS: u64 = 719_528;

impl DateTime {
    /// The moment `seconds` after 1970-01-01 00:00.
    pub fn from_epoch(seconds: u64) -> Self {
        let (days, rest) = (seconds / SECONDS_PER_DAY, seconds % SECONDS_PER_DAY);
        let since_zero = days + EPOCH_DAYS;
        let mut year = since_zero / 366;
        while days_before_year(year + 1) <= since_zero {
            year += 1;
        }
        let mut day = since_zero - days_before_year(year);
        let mut month = 1;
        while day >= month_days(year, month) {
            day -= month_days(year, month);
            month += 1;
        }
        Self {
            second: (rest % 60) as u8,
            minute: (rest / 60 % 60) as u8,
            hour: (rest / 3600) as u8,
            // 1970-01-01 was a Thursday, day 5.
            weekday: ((days + 4) % 7) as u8 + 1,
            day: day as u8 + 1,
            month: month as u8,
            year: year.min(9999) as u16,
        }
    }

    /// Seconds since 1970; fields out of range are taken at face value, and
    /// moments before 1970 become 0.
    pub fn to_epoch(self) -> u64 {
        let year = u64::from(self.year);
        let months = (1..u64::from(self.month)).map(|m| month_days(year, m));
        let days = days_before_year(year) + months.sum::<u64>() + u64::from(self.day);
        let clock =
            u64::from(self.hour) * 3600 + u64::from(self.minute) * 60 + u64::from(self.second);
        days.saturating_sub(EPOCH_DAYS + 1) * SECONDS_PER_DAY + clock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values from date(1).
    const KNOWN: [(u64, [u16; 7]); 6] = [
        (0, [1970, 1, 1, 0, 0, 0, 5]),
        (951_782_399, [2000, 2, 28, 23, 59, 59, 2]),
        (951_782_400, [2000, 2, 29, 0, 0, 0, 3]),
        (1_700_000_000, [2023, 11, 14, 22, 13, 20, 3]),
        (4_102_444_800, [2100, 1, 1, 0, 0, 0, 6]),
        (4_107_542_400, [2100, 3, 1, 0, 0, 0, 2]),
    ];

    #[test]
    fn known_moments_both_ways() {
        for (seconds, want) in KNOWN {
            let t = DateTime::from_epoch(seconds);
            let [day, month, hour, minute, second, weekday] =
                [t.day, t.month, t.hour, t.minute, t.second, t.weekday].map(u16::from);
            let got = [t.year, month, day, hour, minute, second, weekday];
            assert_eq!(got, want, "{seconds}");
            assert_eq!(t.to_epoch(), seconds);
        }
    }
}
