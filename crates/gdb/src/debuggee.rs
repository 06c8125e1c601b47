//! What a debugger is at: a machine, or what a test has in place of one.

use gdbstub::target::TargetError;
use hv::Vcpu;
use machine::{HandleError, MachineHandle, RunState};
use std::sync::mpsc;

/// Something to be done on a vCPU's thread.
pub type Errand = Box<dyn FnOnce(&mut dyn Vcpu) + Send>;

/// The machine as a debugger needs it; [`MachineHandle`] says what each does.
pub trait Debuggee {
    /// Numbers of the vCPUs.
    fn vcpus(&self) -> Vec<u32>;
    /// Does it between two instructions and returns when it is done.
    ///
    /// # Errors
    /// There is no such vCPU, or none runs.
    fn send(&self, vcpu: u32, errand: Errand) -> Result<(), HandleError>;
    /// Reads RAM.
    ///
    /// # Errors
    /// Not all of it is RAM.
    fn read_memory(&self, gpa: u64, bytes: &mut [u8]) -> Result<(), HandleError>;
    /// Writes RAM.
    ///
    /// # Errors
    /// Not all of it is RAM.
    fn write_memory(&self, gpa: u64, bytes: &[u8]) -> Result<(), HandleError>;
    /// Whether it runs.
    fn run_state(&self) -> RunState;
    /// Stops it, if it runs.
    fn stop_if_running(&self, why: RunState);
    /// Lets it go on.
    ///
    /// # Errors
    /// The guest is over.
    fn resume(&self) -> Result<(), HandleError>;
    /// Lets only these vCPUs run.
    fn choose(&self, vcpus: Option<Vec<u32>>);
}

/// Does `work` on a vCPU's thread.
pub(crate) fn on_vcpu<R: Send + 'static>(
    debuggee: &dyn Debuggee,
    vcpu: u32,
    work: impl FnOnce(&mut dyn Vcpu) -> R + Send + 'static,
) -> Result<R, HandleError> {
    let (done, result) = mpsc::sync_channel(1);
    let errand = move |vcpu: &mut dyn Vcpu| drop(done.send(work(vcpu)));
    debuggee.send(vcpu, Box::new(errand))?;
    result.recv().map_err(|_| HandleError::NotRunning)
}

impl Debuggee for MachineHandle {
    fn vcpus(&self) -> Vec<u32> {
        Self::vcpus(self)
    }

    fn send(&self, vcpu: u32, errand: Errand) -> Result<(), HandleError> {
        self.on_vcpu(vcpu, errand)
    }

    fn read_memory(&self, gpa: u64, bytes: &mut [u8]) -> Result<(), HandleError> {
        Self::read_memory(self, gpa, bytes)
    }

    fn write_memory(&self, gpa: u64, bytes: &[u8]) -> Result<(), HandleError> {
        Self::write_memory(self, gpa, bytes)
    }

    fn run_state(&self) -> RunState {
        Self::run_state(self)
    }

    fn stop_if_running(&self, why: RunState) {
        Self::stop_if_running(self, why);
    }

    fn resume(&self) -> Result<(), HandleError> {
        Self::resume(self)
    }

    fn choose(&self, vcpus: Option<Vec<u32>>) {
        Self::choose(self, vcpus);
    }
}

/// Linux's EFAULT, for addresses where nothing is.
pub(crate) fn fault<E>(_: E) -> TargetError<HandleError> {
    const EFAULT: u8 = 14;
    TargetError::Errno(EFAULT)
}
