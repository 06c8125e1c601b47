//! What a vCPU's thread does: run, serve the exit, run again.

use crate::board::Board;
use crate::config::{MachineConfig, PanicAction};
use crate::console::Output;
use crate::control::{Control, Ending, RunState};
use crate::events::{Cause, Event};
use crate::outcome::{Error, Outcome};
use devices::{Effect, MmioBus, PortBus};
use hv::{Vcpu, VcpuExit};
use std::sync::atomic::{AtomicBool, Ordering};

/// What the threads of all vCPUs share.
pub struct Context<'a> {
    /// How to stop.
    pub control: &'a Control,
    /// I/O ports.
    pub ports: &'a PortBus,
    /// Memory-mapped devices.
    pub mmio: &'a MmioBus,
    /// Where a kernel would report a panic: the first serial port.
    pub console: Option<&'a Output>,
    /// Policies.
    pub config: &'a MachineConfig,
}

impl<'a> Context<'a> {
    /// The context of a board without its vCPUs.
    pub fn new(
        board: &'a Board,
        control: &'a Control,
        console: Option<&'a Output>,
        config: &'a MachineConfig,
    ) -> Self {
        Self {
            control,
            ports: &board.ports,
            mmio: &board.mmio,
            console,
            config,
        }
    }

    /// Runs a vCPU until the machine stops, or it is to `leave`.
    pub fn run(&self, id: u32, vcpu: &mut dyn Vcpu, leave: &AtomicBool) {
        let _guard = EndOnPanic(self.control, id);
        self.control.debugger.started(id, vcpu);
        let log = self.control.exits.of(id);
        let mut entered = None;
        while !leave.load(Ordering::Acquire) && self.control.may_run(id, vcpu) {
            let served = match vcpu.run() {
                Ok(exit) => {
                    let left = log.now();
                    let served = self.serve(id, exit, vcpu);
                    // What is between this and the guest counts as the guest's.
                    entered = log.add(entered, left, exit);
                    served
                }
                Err(error) => Err(error.to_string()),
            };
            if let Err(why) = served {
                let error = Error::VcpuStopped { vcpu: id, why };
                self.control.request(Ending::Failed(error));
            }
            self.control.count_exit();
        }
    }

    fn serve(&self, id: u32, exit: VcpuExit, vcpu: &mut dyn Vcpu) -> Result<(), String> {
        let effect = match exit {
            VcpuExit::IoIn { port, size } => {
                vcpu.complete_read(self.ports.read(port, size).into());
                None
            }
            VcpuExit::IoOut { port, size, value } => self.ports.write(port, size, value),
            VcpuExit::MmioRead { gpa, size } => {
                vcpu.complete_read(self.mmio.read(gpa, size));
                None
            }
            VcpuExit::MmioWrite { gpa, size, value } => self.mmio.write(gpa, size, value),
            VcpuExit::Interrupted | VcpuExit::IrqWindowOpen => None,
            VcpuExit::Shutdown => {
                self.reset(Outcome::TripleFault);
                None
            }
            VcpuExit::Debug(event) => match self.control.debugger.hit(id, vcpu, event) {
                Some(stop) => {
                    if stop {
                        self.control.stop_if_running(RunState::Debug);
                    }
                    None
                }
                None => return Err(format!("unexpected exit {exit:?}")),
            },
            VcpuExit::Hlt => {
                return Err(format!("unexpected exit {exit:?}"));
            }
            VcpuExit::InternalError {
                suberror,
                rip,
                bytes,
                len,
            } => {
                let bytes = &bytes[..usize::from(len).min(bytes.len())];
                let why = hv::internal_error_name(suberror);
                return Err(format!(
                    "the backend cannot go on at rip {rip:#x} (suberror {suberror}{why}, \
                     instruction bytes {bytes:02x?})"
                ));
            }
            VcpuExit::FailEntry { reason } => {
                let at = |regs: hv::abi::kvm_regs| format!(" at rip {:#x}", regs.rip);
                let at = vcpu.regs().map_or(String::new(), at);
                return Err(format!(
                    "the hardware refused to enter the guest{at} ({reason:#x})"
                ));
            }
            VcpuExit::Unknown(number) => return Err(format!("unknown exit reason {number}")),
        };
        if let Some(effect) = effect {
            self.perform(effect);
        }
        Ok(())
    }

    fn perform(&self, effect: Effect) {
        match effect {
            Effect::PowerOff if self.config.no_shutdown => {
                log::warn!("the guest powered itself off; the machine stays, stopped");
                let tell = Event::Shutdown(Cause::GuestShutdown);
                self.control.observers.tell(&tell);
                self.control.set_run_state(RunState::Shutdown);
            }
            Effect::PowerOff => self.control.end(Outcome::PowerOff),
            Effect::Reset => self.reset(Outcome::Reset),
            Effect::GuestPanicked => drop(self.guest_panicked()),
            Effect::DebugExit(code) => self.control.end(Outcome::DebugExit(code)),
            Effect::CrashLoaded => {
                log::info!("the guest panicked and runs a crash kernel");
                self.control.observers.tell(&Event::CrashLoaded);
            }
        }
    }

    /// A reset asked for by the guest, or by a triple fault. Right after a
    /// kernel's panic report it is the panic's own.
    fn reset(&self, outcome: Outcome) {
        let panicked = self.console.is_some_and(Output::saw_kernel_panic);
        if panicked && self.guest_panicked() {
            return;
        }
        self.control.request(match self.config.no_reboot {
            true => Ending::Done(outcome),
            false => Ending::Reset,
        });
    }

    /// Carries out the panic action; false if there is none.
    fn guest_panicked(&self) -> bool {
        let action = self.config.panic_action;
        self.control.observers.tell(&Event::GuestPanicked(action));
        match action {
            PanicAction::None => return false,
            PanicAction::Pause => self.control.set_run_state(RunState::GuestPanicked),
            action => self.control.end(Outcome::GuestPanic(action)),
        }
        true
    }
}

/// Stops the machine if our own code panics on a vCPU's thread.
struct EndOnPanic<'a>(&'a Control, u32);

impl Drop for EndOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let error = Error::VcpuStopped {
                vcpu: self.1,
                why: "internal error".into(),
            };
            self.0.request(Ending::Failed(error));
        }
    }
}
