//! The machine as the protocol's crate sees it.

use crate::debuggee::{Debuggee, fault, on_vcpu};
use crate::debugger::{Hit, Shared, Step, What};
use crate::points::{INT3, Soft, Watch};
use crate::registers::{Image, Number, Snapshot, X86};
use gdbstub::common::{Signal, Tid};
use gdbstub::stub::MultiThreadStopReason;
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread as multi;
use gdbstub::target::ext::base::single_register_access::{
    SingleRegisterAccess, SingleRegisterAccessOps,
};
use gdbstub::target::ext::breakpoints as points;
use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd, MonitorCmdOps};
use gdbstub::target::ext::thread_extra_info::{ThreadExtraInfo, ThreadExtraInfoOps};
use gdbstub::target::{self, TargetError, TargetResult};
use hv::Vcpu;
use hv::abi::KVM_MP_STATE_RUNNABLE;
use machine::{HandleError, RunState};
use points::WatchKind;
use std::sync::Arc;

/// What answers the debugger's `monitor` commands.
pub type Monitor = dyn Fn(&str) -> String + Send + Sync;

const PAGE: u64 = 4096;
/// EINVAL, for values that the processor refuses.
const EINVAL: u8 = 22;

pub(crate) struct Target<'a> {
    pub(crate) handle: &'a dyn Debuggee,
    pub(crate) shared: Arc<Shared>,
    pub(crate) monitor: Option<&'a Monitor>,
    /// Whom the debugger has been told of last.
    current: u32,
    /// What it wants the vCPUs to do next.
    steps: Vec<(u32, Step)>,
    /// Those that go on, if the others wait.
    named: Vec<u32>,
    others_wait: bool,
}

type Answer<T> = TargetResult<T, Target<'static>>;
type Stopped = MultiThreadStopReason<u64>;

/// Threads are numbered from 1.
fn vcpu_of(tid: Tid) -> u32 {
    u32::try_from(tid.get() - 1).unwrap_or(u32::MAX)
}

fn tid_of(vcpu: u32) -> Tid {
    Tid::MIN.saturating_add(vcpu as usize)
}

impl<'a> Target<'a> {
    pub(crate) fn new(
        handle: &'a dyn Debuggee,
        shared: Arc<Shared>,
        monitor: Option<&'a Monitor>,
    ) -> Self {
        Self {
            handle,
            shared,
            monitor,
            current: 0,
            steps: Vec::new(),
            named: Vec::new(),
            others_wait: false,
        }
    }

    /// Stops the machine for the debugger; what it is told.
    pub(crate) fn interrupt(&mut self) -> Stopped {
        self.handle.stop_if_running(RunState::Debug);
        self.stopped_by(Signal::SIGINT)
    }

    /// What to tell a debugger that waits: a breakpoint was hit, or the machine
    /// stopped for another reason.
    pub(crate) fn has_stopped(&mut self) -> Option<Stopped> {
        if let Some(hit) = self.shared.take_hit() {
            self.handle.stop_if_running(RunState::Debug);
            return Some(self.report(hit));
        }
        let signal = match self.handle.run_state() {
            RunState::Running => return None,
            RunState::Prelaunch | RunState::Paused | RunState::Debug => Signal::SIGINT,
            RunState::IoError => Signal::SIGSTOP,
            RunState::Shutdown => Signal::SIGQUIT,
            RunState::GuestPanicked => Signal::SIGABRT,
        };
        self.handle.stop_if_running(RunState::Debug);
        Some(self.stopped_by(signal))
    }

    fn stopped_by(&mut self, signal: Signal) -> Stopped {
        // It may have been unplugged.
        if !self.handle.vcpus().contains(&self.current) {
            self.current = 0;
        }
        let tid = tid_of(self.current);
        Stopped::SignalWithThread { tid, signal }
    }

    fn report(&mut self, hit: Hit) -> Stopped {
        self.current = hit.vcpu;
        let tid = tid_of(hit.vcpu);
        match hit.what {
            What::Soft => Stopped::SwBreak(tid),
            What::Hard => Stopped::HwBreak(tid),
            What::Step => self.stopped_by(Signal::SIGTRAP),
            What::Watch(Watch { address, kind, .. }) => Stopped::Watch {
                tid,
                kind,
                addr: address,
            },
        }
    }

    /// Takes all breakpoints away. The machine does not run: it could take an INT3
    /// for its own.
    pub(crate) fn clear(&mut self) {
        let soft = std::mem::take(&mut self.shared.lock().points.soft);
        for soft in soft {
            self.restore(&soft);
        }
        let mut state = self.shared.lock();
        state.points = Default::default();
        state.steps.clear();
        drop(state);
        self.shared.arm(self.handle);
        self.handle.choose(None);
    }

    fn on<R: Send + 'static>(
        &self,
        tid: Tid,
        work: impl FnOnce(&mut dyn Vcpu) -> R + Send + 'static,
    ) -> Answer<R> {
        on_vcpu(self.handle, vcpu_of(tid), work).map_err(fault)
    }

    fn snapshot(&self, tid: Tid) -> Answer<Snapshot> {
        self.on(tid, |cpu| Snapshot::of(cpu))?
            .map_err(|_| TargetError::NonFatal)
    }

    /// Changes registers; `change` is false if it cannot.
    fn change(
        &self,
        tid: Tid,
        change: impl FnOnce(&mut Snapshot) -> bool + Send + 'static,
    ) -> Answer<()> {
        let work = move |cpu: &mut dyn Vcpu| {
            let before = Snapshot::of(cpu).ok()?;
            let mut after = before.clone();
            change(&mut after).then_some(())?;
            after.store(&before, cpu).ok()
        };
        self.on(tid, work)?.ok_or(TargetError::Errno(EINVAL))
    }

    /// Guest-physical addresses and lengths of the pieces of a range, as a vCPU
    /// has its pages mapped now.
    fn pieces(&self, tid: Tid, start: u64, len: usize) -> Answer<Vec<(Option<u64>, usize)>> {
        // So that nothing that is done with the addresses in it wraps.
        let end = start.checked_add(len as u64).ok_or(fault(()))?;
        let work = move |cpu: &mut dyn Vcpu| {
            let mut pieces = Vec::new();
            let mut at = start;
            while at < end {
                let len = (PAGE - at % PAGE).min(end - at);
                pieces.push((cpu.translate(at).ok().flatten(), len as usize));
                at += len;
            }
            pieces
        };
        self.on(tid, work)
    }

    /// Reads as much as there is, and shows each piece with its guest-physical
    /// address.
    fn read(
        &self,
        tid: Tid,
        start: u64,
        data: &mut [u8],
        mut show: impl FnMut(u64, &mut [u8]),
    ) -> Answer<usize> {
        let mut done = 0;
        for (gpa, len) in self.pieces(tid, start, data.len())? {
            let Some(gpa) = gpa else { break };
            let part = &mut data[done..done + len];
            if self.handle.read_memory(gpa, part).is_err() {
                break;
            }
            show(gpa, part);
            done += len;
        }
        Ok(done)
    }

    fn restore(&self, soft: &Soft) {
        let mut byte = [0];
        let there = self.handle.read_memory(soft.gpa, &mut byte).is_ok();
        // Otherwise the guest, or a reset, has put something else there.
        if there && byte == [INT3] {
            let _ = self.handle.write_memory(soft.gpa, &[soft.byte]);
        }
    }
}

impl target::Target for Target<'_> {
    type Arch = X86;
    type Error = HandleError;

    fn base_ops(&mut self) -> BaseOps<'_, X86, HandleError> {
        BaseOps::MultiThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<points::BreakpointsOps<'_, Self>> {
        Some(self)
    }

    fn support_monitor_cmd(&mut self) -> Option<MonitorCmdOps<'_, Self>> {
        Some(self)
    }
}

impl multi::MultiThreadBase for Target<'_> {
    fn read_registers(&mut self, regs: &mut Image, tid: Tid) -> TargetResult<(), Self> {
        *regs = self.snapshot(tid)?.image();
        Ok(())
    }

    fn write_registers(&mut self, regs: &Image, tid: Tid) -> TargetResult<(), Self> {
        let regs = regs.clone();
        self.change(tid, move |s| s.set_image(&regs))
    }

    fn support_single_register_access(&mut self) -> Option<SingleRegisterAccessOps<'_, Tid, Self>> {
        Some(self)
    }

    fn read_addrs(&mut self, start: u64, data: &mut [u8], tid: Tid) -> TargetResult<usize, Self> {
        let done = self.read(tid, start, data, |gpa, part| {
            self.shared.lock().points.hide(gpa, part);
        })?;
        match done > 0 || data.is_empty() {
            true => Ok(done),
            false => Err(fault(())),
        }
    }

    fn write_addrs(&mut self, start: u64, data: &[u8], tid: Tid) -> TargetResult<(), Self> {
        let pieces = self.pieces(tid, start, data.len())?;
        // All of it or nothing.
        if pieces.iter().any(|(gpa, _)| gpa.is_none()) {
            return Err(fault(()));
        }
        let mut rest = data;
        for (gpa, len) in pieces {
            let (part, more) = rest.split_at(len);
            let (gpa, mut part) = (gpa.unwrap_or_default(), part.to_vec());
            self.shared.lock().points.keep(gpa, &mut part);
            self.handle.write_memory(gpa, &part).map_err(fault)?;
            rest = more;
        }
        Ok(())
    }

    fn list_active_threads(&mut self, is_active: &mut dyn FnMut(Tid)) -> Result<(), HandleError> {
        // While the machine starts again there are none, which would mean the end.
        let vcpus = self.handle.vcpus();
        let first = vcpus.is_empty().then_some(0);
        let vcpus = vcpus.into_iter().chain(first);
        vcpus.for_each(|vcpu| is_active(tid_of(vcpu)));
        Ok(())
    }

    fn support_resume(&mut self) -> Option<multi::MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }

    fn support_thread_extra_info(&mut self) -> Option<ThreadExtraInfoOps<'_, Self>> {
        Some(self)
    }
}

impl SingleRegisterAccess<Tid> for Target<'_> {
    fn read_register(
        &mut self,
        tid: Tid,
        register: Number,
        buffer: &mut [u8],
    ) -> TargetResult<usize, Self> {
        let value = register.get(&self.snapshot(tid)?);
        let part = buffer.get_mut(..value.len());
        part.ok_or(TargetError::NonFatal)?.copy_from_slice(&value);
        Ok(value.len())
    }

    fn write_register(
        &mut self,
        tid: Tid,
        register: Number,
        value: &[u8],
    ) -> TargetResult<(), Self> {
        let value = value.to_vec();
        self.change(tid, move |s| register.set(s, &value))
    }
}

impl ThreadExtraInfo for Target<'_> {
    fn thread_extra_info(&self, tid: Tid, buffer: &mut [u8]) -> Result<usize, HandleError> {
        let vcpu = vcpu_of(tid);
        let state = on_vcpu(self.handle, vcpu, |cpu| cpu.mp_state());
        let text = match state {
            Ok(Ok(KVM_MP_STATE_RUNNABLE)) => format!("CPU#{vcpu} [running]"),
            Ok(_) => format!("CPU#{vcpu} [halted]"),
            Err(why) => why.to_string(),
        };
        let len = text.len().min(buffer.len());
        buffer[..len].copy_from_slice(&text.as_bytes()[..len]);
        Ok(len)
    }
}

impl MonitorCmd for Target<'_> {
    fn handle_monitor_cmd(
        &mut self,
        command: &[u8],
        mut out: ConsoleOutput<'_>,
    ) -> Result<(), HandleError> {
        let command = String::from_utf8_lossy(command);
        let answer = match self.monitor {
            Some(monitor) => monitor(&command),
            None => "there is no monitor\n".into(),
        };
        out.write_raw(answer.as_bytes());
        Ok(())
    }
}

impl multi::MultiThreadResume for Target<'_> {
    fn resume(&mut self) -> Result<(), HandleError> {
        self.shared.keep_accesses();
        self.shared.lock().steps = std::mem::take(&mut self.steps);
        self.shared.arm(self.handle);
        let named = std::mem::take(&mut self.named);
        self.handle.choose(self.others_wait.then_some(named));
        // A guest that is over stays so, which is reported at once.
        if self.handle.resume().is_err() {
            self.shared.wake();
        }
        Ok(())
    }

    fn clear_resume_actions(&mut self) -> Result<(), HandleError> {
        self.steps.clear();
        self.named.clear();
        self.others_wait = false;
        Ok(())
    }

    fn set_resume_action_continue(
        &mut self,
        tid: Tid,
        _signal: Option<Signal>,
    ) -> Result<(), HandleError> {
        self.name(tid);
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<multi::MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_range_step(&mut self) -> Option<multi::MultiThreadRangeSteppingOps<'_, Self>> {
        Some(self)
    }

    fn support_scheduler_locking(
        &mut self,
    ) -> Option<multi::MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }
}

impl Target<'_> {
    fn name(&mut self, tid: Tid) {
        let vcpu = vcpu_of(tid);
        if !self.named.contains(&vcpu) {
            self.named.push(vcpu);
        }
    }

    fn step(&mut self, tid: Tid, step: Step) {
        self.name(tid);
        // The first action for a thread counts.
        if !self.steps.iter().any(|(vcpu, _)| *vcpu == vcpu_of(tid)) {
            self.steps.push((vcpu_of(tid), step));
        }
    }
}

impl multi::MultiThreadSingleStep for Target<'_> {
    fn set_resume_action_step(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), HandleError> {
        self.step(tid, Step::One);
        Ok(())
    }
}

impl multi::MultiThreadRangeStepping for Target<'_> {
    fn set_resume_action_range_step(
        &mut self,
        tid: Tid,
        start: u64,
        end: u64,
    ) -> Result<(), HandleError> {
        self.step(tid, Step::Range(start..end));
        Ok(())
    }
}

impl multi::MultiThreadSchedulerLocking for Target<'_> {
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), HandleError> {
        self.others_wait = true;
        Ok(())
    }
}

impl points::Breakpoints for Target<'_> {
    fn support_sw_breakpoint(&mut self) -> Option<points::SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<points::HwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<points::HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

impl points::SwBreakpoint for Target<'_> {
    /// An INT3, or a hardware breakpoint where there is no memory yet: a kernel
    /// that has not set up its page tables.
    fn add_sw_breakpoint(&mut self, address: u64, _kind: usize) -> TargetResult<bool, Self> {
        let known = self.shared.lock().points.soft_at(address).copied();
        let (mut byte, mut place) = ([0], None);
        let current = tid_of(self.current);
        self.read(current, address, &mut byte, |gpa, _| place = Some(gpa))?;
        let Some(gpa) = place else {
            return Ok(self.shared.lock().points.add_code(address, true));
        };
        if known.is_some_and(|soft| soft.gpa == gpa) && byte == [INT3] {
            return Ok(true);
        }
        let mut state = self.shared.lock();
        state.points.soft.retain(|soft| soft.address != address);
        if !state.points.has_room() {
            return Ok(false);
        }
        let [byte] = byte;
        state.points.soft.push(Soft { address, gpa, byte });
        drop(state);
        let written = self.handle.write_memory(gpa, &[INT3]);
        written.map(|()| true).map_err(fault)
    }

    fn remove_sw_breakpoint(&mut self, address: u64, _kind: usize) -> TargetResult<bool, Self> {
        let mut state = self.shared.lock();
        let found = state.points.soft_at(address).copied();
        state.points.soft.retain(|soft| soft.address != address);
        let hardware = state.points.remove_code(address, true);
        drop(state);
        if let Some(soft) = found {
            self.restore(&soft);
        }
        Ok(hardware || found.is_some())
    }
}

impl points::HwBreakpoint for Target<'_> {
    fn add_hw_breakpoint(&mut self, address: u64, _kind: usize) -> TargetResult<bool, Self> {
        Ok(self.shared.lock().points.add_code(address, false))
    }

    fn remove_hw_breakpoint(&mut self, address: u64, _kind: usize) -> TargetResult<bool, Self> {
        Ok(self.shared.lock().points.remove_code(address, false))
    }
}

impl points::HwWatchpoint for Target<'_> {
    fn add_hw_watchpoint(
        &mut self,
        address: u64,
        len: u64,
        kind: WatchKind,
    ) -> TargetResult<bool, Self> {
        let watch = Watch { address, len, kind };
        Ok(self.shared.lock().points.add_watch(watch))
    }

    fn remove_hw_watchpoint(
        &mut self,
        address: u64,
        len: u64,
        kind: WatchKind,
    ) -> TargetResult<bool, Self> {
        let watch = Watch { address, len, kind };
        Ok(self.shared.lock().points.remove_watch(watch))
    }
}
