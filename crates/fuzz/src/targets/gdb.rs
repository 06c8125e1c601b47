//! A debugger's bytes to a machine with one vCPU that stands still.

use engine::Soft;
use gdb::{Conversation, Debuggee, Errand};
use hv::abi::{kvm_regs, kvm_sregs};
use hv::{DebugExit, Hypervisor, Vcpu, Vm};
use machine::{HandleError, RunState};
use parking_lot::Mutex;
use std::sync::{Arc, LazyLock};

/// Guest RAM, from address 0.
const RAM: usize = 16 * 4096;
/// What a session of the corpus or the fuzzer's has to say at most in answers: no
/// packet makes more than a few times the longest answer.
const MOST: usize = 64 << 10;

struct Machine {
    vcpu: Mutex<Box<dyn Vcpu>>,
    _vm: Arc<dyn Vm>,
    ram: Mutex<Vec<u8>>,
    fresh: (kvm_regs, kvm_sregs),
    state: Mutex<RunState>,
}

static MACHINE: LazyLock<Mutex<Machine>> = LazyLock::new(|| Mutex::new(Machine::new()));

impl Machine {
    fn new() -> Self {
        let soft = Soft::default();
        let vm = soft.create_vm().expect("a VM");
        // Page walks look there; what is read and written is in `ram`.
        super::vcpu::lend(&*vm, 0, 0, RAM);
        let mut vcpu = vm.create_vcpu(0).expect("a vCPU");
        let cpuid = soft.supported_cpuid().expect("CPUID");
        vcpu.set_cpuid(&cpuid).expect("CPUID");
        let fresh = (vcpu.regs().expect("regs"), vcpu.sregs().expect("sregs"));
        Self {
            vcpu: Mutex::new(vcpu),
            _vm: vm,
            ram: Mutex::new(vec![0; RAM]),
            fresh,
            state: Mutex::new(RunState::Debug),
        }
    }

    fn reset(&self) {
        let mut vcpu = self.vcpu.lock();
        vcpu.set_sregs(&self.fresh.1).expect("sregs");
        vcpu.set_regs(&self.fresh.0).expect("regs");
        self.ram.lock().fill(0);
        *self.state.lock() = RunState::Debug;
    }
}

impl Debuggee for Machine {
    fn vcpus(&self) -> Vec<u32> {
        vec![0]
    }

    fn send(&self, vcpu: u32, errand: Errand) -> Result<(), HandleError> {
        if vcpu != 0 {
            return Err(HandleError::NoVcpu(vcpu));
        }
        errand(&mut **self.vcpu.lock());
        Ok(())
    }

    fn read_memory(&self, gpa: u64, bytes: &mut [u8]) -> Result<(), HandleError> {
        let len = bytes.len();
        let ram = self.ram.lock();
        let from = usize::try_from(gpa)
            .ok()
            .and_then(|at| ram.get(at..)?.get(..len));
        bytes.copy_from_slice(from.ok_or(HandleError::NotRam { gpa, len })?);
        Ok(())
    }

    fn write_memory(&self, gpa: u64, bytes: &[u8]) -> Result<(), HandleError> {
        let len = bytes.len();
        let mut ram = self.ram.lock();
        let at = usize::try_from(gpa).ok();
        let to = at.and_then(|at| ram.get_mut(at..)?.get_mut(..len));
        to.ok_or(HandleError::NotRam { gpa, len })?
            .copy_from_slice(bytes);
        Ok(())
    }

    fn run_state(&self) -> RunState {
        *self.state.lock()
    }

    fn stop_if_running(&self, why: RunState) {
        let mut state = self.state.lock();
        if *state == RunState::Running {
            *state = why;
        }
    }

    fn resume(&self) -> Result<(), HandleError> {
        *self.state.lock() = RunState::Running;
        Ok(())
    }

    fn choose(&self, _: Option<Vec<u32>>) {}
}

/// Packets come without checksums, one a line: a fuzzer does not guess them. A line
/// that begins with `!` is bytes as they are; one with `~` is a debug event, with
/// what the vCPU says of it.
pub(super) fn run(data: &[u8]) {
    let machine = MACHINE.lock();
    machine.reset();
    let monitor = |line: &str| format!("{line}\n");
    let mut conversation = Conversation::new(&*machine, Some(&monitor));
    let debugger = conversation.debugger();
    for line in data.split(|byte| *byte == b'\n') {
        let end = match line {
            [b'!', bytes @ ..] => conversation.take(bytes),
            [b'~', exception, dr6, pc, ..] => {
                let exit = DebugExit {
                    exception: *exception,
                    pc: (*pc).into(),
                    dr6: (*dr6).into(),
                    dr7: 0,
                };
                let mut vcpu = machine.vcpu.lock();
                if debugger.hit(0, &mut **vcpu, exit) {
                    drop(vcpu);
                    machine.stop_if_running(RunState::Debug);
                }
                conversation.look()
            }
            body => {
                let sum = body.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
                let packet = [b"$", body, format!("#{sum:02x}").as_bytes()].concat();
                conversation.take(&packet)
            }
        };
        let sent = conversation.sent();
        check(&sent);
        if end.is_some() {
            return;
        }
    }
}

/// What is sent are acknowledgements, and packets whose checksums are right.
fn check(mut sent: &[u8]) {
    assert!(sent.len() <= MOST, "{} bytes", sent.len());
    while let Some((first, rest)) = sent.split_first() {
        if *first != b'$' {
            assert!(b"+-".contains(first), "{}", sent.escape_ascii());
            sent = rest;
            continue;
        }
        let end = rest.iter().position(|byte| *byte == b'#').expect("an end");
        let (body, more) = rest.split_at(end);
        let sum = body.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        let digits = more.get(1..3).expect("a checksum");
        assert_eq!(digits, format!("{sum:02x}").as_bytes());
        sent = &more[3..];
    }
}
