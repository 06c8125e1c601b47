//! The machines of this user that run: each answers QMP at a place that is known.

use crate::{Machine, Sample, Source};
use anyhow::{Result, bail};
use std::collections::BTreeMap;
use vms::runtime;

/// Connections to all of them, or to one.
#[derive(Default)]
pub struct Fleet {
    /// Only this process's.
    pid: Option<u32>,
    /// By process.
    machines: BTreeMap<u32, Machine>,
}

impl Fleet {
    /// All machines, or the one with that process.
    pub fn new(pid: Option<u32>) -> Self {
        Self {
            pid,
            ..Self::default()
        }
    }

    /// Connects to those that are new.
    fn look(&mut self) {
        let wanted = |pid: u32| self.pid.is_none_or(|only| only == pid);
        for (pid, path) in runtime::sockets() {
            if !wanted(pid) || self.machines.contains_key(&pid) {
                continue;
            }
            let machine = Machine::connect(pid, &path);
            self.machines.extend(machine.map(|machine| (pid, machine)));
        }
    }
}

impl Source for Fleet {
    fn read(&mut self) -> Result<Sample> {
        self.look();
        let mut sample = Sample::new();
        self.machines.retain(|_, machine| {
            let Ok(counters) = machine.counters() else {
                return false;
            };
            sample.machines.push(machine.label());
            sample.add(counters);
            true
        });
        match (self.pid, sample.machines.is_empty()) {
            (Some(pid), true) => bail!("process {pid} is no machine of this user's that runs"),
            (None, true) => bail!("no machine of this user's runs"),
            _ => Ok(sample),
        }
    }
}
