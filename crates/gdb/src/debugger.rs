//! What the vCPUs' threads and the debugger's share.

use crate::debuggee::Debuggee;
use crate::points::{Hard, Points, Watch};
use hv::abi::*;
use hv::{DebugExit, Vcpu};
use machine::Debugger;
use parking_lot::{Mutex, MutexGuard};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// Wakes the debugger's thread.
#[derive(Clone)]
pub(crate) struct Wake(Arc<OwnedFd>);

impl Wake {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self(Arc::new(eventfd(0, flags)?)))
    }

    pub(crate) fn wake(&self) {
        // Only a full counter refuses, and that wakes as well.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }

    pub(crate) fn clear(&self) {
        // Nothing to read means that nobody called.
        let _ = rustix::io::read(&*self.0, &mut [0; 8]);
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// How a vCPU steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// One instruction.
    One,
    /// Until it leaves these addresses.
    Range(Range<u64>),
}

/// Why a vCPU stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Soft,
    Hard,
    Watch(Watch),
    Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hit {
    pub(crate) vcpu: u32,
    pub(crate) what: What,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) points: Points,
    /// vCPUs that step.
    pub(crate) steps: Vec<(u32, Step)>,
    /// Not reported yet.
    hits: VecDeque<Hit>,
    /// What each vCPU's backend knows.
    known: Vec<(u32, Wanted)>,
}

/// [`kvm_guest_debug`] without its padding.
type Wanted = (u32, [u64; 8]);

impl State {
    fn wanted(&self, vcpu: u32) -> Wanted {
        let mut control = 0;
        if !self.points.soft.is_empty() {
            control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP;
        }
        if self.points.uses_registers() {
            control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
        }
        if self.steps.iter().any(|(v, _)| *v == vcpu) {
            control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_BLOCKIRQ;
        }
        (control, self.points.debug_registers())
    }

    fn knows(&mut self, vcpu: u32, wanted: Wanted) {
        self.known.retain(|(v, _)| *v != vcpu);
        self.known.push((vcpu, wanted));
    }

    /// What happened, if it is for the debugger.
    fn judge(&self, vcpu: u32, exit: &DebugExit) -> Option<What> {
        if exit.exception == 3 {
            return self.points.soft_at(exit.pc).map(|_| What::Soft);
        }
        match self.points.hit(exit.dr6) {
            Some(Hard::Code { soft: true, .. }) => return Some(What::Soft),
            Some(Hard::Code { soft: false, .. }) => return Some(What::Hard),
            Some(Hard::Data { watch, .. }) => return Some(What::Watch(watch)),
            None => {}
        }
        let (_, step) = self.steps.iter().find(|(v, _)| *v == vcpu)?;
        match step {
            Step::Range(range) if range.contains(&exit.pc) => None,
            _ => Some(What::Step),
        }
    }
}

/// A debugger that is connected.
#[derive(Default)]
pub(crate) struct Shared {
    state: Mutex<State>,
    /// Of the debugger's thread, if it has one.
    wake: Option<Wake>,
}

impl Shared {
    pub(crate) fn new(wake: Wake) -> Self {
        Self {
            state: Mutex::default(),
            wake: Some(wake),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Has the debugger's thread look.
    pub(crate) fn wake(&self) {
        if let Some(wake) = &self.wake {
            wake.wake();
        }
    }

    /// The oldest thing that happened.
    pub(crate) fn take_hit(&self) -> Option<Hit> {
        self.state.lock().hits.pop_front()
    }

    /// Before the machine goes on: what happened and was not reported happens
    /// again, but for accesses, which are over.
    pub(crate) fn keep_accesses(&self) {
        let mut state = self.state.lock();
        let state = &mut *state;
        state.hits.retain(|hit| match hit.what {
            What::Watch(watch) => state.points.watches(watch),
            _ => false,
        });
        if !state.hits.is_empty() {
            self.wake();
        }
    }

    /// Tells the vCPUs what they do not know yet. Who is not there learns it when
    /// it starts.
    pub(crate) fn arm(self: &Arc<Self>, handle: &dyn Debuggee) {
        for vcpu in handle.vcpus() {
            let state = self.state.lock();
            let wanted = state.wanted(vcpu);
            let known = state.known.contains(&(vcpu, wanted));
            drop(state);
            if !known {
                let this = self.clone();
                let _ = handle.send(vcpu, Box::new(move |cpu| this.tell(vcpu, cpu)));
            }
        }
    }

    fn tell(&self, vcpu: u32, cpu: &mut dyn Vcpu) {
        let wanted = self.state.lock().wanted(vcpu);
        match set(cpu, wanted) {
            Ok(()) => self.state.lock().knows(vcpu, wanted),
            Err(why) => log::error!("gdb: vCPU {vcpu} does not take breakpoints: {why}"),
        }
    }
}

fn set(cpu: &mut dyn Vcpu, (control, debugreg): Wanted) -> hv::Result<()> {
    cpu.set_guest_debug(&kvm_guest_debug {
        control,
        arch: kvm_guest_debug_arch { debugreg },
        ..Default::default()
    })
}

impl Debugger for Shared {
    fn started(&self, vcpu: u32, cpu: &mut dyn Vcpu) {
        self.tell(vcpu, cpu);
    }

    fn hit(&self, vcpu: u32, cpu: &mut dyn Vcpu, exit: DebugExit) -> bool {
        let mut state = self.state.lock();
        let Some(what) = state.judge(vcpu, &exit) else {
            let (control, registers) = state.wanted(vcpu);
            drop(state);
            // An INT3 of the guest's own is for the guest.
            if exit.exception == 3
                && let Err(why) = set(cpu, (control | KVM_GUESTDBG_INJECT_BP, registers))
            {
                log::error!("gdb: vCPU {vcpu} does not take its #BP: {why}");
            }
            return false;
        };
        state.hits.push_back(Hit { vcpu, what });
        drop(state);
        self.wake();
        true
    }
}
