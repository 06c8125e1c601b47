//! Comparing states of one moment that were taken at two: timers may have
//! expired in between.

use crate::outcome::Result;
use state::Image;
use state::chips::{IoApic, Pic};
use state::devices::{AcpiPm, Rtc};
use state::vcpu::Vcpu;
use x86::msr;

/// Fields that time changes while nothing runs.
const MOVES_WITH_TIME: [&str; 6] = [
    "lapic_count",
    "tsc",
    "kvmclock_ns",
    "count_load_time",
    "timer_ns",
    "due_in_ns",
];

/// Local APIC registers by number (SDM vol. 3A, table 11-1): the first word
/// of requested interrupts, the timer's vector.
const IRR: usize = 0x20;
const LVT_TIMER: usize = 0x32;
/// Interrupts of timers: the 8254's and the RTC's pins of the I/O APIC, and
/// their bit in each 8259.
const TIMER_PINS: [usize; 3] = [0, 2, 8];
const TIMER_IRQ: u8 = 1 << 0;
/// Addresses of kvmclock's structures, and their size.
const CLOCKS: [u32; 2] = [msr::KVM_SYSTEM_TIME, msr::KVM_SYSTEM_TIME_NEW];
const CLOCK_LEN: usize = 32;
/// TMR_STS of ACPI's PM1 status.
const PM_TIMER: u16 = 1 << 0;

/// Where two images differ, but for what time alone changes.
pub fn difference(a: &Image, b: &Image) -> Result<Option<String>> {
    let (a, b) = (without_timers(a)?, without_timers(b)?);
    Ok(a.difference(&b, &MOVES_WITH_TIME))
}

/// The image without interrupts that a timer may have asked for.
fn without_timers(image: &Image) -> Result<Image> {
    let mut image = image.clone();
    for chip in ["0", "1"] {
        let mut pic: Pic = image.take(chip)?;
        pic.irr &= !TIMER_IRQ;
        pic.last_irr &= !TIMER_IRQ;
        image.put(chip, &pic);
    }
    let mut ioapic: IoApic = image.take("")?;
    TIMER_PINS.iter().for_each(|pin| ioapic.irr &= !(1 << pin));
    let pins = TIMER_PINS
        .iter()
        .filter_map(|&pin| ioapic.redirtbl.get(pin));
    let vectors: Vec<u8> = pins.map(|&entry| entry as u8).collect();
    image.put("", &ioapic);
    let mut rtc: Rtc = image.take("")?;
    (rtc.c, rtc.seen_ns, rtc.level) = (0, 0, false);
    image.put("", &rtc);
    // Boards with hardware-reduced ACPI have none.
    match image.take::<AcpiPm>("") {
        Err(state::Error::Missing(_)) => {}
        pm => {
            let mut pm = pm?;
            pm.status &= !PM_TIMER;
            image.put("", &pm);
        }
    }
    for number in 0.. {
        let Ok(mut vcpu) = image.take::<Vcpu>(&number.to_string()) else {
            break;
        };
        forget(&mut vcpu, &vectors);
        clock_pages(&vcpu).for_each(|gpa| image.memory.clear(gpa, CLOCK_LEN));
        image.put(&number.to_string(), &vcpu);
    }
    Ok(image)
}

/// Where the backend writes a vCPU's kvmclock.
fn clock_pages(vcpu: &Vcpu) -> impl Iterator<Item = u64> {
    let clocks = vcpu.msrs.iter().filter(|m| CLOCKS.contains(&m.index));
    let enabled = clocks.filter(|m| m.value & 1 != 0);
    enabled.map(|m| m.value & !1)
}

/// Clears the requests of `vectors` and of the local timer.
fn forget(vcpu: &mut Vcpu, vectors: &[u8]) {
    let own = vcpu.lapic.get(LVT_TIMER).map(|&entry| entry as u8);
    for vector in vectors.iter().copied().chain(own) {
        let word = vcpu.lapic.get_mut(IRR + usize::from(vector / 32));
        word.into_iter().for_each(|w| *w &= !(1 << (vector % 32)));
    }
    let msrs = vcpu.msrs.iter_mut();
    msrs.filter(|m| m.index == msr::TSC_DEADLINE)
        .for_each(|m| m.value = 0);
}
