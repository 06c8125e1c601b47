//! GSI routing of a PC: the 16 ISA interrupts reach both the 8259 pair and
//! the I/O APIC, where the timer (0) sits on pin 2; 16 to 23 only the latter.

use hv::abi::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    kvm_irq_routing_entry, kvm_irq_routing_irqchip,
};

/// The 8259 input that cascades the second chip.
const CASCADE: u32 = 2;
const IOAPIC_PINS: u32 = 24;

fn entry(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        ..Default::default()
    };
    entry.u.irqchip = kvm_irq_routing_irqchip { irqchip, pin };
    entry
}

/// The routing table.
pub fn pc() -> Vec<kvm_irq_routing_entry> {
    let isa = (0..16).filter(|&gsi| gsi != CASCADE);
    let pic = isa.map(|gsi| match gsi {
        0..8 => entry(gsi, KVM_IRQCHIP_PIC_MASTER, gsi),
        _ => entry(gsi, KVM_IRQCHIP_PIC_SLAVE, gsi - 8),
    });
    let ioapic = (0..IOAPIC_PINS).filter(|&gsi| gsi != CASCADE);
    let ioapic = ioapic.map(|gsi| {
        let pin = if gsi == 0 { CASCADE } else { gsi };
        entry(gsi, KVM_IRQCHIP_IOAPIC, pin)
    });
    pic.chain(ioapic).collect()
}
