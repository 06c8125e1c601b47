//! One counter of the 8254. Nothing ticks: the counting element and OUT are
//! functions of the time since the count was loaded.

/// Input clock in Hz: 14.31818 MHz / 12.
pub(super) const HZ: u64 = 1_193_182;
const NS_PER_S: u64 = 1_000_000_000;

/// Shortest distance of IRQ edges in ticks (200 us, KVM's
/// `min_timer_period_us`): a guest must not make the host busy with ticks.
const MIN_EDGE_TICKS: u64 = 239;

/// Saved state with `kvm_pit_channel_state`'s fields. A `count` of 0 means
/// that none was written yet, a `count_load_time` of `i64::MIN` that a mode 1
/// or 5 counter was never triggered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "names and meaning are kvm_pit_channel_state's")]
pub struct PitChannelState {
    pub count: u32,
    pub latched_count: u16,
    pub count_latched: u8,
    pub status_latched: u8,
    pub status: u8,
    pub read_state: u8,
    pub write_state: u8,
    pub write_latch: u8,
    pub rw_mode: u8,
    pub mode: u8,
    pub bcd: u8,
    pub gate: u8,
    pub count_load_time: i64,
}

/// Access to the counter's bytes; 1..=3 are the RW bits of the control word.
const LOW: u8 = 1;
const HIGH: u8 = 2;
const WORD: u8 = 3;
/// The second byte of a word comes next.
const WORD_HIGH: u8 = 4;

fn ticks_of(ns: u64) -> u64 {
    let (s, rest) = (ns / NS_PER_S, ns % NS_PER_S);
    s * HZ + rest * HZ / NS_PER_S
}

/// The first ns at which `ticks` have passed.
fn ns_of(ticks: u64) -> u64 {
    let (s, rest) = (ticks / HZ, ticks % HZ);
    s.saturating_mul(NS_PER_S)
        .saturating_add((rest * NS_PER_S).div_ceil(HZ))
}

/// The input clock's number at a time.
fn clock_at(ns: u64) -> i64 {
    // At most 2^64 / 838 clocks.
    ticks_of(ns) as i64
}

/// The time of an input clock, saturating at time 0.
fn time_of(clock: i64) -> u64 {
    ns_of(u64::try_from(clock).unwrap_or(0))
}

/// An input clock as a signed time: one before time 0 keeps its distance.
fn signed_time_of(clock: i64) -> i64 {
    let ns = i64::try_from(ns_of(clock.unsigned_abs())).unwrap_or(i64::MAX);
    if clock < 0 { -ns } else { ns }
}

/// The inverse of [`signed_time_of`].
fn clock_at_signed(ns: i64) -> i64 {
    let clock = ticks_of(ns.unsigned_abs()) as i64;
    if ns < 0 { -clock } else { clock }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    /// A control word but no count was written.
    Unloaded,
    /// Modes 1 and 5: waiting for the gate.
    Armed,
    /// Counting since this input clock; it may lie before time 0.
    Counting(i64),
    /// The gate stopped it after so many ticks.
    Paused(u64),
}

/// A count that waits for the end of the present (half-)cycle.
#[derive(Clone, Copy, Debug)]
struct Reload {
    count: u32,
    /// Ticks since the start at which it is loaded.
    at: u64,
    /// How far into the new cycle the counter then is.
    phase: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Channel {
    mode: u8,
    bcd: bool,
    rw_mode: u8,
    gate: bool,
    /// The count in use, 1..=0x10000 (0x10000 or 10000 written as 0).
    count: u32,
    run: Run,
    next: Option<Reload>,

    read_state: u8,
    write_state: u8,
    write_latch: u8,
    /// Bytes of a latched count still to be read, as an access; 0 if none.
    count_latched: u8,
    latched_count: u16,
    status: Option<u8>,
}

impl Channel {
    pub(super) const fn new(gate: bool) -> Self {
        Self {
            mode: 0,
            bcd: false,
            rw_mode: WORD,
            gate,
            count: 0x10000,
            run: Run::Unloaded,
            next: None,
            read_state: WORD,
            write_state: WORD,
            write_latch: 0,
            count_latched: 0,
            latched_count: 0,
            status: None,
        }
    }

    pub(super) const fn gate(&self) -> bool {
        self.gate
    }

    /// Ticks since the count was loaded, while counting or paused.
    fn elapsed(&self, now: u64) -> Option<u64> {
        match self.run {
            Run::Counting(start) => u64::try_from(clock_at(now) - start).ok().or(Some(0)),
            Run::Paused(ticks) => Some(ticks),
            Run::Unloaded | Run::Armed => None,
        }
    }

    /// Takes over a waiting count whose time has come.
    fn settle(&mut self, now: u64) {
        if let (Some(reload), Some(elapsed)) = (self.next, self.elapsed(now))
            && elapsed >= reload.at
            && self.is_periodic()
        {
            self.switch(reload);
        }
    }

    fn switch(&mut self, reload: Reload) {
        if let Run::Counting(start) = self.run {
            self.run = Run::Counting(start + reload.at as i64 - reload.phase as i64);
        }
        self.count = reload.count;
        self.next = None;
    }

    const fn is_periodic(&self) -> bool {
        matches!(self.mode, 2 | 3)
    }

    /// Ticks of OUT high in a cycle of mode 3.
    const fn high_half(count: u32) -> u64 {
        count.div_ceil(2) as u64
    }

    pub(super) fn out(&mut self, now: u64) -> bool {
        self.settle(now);
        let count = u64::from(self.count);
        let Some(ticks) = self.elapsed(now) else {
            // "OUT is initially low" only in mode 0.
            return self.mode != 0;
        };
        match self.mode {
            0 | 1 => ticks >= count,
            2 | 3 if !self.gate => true,
            2 => ticks % count != count - 1,
            3 => ticks % count < Self::high_half(self.count),
            _ => ticks != count,
        }
    }

    /// The counting element as the bus shows it.
    fn element(&mut self, now: u64) -> u16 {
        self.settle(now);
        let count = u64::from(self.count);
        let modulus = if self.bcd { 10_000 } else { 0x10000 };
        let value = match (self.elapsed(now), self.mode) {
            (None, _) => 0,
            (Some(ticks), 2) => count - ticks % count,
            (Some(ticks), 3) => {
                let (phase, high) = (ticks % count, Self::high_half(self.count));
                let into_half = if phase < high { phase } else { phase - high };
                (count & !1).saturating_sub(2 * into_half)
            }
            (Some(ticks), _) => count + modulus - ticks % modulus,
        };
        let value = (value % modulus) as u16;
        if self.bcd { to_bcd(value) } else { value }
    }

    /// A control word other than latch and read-back.
    pub(super) fn program(&mut self, control: u8) {
        self.rw_mode = control >> 4 & 3;
        self.read_state = self.rw_mode;
        self.write_state = self.rw_mode;
        self.mode = match control >> 1 & 7 {
            mode @ 6..=7 => mode - 4,
            mode => mode,
        };
        self.bcd = control & 1 != 0;
        self.run = Run::Unloaded;
        self.next = None;
        self.count_latched = 0;
        self.status = None;
    }

    pub(super) fn latch_count(&mut self, now: u64) {
        if self.count_latched == 0 {
            self.latched_count = self.element(now);
            self.count_latched = self.rw_mode;
        }
    }

    /// Read-back command: count unless bit 5, status unless bit 4.
    pub(super) fn read_back(&mut self, command: u8, now: u64) {
        if command & 0x20 == 0 {
            self.latch_count(now);
        }
        if command & 0x10 == 0 && self.status.is_none() {
            let out = self.out(now);
            // The last count written is not in the counting element yet.
            let null = self.next.is_some() || self.elapsed(now).is_none();
            let status = u8::from(out) << 7
                | u8::from(null) << 6
                | self.rw_mode << 4
                | self.mode << 1
                | u8::from(self.bcd);
            self.status = Some(status);
        }
    }

    pub(super) fn read(&mut self, now: u64) -> u8 {
        if let Some(status) = self.status.take() {
            return status;
        }
        if self.count_latched != 0 {
            let [low, high] = self.latched_count.to_le_bytes();
            let (byte, rest) = match self.count_latched {
                LOW => (low, 0),
                WORD => (low, WORD_HIGH),
                _ => (high, 0),
            };
            self.count_latched = rest;
            return byte;
        }
        let [low, high] = self.element(now).to_le_bytes();
        match self.read_state {
            HIGH => high,
            WORD => {
                self.read_state = WORD_HIGH;
                low
            }
            WORD_HIGH => {
                self.read_state = WORD;
                high
            }
            _ => low,
        }
    }

    pub(super) fn write(&mut self, value: u8, now: u64) {
        match self.write_state {
            HIGH => self.load(u16::from(value) << 8, now),
            WORD => {
                self.write_latch = value;
                self.write_state = WORD_HIGH;
                if self.mode == 0 {
                    // "Writing the first byte disables counting. OUT is set
                    // low immediately."
                    self.run = Run::Unloaded;
                }
            }
            WORD_HIGH => {
                self.write_state = WORD;
                self.load(u16::from_le_bytes([self.write_latch, value]), now);
            }
            _ => self.load(value.into(), now),
        }
    }

    fn load(&mut self, raw: u16, now: u64) {
        self.settle(now);
        let count = match (raw, self.bcd) {
            (0, true) => 10_000,
            (0, false) => 0x10000,
            (raw, true) => from_bcd(raw),
            (raw, false) => raw.into(),
        };
        let begun = matches!(self.run, Run::Counting(_) | Run::Paused(_));
        if begun && !matches!(self.mode, 0 | 4) {
            self.next = Some(self.reload(count, now));
            return;
        }
        self.count = count;
        self.run = match self.mode {
            1 | 5 => Run::Armed,
            _ if self.gate => Run::Counting(clock_at(now)),
            _ => Run::Paused(0),
        };
    }

    /// Where a count written while counting takes over: at the end of the
    /// cycle (mode 2) or half-cycle (mode 3), or at the next trigger.
    fn reload(&self, count: u32, now: u64) -> Reload {
        let cycle = u64::from(self.count);
        let ticks = self.elapsed(now).unwrap_or(0);
        let begin = ticks - ticks % cycle;
        let high = Self::high_half(self.count);
        let (at, phase) = if self.mode == 3 && ticks - begin < high && high < cycle {
            (begin + high, Self::high_half(count))
        } else {
            (begin + cycle, 0)
        };
        Reload { count, at, phase }
    }

    pub(super) fn set_gate(&mut self, level: bool, now: u64) {
        self.settle(now);
        let rose = level && !self.gate;
        let fell = !level && self.gate;
        self.gate = level;
        let triggered = self.mode != 0 && self.mode != 4;
        self.run = match self.run {
            Run::Armed | Run::Counting(_) | Run::Paused(_) if rose && triggered => {
                if let Some(reload) = self.next.take() {
                    self.count = reload.count;
                }
                Run::Counting(clock_at(now))
            }
            Run::Paused(ticks) if rose => Run::Counting(clock_at(now) - ticks as i64),
            Run::Counting(_) if fell && !matches!(self.mode, 1 | 5) => {
                Run::Paused(self.elapsed(now).unwrap_or(0))
            }
            run => run,
        };
    }

    /// Ticks between reported edges of a periodic mode.
    fn edge_ticks(&self) -> u64 {
        let cycle = u64::from(self.count);
        cycle * MIN_EDGE_TICKS.div_ceil(cycle)
    }

    /// Tick of the only rising edge of the other modes.
    fn only_edge(&self) -> u64 {
        let strobe = u64::from(matches!(self.mode, 4 | 5));
        u64::from(self.count) + strobe
    }

    /// Rising edges of OUT in `(from, to]`. Edges of a cycle shorter than
    /// [`MIN_EDGE_TICKS`] are merged.
    pub(super) fn edges(&mut self, from: u64, to: u64) -> u64 {
        let mut edges = 0;
        let mut from = from;
        if let (Some(reload), Run::Counting(start)) = (self.next, self.run)
            && self.is_periodic()
            && self.elapsed(to).is_some_and(|ticks| ticks >= reload.at)
        {
            let at = time_of(start + reload.at as i64).clamp(from, to);
            edges = self.edges_of_count(from, at);
            self.switch(reload);
            from = at;
        }
        edges + self.edges_of_count(from, to)
    }

    fn edges_of_count(&self, from: u64, to: u64) -> u64 {
        let Run::Counting(_) = self.run else { return 0 };
        let (Some(before), Some(now)) = (self.elapsed(from), self.elapsed(to)) else {
            return 0;
        };
        if self.is_periodic() {
            (now / self.edge_ticks()).saturating_sub(before / self.edge_ticks())
        } else {
            u64::from(before < self.only_edge() && now >= self.only_edge())
        }
    }

    /// The first rising edge of OUT after `from`, in ns.
    pub(super) fn next_edge(&self, from: u64) -> Option<u64> {
        let Run::Counting(start) = self.run else {
            return None;
        };
        let ticks = self.elapsed(from)?;
        let edge = if self.is_periodic() {
            (ticks / self.edge_ticks() + 1) * self.edge_ticks()
        } else if ticks < self.only_edge() {
            self.only_edge()
        } else {
            return None;
        };
        if let Some(reload) = self.next.filter(|_| self.is_periodic())
            && edge > reload.at
        {
            let mut after = self.clone();
            after.switch(reload);
            return after.next_edge(from);
        }
        Some(time_of(start + edge as i64))
    }

    pub(super) fn state(&mut self, now: u64) -> PitChannelState {
        self.settle(now);
        PitChannelState {
            count: match self.run {
                Run::Unloaded => 0,
                _ => self.count,
            },
            latched_count: self.latched_count,
            count_latched: self.count_latched,
            status_latched: self.status.is_some().into(),
            status: self.status.unwrap_or(0),
            read_state: self.read_state,
            write_state: self.write_state,
            write_latch: self.write_latch,
            rw_mode: self.rw_mode,
            mode: self.mode,
            bcd: self.bcd.into(),
            gate: self.gate.into(),
            count_load_time: match self.run {
                Run::Unloaded => 0,
                Run::Armed => i64::MIN,
                Run::Counting(start) => signed_time_of(start),
                Run::Paused(ticks) => signed_time_of(clock_at(now) - ticks as i64),
            },
        }
    }

    pub(super) fn set_state(&mut self, s: &PitChannelState, now: u64) {
        let access = |state: u8| {
            if (LOW..=WORD_HIGH).contains(&state) {
                state
            } else {
                WORD
            }
        };
        let gate = s.gate != 0;
        *self = Self {
            // KVM's power-up mode of 0xff is no mode.
            mode: if s.mode > 5 { 0 } else { s.mode },
            bcd: s.bcd != 0,
            rw_mode: access(s.rw_mode & 3),
            gate,
            count: s.count.clamp(1, 0x10000),
            run: Run::Unloaded,
            next: None,
            read_state: access(s.read_state),
            write_state: access(s.write_state),
            write_latch: s.write_latch,
            count_latched: if s.count_latched > WORD_HIGH {
                0
            } else {
                s.count_latched
            },
            latched_count: s.latched_count,
            status: (s.status_latched != 0).then_some(s.status),
        };
        if s.count == 0 || s.mode > 5 {
            return;
        }
        self.run = match (s.count_load_time, self.mode) {
            (i64::MIN, 1 | 5) => Run::Armed,
            (start, _) => Run::Counting(clock_at_signed(start).min(clock_at(now))),
        };
        if !gate && !matches!(self.mode, 1 | 5) {
            self.run = Run::Paused(self.elapsed(now).unwrap_or(0));
        }
    }
}

fn from_bcd(raw: u16) -> u32 {
    (0..4).fold(0, |n, digit| {
        n * 10 + u32::from(raw >> (12 - 4 * digit) & 0xf)
    })
}

fn to_bcd(value: u16) -> u16 {
    let digits = [
        value / 1000 % 10,
        value / 100 % 10,
        value / 10 % 10,
        value % 10,
    ];
    digits.iter().fold(0, |raw, digit| raw << 4 | digit)
}
