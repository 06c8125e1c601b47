//! Host clocks: the TSC, its frequency, the monotonic clock, and readings of
//! both at one instant.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Attempts at a reading; the narrowest counts. An attempt takes about 50 ns,
/// and one that was interrupted shows as a wide one.
const ATTEMPTS: usize = 16;
/// How long the TSC's frequency is measured, at least: about as long as it takes until
/// a VM needs it. The ends are known to about 25 ns each, so the result is within 12
/// ppm; kvmclock is corrected later.
const MEASUREMENT: Duration = Duration::from_millis(4);

/// The host's time-stamp counter.
#[allow(unsafe_code, reason = "RDTSC")]
pub fn host_tsc() -> u64 {
    // SAFETY: RDTSC is unprivileged on Linux (CR4.TSD clear unless a process
    // asked for PR_TSC_SIGSEGV, which we do not).
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// The same, read neither before earlier loads nor stores are done.
#[allow(unsafe_code, reason = "MFENCE, LFENCE")]
pub fn host_tsc_ordered() -> u64 {
    // SAFETY: both fences are part of SSE2, which every x86-64 CPU has.
    unsafe {
        std::arch::x86_64::_mm_mfence();
        std::arch::x86_64::_mm_lfence();
    }
    host_tsc()
}

/// Two clocks at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The host's TSC.
    pub tsc: u64,
    /// The other clock in ns.
    pub ns: u64,
    /// The instant is known to this many ticks.
    pub error: u64,
}

/// Reads the TSC together with the clock `now`.
fn read_with(now: impl Fn() -> Duration) -> Reading {
    let attempt = |_| {
        let before = host_tsc();
        let ns = now().as_nanos() as u64;
        let error = host_tsc_ordered().saturating_sub(before) / 2;
        Reading {
            tsc: before + error,
            ns,
            error,
        }
    };
    let mut best = attempt(0);
    for next in (1..ATTEMPTS).map(attempt) {
        if next.error < best.error {
            best = next;
        }
    }
    best
}

/// The TSC together with the host's wall clock, in ns since 1970 UTC.
pub fn wall_reading() -> Reading {
    read_with(|| {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
    })
}

/// Frequency of the host's TSC in kHz of the host's monotonic clock, measured
/// once.
pub fn host_tsc_khz() -> u32 {
    static KHZ: OnceLock<u32> = OnceLock::new();
    *KHZ.get_or_init(measure)
}

/// Begins to measure the frequency of the host's TSC, if nobody has: the sooner, the less
/// has to be waited for.
pub fn begin_to_measure() {
    measurement();
}

/// When it began.
fn measurement() -> &'static (Instant, Reading) {
    static BEGIN: OnceLock<(Instant, Reading)> = OnceLock::new();
    BEGIN.get_or_init(|| {
        let start = Instant::now();
        (start, read_with(|| start.elapsed()))
    })
}

fn measure() -> u32 {
    let (start, first) = measurement();
    std::thread::sleep(MEASUREMENT.saturating_sub(start.elapsed()));
    let last = read_with(|| start.elapsed());
    frequency_khz(*first, last, nominal_khz())
}

/// The frequency between two readings. A round or advertised one within their
/// error is preferred, as TSCs run at such rates unless the monotonic clock is
/// being steered.
fn frequency_khz(first: Reading, last: Reading, nominal: Option<u32>) -> u32 {
    let ns = last.ns.saturating_sub(first.ns).max(1) as f64;
    let khz = |ticks: u64| ticks as f64 * 1e6 / ns;
    let (middle, error) = (
        khz(last.tsc.saturating_sub(first.tsc)),
        khz(first.error + last.error),
    );
    let round = (middle / 1000.0).round() as u32 * 1000;
    let candidates = nominal.into_iter().chain([round]);
    candidates
        .filter(|c| (f64::from(*c) - middle).abs() <= error)
        .find(|c| *c != 0)
        .unwrap_or(middle.round() as u32)
        .max(1)
}

/// What CPUID leaf 0x15 says, where it is complete (SDM vol 2, CPUID).
fn nominal_khz() -> Option<u32> {
    if crate::cpuid::host(0, 0)[0] < 0x15 {
        return None;
    }
    let [denominator, numerator, crystal, _] = crate::cpuid::host(0x15, 0);
    if denominator == 0 || numerator == 0 || crystal == 0 {
        return None;
    }
    let hz = u64::from(crystal) * u64::from(numerator) / u64::from(denominator);
    u32::try_from(hz / 1000).ok()
}

/// True if the TSC is the same on all CPUs of the host and runs steadily: its
/// kernel keeps time by it, directly or through its own hypervisor's page.
pub fn host_tsc_is_stable() -> bool {
    const CURRENT: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    match std::fs::read_to_string(CURRENT) {
        Ok(name) => matches!(
            name.trim_end(),
            "tsc" | "tsc-early" | "kvm-clock" | "hyperv_clocksource_tsc_page"
        ),
        // Invariant TSC (SDM vol 3, 18.17.1).
        Err(_) => {
            crate::cpuid::host(0x8000_0000, 0)[0] >= 0x8000_0007
                && crate::cpuid::host(0x8000_0007, 0)[3] & 1 << 8 != 0
        }
    }
}

/// A VM's time: ns since its creation, and the guest TSC.
#[derive(Debug)]
pub struct VmClock {
    start: Instant,
    tsc_start: u64,
}

impl VmClock {
    /// Starts now.
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            tsc_start: host_tsc(),
        }
    }
    /// ns since creation.
    pub fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }
    /// The instant `ns` after creation.
    pub fn instant(&self, ns: u64) -> Instant {
        self.start + Duration::from_nanos(ns)
    }
    /// Host TSC at creation: the guests' TSCs start from 0 there.
    pub fn tsc_start(&self) -> u64 {
        self.tsc_start
    }
    /// TSC and ns since creation at one instant.
    pub fn reading(&self) -> Reading {
        read_with(|| self.start.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(tsc: u64, ns: u64) -> Reading {
        Reading { tsc, ns, error: 50 }
    }

    #[test]
    fn a_round_or_advertised_frequency_within_the_error_is_taken() {
        let first = reading(1000, 0);
        // 20 ms, ends known to 50 ticks each: 5 kHz.
        let measured =
            |ticks: u64, nominal| frequency_khz(first, reading(1000 + ticks, 20_000_000), nominal);
        assert_eq!(measured(40_000_080, None), 2_000_000);
        assert_eq!(measured(40_000_120, None), 2_000_006);
        assert_eq!(measured(41_901_600, Some(2_095_078)), 2_095_078);
        assert_eq!(measured(41_901_600, Some(2_095_000)), 2_095_080);
        assert_eq!(measured(0, None), 1);
    }

    #[test]
    fn the_host_agrees_with_itself() {
        let clock = VmClock::new();
        let first = clock.reading();
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(50) {
            std::hint::spin_loop();
        }
        let last = clock.reading();
        let khz = frequency_khz(first, last, None);
        let apart = f64::from(khz) / f64::from(host_tsc_khz()) - 1.0;
        // Both are within their errors of the truth, which a busy host widens.
        let ticks = (first.error + last.error + 10_000) as f64;
        let bound = ticks / (last.tsc - first.tsc) as f64 + 1e-4;
        assert!(apart.abs() < bound, "{apart} {bound}");
    }
}
