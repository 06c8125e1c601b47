//! The MC146818 as a state machine (Motorola MC146818A data sheet). Time is
//! wall time in ns since 1970, passed in; the chip keeps only its distance
//! from it.

use super::calendar::DateTime;
use super::memory_size::MemorySize;

mod reg {
    pub const SECONDS: u8 = 0x00;
    pub const SECONDS_ALARM: u8 = 0x01;
    pub const MINUTES: u8 = 0x02;
    pub const MINUTES_ALARM: u8 = 0x03;
    pub const HOURS: u8 = 0x04;
    pub const HOURS_ALARM: u8 = 0x05;
    pub const WEEKDAY: u8 = 0x06;
    pub const DAY: u8 = 0x07;
    pub const MONTH: u8 = 0x08;
    pub const YEAR: u8 = 0x09;
    pub const A: u8 = 0x0a;
    pub const B: u8 = 0x0b;
    pub const C: u8 = 0x0c;
    pub const D: u8 = 0x0d;
    pub const CENTURY: u8 = 0x32;
}

const A_UIP: u8 = 1 << 7;
/// Divider 32.768 kHz, periodic rate 1024 Hz: what a PC BIOS leaves.
const A_RESET: u8 = 0x26;
const A_RATE: u8 = 0x0f;

mod b {
    pub const SET: u8 = 1 << 7;
    pub const PIE: u8 = 1 << 6;
    pub const AIE: u8 = 1 << 5;
    pub const UIE: u8 = 1 << 4;
    pub const DM_BINARY: u8 = 1 << 2;
    pub const H24: u8 = 1 << 1;
}

mod c {
    pub const IRQF: u8 = 1 << 7;
    pub const PF: u8 = 1 << 6;
    pub const AF: u8 = 1 << 5;
    pub const UF: u8 = 1 << 4;
}

mod saved;

/// Valid RAM and time.
const D_VRT: u8 = 1 << 7;
const NS: u64 = 1_000_000_000;
/// The update-in-progress bit rises this long before an update.
const UIP_NS: u64 = 244_000;
/// Longest gap whose seconds are compared with the alarm one by one.
const DAY_S: u64 = 86_400;

/// The chip.
#[derive(Clone, Debug)]
pub struct RtcCore {
    /// CMOS bytes; those of the time registers are unused.
    ram: [u8; 128],
    a: u8,
    b: u8,
    c: u8,
    /// What the guest's setting added to wall time, in ns.
    offset_ns: i64,
    /// Time registers while SET stops the updates.
    stopped: Option<DateTime>,
    /// Chip time up to which flags are accounted for, in ns.
    seen_ns: u64,
}

impl RtcCore {
    /// The chip as firmware leaves it, telling `memory` in its CMOS bytes.
    pub fn new(memory: MemorySize, now_ns: u64) -> Self {
        let mut ram = [0; 128];
        for (register, value) in memory.cmos_bytes() {
            ram[usize::from(register & 0x7f)] = value;
        }
        Self {
            ram,
            a: A_RESET,
            b: b::H24,
            c: 0,
            offset_ns: 0,
            stopped: None,
            seen_ns: now_ns,
        }
    }

    /// Level of IRQ 8.
    pub fn irq(&self) -> bool {
        self.c & self.b & (c::PF | c::AF | c::UF) != 0
    }

    /// Sets flags for everything that happened up to wall time `now_ns`;
    /// returns how many ns later something enabled happens next.
    pub fn run_due(&mut self, now_ns: u64) -> Option<u64> {
        let now = self.chip_ns(now_ns);
        let period = self.period_ns();
        if let Some(period) = period
            && now / period != self.seen_ns / period
        {
            self.c |= c::PF;
        }
        if self.stopped.is_none() && now / NS != self.seen_ns / NS {
            self.c |= c::UF;
            if self.alarm_in(self.seen_ns / NS, now / NS) {
                self.c |= c::AF;
            }
        }
        self.seen_ns = now;
        self.next_event(now, period)
    }

    /// Reads a CMOS register (bit 7 of the index is the NMI mask).
    pub fn read(&mut self, index: u8, now_ns: u64) -> u8 {
        self.run_due(now_ns);
        let index = index & 0x7f;
        match index {
            reg::A => self.a | self.uip(now_ns),
            reg::B => self.b,
            reg::C => self.take_c(),
            reg::D => D_VRT,
            _ => match self.time_register(index, now_ns) {
                Some(value) => value,
                None => self.ram[usize::from(index)],
            },
        }
    }

    /// Writes a CMOS register.
    pub fn write(&mut self, index: u8, value: u8, now_ns: u64) {
        self.run_due(now_ns);
        let index = index & 0x7f;
        match index {
            reg::A => self.a = value & !A_UIP,
            reg::B => self.write_b(value, now_ns),
            reg::C | reg::D => {}
            _ if self.time_register(index, now_ns).is_some() => {
                self.set_time_register(index, value, now_ns);
            }
            _ => self.ram[usize::from(index)] = value,
        }
    }

    fn chip_ns(&self, now_ns: u64) -> u64 {
        now_ns.saturating_add_signed(self.offset_ns)
    }

    fn date_time(&self, now_ns: u64) -> DateTime {
        self.stopped
            .unwrap_or_else(|| DateTime::from_epoch(self.chip_ns(now_ns) / NS))
    }

    fn uip(&self, now_ns: u64) -> u8 {
        let in_update = self.chip_ns(now_ns) % NS >= NS - UIP_NS;
        if self.stopped.is_none() && in_update {
            A_UIP
        } else {
            0
        }
    }

    fn take_c(&mut self) -> u8 {
        let irqf = if self.irq() { c::IRQF } else { 0 };
        std::mem::take(&mut self.c) | irqf
    }

    /// Period of the periodic interrupt (data sheet table 5).
    fn period_ns(&self) -> Option<u64> {
        let rate = match self.a & A_RATE {
            0 => return None,
            // With a 32.768 kHz time base 1 and 2 mean 256 and 128 Hz.
            rate @ 1..=2 => rate + 7,
            rate => rate,
        };
        // 2^(rate - 1) cycles of 32,768 Hz.
        Some((NS << (rate - 1)) >> 15)
    }

    fn next_event(&self, now: u64, period: Option<u64>) -> Option<u64> {
        let periodic = period
            .filter(|_| self.b & b::PIE != 0 && self.c & c::PF == 0)
            .map(|p| p - now % p);
        let wants_second = (self.b & b::UIE != 0 && self.c & c::UF == 0)
            || (self.b & b::AIE != 0 && self.c & c::AF == 0);
        let second = (wants_second && self.stopped.is_none()).then(|| NS - now % NS);
        periodic.into_iter().chain(second).min()
    }

    /// Whether the alarm matches a second in `(from, to]`. After a long time
    /// that is a whole day, so hours and minutes that cannot match are skipped.
    fn alarm_in(&self, from: u64, to: u64) -> bool {
        let gap = to.saturating_sub(from).clamp(1, DAY_S);
        let mut second = to.saturating_sub(gap - 1);
        let minute_has_one = (0..60).any(|s| self.alarm_field(reg::SECONDS_ALARM, self.encode(s)));
        while minute_has_one && second <= to {
            let (hour, minute) = (second % DAY_S / 3600, second % 3600 / 60);
            second = if !self.alarm_field(reg::HOURS_ALARM, self.encode_hour(hour as u8)) {
                (second / 3600 + 1) * 3600
            } else if !self.alarm_field(reg::MINUTES_ALARM, self.encode(minute as u8)) {
                (second / 60 + 1) * 60
            } else if !self.alarm_field(reg::SECONDS_ALARM, self.encode((second % 60) as u8)) {
                second + 1
            } else {
                return true;
            };
        }
        false
    }

    /// Does an alarm register match? Two leading ones mean "every" (data sheet,
    /// "Alarm").
    fn alarm_field(&self, register: u8, value: u8) -> bool {
        let alarm = self.ram[usize::from(register)];
        alarm & 0xc0 == 0xc0 || alarm == value
    }

    fn encode(&self, value: u8) -> u8 {
        match self.b & b::DM_BINARY {
            0 => ((value / 10 % 10) << 4) | (value % 10),
            _ => value,
        }
    }

    fn decode(&self, value: u8) -> u8 {
        match self.b & b::DM_BINARY {
            0 => (value >> 4) * 10 + (value & 0x0f),
            _ => value,
        }
    }

    fn encode_hour(&self, hour: u8) -> u8 {
        if self.b & b::H24 != 0 {
            return self.encode(hour);
        }
        let pm = if hour >= 12 { 0x80 } else { 0 };
        // While SET holds the clock an hour is what was written, up to 255.
        self.encode((hour % 12 + 11) % 12 + 1) | pm
    }

    fn decode_hour(&self, value: u8) -> u8 {
        if self.b & b::H24 != 0 {
            return self.decode(value);
        }
        self.decode(value & 0x7f) % 12 + if value & 0x80 != 0 { 12 } else { 0 }
    }

    fn time_register(&self, index: u8, now_ns: u64) -> Option<u8> {
        let at = self.date_time(now_ns);
        Some(match index {
            reg::SECONDS => self.encode(at.second),
            reg::MINUTES => self.encode(at.minute),
            reg::HOURS => self.encode_hour(at.hour),
            reg::WEEKDAY => self.encode(at.weekday),
            reg::DAY => self.encode(at.day),
            reg::MONTH => self.encode(at.month),
            reg::YEAR => self.encode((at.year % 100) as u8),
            reg::CENTURY => self.encode((at.year / 100) as u8),
            _ => return None,
        })
    }

    fn set_time_register(&mut self, index: u8, value: u8, now_ns: u64) {
        let mut at = self.date_time(now_ns);
        let plain = self.decode(value);
        match index {
            reg::SECONDS => at.second = plain,
            reg::MINUTES => at.minute = plain,
            reg::HOURS => at.hour = self.decode_hour(value),
            reg::WEEKDAY => at.weekday = plain,
            reg::DAY => at.day = plain,
            reg::MONTH => at.month = plain,
            reg::YEAR => at.year = at.year / 100 * 100 + u16::from(plain) % 100,
            _ => at.year = at.year % 100 + u16::from(plain) % 100 * 100,
        }
        match &mut self.stopped {
            Some(stopped) => *stopped = at,
            None => self.set_time(at, now_ns),
        }
    }

    fn set_time(&mut self, at: DateTime, now_ns: u64) {
        // Signed 64-bit ns end in the year 2262; later settings stop there.
        let fraction = self.chip_ns(now_ns) % NS;
        let latest = i64::MAX as u64 - NS;
        let wanted = at.to_epoch().saturating_mul(NS).min(latest) + fraction;
        let now = i64::try_from(now_ns).unwrap_or(i64::MAX);
        self.offset_ns = (wanted as i64).saturating_sub(now);
        self.seen_ns = self.chip_ns(now_ns);
    }

    fn write_b(&mut self, value: u8, now_ns: u64) {
        let was = self.stopped;
        // SET inhibits update interrupts (data sheet, register B).
        let value = if value & b::SET != 0 {
            value & !b::UIE
        } else {
            value
        };
        if value & b::SET != 0 {
            self.stopped = Some(self.date_time(now_ns));
        } else if let Some(at) = was {
            self.stopped = None;
            self.set_time(at, now_ns);
        }
        self.b = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2023-11-14 22:13:20 UTC, a Tuesday.
    const T: u64 = 1_700_000_000 * NS;

    fn chip() -> RtcCore {
        RtcCore::new(MemorySize::default(), T)
    }

    fn time(rtc: &mut RtcCore, now: u64) -> [u8; 8] {
        [0x32, 9, 8, 7, 6, 4, 2, 0].map(|index| rtc.read(index, now))
    }

    #[test]
    fn tells_bcd_time_with_century() {
        let want = [0x20, 0x23, 0x11, 0x14, 0x03, 0x22, 0x13, 0x20];
        assert_eq!(time(&mut chip(), T), want);
        assert_eq!(chip().read(0x8d, T), 0x80);
        assert_eq!(chip().read(0x0b, T), 0x02);
    }

    #[test]
    fn binary_and_twelve_hour_modes() {
        let mut rtc = chip();
        rtc.write(0x0b, 0x04, T);
        assert_eq!(rtc.read(4, T), 0x80 | 10);
        assert_eq!(rtc.read(9, T), 23);
        rtc.write(4, 12, T); // 12 am
        rtc.write(0x0b, 0x02, T);
        assert_eq!(rtc.read(4, T), 0x00);
    }

    #[test]
    fn a_stopped_clock_takes_any_hour() {
        for (set, read) in [(0x86, 0x84), (0x86, 0x80), (0x82, 0x84), (0x84, 0x86)] {
            for hour in 0..=255 {
                let mut rtc = chip();
                rtc.write(0x0b, set, T);
                rtc.write(4, hour, T);
                rtc.write(0x0b, read, T);
                let got = rtc.read(4, T);
                let twelve = read & 0x02 == 0;
                assert!(
                    !twelve || (1..=0x12).contains(&(got & 0x7f)),
                    "{hour}: {got}"
                );
            }
        }
    }

    #[test]
    fn update_in_progress_before_the_second_turns() {
        let mut rtc = chip();
        assert_eq!(rtc.read(0x0a, T), 0x26);
        assert_eq!(rtc.read(0x0a, T + NS - 244_001), 0x26);
        assert_eq!(rtc.read(0x0a, T + NS - 244_000), 0xa6);
        assert_eq!(rtc.read(0x0a, T + NS), 0x26);
    }

    #[test]
    fn set_stops_and_moves_the_clock() {
        let mut rtc = chip();
        rtc.write(0x0b, 0x82, T);
        for (index, value) in [(0x32, 0x19), (9, 0x99), (8, 0x12), (7, 0x31), (4, 0x23)] {
            rtc.write(index, value, T);
        }
        rtc.write(2, 0x59, T);
        rtc.write(0, 0x59, T);
        assert_eq!(rtc.read(0, T + 5 * NS), 0x59);
        rtc.write(0x0b, 0x02, T + 5 * NS);
        let next = time(&mut rtc, T + 6 * NS);
        assert_eq!(next, [0x20, 0x00, 0x01, 0x01, 0x07, 0x00, 0x00, 0x00]);
    }

    #[test]
    fn update_interrupt() {
        let mut rtc = chip();
        assert_eq!(rtc.run_due(T), None);
        rtc.write(0x0b, 0x12, T);
        assert_eq!(rtc.run_due(T + NS / 4), Some(NS / 4 * 3));
        assert!(!rtc.irq());
        rtc.run_due(T + NS);
        assert!(rtc.irq());
        // PF is set too: the divider runs at 1024 Hz whether enabled or not.
        assert_eq!(rtc.read(0x0c, T + NS), 0xd0);
        assert!(!rtc.irq());
        assert_eq!(rtc.read(0x0c, T + NS), 0x00);
    }

    #[test]
    fn periodic_interrupt_at_1024_hz() {
        let mut rtc = chip();
        rtc.write(0x0b, 0x42, T);
        let wait = rtc.run_due(T).unwrap();
        assert!(wait <= 976_562, "{wait}");
        rtc.run_due(T + wait);
        assert!(rtc.irq());
        assert_eq!(rtc.read(0x0c, T + wait), 0xc0);
        // Rate 2 is 128 Hz.
        rtc.write(0x0a, 0x22, T + wait);
        assert_eq!(rtc.period_ns(), Some(7_812_500));
        rtc.write(0x0a, 0x20, T + wait);
        assert_eq!(rtc.run_due(T + wait), None);
    }

    #[test]
    fn an_alarm_is_found_in_any_span_of_time() {
        let mut rtc = chip();
        rtc.write(0x0b, 0x06, T); // binary, 24 hours
        for alarm in [
            [0, 0, 0],
            [59, 59, 23],
            [30, 0xff, 7],
            [0xff, 0xff, 0xff],
            [99, 1, 2],
        ] {
            for (register, value) in [0x01, 0x03, 0x05].into_iter().zip(alarm) {
                rtc.write(register, value, T);
            }
            let is = |field: u8, value: u64| field >= 0xc0 || u64::from(field) == value;
            let rings = |s: &u64| {
                is(alarm[0], s % 60) && is(alarm[1], s / 60 % 60) && is(alarm[2], s / 3600 % 24)
            };
            for (from, gap) in [
                (0, 1),
                (5, 25 * 60),
                (86_390, 86_400),
                (25_199, 32),
                (100, 4000),
            ] {
                let want = (from + 1..=from + gap).any(|s| rings(&s));
                assert_eq!(
                    rtc.alarm_in(from, from + gap),
                    want,
                    "{alarm:?} {from} {gap}"
                );
            }
        }
    }

    #[test]
    fn alarm_matches_exactly_and_with_wildcards() {
        let mut rtc = chip();
        for (index, value) in [(1, 0x22), (3, 0x13), (5, 0x22)] {
            rtc.write(index, value, T);
        }
        rtc.write(0x0b, 0x22, T);
        rtc.run_due(T + NS);
        assert!(!rtc.irq());
        rtc.run_due(T + 2 * NS);
        assert!(rtc.irq());
        assert_eq!(rtc.read(0x0c, T + 2 * NS) & 0xa0, 0xa0);
        // Missed seconds still count; "every minute and hour" too.
        rtc.write(3, 0xff, T + 2 * NS);
        rtc.write(5, 0xc0, T + 2 * NS);
        rtc.run_due(T + 61 * NS);
        assert!(!rtc.irq());
        rtc.run_due(T + 90 * NS);
        assert!(rtc.irq());
    }

    #[test]
    fn any_bytes_are_survivable() {
        let mut rtc = chip();
        let mut seed = 1u32;
        let mut now = T;
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let [_, index, value, action] = seed.to_le_bytes();
            match action & 1 {
                0 => rtc.write(index, value, now),
                _ => {
                    rtc.read(index, now);
                }
            }
            now += u64::from(value) * 7_777_777;
        }
        rtc.run_due(u64::MAX);
        rtc.run_due(0);
    }
}
