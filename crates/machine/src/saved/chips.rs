//! The backend's interrupt controllers, 8254 and clock.
#![allow(unsafe_code, reason = "reads the unions of KVM's structures")]

use crate::outcome::Result;
use hv::Vm;
use hv::abi::{
    kvm_ioapic_state, kvm_irqchip, kvm_pic_state, kvm_pit_channel_state, kvm_pit_state2,
};
use state::Image;
use state::chips::{Clock, IoApic, Pic, Pit, PitChannel};

const IOAPIC: u32 = 2;
const PINS: usize = 24;

/// Copies fields of the same name.
macro_rules! copy {
    ($from:expr, $to:ident { $($field:ident),* $(,)? } $($rest:tt)*) => {
        $to { $($field: $from.$field,)* $($rest)* }
    };
}

macro_rules! pic_fields {
    ($from:expr, $to:ident) => {
        copy!(
            $from,
            $to {
                last_irr,
                irr,
                imr,
                isr,
                priority_add,
                irq_base,
                read_reg_select,
                poll,
                special_mask,
                init_state,
                auto_eoi,
                rotate_on_auto_eoi,
                special_fully_nested_mode,
                init4,
                elcr,
                elcr_mask,
            }
        )
    };
}

macro_rules! channel_fields {
    ($from:expr, $to:ident) => {
        copy!(
            $from,
            $to {
                count,
                latched_count,
                count_latched,
                status_latched,
                status,
                read_state,
                write_state,
                write_latch,
                rw_mode,
                mode,
                bcd,
                gate,
                count_load_time,
            }
        )
    };
}

pub fn save(vm: &dyn Vm, image: &mut Image) -> Result<()> {
    for chip in 0..2u32 {
        let pic = pic_of(&vm.irqchip(chip)?);
        image.put(&chip.to_string(), &pic_fields!(pic, Pic));
    }
    image.put("", &ioapic_of(&vm.irqchip(IOAPIC)?));
    let pit = vm.pit()?;
    let channels = pit.channels.iter().map(|c| channel_fields!(c, PitChannel));
    let channels = channels.collect();
    image.put(
        "",
        &Pit {
            channels,
            flags: pit.flags,
        },
    );
    let kvmclock_ns = vm.clock_ns()?;
    image.put("", &Clock { kvmclock_ns });
    Ok(())
}

pub fn restore(vm: &dyn Vm, image: &mut Image) -> Result<()> {
    for chip_id in 0..2u32 {
        let pic: Pic = image.take(&chip_id.to_string())?;
        let mut chip = kvm_irqchip {
            chip_id,
            ..Default::default()
        };
        chip.chip.pic = pic_fields!(pic, kvm_pic_state);
        vm.set_irqchip(&chip)?;
    }
    let ioapic: IoApic = image.take("")?;
    vm.set_irqchip(&ioapic_to(&ioapic)?)?;
    let pit: Pit = image.take("")?;
    let mut to = kvm_pit_state2 {
        flags: pit.flags,
        ..Default::default()
    };
    check_len("8254", "channels", pit.channels.len(), to.channels.len())?;
    for (to, from) in to.channels.iter_mut().zip(&pit.channels) {
        *to = channel_fields!(from, kvm_pit_channel_state);
    }
    vm.set_pit(&to)?;
    Ok(())
}

/// After the vCPUs: their clock pages are written anew.
pub fn restore_clock(vm: &dyn Vm, image: &mut Image) -> Result<()> {
    let clock: Clock = image.take("")?;
    vm.set_clock_ns(clock.kvmclock_ns)?;
    Ok(())
}

/// A list of a section has the only length it can have.
pub fn check_len(name: &str, what: &str, len: usize, expected: usize) -> state::Result<()> {
    match len == expected {
        true => Ok(()),
        false => Err(state::Error::Impossible {
            name: name.into(),
            why: format!("{len} {what} instead of {expected}"),
        }),
    }
}

/// The 8259 pair and the I/O APIC.
pub fn interrupt_controllers(vm: &dyn Vm) -> hv::Result<([kvm_pic_state; 2], IoApic)> {
    let pics = [pic_of(&vm.irqchip(0)?), pic_of(&vm.irqchip(1)?)];
    Ok((pics, ioapic_of(&vm.irqchip(IOAPIC)?)))
}

fn pic_of(chip: &kvm_irqchip) -> kvm_pic_state {
    // SAFETY: chips 0 and 1 are 8259s, and every bit pattern is a valid one.
    unsafe { chip.chip.pic }
}

fn ioapic_of(chip: &kvm_irqchip) -> IoApic {
    // SAFETY: chip 2 is the I/O APIC, and every bit pattern is a valid one.
    let from = unsafe { chip.chip.ioapic };
    let bits = from.redirtbl.iter().map(|entry| {
        // SAFETY: all members of the union are 64 bits without invalid values.
        unsafe { entry.bits }
    });
    IoApic {
        base_address: from.base_address,
        ioregsel: from.ioregsel,
        id: from.id,
        irr: from.irr,
        redirtbl: bits.collect(),
    }
}

fn ioapic_to(from: &IoApic) -> Result<kvm_irqchip> {
    check_len("ioapic", "pins", from.redirtbl.len(), PINS)?;
    let mut chip = kvm_irqchip {
        chip_id: IOAPIC,
        ..Default::default()
    };
    let mut to = kvm_ioapic_state {
        base_address: from.base_address,
        ioregsel: from.ioregsel,
        id: from.id,
        irr: from.irr,
        ..Default::default()
    };
    for (to, from) in to.redirtbl.iter_mut().zip(&from.redirtbl) {
        to.bits = *from;
    }
    chip.chip.ioapic = to;
    Ok(chip)
}
