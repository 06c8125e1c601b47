//! What a debugger at the machine is told, on the vCPUs' threads.

use hv::{DebugExit, Vcpu};
use parking_lot::RwLock;
use std::sync::Arc;

/// A debugger at a machine ([`crate::MachineHandle::attach`]).
pub trait Debugger: Send + Sync {
    /// A vCPU's thread starts: it knows of no breakpoints, as after a reset.
    fn started(&self, vcpu: u32, cpu: &mut dyn Vcpu);

    /// A debug event; true if the machine is to stop for it.
    fn hit(&self, vcpu: u32, cpu: &mut dyn Vcpu, exit: DebugExit) -> bool;
}

/// The place for a debugger.
#[derive(Default)]
pub struct Attached(RwLock<Option<Arc<dyn Debugger>>>);

impl Attached {
    /// Puts one there, or takes it away.
    pub fn set(&self, debugger: Option<Arc<dyn Debugger>>) {
        *self.0.write() = debugger;
    }

    /// See [`Debugger::started`].
    pub fn started(&self, vcpu: u32, cpu: &mut dyn Vcpu) {
        if let Some(debugger) = self.get() {
            debugger.started(vcpu, cpu);
        }
    }

    /// See [`Debugger::hit`]; `None` if there is none.
    pub fn hit(&self, vcpu: u32, cpu: &mut dyn Vcpu, exit: DebugExit) -> Option<bool> {
        Some(self.get()?.hit(vcpu, cpu, exit))
    }

    fn get(&self) -> Option<Arc<dyn Debugger>> {
        self.0.read().clone()
    }
}
