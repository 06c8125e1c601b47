//! The machine across resets.

use crate::board::{Board, Host, SERIAL_PORTS};
use crate::config::{DeviceModel, MachineConfig};
use crate::console::Console;
use crate::control::{Control, Ending, RunState};
use crate::drives::Drives;
use crate::layout::Layout;
use crate::memory::{self, Part};
use crate::networks::Networks;
use crate::outcome::{Error, Outcome, Result};
use crate::saved;
use crate::signals::SignalGuard;
use crate::timers;
use crate::vcpu_loop::Context;
use crate::virtio_models;
use devices::PowerButton;
use hv::{Hypervisor, Vm};
use parking_lot::Mutex;
use state::Image;
use std::io;
use std::sync::{Arc, Weak};
use virtio::net::LinkState;

/// APIC ids are 8 bits and 255 is the broadcast.
const MAX_VCPUS: u32 = 255;

/// A machine that can run.
pub struct Machine {
    hypervisor: Arc<dyn Hypervisor>,
    config: MachineConfig,
    layout: Layout,
    consoles: Vec<Console>,
    /// Of `isa-debugcon`, in the order of the devices.
    debug_consoles: Vec<Console>,
    memory: Vec<Part>,
    /// Of the ports of virtio console devices, in their order.
    port_consoles: Vec<Console>,
    drives: Drives,
    networks: Networks,
    handle: MachineHandle,
    /// The first board continues from here.
    restored: Option<Image>,
    /// Called once, before the vCPUs run.
    set_up: Option<SetUp>,
}

/// See [`Machine::when_set_up`].
type SetUp = Box<dyn FnOnce() -> io::Result<()>>;

/// Acts on a machine from other threads; also outlives it.
#[derive(Clone, Default)]
pub struct MachineHandle(Arc<Shared>);

#[derive(Default)]
struct Shared {
    control: Arc<Control>,
    balloon: Arc<virtio::balloon::Host>,
    live: Mutex<Live>,
}

/// The parts of the present board, and what the last one left.
#[derive(Default)]
struct Live {
    vm: Option<Weak<dyn Vm>>,
    power_button: Option<Weak<dyn PowerButton>>,
    counters: Vec<(&'static str, u64)>,
    profile: Option<String>,
    saved: Option<Image>,
    /// Of all networks, by id.
    links: Vec<(String, Arc<LinkState>)>,
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
        self.0.control.end(Outcome::Quit);
    }

    /// Resets the machine (never ends it, whatever `no_reboot` says).
    pub fn reset(&self) {
        self.0.control.request(Ending::Reset);
    }

    /// Stops the vCPUs, or lets them go on.
    pub fn set_paused(&self, paused: bool) {
        self.0.control.set_paused(paused);
    }

    /// The host's end of the machine's balloon; without a balloon nobody
    /// hears what is asked for.
    pub fn balloon(&self) -> &virtio::balloon::Host {
        &self.0.balloon
    }

    /// The cable between a network and its adapter; `None` if there is no
    /// network with this id.
    pub fn link(&self, netdev: &str) -> Option<Arc<LinkState>> {
        let live = self.0.live.lock();
        let found = live.links.iter().find(|(id, _)| id == netdev);
        found.map(|(_, link)| link.clone())
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

    /// The backend's counters; after the end those of the last moment.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        let live = self.0.live.lock();
        match live.vm.as_ref().and_then(Weak::upgrade) {
            Some(vm) => vm.counters(),
            None => live.counters.clone(),
        }
    }
}

impl Machine {
    /// Checks the configuration and opens what it names.
    pub fn new(hypervisor: Arc<dyn Hypervisor>, config: MachineConfig) -> Result<Self> {
        let capabilities = hypervisor.capabilities();
        let max_vcpus = capabilities.max_vcpus.min(MAX_VCPUS);
        check_processors(&config, max_vcpus)?;
        config.numa.check(&config)?;
        check_features(&*hypervisor, &config)?;
        let layout = Layout::new(config.ram_bytes, capabilities.phys_bits, config.board)?;
        if config.kernel.is_none() {
            return Err(Error::NoKernel);
        }
        if config.serial.len() > SERIAL_PORTS.len() {
            return Err(Error::Serial {
                index: SERIAL_PORTS.len(),
                why: "a PC has at most four serial ports".into(),
            });
        }
        let memory = memory::open(&config)?;
        let drives = Drives::open(&config.drives)?;
        let networks = Networks::open(&config.netdevs)?;
        let handle = MachineHandle::default();
        handle.0.live.lock().links = networks.links();
        let open = |serial| Console::open(serial, &handle.0.control);
        let consoles: Result<_> = config.serial.iter().map(open).collect();
        let debug = config.devices.iter().filter_map(|d| match &d.model {
            DeviceModel::DebugCon { host, .. } => Some(open(host)),
            _ => None,
        });
        let debug_consoles: Result<_> = debug.collect();
        let ports = virtio_models::all_ports(&config);
        let port_consoles: Result<_> = ports.map(|port| open(&port.host)).collect();
        Ok(Self {
            hypervisor,
            layout,
            consoles: consoles?,
            debug_consoles: debug_consoles?,
            memory,
            port_consoles: port_consoles?,
            drives,
            networks,
            config,
            handle,
            restored: None,
            set_up: None,
        })
    }

    /// Makes the machine go on from a saved state instead of starting. It must
    /// be configured as the saved one was; if it is not, [`Self::run`] says
    /// what is in the way.
    pub fn restore(&mut self, image: Image) {
        self.restored = Some(image);
    }

    /// [`Self::run`] calls this when nothing that the user could have got wrong
    /// is left, before the vCPUs run; an error ends the machine.
    pub fn when_set_up(&mut self, act: impl FnOnce() -> io::Result<()> + 'static) {
        self.set_up = Some(Box::new(act));
    }

    /// Restores a state into a fresh machine, saves that and says where the
    /// two differ; what time alone changes aside.
    pub fn compare_restored(&self, image: &Image) -> Result<Option<String>> {
        let mut board = self.build()?;
        let mut vcpus = std::mem::take(&mut board.vcpus);
        saved::restore(&board, &mut vcpus, image.clone())?;
        let again = saved::save(&*self.hypervisor, &board, &mut vcpus)?;
        saved::difference(image, &again)
    }

    /// A handle for other threads.
    pub fn handle(&self) -> MachineHandle {
        self.handle.clone()
    }

    /// Runs until the guest, the user or a signal ends it. Takes over SIGINT,
    /// SIGTERM and SIGHUP and, for a console on standard input, the terminal;
    /// both are given back before it returns.
    pub fn run(mut self) -> Result<Outcome> {
        // What can fail for reasons of the user comes before the terminal is
        // touched.
        let mut board = self.build()?;
        if let Some(image) = self.restored.take() {
            let mut vcpus = std::mem::take(&mut board.vcpus);
            saved::restore(&board, &mut vcpus, image)?;
            board.vcpus = vcpus;
            saved::resume(&board);
        }
        let control = self.handle.0.control.clone();
        let _signals = SignalGuard::new(control.clone())?;
        let consoles = self.consoles.iter_mut().chain(&mut self.debug_consoles);
        for console in consoles.chain(&mut self.port_consoles) {
            console.start(&control)?;
        }
        if let Some(act) = self.set_up.take() {
            let what = "setting up the machine";
            act().map_err(|source| Error::Host { what, source })?;
        }
        loop {
            match self.run_board(board) {
                Some(Ending::Done(outcome)) => return Ok(outcome),
                Some(Ending::Failed(error)) => return Err(error),
                Some(Ending::Reset) | None => board = self.build()?,
            }
        }
    }

    fn build(&self) -> Result<Board> {
        Board::new(
            &*self.hypervisor,
            &self.config,
            &self.layout,
            &Host {
                consoles: &self.consoles,
                debug_consoles: &self.debug_consoles,
                memory: &self.memory,
                port_consoles: &self.port_consoles,
                drives: &self.drives,
                networks: &self.networks,
                control: &self.handle.0.control,
                balloon: &self.handle.0.balloon,
            },
        )
    }

    /// Runs one board until all its vCPUs have stopped.
    fn run_board(&self, mut board: Board) -> Option<Ending> {
        let control = &*self.handle.0.control;
        self.handle.0.live.lock().set(&board);
        let mut vcpus = std::mem::take(&mut board.vcpus);
        control.set_kickers(vcpus.iter().map(|v| v.kicker()).collect());
        let console = self.consoles.first().map(|c| &*c.output);
        let context = &Context::new(&board, control, console, &self.config);
        std::thread::scope(|scope| {
            let timers = scope.spawn(|| timers::serve(&board.timed, &board.clock, &board.waker));
            let threads: Vec<_> = vcpus
                .iter_mut()
                .enumerate()
                .filter_map(|(id, vcpu)| start_vcpu(scope, context, id as u32, &mut **vcpu))
                .collect();
            let panicked: Vec<_> = threads.into_iter().filter_map(|t| t.join().err()).collect();
            board.waker.stop();
            let _ = timers.join();
            if let Some(panic) = panicked.into_iter().next() {
                std::panic::resume_unwind(panic);
            }
        });
        self.consoles.iter().for_each(Console::detach);
        let ending = control.take_ending();
        let ending = match ending {
            Some(Ending::Done(Outcome::Saved)) => Some(self.save(&board, &mut vcpus)),
            ending => ending,
        };
        self.handle.0.live.lock().clear(&board);
        drop(vcpus);
        ending
    }
}

impl Machine {
    /// Saves a board whose vCPUs have stopped.
    fn save(&self, board: &Board, vcpus: &mut [Box<dyn hv::Vcpu>]) -> Ending {
        let settled = vcpus.iter_mut().try_for_each(|v| saved::settle(&mut **v));
        let image = settled.and_then(|()| saved::save(&*self.hypervisor, board, vcpus));
        match image {
            Ok(image) => {
                self.handle.0.live.lock().saved = Some(image);
                Ending::Done(Outcome::Saved)
            }
            Err(error) => Ending::Failed(error),
        }
    }
}

/// Starts a vCPU's thread. Thread names are what `top -H` shows.
fn start_vcpu<'scope>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    context: &'scope Context<'_>,
    id: u32,
    vcpu: &'scope mut dyn hv::Vcpu,
) -> Option<std::thread::ScopedJoinHandle<'scope, ()>> {
    let builder = std::thread::Builder::new().name(format!("vcpu{id}"));
    let spawned = builder.spawn_scoped(scope, move || context.run(id, vcpu));
    let failed = |source| {
        let what = "starting a thread";
        let error = Error::Host { what, source };
        context.control.request(Ending::Failed(error));
    };
    spawned.map_err(failed).ok()
}

impl Live {
    fn set(&mut self, board: &Board) {
        self.vm = Some(Arc::downgrade(&board.vm));
        self.power_button = Some(Arc::downgrade(&board.power_button));
    }

    fn clear(&mut self, board: &Board) {
        self.counters = board.vm.counters();
        self.profile = board.vm.profile();
        self.vm = None;
        self.power_button = None;
    }
}

/// Their number, and that their APIC ids fit 8 bits with one to spare for
/// "all".
fn check_processors(config: &MachineConfig, max: u32) -> Result<()> {
    let topology = &config.topology;
    let count = topology.vcpus();
    let refuse = |why| Err(Error::Vcpus { count, why });
    if !(1..=max).contains(&count) {
        return refuse(format!("a machine has 1 to {max} with this accelerator"));
    }
    match topology.apic_ids().max() {
        Some(id) if id >= MAX_VCPUS => refuse(format!(
            "sockets and cores that are not powers of two leave gaps, the last APIC id is {id}; \
             the highest is {}",
            MAX_VCPUS - 1
        )),
        _ => Ok(()),
    }
}

/// Refuses features asked for that the accelerator does not have; those of
/// the model are worth a warning.
fn check_features(hypervisor: &dyn Hypervisor, config: &MachineConfig) -> Result<()> {
    let supported = hypervisor.supported_cpuid()?;
    let missing =
        crate::cpu::missing(&supported, &config.cpu).map_err(|lacks| Error::CpuFeatures {
            names: lacks.0.join(", "),
        })?;
    if !missing.is_empty() {
        log::warn!(
            "-cpu {}: this accelerator does not have {}",
            config.cpu.model.name,
            missing.join(", ")
        );
    }
    Ok(())
}
