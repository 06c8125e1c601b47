//! `-daemonize` and `-S`, end to end.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

const TRAPEZE: &str = env!("CARGO_BIN_EXE_trapeze");

/// A folder for one test's files, with a kernel in it.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(test);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("kernel"), guest::MULTIBOOT).unwrap();
        Self(path)
    }

    /// `trapeze system` there, which ends with code 0x21 if the kernel runs.
    fn system(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(TRAPEZE);
        command
            .args(["system", "-nodefaults", "-m", "64", "-kernel", "kernel"])
            .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"])
            .args(arguments)
            .current_dir(&self.0)
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.system(arguments).output().unwrap()
    }
}

/// Output is empty, and the exit code 0.
fn returned_silently(output: &Output) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    assert!(output.stdout.is_empty() && errors.is_empty(), "{errors}");
}

fn signal(pid: &str, name: &str) {
    let mut kill = Command::new("kill");
    assert!(kill.args(["-s", name, pid]).status().unwrap().success());
}

/// Waits until the first vCPU of a machine waits, that is, does not run.
fn wait_for_stopped_vcpu(pid: &str) {
    let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
    loop {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it is still there");
        let waits = tasks.flatten().any(|task| {
            let stat = read(task.path().join("stat"));
            stat.contains("(vcpu0) S ")
        });
        if waits {
            return;
        }
        std::thread::yield_now();
    }
}

#[test]
fn a_daemon_has_nothing_of_who_started_it() {
    let folder = Folder::new("daemon");
    let output = folder.run(&[
        "-daemonize",
        "-S",
        "-pidfile",
        "pid",
        "-D",
        "log",
        "-serial",
        "file:serial",
        "-chardev",
        "socket,id=s,path=socket,server=on,wait=off",
        "-debugcon",
        "chardev:s",
    ]);
    returned_silently(&output);
    let pid_file = folder.0.join("pid");
    let pid = fs::read_to_string(&pid_file).unwrap();
    let pid = pid.trim();
    let link = |name: &str| fs::read_link(format!("/proc/{pid}/{name}")).unwrap();
    assert_eq!(link("fd/0").to_str(), Some("/dev/null"));
    assert_eq!(link("fd/1").to_str(), Some("/dev/null"));
    assert_eq!(
        link("fd/2"),
        fs::canonicalize(folder.0.join("log")).unwrap()
    );
    assert_eq!(link("cwd").to_str(), Some("/"));
    // proc(5): after the name the state, parent, process group, session. It is
    // in another session than we, and does not lead that.
    let field = |pid: &str, n: usize| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let (_, rest) = stat.rsplit_once(") ").unwrap();
        rest.split(' ').nth(n).unwrap().to_string()
    };
    assert_ne!(field(pid, 3), field("self", 3));
    assert_ne!(field(pid, 3), pid);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let value = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap();
        line.trim().to_string()
    };
    // As in /proc of a daemon of QEMU 10: SIGTSTP, SIGTTIN and SIGTTOU (20 to
    // 22) are ignored.
    assert_eq!(value("Umask:"), "0027");
    let ignored = u64::from_str_radix(&value("SigIgn:"), 16).unwrap();
    assert_eq!(ignored & 0x38_0000, 0x38_0000, "{ignored:#x}");
    let mode = |name: &str| {
        let metadata = fs::metadata(folder.0.join(name)).unwrap();
        metadata.permissions().mode() & 0o777
    };
    assert_eq!((mode("pid"), mode("serial") & 0o027), (0o600, 0));
    let locked = File::open(&pid_file).unwrap();
    wait_for_stopped_vcpu(pid);
    signal(pid, "TERM");
    // The daemon holds the lock as long as it lives.
    locked.lock().unwrap();
    assert!(!pid_file.exists() && !folder.0.join("socket").exists());
    let log = fs::read_to_string(folder.0.join("log")).unwrap();
    assert_eq!(log, "trapeze: terminating on signal 15\n");
}

#[test]
fn a_daemon_runs_its_guest() {
    let folder = Folder::new("daemon-runs");
    let socket = UnixListener::bind(folder.0.join("socket")).unwrap();
    let output = folder.run(&[
        "-daemonize",
        "-chardev",
        "socket,id=s,path=socket",
        "-debugcon",
        "chardev:s",
    ]);
    returned_silently(&output);
    let mut text = String::new();
    let (mut stream, _) = socket.accept().unwrap();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.contains("magic 2badb002"), "{text}");
    assert!(text.trim_end().ends_with("END"), "{text}");
}

/// Reads until `text` has come.
fn wait_for(stream: &mut UnixStream, text: &str) {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(text.as_bytes()) {
        stream.read_exact(&mut byte).expect("the guest goes on");
        seen.push(byte[0]);
    }
}

#[test]
fn a_daemon_resets_when_its_folder_is_gone() {
    let folder = Folder::new("daemon-resets");
    fs::write(folder.0.join("guest"), guest::ELF).unwrap();
    fs::write(folder.0.join("more"), [1; 5000]).unwrap();
    let socket = UnixListener::bind(folder.0.join("socket")).unwrap();
    let output = folder.run(&[
        "-daemonize",
        "-kernel",
        "guest",
        "-initrd",
        "more",
        "-fw_cfg",
        "opt/more,file=more",
        "-chardev",
        "socket,id=s,path=socket",
        "-serial",
        "chardev:s",
    ]);
    returned_silently(&output);
    let (mut stream, _) = socket.accept().unwrap();
    wait_for(&mut stream, "\n> ");
    fs::remove_dir_all(&folder.0).unwrap();
    stream.write_all(b"reboot\r").unwrap();
    wait_for(&mut stream, "\n> ");
    stream.write_all(b"poweroff\r").unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
}

#[test]
fn who_started_it_hears_why_it_failed() {
    let folder = Folder::new("daemon-fails");
    // Found before the fork, by the machine, and by its first board.
    let none = ["-daemonize", "-drive", "file=none,if=virtio,format=raw"];
    for (arguments, name) in [
        (&["-daemonize", "-nographic"][..], "-display none"),
        (&["-daemonize", "-serial", "stdio"], "stdio"),
        (&["-daemonize", "-debugcon", "stdio"], "stdio"),
        (&["-daemonize", "-d", "machine"], "-D FILE"),
        (&none, "none"),
        (&["-daemonize", "-initrd", "no-such-file"], "no-such-file"),
        (&["-daemonize", "-pidfile", "no/such/folder"], "-pidfile"),
    ] {
        let output = folder.run(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {errors}");
        assert_eq!(errors.lines().count(), 1, "{arguments:?}: {errors}");
        assert!(errors.contains(name), "{arguments:?}: {errors}");
    }
}

#[test]
fn a_stopped_machine_does_not_run() {
    let folder = Folder::new("stopped");
    let mut child = folder.system(&["-S", "-display", "none"]).spawn().unwrap();
    let pid = child.id().to_string();
    wait_for_stopped_vcpu(&pid);
    signal(&pid, "INT");
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(0), "{status:?}");
}
