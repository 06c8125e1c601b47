//! The 16550A as a state machine (National Semiconductor PC16550D data
//! sheet, section 8). The line is infinitely fast: a byte written to THR is
//! gone at once, so THRE and TEMT always read 1.

mod saved;

use std::collections::VecDeque;

/// Receive FIFO depth in bytes.
pub const FIFO_DEPTH: usize = 16;

/// Register offsets.
mod reg {
    /// RBR on read, THR on write; divisor low with DLAB.
    pub const DATA: u16 = 0;
    pub const IER: u16 = 1;
    /// IIR on read, FCR on write.
    pub const IIR_FCR: u16 = 2;
    pub const LCR: u16 = 3;
    pub const MCR: u16 = 4;
    pub const LSR: u16 = 5;
    pub const MSR: u16 = 6;
    pub const SCR: u16 = 7;
}

mod ier {
    pub const RDI: u8 = 1 << 0;
    pub const THRI: u8 = 1 << 1;
    pub const RLSI: u8 = 1 << 2;
    pub const MSI: u8 = 1 << 3;
    pub const ALL: u8 = 0x0f;
}

mod iir {
    pub const NONE: u8 = 0x01;
    pub const MODEM: u8 = 0x00;
    pub const THRE: u8 = 0x02;
    pub const DATA: u8 = 0x04;
    pub const LINE: u8 = 0x06;
    pub const TIMEOUT: u8 = 0x0c;
    pub const FIFO_ON: u8 = 0xc0;
}

mod fcr {
    pub const ENABLE: u8 = 1 << 0;
    pub const CLEAR_RX: u8 = 1 << 1;
    pub const TRIGGER_SHIFT: u8 = 6;
}

const LCR_DLAB: u8 = 1 << 7;

mod mcr {
    pub const DTR: u8 = 1 << 0;
    pub const RTS: u8 = 1 << 1;
    pub const OUT1: u8 = 1 << 2;
    pub const OUT2: u8 = 1 << 3;
    pub const LOOP: u8 = 1 << 4;
    pub const ALL: u8 = 0x1f;
}

mod lsr {
    pub const DR: u8 = 1 << 0;
    pub const OE: u8 = 1 << 1;
    pub const BI: u8 = 1 << 4;
    pub const THRE: u8 = 1 << 5;
    pub const TEMT: u8 = 1 << 6;
}

mod msr {
    pub const TERI: u8 = 1 << 2;
    pub const CTS: u8 = 1 << 4;
    pub const DSR: u8 = 1 << 5;
    pub const RI: u8 = 1 << 6;
    pub const DCD: u8 = 1 << 7;
    pub const LINES: u8 = 0xf0;
}

/// A cable with a ready peer: CTS, DSR and DCD asserted.
const PEER_READY: u8 = msr::CTS | msr::DSR | msr::DCD;

/// FIFO trigger levels by FCR bits 6..=7.
const TRIGGER: [usize; 4] = [1, 4, 8, 14];

/// So many line-status reads in a row, with nothing in between but received
/// bytes fetched, mean that the guest waits for input by polling. A console
/// that waits for THRE reads once or twice per byte.
const POLLS_THAT_LISTEN: u8 = 64;

/// The chip.
#[derive(Clone, Debug)]
pub struct Uart {
    ier: u8,
    fcr: u8,
    lcr: u8,
    mcr: u8,
    scr: u8,
    divisor: u16,
    /// Delta bits of MSR not read yet.
    msr_delta: u8,
    /// OE and BI not read yet.
    line_errors: u8,
    rx: VecDeque<u8>,
    /// The guest may know of the bytes in `rx`.
    noticed: bool,
    /// Bytes that were cleared before the guest could know of them.
    returned: Vec<u8>,
    /// The transmitter became empty and nobody has taken notice.
    thre_pending: bool,
    polls: u8,
}

impl Default for Uart {
    /// State after master reset; the divisor is the firmware's 9600 baud.
    fn default() -> Self {
        Self {
            ier: 0,
            fcr: 0,
            lcr: 0,
            mcr: 0,
            scr: 0,
            divisor: 12,
            msr_delta: 0,
            line_errors: 0,
            rx: VecDeque::with_capacity(FIFO_DEPTH),
            noticed: false,
            returned: Vec::new(),
            thre_pending: false,
            polls: 0,
        }
    }
}

impl Uart {
    /// Level of the interrupt line. OUT2 gates it on every PC.
    pub fn irq(&self) -> bool {
        self.mcr & mcr::OUT2 != 0 && self.source() != iir::NONE
    }

    /// How many bytes from the host the receiver takes now. Zero while the
    /// guest does not listen: what arrives while a driver is being set up
    /// would be lost when it clears the FIFO.
    pub fn rx_room(&self) -> usize {
        let listens = self.ier & ier::RDI != 0 || self.polls >= POLLS_THAT_LISTEN;
        if !listens || self.loopback() {
            return 0;
        }
        self.depth().saturating_sub(self.rx.len())
    }

    /// A byte arrives; beyond the capacity it is lost and OE is set.
    pub fn receive(&mut self, byte: u8) {
        if self.rx.len() < self.depth() {
            self.rx.push_back(byte);
        } else {
            self.line_errors |= lsr::OE;
        }
    }

    /// Bytes to send again: a driver that is being set up cleared them without
    /// having looked. On a slower line they would not have arrived yet.
    pub fn take_returned(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.returned)
    }

    /// The peer holds the line in the break state.
    pub fn receive_break(&mut self) {
        self.receive(0);
        self.line_errors |= lsr::BI;
    }

    /// Reads a register; only the low 3 bits of `offset` count.
    pub fn read(&mut self, offset: u16) -> u8 {
        let dlab = self.lcr & LCR_DLAB != 0;
        let fetches = offset & 7 == reg::DATA && !self.rx.is_empty();
        if offset & 7 != reg::LSR && !fetches {
            self.polls = 0;
        }
        match offset & 7 {
            reg::DATA if dlab => self.divisor as u8,
            reg::DATA => self.read_rbr(),
            reg::IER if dlab => (self.divisor >> 8) as u8,
            reg::IER => self.ier,
            reg::IIR_FCR => self.read_iir(),
            reg::LCR => self.lcr,
            reg::MCR => self.mcr,
            reg::LSR => self.read_lsr(),
            reg::MSR => self.modem_lines() | std::mem::take(&mut self.msr_delta),
            _ => self.scr,
        }
    }

    /// Writes a register; the result is a byte that leaves on the line.
    pub fn write(&mut self, offset: u16, value: u8) -> Option<u8> {
        let dlab = self.lcr & LCR_DLAB != 0;
        self.polls = 0;
        match offset & 7 {
            reg::DATA if dlab => self.divisor = self.divisor & 0xff00 | u16::from(value),
            reg::DATA => return self.transmit(value),
            reg::IER if dlab => self.divisor = self.divisor & 0xff | u16::from(value) << 8,
            reg::IER => self.write_ier(value & ier::ALL),
            reg::IIR_FCR => self.write_fcr(value),
            reg::LCR => self.lcr = value,
            reg::MCR => self.write_mcr(value & mcr::ALL),
            reg::SCR => self.scr = value,
            _ => {}
        }
        None
    }

    fn loopback(&self) -> bool {
        self.mcr & mcr::LOOP != 0
    }

    fn fifo_on(&self) -> bool {
        self.fcr & fcr::ENABLE != 0
    }

    fn depth(&self) -> usize {
        if self.fifo_on() { FIFO_DEPTH } else { 1 }
    }

    /// The highest-priority interrupt source, as IIR shows it (table 8-4).
    /// The line is infinitely fast in both directions, so the character
    /// timeout of an unfilled FIFO has always passed.
    fn source(&self) -> u8 {
        let trigger = TRIGGER[usize::from(self.fcr >> fcr::TRIGGER_SHIFT)];
        if self.ier & ier::RLSI != 0 && self.line_errors != 0 {
            iir::LINE
        } else if self.ier & ier::RDI != 0 && !self.rx.is_empty() {
            match self.fifo_on() && self.rx.len() < trigger {
                true => iir::TIMEOUT,
                false => iir::DATA,
            }
        } else if self.ier & ier::THRI != 0 && self.thre_pending {
            iir::THRE
        } else if self.ier & ier::MSI != 0 && self.msr_delta != 0 {
            iir::MODEM
        } else {
            iir::NONE
        }
    }

    fn read_rbr(&mut self) -> u8 {
        let byte = self.rx.pop_front().unwrap_or(0);
        self.noticed = !self.rx.is_empty();
        byte
    }

    fn read_iir(&mut self) -> u8 {
        let source = self.source();
        self.noticed |= matches!(source, iir::DATA | iir::TIMEOUT);
        if source == iir::THRE {
            self.thre_pending = false;
        }
        source | if self.fifo_on() { iir::FIFO_ON } else { 0 }
    }

    fn read_lsr(&mut self) -> u8 {
        self.polls = self.polls.saturating_add(1);
        self.noticed |= !self.rx.is_empty();
        let ready = if self.rx.is_empty() { 0 } else { lsr::DR };
        lsr::THRE | lsr::TEMT | ready | std::mem::take(&mut self.line_errors)
    }

    fn transmit(&mut self, byte: u8) -> Option<u8> {
        self.thre_pending = true;
        if self.loopback() {
            self.receive(byte);
            self.noticed = true;
            return None;
        }
        Some(byte)
    }

    /// Enabling THRI while the transmitter is empty raises it again.
    fn write_ier(&mut self, value: u8) {
        if value & !self.ier & ier::THRI != 0 {
            self.thre_pending = true;
        }
        self.ier = value;
    }

    /// Changing the enable bit empties both FIFOs; other bits count only
    /// together with it.
    fn write_fcr(&mut self, value: u8) {
        if (value ^ self.fcr) & fcr::ENABLE != 0 || value & fcr::CLEAR_RX != 0 {
            let cleared = self.rx.drain(..);
            if !std::mem::take(&mut self.noticed) {
                self.returned.extend(cleared);
            }
        }
        self.fcr = match value & fcr::ENABLE {
            0 => 0,
            _ => value & (fcr::ENABLE | 3 << fcr::TRIGGER_SHIFT),
        };
    }

    fn write_mcr(&mut self, value: u8) {
        let before = self.modem_lines();
        self.mcr = value;
        let after = self.modem_lines();
        let changed = (before ^ after) & (msr::CTS | msr::DSR | msr::DCD);
        self.msr_delta |= changed >> 4;
        // RI reports only its trailing edge.
        if before & !after & msr::RI != 0 {
            self.msr_delta |= msr::TERI;
        }
    }

    /// CTS, DSR, RI and DCD; in loopback RTS, DTR, OUT1 and OUT2 drive them.
    fn modem_lines(&self) -> u8 {
        if !self.loopback() {
            return PEER_READY;
        }
        const WIRES: [(u8, u8); 4] = [
            (mcr::RTS, msr::CTS),
            (mcr::DTR, msr::DSR),
            (mcr::OUT1, msr::RI),
            (mcr::OUT2, msr::DCD),
        ];
        let on = |(from, to): &(u8, u8)| if self.mcr & from != 0 { *to } else { 0 };
        WIRES.iter().map(on).fold(0, |a, b| a | b) & msr::LINES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIFO on with trigger 14, all interrupts of `ier`, OUT2.
    fn ready(ier: u8) -> Uart {
        let mut uart = Uart::default();
        uart.write(reg::IIR_FCR, 0xc7);
        uart.write(reg::MCR, 0x0b);
        uart.write(reg::IER, ier);
        uart
    }

    #[test]
    fn reset_values() {
        let mut uart = Uart::default();
        let want = [0x00, 0x00, 0x01, 0x00, 0x00, 0x60, 0xb0, 0x00];
        let got: Vec<u8> = (0..8).map(|r| uart.read(r)).collect();
        assert_eq!(got, want);
        assert!(!uart.irq());
    }

    #[test]
    fn divisor_hides_behind_dlab() {
        let mut uart = Uart::default();
        uart.write(reg::LCR, 0x83);
        uart.write(0, 0x34);
        uart.write(1, 0x12);
        assert_eq!((uart.read(0), uart.read(1)), (0x34, 0x12));
        uart.write(reg::LCR, 0x03);
        assert_eq!(uart.read(reg::IER), 0);
        assert_eq!(uart.write(0, b'x'), Some(b'x'));
    }

    #[test]
    fn identifies_as_16550a() {
        let mut uart = Uart::default();
        uart.write(reg::IIR_FCR, 0x01);
        assert_eq!(uart.read(reg::IIR_FCR), 0xc1);
        uart.write(reg::IIR_FCR, 0x00);
        assert_eq!(uart.read(reg::IIR_FCR), 0x01);
        uart.write(reg::SCR, 0xa5);
        assert_eq!(uart.read(reg::SCR), 0xa5);
        uart.write(reg::IER, 0xff);
        assert_eq!(uart.read(reg::IER), 0x0f);
    }

    #[test]
    fn thre_interrupt_fires_on_enable_and_after_each_byte() {
        let mut uart = ready(ier::THRI);
        assert!(uart.irq());
        assert_eq!(uart.read(reg::IIR_FCR), 0xc2);
        assert!(!uart.irq());
        assert_eq!(uart.read(reg::IIR_FCR), 0xc1);
        uart.write(reg::DATA, b'a');
        assert_eq!(uart.read(reg::IIR_FCR), 0xc2);
        uart.write(reg::IER, 0);
        uart.write(reg::IER, ier::THRI);
        assert_eq!(uart.read(reg::IIR_FCR), 0xc2);
    }

    #[test]
    fn receive_interrupt_and_timeout() {
        let mut uart = ready(ier::RDI);
        uart.receive(b'a');
        assert!(uart.irq());
        assert_eq!(uart.read(reg::IIR_FCR), 0xcc);
        (0..13).for_each(|_| uart.receive(b'b'));
        assert_eq!(uart.read(reg::IIR_FCR), 0xc4);
        assert_eq!(uart.read(reg::DATA), b'a');
        assert_eq!(uart.read(reg::IIR_FCR), 0xcc);
        (0..13).for_each(|_| assert_eq!(uart.read(reg::DATA), b'b'));
        assert!(!uart.irq());
        assert_eq!(uart.read(reg::LSR), 0x60);
    }

    #[test]
    fn overrun_keeps_the_fifo_and_reports_once() {
        let mut uart = ready(ier::RDI | ier::RLSI);
        (0..17).for_each(|i| uart.receive(i));
        assert_eq!(uart.read(reg::IIR_FCR), 0xc6);
        assert_eq!(uart.read(reg::LSR), 0x63);
        assert_eq!(uart.read(reg::LSR), 0x61);
        let got: Vec<u8> = (0..16).map(|_| uart.read(reg::DATA)).collect();
        assert_eq!(got, (0..16).collect::<Vec<u8>>());
    }

    #[test]
    fn receiver_holds_one_byte_without_fifo() {
        let mut uart = Uart::default();
        uart.write(reg::IER, ier::RDI);
        assert_eq!(uart.rx_room(), 1);
        uart.receive(1);
        assert_eq!(uart.rx_room(), 0);
        uart.receive(2);
        assert_eq!(uart.read(reg::LSR), 0x63);
        assert_eq!(uart.read(reg::DATA), 1);
    }

    #[test]
    fn takes_input_only_from_a_listening_guest() {
        let mut uart = Uart::default();
        uart.write(reg::IIR_FCR, 0x01);
        assert_eq!(uart.rx_room(), 0);
        // A console that prints does not listen.
        for _ in 0..100 {
            uart.read(reg::LSR);
            uart.write(reg::DATA, b'.');
        }
        assert_eq!(uart.rx_room(), 0);
        // A polling reader does.
        for _ in 0..64 {
            uart.read(reg::LSR);
        }
        assert_eq!(uart.rx_room(), FIFO_DEPTH);
        uart.write(reg::DATA, b'.');
        assert_eq!(uart.rx_room(), 0);
        uart.write(reg::IER, ier::RDI);
        assert_eq!(uart.rx_room(), FIFO_DEPTH);
    }

    #[test]
    fn bytes_cleared_unseen_come_again() {
        // As Linux sets a port up: interrupts on, then FIFOs on.
        let mut uart = Uart::default();
        uart.write(reg::IER, ier::RDI);
        uart.receive(b'e');
        uart.write(reg::IIR_FCR, 0x01);
        assert_eq!(uart.read(reg::LSR), 0x60);
        assert_eq!(uart.take_returned(), b"e");
        assert_eq!(uart.take_returned(), b"");
        // What the guest saw and cleared is gone.
        for look in [reg::LSR, reg::IIR_FCR] {
            uart.receive(b'x');
            uart.read(look);
            uart.write(reg::IIR_FCR, 0x03);
            assert_eq!(uart.take_returned(), b"");
        }
    }

    #[test]
    fn loopback_as_drivers_probe_it() {
        let mut uart = Uart::default();
        uart.write(reg::MCR, 0x1a); // LOOP | OUT2 | RTS
        assert_eq!(uart.read(reg::MSR) & 0xf0, 0x90); // DCD | CTS
        assert_eq!(uart.write(reg::DATA, 0x55), None);
        assert_eq!(uart.read(reg::LSR), 0x61);
        assert_eq!(uart.read(reg::DATA), 0x55);
        uart.write(reg::MCR, 0x0b);
        assert_eq!(uart.read(reg::MSR) & 0xf0, 0xb0);
    }

    #[test]
    fn modem_deltas_and_trailing_ri() {
        let mut uart = Uart::default();
        uart.write(reg::IER, ier::MSI);
        uart.write(reg::MCR, 0x1c); // LOOP | OUT2 | OUT1: CTS and DSR fall
        assert!(uart.irq());
        assert_eq!(uart.read(reg::IIR_FCR), 0x00);
        assert_eq!(uart.read(reg::MSR), 0xc3);
        assert!(!uart.irq());
        uart.write(reg::MCR, 0x18); // OUT1 falls: RI's trailing edge
        assert_eq!(uart.read(reg::MSR), 0x84);
    }

    #[test]
    fn out2_gates_the_line() {
        let mut uart = ready(ier::THRI);
        uart.write(reg::MCR, 0x03);
        assert!(!uart.irq());
        assert_eq!(uart.read(reg::IIR_FCR), 0xc2);
    }

    #[test]
    fn a_break_is_a_null_with_bi() {
        let mut uart = ready(ier::RLSI | ier::RDI);
        uart.receive_break();
        assert_eq!(uart.read(reg::IIR_FCR), 0xc6);
        assert_eq!(uart.read(reg::LSR), 0x71);
        assert_eq!(uart.read(reg::DATA), 0);
    }
}
