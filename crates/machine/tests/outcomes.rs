//! What the machine makes of exits, resets, panics and requests, on a backend
//! that plays scripts.

mod ejects;
mod places;
mod scripted;

use hv::{DebugExit, Vcpu, VcpuExit};
use machine::cpu::Topology;
use machine::{
    Debugger, DeviceConfig, DeviceModel, Error, Image, Machine, MachineConfig, MemorySerial,
    Outcome, PanicAction, RunState, SerialConfig,
};
use scripted::{Call, Scripted, Step, out, out16};
use std::sync::Arc;
use std::time::Duration;

/// The smallest bzImage that loads: protocol 2.02, nothing to unpack.
fn kernel() -> Option<Image> {
    let mut file = vec![0; 4096];
    file[0x1f1] = 1;
    file[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&[0x02, 0x02]);
    file[0x211] = 1;
    Some(Image::Bytes {
        name: "kernel".into(),
        bytes: Arc::from(file),
    })
}

fn config() -> MachineConfig {
    MachineConfig {
        ram_bytes: 8 << 20,
        kernel: kernel(),
        no_reboot: true,
        ..Default::default()
    }
}

/// ACPI S5: SLP_EN with SLP_TYP 0 in PM1a_CNT.
fn power_off() -> Step {
    Step::Exit(out16(0x604, 0x2000))
}

fn run(config: MachineConfig, lives: Vec<Vec<Step>>) -> machine::Result<Outcome> {
    Machine::new(Scripted::new(lives), config)?.run()
}

#[track_caller]
fn check(steps: Vec<Step>, expected: Outcome) {
    assert_eq!(run(config(), vec![steps]).unwrap(), expected);
}

#[test]
fn power_off_and_the_ways_to_reset() {
    check(vec![power_off()], Outcome::PowerOff);
    for exit in [out(0xcf9, 0x0e), out(0x64, 0xfe), out(0x92, 0x01)] {
        check(vec![Step::Exit(exit)], Outcome::Reset);
    }
    check(vec![Step::Exit(VcpuExit::Shutdown)], Outcome::TripleFault);
}

#[test]
fn unclaimed_addresses_are_harmless() {
    let steps = [
        VcpuExit::IoIn {
            port: 0xcfc,
            size: 4,
        },
        out(0x1234, 1),
        VcpuExit::MmioRead {
            gpa: 0xb8000,
            size: 8,
        },
        VcpuExit::MmioWrite {
            gpa: u64::MAX,
            size: 8,
            value: 0,
        },
        VcpuExit::Interrupted,
    ];
    let steps = steps.map(Step::Exit).into_iter().chain([power_off()]);
    check(steps.collect(), Outcome::PowerOff);
}

#[test]
fn a_reset_builds_the_machine_anew() {
    let backend = Scripted::new(vec![vec![Step::Exit(out(0xcf9, 6))], vec![power_off()]]);
    let config = MachineConfig {
        no_reboot: false,
        topology: Topology::of_cores(2),
        ..config()
    };
    let machine = Machine::new(backend.clone(), config).unwrap();
    let handle = machine.handle();
    assert_eq!(machine.run().unwrap(), Outcome::PowerOff);
    let life = [
        Call::CreateVm,
        Call::Slot(0, 0xa_0000),
        Call::Slot(0xc_0000, (8 << 20) - 0xc_0000),
        Call::Vcpu(0),
        Call::Vcpu(1),
        Call::DropVm,
    ];
    assert_eq!(*backend.log.lock().unwrap(), [life.clone(), life].concat());
    assert_eq!(handle.counters(), [("exits", 1)]);
}

#[test]
fn a_test_program_ends_with_a_code_of_its_own() {
    let memory = MemorySerial::new();
    let device = DeviceConfig::new;
    let host = SerialConfig::Memory(memory.clone());
    let (iobase, iosize) = (0xf4, 4);
    let config = MachineConfig {
        devices: vec![
            device(DeviceModel::PcTestdev),
            device(DeviceModel::DebugExit { iobase, iosize }),
            device(DeviceModel::DebugCon {
                iobase: 0xe9,
                readback: 0xe9,
                host,
            }),
        ],
        ..config()
    };
    let steps = [
        out(0xe9, b'o'.into()),
        out(0xe9, b'k'.into()),
        out(0xf4, 0x10),
    ];
    let outcome = run(config, vec![steps.map(Step::Exit).to_vec()]).unwrap();
    assert_eq!(outcome, Outcome::DebugExit(0x21));
    assert_eq!(outcome.exit_code(), 0x21);
    assert_eq!(memory.output(), "ok");
}

#[test]
fn the_panic_action_decides_what_pvpanic_does() {
    let with = |panic_action| MachineConfig {
        panic_action,
        ..config()
    };
    let panic = || vec![vec![Step::Exit(out(0x505, 1)), power_off()]];
    for action in [PanicAction::Shutdown, PanicAction::ExitFailure] {
        let outcome = run(with(action), panic()).unwrap();
        assert_eq!(outcome, Outcome::GuestPanic(action));
        let code = i32::from(action == PanicAction::ExitFailure);
        assert_eq!(outcome.exit_code(), code);
    }
    assert_eq!(
        run(with(PanicAction::None), panic()).unwrap(),
        Outcome::PowerOff
    );
}

#[test]
fn a_reset_right_after_a_kernel_panic_is_the_panics() {
    let memory = MemorySerial::new();
    let config = |report: &'static str| {
        let config = MachineConfig {
            serial: vec![SerialConfig::Memory(memory.clone())],
            panic_action: PanicAction::ExitFailure,
            ..config()
        };
        run(
            config,
            vec![vec![Step::Print(report), Step::Exit(out(0xcf9, 6))]],
        )
        .unwrap()
    };
    let panicked = config("Kernel panic - not syncing: VFS: no root\n");
    assert_eq!(panicked, Outcome::GuestPanic(PanicAction::ExitFailure));
    assert_eq!(config("reboot: Restarting system\n"), Outcome::Reset);
}

#[test]
fn input_reaches_the_guest_and_output_comes_back() {
    let memory = MemorySerial::new();
    memory.send(b"uname\n");
    let config = MachineConfig {
        serial: vec![SerialConfig::Memory(memory.clone())],
        ..config()
    };
    let steps = vec![
        Step::Exit(out(0x3fa, 0x07)), // FIFOs on, empty
        Step::Exit(out(0x3fc, 0x0b)), // OUT2
        Step::Exit(out(0x3f9, 0x01)), // receive interrupt
        Step::Expect(b"uname\n"),
        Step::Print("Trapeze"),
        power_off(),
    ];
    let backend = Scripted::new(vec![steps]);
    let machine = Machine::new(backend.clone(), config).unwrap();
    assert_eq!(machine.run().unwrap(), Outcome::PowerOff);
    assert_eq!(memory.output(), "Trapeze");
    assert!(backend.log.lock().unwrap().contains(&Call::Irq(4, true)));
}

#[test]
fn a_quit_from_outside_ends_a_busy_and_an_idle_machine() {
    for vcpus in [1, 4] {
        let config = MachineConfig {
            topology: Topology::of_cores(vcpus),
            ..config()
        };
        let machine = Machine::new(Scripted::new(vec![Vec::new()]), config).unwrap();
        let handle = machine.handle();
        let quitter = std::thread::spawn(move || handle.quit());
        assert_eq!(machine.run().unwrap(), Outcome::Quit);
        quitter.join().unwrap();
    }
}

#[test]
fn a_paused_machine_can_be_ended() {
    let memory = MemorySerial::new();
    let config = MachineConfig {
        panic_action: PanicAction::Pause,
        serial: vec![SerialConfig::Memory(memory.clone())],
        ..config()
    };
    let steps = vec![
        Step::Print("before"),
        Step::Exit(out(0x505, 1)),
        Step::Print("after"),
    ];
    let machine = Machine::new(Scripted::new(vec![steps]), config).unwrap();
    let handle = machine.handle();
    let seen = memory.clone();
    let quitter = std::thread::spawn(move || {
        assert!(seen.wait_for("before", Duration::from_secs(10)));
        handle.quit();
    });
    assert_eq!(machine.run().unwrap(), Outcome::Quit);
    quitter.join().unwrap();
    assert!(!memory.output().contains("after"));
}

#[test]
fn failures_name_the_vcpu() {
    let internal = VcpuExit::InternalError {
        suberror: 1,
        rip: 0x1234,
        bytes: [0x0f; 15],
        len: 3,
    };
    let cases = [
        (Step::Fail, "not supported"),
        (
            Step::Exit(internal),
            "rip 0x1234 (suberror 1, KVM_INTERNAL_ERROR_EMULATION, ",
        ),
        (
            Step::Exit(VcpuExit::FailEntry { reason: 7 }),
            " at rip 0x0 (0x7)",
        ),
        (Step::Exit(VcpuExit::Unknown(99)), "99"),
        (Step::Exit(VcpuExit::Hlt), "Hlt"),
    ];
    for (step, text) in cases {
        let error = run(config(), vec![vec![step]]).unwrap_err();
        assert!(matches!(error, Error::VcpuStopped { vcpu: 0, .. }));
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[test]
fn a_bug_on_one_vcpu_stops_the_others() {
    let config = MachineConfig {
        topology: Topology::of_cores(3),
        ..config()
    };
    let machine = Machine::new(Scripted::new(vec![vec![Step::Bug]]), config).unwrap();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| machine.run()));
    assert!(result.is_err());
}

/// A debugger that stops the machine at every event.
struct StopsAlways;

impl Debugger for StopsAlways {
    fn started(&self, _: u32, _: &mut dyn Vcpu) {}

    fn hit(&self, _: u32, _: &mut dyn Vcpu, _: DebugExit) -> bool {
        true
    }
}

/// The vCPU is about to finish an instruction that the debugger has stepped when
/// somebody else wants something of it, for which that instruction is finished.
#[test]
fn a_step_that_an_errand_finishes_is_the_debuggers_all_the_same() {
    let stepped = VcpuExit::Debug(DebugExit {
        exception: 1,
        pc: 0,
        dr6: 1 << 14,
        dr7: 0,
    });
    let serial = MemorySerial::new();
    let config = MachineConfig {
        serial: vec![SerialConfig::Memory(serial.clone())],
        ..config()
    };
    let script = vec![Step::Print("x"), Step::Wait, Step::Exit(stepped)];
    let (tell, told) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let machine = Machine::new(Scripted::new(vec![script]), config)?;
        tell.send(machine.handle()).expect("we listen");
        machine.run()
    });
    let handle = told.recv().expect("the machine can be");
    handle.attach(Arc::new(StopsAlways));
    assert!(serial.wait_for("x", Duration::from_secs(10)));
    handle.on_vcpu(0, |_| ()).expect("it runs");
    let begin = std::time::Instant::now();
    while handle.run_state() != RunState::Debug {
        assert!(
            begin.elapsed() < Duration::from_secs(10),
            "the step is lost"
        );
        std::thread::yield_now();
    }
    handle.quit();
    assert_eq!(thread.join().expect("no panic").unwrap(), Outcome::Quit);
}

#[test]
fn impossible_machines_are_refused() {
    let refused = |change: fn(&mut MachineConfig)| {
        let mut config = config();
        change(&mut config);
        let error = run(config, vec![vec![power_off()]]).unwrap_err();
        error.to_string()
    };
    assert!(refused(|c| c.ram_bytes = 0).contains("guest memory"));
    assert!(refused(|c| c.ram_bytes = u64::MAX).contains("39-bit"));
    assert!(refused(|c| c.topology.cores = 0).contains("vCPUs"));
    assert!(refused(|c| c.topology.cores = 9).contains("1 to 8"));
    assert!(refused(|c| c.kernel = None).contains("-kernel"));
    assert!(refused(|c| c.serial = vec![SerialConfig::None; 5]).contains("four"));
    let unwritable = |c: &mut MachineConfig| {
        c.serial = vec![SerialConfig::File("/nonexistent/dir/log".into())];
    };
    assert!(refused(unwritable).contains("/nonexistent/dir/log"));
}
