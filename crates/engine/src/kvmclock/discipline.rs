//! Keeps kvmclock on the host's monotonic clock: at each reading the line is
//! given the rate that the host's clock had since the last one, and a little
//! more or less, so that it meets the host's clock at the next.
//!
//! The host's clock is steered (NTP) and the TSC's frequency is known to some
//! ppm only; the guest computes time from the TSC on its own between readings.
//! Lines are continuous, so the guest's time never runs backwards.

use super::line::Line;
use crate::clock::Reading;

/// Time between readings. The host's kernel steers with up to 500 ppm
/// (adjtime(3)), so this is good for 0.5 ms; a longer one would not be, a
/// shorter one would wake idle hosts for nothing.
pub const INTERVAL_NS: u64 = 1_000_000_000;
/// A reading this uncertain is not used: the host was busy.
const MAX_ERROR_NS: f64 = 2_000.0;
/// Readings closer than this say too little about the rate.
const MIN_DISTANCE_NS: u64 = INTERVAL_NS / 10;
/// A lag above this is made up in one step.
const STEP_NS: i64 = 100_000_000;
/// A lead above this was no rate error: the host slept, and its monotonic
/// clock did not count what its TSC counted. It stays.
const LEAP_NS: i64 = 10_000_000_000;
/// Smaller leads and lags are made up by this change of rate at most.
const MAX_SLEW: f64 = 0.05;

/// The line the guest has and what it was made of.
#[derive(Debug)]
pub struct Discipline {
    line: Line,
    last: Reading,
    /// ns a tick, as last measured.
    rate: f64,
    /// Lead over the host's clock that stays.
    lead_ns: u64,
}

/// A change of the line that takes effect at an instant still to come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Turn {
    /// ns a tick from then on.
    pub rate: f64,
    /// Once.
    pub step_ns: u64,
}

impl Discipline {
    /// Starts at the host's clock with the TSC's measured frequency.
    pub fn new(reading: Reading, khz: u32) -> Self {
        let rate = 1e6 / f64::from(khz);
        Self {
            line: Line::new(reading.tsc, reading.ns, rate),
            last: reading,
            rate,
            lead_ns: 0,
        }
    }

    /// The line now.
    pub fn line(&self) -> Line {
        self.line
    }

    /// What a new reading asks for; nothing if it cannot be trusted.
    pub fn judge(&mut self, reading: Reading) -> Option<Turn> {
        if reading.error as f64 * self.rate > MAX_ERROR_NS {
            return None;
        }
        let ns = reading.ns.saturating_sub(self.last.ns);
        if ns < MIN_DISTANCE_NS {
            return None;
        }
        let shown = self.line.at(reading.tsc).cast_signed();
        let mut lag = (reading.ns + self.lead_ns).cast_signed() - shown;
        if lag < -LEAP_NS {
            self.lead_ns += lag.unsigned_abs();
            lag = 0;
        }
        let ticks = reading.tsc.saturating_sub(self.last.tsc);
        let measured = ns as f64 / ticks.max(1) as f64;
        self.last = reading;
        // A host that slept or changed its TSC measured neither.
        if (measured / self.rate - 1.0).abs() < MAX_SLEW * 2.0 {
            self.rate = measured;
        }
        if lag > STEP_NS {
            return Some(Turn {
                rate: self.rate,
                step_ns: lag.unsigned_abs(),
            });
        }
        let slew = (lag as f64 / INTERVAL_NS as f64).clamp(-MAX_SLEW, MAX_SLEW);
        Some(Turn {
            rate: self.rate * (1.0 + slew),
            step_ns: 0,
        })
    }

    /// Turns the line at `tsc`, from where on no reader has the old one.
    pub fn turn(&mut self, turn: Turn, tsc: u64) {
        let ns = self.line.at(tsc) + turn.step_ns;
        self.line = Line::new(tsc, ns, turn.rate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GHZ: f64 = 2.0;
    const SECOND: u64 = 2_000_000_000;

    /// A host whose monotonic clock is steered, read with errors.
    struct Host {
        tsc: u64,
        ns: f64,
        noise: u64,
    }

    impl Host {
        fn new() -> Self {
            Self {
                tsc: 12_345,
                ns: 777.0,
                noise: 1,
            }
        }
        /// Lets `ticks` pass with the clock `ppm` fast.
        fn pass(&mut self, ticks: u64, ppm: f64) {
            self.tsc += ticks;
            self.ns += ticks as f64 / GHZ * (1.0 + ppm * 1e-6);
        }
        /// A reading up to 25 ns off.
        fn read(&mut self) -> Reading {
            self.noise = self.noise.wrapping_mul(6_364_136_223_846_793_005) + 1;
            let off = (self.noise >> 33) % 51;
            Reading {
                tsc: self.tsc,
                ns: self.ns as u64 + off - 25,
                error: 50,
            }
        }
    }

    /// Runs `seconds` with a correction each; the largest distance from the
    /// host's clock in ns, looked at 20 times a second.
    fn run(host: &mut Host, clock: &mut Discipline, seconds: u32, ppm: f64) -> f64 {
        let (mut worst, mut shown) = (0f64, clock.line().at(host.tsc));
        for _ in 0..seconds {
            for _ in 0..20 {
                host.pass(SECOND / 20, ppm);
                let now = clock.line().at(host.tsc);
                assert!(now >= shown, "backwards");
                shown = now;
                worst = worst.max((now as f64 - host.ns).abs());
            }
            if let Some(turn) = clock.judge(host.read()) {
                // The pages are written a little after the reading.
                host.pass(20_000, ppm);
                let before = clock.line().at(host.tsc);
                clock.turn(turn, host.tsc);
                assert!(clock.line().at(host.tsc) >= before, "backwards");
            }
        }
        worst
    }

    #[test]
    fn ten_minutes_of_a_steered_clock_stay_within_a_millisecond() {
        let mut host = Host::new();
        // The frequency was measured 3 ppm wrong.
        let mut clock = Discipline::new(host.read(), 2_000_006);
        assert!(run(&mut host, &mut clock, 2, 20.0) < 30_000.0);
        assert!(run(&mut host, &mut clock, 300, 20.0) < 200.0);
        // The host's kernel slews with all it has, and back.
        assert!(run(&mut host, &mut clock, 100, 520.0) < 600_000.0);
        assert!(run(&mut host, &mut clock, 3, 20.0) < 600_000.0);
        assert!(run(&mut host, &mut clock, 195, -480.0) < 600_000.0);
        assert!(run(&mut host, &mut clock, 3, 20.0) < 600_000.0);
        assert!(run(&mut host, &mut clock, 60, 20.0) < 200.0);
    }

    #[test]
    fn a_late_correction_is_made_up_without_a_step_back() {
        let mut host = Host::new();
        let mut clock = Discipline::new(host.read(), 2_000_000);
        run(&mut host, &mut clock, 3, 0.0);
        // Nobody corrects for an hour in which the host's clock runs slow:
        // the guest is 1.8 s ahead.
        host.pass(SECOND * 3600, -500.0);
        assert!(run(&mut host, &mut clock, 60, 0.0) > 1e9);
        assert!(run(&mut host, &mut clock, 10, 0.0) < 200.0);
    }

    #[test]
    fn a_lag_is_stepped_and_a_sleep_of_the_host_is_kept() {
        let mut host = Host::new();
        let mut clock = Discipline::new(host.read(), 2_000_000);
        run(&mut host, &mut clock, 3, 0.0);
        // The TSC stood still for a minute.
        host.ns += 60e9;
        run(&mut host, &mut clock, 1, 0.0);
        assert!(run(&mut host, &mut clock, 5, 0.0) < 200.0);
        // Now the monotonic clock does: the guest's must not go back.
        host.tsc += SECOND * 3600;
        run(&mut host, &mut clock, 2, 0.0);
        let lead = clock.line().at(host.tsc) as f64 - host.ns;
        assert!((lead - 3600e9).abs() < 1e6, "{lead}");
        run(&mut host, &mut clock, 60, 0.0);
        let later = clock.line().at(host.tsc) as f64 - host.ns;
        assert!((later - lead).abs() < 300.0, "{later} {lead}");
    }

    #[test]
    fn what_cannot_be_trusted_changes_nothing() {
        let mut host = Host::new();
        let first = host.read();
        let mut clock = Discipline::new(first, 2_000_000);
        host.pass(SECOND, 0.0);
        let vague = Reading {
            error: 10_000,
            ..host.read()
        };
        assert_eq!(clock.judge(vague), None);
        let too_soon = Reading {
            ns: first.ns + 1000,
            ..first
        };
        assert_eq!(clock.judge(too_soon), None);
        // A TSC that went back (the host moved) is no rate.
        host.pass(SECOND, 0.0);
        host.tsc = 5;
        let turn = clock.judge(host.read()).unwrap();
        assert!(turn.step_ns > 1_000_000_000 && turn.rate == 0.5, "{turn:?}");
    }
}
