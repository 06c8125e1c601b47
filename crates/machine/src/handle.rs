//! The machine from outside: what other threads ask of it while it runs.

use crate::board::Board;
use crate::config::MachineConfig;
use crate::control::{Control, Ending, RunState};
use crate::debugger::Debugger;
use crate::drives::Drives;
use crate::events::{Cause, Event};
use crate::exits::Recorded;
use crate::hotplug::Hotplug;
use crate::networks::{Networks, Socket};
use crate::outcome::Outcome;
use crate::views::Parts;
use devices::PowerButton;
use hv::{Vcpu, Vm};
use parking_lot::Mutex;
use state::Image;
use std::sync::{Arc, Weak, mpsc};
use virtio::GuestMemory;
use virtio::net::LinkState;
use vm_memory::{Bytes, GuestAddress};

/// Why a machine does not do what it is asked to.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum HandleError {
    /// It has not started, starts again at this moment, or has ended.
    #[error("the machine does not run at this moment")]
    NotRunning,
    /// There are fewer.
    #[error("there is no vCPU {0}")]
    NoVcpu(u32),
    /// Not all of the range is RAM.
    #[error("guest-physical addresses from {gpa:#x}, {len} bytes, are not all RAM")]
    NotRam {
        /// First address.
        gpa: u64,
        /// Length in bytes.
        len: usize,
    },
    /// It can only be started again.
    #[error("the guest is over; it needs a reset")]
    NeedsReset,
}

/// Acts on a machine from other threads; also outlives it.
#[derive(Clone, Default)]
pub struct MachineHandle(pub(crate) Arc<Shared>);

#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) control: Arc<Control>,
    pub(crate) balloon: Arc<virtio::balloon::Host>,
    pub(crate) hotplug: Arc<Hotplug>,
    pub(crate) live: Mutex<Live>,
}

/// The parts of the present board, and what the last one left.
#[derive(Default)]
pub(crate) struct Live {
    vm: Option<Weak<dyn Vm>>,
    power_button: Option<Weak<dyn PowerButton>>,
    memory: Option<GuestMemory>,
    counters: Vec<(&'static str, u64)>,
    profile: Option<String>,
    pub(crate) saved: Option<Image>,
    pub(crate) parts: Parts,
}

impl MachineHandle {
    /// Stops the machine and saves its state: it ends with
    /// [`Outcome::Saved`], then [`Self::take_saved`] has it.
    pub fn save(&self) {
        self.0.control.end(Outcome::Saved);
    }

    /// The same after so many exits of its vCPUs, from now on.
    pub fn save_after_exits(&self, exits: u64) {
        self.0.control.save_after(exits);
    }

    /// The state that was saved.
    pub fn take_saved(&self) -> Option<Image> {
        self.0.live.lock().saved.take()
    }

    /// Ends the machine with [`Outcome::Quit`].
    pub fn quit(&self) {
        let quit = Ending::Done(Outcome::Quit);
        self.0.control.request_for(quit, Cause::HostQmpQuit);
    }

    /// Resets the machine (never ends it, whatever `no_reboot` says).
    pub fn reset(&self) {
        let cause = Cause::HostQmpSystemReset;
        self.0.control.request_for(Ending::Reset, cause);
    }

    /// Stops the vCPUs; when it returns none of them runs.
    pub fn stop(&self, why: RunState) {
        self.0.control.set_run_state(why);
        self.wait_until_stopped();
    }

    /// The same for a machine that runs: one that is stopped stays so for its
    /// own reason.
    pub fn stop_if_running(&self, why: RunState) {
        self.0.control.stop_if_running(why);
        self.wait_until_stopped();
    }

    fn wait_until_stopped(&self) {
        for vcpu in self.vcpus() {
            // Whoever does not run at all has stopped, too.
            let _ = self.on_vcpu(vcpu, |_| ());
        }
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// [`HandleError::NeedsReset`] after a shutdown or panic of the guest.
    pub fn resume(&self) -> Result<(), HandleError> {
        match self.run_state().needs_reset() {
            true => Err(HandleError::NeedsReset),
            false => {
                self.0.control.set_run_state(RunState::Running);
                Ok(())
            }
        }
    }

    /// Lets only these vCPUs run whenever the machine does; `None` for all.
    pub fn choose(&self, vcpus: Option<Vec<u32>>) {
        self.0.control.choose(vcpus);
    }

    /// Has a debugger told of debug events, and of vCPUs that start. One at a
    /// time; without one no vCPU may be made to report any.
    pub fn attach(&self, debugger: Arc<dyn Debugger>) {
        self.0.control.debugger.set(Some(debugger));
    }

    /// Takes it away again.
    pub fn detach(&self) {
        self.0.control.debugger.set(None);
    }

    /// How the machine is before it first runs (`-S`).
    pub fn hold(&self) {
        self.0.control.set_run_state(RunState::Prelaunch);
    }

    /// Calls `tell` for whatever happens from now on, on the thread where it
    /// happens; it must not wait.
    pub fn observe(&self, tell: impl Fn(&Event) + Send + Sync + 'static) {
        self.0.control.observers.add(tell);
    }

    /// Numbers of the vCPUs that run at this moment, in order.
    pub fn vcpus(&self) -> Vec<u32> {
        self.0.control.vcpus()
    }

    /// Does `work` on a vCPU's thread between two instructions and waits for
    /// it: all registers are exact there. The machine may run or be stopped.
    ///
    /// # Errors
    /// There is no such vCPU, or none runs.
    pub fn on_vcpu<R: Send + 'static>(
        &self,
        vcpu: u32,
        work: impl FnOnce(&mut dyn Vcpu) -> R + Send + 'static,
    ) -> Result<R, HandleError> {
        let vcpus = self.vcpus();
        if !vcpus.is_empty() && !vcpus.contains(&vcpu) {
            return Err(HandleError::NoVcpu(vcpu));
        }
        let (done, result) = mpsc::sync_channel(1);
        let errand = move |vcpu: &mut dyn Vcpu| drop(done.send(work(vcpu)));
        match self.0.control.send(vcpu, errand) {
            true => result.recv().map_err(|_| HandleError::NotRunning),
            false => Err(HandleError::NotRunning),
        }
    }

    /// Reads RAM by guest-physical address.
    ///
    /// # Errors
    /// Not all of it is RAM, or the machine does not run.
    pub fn read_memory(&self, gpa: u64, bytes: &mut [u8]) -> Result<(), HandleError> {
        let len = bytes.len();
        let read = self.memory()?.read_slice(bytes, GuestAddress(gpa));
        read.map_err(|_| HandleError::NotRam { gpa, len })
    }

    /// Writes RAM by guest-physical address.
    ///
    /// # Errors
    /// Not all of it is RAM, or the machine does not run.
    pub fn write_memory(&self, gpa: u64, bytes: &[u8]) -> Result<(), HandleError> {
        let len = bytes.len();
        let written = self.memory()?.write_slice(bytes, GuestAddress(gpa));
        if let Some(vm) = self.vm() {
            vm.memory_written(gpa, len as u64);
        }
        written.map_err(|_| HandleError::NotRam { gpa, len })
    }

    fn memory(&self) -> Result<GuestMemory, HandleError> {
        let live = self.0.live.lock();
        live.memory.clone().ok_or(HandleError::NotRunning)
    }

    /// The virtual machine of the present board.
    pub fn vm(&self) -> Option<Arc<dyn Vm>> {
        self.0.live.lock().vm.as_ref().and_then(Weak::upgrade)
    }

    /// The host's end of the machine's balloon; without a balloon nobody
    /// hears what is asked for.
    pub fn balloon(&self) -> &virtio::balloon::Host {
        &self.0.balloon
    }

    /// The cable between a network and its adapter; `None` if there is no
    /// network with this id.
    pub fn link(&self, netdev: &str) -> Option<Arc<LinkState>> {
        self.0.hotplug.networks().link(netdev)
    }

    /// A network by its id.
    pub fn network(&self, id: &str) -> Option<Socket> {
        self.0.hotplug.networks().socket(id)
    }

    /// Begins to write a network's frames to a file.
    ///
    /// # Errors
    /// One line: what is wrong with the network, the name or the file.
    pub fn add_dump(&self, config: &net::DumpConfig) -> std::result::Result<(), String> {
        let is_memory = |all: Arc<MachineConfig>| all.memory.iter().any(|m| m.id == config.id);
        if self.config().is_some_and(is_memory) {
            return Err(format!("there is an object '{}' already", config.id));
        }
        self.0.hotplug.networks().add_dump(config)
    }

    /// Ends that; false if there is none of this name.
    pub fn remove_dump(&self, id: &str) -> bool {
        self.0.hotplug.networks().remove_dump(id)
    }

    pub(crate) fn new(config: &MachineConfig, drives: Drives, networks: Networks) -> Self {
        let control = Arc::<Control>::default();
        Self(Arc::new(Shared {
            hotplug: Hotplug::new(config, drives, networks, control.clone()),
            control,
            ..Shared::default()
        }))
    }

    pub(crate) fn hotplug(&self) -> &Arc<Hotplug> {
        &self.0.hotplug
    }

    /// Whether the machine runs.
    pub fn run_state(&self) -> RunState {
        self.0.control.run_state()
    }

    /// Presses the power button; an ACPI guest shuts down.
    pub fn press_power_button(&self) {
        let live = self.0.live.lock();
        let button = live.power_button.as_ref().and_then(Weak::upgrade);
        drop(live);
        if let Some(button) = button {
            self.0.control.observers.tell(&Event::PowerDown);
            button.press_power_button();
        }
    }

    /// See [`hv::Vm::profile`].
    pub fn profile(&self) -> Option<String> {
        let live = self.0.live.lock();
        match live.vm.as_ref().and_then(Weak::upgrade) {
            Some(vm) => vm.profile(),
            None => live.profile.clone(),
        }
    }

    /// Records what the vCPUs leave the guest for, from now on, or no longer.
    pub fn record_exits(&self, on: bool) {
        self.0.control.exits.switch(on);
    }

    /// Takes up to `limit` of the exits recorded.
    pub fn recorded_exits(&self, limit: usize) -> Recorded {
        self.0.control.exits.read(limit)
    }

    /// The backend's counters; after the end those of the last moment.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        let live = self.0.live.lock();
        match live.vm.as_ref().and_then(Weak::upgrade) {
            Some(vm) => vm.counters(),
            None => live.counters.clone(),
        }
    }
}

impl Live {
    pub(crate) fn set(&mut self, board: &Board) {
        self.vm = Some(Arc::downgrade(&board.vm));
        self.power_button = Some(Arc::downgrade(&board.power_button));
        self.memory = Some(board.memory.clone());
        self.parts.pci = board.pci.as_ref().map(Arc::downgrade);
    }

    pub(crate) fn clear(&mut self, board: &Board) {
        self.counters = board.vm.counters();
        self.profile = board.vm.profile();
        self.vm = None;
        self.power_button = None;
        self.memory = None;
    }
}
