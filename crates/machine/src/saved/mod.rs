//! Saving and restoring a board.
//!
//! A board is saved while no vCPU runs and no instruction is in flight
//! ([`settle`]). What is saved belongs to the schema in `state`; RAM, vCPUs
//! and the backend's chips are dealt with here, devices save themselves.
//! Restoring happens into a board that was built from the same configuration
//! and has not run.

pub mod chips;
mod compare;
mod vcpu;

pub use compare::difference;

use crate::board::{Board, Processor};
use crate::outcome::{Error, Result};
use crate::ram::GuestRam;
use devices::Stateful;
use hv::{DebugExit, Hypervisor, Vcpu, VcpuExit};
use state::{Image, PAGE};
use std::sync::Arc;

/// A device that is part of a saved state, under its instance's name.
pub type Named = (String, Arc<dyn Stateful>);

/// Finishes the instruction in flight, if there is one: its access was
/// served, its registers are not written yet. If a debugger wanted to have it
/// stepped, it is to hear of that.
pub fn settle(vcpu: &mut dyn Vcpu) -> Result<Option<DebugExit>> {
    let kicker = vcpu.kicker();
    kicker.set_immediate_exit(true);
    let exit = vcpu.run();
    kicker.set_immediate_exit(false);
    match exit? {
        VcpuExit::Interrupted => Ok(None),
        VcpuExit::Debug(exit) => Ok(Some(exit)),
        exit => Err(Error::State(format!(
            "a vCPU left with {exit:?} instead of stopping"
        ))),
    }
}

/// The state of a board whose vCPUs are settled. Devices stop; if the board
/// shall go on, [`resume`] starts them.
pub fn save(hypervisor: &dyn Hypervisor, board: &Board, vcpus: &[Processor]) -> Result<Image> {
    let mut image = Image::default();
    // Devices first: what they still write to RAM must be in it.
    for (name, device) in &board.stateful {
        device.save(name, &mut image)?;
    }
    chips::save(&*board.vm, &mut image)?;
    let msrs = hypervisor.msr_index_list()?;
    for Processor { number, vcpu } in vcpus {
        image.put(&number.to_string(), &vcpu::save(&**vcpu, &msrs)?);
    }
    save_ram(&board.ram, &mut image);
    Ok(image)
}

/// Puts a saved state into a board that has not run. Its devices stand still
/// until [`resume`].
pub fn restore(board: &Board, vcpus: &mut [Processor], mut image: Image) -> Result<()> {
    restore_ram(board, &image)?;
    chips::restore(&*board.vm, &mut image)?;
    for Processor { number, vcpu } in vcpus {
        let saved = image.take(&number.to_string())?;
        vcpu::restore(&mut **vcpu, &saved, *number as usize)?;
    }
    chips::restore_clock(&*board.vm, &mut image)?;
    for (name, device) in &board.stateful {
        device.restore(name, &mut image)?;
    }
    image.finish()?;
    Ok(())
}

/// Lets the devices' own threads work.
pub fn resume(board: &Board) {
    board
        .stateful
        .iter()
        .for_each(|(_, device)| device.resume());
}

fn save_ram(ram: &GuestRam, image: &mut Image) {
    let mut page = [0; PAGE];
    for (range, _) in ram.slots() {
        for gpa in (range.gpa..range.gpa + range.size).step_by(PAGE) {
            if ram.read(gpa, &mut page).is_ok() {
                image.memory.put(gpa, &page);
            }
        }
    }
}

fn restore_ram(board: &Board, image: &Image) -> Result<()> {
    let zero = [0; PAGE];
    let mut present = [0; PAGE];
    // What loading the kernel left must go.
    for (range, _) in board.ram.slots() {
        for gpa in (range.gpa..range.gpa + range.size).step_by(PAGE) {
            let read = board.ram.read(gpa, &mut present);
            if read.is_ok() && present != zero {
                let _ = board.ram.write(gpa, &zero);
                board.vm.memory_written(gpa, PAGE as u64);
            }
        }
    }
    for (gpa, page) in image.memory.pages() {
        let written = board.ram.write(gpa, &page[..]);
        written.map_err(|_| {
            Error::State(format!(
                "there is memory at {gpa:#x}, this machine has none there"
            ))
        })?;
        board.vm.memory_written(gpa, PAGE as u64);
    }
    Ok(())
}
