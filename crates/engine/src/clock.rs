//! Host clocks: TSC, its frequency, monotonic ns.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The host's time-stamp counter.
#[allow(unsafe_code, reason = "RDTSC")]
pub fn host_tsc() -> u64 {
    // SAFETY: RDTSC is unprivileged on Linux (CR4.TSD clear unless a process
    // asked for PR_TSC_SIGSEGV, which we do not).
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// Frequency of the host's TSC in kHz: CPUID leaf 0x15 where it is complete,
/// the hypervisor's timing leaf, else measured once against the monotonic
/// clock.
pub fn host_tsc_khz() -> u32 {
    static KHZ: OnceLock<u32> = OnceLock::new();
    *KHZ.get_or_init(|| from_cpuid().unwrap_or_else(measure))
}

fn from_cpuid() -> Option<u32> {
    let leaf = |n: u32| crate::cpuid::host(n, 0);
    let max = leaf(0)[0];
    if max >= 0x15 {
        let [den, num, crystal, _] = leaf(0x15);
        if den != 0 && num != 0 && crystal != 0 {
            let hz = u64::from(crystal) * u64::from(num) / u64::from(den);
            return u32::try_from(hz / 1000).ok().filter(|khz| *khz != 0);
        }
    }
    None
}

/// A measurement over 20 ms, rounded to 10 kHz: TSCs run at round rates and
/// the error of the ends is below that.
fn measure() -> u32 {
    let (t0, c0) = (Instant::now(), host_tsc());
    let mut t1 = t0;
    while t1 - t0 < Duration::from_millis(20) {
        std::hint::spin_loop();
        t1 = Instant::now();
    }
    let ticks = host_tsc() - c0;
    let khz = ticks as f64 * 1e6 / (t1 - t0).as_nanos() as f64;
    (khz / 10.0).round() as u32 * 10
}

/// A VM's time: ns since its creation, and the guest TSC.
#[derive(Debug)]
pub struct VmClock {
    start: Instant,
    tsc_start: u64,
    /// kvmclock minus ns since creation.
    pub offset_ns: std::sync::atomic::AtomicI64,
}

impl VmClock {
    /// Starts now.
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            tsc_start: host_tsc(),
            offset_ns: std::sync::atomic::AtomicI64::new(0),
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
    /// kvmclock now.
    pub fn kvmclock_ns(&self) -> u64 {
        let offset = self.offset_ns.load(std::sync::atomic::Ordering::Relaxed);
        self.now_ns().wrapping_add_signed(offset)
    }
}
