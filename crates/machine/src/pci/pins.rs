//! Interrupt pins of PCI: which line of the board each reaches.

use super::Connections;
use crate::boards::PciKind;
use devices::pci::{PIRQ_IRQ, PciRoot, PirqOutputs, PirqRouter, Place};
use devices::{IrqLine, OrGate};
use std::sync::Arc;

/// ISA interrupts that a PIRQ can be routed to: those that no other device of
/// the board drives.
const ROUTABLE: [u8; 3] = [5, 10, 11];

/// The board's PIRQ lines, each shared by many pins.
pub(super) struct Pins {
    kind: &'static PciKind,
    lines: Vec<Arc<OrGate>>,
}

impl Pins {
    pub(super) fn new(kind: &'static PciKind, router: &Arc<PirqRouter>) -> Self {
        let lines = (0..kind.pirqs).map(|n| router.line(n)).collect();
        Self { kind, lines }
    }

    /// A new input for pin INTA of a place.
    pub(super) fn inta(&self, root: &PciRoot, place: Place) -> Arc<dyn IrqLine> {
        self.lines[pirq(self.kind, root, place, 1)].input()
    }
}

/// The line that a pin (1 to 4) reaches, through the bridges in front of it.
fn pirq(kind: &PciKind, root: &PciRoot, place: Place, pin: u8) -> usize {
    let (slot, pin) = root.pin_at_root(place, pin);
    (kind.pirq)(slot, pin)
}

/// What firmware writes into the interrupt line register: PIRQE to PIRQH are
/// routed as PIRQA to PIRQD.
pub(super) fn line(kind: &PciKind, root: &PciRoot, place: Place, pin: u8) -> u8 {
    PIRQ_IRQ[pirq(kind, root, place, pin) % PIRQ_IRQ.len()]
}

pub(super) fn router(kind: &PciKind, to: &Connections<'_>) -> Arc<PirqRouter> {
    let line = |gsi| (to.line)(to.vm, gsi);
    let isa = ROUTABLE.map(|irq| (irq, line(irq.into())));
    let apic = kind
        .apic_first
        .map(|first| first..first + kind.pirqs as u32);
    let outputs = PirqOutputs {
        isa: isa.to_vec(),
        apic: apic.into_iter().flatten().map(line).collect(),
    };
    PirqRouter::new(kind.pirqs, outputs)
}
