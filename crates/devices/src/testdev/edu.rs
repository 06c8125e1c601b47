//! `edu` on the PCI bus: registers, MSI or INTx, and its DMA engine.

use super::edu_core::Core;
use crate::pci::{
    Bar, BarKind, ConfigSpace, Identity, Msi, MsiLayout, PciFunction, Window, command,
};
use crate::stateful::impossible;
use crate::timed::{Timed, Waker};
use crate::{Clock, Dma, Effect, IrqLine, MsiSink, Stateful};
use parking_lot::Mutex;
use state::{Image, Result};
use std::sync::Arc;

const MEMORY: Bar = Bar {
    kind: BarKind::Memory32,
    size: 1 << 20,
};

/// What the function is connected to.
pub struct EduWiring {
    /// Its interrupt pin.
    pub intx: Arc<dyn IrqLine>,
    /// For its messages.
    pub msi: Arc<dyn MsiSink>,
    /// Guest memory.
    pub dma: Arc<dyn Dma>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Who waits for its deadlines.
    pub waker: Waker,
}

/// The function.
pub struct Edu {
    state: Mutex<State>,
    wiring: EduWiring,
}

struct State {
    core: Core,
    config: ConfigSpace,
    msi: Msi,
}

impl Edu {
    /// A function whose DMA reaches the addresses in `mask`.
    pub fn new(mask: u64, wiring: EduWiring) -> Arc<Self> {
        let mut config = ConfigSpace::new(&Identity {
            vendor: 0x1234,
            device: 0x11e8,
            revision: 0x10,
            class: 0x00_ff_00,
            subsystem: (0x1af4, 0x1100),
        });
        config.add_bar(0, MEMORY);
        config.set_interrupt_pin(1);
        let layout = MsiLayout {
            vectors: 1,
            wide: true,
            maskable: false,
        };
        let msi = Msi::new(&mut config, layout);
        let core = Core::new(mask);
        let state = Mutex::new(State { core, config, msi });
        Arc::new(Self { state, wiring })
    }

    /// Tells the interrupt controllers; `asked` if one was asked for now.
    fn update(&self, state: &mut State, asked: bool) {
        let high = state.core.interrupts();
        if state.msi.enabled(&state.config) {
            self.wiring.intx.set_level(false);
            let message = match asked {
                true => state.msi.raise(&mut state.config, 0),
                false => None,
            };
            if let Some((address, data)) = message {
                self.wiring.msi.send(address, data);
            }
        } else {
            let level = state.config.drive_intx(high);
            self.wiring.intx.set_level(level);
        }
    }

    /// Carries out the transfer that is due at `now`, if one is.
    fn transfer(&self, state: &mut State, now: u64) {
        let Some(transfer) = state.core.due_transfer(now) else {
            return;
        };
        let master = state.config.command() & command::MASTER != 0;
        if let Some(t) = transfer.filter(|_| master) {
            let bytes = &mut state.core.buffer[t.at..t.at + t.len];
            // What is not RAM reads as ones and swallows writes, as on a bus.
            let done = match t.to_ram {
                true => self.wiring.dma.write(t.gpa, bytes),
                false => self.wiring.dma.read(t.gpa, bytes),
            };
            if !done && !t.to_ram {
                bytes.fill(0xff);
            }
        }
        let asked = state.core.finish_transfer();
        self.update(state, asked);
    }
}

impl Timed for Edu {
    fn run_due(&self) -> Option<u64> {
        let mut state = self.state.lock();
        self.transfer(&mut state, self.wiring.clock.monotonic_ns());
        state.core.due
    }
}

impl Stateful for Edu {
    fn save(&self, instance: &str, image: &mut Image) -> Result<()> {
        let state = self.state.lock();
        state.config.save(instance, image);
        let now = self.wiring.clock.monotonic_ns();
        image.put(instance, &state.core.saved(now));
        Ok(())
    }

    fn restore(&self, instance: &str, image: &mut Image) -> Result<()> {
        let mut state = self.state.lock();
        state.config.restore(instance, image)?;
        let now = self.wiring.clock.monotonic_ns();
        if !state.core.restore(&image.take(instance)?, now) {
            return Err(impossible("edu", instance, "its buffer has another size"));
        }
        let State { core, config, msi } = &mut *state;
        let level = !msi.enabled(config) && config.drive_intx(core.interrupts());
        self.wiring.intx.restore_level(level);
        self.wiring.waker.wake();
        Ok(())
    }
}

impl PciFunction for Edu {
    fn stateful(&self) -> Option<&dyn Stateful> {
        Some(self)
    }
    fn config_read(&self, offset: u16, size: u8) -> u32 {
        self.state.lock().config.read(offset, size)
    }
    fn config_write(&self, offset: u16, size: u8, value: u32) -> Option<Effect> {
        let mut state = self.state.lock();
        state.config.write(offset, size, value);
        self.update(&mut state, false);
        None
    }
    fn bars(&self) -> Vec<(u8, Bar)> {
        self.state.lock().config.bars()
    }
    fn windows(&self) -> Vec<Window> {
        self.state.lock().config.windows()
    }
    fn bar_read(&self, _bar: u8, offset: u64, size: u8) -> u64 {
        self.state.lock().core.read(offset, size)
    }
    fn bar_write(&self, _bar: u8, offset: u64, size: u8, value: u64) -> Option<Effect> {
        let mut state = self.state.lock();
        let now = self.wiring.clock.monotonic_ns();
        let before = state.core.due;
        let asked = state.core.write(offset, size, value, now);
        self.update(&mut state, asked);
        if state.core.due != before {
            self.wiring.waker.wake();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::edu_core::{DMA_MASK, DMA_TIME_NS};
    use super::*;
    use crate::ManualClock;

    /// Guest memory, an interrupt pin and the way of messages.
    #[derive(Default)]
    struct Host {
        memory: Mutex<Vec<u8>>,
        levels: Mutex<Vec<bool>>,
        messages: Mutex<Vec<(u64, u32)>>,
    }
    impl IrqLine for Host {
        fn set_level(&self, high: bool) {
            self.levels.lock().push(high);
        }
    }
    impl MsiSink for Host {
        fn send(&self, address: u64, data: u32) {
            self.messages.lock().push((address, data));
        }
    }
    impl Dma for Host {
        fn read(&self, gpa: u64, bytes: &mut [u8]) -> bool {
            let memory = self.memory.lock();
            let range = memory.get(gpa as usize..gpa as usize + bytes.len());
            range.map(|r| bytes.copy_from_slice(r)).is_some()
        }
        fn write(&self, gpa: u64, bytes: &[u8]) -> bool {
            let mut memory = self.memory.lock();
            let range = memory.get_mut(gpa as usize..gpa as usize + bytes.len());
            range.map(|r| r.copy_from_slice(bytes)).is_some()
        }
    }

    fn device() -> (Arc<Edu>, Arc<Host>, Arc<ManualClock>) {
        let host = Arc::new(Host::default());
        *host.memory.lock() = (0..4096u32).map(|i| i as u8).collect();
        let clock = Arc::new(ManualClock::at(0));
        let wiring = EduWiring {
            intx: host.clone(),
            msi: host.clone(),
            dma: host.clone(),
            clock: clock.clone(),
            waker: Waker::default(),
        };
        let edu = Edu::new(DMA_MASK, wiring);
        edu.config_write(4, 2, 0x6);
        (edu, host, clock)
    }

    fn transfer(edu: &Edu, registers: [u64; 4]) {
        for (i, value) in registers.into_iter().enumerate() {
            edu.bar_write(0, 0x80 + 8 * i as u64, 8, value);
        }
    }

    #[test]
    fn memory_goes_there_and_back() {
        let (edu, host, clock) = device();
        transfer(&edu, [0x100, 0x40000, 16, 1]);
        assert_eq!(edu.run_due(), Some(DMA_TIME_NS));
        clock.advance_ns(DMA_TIME_NS);
        assert_eq!(edu.run_due(), None);
        transfer(&edu, [0x40000, 0x800, 16, 7]);
        clock.advance_ns(DMA_TIME_NS);
        assert_eq!(edu.run_due(), None);
        let memory = host.memory.lock();
        assert_eq!(memory[0x800..0x810], memory[0x100..0x110]);
        assert_eq!(edu.bar_read(0, 0x24, 4), 0x100);
        assert_eq!(host.levels.lock().last(), Some(&true));
    }

    #[test]
    fn interrupts_by_pin_and_by_message() {
        let (edu, host, _) = device();
        edu.bar_write(0, 0x60, 4, 1);
        assert_eq!(host.levels.lock().last(), Some(&true));
        edu.bar_write(0, 0x64, 4, 1);
        assert_eq!(host.levels.lock().last(), Some(&false));
        // QEMU's layout: one message, 64-bit address.
        assert_eq!(edu.config_read(0x40, 4), 0x0080_0005);
        edu.config_write(0x44, 4, 0xfee0_1000);
        edu.config_write(0x4c, 4, 0x4041);
        edu.config_write(0x42, 2, 1);
        edu.bar_write(0, 0x60, 4, 2);
        edu.bar_write(0, 0x64, 4, 2);
        assert_eq!(*host.messages.lock(), [(0xfee0_1000, 0x4041)]);
        assert_eq!(host.levels.lock().last(), Some(&false));
    }

    #[test]
    fn without_bus_mastering_nothing_moves() {
        let (edu, host, clock) = device();
        edu.config_write(4, 2, 0x2);
        transfer(&edu, [0x40000, 0x800, 16, 3]);
        clock.advance_ns(DMA_TIME_NS);
        edu.run_due();
        assert_eq!(host.memory.lock()[0x801], 1);
    }
}
