//! ACPI fixed hardware: PM1a event and control blocks, PM timer, GPE0 (ACPI
//! specification 6.5, section 4.8). Port layout as QEMU's PIIX4 and ICH9: one
//! block of 12 ports with PM1_EVT at 0, PM1_CNT at 4, PM_TMR at 8. GPE0 is
//! somewhere else on each.

mod saved;

use crate::timed::{Timed, Waker};
use crate::{Clock, Effect, IrqLine, PortDevice, PowerButton};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Base port of the PM block and its length.
pub const PM_BASE: u16 = 0x600;
/// Ports of the PM block.
pub const PM_LEN: u16 = 12;
/// Where GPE0's registers are: half of them status, half enable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gpe0Ports {
    /// First port.
    pub base: u16,
    /// Number of ports: even, at most 16.
    pub len: u16,
}

/// GPE0 of PIIX4.
pub const PIIX4_GPE0: Gpe0Ports = Gpe0Ports {
    base: 0xafe0,
    len: 4,
};
/// GPE0 of ICH9.
pub const ICH9_GPE0: Gpe0Ports = Gpe0Ports {
    base: PM_BASE + 0x20,
    len: 16,
};
/// PM timer frequency in Hz (4.8.3.3).
pub const TIMER_HZ: u64 = 3_579_545;
/// SLP_TYP value of S5, as the DSDT's `_S5` package must say.
pub const SLP_TYP_S5: u8 = 0;

mod pm1 {
    pub const TMR: u16 = 1 << 0;
    pub const PWRBTN: u16 = 1 << 8;
    /// Status bits a guest can clear: TMR, BM, GBL, PWRBTN, SLPBTN, RTC, WAK.
    pub const STATUS: u16 = 0x8731;
    /// Events that raise the SCI.
    pub const ENABLE: u16 = 0x0721;
    pub const SCI_EN: u16 = 1 << 0;
    pub const SLP_TYP_SHIFT: u32 = 10;
    pub const SLP_EN: u16 = 1 << 13;
}

/// The registers. Times are ns on a clock that started when the machine did.
#[derive(Clone, Debug, Default)]
pub struct PmCore {
    status: u16,
    enable: u16,
    control: u16,
    /// Timer count whose top bit was last accounted for in TMR_STS.
    seen: u64,
    gpe_status: u64,
    gpe_enable: u64,
}

/// Timer ticks since the clock's start.
fn ticks(now_ns: u64) -> u64 {
    (u128::from(now_ns) * u128::from(TIMER_HZ) / 1_000_000_000) as u64
}

/// The first moment at which the timer shows `count`.
fn ns_of_tick(count: u64) -> u64 {
    (u128::from(count) * 1_000_000_000).div_ceil(u128::from(TIMER_HZ)) as u64
}

/// TMR_STS is set whenever bit 23 of the timer changes.
const HALF_PERIOD: u64 = 1 << 23;

impl PmCore {
    /// State after reset with SCI routing on: the machine has no legacy
    /// (SMM) mode to leave.
    pub fn new() -> Self {
        Self {
            control: pm1::SCI_EN,
            ..Self::default()
        }
    }

    /// Level of the SCI.
    pub fn sci(&self) -> bool {
        self.control & pm1::SCI_EN != 0
            && (self.status & self.enable & pm1::ENABLE != 0
                || self.gpe_status & self.gpe_enable != 0)
    }

    /// The power button was pressed.
    pub fn press_power_button(&mut self) {
        self.status |= pm1::PWRBTN;
    }

    /// A general-purpose event (0..=63) happened.
    pub fn raise_gpe(&mut self, number: u8) {
        self.gpe_status |= 1u64.checked_shl(number.into()).unwrap_or(0);
    }

    /// Accounts for timer carries up to `now_ns`; returns when the next one
    /// must be accounted for, if the guest wants to hear of it.
    pub fn run_due(&mut self, now_ns: u64) -> Option<u64> {
        let count = ticks(now_ns);
        if count / HALF_PERIOD != self.seen / HALF_PERIOD {
            self.status |= pm1::TMR;
        }
        self.seen = count;
        let wanted = self.enable & pm1::TMR != 0 && self.status & pm1::TMR == 0;
        wanted.then(|| ns_of_tick((count / HALF_PERIOD + 1) * HALF_PERIOD))
    }

    /// Reads one byte of the PM block.
    pub fn read(&mut self, offset: u16, now_ns: u64) -> u8 {
        self.run_due(now_ns);
        let byte = |value: u16| value.to_le_bytes()[usize::from(offset & 1)];
        match offset {
            0 | 1 => byte(self.status),
            2 | 3 => byte(self.enable),
            4 | 5 => byte(self.control),
            8..=11 => (ticks(now_ns) as u32 & 0x00ff_ffff).to_le_bytes()[usize::from(offset - 8)],
            _ => 0,
        }
    }

    /// Writes one byte of the PM block.
    pub fn write(&mut self, offset: u16, value: u8, now_ns: u64) -> Option<Effect> {
        self.run_due(now_ns);
        let shift = u32::from(offset & 1) * 8;
        let wide = u16::from(value) << shift;
        let keep = !(0xff << shift);
        match offset {
            0 | 1 => self.status &= !(wide & pm1::STATUS),
            2 | 3 => self.enable = self.enable & keep | wide & pm1::ENABLE,
            4 | 5 => {
                let control = self.control & keep | wide;
                self.control = control & !pm1::SLP_EN;
                // Sleep types other than S5 do not exist here.
                let slp_typ = (control >> pm1::SLP_TYP_SHIFT) as u8 & 7;
                let sleep = wide & pm1::SLP_EN != 0;
                return (sleep && slp_typ == SLP_TYP_S5).then_some(Effect::PowerOff);
            }
            _ => {}
        }
        None
    }

    /// Reads one byte of the events' status, or enable, registers.
    pub fn read_gpe(&self, register: GpeRegister, byte: u16) -> u8 {
        let bits = match register {
            GpeRegister::Status => self.gpe_status,
            GpeRegister::Enable => self.gpe_enable,
        };
        bits.to_le_bytes()
            .get(usize::from(byte))
            .copied()
            .unwrap_or(0)
    }

    /// Writes one byte of them; status bits clear where written 1.
    pub fn write_gpe(&mut self, register: GpeRegister, byte: u16, value: u8) {
        let shift = u32::from(byte) * 8;
        let at = |bits: u64| bits.checked_shl(shift).unwrap_or(0);
        match register {
            GpeRegister::Status => self.gpe_status &= !at(value.into()),
            GpeRegister::Enable => {
                self.gpe_enable = self.gpe_enable & !at(0xff) | at(value.into());
            }
        }
    }
}

/// Halves of GPE0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GpeRegister {
    /// What happened.
    Status,
    /// What raises the SCI.
    Enable,
}

/// The PM block on a bus.
pub struct AcpiPm {
    /// Registers and the SCI level last driven; see
    /// [`crate::uart::SerialPort`] for the lock order.
    state: Mutex<(PmCore, bool)>,
    sci: Arc<dyn IrqLine>,
    clock: Arc<dyn Clock>,
    /// What the timer is ahead of the clock, in ns: after a saved state was
    /// restored it goes on from there. Changed under the lock of `state`.
    ahead_ns: AtomicU64,
    waker: Waker,
}

impl AcpiPm {
    /// The block after reset.
    pub fn new(sci: Arc<dyn IrqLine>, clock: Arc<dyn Clock>, waker: Waker) -> Self {
        Self {
            state: Mutex::new((PmCore::new(), false)),
            sci,
            clock,
            ahead_ns: AtomicU64::new(0),
            waker,
        }
    }

    /// A general-purpose event happened.
    pub fn raise_event(&self, number: u8) {
        self.with(|pm, _| pm.raise_gpe(number));
    }

    /// Time of the timer.
    fn timer_ns(&self) -> u64 {
        let ahead = self.ahead_ns.load(Ordering::Relaxed);
        self.clock.monotonic_ns().wrapping_add(ahead)
    }

    fn set_timer_ns(&self, ns: u64) {
        let ahead = ns.wrapping_sub(self.clock.monotonic_ns());
        self.ahead_ns.store(ahead, Ordering::Relaxed);
    }

    fn with<R>(&self, act: impl FnOnce(&mut PmCore, u64) -> R) -> R {
        let mut state = self.state.lock();
        let (pm, level) = &mut *state;
        let result = act(pm, self.timer_ns());
        let now = pm.sci();
        if now != *level {
            *level = now;
            self.sci.set_level(now);
        }
        result
    }
}

impl PowerButton for AcpiPm {
    fn press_power_button(&self) {
        self.with(|pm, _| pm.press_power_button());
    }
}

impl Timed for AcpiPm {
    fn run_due(&self) -> Option<u64> {
        let due = self.with(PmCore::run_due)?;
        Some(due.wrapping_sub(self.ahead_ns.load(Ordering::Relaxed)))
    }
}

/// Joins the bytes that `get` delivers for consecutive offsets.
fn join(offset: u16, size: u8, mut get: impl FnMut(u16) -> u8) -> u32 {
    (0..size).fold(0, |v, i| {
        v | u32::from(get(offset + u16::from(i))) << (8 * i)
    })
}

impl PortDevice for AcpiPm {
    fn max_width(&self) -> u8 {
        4
    }
    fn read(&self, offset: u16, size: u8) -> u32 {
        self.with(|pm, now| join(offset, size, |o| pm.read(o, now)))
    }
    fn write(&self, offset: u16, size: u8, value: u32) -> Option<Effect> {
        let effect = self.with(|pm, now| {
            (0..size).fold(None, |effect, i| {
                let done = pm.write(offset + u16::from(i), (value >> (8 * i)) as u8, now);
                effect.or(done)
            })
        });
        self.waker.wake();
        effect
    }
}

/// The GPE0 block of the same chip on a bus.
pub struct Gpe0 {
    pm: Arc<AcpiPm>,
    ports: Gpe0Ports,
}

impl Gpe0 {
    /// The block at `ports`.
    pub fn new(pm: Arc<AcpiPm>, ports: Gpe0Ports) -> Self {
        Self { pm, ports }
    }

    /// The register a port belongs to, and which byte of it.
    fn place(&self, offset: u16) -> (GpeRegister, u16) {
        let half = self.ports.len / 2;
        match offset.checked_sub(half) {
            None => (GpeRegister::Status, offset),
            Some(byte) => (GpeRegister::Enable, byte),
        }
    }
}

impl PortDevice for Gpe0 {
    fn read(&self, offset: u16, _size: u8) -> u32 {
        let (register, byte) = self.place(offset);
        self.pm.with(|pm, _| pm.read_gpe(register, byte)).into()
    }
    fn write(&self, offset: u16, _size: u8, value: u32) -> Option<Effect> {
        let (register, byte) = self.place(offset);
        self.pm
            .with(|pm, _| pm.write_gpe(register, byte, value as u8));
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timer_counts_3_579545_mhz_in_24_bits() {
        let mut pm = PmCore::new();
        let read = |pm: &mut PmCore, ns| join(8, 4, |o| pm.read(o, ns));
        assert_eq!(read(&mut pm, 0), 0);
        assert_eq!(read(&mut pm, 1_000_000_000), 3_579_545);
        // 2^24 ticks are 4.686... s.
        assert_eq!(read(&mut pm, 5_000_000_000), 5 * 3_579_545 - (1 << 24));
    }

    #[test]
    fn timer_status_follows_bit_23() {
        let mut pm = PmCore::new();
        pm.write(2, 1, 0);
        // Bit 23 changes first after 2^23 ticks: 2.343_484_... s.
        let due = pm.run_due(0).unwrap();
        assert_eq!(due, 2_343_484_438);
        pm.run_due(due - 1);
        assert!(!pm.sci());
        pm.run_due(due);
        assert!(pm.sci());
        assert_eq!(pm.read(0, due), 1);
        assert_eq!(pm.run_due(due), None);
        pm.write(0, 1, due);
        assert!(!pm.sci());
        assert_eq!(pm.run_due(due), Some(4_686_968_875));
    }

    #[test]
    fn s5_powers_off() {
        let mut pm = PmCore::new();
        assert_eq!(pm.read(4, 0), 1);
        assert_eq!(pm.write(5, 0x00, 0), None);
        assert_eq!(pm.write(5, 0x24, 0), None); // SLP_TYP 1: no such state
        assert_eq!(pm.write(5, 0x20, 0), Some(Effect::PowerOff));
        assert_eq!(pm.read(5, 0) & 0x20, 0);
    }

    #[test]
    fn power_button_raises_the_sci_when_enabled() {
        let mut pm = PmCore::new();
        pm.press_power_button();
        assert!(!pm.sci());
        pm.write(3, 1, 0);
        assert!(pm.sci());
        pm.write(1, 1, 0);
        assert!(!pm.sci());
    }

    #[test]
    fn gpe_status_clears_where_written_one() {
        let mut pm = PmCore::new();
        pm.raise_gpe(9);
        pm.raise_gpe(200);
        assert!(!pm.sci());
        pm.write_gpe(GpeRegister::Enable, 1, 0x02);
        assert!(pm.sci());
        let status = |pm: &PmCore| [0, 1].map(|b| pm.read_gpe(GpeRegister::Status, b));
        assert_eq!(status(&pm), [0, 2]);
        pm.write_gpe(GpeRegister::Status, 1, 0x02);
        assert!(!pm.sci());
        pm.write_gpe(GpeRegister::Status, u16::MAX, 0xff);
        assert_eq!(pm.read_gpe(GpeRegister::Enable, u16::MAX), 0);
    }

    #[test]
    fn the_halves_of_gpe0_lie_where_its_length_says() {
        let clock = Arc::new(crate::ManualClock::at(0));
        let pm = AcpiPm::new(Arc::new(crate::NoIrq), clock, Waker::default());
        let pm = Arc::new(pm);
        for ports in [PIIX4_GPE0, ICH9_GPE0] {
            let gpe = Gpe0::new(pm.clone(), ports);
            gpe.write(ports.len / 2, 1, 0x42);
            let read: Vec<u32> = (0..ports.len).map(|o| gpe.read(o, 1)).collect();
            let mut expected = vec![0; ports.len.into()];
            expected[usize::from(ports.len / 2)] = 0x42;
            assert_eq!(read, expected);
        }
    }
}
