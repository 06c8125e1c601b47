//! The PIRQ router of the ISA bridges (PIIX3 datasheet, PIRQRC; ICH9
//! datasheet, PIRQx_ROUT): every PCI interrupt line reaches the ISA interrupt
//! that its route register names, and on ICH9 also a pin of the I/O APIC.

use crate::{IrqLine, OrGate};
use parking_lot::Mutex;
use std::sync::Arc;

/// Route register: the line reaches no ISA interrupt.
pub const ROUTE_OFF: u8 = 0x80;
/// Route register: number of the ISA interrupt.
const ROUTE_IRQ: u8 = 0x0f;

/// Where the lines lead.
pub struct PirqOutputs {
    /// ISA interrupts that can be routed to, by number.
    pub isa: Vec<(u8, Arc<dyn IrqLine>)>,
    /// A pin of the I/O APIC for each PIRQ; none on PIIX3.
    pub apic: Vec<Arc<dyn IrqLine>>,
}

/// The router; PIRQA is number 0.
pub struct PirqRouter {
    /// Held while outputs are driven, so that they end at the last level.
    state: Mutex<State>,
    outputs: PirqOutputs,
}

struct State {
    /// Level and route register of each PIRQ.
    lines: Vec<(bool, u8)>,
    /// Level of each ISA output.
    driven: Vec<bool>,
}

impl PirqRouter {
    /// `lines` lines, all low and routed nowhere.
    pub fn new(lines: usize, outputs: PirqOutputs) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                lines: vec![(false, ROUTE_OFF); lines],
                driven: vec![false; outputs.isa.len()],
            }),
            outputs,
        })
    }

    /// Line `number` as something that several pins can share.
    pub fn line(self: &Arc<Self>, number: usize) -> Arc<OrGate> {
        OrGate::new(Arc::new(Line {
            router: self.clone(),
            number,
        }))
    }

    /// Takes over a route register; lines that do not exist have none.
    pub fn set_route(&self, number: usize, value: u8) {
        let mut state = self.state.lock();
        if let Some((_, route)) = state.lines.get_mut(number) {
            *route = value;
        }
        self.drive(&mut state);
    }

    /// The same after a saved state was restored: the interrupt controllers
    /// know the levels already.
    pub fn restore_route(&self, number: usize, value: u8) {
        let mut state = self.state.lock();
        if let Some((_, route)) = state.lines.get_mut(number) {
            *route = value;
        }
        self.settle(&mut state);
    }

    fn restore_level(&self, number: usize, high: bool) {
        let mut state = self.state.lock();
        if let Some((level, _)) = state.lines.get_mut(number) {
            *level = high;
        }
        self.settle(&mut state);
    }

    /// Takes the outputs to be as the lines say, without driving them.
    fn settle(&self, state: &mut State) {
        let State { lines, driven } = state;
        for ((irq, _), driven) in self.outputs.isa.iter().zip(driven) {
            *driven = is_high(lines, *irq);
        }
    }

    fn set_level(&self, number: usize, high: bool) {
        let mut state = self.state.lock();
        if let Some((level, _)) = state.lines.get_mut(number) {
            *level = high;
        }
        if let Some(pin) = self.outputs.apic.get(number) {
            pin.set_level(high);
        }
        self.drive(&mut state);
    }

    /// An ISA interrupt is high while a line routed to it is.
    fn drive(&self, state: &mut State) {
        let State { lines, driven } = state;
        for ((irq, output), driven) in self.outputs.isa.iter().zip(driven) {
            let level = is_high(lines, *irq);
            if level != *driven {
                *driven = level;
                output.set_level(level);
            }
        }
    }
}

/// A line routed to ISA interrupt `irq` is high.
fn is_high(lines: &[(bool, u8)], irq: u8) -> bool {
    let reaches = |route: u8| route & ROUTE_OFF == 0 && route & ROUTE_IRQ == irq;
    lines.iter().any(|&(high, route)| high && reaches(route))
}

struct Line {
    router: Arc<PirqRouter>,
    number: usize,
}

impl IrqLine for Line {
    fn set_level(&self, high: bool) {
        self.router.set_level(self.number, high);
    }
    fn restore_level(&self, high: bool) {
        self.router.restore_level(self.number, high);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[derive(Default)]
    struct Probe(AtomicBool);

    impl IrqLine for Probe {
        fn set_level(&self, high: bool) {
            self.0.store(high, Ordering::SeqCst);
        }
    }

    impl Probe {
        fn high(&self) -> bool {
            self.0.load(Ordering::SeqCst)
        }
    }

    #[test]
    fn routes_move_a_line_that_is_high() {
        let [ten, eleven, pin] = [(); 3].map(|()| Arc::new(Probe::default()));
        let router = PirqRouter::new(
            2,
            PirqOutputs {
                isa: vec![(10, ten.clone()), (11, eleven.clone())],
                apic: vec![pin.clone()],
            },
        );
        let a = router.line(0).input();
        let b = router.line(1).input();
        a.set_level(true);
        assert_eq!(
            (ten.high(), eleven.high(), pin.high()),
            (false, false, true)
        );
        router.set_route(0, 10);
        router.set_route(1, 10);
        assert!(ten.high());
        b.set_level(true);
        a.set_level(false);
        assert_eq!((ten.high(), pin.high()), (true, false), "B is on 10 too");
        router.set_route(1, 11);
        assert_eq!((ten.high(), eleven.high()), (false, true));
        router.set_route(1, ROUTE_OFF | 11);
        assert!(!eleven.high());
        // Neither an interrupt nor a line that exists.
        router.set_route(1, 3);
        router.set_route(7, 10);
        assert!(!ten.high() && !eleven.high());
    }
}
