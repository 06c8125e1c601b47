//! Processors.

use super::{Hotplug, Live, State, is_pending};
use crate::board;
use crate::control::Control;
use crate::outcome::{Error, Result};
use std::time::Instant;

/// A processor that is there or may come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HotpluggableCpu {
    /// Its number, from 0.
    pub number: u32,
    /// Its APIC id.
    pub apic_id: u32,
    /// Its package.
    pub socket: u32,
    /// Its core in the package.
    pub core: u32,
    /// Its thread in the core.
    pub thread: u32,
    /// It is there.
    pub present: bool,
    /// The user's name for it.
    pub id: Option<String>,
}

impl State {
    fn cpu_error<T>(&self, why: String) -> Result<T> {
        let count = self.processors.iter().filter(|p| p.present).count() as u32;
        Err(Error::Vcpus { count, why })
    }
}

impl Live {
    /// A processor starts to wait for another one to start it.
    fn start(&self, state: &State, control: &Control, number: u32) -> Result<()> {
        if self.crew.bring_back(number, control) {
            return Ok(());
        }
        let Some(vm) = self.vm.upgrade() else {
            return state.cpu_error("the machine is about to start again".into());
        };
        let supported = self.hypervisor.supported_cpuid()?;
        let processor = board::create_vcpu(&*vm, &supported, &state.config, number)?;
        control.add_kicker(processor.number, processor.vcpu.kicker());
        self.crew.add(processor);
        Ok(())
    }
}

impl Hotplug {
    pub(super) fn cpus(&self) -> Vec<HotpluggableCpu> {
        let state = self.state.lock();
        let topology = state.config.topology;
        let cpu = |(number, processor): (u32, &super::Processor)| HotpluggableCpu {
            number,
            apic_id: topology.apic_id(number),
            socket: number / topology.per_socket(),
            core: number / topology.threads % topology.cores,
            thread: number % topology.threads,
            present: processor.present,
            id: processor.id.clone(),
        };
        (0..).zip(&state.processors).map(cpu).collect()
    }

    pub(super) fn add_cpu(&self, number: u32, id: Option<&str>) -> Result<()> {
        let mut state = self.state.lock();
        let highest = state.processors.len().saturating_sub(1);
        if let Some(id) = id.filter(|id| state.has_id(id)) {
            return state.cpu_error(format!("Duplicate device ID '{id}'"));
        }
        match state.processors.get(number as usize) {
            None => {
                return state.cpu_error(format!(
                    "there is no processor {number}; -smp maxcpus= gives 0 to {highest}"
                ));
            }
            Some(processor) if processor.present => {
                return state.cpu_error(format!("processor {number} is there already"));
            }
            Some(_) => {}
        }
        let Some(live) = &state.live else {
            return state.cpu_error("the machine does not run".into());
        };
        let registers = live.registers.as_ref();
        let Some(registers) = registers.and_then(|r| r.processors.clone()) else {
            return state.cpu_error("this board has no hot-plug of processors".into());
        };
        live.start(&state, &self.control, number)?;
        let processor = &mut state.processors[number as usize];
        processor.present = true;
        processor.id = id.map(Into::into);
        drop(state);
        registers.plugged(number);
        Ok(())
    }

    pub(super) fn remove_cpu(&self, number: u32) -> Result<()> {
        let mut state = self.state.lock();
        let found = state.processors.get(number as usize);
        let Some(processor) = found.filter(|p| p.present) else {
            return state.cpu_error(format!("processor {number} is not there"));
        };
        if number == 0 {
            return state.cpu_error("processor 0 starts the machine and stays".into());
        }
        if is_pending(processor.asked) {
            let why = format!("processor {number} is already in the process of unplug");
            return state.cpu_error(why);
        }
        let registers = state.live.as_ref().and_then(|l| l.registers.as_ref());
        let Some(registers) = registers.and_then(|r| r.processors.clone()) else {
            return state.cpu_error(
                "processors come and go if -smp maxcpus= is more than cpus=, on pc and q35".into(),
            );
        };
        state.processors[number as usize].asked = Some(Instant::now());
        drop(state);
        registers.to_unplug(number);
        Ok(())
    }

    /// The guest has let go of a processor.
    pub(super) fn eject_cpu(&self, number: u32) {
        let mut state = self.state.lock();
        let Some(live) = &state.live else {
            return;
        };
        live.crew.unplug(number);
        let Some(processor) = state.processors.get_mut(number as usize) else {
            return;
        };
        let gone = std::mem::take(processor);
        drop(state);
        if gone.present {
            self.tell(&[gone.deleted(number as usize)]);
        }
    }
}
