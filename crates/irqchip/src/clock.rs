//! A reading of the clocks at one instant.

/// What the clocks show at the moment of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Monotonic time in ns; the time base of every deadline.
    pub now_ns: u64,
    /// The accessing vCPU's TSC.
    pub tsc: u64,
    /// Its frequency in kHz.
    pub tsc_khz: u32,
}

impl Clock {
    /// The time in ns at which the TSC will have reached `tsc`: now if it
    /// already has, rounded up so that the TSC never reads less than `tsc`
    /// when the deadline fires.
    pub fn deadline_of_tsc(&self, tsc: u64) -> u64 {
        let ticks = u128::from(tsc.saturating_sub(self.tsc));
        let khz = u128::from(self.tsc_khz.max(1));
        let ns = (ticks * 1_000_000).div_ceil(khz);
        u64::try_from(ns).map_or(u64::MAX - 1, |ns| {
            self.now_ns.saturating_add(ns).min(u64::MAX - 1)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tsc_deadline_rounds_up_and_saturates() {
        let clock = Clock {
            now_ns: 1000,
            tsc: 500,
            tsc_khz: 3_000_000,
        };
        assert_eq!(clock.deadline_of_tsc(500), 1000);
        assert_eq!(clock.deadline_of_tsc(1), 1000);
        assert_eq!(clock.deadline_of_tsc(503), 1001);
        assert_eq!(clock.deadline_of_tsc(504), 1002);
        let slow = Clock {
            tsc_khz: 0,
            ..clock
        };
        assert_eq!(slow.deadline_of_tsc(u64::MAX), u64::MAX - 1);
    }
}
