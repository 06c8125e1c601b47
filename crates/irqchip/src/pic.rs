//! The 8259A pair of the PC (Intel 8259A data sheet 231468; edge/level control
//! registers: 82371SB/82371AB PIIX data sheet, ELCR1 and ELCR2).
//!
//! As in the PIIX the LTIM bit of ICW1 is ignored: the ELCRs replace it.

/// Saved state of one 8259 with `kvm_pic_state`'s fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "names and meaning are kvm_pic_state's")]
pub struct PicState {
    pub last_irr: u8,
    pub irr: u8,
    pub imr: u8,
    pub isr: u8,
    pub priority_add: u8,
    pub irq_base: u8,
    pub read_reg_select: u8,
    pub poll: u8,
    pub special_mask: u8,
    pub init_state: u8,
    pub auto_eoi: u8,
    pub rotate_on_auto_eoi: u8,
    pub special_fully_nested_mode: u8,
    pub init4: u8,
    pub elcr: u8,
    pub elcr_mask: u8,
}

/// The initialisation command word that a write to the odd port will be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Expect {
    #[default]
    Ocw1,
    Icw2,
    Icw3,
    Icw4,
}

/// One 8259A.
#[derive(Clone, Debug, Default)]
struct Chip {
    /// Bits that may be set in `elcr`.
    elcr_mask: u8,
    /// Inputs without an edge latch whatever the ELCR: the master's cascade.
    /// A slave's INT falls and rises with each acknowledge, which comes to
    /// the same as a level.
    cascade: u8,

    lines: u8,
    /// Latched rising edges; level inputs are not latched.
    edges: u8,
    imr: u8,
    isr: u8,
    /// The input of highest priority.
    first: u8,
    vector_base: u8,
    read_isr: bool,
    poll: bool,
    special_mask: bool,
    expect: Expect,
    single: bool,
    wants_icw4: bool,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    fully_nested: bool,
    elcr: u8,
    /// Interrupts whose service ended since last asked.
    acked: u8,
}

impl Chip {
    fn level_inputs(&self) -> u8 {
        self.elcr | self.cascade
    }

    fn irr(&self) -> u8 {
        let level = self.level_inputs();
        self.edges & !level | self.lines & level
    }

    fn set_line(&mut self, pin: u8, level: bool) {
        let bit = 1 << (pin & 7);
        if level {
            self.edges |= bit & !self.lines & !self.level_inputs();
            self.lines |= bit;
        } else {
            // The latch keeps a pulse that ends before the acknowledge.
            self.lines &= !bit;
        }
    }

    /// Distance from the top of the rotating order, 0..=7; 8 for no bit.
    fn priority(&self, bits: u8) -> u32 {
        bits.rotate_right(u32::from(self.first)).trailing_zeros()
    }

    /// The input the chip would present at INTA.
    fn request(&self) -> Option<u8> {
        let mut serving = self.isr;
        if self.special_mask {
            serving &= !self.imr;
        }
        if self.fully_nested {
            serving &= !self.cascade;
        }
        let rank = self.priority(self.irr() & !self.imr);
        (rank < self.priority(serving)).then(|| self.first.wrapping_add(rank as u8) & 7)
    }

    fn acknowledge(&mut self, pin: u8) {
        let bit = 1 << pin;
        self.edges &= !bit;
        if !self.auto_eoi {
            self.isr |= bit;
            return;
        }
        self.acked |= bit;
        if self.rotate_on_auto_eoi {
            self.first = pin.wrapping_add(1) & 7;
        }
    }

    fn end_of_interrupt(&mut self, pin: u8) {
        let bit = 1 << pin;
        self.acked |= bit & self.isr;
        self.isr &= !bit;
    }

    /// The interrupt that a non-specific EOI ends.
    fn in_service(&self) -> Option<u8> {
        let mut serving = self.isr;
        if self.special_mask {
            serving &= !self.imr;
        }
        let rank = self.priority(serving);
        (rank < 8).then(|| self.first.wrapping_add(rank as u8) & 7)
    }

    fn write_command(&mut self, value: u8) {
        if value & 0x10 != 0 {
            self.start_init(value);
        } else if value & 0x08 != 0 {
            self.write_ocw3(value);
        } else {
            self.write_ocw2(value);
        }
    }

    fn start_init(&mut self, icw1: u8) {
        *self = Self {
            elcr_mask: self.elcr_mask,
            cascade: self.cascade,
            elcr: self.elcr,
            lines: self.lines,
            vector_base: self.vector_base,
            acked: self.acked,
            expect: Expect::Icw2,
            single: icw1 & 2 != 0,
            wants_icw4: icw1 & 1 != 0,
            ..Self::default()
        };
    }

    fn write_ocw2(&mut self, value: u8) {
        let pin = value & 7;
        match value >> 5 {
            0 => self.rotate_on_auto_eoi = false,
            4 => self.rotate_on_auto_eoi = true,
            1 | 5 => {
                if let Some(pin) = self.in_service() {
                    self.end_of_interrupt(pin);
                    if value >> 5 == 5 {
                        self.first = pin.wrapping_add(1) & 7;
                    }
                }
            }
            3 => self.end_of_interrupt(pin),
            6 => self.first = (pin + 1) & 7,
            7 => {
                self.end_of_interrupt(pin);
                self.first = (pin + 1) & 7;
            }
            _ => {}
        }
    }

    fn write_ocw3(&mut self, value: u8) {
        if value & 4 != 0 {
            self.poll = true;
        }
        if value & 2 != 0 {
            self.read_isr = value & 1 != 0;
        }
        if value & 0x40 != 0 {
            self.special_mask = value & 0x20 != 0;
        }
    }

    fn write_data(&mut self, value: u8) {
        let after_icw3 = if self.wants_icw4 {
            Expect::Icw4
        } else {
            Expect::Ocw1
        };
        self.expect = match self.expect {
            Expect::Ocw1 => {
                self.imr = value;
                Expect::Ocw1
            }
            Expect::Icw2 => {
                self.vector_base = value & 0xf8;
                if self.single {
                    after_icw3
                } else {
                    Expect::Icw3
                }
            }
            // The wiring is the PC's whatever ICW3 says.
            Expect::Icw3 => after_icw3,
            Expect::Icw4 => {
                self.fully_nested = value & 0x10 != 0;
                self.auto_eoi = value & 2 != 0;
                Expect::Ocw1
            }
        };
    }

    fn poll(&mut self) -> u8 {
        self.poll = false;
        let Some(pin) = self.request() else { return 0 };
        self.acknowledge(pin);
        0x80 | pin
    }

    fn read(&mut self, data_port: bool) -> u8 {
        match (self.poll, data_port, self.read_isr) {
            (true, ..) => self.poll(),
            (false, true, _) => self.imr,
            (false, false, true) => self.isr,
            (false, false, false) => self.irr(),
        }
    }

    fn state(&self) -> PicState {
        PicState {
            last_irr: self.lines,
            irr: self.irr(),
            imr: self.imr,
            isr: self.isr,
            priority_add: self.first,
            irq_base: self.vector_base,
            read_reg_select: self.read_isr.into(),
            poll: self.poll.into(),
            special_mask: self.special_mask.into(),
            init_state: self.expect as u8,
            auto_eoi: self.auto_eoi.into(),
            rotate_on_auto_eoi: self.rotate_on_auto_eoi.into(),
            special_fully_nested_mode: self.fully_nested.into(),
            init4: self.wants_icw4.into(),
            elcr: self.elcr,
            elcr_mask: self.elcr_mask,
        }
    }

    fn set_state(&mut self, s: &PicState) {
        let elcr = s.elcr & self.elcr_mask;
        *self = Self {
            elcr_mask: self.elcr_mask,
            cascade: self.cascade,
            lines: s.last_irr | s.irr & elcr,
            edges: s.irr & !elcr & !self.cascade,
            imr: s.imr,
            isr: s.isr,
            first: s.priority_add & 7,
            vector_base: s.irq_base & 0xf8,
            read_isr: s.read_reg_select != 0,
            poll: s.poll != 0,
            special_mask: s.special_mask != 0,
            expect: match s.init_state {
                1 => Expect::Icw2,
                2 => Expect::Icw3,
                3 => Expect::Icw4,
                _ => Expect::Ocw1,
            },
            single: false,
            wants_icw4: s.init4 != 0,
            auto_eoi: s.auto_eoi != 0,
            rotate_on_auto_eoi: s.rotate_on_auto_eoi != 0,
            fully_nested: s.special_fully_nested_mode != 0,
            elcr,
            acked: 0,
        };
    }
}

/// The master and slave 8259A of the PC with their ELCRs. Lines 0..=7 are the
/// master's, 8..=15 the slave's; line 2 is the cascade and no input.
#[derive(Clone, Debug)]
pub struct Pic {
    chips: [Chip; 2],
    intr: bool,
}

impl Default for Pic {
    fn default() -> Self {
        Self::new()
    }
}

const CASCADE: u8 = 2;

impl Pic {
    /// A pair after power-up: no line asserted, nothing initialised.
    pub fn new() -> Self {
        let master = Chip {
            elcr_mask: 0xf8,
            cascade: 1 << CASCADE,
            ..Chip::default()
        };
        let slave = Chip {
            elcr_mask: 0xde,
            ..Chip::default()
        };
        Self {
            chips: [master, slave],
            intr: false,
        }
    }

    /// True for the ports of the pair and the ELCRs.
    pub const fn owns_port(port: u16) -> bool {
        matches!(port, 0x20 | 0x21 | 0xa0 | 0xa1 | 0x4d0 | 0x4d1)
    }

    /// Drives input `irq` (0..=15; others and the cascade are ignored).
    pub fn set_irq(&mut self, irq: u8, level: bool) {
        match irq {
            CASCADE => {}
            0..=7 => self.chips[0].set_line(irq, level),
            8..=15 => self.chips[1].set_line(irq - 8, level),
            _ => {}
        }
        self.update();
    }

    /// The INT output to the CPU.
    pub fn intr(&self) -> bool {
        self.intr
    }

    /// The INTA cycles: the vector to take. If no request is left it is the
    /// spurious one, input 7 without its in-service bit.
    pub fn ack(&mut self) -> u8 {
        let pin = self.chips[0].request();
        if let Some(pin) = pin {
            self.chips[0].acknowledge(pin);
        }
        let vector = match pin {
            Some(CASCADE) => {
                let slave = &mut self.chips[1];
                let pin = slave.request();
                if let Some(pin) = pin {
                    slave.acknowledge(pin);
                }
                slave.vector_base | pin.unwrap_or(7)
            }
            pin => self.chips[0].vector_base | pin.unwrap_or(7),
        };
        self.update();
        vector
    }

    /// Reads a port of the pair; others read as 0xff.
    pub fn read(&mut self, port: u16) -> u8 {
        let value = match port {
            0x20 | 0x21 => self.chips[0].read(port & 1 != 0),
            0xa0 | 0xa1 => self.chips[1].read(port & 1 != 0),
            0x4d0 => self.chips[0].elcr,
            0x4d1 => self.chips[1].elcr,
            _ => 0xff,
        };
        self.update();
        value
    }

    /// Writes a port of the pair; others are ignored.
    pub fn write(&mut self, port: u16, value: u8) {
        match port {
            0x20 => self.chips[0].write_command(value),
            0x21 => self.chips[0].write_data(value),
            0xa0 => self.chips[1].write_command(value),
            0xa1 => self.chips[1].write_data(value),
            0x4d0 => self.chips[0].elcr = value & self.chips[0].elcr_mask,
            0x4d1 => self.chips[1].elcr = value & self.chips[1].elcr_mask,
            _ => {}
        }
        self.update();
    }

    /// Back to power-up; the input lines stay as they are driven.
    pub fn reset(&mut self) {
        for chip in &mut self.chips {
            *chip = Chip {
                elcr_mask: chip.elcr_mask,
                cascade: chip.cascade,
                lines: chip.lines & !chip.cascade,
                ..Chip::default()
            };
        }
        self.update();
    }

    /// Interrupts whose service ended (EOI, or INTA under automatic EOI) since
    /// the last call, bit n for input n.
    pub fn take_acked(&mut self) -> u16 {
        let acked = self.chips.each_mut().map(|c| std::mem::take(&mut c.acked));
        u16::from_le_bytes(acked)
    }

    /// True if input `irq` is masked at its chip.
    pub fn is_masked(&self, irq: u8) -> bool {
        let chip = &self.chips[usize::from(irq >> 3 & 1)];
        chip.imr >> (irq & 7) & 1 != 0
    }

    /// Saved state: master, slave.
    pub fn state(&self) -> [PicState; 2] {
        self.chips.each_ref().map(Chip::state)
    }

    /// Restores one chip, 0 the master and 1 the slave; others are ignored.
    pub fn set_state(&mut self, chip: usize, state: &PicState) {
        if let Some(chip) = self.chips.get_mut(chip) {
            chip.set_state(state);
        }
        self.update();
    }

    fn update(&mut self) {
        let slave = self.chips[1].request().is_some();
        self.chips[0].set_line(CASCADE, slave);
        self.intr = self.chips[0].request().is_some();
    }
}

#[cfg(test)]
mod tests;
