//! Debian's cloud kernel with a shell in memory, and commands typed there.

use guestimg::{Archive, Flavour, Mode, Progress};
use machine::boards::BoardKind;
use machine::{
    Deleted, Image, Machine, MachineConfig, MachineHandle, MemorySerial, Outcome, SerialConfig,
};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// In the order of their dependencies.
const MODULES: [&str; 9] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_blk",
    "failover",
    "net_failover",
    "virtio_net",
];
const LOAD: &str = "cd /modules; for m in $(cat order); do insmod $m.ko; done; cd";
/// What a healthy kernel never says.
const ALARMS: [&str; 5] = [
    "WARNING: CPU",
    "BUG: ",
    "Oops",
    "soft lockup",
    "self-detected stall",
];
/// Longest wait for one step; a debug aid, not a promise of speed.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Kernel and initramfs.
fn files() -> &'static (PathBuf, Vec<u8>) {
    static FILES: OnceLock<(PathBuf, Vec<u8>)> = OnceLock::new();
    FILES.get_or_init(|| {
        let image = guestimg::fetch(Flavour::Cloud, false, &mut Progress::stderr()).unwrap();
        let mut initramfs = fs::read(guestimg::initramfs(&image).unwrap()).unwrap();
        let paths = guestimg::modules(&image, &MODULES, &mut Progress::stderr()).unwrap();
        let mut archive = Archive::new();
        archive.directory("modules");
        archive.file("modules/order", 0o644, MODULES.join("\n").as_bytes());
        for (name, path) in MODULES.iter().zip(paths) {
            archive.file(
                &format!("modules/{name}.ko"),
                0o644,
                &fs::read(path).unwrap(),
            );
        }
        initramfs.extend(archive.finish());
        (image.kernel, initramfs)
    })
}

/// A running guest.
pub struct Guest {
    pub handle: MachineHandle,
    serial: MemorySerial,
    deleted: Receiver<Deleted>,
    /// Commands so far.
    commands: usize,
    thread: Option<JoinHandle<machine::Result<Outcome>>>,
}

impl Guest {
    /// Boots to the shell.
    pub fn boot(board: &str, config: MachineConfig) -> Self {
        let (kernel, initramfs) = files();
        let serial = MemorySerial::new();
        let line = guestimg::command_line(Mode::Shell, Some("dumb"), None);
        let config = MachineConfig {
            board: BoardKind::by_name(board).unwrap(),
            ram_bytes: 512 << 20,
            kernel: Some(Image::at(kernel)),
            initrd: Some(Image::Bytes {
                name: "initramfs".into(),
                bytes: Arc::from(initramfs.clone()),
            }),
            cmdline: line,
            serial: vec![SerialConfig::Memory(serial.clone())],
            ..config
        };
        let (tell, told) = channel();
        let thread = std::thread::spawn(move || {
            let machine = Machine::new(Arc::new(engine::Soft::default()), config)?;
            tell.send(machine.handle()).expect("we listen");
            machine.run()
        });
        let handle = told.recv().expect("the machine can be");
        let (sender, deleted) = channel();
        handle.when_deleted(move |what| {
            let _ = sender.send(what.clone());
        });
        let mut guest = Self {
            handle,
            serial,
            deleted,
            commands: 0,
            thread: Some(thread),
        };
        guest.wait("~# ");
        guest.run(LOAD);
        guest
    }

    #[track_caller]
    pub fn wait(&self, needle: &str) {
        let found = self.serial.wait_for(needle, PATIENCE);
        assert!(found, "no '{needle}' in:\n{}", self.serial.output());
    }

    /// Runs a command, which must succeed.
    #[track_caller]
    pub fn run(&mut self, command: &str) {
        let n = self.commands;
        self.commands += 1;
        // The echo of what is typed has not what is waited for.
        self.serial
            .send(format!("{command}; echo end''{n}=$?\r").as_bytes());
        self.wait(&format!("end{n}="));
        let output = self.serial.output();
        let begin = output.rfind(&format!("end{n}=")).unwrap();
        let ok = format!("end{n}=0");
        if output.len() < begin + ok.len() {
            self.wait(&ok);
        }
        let output = self.serial.output();
        assert!(output[begin..].starts_with(&ok), "{command}\n{output}");
    }

    /// Waits in the guest until a condition holds.
    #[track_caller]
    pub fn until(&mut self, condition: &str) {
        self.run(&format!("until {condition}; do sleep 0.05; done"));
    }

    /// What is gone next.
    #[track_caller]
    pub fn gone(&self) -> Deleted {
        let next = self.deleted.recv_timeout(PATIENCE);
        next.unwrap_or_else(|_| panic!("nothing goes:\n{}", self.serial.output()))
    }

    /// Starts again, to the shell, and goes on if it was stopped.
    pub fn reset(&mut self) {
        let old = self.serial.output().len();
        self.handle.reset();
        self.handle.resume().expect("it can go on");
        // The whole output is long by now; what is new decides.
        let until = Instant::now() + PATIENCE;
        while !self.serial.output()[old..].contains("~# ") {
            let output = self.serial.output();
            let ended = self.thread.as_ref().is_some_and(JoinHandle::is_finished);
            if ended && let Some(thread) = self.thread.take() {
                panic!("it ended with {:?}:\n{output}", thread.join());
            }
            assert!(Instant::now() < until, "no shell:\n{output}");
            std::thread::yield_now();
        }
        self.run(LOAD);
    }

    /// Switches off; the kernel had nothing to complain about.
    pub fn finish(mut self) {
        self.serial.send(b"poweroff\r");
        let outcome = self.thread.take().map(|t| t.join().unwrap().unwrap());
        assert_eq!(outcome, Some(Outcome::PowerOff));
        let output = self.serial.output();
        let alarm = ALARMS.iter().find(|a| output.contains(**a));
        assert_eq!(alarm, None, "{output}");
    }
}

/// A folder that goes with its value.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("hotplug-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
    pub fn path(&self, name: &str) -> PathBuf {
        Path::new(&self.0).join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
