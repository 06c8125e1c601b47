//! The four chips wired together: GSI routing, message delivery, the 8259s'
//! virtual wire, timers, and who has to be kicked.

mod attention;
mod delivery;
mod storm;

pub use attention::Attention;
use attention::CpuSet;

use crate::Clock;
use crate::ioapic::{IOAPIC_BASE, IOAPIC_SIZE, IoApic};
use crate::lapic::{Effect, Lapic, MsrFault, NEVER};
use crate::message::{Delivery, Destination, Message};
use crate::pic::Pic;
use crate::pit::Pit;
use crate::routing::Routing;

/// Who drives a line: lines of several sources are wired-or.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The VMM (`KVM_IRQ_LINE`, plain irqfds).
    User,
    /// Irqfds with a resample eventfd.
    Resample,
    /// The 8254.
    Pit,
}

impl Source {
    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

const PIC_PINS: usize = 16;
const IOAPIC_PINS: usize = 24;
/// GSI of the 8254 (`KVM_CREATE_PIT2`).
const PIT_GSI: u32 = 0;

/// How often each input rose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Raised {
    /// The 8259 pair's.
    pub pic: [u64; PIC_PINS],
    /// The I/O APIC's.
    pub ioapic: [u64; IOAPIC_PINS],
}

/// PIC, I/O APIC, PIT and the local APICs of all vCPUs. A vCPU is named by its
/// index, the order of [`Chipset::add_lapic`]; calls with an index that does
/// not exist do nothing.
#[derive(Clone, Debug)]
pub struct Chipset {
    phys_bits: u8,
    routing: Routing,

    pic: Pic,
    ioapic: IoApic,
    lapics: Vec<Lapic>,
    pit: Option<Pit>,

    /// Sources that assert each line.
    pic_lines: [u8; PIC_PINS],
    ioapic_lines: [u8; IOAPIC_PINS],
    /// The PIC's INTR as last seen, to notice when it rises.
    intr: bool,
    raised: Raised,
    /// Lines acknowledged since last asked: PIC inputs, I/O APIC pins.
    acked: (u16, u32),

    /// APIC id of each local APIC.
    ids: Vec<u32>,
    /// Timer deadline of each local APIC, or `NEVER`.
    deadlines: Vec<u64>,
    /// Round-robin counters of lowest-priority delivery.
    served: Vec<u64>,
    attention: CpuSet,
    storm: storm::Storm,
}

impl Chipset {
    /// Controllers without local APICs and PIT. `phys_bits` is the guest's
    /// MAXPHYADDR.
    pub fn new(phys_bits: u8) -> Self {
        Self {
            phys_bits,
            routing: Routing::default(),
            pic: Pic::new(),
            ioapic: IoApic::new(),
            lapics: Vec::new(),
            pit: None,
            pic_lines: [0; PIC_PINS],
            ioapic_lines: [0; IOAPIC_PINS],
            intr: false,
            raised: Raised::default(),
            acked: (0, 0),
            ids: Vec::new(),
            deadlines: Vec::new(),
            served: Vec::new(),
            attention: CpuSet::default(),
            storm: storm::Storm::default(),
        }
    }

    /// Adds a vCPU's local APIC and returns its index. APIC id 0 is the BSP.
    pub fn add_lapic(&mut self, apic_id: u32) -> usize {
        self.lapics
            .push(Lapic::new(apic_id, apic_id == 0, self.phys_bits));
        self.ids.push(apic_id);
        self.deadlines.push(NEVER);
        self.served.push(0);
        let cpu = self.lapics.len() - 1;
        self.attention.grow(self.lapics.len());
        if self.intr && self.accepts_extint(cpu) {
            self.attention.insert(cpu);
        }
        cpu
    }

    /// Puts the 8254 on GSI 0, ports 0x40..=0x43 and 0x61.
    pub fn add_pit(&mut self) {
        self.pit.get_or_insert_with(Pit::new);
    }

    /// Machine reset: every chip back to power-up. Routing and the levels of
    /// the lines stay, being others' state.
    pub fn reset(&mut self) {
        self.pic.reset();
        self.ioapic.reset();
        self.lapics.iter_mut().for_each(Lapic::reset);
        if let Some(pit) = &mut self.pit {
            pit.reset();
        }
        (0..self.lapics.len()).for_each(|cpu| self.sync(cpu));
        self.after_pic();
    }

    /// Replaces the GSI routing table. Lines keep their levels.
    pub fn set_routing(&mut self, routing: Routing) {
        self.routing = routing;
    }

    // ---- lines and messages -------------------------------------------------

    /// Drives a GSI for the VMM. True if a chip or local APIC took notice;
    /// false if it was masked, already asserted or goes nowhere.
    pub fn set_gsi(&mut self, gsi: u32, level: bool) -> bool {
        self.set_gsi_from(Source::User, gsi, level)
    }

    /// Drives a GSI for one source. An MSI route sends on each assertion.
    pub fn set_gsi_from(&mut self, source: Source, gsi: u32, level: bool) -> bool {
        let targets = self.routing.targets(gsi);
        let mut noticed = false;
        if let Some(pin) = targets.pic {
            noticed |= self.set_pic_line(source, pin, level);
        }
        if let Some(pin) = targets.ioapic {
            noticed |= self.set_ioapic_line(source, pin, level);
        }
        if let (Some((address, data)), true) = (targets.msi, level) {
            noticed |= self.msi(address, data);
        }
        noticed
    }

    /// Sends an MSI. True if some local APIC accepted it.
    pub fn msi(&mut self, address: u64, data: u32) -> bool {
        let message = Message::from_msi(address, data);
        message.is_some_and(|message| self.deliver(&message))
    }

    /// Sends the IPI of an ICR value (vector and delivery mode) to the APIC ids
    /// `first + n` for each bit n of `bitmap` (`KVM_HC_SEND_IPI`). Returns how
    /// many vCPUs accepted it.
    pub fn send_ipi(&mut self, bitmap: u128, first: u32, icr: u32) -> u32 {
        let mut accepted = 0;
        for n in (0..128).filter(|n| bitmap >> n & 1 != 0) {
            let message = Message {
                destination: Destination::Physical(first.saturating_add(n)),
                delivery: Delivery::from_bits(icr >> 8),
                vector: icr as u8,
                level: false,
                assert: true,
            };
            accepted += u32::from(self.deliver(&message));
        }
        accepted
    }

    /// NMI button of one vCPU (`KVM_NMI`).
    pub fn nmi(&mut self, cpu: usize) {
        if let Some(lapic) = self.lapics.get_mut(cpu) {
            lapic.raise_nmi();
            self.sync(cpu);
        }
    }

    /// GSIs that the guest acknowledged (EOI) since the last call: what
    /// resample eventfds and VFIO wait for.
    pub fn take_acked_gsis(&mut self) -> Vec<u32> {
        let (pic, ioapic) = std::mem::take(&mut self.acked);
        if pic == 0 && ioapic == 0 {
            return Vec::new();
        }
        let gsis = self.routing.gsis(|targets| {
            targets.pic.is_some_and(|pin| pic >> pin & 1 != 0)
                || targets.ioapic.is_some_and(|pin| ioapic >> pin & 1 != 0)
        });
        gsis.collect()
    }

    // ---- ports and MMIO ------------------------------------------------------

    /// False for ports that no chipset owns.
    pub const fn may_own_port(port: u16) -> bool {
        Pic::owns_port(port) || Pit::owns_port(port)
    }

    /// True for the ports of the PIC and, if there is one, the PIT.
    pub fn owns_port(&self, port: u16) -> bool {
        Pic::owns_port(port) || self.pit.is_some() && Pit::owns_port(port)
    }

    /// Reads one byte of a port this chipset owns; 0xff for others.
    pub fn pio_read(&mut self, port: u16, now_ns: u64) -> u8 {
        if Pic::owns_port(port) {
            // A poll is an acknowledge.
            let value = self.pic.read(port);
            self.after_pic();
            return value;
        }
        match &mut self.pit {
            Some(pit) if Pit::owns_port(port) => pit.read(port, now_ns),
            _ => 0xff,
        }
    }

    /// Writes one byte to a port this chipset owns.
    pub fn pio_write(&mut self, port: u16, value: u8, now_ns: u64) {
        if Pic::owns_port(port) {
            let was_masked = self.pic.is_masked(0);
            self.pic.write(port, value);
            if was_masked && !self.pic.is_masked(0) {
                self.forget_pit_backlog();
            }
            self.after_pic();
        } else if let Some(pit) = &mut self.pit {
            pit.write(port, value, now_ns);
            self.pulse_pit();
        }
    }

    /// True for the I/O APIC's window.
    pub fn ioapic_owns_gpa(&self, gpa: u64) -> bool {
        (IOAPIC_BASE..IOAPIC_BASE + IOAPIC_SIZE).contains(&gpa)
    }

    /// Reads the I/O APIC's register at a byte offset of its window.
    pub fn ioapic_read(&self, offset: u32) -> u32 {
        self.ioapic.read(offset)
    }

    /// Writes the I/O APIC's register at a byte offset of its window.
    pub fn ioapic_write(&mut self, offset: u32, value: u32) {
        let pit_pin = self.routing.targets(PIT_GSI).ioapic;
        let was_masked = pit_pin.is_some_and(|pin| self.ioapic.is_masked(pin));
        let pins = self.ioapic.write(offset, value);
        if IoApic::is_eoi(offset) {
            self.acked.1 |= pins;
        }
        if was_masked && pit_pin.is_some_and(|pin| !self.ioapic.is_masked(pin)) {
            self.forget_pit_backlog();
        }
        self.service_ioapic(pins);
        self.note_extint();
    }

    /// True if `gpa` is this vCPU's local APIC page.
    pub fn lapic_owns_gpa(&self, cpu: usize, gpa: u64) -> bool {
        self.lapics
            .get(cpu)
            .is_some_and(|lapic| lapic.owns_gpa(gpa))
    }

    /// Reads `size` (1, 2, 4 or 8) bytes of the local APIC's page. Accesses
    /// that leave the low 4 bytes of a register's 16 read as zero there.
    pub fn lapic_read(&mut self, cpu: usize, offset: u32, size: u32, now_ns: u64) -> u64 {
        let Some(lapic) = self.lapics.get_mut(cpu) else {
            return 0;
        };
        let bits = (size.min(8) * 8).min(64);
        let value = u64::from(lapic.read(offset & !3, now_ns)) >> (8 * (offset & 3));
        self.sync(cpu);
        if bits == 64 {
            value
        } else {
            value & ((1 << bits) - 1)
        }
    }

    /// Writes the local APIC's page. Only 32-bit writes do anything (SDM vol
    /// 3, 12.4.1); of wider ones the low 32 bits count.
    pub fn lapic_write(&mut self, cpu: usize, offset: u32, size: u32, value: u64, now_ns: u64) {
        if size < 4 {
            return;
        }
        if let Some(lapic) = self.lapics.get_mut(cpu) {
            let effect = lapic.write(offset, value as u32, now_ns);
            self.apply(cpu, effect, now_ns);
        }
    }

    // ---- MSRs and CR8 --------------------------------------------------------

    /// RDMSR of an x2APIC MSR, 0x800..=0x8ff.
    ///
    /// # Errors
    /// The access raises #GP(0).
    pub fn x2apic_read(&self, cpu: usize, index: u32, now_ns: u64) -> Result<u64, MsrFault> {
        let lapic = self.lapics.get(cpu).ok_or(MsrFault)?;
        lapic.read_msr(index, now_ns)
    }

    /// WRMSR of an x2APIC MSR.
    ///
    /// # Errors
    /// The access raises #GP(0).
    pub fn x2apic_write(
        &mut self,
        cpu: usize,
        index: u32,
        value: u64,
        now_ns: u64,
    ) -> Result<(), MsrFault> {
        let lapic = self.lapics.get_mut(cpu).ok_or(MsrFault)?;
        let effect = lapic.write_msr(index, value, now_ns)?;
        self.apply(cpu, effect, now_ns);
        Ok(())
    }

    /// IA32_APIC_BASE; 0 for a vCPU that does not exist.
    pub fn apic_base(&self, cpu: usize) -> u64 {
        self.lapics.get(cpu).map_or(0, Lapic::apic_base)
    }

    /// WRMSR to IA32_APIC_BASE by the guest.
    ///
    /// # Errors
    /// Reserved bits or an illegal transition: #GP(0).
    pub fn write_apic_base(&mut self, cpu: usize, value: u64) -> Result<(), MsrFault> {
        self.with_base(cpu, |lapic| lapic.write_apic_base(value))
    }

    /// Sets IA32_APIC_BASE with host privilege.
    ///
    /// # Errors
    /// x2APIC mode without the enable bit.
    pub fn set_apic_base(&mut self, cpu: usize, value: u64) -> Result<(), MsrFault> {
        self.with_base(cpu, |lapic| lapic.set_apic_base(value))
    }

    fn with_base(
        &mut self,
        cpu: usize,
        set: impl FnOnce(&mut Lapic) -> Result<(), MsrFault>,
    ) -> Result<(), MsrFault> {
        set(self.lapics.get_mut(cpu).ok_or(MsrFault)?)?;
        self.sync(cpu);
        self.note_extint();
        Ok(())
    }

    /// IA32_TSC_DEADLINE.
    pub fn tsc_deadline(&self, cpu: usize) -> u64 {
        self.lapics.get(cpu).map_or(0, Lapic::tsc_deadline)
    }

    /// Writes IA32_TSC_DEADLINE. A deadline in the past fires at once.
    pub fn set_tsc_deadline(&mut self, cpu: usize, tsc: u64, clock: &Clock) {
        if let Some(lapic) = self.lapics.get_mut(cpu) {
            lapic.set_tsc_deadline(tsc, clock);
            lapic.advance(clock.now_ns);
            self.sync(cpu);
        }
    }

    /// The vCPU's TSC was written or changed its rate.
    pub fn tsc_changed(&mut self, cpu: usize, clock: &Clock) {
        if let Some(lapic) = self.lapics.get_mut(cpu) {
            lapic.tsc_changed(clock);
            self.sync(cpu);
        }
    }

    /// CR8: the task-priority class.
    pub fn cr8(&self, cpu: usize) -> u64 {
        self.lapics.get(cpu).map_or(0, Lapic::cr8)
    }

    /// Writes CR8; the caller has checked bits 63:4.
    pub fn set_cr8(&mut self, cpu: usize, value: u64) {
        if let Some(lapic) = self.lapics.get_mut(cpu) {
            lapic.set_cr8(value);
            self.sync(cpu);
        }
    }

    // ---- the vCPU's side -----------------------------------------------------

    /// True if there is an external interrupt to take once RFLAGS.IF and the
    /// interrupt shadow allow.
    pub fn pending_interrupt(&self, cpu: usize) -> bool {
        let local = self.lapics.get(cpu).is_some_and(|l| l.pending().is_some());
        local || self.intr && self.accepts_extint(cpu)
    }

    /// Acknowledges: the vector to deliver now. `None` if there is none left,
    /// or another vCPU took it. The 8259s' interrupts go first.
    pub fn ack_interrupt(&mut self, cpu: usize) -> Option<u8> {
        if self.intr && self.accepts_extint(cpu) {
            let vector = self.pic.ack();
            self.intr = false;
            self.after_pic();
            return Some(vector);
        }
        let vector = self.lapics.get_mut(cpu)?.ack();
        self.sync(cpu);
        vector
    }

    /// Takes a pending NMI.
    pub fn take_nmi(&mut self, cpu: usize) -> bool {
        self.lapics.get_mut(cpu).is_some_and(Lapic::take_nmi)
    }

    /// Takes a pending INIT, and resets the local APIC as INIT does.
    pub fn take_init(&mut self, cpu: usize) -> bool {
        let init = self.lapics.get_mut(cpu).is_some_and(Lapic::take_init);
        if init {
            self.sync(cpu);
        }
        init
    }

    /// Takes a pending startup IPI: code begins at page `vector << 12`. To be
    /// discarded unless the vCPU waits for it.
    pub fn take_sipi(&mut self, cpu: usize) -> Option<u8> {
        self.lapics.get_mut(cpu)?.take_sipi()
    }

    /// True if there is an NMI, INIT or SIPI to take.
    pub fn has_event(&self, cpu: usize) -> bool {
        self.lapics.get(cpu).is_some_and(Lapic::has_event)
    }

    /// The vCPUs, by index, for which an interrupt or event became pending
    /// since the last call. Indexes not taken from the iterator stay.
    pub fn take_attention(&mut self) -> Attention<'_> {
        self.attention.drain()
    }

    // ---- time ----------------------------------------------------------------

    /// When [`Chipset::advance`] should be called next, in ns.
    pub fn next_deadline(&self) -> Option<u64> {
        let timers = self.deadlines.iter().copied().min();
        let pit = self.pit.as_ref().and_then(Pit::next_edge);
        let pit = pit.unwrap_or(NEVER);
        let next = timers.unwrap_or(NEVER).min(pit).min(self.storm.deadline());
        (next != NEVER).then_some(next)
    }

    /// Fires every timer whose time has come.
    pub fn advance(&mut self, now_ns: u64) {
        let held = self.storm.take(now_ns);
        self.service_ioapic(held);
        if let Some(pit) = &mut self.pit {
            pit.advance(now_ns);
            self.pulse_pit();
        }
        for cpu in 0..self.lapics.len() {
            if self.deadlines[cpu] <= now_ns {
                self.lapics[cpu].advance(now_ns);
                self.sync(cpu);
            }
        }
    }

    // ---- the chips themselves, for saved state -------------------------------

    /// How often each input rose so far.
    pub fn raised(&self) -> Raised {
        self.raised
    }

    /// The 8259 pair.
    pub fn pic(&self) -> &Pic {
        &self.pic
    }

    /// Restores one 8259 (0 master, 1 slave).
    pub fn set_pic_state(&mut self, chip: usize, state: &crate::PicState) {
        self.pic.set_state(chip, state);
        let lines = self.pic.state().map(|s| s.last_irr);
        for (pin, sources) in self.pic_lines.iter_mut().enumerate() {
            *sources = lines[pin / 8] >> (pin % 8) & 1;
        }
        self.after_pic();
    }

    /// The I/O APIC.
    pub fn ioapic(&self) -> &IoApic {
        &self.ioapic
    }

    /// Restores the I/O APIC. Asserted level-triggered pins send again.
    pub fn set_ioapic_state(&mut self, state: &crate::IoApicState) {
        let pins = self.ioapic.set_state(state);
        for (pin, sources) in self.ioapic_lines.iter_mut().enumerate() {
            *sources = (state.irr >> pin & 1) as u8;
        }
        self.service_ioapic(pins);
        self.note_extint();
    }

    /// A vCPU's local APIC.
    pub fn lapic(&self, cpu: usize) -> Option<&Lapic> {
        self.lapics.get(cpu)
    }

    /// Restores a local APIC's register page. Set IA32_APIC_BASE before and
    /// IA32_TSC_DEADLINE after it.
    pub fn set_lapic_page(&mut self, cpu: usize, page: &[u8; crate::LAPIC_PAGE], now_ns: u64) {
        if let Some(lapic) = self.lapics.get_mut(cpu) {
            lapic.set_page(page, now_ns);
            self.sync(cpu);
            self.note_extint();
        }
    }

    /// Replaces the pending NMI, INIT and SIPI (`KVM_SET_VCPU_EVENTS`).
    pub fn restore_events(&mut self, cpu: usize, nmi: bool, init: bool, sipi: Option<u8>) {
        if let Some(lapic) = self.lapics.get_mut(cpu) {
            lapic.restore_events(nmi, init, sipi);
            self.sync(cpu);
        }
    }

    /// The 8254, if there is one.
    pub fn pit(&mut self) -> Option<&mut Pit> {
        self.pit.as_mut()
    }

    fn apply(&mut self, cpu: usize, effect: Effect, now_ns: u64) {
        // A timer started with a count already over is late by nothing.
        if let Some(lapic) = self.lapics.get_mut(cpu) {
            lapic.advance(now_ns);
        }
        self.sync(cpu);
        match effect {
            Effect::None => self.note_extint(),
            Effect::Send(message) => {
                self.deliver_from(cpu, message);
            }
            Effect::Eoi { vector, broadcast } => self.end_of_interrupt(vector, broadcast, now_ns),
        }
    }
}

#[cfg(test)]
mod tests;
