//! kvmclock's arithmetic: ns as a linear function of the TSC, with the factors
//! of `pvclock_vcpu_time_info` (Linux, Documentation/virt/kvm/x86/msr.rst).

/// ns = `ns` + (((tsc - `tsc`) << `shift`) * `mul`) >> 32; a negative shift
/// goes right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Where it starts.
    pub tsc: u64,
    /// Its value there.
    pub ns: u64,
    /// `tsc_to_system_mul`.
    pub mul: u32,
    /// `tsc_shift`.
    pub shift: i8,
}

impl Line {
    /// From (`tsc`, `ns`) on with `rate` ns a tick.
    pub fn new(tsc: u64, ns: u64, rate: f64) -> Self {
        let (mul, shift) = factors(rate);
        Self {
            tsc,
            ns,
            mul,
            shift,
        }
    }

    /// Its value, as a guest computes it.
    pub fn at(&self, tsc: u64) -> u64 {
        let ticks = u128::from(tsc.saturating_sub(self.tsc));
        let ticks = match self.shift {
            s @ ..0 => ticks >> s.unsigned_abs(),
            s => ticks << s,
        };
        let ns = (ticks * u128::from(self.mul)) >> 32;
        self.ns.saturating_add(ns as u64)
    }
}

/// `mul` has its highest bit set, for the finest rate.
fn factors(rate: f64) -> (u32, i8) {
    let (mut fraction, mut shift) = (rate.clamp(1e-3, 1e3), 0i8);
    while fraction >= 1.0 {
        fraction /= 2.0;
        shift += 1;
    }
    while fraction < 0.5 {
        fraction *= 2.0;
        shift -= 1;
    }
    ((fraction * 4_294_967_296.0) as u32, shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_give_the_rate() {
        assert_eq!(factors(0.5), (1 << 31, 0));
        assert_eq!(factors(1.0), (1 << 31, 1));
        assert_eq!(factors(0.25), (1 << 31, -1));
        for khz in [800_000u32, 1_000_001, 1_996_249, 2_893_202, 4_700_000] {
            let line = Line::new(7, 1000, 1e6 / f64::from(khz));
            assert!(line.mul >= 1 << 31, "{khz}");
            // An hour: off by less than 1 ppb and a tick.
            let ticks = u64::from(khz) * 3_600_000;
            let off = line.at(7 + ticks) as i64 - 3_600_000_001_000;
            assert!(off.abs() < 3600, "{khz}: {off}");
        }
    }

    #[test]
    fn the_tsc_before_the_line_is_its_start() {
        assert_eq!(Line::new(100, 5, 0.5).at(3), 5);
        assert_eq!(Line::new(0, 0, 1.0).at(u64::MAX), u64::MAX);
    }
}
