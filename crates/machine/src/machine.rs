//! The machine across resets.

use crate::board::{Board, Host, Processor, SERIAL_PORTS};
use crate::config::{DeviceModel, MachineConfig};
use crate::console::{Backends, Console, Line};
use crate::control::Ending;
use crate::drives::Drives;
use crate::handle::MachineHandle;
use crate::layout::Layout;
use crate::memory::{self, Part};
use crate::networks::Networks;
use crate::outcome::{Error, Outcome, Result};
use crate::processors::Crew;
use crate::saved;
use crate::signals::SignalGuard;
use crate::timers;
use crate::vcpu_loop::Context;
use crate::virtio_models;
use hv::Hypervisor;
use state::Image;
use std::io;
use std::sync::Arc;

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
    /// Of monitors that are no servers, in their order.
    monitors: Vec<Console>,
    /// Of the debugger, if that is no server.
    debugger: Option<Console>,
    handle: MachineHandle,
    /// The first board continues from here.
    restored: Option<Image>,
    /// Called once, before the vCPUs run.
    set_up: Option<SetUp>,
}

/// See [`Machine::when_set_up`].
type SetUp = Box<dyn FnOnce() -> io::Result<()>>;

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
        for dump in &config.dumps {
            let error = |why| Error::Object {
                id: dump.id.clone(),
                why,
            };
            networks.add_dump(dump).map_err(error)?;
        }
        let handle = MachineHandle::new(&config, drives, networks);
        handle.0.live.lock().parts.ranges = layout.ranges();
        let mut backends = Backends::default();
        let mut open = |serial| backends.console(serial, &handle.0.control);
        let consoles: Result<_> = config.serial.iter().map(&mut open).collect();
        // Behind the ports: who shares a terminal with one comes second.
        let monitors = config.monitors.iter().filter(|m| !m.is_server());
        let monitors: Result<_> = monitors.map(|m| open(&m.host)).collect();
        let debugger = config.debugger.iter().find(|host| host.server().is_none());
        let debug = config.devices.iter().filter_map(|d| match &d.model {
            DeviceModel::DebugCon { host, .. } => Some(open(host)),
            _ => None,
        });
        let debug_consoles: Result<_> = debug.collect();
        let ports = virtio_models::all_ports(&config);
        let port_consoles: Result<_> = ports.map(|port| open(&port.host)).collect();
        let debugger = debugger.map(|host| backends.raw_console(host, &handle.0.control));
        Ok(Self {
            hypervisor,
            layout,
            consoles: consoles?,
            debug_consoles: debug_consoles?,
            memory,
            port_consoles: port_consoles?,
            monitors: monitors?,
            debugger: debugger.transpose()?,
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
        let again = saved::save(&*self.hypervisor, &board, &vcpus)?;
        saved::difference(image, &again)
    }

    /// The host ends of monitors that are no servers of their own
    /// ([`crate::MonitorConfig::is_server`]), in their order.
    pub fn monitor_lines(&self) -> Vec<Line> {
        self.monitors.iter().map(Console::line).collect()
    }

    /// The host end of the debugger ([`MachineConfig::debugger`]) if it is no
    /// server of its own.
    pub fn debugger_line(&self) -> Option<Line> {
        self.debugger.as_ref().map(Console::line)
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
        let consoles = self.consoles.iter().chain(&self.debug_consoles);
        let consoles = consoles.chain(&self.port_consoles).chain(&self.monitors);
        for console in consoles.chain(&self.debugger) {
            console.start()?;
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
        let hotplug = &self.handle.0.hotplug;
        let next = hotplug.next();
        Board::new(
            &*self.hypervisor,
            &next.config,
            &self.layout,
            &Host {
                consoles: &self.consoles,
                debug_consoles: &self.debug_consoles,
                memory: &self.memory,
                port_consoles: &self.port_consoles,
                drives: hotplug.drives(),
                networks: hotplug.networks(),
                present: &next.present,
                control: &self.handle.0.control,
                balloon: &self.handle.0.balloon,
            },
        )
    }

    /// Runs one board until all its vCPUs have stopped.
    fn run_board(&self, mut board: Board) -> Option<Ending> {
        let control = &*self.handle.0.control;
        self.handle.0.live.lock().set(&board);
        let crew = Arc::new(Crew::new(std::mem::take(&mut board.vcpus)));
        control.set_kickers(crew.kickers());
        self.handle.0.hotplug.begin(&board, &crew, &self.hypervisor);
        let console = self.consoles.first().map(|c| &*c.output);
        let context = &Context::new(&board, control, console, &self.config);
        let mut vcpus = std::thread::scope(|scope| {
            let timers = scope.spawn(|| timers::serve(&board.timed, &board.clock, &board.waker));
            let stop = StopTimers(&board);
            let vcpus = crew.run(context);
            drop(stop);
            let _ = timers.join();
            vcpus
        });
        self.handle.0.hotplug.end();
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
    fn save(&self, board: &Board, vcpus: &mut [Processor]) -> Ending {
        let settled = vcpus
            .iter_mut()
            .try_for_each(|p| saved::settle(&mut *p.vcpu).map(drop));
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

/// A vCPU's thread panicked: that of the deadlines must end all the same.
struct StopTimers<'a>(&'a Board);

impl Drop for StopTimers<'_> {
    fn drop(&mut self) {
        self.0.waker.stop();
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
    if config.absent_vcpus > 0 && config.board.hotplug.is_none() {
        let board = config.board.name;
        return refuse(format!(
            "processors do not come while the board {board} runs (maxcpus=); pc and q35 take them"
        ));
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
