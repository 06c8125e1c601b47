//! Expected values follow SDM vol 3, chapter 12 (Advanced Programmable
//! Interrupt Controller).

use super::*;

const NOW: u64 = 1_000_000;

fn enabled() -> Lapic {
    let mut lapic = Lapic::new(1, false, 46);
    write(&mut lapic, 0xf0, 0x1ff);
    lapic
}

fn x2apic(id: u32) -> Lapic {
    let mut lapic = Lapic::new(id, id == 0, 46);
    let base = lapic.apic_base();
    lapic.write_apic_base(base | 1 << 10).unwrap();
    assert_eq!(lapic.write_msr(0x80f, 0x1ff, NOW), Ok(Effect::None));
    lapic
}

fn write(lapic: &mut Lapic, offset: u32, value: u32) {
    assert_eq!(lapic.write(offset, value, NOW), Effect::None);
}

fn fixed(vector: u8) -> Message {
    Message {
        destination: Destination::All,
        delivery: Delivery::Fixed,
        vector,
        level: false,
        assert: true,
    }
}

fn event(delivery: Delivery, vector: u8) -> Message {
    Message {
        delivery,
        ..fixed(vector)
    }
}

#[test]
fn power_up_state() {
    // SDM 12.4.7.1.
    let mut lapic = Lapic::new(3, false, 46);
    assert_eq!(lapic.apic_base(), 0xfee0_0800);
    let expected = [
        (0x20, 3 << 24),
        (0x30, 0x0106_0014),
        (0x80, 0),
        (0xd0, 0),
        (0xe0, 0xffff_ffff),
        (0xf0, 0xff),
        (0x280, 0),
        (0x300, 0),
        (0x320, 0x1_0000),
        (0x350, 0x1_0000),
        (0x380, 0),
        (0x390, 0),
        (0x3e0, 0),
    ];
    for (offset, value) in expected {
        assert_eq!(lapic.read(offset, NOW), value, "{offset:#x}");
    }
    assert!(!lapic.accept(&fixed(0x40)), "disabled by SVR");
    assert_eq!(Lapic::new(0, true, 46).apic_base(), 0xfee0_0900);
    assert!(Lapic::new(0, true, 46).accepts_extint());
}

#[test]
fn accept_acknowledge_end() {
    let mut lapic = enabled();
    assert!(lapic.accept(&fixed(0x41)));
    assert!(lapic.take_attention());
    assert!(!lapic.take_attention());
    assert_eq!(lapic.read(0x220, NOW), 1 << 1, "IRR");
    assert_eq!(lapic.ack(), Some(0x41));
    assert_eq!(lapic.read(0x220, NOW), 0);
    assert_eq!(lapic.read(0x120, NOW), 1 << 1, "ISR");
    assert_eq!(lapic.read(0xa0, NOW), 0x40, "PPR");
    let eoi = lapic.write(0xb0, 0, NOW);
    assert_eq!(
        eoi,
        Effect::Eoi {
            vector: 0x41,
            broadcast: false
        }
    );
    assert_eq!(
        lapic.write(0xb0, 0, NOW),
        Effect::None,
        "nothing in service"
    );
}

#[test]
fn priority_classes() {
    let mut lapic = enabled();
    lapic.accept(&fixed(0x52));
    assert_eq!(lapic.ack(), Some(0x52));
    lapic.accept(&fixed(0x5f));
    assert_eq!(lapic.pending(), None, "the same class waits");
    lapic.accept(&fixed(0x61));
    assert_eq!(lapic.ack(), Some(0x61));
    assert_eq!(lapic.ppr(), 0x60);
    let _ = lapic.write(0xb0, 0, NOW);
    assert_eq!(lapic.pending(), None);
    lapic.take_attention();
    let _ = lapic.write(0xb0, 0, NOW);
    assert_eq!(lapic.pending(), Some(0x5f));
    assert!(lapic.take_attention(), "it became deliverable");
}

#[test]
fn task_priority() {
    let mut lapic = enabled();
    lapic.set_cr8(5);
    assert_eq!(lapic.read(0x80, NOW), 0x50);
    assert_eq!(lapic.ppr(), 0x50);
    lapic.accept(&fixed(0x5f));
    assert_eq!(lapic.pending(), None);
    assert!(!lapic.take_attention());
    lapic.accept(&fixed(0x60));
    assert_eq!(lapic.pending(), Some(0x60));
    write(&mut lapic, 0x80, 0x47);
    assert_eq!(lapic.cr8(), 4);
    assert_eq!(lapic.ppr(), 0x47, "the sub-class shows when TPR rules");
    assert_eq!(lapic.ack(), Some(0x60));
    assert_eq!(lapic.ppr(), 0x60);
}

#[test]
fn level_interrupts_broadcast_their_eoi() {
    let level = Message {
        level: true,
        ..fixed(0x70)
    };
    for (svr, broadcast) in [(0x1ff, true), (0x11ff, false)] {
        let mut lapic = enabled();
        write(&mut lapic, 0xf0, svr);
        lapic.accept(&level);
        assert_eq!(lapic.read(0x1b0, NOW), 1 << 16, "TMR");
        lapic.ack();
        let vector = 0x70;
        assert_eq!(lapic.write(0xb0, 0, NOW), Effect::Eoi { vector, broadcast });
        lapic.accept(&fixed(0x70));
        assert_eq!(lapic.read(0x1b0, NOW), 0, "an edge clears TMR");
    }
}

#[test]
fn illegal_vectors_are_errors() {
    let mut lapic = enabled();
    write(&mut lapic, 0x370, 0xfe);
    assert!(!lapic.accept(&fixed(0x0f)));
    assert_eq!(lapic.read(0x280, NOW), 0, "until written");
    write(&mut lapic, 0x280, 0);
    assert_eq!(lapic.read(0x280, NOW), 1 << 6);
    assert_eq!(lapic.pending(), Some(0xfe), "error interrupt");
    assert_eq!(lapic.write(0x300, 0x0000_4005, NOW), Effect::None);
    write(&mut lapic, 0x280, 0);
    assert_eq!(lapic.read(0x280, NOW), 1 << 5, "send illegal vector");
    write(&mut lapic, 0x280, 0);
    assert_eq!(lapic.read(0x280, NOW), 0);
    // An illegal vector in the error entry itself does not recurse.
    write(&mut lapic, 0x370, 0x03);
    assert!(!lapic.accept(&fixed(0)));
}

#[test]
fn reserved_registers_are_errors_in_xapic_mode() {
    let mut lapic = enabled();
    lapic.read(0x40, NOW);
    write(&mut lapic, 0x280, 0);
    assert_eq!(lapic.read(0x280, NOW), 1 << 7);
    write(&mut lapic, 0x3f0, 0x41);
    write(&mut lapic, 0x280, 0);
    assert_eq!(lapic.read(0x280, NOW), 1 << 7, "no self IPI in xAPIC mode");
    // Bytes 4..16 of a slot are nothing.
    assert_eq!(lapic.read(0x24, NOW), 0);
    write(&mut lapic, 0xf4, 0);
    assert_eq!(lapic.read(0xf0, NOW), 0x1ff);
}

#[test]
fn software_disable_masks_the_lvt() {
    let mut lapic = enabled();
    write(&mut lapic, 0x350, 0x700);
    write(&mut lapic, 0xf0, 0xff);
    assert_eq!(lapic.read(0x350, NOW), 0x1_0700);
    write(&mut lapic, 0x350, 0x700);
    assert_eq!(lapic.read(0x350, NOW), 0x1_0700, "cannot be unmasked");
    for delivery in [Delivery::Nmi, Delivery::Init, Delivery::Startup] {
        assert!(lapic.accept(&event(delivery, 0)), "{delivery:?}");
    }
}

#[test]
fn lvt_writable_bits() {
    let mut lapic = enabled();
    let expected = [
        (0x2f0, 0x1_07ff),
        (0x320, 0x7_00ff),
        (0x330, 0x1_07ff),
        (0x340, 0x1_07ff),
        (0x350, 0x1_a7ff),
        (0x360, 0x1_a7ff),
        (0x370, 0x1_00ff),
    ];
    for (offset, bits) in expected {
        write(&mut lapic, offset, u32::MAX);
        assert_eq!(lapic.read(offset, NOW), bits, "{offset:#x}");
    }
}

#[test]
fn nmi_init_sipi() {
    let mut lapic = enabled();
    lapic.accept(&event(Delivery::Nmi, 0));
    assert!(lapic.has_event() && lapic.take_attention());
    assert!(lapic.take_nmi() && !lapic.take_nmi());

    lapic.accept(&event(Delivery::Startup, 0x99));
    lapic.accept(&event(Delivery::Init, 0));
    assert_eq!(lapic.take_sipi(), None, "INIT drops an earlier SIPI");
    lapic.accept(&event(Delivery::Startup, 0x9a));
    assert!(lapic.take_init() && !lapic.take_init());
    assert_eq!(lapic.take_sipi(), Some(0x9a));
    assert_eq!(lapic.read(0xf0, NOW), 0xff, "registers are reset");
    assert_eq!(lapic.read(0x20, NOW), 1 << 24);

    let deassert = Message {
        assert: false,
        level: true,
        ..event(Delivery::Init, 0)
    };
    lapic.accept(&deassert);
    assert!(!lapic.has_event());
    assert!(!lapic.accept(&event(Delivery::Smi, 0)));
}

#[test]
fn lint1_is_nmi() {
    let mut lapic = enabled();
    lapic.set_lint(1, true);
    assert!(!lapic.take_nmi(), "masked");
    lapic.set_lint(1, false);
    write(&mut lapic, 0x360, 0x400);
    lapic.set_lint(1, true);
    assert!(lapic.take_nmi());
    lapic.set_lint(1, true);
    assert!(!lapic.take_nmi(), "no new edge");
}

#[test]
fn level_lint0_holds_remote_irr() {
    let mut lapic = enabled();
    write(&mut lapic, 0x350, 0x8000 | 0x45);
    lapic.set_lint(0, true);
    assert_eq!(lapic.read(0x350, NOW), 0xc045);
    assert_eq!(lapic.ack(), Some(0x45));
    let _ = lapic.write(0xb0, 0, NOW);
    assert_eq!(lapic.pending(), Some(0x45), "still asserted");
    lapic.ack();
    lapic.set_lint(0, false);
    let _ = lapic.write(0xb0, 0, NOW);
    assert_eq!(lapic.pending(), None);
    assert_eq!(lapic.read(0x350, NOW), 0x8045);
}

#[test]
fn performance_interrupt_masks_itself() {
    let mut lapic = enabled();
    write(&mut lapic, 0x340, 0x400);
    lapic.fire_perf();
    assert!(lapic.take_nmi());
    assert_eq!(lapic.read(0x340, NOW), 0x1_0400);
}

#[test]
fn logical_destinations() {
    let mut lapic = enabled();
    let addressed = |lapic: &Lapic, mda| lapic.is_addressed(1, Destination::Logical(mda));
    // Flat.
    write(&mut lapic, 0xd0, 0x0400_0000);
    assert!(addressed(&lapic, 0x04) && addressed(&lapic, 0xfe));
    assert!(!addressed(&lapic, 0x02) && !addressed(&lapic, 0x104));
    // Cluster 2, member bit 1.
    write(&mut lapic, 0xe0, 0x0000_0000);
    assert_eq!(lapic.read(0xe0, NOW), 0x0fff_ffff);
    write(&mut lapic, 0xd0, 0x2200_0000);
    assert!(addressed(&lapic, 0x22) && addressed(&lapic, 0x2f));
    assert!(!addressed(&lapic, 0x21) && !addressed(&lapic, 0x32));
    // x2APIC: LDR is derived from the id (12.12.10.2).
    let lapic = x2apic(0x25);
    assert_eq!(lapic.read_msr(0x80d, NOW), Ok(0x0002_0020));
    assert!(addressed(&lapic, 0x0002_0020) && addressed(&lapic, 0x0002_ffff));
    assert!(!addressed(&lapic, 0x0002_0010) && !addressed(&lapic, 0x0003_0020));
}

#[test]
fn physical_destinations() {
    let addressed = |lapic: &Lapic, id| lapic.is_addressed(7, Destination::Physical(id));
    let lapic = enabled();
    assert!(addressed(&lapic, 1) && !addressed(&lapic, 2));
    let high = Lapic::new(0x105, false, 46);
    assert!(addressed(&high, 0x105) && !addressed(&high, 5));
    let mut off = enabled();
    off.write_apic_base(0xfee0_0000).unwrap();
    assert!(!addressed(&off, 1));
    assert!(!off.is_addressed(7, Destination::All));
}

#[test]
fn icr_in_xapic_mode() {
    let mut lapic = enabled();
    let send = |lapic: &mut Lapic, high, low| {
        write(lapic, 0x310, high);
        match lapic.write(0x300, low, NOW) {
            Effect::Send(message) => message,
            other => panic!("{other:?}"),
        }
    };
    let physical = send(&mut lapic, 0x0500_0000, 0x0000_40fd);
    assert_eq!(physical.destination, Destination::Physical(5));
    assert_eq!(
        (physical.delivery, physical.vector),
        (Delivery::Fixed, 0xfd)
    );
    assert_eq!(lapic.read(0x300, NOW), 0x40fd);
    assert_eq!(lapic.read(0x310, NOW), 0x0500_0000);
    let logical = send(&mut lapic, 0x0300_0000, 0x0000_4840);
    assert_eq!(logical.destination, Destination::Logical(3));
    let broadcast = send(&mut lapic, 0xff00_0000, 0x0000_4040);
    assert_eq!(broadcast.destination, Destination::All);
    let shorthands = [
        (1, Destination::Only(SELF)),
        (2, Destination::All),
        (3, Destination::AllBut(SELF)),
    ];
    for (shorthand, destination) in shorthands {
        let message = send(&mut lapic, 0, shorthand << 18 | 0x4040);
        assert_eq!(message.destination, destination);
    }
    let init = send(&mut lapic, 0x0100_0000, 0xc500);
    assert_eq!((init.delivery, init.assert), (Delivery::Init, true));
    let deassert = send(&mut lapic, 0x0100_0000, 0x8500);
    assert!(!deassert.assert);
    let sipi = send(&mut lapic, 0x0100_0000, 0x0608);
    assert_eq!((sipi.delivery, sipi.vector), (Delivery::Startup, 8));
}

#[test]
fn icr_in_x2apic_mode() {
    let mut lapic = x2apic(0);
    let send = |lapic: &mut Lapic, icr| match lapic.write_msr(0x830, icr, NOW) {
        Ok(Effect::Send(message)) => message.destination,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        send(&mut lapic, 0x0000_0105_0000_40fd),
        Destination::Physical(0x105)
    );
    assert_eq!(lapic.read_msr(0x830, NOW), Ok(0x0000_0105_0000_40fd));
    assert_eq!(
        send(&mut lapic, 0x0000_00ff_0000_40fd),
        Destination::Physical(0xff)
    );
    assert_eq!(send(&mut lapic, 0xffff_ffff_0000_40fd), Destination::All);
    assert_eq!(
        send(&mut lapic, 0x0001_0002_0000_48fd),
        Destination::Logical(0x1_0002)
    );
    match lapic.write_msr(0x83f, 0x42, NOW) {
        Ok(Effect::Send(message)) => {
            assert_eq!(message.destination, Destination::Only(SELF));
            assert_eq!((message.vector, message.delivery), (0x42, Delivery::Fixed));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn x2apic_access_rights() {
    // SDM table 12-6: register, readable, writable (with the value 0).
    let registers = [
        (0x802, true, false),
        (0x803, true, false),
        (0x804, false, false),
        (0x808, true, true),
        (0x809, false, false),
        (0x80a, true, false),
        (0x80b, false, true),
        (0x80c, false, false),
        (0x80d, true, false),
        (0x80e, false, false),
        (0x80f, true, true),
        (0x810, true, false),
        (0x827, true, false),
        (0x828, true, true),
        (0x829, false, false),
        (0x82f, true, true),
        (0x831, false, false),
        (0x832, true, true),
        (0x837, true, true),
        (0x838, true, true),
        (0x839, true, false),
        (0x83a, false, false),
        (0x83e, true, true),
        (0x83f, false, true),
        (0x840, false, false),
        (0x8ff, false, false),
        (0x7ff, false, false),
        (0x900, false, false),
    ];
    for (index, readable, writable) in registers {
        let mut lapic = x2apic(0);
        assert_eq!(lapic.read_msr(index, NOW).is_ok(), readable, "{index:#x}");
        assert_eq!(
            lapic.write_msr(index, 0, NOW).is_ok(),
            writable,
            "{index:#x}"
        );
    }
    let mut lapic = x2apic(0);
    assert!(lapic.write_msr(0x830, 0x4041, NOW).is_ok());
}

#[test]
fn x2apic_reserved_bits_fault() {
    let mut lapic = x2apic(0);
    let faulting = [
        (0x808, 0x100),
        (0x80b, 1),
        (0x80f, 0x400),
        (0x828, 1),
        (0x830, 0x0010_0000),
        (0x830, 0x0000_2000),
        (0x832, 0x100),
        (0x837, 0x700),
        (0x838, 1 << 32),
        (0x83e, 4),
        (0x83f, 0x100),
    ];
    for (index, value) in faulting {
        let result = lapic.write_msr(index, value, NOW);
        assert_eq!(result, Err(MsrFault), "{index:#x} {value:#x}");
    }
    let mut xapic = enabled();
    assert_eq!(
        xapic.read_msr(0x802, NOW),
        Err(MsrFault),
        "not in xAPIC mode"
    );
    assert_eq!(xapic.write_msr(0x80b, 0, NOW), Err(MsrFault));
}

#[test]
fn apic_base_transitions() {
    // SDM figure 12-27: from, to, legal. 0 disabled, 8 xAPIC, c x2APIC.
    const OFF: u64 = 0xfee0_0000;
    const XAPIC: u64 = 0xfee0_0800;
    const X2APIC: u64 = 0xfee0_0c00;
    const INVALID: u64 = 0xfee0_0400;
    let table = [
        (OFF, OFF, true),
        (OFF, XAPIC, true),
        (OFF, X2APIC, false),
        (OFF, INVALID, false),
        (XAPIC, OFF, true),
        (XAPIC, XAPIC, true),
        (XAPIC, X2APIC, true),
        (XAPIC, INVALID, false),
        (X2APIC, OFF, true),
        (X2APIC, XAPIC, false),
        (X2APIC, X2APIC, true),
        (X2APIC, INVALID, false),
    ];
    for (from, to, legal) in table {
        let mut lapic = Lapic::new(1, false, 46);
        lapic.set_apic_base(from).unwrap();
        assert_eq!(
            lapic.write_apic_base(to).is_ok(),
            legal,
            "{from:#x} {to:#x}"
        );
        assert_eq!(lapic.apic_base(), if legal { to } else { from });
    }
}

#[test]
fn apic_base_reserved_bits_and_relocation() {
    let mut lapic = Lapic::new(0, true, 40);
    for bad in [1, 1 << 7, 1 << 9, 1 << 40, 1 << 63] {
        assert_eq!(lapic.write_apic_base(0xfee0_0900 | bad), Err(MsrFault));
    }
    lapic.write_apic_base(0x12_3456_7900).unwrap();
    assert_eq!(lapic.mmio_base(), Some(0x12_3456_7000));
    assert!(lapic.owns_gpa(0x12_3456_7fff) && !lapic.owns_gpa(0xfee0_0000));
    lapic.write_apic_base(0xfee0_0d00).unwrap();
    assert_eq!(lapic.mmio_base(), None, "no page in x2APIC mode");
}

#[test]
fn modes_keep_and_drop_state() {
    let mut lapic = enabled();
    lapic.set_cr8(3);
    lapic.accept(&fixed(0x80));
    lapic.write_apic_base(0xfee0_0c00).unwrap();
    assert_eq!(lapic.read_msr(0x802, NOW), Ok(1));
    assert_eq!(lapic.cr8(), 3);
    assert_eq!(lapic.pending(), Some(0x80));
    lapic.init_reset();
    assert!(lapic.is_x2apic(), "INIT keeps the mode");
    assert_eq!(lapic.read_msr(0x80f, NOW), Ok(0xff));
    lapic.write_apic_base(0xfee0_0000).unwrap();
    lapic.write_apic_base(0xfee0_0800).unwrap();
    assert_eq!(lapic.read(0xf0, NOW), 0xff);
}

#[test]
fn one_shot_timer() {
    let mut lapic = enabled();
    write(&mut lapic, 0x3e0, 0x3); // divide by 16
    write(&mut lapic, 0x320, 0xec);
    write(&mut lapic, 0x380, 1000);
    assert_eq!(lapic.deadline(), Some(NOW + 16_000));
    assert_eq!(lapic.read(0x390, NOW), 1000);
    assert_eq!(lapic.read(0x390, NOW + 4_000), 750);
    lapic.advance(NOW + 15_999);
    assert_eq!(lapic.pending(), None);
    lapic.advance(NOW + 16_000);
    assert_eq!(lapic.ack(), Some(0xec));
    assert_eq!(lapic.deadline(), None);
    assert_eq!(lapic.read(0x390, NOW + 16_000), 0);
    assert_eq!(lapic.read(0x380, NOW + 16_000), 1000);
    write(&mut lapic, 0x380, 1000);
    write(&mut lapic, 0x380, 0);
    assert_eq!(lapic.deadline(), None, "0 stops it");
}

#[test]
fn divide_configuration() {
    // SDM figure 12-10.
    let divisors = [
        (0, 2),
        (1, 4),
        (2, 8),
        (3, 16),
        (8, 32),
        (9, 64),
        (10, 128),
        (11, 1),
    ];
    for (code, divisor) in divisors {
        let mut lapic = enabled();
        write(&mut lapic, 0x3e0, code | 0xfff0_0004);
        assert_eq!(lapic.read(0x3e0, NOW), code);
        write(&mut lapic, 0x380, 1_000_000);
        assert_eq!(lapic.deadline(), Some(NOW + 1_000_000 * divisor));
    }
}

#[test]
fn divider_changes_keep_the_count() {
    let mut lapic = enabled();
    write(&mut lapic, 0x3e0, 0xb);
    write(&mut lapic, 0x380, 1_000_000);
    assert_eq!(lapic.write(0x3e0, 0x3, NOW + 400_000), Effect::None);
    assert_eq!(lapic.read(0x390, NOW + 400_000), 600_000);
    assert_eq!(lapic.deadline(), Some(NOW + 400_000 + 16 * 600_000));
}

#[test]
fn periodic_timer_coalesces() {
    let mut lapic = enabled();
    write(&mut lapic, 0x3e0, 0xb);
    write(&mut lapic, 0x320, 1 << 17 | 0xec);
    write(&mut lapic, 0x380, 1_000_000);
    lapic.advance(NOW + 1_000_000);
    assert_eq!(lapic.ack(), Some(0xec));
    let _ = lapic.write(0xb0, 0, NOW);
    assert_eq!(lapic.read(0x390, NOW + 1_250_000), 750_000);
    lapic.advance(NOW + 5_300_000);
    assert_eq!(lapic.ack(), Some(0xec));
    let _ = lapic.write(0xb0, 0, NOW);
    assert_eq!(lapic.pending(), None, "missed periods are one");
    assert_eq!(lapic.deadline(), Some(NOW + 6_000_000), "on the grid");
}

#[test]
fn a_tiny_period_does_not_flood() {
    let mut lapic = enabled();
    write(&mut lapic, 0x3e0, 0xb);
    write(&mut lapic, 0x320, 1 << 17 | 0xec);
    write(&mut lapic, 0x380, 1);
    assert_eq!(lapic.deadline(), Some(NOW + 200_000));
}

#[test]
fn masked_timer_counts_but_does_not_interrupt() {
    let mut lapic = enabled();
    write(&mut lapic, 0x320, 1 << 16 | 0xec);
    write(&mut lapic, 0x380, 10);
    lapic.advance(NOW + 100);
    assert_eq!(lapic.pending(), None);
    assert_eq!(lapic.deadline(), None);
}

#[test]
fn tsc_deadline_timer() {
    let clock = Clock {
        now_ns: NOW,
        tsc: 10_000,
        tsc_khz: 2_000_000,
    };
    let mut lapic = enabled();
    lapic.set_tsc_deadline(20_000, &clock);
    assert_eq!(lapic.tsc_deadline(), 0, "ignored in other modes");
    write(&mut lapic, 0x320, 2 << 17 | 0xec);
    lapic.set_tsc_deadline(20_000, &clock);
    assert_eq!(lapic.tsc_deadline(), 20_000);
    assert_eq!(lapic.deadline(), Some(NOW + 5_000));
    write(&mut lapic, 0x380, 77);
    assert_eq!(lapic.read(0x380, NOW), 0, "ignored in this mode");
    assert_eq!(lapic.read(0x390, NOW), 0);
    lapic.tsc_changed(&Clock {
        tsc: 18_000,
        ..clock
    });
    assert_eq!(lapic.deadline(), Some(NOW + 1_000));
    lapic.advance(NOW + 1_000);
    assert_eq!(lapic.ack(), Some(0xec));
    assert_eq!(lapic.tsc_deadline(), 0, "disarmed by firing");
    lapic.set_tsc_deadline(1, &clock);
    assert_eq!(lapic.deadline(), Some(NOW), "already past");
    lapic.set_tsc_deadline(0, &clock);
    assert_eq!(lapic.deadline(), None);
    lapic.set_tsc_deadline(20_000, &clock);
    write(&mut lapic, 0x320, 0xec);
    assert_eq!((lapic.deadline(), lapic.tsc_deadline()), (None, 0));
}

#[test]
fn one_shot_to_periodic_keeps_counting() {
    let mut lapic = enabled();
    write(&mut lapic, 0x3e0, 0xb);
    write(&mut lapic, 0x320, 0xec);
    write(&mut lapic, 0x380, 500_000);
    write(&mut lapic, 0x320, 1 << 17 | 0xec);
    lapic.advance(NOW + 500_000);
    assert_eq!(lapic.deadline(), Some(NOW + 1_000_000));
}

#[test]
fn saved_page_restores_everything() {
    let mut lapic = enabled();
    write(&mut lapic, 0xd0, 0x0200_0000);
    write(&mut lapic, 0x80, 0x30);
    write(&mut lapic, 0x3e0, 0xb);
    write(&mut lapic, 0x320, 1 << 17 | 0xec);
    write(&mut lapic, 0x350, 0x1_0700);
    write(&mut lapic, 0x2f0, 0x1_0055);
    write(&mut lapic, 0x310, 0x0700_0000);
    let _ = lapic.write(0x300, 0x40fd, NOW);
    write(&mut lapic, 0x380, 1_000_000);
    lapic.accept(&fixed(0x91));
    lapic.ack();
    lapic.accept(&Message {
        level: true,
        ..fixed(0xa2)
    });
    let then = NOW + 250_000;
    let page = lapic.page(then);
    assert_eq!(page[0x20..0x24], [0, 0, 0, 1]);
    assert_eq!(page[0x390..0x394], 750_000u32.to_le_bytes());
    assert_eq!(page[0x250..0x254], 4u32.to_le_bytes(), "IRR 0xa2");
    assert_eq!(page[0x310..0x314], 0x0700_0000u32.to_le_bytes());
    let mut copy = Lapic::new(1, false, 46);
    copy.set_page(&page, 5);
    assert_eq!(copy.page(5), page);
    assert_eq!(copy.deadline(), Some(5 + 750_000));
    assert_eq!(copy.pending(), Some(0xa2));
    assert!(copy.take_attention());
}

#[test]
fn saved_page_in_x2apic_mode() {
    let mut lapic = x2apic(0x1234);
    let _ = lapic.write_msr(0x830, 0x0001_2345_0000_40fd, NOW).unwrap();
    let page = lapic.page(NOW);
    assert_eq!(page[0x20..0x24], 0x1234u32.to_le_bytes());
    let mut copy = Lapic::new(0x1234, false, 46);
    copy.set_apic_base(lapic.apic_base()).unwrap();
    copy.set_page(&page, NOW);
    assert_eq!(copy.page(NOW), page);
    assert_eq!(copy.read_msr(0x830, NOW), Ok(0x0001_2345_0000_40fd));
}
