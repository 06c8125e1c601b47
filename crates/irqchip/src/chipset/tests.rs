//! The wiring: what a guest and its vCPUs see of the chips together.

use super::*;
use crate::{Route, Routing};

const EOI: u32 = 0xb0;

/// `cpus` vCPUs in xAPIC mode, enabled, with flat logical ids; 8259s at 0x20
/// and 0x28 with everything masked.
fn machine(cpus: u32) -> Chipset {
    let mut chipset = Chipset::new(46);
    for id in 0..cpus {
        let cpu = chipset.add_lapic(id);
        chipset.lapic_write(cpu, 0xf0, 4, 0x1ff, 0);
        chipset.lapic_write(cpu, 0xd0, 4, 1 << (24 + (id & 7)), 0);
    }
    for (port, base, wiring) in [(0x20, 0x20, 4), (0xa0, 0x28, 2)] {
        for (port, value) in [(port, 0x11), (port + 1, base), (port + 1, wiring)] {
            chipset.pio_write(port, value, 0);
        }
        chipset.pio_write(port + 1, 1, 0);
        chipset.pio_write(port + 1, 0xff, 0);
    }
    attention(&mut chipset);
    chipset
}

fn attention(chipset: &mut Chipset) -> Vec<usize> {
    chipset.take_attention().collect()
}

fn route_pin(chipset: &mut Chipset, pin: u32, low: u32, destination: u32) {
    for (register, value) in [(0x11 + 2 * pin, destination << 24), (0x10 + 2 * pin, low)] {
        chipset.ioapic_write(0, register);
        chipset.ioapic_write(0x10, value);
    }
}

/// Every vCPU takes and ends its interrupt.
fn take_all(chipset: &mut Chipset) -> Vec<(usize, u8)> {
    let mut taken = Vec::new();
    for cpu in 0..chipset.lapics.len() {
        if let Some(vector) = chipset.ack_interrupt(cpu) {
            chipset.lapic_write(cpu, EOI, 4, 0, 0);
            taken.push((cpu, vector));
        }
    }
    taken
}

#[test]
fn gsi_to_ioapic_to_lapic() {
    let mut chipset = machine(2);
    route_pin(&mut chipset, 5, 0x0035, 1);
    assert!(chipset.set_gsi(5, true));
    assert_eq!(attention(&mut chipset), [1]);
    assert!(!chipset.pending_interrupt(0));
    assert!(chipset.pending_interrupt(1));
    assert_eq!(chipset.ack_interrupt(1), Some(0x35));
    assert!(!chipset.pending_interrupt(1));
    assert_eq!(chipset.ack_interrupt(1), None);
    assert!(!chipset.set_gsi(5, true), "already asserted");
    assert!(!chipset.set_gsi(77, true), "goes nowhere");
}

#[test]
fn level_triggered_until_deasserted() {
    let mut chipset = machine(1);
    route_pin(&mut chipset, 16, 0xa040, 0);
    chipset.set_gsi(16, true);
    for _ in 0..2 {
        assert_eq!(chipset.ack_interrupt(0), Some(0x40));
        chipset.lapic_write(0, EOI, 4, 0, 0);
        assert!(chipset.pending_interrupt(0), "still asserted");
        assert_eq!(chipset.take_acked_gsis(), [16]);
    }
    assert_eq!(chipset.ack_interrupt(0), Some(0x40));
    chipset.set_gsi(16, false);
    chipset.lapic_write(0, EOI, 4, 0, 0);
    assert!(!chipset.pending_interrupt(0));
}

#[test]
fn directed_eoi() {
    let mut chipset = machine(1);
    chipset.lapic_write(0, 0xf0, 4, 0x11ff, 0);
    route_pin(&mut chipset, 16, 0xa040, 0);
    chipset.set_gsi(16, true);
    assert_eq!(chipset.ack_interrupt(0), Some(0x40));
    chipset.lapic_write(0, EOI, 4, 0, 0);
    assert!(!chipset.pending_interrupt(0), "no broadcast");
    chipset.ioapic_write(0x40, 0x40);
    assert!(chipset.pending_interrupt(0));
}

#[test]
fn sources_of_a_line_are_ored() {
    let mut chipset = machine(1);
    route_pin(&mut chipset, 16, 0xa040, 0);
    chipset.set_gsi_from(Source::User, 16, true);
    chipset.set_gsi_from(Source::Resample, 16, true);
    chipset.set_gsi_from(Source::User, 16, false);
    assert_eq!(chipset.ack_interrupt(0), Some(0x40));
    chipset.lapic_write(0, EOI, 4, 0, 0);
    assert!(chipset.pending_interrupt(0));
}

#[test]
fn rises_are_counted_where_a_line_ends() {
    let mut chipset = machine(1);
    for level in [true, true, false, true, false] {
        chipset.set_gsi(5, level);
        chipset.set_gsi(18, level);
    }
    let raised = chipset.raised();
    assert_eq!(
        (raised.pic[5], raised.ioapic[5], raised.ioapic[18]),
        (2, 2, 2)
    );
    let all: u64 = raised.pic.iter().chain(&raised.ioapic).sum();
    assert_eq!(all, 6);
}

#[test]
fn pic_through_virtual_wire() {
    let mut chipset = machine(2);
    chipset.pio_write(0x21, 0, 0);
    chipset.set_gsi(4, true);
    assert_eq!(attention(&mut chipset), [0], "LINT0 of the BSP is ExtINT");
    assert!(chipset.pending_interrupt(0) && !chipset.pending_interrupt(1));
    assert_eq!(chipset.ack_interrupt(0), Some(0x24));
    assert!(!chipset.pending_interrupt(0));
    chipset.pio_write(0x20, 0x20, 0);
    // LINT0 masked: symmetric I/O mode.
    chipset.lapic_write(0, 0x350, 4, 0x1_0700, 0);
    chipset.set_gsi(3, true);
    assert!(!chipset.pending_interrupt(0));
    assert_eq!(attention(&mut chipset), []);
    // Unmasked while the 8259s ask.
    chipset.lapic_write(0, 0x350, 4, 0x700, 0);
    assert_eq!(attention(&mut chipset), [0]);
    assert!(chipset.pending_interrupt(0));
}

#[test]
fn pic_with_the_lapic_disabled() {
    let mut chipset = machine(2);
    chipset.pio_write(0x21, 0, 0);
    for cpu in [0, 1] {
        chipset.write_apic_base(cpu, 0xfee0_0000).unwrap();
    }
    chipset.set_gsi(1, true);
    assert_eq!(attention(&mut chipset), [0]);
    assert_eq!(chipset.ack_interrupt(1), None);
    assert_eq!(chipset.ack_interrupt(0), Some(0x21));
}

#[test]
fn pic_through_ioapic_pin_0() {
    let mut chipset = machine(2);
    chipset.lapic_write(0, 0x350, 4, 0x1_0700, 0);
    chipset.pio_write(0x21, 0, 0);
    chipset.set_gsi(1, true);
    assert!(!chipset.pending_interrupt(0) && !chipset.pending_interrupt(1));
    route_pin(&mut chipset, 0, 0x0700, 1);
    assert_eq!(attention(&mut chipset), [1]);
    assert_eq!(chipset.ack_interrupt(1), Some(0x21));
}

#[test]
fn every_pic_interrupt_calls_for_attention() {
    let mut chipset = machine(1);
    chipset.pio_write(0x21, 0, 0);
    chipset.set_gsi(3, true);
    chipset.set_gsi(4, true);
    assert_eq!(attention(&mut chipset), [0]);
    assert_eq!(chipset.ack_interrupt(0), Some(0x23));
    assert_eq!(attention(&mut chipset), []);
    chipset.pio_write(0x20, 0x20, 0);
    assert_eq!(attention(&mut chipset), [0]);
}

#[test]
fn msi() {
    let mut chipset = machine(2);
    assert!(chipset.msi(0xfee0_1000, 0x0041));
    assert_eq!(take_all(&mut chipset), [(1, 0x41)]);
    assert!(!chipset.msi(0xfee0_7000, 0x0041), "no such APIC id");
    assert!(!chipset.msi(0x1000, 0x0041));
    assert!(chipset.msi(0xfeef_f000, 0x0042));
    assert_eq!(take_all(&mut chipset), [(0, 0x42), (1, 0x42)]);
}

#[test]
fn msi_routes() {
    let mut chipset = machine(2);
    let route = Route::Msi {
        address: 0xfee0_1000,
        data: 0x51,
    };
    chipset.set_routing(Routing::new([(24, route), (3, Route::Pic(3))]).unwrap());
    assert!(chipset.set_gsi(24, true));
    chipset.set_gsi(24, false);
    assert_eq!(take_all(&mut chipset), [(1, 0x51)]);
    assert!(!chipset.set_gsi(5, true), "the default table is gone");
}

#[test]
fn lowest_priority_goes_to_one_and_takes_turns() {
    let mut chipset = machine(3);
    let send = |chipset: &mut Chipset| {
        assert!(chipset.msi(0xfeef_f004, 0x0160));
        take_all(chipset)
    };
    let mut order: Vec<usize> = Vec::new();
    for _ in 0..6 {
        let taken = send(&mut chipset);
        assert_eq!(taken.len(), 1);
        order.push(taken[0].0);
    }
    assert_eq!(order, [0, 1, 2, 0, 1, 2]);
    chipset.set_cr8(0, 5);
    chipset.set_cr8(1, 4);
    chipset.set_cr8(2, 5);
    assert_eq!(send(&mut chipset), [(1, 0x60)]);
    chipset.lapic_write(1, 0xf0, 4, 0xff, 0);
    assert_ne!(send(&mut chipset)[0].0, 1, "software-disabled");
}

#[test]
fn ipis() {
    let mut chipset = machine(3);
    let icr = |chipset: &mut Chipset, high: u64, low: u64| {
        chipset.lapic_write(1, 0x310, 4, high << 24, 0);
        chipset.lapic_write(1, 0x300, 4, low, 0);
        take_all(chipset)
    };
    let cases = [
        (2, 0x40f1, vec![(2, 0xf1)]),
        (0x05, 0x48f2, vec![(0, 0xf2), (2, 0xf2)]),
        (0, 0x4_40f3, vec![(1, 0xf3)]),
        (0, 0x8_40f4, vec![(0, 0xf4), (1, 0xf4), (2, 0xf4)]),
        (0, 0xc_40f5, vec![(0, 0xf5), (2, 0xf5)]),
    ];
    for (high, low, expected) in cases {
        assert_eq!(icr(&mut chipset, high, low), expected, "{low:#x}");
    }
}

#[test]
fn starting_an_ap() {
    let mut chipset = machine(1);
    let ap = chipset.add_lapic(0x105);
    chipset.write_apic_base(0, 0xfee0_0d00).unwrap();
    chipset
        .x2apic_write(0, 0x830, 0x105 << 32 | 0xc500, 0)
        .unwrap();
    assert_eq!(attention(&mut chipset), [ap]);
    assert!(chipset.has_event(ap) && chipset.take_init(ap) && !chipset.take_init(ap));
    chipset
        .x2apic_write(0, 0x830, 0x105 << 32 | 0x469a, 0)
        .unwrap();
    chipset
        .x2apic_write(0, 0x830, 0x105 << 32 | 0x469a, 0)
        .unwrap();
    assert_eq!(chipset.take_sipi(ap), Some(0x9a));
    assert_eq!(chipset.take_sipi(ap), None);
}

#[test]
fn paravirtual_ipis() {
    let mut chipset = machine(4);
    assert_eq!(chipset.send_ipi(0b1011, 1, 0x41), 2, "ids 1, 2 and 4");
    assert_eq!(take_all(&mut chipset), [(1, 0x41), (2, 0x41)]);
    assert_eq!(chipset.send_ipi(u128::MAX, u32::MAX, 0x41), 0);
    assert_eq!(chipset.send_ipi(1, 3, 0x400), 1);
    assert!(chipset.take_nmi(3));
}

#[test]
fn restored_events() {
    let mut chipset = machine(1);
    chipset.restore_events(0, true, false, Some(0x12));
    assert_eq!(attention(&mut chipset), [0]);
    let lapic = chipset.lapic(0).unwrap();
    assert!(lapic.nmi_pending() && !lapic.init_pending());
    assert_eq!(lapic.sipi_pending(), Some(0x12));
    chipset.restore_events(0, false, false, None);
    assert!(!chipset.has_event(0));
}

#[test]
fn nmi_button() {
    let mut chipset = machine(2);
    chipset.nmi(1);
    assert_eq!(attention(&mut chipset), [1]);
    assert!(chipset.take_nmi(1) && !chipset.take_nmi(0));
}

#[test]
fn eoi_uncovers_the_next() {
    let mut chipset = machine(1);
    chipset.msi(0xfee0_0000, 0x41);
    chipset.msi(0xfee0_0000, 0x31);
    attention(&mut chipset);
    assert_eq!(chipset.ack_interrupt(0), Some(0x41));
    assert!(!chipset.pending_interrupt(0));
    chipset.lapic_write(0, EOI, 4, 0, 0);
    assert_eq!(attention(&mut chipset), [0]);
    assert_eq!(chipset.ack_interrupt(0), Some(0x31));
}

#[test]
fn deadlines_are_the_earliest_of_all() {
    let mut chipset = machine(2);
    assert_eq!(chipset.next_deadline(), None);
    chipset.lapic_write(0, 0x320, 4, 0xec, 0);
    chipset.lapic_write(0, 0x380, 4, 5000, 0); // divide by 2
    chipset.lapic_write(1, 0x320, 4, 2 << 17 | 0xed, 0);
    let clock = Clock {
        now_ns: 0,
        tsc: 0,
        tsc_khz: 1_000_000,
    };
    chipset.set_tsc_deadline(1, 4000, &clock);
    assert_eq!(chipset.next_deadline(), Some(4000));
    chipset.advance(3999);
    assert!(!chipset.pending_interrupt(1));
    chipset.advance(4000);
    assert_eq!(attention(&mut chipset), [1]);
    assert_eq!(chipset.next_deadline(), Some(10_000));
    chipset.advance(u64::MAX);
    assert_eq!(take_all(&mut chipset), [(0, 0xec), (1, 0xed)]);
    assert_eq!(chipset.next_deadline(), None);
    chipset.set_tsc_deadline(1, 1, &Clock { tsc: 9, ..clock });
    assert!(
        chipset.pending_interrupt(1),
        "a past deadline fires at once"
    );
}

fn start_pit(chipset: &mut Chipset) {
    chipset.add_pit();
    chipset.pio_write(0x43, 0x34, 0);
    chipset.pio_write(0x40, 0xe8, 0);
    chipset.pio_write(0x40, 0x03, 0); // 1000 clocks
}

#[test]
fn pit_through_the_pic_reinjects_after_eoi() {
    let mut chipset = machine(1);
    chipset.pio_write(0x21, 0xfe, 0);
    start_pit(&mut chipset);
    let first = chipset.next_deadline().unwrap();
    assert_eq!(first, 838_096); // 1000 / 1193182 Hz, rounded up
    chipset.advance(3 * first);
    for _ in 0..3 {
        assert_eq!(chipset.ack_interrupt(0), Some(0x20));
        assert!(!chipset.pending_interrupt(0));
        chipset.pio_write(0x20, 0x20, 3 * first);
    }
    assert!(!chipset.pending_interrupt(0));
}

#[test]
fn pit_through_the_ioapic_reinjects_after_eoi() {
    let mut chipset = machine(1);
    start_pit(&mut chipset);
    route_pin(&mut chipset, 2, 0x0030, 0);
    chipset.advance(2 * 838_096);
    for _ in 0..2 {
        assert_eq!(chipset.ack_interrupt(0), Some(0x30));
        chipset.lapic_write(0, EOI, 4, 0, 0);
    }
    assert!(!chipset.pending_interrupt(0));
}

#[test]
fn ticks_missed_while_masked_are_dropped() {
    let mut chipset = machine(1);
    start_pit(&mut chipset);
    chipset.advance(1_000_000_000);
    chipset.pio_write(0x21, 0xfe, 1_000_000_000);
    assert_eq!(chipset.ack_interrupt(0), Some(0x20), "the 8259 latched one");
    chipset.pio_write(0x20, 0x20, 1_000_000_000);
    assert!(!chipset.pending_interrupt(0));
    chipset.advance(1_001_000_000);
    assert_eq!(chipset.ack_interrupt(0), Some(0x20), "and time goes on");
}

#[test]
fn ports() {
    let mut chipset = machine(1);
    for port in [0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1] {
        assert!(chipset.owns_port(port));
    }
    assert!(!chipset.owns_port(0x40) && !chipset.owns_port(0x61));
    assert_eq!(chipset.pio_read(0x40, 0), 0xff);
    chipset.add_pit();
    for port in [0x40, 0x41, 0x42, 0x43, 0x61] {
        assert!(chipset.owns_port(port));
    }
    assert!(!chipset.owns_port(0x44) && !chipset.owns_port(0x60));
}

#[test]
fn lapic_page_access_sizes() {
    let mut chipset = machine(2);
    assert_eq!(chipset.lapic_read(1, 0x20, 4, 0), 1 << 24);
    assert_eq!(chipset.lapic_read(1, 0x23, 1, 0), 1);
    assert_eq!(chipset.lapic_read(1, 0x22, 2, 0), 0x100);
    assert_eq!(chipset.lapic_read(1, 0x20, 8, 0), 1 << 24);
    assert_eq!(chipset.lapic_read(1, 0x24, 4, 0), 0);
    chipset.lapic_write(1, 0x80, 1, 0x50, 0);
    assert_eq!(chipset.cr8(1), 0, "narrow writes do nothing");
    chipset.lapic_write(1, 0x80, 8, 0xffff_ffff_0000_0050, 0);
    assert_eq!(chipset.cr8(1), 5);
}

#[test]
fn reset_keeps_lines_and_vcpus() {
    let mut chipset = machine(2);
    route_pin(&mut chipset, 16, 0xa040, 0);
    chipset.set_gsi(16, true);
    start_pit(&mut chipset);
    chipset.reset();
    assert_eq!(chipset.next_deadline(), None);
    assert!(!chipset.pending_interrupt(0));
    assert_eq!(chipset.apic_base(0), 0xfee0_0900);
    chipset.lapic_write(0, 0xf0, 4, 0x1ff, 0);
    route_pin(&mut chipset, 16, 0xa041, 0);
    assert_eq!(
        chipset.ack_interrupt(0),
        Some(0x41),
        "the line is still high"
    );
}

#[test]
fn restored_chips_go_on() {
    let mut chipset = machine(1);
    route_pin(&mut chipset, 16, 0xa040, 0);
    chipset.pio_write(0x21, 0, 0);
    chipset.set_gsi(16, true);
    chipset.set_gsi(3, true);
    let mut copy = Chipset::new(46);
    copy.add_lapic(0);
    copy.set_lapic_page(0, &chipset.lapic(0).unwrap().page(0), 0);
    copy.set_ioapic_state(&chipset.ioapic().state());
    for (chip, state) in chipset.pic().state().iter().enumerate() {
        copy.set_pic_state(chip, state);
    }
    assert_eq!(attention(&mut copy), [0]);
    assert_eq!(copy.ack_interrupt(0), Some(0x23));
    assert_eq!(copy.ack_interrupt(0), Some(0x40));
    copy.set_gsi(16, false);
    copy.lapic_write(0, EOI, 4, 0, 0);
    assert!(!copy.pending_interrupt(0));
}

#[test]
fn vcpus_that_do_not_exist() {
    let mut chipset = machine(1);
    assert!(!chipset.pending_interrupt(9));
    assert_eq!(chipset.ack_interrupt(9), None);
    assert!(!chipset.take_nmi(9) && !chipset.take_init(9));
    assert_eq!(chipset.take_sipi(9), None);
    chipset.nmi(9);
    chipset.set_cr8(9, 3);
    chipset.lapic_write(9, 0x300, 4, 0x4040, 0);
    assert_eq!(chipset.lapic_read(9, 0x20, 4, 0), 0);
    assert_eq!(chipset.x2apic_read(9, 0x802, 0), Err(MsrFault));
    assert_eq!(chipset.write_apic_base(9, 0xfee0_0800), Err(MsrFault));
}

/// xorshift64: the same hostile guest every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[(self.next() % from.len() as u64) as usize]
    }
}

const PORTS: [u16; 13] = [
    0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x40, 0x41, 0x42, 0x43, 0x61, 0x43, 0x20,
];

fn hostile_step(chipset: &mut Chipset, random: &mut Random, now: u64) {
    let cpu = (random.next() % 6) as usize;
    let value = random.next() >> (random.next() % 64);
    let clock = Clock {
        now_ns: now,
        tsc: random.next(),
        tsc_khz: value as u32,
    };
    match random.next() % 14 {
        0 => chipset.pio_write(random.pick(&PORTS), value as u8, now),
        1 => drop(chipset.pio_read(random.pick(&PORTS), now)),
        2 => chipset.ioapic_write(random.pick(&[0, 0x10, 0x10, 0x40, 0x37]), value as u32),
        3 => chipset.lapic_write(cpu, random.next() as u32 & 0xff0, 4, value, now),
        4 => drop(chipset.lapic_read(cpu, random.next() as u32 & 0x1fff, 4, now)),
        5 => drop(chipset.x2apic_write(cpu, 0x800 + (random.next() & 0x3f) as u32, value, now)),
        6 => drop(chipset.x2apic_read(cpu, 0x800 + (random.next() & 0xff) as u32, now)),
        7 => chipset.set_tsc_deadline(cpu, value, &clock),
        8 => drop(chipset.write_apic_base(cpu, random.pick(&[0, 0x800, 0xc00, value]))),
        9 => drop(chipset.msi(0xfee0_0000 | value & 0xff_ffff, random.next() as u32)),
        10 => drop(chipset.set_gsi(value as u32 & 0x1f, random.next() & 1 != 0)),
        11 => drop(chipset.ack_interrupt(cpu)),
        12 => drop(chipset.take_init(cpu)),
        _ => chipset.advance(now),
    }
}

#[test]
fn hostile_guest() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut chipset = machine(4);
    chipset.add_pit();
    let mut now = 0u64;
    for step in 0..200_000u64 {
        hostile_step(&mut chipset, &mut random, now);
        now = now.saturating_add(random.next() >> (24 + step % 40));
        for cpu in 0..4 {
            let pending = chipset.pending_interrupt(cpu);
            let lapic = chipset.lapic(cpu).unwrap();
            let local = lapic.pending().is_some_and(|vector| vector >= 16);
            assert!(!pending || local || chipset.pic().intr());
        }
    }
}

#[test]
fn hostile_saved_state() {
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut chipset = machine(2);
    chipset.add_pit();
    for now in 0..2000 {
        let page = std::array::from_fn(|_| random.next() as u8);
        chipset.set_lapic_page(0, &page, now);
        let ioapic = crate::IoApicState {
            base_address: random.next(),
            ioregsel: random.next() as u32,
            id: random.next() as u32,
            irr: random.next() as u32,
            redirtbl: std::array::from_fn(|_| random.next()),
        };
        chipset.set_ioapic_state(&ioapic);
        let mut pit = crate::PitState::default();
        for channel in &mut pit.channels {
            channel.count = random.next() as u32;
            channel.mode = random.next() as u8 & 7;
            channel.bcd = random.next() as u8 & 1;
            channel.gate = random.next() as u8 & 1;
            channel.rw_mode = random.next() as u8;
            channel.read_state = random.next() as u8;
            channel.count_load_time = random.next() as i64;
        }
        chipset.pit().unwrap().set_state(&pit, now);
        for _ in 0..20 {
            hostile_step(&mut chipset, &mut random, now);
        }
        let deadline = chipset.next_deadline();
        assert!(deadline.is_none_or(|ns| ns >= now));
    }
}
