//! The interrupt controllers.

use crate::input::Input;
use irqchip::{Chipset, Clock, IOAPIC_BASE, IoApicState, LAPIC_PAGE, PicState, Route, Routing};

/// vCPUs.
const CPUS: usize = 3;
/// Steps after which an input has had its say.
const STEPS: usize = 400;

struct World {
    chips: Chipset,
    now_ns: u64,
}

/// A stream of accesses, lines, messages, acknowledgements and time.
pub(super) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut chips = Chipset::new(39);
    (0..CPUS).for_each(|id| {
        chips.add_lapic(id as u32);
    });
    if input.flag() {
        chips.add_pit();
    }
    let mut world = World { chips, now_ns: 0 };
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        world.step(&mut input);
        world.settle();
    }
}

impl World {
    fn step(&mut self, input: &mut Input<'_>) {
        let now = self.now_ns;
        let cpu = input.below(CPUS);
        let chips = &mut self.chips;
        match input.below(12) {
            0 => self.now_ns = self.now_ns.saturating_add(input.span_ns()).min(1 << 62),
            1 => {
                let ports = [
                    0x20, 0x21, 0xa0, 0xa1, 0x40, 0x41, 0x42, 0x43, 0x61, 0x4d0, 0x4d1,
                ];
                let port = ports[input.below(ports.len())];
                if chips.owns_port(port) {
                    match input.flag() {
                        true => chips.pio_write(port, input.u8(), now),
                        false => drop(chips.pio_read(port, now)),
                    }
                }
            }
            2 => ioapic(chips, input),
            3 => {
                let (offset, size) = (u32::from(input.u16()) & 0xfff, [1, 2, 4, 8][input.below(4)]);
                match input.flag() {
                    true => chips.lapic_write(cpu, offset, size, input.u64(), now),
                    false => drop(chips.lapic_read(cpu, offset, size, now)),
                }
            }
            4 => x2apic(chips, cpu, input, now),
            5 => drop(chips.set_gsi(u32::from(input.u8()), input.flag())),
            6 => drop(chips.msi(
                0xfee0_0000 | input.u64() & 0xffff_ffff_000f_ffff,
                input.u32(),
            )),
            7 => {
                let base = 0xfee0_0000 | u64::from(input.u16());
                match input.flag() {
                    true => drop(chips.write_apic_base(cpu, base)),
                    false => drop(chips.set_apic_base(cpu, input.u64())),
                }
            }
            8 => chips.set_tsc_deadline(cpu, input.u64(), &clock(now)),
            9 => chips.set_cr8(cpu, input.u64()),
            10 => events(chips, cpu, input),
            _ => restore(chips, cpu, input, now),
        }
    }

    /// What an engine does after every access: nothing is due in the past,
    /// and what is pending can be taken.
    fn settle(&mut self) {
        self.chips.advance(self.now_ns);
        let next = self.chips.next_deadline();
        assert!(
            next.is_none_or(|t| t > self.now_ns),
            "{next:?} at {}",
            self.now_ns
        );
        assert!(self.chips.take_attention().all(|cpu| cpu < CPUS));
        for cpu in 0..CPUS {
            if self.chips.pending_interrupt(cpu) {
                assert!(self.chips.ack_interrupt(cpu).is_some());
            }
        }
    }
}

fn clock(now_ns: u64) -> Clock {
    Clock {
        now_ns,
        tsc: now_ns.wrapping_mul(2),
        tsc_khz: 2_000_000,
    }
}

fn ioapic(chips: &mut Chipset, input: &mut Input<'_>) {
    let offset = u32::from(input.u8());
    assert!(chips.ioapic_owns_gpa(IOAPIC_BASE + u64::from(offset)));
    match input.below(3) {
        0 => drop(chips.ioapic_read(offset)),
        1 => chips.ioapic_write(offset, input.u32()),
        _ => {
            chips.ioapic_write(0, input.u8().into());
            chips.ioapic_write(0x10, input.u32());
        }
    }
}

fn x2apic(chips: &mut Chipset, cpu: usize, input: &mut Input<'_>, now: u64) {
    let index = 0x800 + u32::from(input.u8());
    let _ = match input.flag() {
        true => chips.x2apic_write(cpu, index, input.u64(), now),
        false => chips.x2apic_read(cpu, index, now).map(drop),
    };
}

fn events(chips: &mut Chipset, cpu: usize, input: &mut Input<'_>) {
    match input.below(6) {
        0 => drop(chips.take_nmi(cpu)),
        1 => drop(chips.take_init(cpu)),
        2 => drop(chips.take_sipi(cpu)),
        3 => chips.nmi(cpu),
        4 => drop(chips.send_ipi(input.u64().into(), input.u32(), input.u32())),
        _ => {
            let routes = (0..input.u8() & 31).map(|_| {
                let gsi = u32::from(input.u16());
                let pin = input.u8();
                let route = match input.below(3) {
                    0 => Route::Pic(pin),
                    1 => Route::IoApic(pin),
                    _ => Route::Msi {
                        address: 0xfee0_0000 | u64::from(input.u32()),
                        data: input.u32(),
                    },
                };
                (gsi, route)
            });
            let routes: Vec<_> = routes.collect();
            if let Ok(routing) = Routing::new(routes) {
                chips.set_routing(routing);
            }
        }
    }
}

/// Saved state of a stranger.
fn restore(chips: &mut Chipset, cpu: usize, input: &mut Input<'_>, now: u64) {
    match input.below(4) {
        0 => {
            let mut page = [0; LAPIC_PAGE];
            for slot in page.chunks_mut(16) {
                slot[..4].copy_from_slice(&input.u32().to_le_bytes());
            }
            chips.set_lapic_page(cpu, &page, now);
        }
        1 => {
            let state = PicState::default();
            chips.set_pic_state(input.below(2), &pic(state, input));
        }
        2 => {
            let mut state = IoApicState {
                ioregsel: input.u32(),
                id: input.u32(),
                irr: input.u32(),
                ..IoApicState::default()
            };
            state.redirtbl.iter_mut().for_each(|e| *e = input.u64());
            chips.set_ioapic_state(&state);
        }
        _ => {
            let (counts, modes) = (input.u32(), input.u32());
            if let Some(pit) = chips.pit() {
                let mut state = pit.state(now);
                for channel in &mut state.channels {
                    channel.count = counts & 0x1_ffff;
                    channel.mode = modes as u8;
                    channel.read_state = (modes >> 8) as u8;
                    channel.count_load_time = i64::from(counts);
                }
                pit.set_state(&state, now);
            }
        }
    }
}

fn pic(mut s: PicState, input: &mut Input<'_>) -> PicState {
    for field in [
        &mut s.last_irr,
        &mut s.irr,
        &mut s.imr,
        &mut s.isr,
        &mut s.priority_add,
        &mut s.irq_base,
        &mut s.init_state,
        &mut s.elcr,
    ] {
        *field = input.u8();
    }
    s
}
