//! How interrupts travel between the chips.

use super::{Chipset, IOAPIC_PINS, NEVER, PIT_GSI, Source};
use crate::lapic::SELF;
use crate::message::{Delivery, Destination, Message};
use crate::pit::Pit;

impl Chipset {
    /// Brings the per-vCPU caches up to date after a local APIC changed.
    pub(super) fn sync(&mut self, cpu: usize) {
        if let Some(lapic) = self.lapics.get_mut(cpu) {
            self.deadlines[cpu] = lapic.deadline().unwrap_or(NEVER);
            if lapic.take_attention() {
                self.attention.insert(cpu);
            }
        }
    }

    /// Delivers a message. True if a local APIC accepted it.
    pub(super) fn deliver(&mut self, message: &Message) -> bool {
        match message.destination {
            _ if message.delivery == Delivery::LowestPriority => self.deliver_to_one(message),
            Destination::Physical(id) => match self.cpu_of(id) {
                Some(cpu) => self.offer(cpu, message),
                None => false,
            },
            Destination::Only(cpu) => self.offer(cpu, message),
            _ => {
                let mut accepted = false;
                for cpu in 0..self.lapics.len() {
                    accepted |= self.offer(cpu, message);
                }
                accepted
            }
        }
    }

    /// Delivers an IPI: the shorthands mean the sender.
    pub(super) fn deliver_from(&mut self, cpu: usize, mut message: Message) -> bool {
        message.destination = match message.destination {
            Destination::Only(SELF) => Destination::Only(cpu),
            Destination::AllBut(SELF) => Destination::AllBut(cpu),
            other => other,
        };
        self.deliver(&message)
    }

    /// Index of an APIC id; normally they are equal.
    fn cpu_of(&self, id: u32) -> Option<usize> {
        if self.ids.get(id as usize) == Some(&id) {
            return Some(id as usize);
        }
        self.ids.iter().position(|other| *other == id)
    }

    fn offer(&mut self, cpu: usize, message: &Message) -> bool {
        let Some(lapic) = self.lapics.get_mut(cpu) else {
            return false;
        };
        let accepted = lapic.is_addressed(cpu, message.destination) && lapic.accept(message);
        self.sync(cpu);
        accepted
    }

    /// Lowest-priority delivery (SDM vol 3, 12.6.2.4): to the addressed local
    /// APIC of lowest PPR, in turn where several have it.
    fn deliver_to_one(&mut self, message: &Message) -> bool {
        let candidates = self.lapics.iter().enumerate().filter(|(cpu, lapic)| {
            lapic.is_software_enabled() && lapic.is_addressed(*cpu, message.destination)
        });
        let best = candidates.min_by_key(|(cpu, lapic)| (lapic.ppr() >> 4, self.served[*cpu]));
        let Some((cpu, _)) = best else { return false };
        self.served[cpu] += 1;
        self.offer(cpu, message)
    }

    pub(super) fn set_pic_line(&mut self, source: Source, pin: u8, level: bool) -> bool {
        let Some(sources) = self.pic_lines.get_mut(usize::from(pin)) else {
            return false;
        };
        let before = *sources != 0;
        *sources = with_source(*sources, source, level);
        let after = *sources != 0;
        if before == after {
            return false;
        }
        self.raised.pic[usize::from(pin)] += u64::from(after);
        self.pic.set_irq(pin, after);
        self.after_pic();
        after && !self.pic.is_masked(pin)
    }

    pub(super) fn set_ioapic_line(&mut self, source: Source, pin: u8, level: bool) -> bool {
        let Some(sources) = self.ioapic_lines.get_mut(usize::from(pin)) else {
            return false;
        };
        let before = *sources != 0;
        *sources = with_source(*sources, source, level);
        let asserted = *sources != 0;
        self.raised.ioapic[usize::from(pin)] += u64::from(asserted && !before);
        self.ioapic.set_pin(pin, asserted) && self.service_pin(pin)
    }

    fn service_pin(&mut self, pin: u8) -> bool {
        let Some(message) = self.ioapic.service(pin) else {
            return false;
        };
        let accepted = self.deliver(&message);
        if accepted {
            self.ioapic.accepted(pin);
        }
        accepted
    }

    pub(super) fn service_ioapic(&mut self, pins: u32) {
        for pin in (0..IOAPIC_PINS as u8).filter(|pin| pins >> pin & 1 != 0) {
            self.service_pin(pin);
        }
    }

    fn asserted_pins(&self) -> u32 {
        let lines = self.ioapic_lines.iter().enumerate();
        lines.map(|(pin, by)| u32::from(*by != 0) << pin).sum()
    }

    /// A local APIC's EOI reaches the I/O APIC.
    pub(super) fn end_of_interrupt(&mut self, vector: u8, broadcast: bool, now_ns: u64) {
        let acked = self.ioapic.pins_with_vector(vector);
        self.acked.1 |= acked;
        if broadcast {
            let pins = self.ioapic.eoi(vector);
            if self.storm.hold(pins & self.asserted_pins(), now_ns) {
                return;
            }
            self.service_ioapic(pins);
        }
        let pit_pin = self.routing.targets(PIT_GSI).ioapic;
        if pit_pin.is_some_and(|pin| acked >> pin & 1 != 0) {
            self.ack_pit();
        }
    }

    /// After anything that may have changed the 8259s: acknowledges go to the
    /// PIT, and a risen INTR to the vCPUs that take it.
    pub(super) fn after_pic(&mut self) {
        let acked = self.pic.take_acked();
        self.acked.0 |= acked;
        let rose = self.pic.intr() && !self.intr;
        self.intr = self.pic.intr();
        if rose {
            self.note_extint();
        }
        let pit_pin = self.routing.targets(PIT_GSI).pic;
        if pit_pin.is_some_and(|pin| acked >> pin & 1 != 0) {
            self.ack_pit();
        }
    }

    /// INTR is asserted and who takes it may have changed.
    pub(super) fn note_extint(&mut self) {
        if !self.intr {
            return;
        }
        for cpu in 0..self.lapics.len() {
            if self.accepts_extint(cpu) {
                self.attention.insert(cpu);
            }
        }
    }

    /// True if the 8259s' INTR reaches this vCPU: by LINT0, or by pin 0 of the
    /// I/O APIC as ExtINT (MultiProcessor Specification 1.4, 3.6.2.2).
    pub(super) fn accepts_extint(&self, cpu: usize) -> bool {
        let Some(lapic) = self.lapics.get(cpu) else {
            return false;
        };
        let wired = |message: Message| lapic.is_addressed(cpu, message.destination);
        lapic.accepts_extint() || self.ioapic.extint().is_some_and(wired)
    }

    fn ack_pit(&mut self) {
        if let Some(pit) = &mut self.pit {
            pit.ack();
            self.pulse_pit();
        }
    }

    pub(super) fn forget_pit_backlog(&mut self) {
        if let Some(pit) = &mut self.pit {
            pit.forget_backlog();
        }
    }

    /// Pulses GSI 0 if a tick is due. At most one per call: the next waits for
    /// the acknowledge.
    pub(super) fn pulse_pit(&mut self) {
        if self.pit.as_mut().is_some_and(Pit::take_irq) {
            self.set_gsi_from(Source::Pit, PIT_GSI, true);
            self.set_gsi_from(Source::Pit, PIT_GSI, false);
        }
    }
}

fn with_source(sources: u8, source: Source, level: bool) -> u8 {
    if level {
        sources | source.bit()
    } else {
        sources & !source.bit()
    }
}
