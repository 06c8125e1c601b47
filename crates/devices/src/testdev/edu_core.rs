//! The registers of the educational device (QEMU docs/specs/edu).

mod saved;

/// Where the device's own buffer is, as DMA addresses it.
const BUFFER: u64 = 0x4_0000;
const BUFFER_SIZE: usize = 4096;
/// Addresses the device can reach unless told otherwise: 28 bits.
pub const DMA_MASK: u64 = (1 << 28) - 1;
/// A transfer takes this long.
pub(super) const DMA_TIME_NS: u64 = 100_000_000;

/// Major 1, minor 0, "ed".
const IDENTIFICATION: u32 = 0x0100_00ed;
/// Status: raise an interrupt after the factorial. "Computing" is never seen:
/// it is done before the write returns.
const STATUS_INTERRUPT: u32 = 0x80;
const FACTORIAL_INTERRUPT: u32 = 0x001;
const DMA_INTERRUPT: u32 = 0x100;
const DMA_RUN: u64 = 1;
const DMA_TO_RAM: u64 = 2;
const DMA_WITH_INTERRUPT: u64 = 4;

mod at {
    pub const ID: u64 = 0x00;
    pub const LIVENESS: u64 = 0x04;
    pub const FACTORIAL: u64 = 0x08;
    pub const STATUS: u64 = 0x20;
    pub const INTERRUPTS: u64 = 0x24;
    pub const RAISE: u64 = 0x60;
    pub const ACKNOWLEDGE: u64 = 0x64;
    pub const DMA: u64 = 0x80;
    pub const DMA_COMMAND: u64 = 0x98;
}

/// A transfer that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Transfer {
    /// Into guest memory, or out of it.
    pub(super) to_ram: bool,
    /// Guest-physical address.
    pub(super) gpa: u64,
    /// First byte in the buffer.
    pub(super) at: usize,
    /// Bytes.
    pub(super) len: usize,
}

/// The registers and the buffer.
pub(super) struct Core {
    liveness: u32,
    factorial: u32,
    status: u32,
    interrupts: u32,
    /// Source, destination, count, command.
    dma: [u64; 4],
    /// When the present transfer is done, on the device's clock.
    pub(super) due: Option<u64>,
    pub(super) buffer: Vec<u8>,
    mask: u64,
}

impl Core {
    pub(super) fn new(mask: u64) -> Self {
        Self {
            liveness: 0,
            factorial: 0,
            status: 0,
            interrupts: 0,
            dma: [0; 4],
            due: None,
            buffer: vec![0; BUFFER_SIZE],
            mask,
        }
    }

    /// The device asks for an interrupt.
    pub(super) fn interrupts(&self) -> bool {
        self.interrupts != 0
    }

    /// Reads a register: 32 bits wide, from 0x80 on also 64. Another width
    /// reads as 0, what is not there as ones.
    pub(super) fn read(&self, offset: u64, size: u8) -> u64 {
        match (size, offset) {
            (0..4, _) => 0,
            (4, at::ID) => IDENTIFICATION.into(),
            (4, at::LIVENESS) => self.liveness.into(),
            (4, at::FACTORIAL) => self.factorial.into(),
            (4, at::STATUS) => self.status.into(),
            (4, at::INTERRUPTS) => self.interrupts.into(),
            (_, at::DMA..=at::DMA_COMMAND) if offset.is_multiple_of(8) => {
                self.dma[(offset - at::DMA) as usize / 8]
            }
            _ => u64::MAX,
        }
    }

    /// Writes a register; true if an interrupt was asked for. `now` is the
    /// time in ns.
    pub(super) fn write(&mut self, offset: u64, size: u8, value: u64, now: u64) -> bool {
        let word = value as u32;
        match (size, offset) {
            (4, at::LIVENESS) => self.liveness = !word,
            (4, at::FACTORIAL) => {
                self.factorial = factorial(word);
                if self.status & STATUS_INTERRUPT != 0 {
                    return self.raise(FACTORIAL_INTERRUPT);
                }
            }
            (4, at::STATUS) => self.status = word & STATUS_INTERRUPT,
            (4, at::RAISE) => return self.raise(word),
            (4, at::ACKNOWLEDGE) => self.interrupts &= !word,
            (4 | 8, at::DMA_COMMAND) if value & DMA_RUN == 0 => {}
            (4 | 8, at::DMA..=at::DMA_COMMAND)
                if offset.is_multiple_of(8) && self.due.is_none() =>
            {
                self.dma[(offset - at::DMA) as usize / 8] = value;
                if offset == at::DMA_COMMAND {
                    self.due = Some(now.saturating_add(DMA_TIME_NS));
                }
            }
            _ => {}
        }
        false
    }

    fn raise(&mut self, bits: u32) -> bool {
        self.interrupts |= bits;
        self.interrupts()
    }

    /// The transfer that is due at `now`; a range outside of the buffer makes
    /// none (QEMU stops there).
    pub(super) fn due_transfer(&mut self, now: u64) -> Option<Option<Transfer>> {
        self.due = Some(self.due.take()?).filter(|&due| due > now);
        if self.due.is_some() {
            return None;
        }
        let [source, destination, count, command] = self.dma;
        let to_ram = command & DMA_TO_RAM != 0;
        let (ours, gpa) = match to_ram {
            true => (source, destination),
            false => (destination, source),
        };
        let transfer = || {
            let at = usize::try_from(ours.checked_sub(BUFFER)?).ok()?;
            let len = usize::try_from(count).ok()?;
            let inside = at.checked_add(len)? <= BUFFER_SIZE;
            let gpa = gpa & self.mask;
            inside.then_some(Transfer {
                to_ram,
                gpa,
                at,
                len,
            })
        };
        Some(transfer())
    }

    /// The transfer is done; true if an interrupt was asked for.
    pub(super) fn finish_transfer(&mut self) -> bool {
        self.dma[3] &= !DMA_RUN;
        match self.dma[3] & DMA_WITH_INTERRUPT {
            0 => false,
            _ => self.raise(DMA_INTERRUPT),
        }
    }
}

/// n! modulo 2^32, which is 0 from 34 on: the product has 32 factors 2.
fn factorial(n: u32) -> u32 {
    match n {
        34.. => 0,
        n => (1..=n).fold(1, u32::wrapping_mul),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What QEMU 10 answers through its qtest interface.
    #[test]
    fn registers_answer_as_qemus() {
        let mut core = Core::new(DMA_MASK);
        core.write(0x04, 4, 0x1234_5678, 0);
        let reads = [
            (0x00, 4),
            (0x04, 4),
            (0x00, 2),
            (0x00, 8),
            (0x60, 4),
            (0x40000, 4),
        ];
        let got = reads.map(|(offset, size)| core.read(offset, size));
        let ones = u64::MAX;
        assert_eq!(got, [0x0100_00ed, 0xedcb_a987, 0, ones, ones, ones]);
        core.write(0x20, 4, 0xff, 0);
        assert_eq!(core.read(0x20, 4), 0x80);
        assert!(core.write(0x08, 4, 5, 0));
        assert_eq!((core.read(0x08, 4), core.read(0x24, 4)), (120, 1));
        core.write(0x60, 4, 6, 0);
        core.write(0x64, 4, 1, 0);
        assert_eq!(core.read(0x24, 4), 6);
        core.write(0x80, 8, 0x1122_3344_5566_7788, 0);
        assert_eq!(core.read(0x80, 8), 0x1122_3344_5566_7788);
        core.write(0x80, 4, 0x77, 0);
        assert_eq!((core.read(0x80, 8), core.read(0x80, 1)), (0x77, 0));
        assert_eq!(core.read(0x84, 4), ones);
    }

    #[test]
    fn factorials_wrap() {
        assert_eq!([0, 1, 5, 13].map(factorial), [1, 1, 120, 1_932_053_504]);
        let slow = (1..=33u32).fold(1, u32::wrapping_mul);
        assert_eq!(
            (factorial(33), factorial(34), factorial(u32::MAX)),
            (slow, 0, 0)
        );
    }

    #[test]
    fn a_transfer_takes_its_time_and_stays_in_the_buffer() {
        let mut core = Core::new(DMA_MASK);
        let start = |core: &mut Core, registers: [u64; 4]| {
            for (i, value) in registers.into_iter().enumerate() {
                core.write(0x80 + 8 * i as u64, 8, value, 1000);
            }
        };
        start(&mut core, [0x1_1000_2000, 0x40100, 100, 5]);
        // Registers do not change while it runs.
        core.write(0x90, 4, 7, 1000);
        assert_eq!(core.due_transfer(1000), None);
        let transfer = Transfer {
            to_ram: false,
            gpa: 0x2000,
            at: 0x100,
            len: 100,
        };
        assert_eq!(core.due_transfer(1000 + DMA_TIME_NS), Some(Some(transfer)));
        assert!(core.finish_transfer());
        assert_eq!((core.read(0x98, 8), core.read(0x24, 4)), (4, 0x100));
        assert_eq!(core.due_transfer(u64::MAX), None);
        for bad in [[0, 0, 1, 3], [0x40fff, 0, 2, 3], [u64::MAX, 0, u64::MAX, 3]] {
            start(&mut core, bad);
            assert_eq!(core.due_transfer(u64::MAX), Some(None));
            core.finish_transfer();
        }
    }
}
