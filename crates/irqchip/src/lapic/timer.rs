//! The local APIC timer (SDM vol 3, 12.5.4). Its clock is 1 GHz like KVM's
//! (`KVM_CAP_X86_APIC_BUS_CYCLES_NS` default of 1 ns): before the divider a
//! tick is a nanosecond.

use crate::Clock;

/// No deadline.
pub(crate) const NEVER: u64 = u64::MAX;

/// Shortest period of a periodic timer in ns, KVM's `min_timer_period_us`: a
/// guest must not make the host busy with ticks.
const MIN_PERIOD_NS: u64 = 200_000;

/// LVT timer mode, bits 18:17.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    OneShot,
    Periodic,
    TscDeadline,
    Reserved,
}

impl Mode {
    pub(super) const fn of_lvt(lvt: u32) -> Self {
        match lvt >> 17 & 3 {
            0 => Self::OneShot,
            1 => Self::Periodic,
            2 => Self::TscDeadline,
            _ => Self::Reserved,
        }
    }

    const fn counts(self) -> bool {
        matches!(self, Self::OneShot | Self::Periodic)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Timer {
    mode: Mode,
    /// Initial count register.
    initial: u32,
    /// Divide configuration register: bits 3, 1, 0.
    divide: u32,
    /// IA32_TSC_DEADLINE; 0 if disarmed.
    tsc_deadline: u64,
    /// When it fires next, in ns.
    deadline: u64,
}

impl Timer {
    pub(super) const fn new() -> Self {
        Self {
            mode: Mode::OneShot,
            initial: 0,
            divide: 0,
            tsc_deadline: 0,
            deadline: NEVER,
        }
    }

    pub(super) const fn deadline(&self) -> u64 {
        self.deadline
    }

    pub(super) const fn initial(&self) -> u32 {
        self.initial
    }

    pub(super) const fn divide(&self) -> u32 {
        self.divide
    }

    pub(super) const fn tsc_deadline(&self) -> u64 {
        self.tsc_deadline
    }

    /// Ticks are this many ns: 000 is 2, 110 is 128, 111 is 1.
    fn divisor(&self) -> u64 {
        let code = self.divide & 3 | self.divide >> 1 & 4;
        1 << ((code + 1) & 7)
    }

    fn period(&self) -> u64 {
        let period = u64::from(self.initial) * self.divisor();
        if self.mode == Mode::Periodic {
            period.max(MIN_PERIOD_NS)
        } else {
            period
        }
    }

    fn disarm(&mut self) {
        self.deadline = NEVER;
        self.tsc_deadline = 0;
    }

    fn start(&mut self, now: u64, ns: u64) {
        self.deadline = if self.initial == 0 || !self.mode.counts() {
            NEVER
        } else {
            now.saturating_add(ns).min(NEVER - 1)
        };
    }

    /// The LVT was written. Between one-shot and periodic the count goes on;
    /// into or out of TSC-deadline mode the timer is disarmed (12.5.4.1).
    pub(super) fn set_mode(&mut self, mode: Mode) {
        if self.mode == mode {
            return;
        }
        if !self.mode.counts() || !mode.counts() {
            self.disarm();
            self.initial = 0;
        }
        self.mode = mode;
    }

    /// Write of the initial count: starts the timer, 0 stops it. Ignored in
    /// TSC-deadline mode (12.5.4.1).
    pub(super) fn set_initial(&mut self, value: u32, now: u64) {
        if self.mode == Mode::TscDeadline {
            return;
        }
        self.initial = value;
        self.start(now, self.period());
    }

    /// Write of the divide configuration: the remaining count is kept and
    /// goes on at the new rate.
    pub(super) fn set_divide(&mut self, value: u32, now: u64) {
        let left = self.current(now);
        self.divide = value & 0xb;
        if self.deadline != NEVER && self.mode.counts() {
            self.start(now, u64::from(left) * self.divisor());
        }
    }

    /// The current count register.
    pub(super) fn current(&self, now: u64) -> u32 {
        if self.deadline == NEVER || !self.mode.counts() {
            return 0;
        }
        let left = self.deadline.saturating_sub(now);
        let count = left.div_ceil(self.divisor());
        u32::try_from(count).unwrap_or(u32::MAX).min(self.initial)
    }

    /// Replaces everything by saved state; a TSC deadline is set afterwards.
    pub(super) fn restore(&mut self, mode: Mode, initial: u32, current: u32, dcr: u32, now: u64) {
        *self = Self::new();
        self.mode = mode;
        self.initial = initial;
        self.divide = dcr & 0xb;
        if current != 0 || mode == Mode::Periodic {
            let count = u64::from(current.min(initial));
            self.start(now, count * self.divisor());
        }
    }

    /// Write of IA32_TSC_DEADLINE: arms, 0 disarms. Ignored in other modes.
    pub(super) fn set_tsc_deadline(&mut self, tsc: u64, clock: &Clock) {
        if self.mode != Mode::TscDeadline {
            return;
        }
        self.tsc_deadline = tsc;
        self.tsc_changed(clock);
    }

    /// The TSC jumped or changed its rate.
    pub(super) fn tsc_changed(&mut self, clock: &Clock) {
        if self.mode == Mode::TscDeadline {
            self.deadline = match self.tsc_deadline {
                0 => NEVER,
                tsc => clock.deadline_of_tsc(tsc),
            };
        }
    }

    /// True if the timer fired; periods that were missed count as one.
    pub(super) fn advance(&mut self, now: u64) -> bool {
        if self.deadline == NEVER || now < self.deadline {
            return false;
        }
        if self.mode == Mode::Periodic {
            let period = self.period();
            let missed = (now - self.deadline) / period;
            let next = self
                .deadline
                .saturating_add(missed * period)
                .saturating_add(period);
            self.deadline = next.min(NEVER - 1);
        } else {
            self.disarm();
        }
        true
    }
}
