//! The local APIC (SDM vol 3, chapter 12; 10 in older editions), in xAPIC and
//! x2APIC mode.
//!
//! A local APIC does not reach beyond itself: a register write that concerns
//! others returns an [`Effect`]. It keeps the highest deliverable vector
//! cached, so [`Lapic::pending`] is a load.

mod base;
mod page;
mod registers;
mod timer;

use crate::Clock;
use crate::message::{Delivery, Destination, Message};
use crate::vectors::Vectors;
use timer::{Mode, Timer};

pub use page::LAPIC_PAGE;
pub(crate) use timer::NEVER;

/// An access that raises #GP(0): no such MSR, wrong direction, reserved bits
/// or an illegal transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsrFault;

/// What a register write asks the rest of the machine to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Effect {
    /// Nothing.
    None,
    /// Send this message; `Destination::Only(SELF)` and `AllBut(SELF)` name
    /// the sender.
    Send(Message),
    /// An interrupt ended: tell the I/O APIC, by a broadcast if `broadcast`.
    Eoi {
        /// The vector.
        vector: u8,
        /// It was level-triggered and the broadcast is not suppressed.
        broadcast: bool,
    },
}

/// Stands for the sender in an [`Effect::Send`].
pub(crate) const SELF: usize = usize::MAX;

const LVT_COUNT: usize = 7;
const LVT_TIMER: usize = 0;
const LVT_PERF: usize = 2;
const LVT_LINT0: usize = 3;
const LVT_LINT1: usize = 4;
const LVT_ERROR: usize = 5;

const LVT_MASKED: u32 = 1 << 16;
/// Read-only bits of an LVT register: delivery status and remote IRR.
const LVT_READ_ONLY: u32 = 1 << 12 | 1 << 14;
const LVT_REMOTE_IRR: u32 = 1 << 14;
const LVT_LEVEL: u32 = 1 << 15;
/// Writable bits: timer, thermal, performance, LINT0, LINT1, error, CMCI
/// (SDM vol 3, figure 12-8).
const LVT_WRITABLE: [u32; LVT_COUNT] = [
    0x0007_00ff,
    0x0001_07ff,
    0x0001_07ff,
    0x0001_a7ff,
    0x0001_a7ff,
    0x0001_00ff,
    0x0001_07ff,
];

const SVR_ENABLE: u32 = 1 << 8;
const SVR_NO_EOI_BROADCAST: u32 = 1 << 12;
/// Vector, enable, focus checking (which does nothing, but 32-bit kernels set
/// it in either mode) and EOI-broadcast suppression.
const SVR_WRITABLE: u32 = 0xff | SVR_ENABLE | 1 << 9 | SVR_NO_EOI_BROADCAST;

const ESR_SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
const ESR_RECEIVE_ILLEGAL_VECTOR: u32 = 1 << 6;
const ESR_ILLEGAL_REGISTER: u32 = 1 << 7;

/// IA32_APIC_BASE bits.
const BASE_BSP: u64 = 1 << 8;
const BASE_X2APIC: u64 = 1 << 10;
const BASE_ENABLE: u64 = 1 << 11;
const BASE_DEFAULT: u64 = 0xfee0_0000;

/// One local APIC.
#[derive(Clone, Debug)]
pub struct Lapic {
    id: u32,
    bsp: bool,
    phys_bits: u8,

    apic_base: u64,
    tpr: u8,
    /// Logical destination register in xAPIC mode.
    ldr: u32,
    dfr: u32,
    svr: u32,
    isr: Vectors,
    tmr: Vectors,
    irr: Vectors,
    esr: u32,
    /// Errors since the last write to the ESR.
    errors: u32,
    icr: u64,
    lvt: [u32; LVT_COUNT],
    timer: Timer,
    /// Levels of LINT0 and LINT1, bits 0 and 1.
    pins: u8,

    nmi: bool,
    init: bool,
    sipi: Option<u8>,

    /// Highest deliverable vector, 0 for none.
    pending: u8,
    /// `pending`, NMI, INIT or SIPI rose since last asked.
    attention: bool,
}

impl Lapic {
    /// A local APIC after power-up. `phys_bits` is the guest's MAXPHYADDR.
    pub fn new(id: u32, bsp: bool, phys_bits: u8) -> Self {
        let mut lapic = Self {
            id,
            bsp,
            phys_bits: phys_bits.clamp(32, 52),
            apic_base: 0,
            tpr: 0,
            ldr: 0,
            dfr: 0,
            svr: 0,
            isr: Vectors::default(),
            tmr: Vectors::default(),
            irr: Vectors::default(),
            esr: 0,
            errors: 0,
            icr: 0,
            lvt: [0; LVT_COUNT],
            timer: Timer::new(),
            pins: 0,
            nmi: false,
            init: false,
            sipi: None,
            pending: 0,
            attention: false,
        };
        lapic.reset();
        lapic
    }

    /// Power-up or RESET: xAPIC mode at the default base, disabled by SVR.
    /// Like KVM, the BSP's LINT0 is already ExtINT, as firmware would leave
    /// it, so that a kernel booted directly gets the 8259s' interrupts.
    pub fn reset(&mut self) {
        self.apic_base = BASE_DEFAULT | BASE_ENABLE | if self.bsp { BASE_BSP } else { 0 };
        self.nmi = false;
        self.init = false;
        self.sipi = None;
        self.reset_registers();
    }

    /// INIT: everything but the APIC id, IA32_APIC_BASE and thereby the mode
    /// (SDM vol 3, 12.4.7.3). A pending SIPI stays: it came after the INIT.
    pub fn init_reset(&mut self) {
        self.nmi = false;
        self.reset_registers();
    }

    fn reset_registers(&mut self) {
        self.tpr = 0;
        self.ldr = 0;
        self.dfr = u32::MAX;
        self.svr = 0xff;
        self.isr = Vectors::default();
        self.tmr = Vectors::default();
        self.irr = Vectors::default();
        self.esr = 0;
        self.errors = 0;
        self.icr = 0;
        self.lvt = [LVT_MASKED; LVT_COUNT];
        if self.bsp {
            self.lvt[LVT_LINT0] = 0x700;
        }
        self.timer = Timer::new();
        self.refresh();
    }

    /// APIC id: 32 bits in x2APIC mode; in xAPIC mode the guest sees the low 8.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The highest vector that the vCPU should take now, if any: its priority
    /// class is above the PPR's.
    pub fn pending(&self) -> Option<u8> {
        (self.pending != 0).then_some(self.pending)
    }

    /// Takes the pending vector: it moves from IRR to ISR.
    pub fn ack(&mut self) -> Option<u8> {
        let vector = self.pending()?;
        self.irr.remove(vector);
        self.isr.insert(vector);
        self.refresh();
        Some(vector)
    }

    /// Takes a pending NMI.
    pub fn take_nmi(&mut self) -> bool {
        std::mem::take(&mut self.nmi)
    }

    /// Takes a pending INIT and does what it does to the local APIC.
    pub fn take_init(&mut self) -> bool {
        let init = std::mem::take(&mut self.init);
        if init {
            self.init_reset();
        }
        init
    }

    /// Takes a pending startup IPI: the page number of the start address.
    pub fn take_sipi(&mut self) -> Option<u8> {
        self.sipi.take()
    }

    /// True if there is an NMI, INIT or SIPI to take.
    pub fn has_event(&self) -> bool {
        self.nmi || self.init || self.sipi.is_some()
    }

    /// An NMI waits to be taken.
    pub fn nmi_pending(&self) -> bool {
        self.nmi
    }

    /// An INIT waits to be taken.
    pub fn init_pending(&self) -> bool {
        self.init
    }

    /// The startup IPI that waits to be taken.
    pub fn sipi_pending(&self) -> Option<u8> {
        self.sipi
    }

    /// Replaces the pending events by saved ones.
    pub fn restore_events(&mut self, nmi: bool, init: bool, sipi: Option<u8>) {
        (self.nmi, self.init, self.sipi) = (nmi, init, sipi);
        self.attention |= self.has_event();
    }

    /// True once after `pending` or an event rose.
    pub fn take_attention(&mut self) -> bool {
        std::mem::take(&mut self.attention)
    }

    /// Latches an NMI.
    pub fn raise_nmi(&mut self) {
        self.nmi = true;
        self.attention = true;
    }

    /// Processor priority (SDM vol 3, 12.8.3.1).
    pub fn ppr(&self) -> u8 {
        let serving = self.isr.highest();
        if self.tpr >> 4 >= serving >> 4 {
            self.tpr
        } else {
            serving & 0xf0
        }
    }

    /// CR8: the task priority class.
    pub fn cr8(&self) -> u64 {
        u64::from(self.tpr >> 4)
    }

    /// Writes CR8; the caller has checked bits 63:4.
    pub fn set_cr8(&mut self, value: u64) {
        self.tpr = (value as u8 & 0xf) << 4;
        self.refresh();
    }

    /// True if LINT0 passes the 8259s' interrupts to the vCPU: as virtual
    /// wire, or because the local APIC is off and the BSP's pin is INTR.
    pub fn accepts_extint(&self) -> bool {
        let lvt = self.lvt[LVT_LINT0];
        let virtual_wire = lvt & (LVT_MASKED | 0x700) == 0x700;
        if self.is_enabled() {
            virtual_wire
        } else {
            self.bsp
        }
    }

    /// True if the message addresses this local APIC, at index `cpu`.
    pub fn is_addressed(&self, cpu: usize, destination: Destination) -> bool {
        if !self.is_enabled() {
            return false;
        }
        match destination {
            Destination::All => true,
            Destination::AllBut(other) => cpu != other,
            Destination::Only(only) => cpu == only,
            // All 32 bits also in xAPIC mode: an AP with an id above 254 has to
            // hear the INIT and SIPI that take it to x2APIC mode.
            Destination::Physical(id) => id == self.id,
            Destination::Logical(mda) => self.matches_logical(mda),
        }
    }

    /// SDM vol 3, 12.6.2.2 and 12.12.10.2.
    fn matches_logical(&self, mda: u32) -> bool {
        let ldr = self.logical_id();
        if self.is_x2apic() {
            return ldr >> 16 == mda >> 16 && ldr & mda & 0xffff != 0;
        }
        let ldr = ldr >> 24;
        match (mda, self.dfr >> 28) {
            (0x100.., _) => false,
            (_, 0xf) => ldr & mda != 0,
            (_, 0) => ldr >> 4 == mda >> 4 && ldr & mda & 0xf != 0,
            _ => false,
        }
    }

    fn logical_id(&self) -> u32 {
        if self.is_x2apic() {
            (self.id >> 4) << 16 | 1 << (self.id & 0xf)
        } else {
            self.ldr
        }
    }

    /// True if fixed and lowest-priority messages are taken (SDM vol 3,
    /// 12.4.7.2: a software-disabled local APIC takes only the others).
    pub fn is_software_enabled(&self) -> bool {
        self.svr & SVR_ENABLE != 0
    }

    /// Takes a message addressed to this local APIC. False if it does not
    /// accept it.
    pub fn accept(&mut self, message: &Message) -> bool {
        match message.delivery {
            Delivery::Fixed | Delivery::LowestPriority => {
                return self.is_software_enabled()
                    && self.accept_vector(message.vector, message.level);
            }
            Delivery::Nmi => self.nmi = true,
            Delivery::Init if message.assert => {
                self.init = true;
                self.sipi = None;
            }
            // The level de-assert only synchronised arbitration ids.
            Delivery::Init => return true,
            Delivery::Startup => self.sipi = Some(message.vector),
            Delivery::Smi | Delivery::Reserved | Delivery::ExtInt => return false,
        }
        self.attention = true;
        true
    }

    fn accept_vector(&mut self, vector: u8, level: bool) -> bool {
        if vector < 16 {
            self.error(ESR_RECEIVE_ILLEGAL_VECTOR);
            return false;
        }
        self.tmr.assign(vector, level);
        self.irr.insert(vector);
        self.refresh();
        true
    }

    fn error(&mut self, bit: u32) {
        self.errors |= bit;
        let lvt = self.lvt[LVT_ERROR];
        if lvt & LVT_MASKED != 0 {
            return;
        }
        if (lvt as u8) < 16 {
            // Reported once, without an error about the error.
            self.errors |= ESR_RECEIVE_ILLEGAL_VECTOR;
            return;
        }
        self.accept_vector(lvt as u8, false);
    }

    /// A local source fires.
    fn fire(&mut self, source: usize, level: bool) {
        let lvt = self.lvt[source];
        if lvt & LVT_MASKED != 0 {
            return;
        }
        // Timer and error have no delivery mode: fixed.
        match Delivery::from_bits(lvt >> 8) {
            Delivery::Fixed => {
                self.accept_vector(lvt as u8, level);
            }
            Delivery::Nmi => self.raise_nmi(),
            Delivery::Init => {
                self.init = true;
                self.sipi = None;
                self.attention = true;
            }
            // ExtINT is asked for with `accepts_extint`.
            _ => {}
        }
    }

    /// Drives LINT0 (0) or LINT1 (1); other pins are ignored. The 8259s do not
    /// come this way.
    pub fn set_lint(&mut self, pin: u8, level: bool) {
        let source = match pin {
            0 => LVT_LINT0,
            1 => LVT_LINT1,
            _ => return,
        };
        let bit = 1 << pin;
        let rose = level && self.pins & bit == 0;
        self.pins = if level {
            self.pins | bit
        } else {
            self.pins & !bit
        };
        if !self.is_enabled() {
            // The pins are then INTR and NMI (SDM vol 3, 12.4.3).
            if pin == 1 && rose {
                self.raise_nmi();
            }
        } else if self.lvt[source] & (LVT_LEVEL | 0x700) == LVT_LEVEL && pin == 0 {
            self.level_lint(source);
        } else if rose {
            self.fire(source, false);
        }
    }

    /// A level-sensitive fixed LINT0: remote IRR holds it until EOI.
    fn level_lint(&mut self, source: usize) {
        let lvt = self.lvt[source];
        if self.pins & 1 != 0 && lvt & (LVT_MASKED | LVT_REMOTE_IRR) == 0 {
            self.lvt[source] |= LVT_REMOTE_IRR;
            self.fire(source, true);
        }
    }

    /// The performance counters overflowed; the LVT entry masks itself.
    pub fn fire_perf(&mut self) {
        self.fire(LVT_PERF, false);
        self.lvt[LVT_PERF] |= LVT_MASKED;
    }

    fn eoi(&mut self) -> Effect {
        let vector = self.isr.highest();
        if vector == 0 {
            return Effect::None;
        }
        self.isr.remove(vector);
        self.refresh();
        let level = self.tmr.contains(vector);
        if level && self.lvt[LVT_LINT0] as u8 == vector {
            self.lvt[LVT_LINT0] &= !LVT_REMOTE_IRR;
            self.level_lint(LVT_LINT0);
        }
        Effect::Eoi {
            vector,
            broadcast: level && self.svr & SVR_NO_EOI_BROADCAST == 0,
        }
    }

    /// Recomputes `pending` after IRR, ISR, TPR or the enable bit changed.
    fn refresh(&mut self) {
        let requested = self.irr.highest();
        let deliverable = requested >> 4 > self.ppr() >> 4 && self.is_enabled();
        let pending = if deliverable { requested } else { 0 };
        self.attention |= pending > self.pending;
        self.pending = pending;
    }

    /// When the timer fires next, in ns; `None` if it is not armed.
    pub fn deadline(&self) -> Option<u64> {
        let deadline = self.timer.deadline();
        (deadline != NEVER).then_some(deadline)
    }

    /// Fires the timer if its time has come.
    pub fn advance(&mut self, now_ns: u64) {
        if self.timer.advance(now_ns) {
            self.fire(LVT_TIMER, false);
        }
    }

    /// IA32_TSC_DEADLINE.
    pub fn tsc_deadline(&self) -> u64 {
        self.timer.tsc_deadline()
    }

    /// Writes IA32_TSC_DEADLINE; ignored unless the timer is in that mode.
    pub fn set_tsc_deadline(&mut self, tsc: u64, clock: &Clock) {
        if self.is_enabled() {
            self.timer.set_tsc_deadline(tsc, clock);
        }
    }

    /// The guest's TSC was written, so its deadline is at another time.
    pub fn tsc_changed(&mut self, clock: &Clock) {
        self.timer.tsc_changed(clock);
    }

    fn write_lvt(&mut self, index: usize, value: u32) {
        let mut lvt = value & LVT_WRITABLE[index] | self.lvt[index] & LVT_REMOTE_IRR;
        if !self.is_software_enabled() {
            lvt |= LVT_MASKED;
        }
        self.lvt[index] = lvt;
        if index == LVT_TIMER {
            self.timer.set_mode(Mode::of_lvt(lvt));
        }
        if index == LVT_LINT0 {
            if lvt & LVT_LEVEL == 0 {
                self.lvt[index] &= !LVT_REMOTE_IRR;
            } else if lvt & 0x700 == 0 {
                self.level_lint(index);
            }
        }
    }

    fn write_svr(&mut self, value: u32) {
        self.svr = value & SVR_WRITABLE;
        if !self.is_software_enabled() {
            for lvt in &mut self.lvt {
                *lvt |= LVT_MASKED;
            }
        }
    }

    fn write_esr(&mut self) {
        self.esr = std::mem::take(&mut self.errors);
    }

    /// Sends what the ICR value says (SDM vol 3, 12.6.1).
    fn write_icr(&mut self, icr: u64) -> Effect {
        // Bit 12, delivery status, is always idle.
        self.icr = icr & !(1 << 12);
        self.ipi(icr)
    }

    fn ipi(&mut self, icr: u64) -> Effect {
        let delivery = Delivery::from_bits(icr as u32 >> 8);
        let vector = icr as u8;
        if vector < 16 && matches!(delivery, Delivery::Fixed | Delivery::LowestPriority) {
            self.error(ESR_SEND_ILLEGAL_VECTOR);
            return Effect::None;
        }
        Effect::Send(Message {
            destination: self.icr_destination(icr),
            delivery,
            vector,
            // Only the INIT de-assert is level; IPIs are edges (12.6.1).
            level: false,
            assert: icr & (1 << 14 | 1 << 15) != 1 << 15,
        })
    }

    fn icr_destination(&self, icr: u64) -> Destination {
        let x2apic = self.is_x2apic();
        let id = if x2apic {
            (icr >> 32) as u32
        } else {
            (icr >> 56) as u32
        };
        match icr >> 18 & 3 {
            1 => Destination::Only(SELF),
            2 => Destination::All,
            3 => Destination::AllBut(SELF),
            _ if id == if x2apic { u32::MAX } else { 0xff } => Destination::All,
            _ if icr & 1 << 11 != 0 => Destination::Logical(id),
            _ => Destination::Physical(id),
        }
    }
}

#[cfg(test)]
mod tests;
