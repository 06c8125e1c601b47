//! The boot tests: real guests, driven over a pseudo-terminal.

mod adapter;
mod boards;
mod clients;
mod debugger;
mod disks;
mod full;
mod kernels;
mod memory;
mod monitor;
mod network;
mod peers;
mod ports;
mod queues;
mod schema;
mod share;
mod stat;
mod vhost_user;
mod vms;

pub(crate) use self::disks::modules as virtio_modules;
pub(crate) use self::monitor::cycles as hotplug_cycles;

use crate::debian::Debian;
use crate::expect::Session;
use crate::killed;
use crate::paths::{self, TempFolder};
use crate::process::Counts;
use crate::sandbox;
use anyhow::{Context, Result, bail};
use guestimg::{Flavour, Image, Mode, Progress};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// What boots.
enum Guest {
    /// The embedded one.
    Embedded,
    /// `trapeze` without arguments.
    Plain,
    /// A Debian kernel.
    Debian(Flavour),
    /// Debian's cloud kernel with its virtio modules in `/modules`.
    Virtio,
    /// The same; what the disks hold afterwards is not looked at.
    Board,
    /// The same with a kernel that has more in modules.
    Kernel(Flavour),
    /// The cloud kernel with other devices than disks.
    Devices(Devices),
    /// The same as an ordinary user in the sandbox, where only the test's
    /// folder can be written.
    Confined(Devices),
    /// The same; the disk must be as before.
    Untouched,
    /// The same, with disks on a file system that is too small.
    Full,
    /// A whole Debian on a disk.
    System,
    /// Something that boots by itself, with the accelerator of that name.
    Own(fn(&str) -> Result<()>),
}

/// A guest with devices, and what is done on both sides after the steps.
struct Devices {
    /// More modules.
    modules: &'static [&'static str],
    act: fn(&mut Session, &TempFolder) -> Result<()>,
}

struct Case {
    name: &'static str,
    guest: Guest,
    /// More options of `trapeze system`.
    options: &'static [&'static str],
    /// What is waited for, and typed when it came.
    steps: &'static [(&'static str, &'static str)],
    exit: i32,
}

const PROMPT: &str = ":~# ";
/// Longest wait for one step; a debug aid, not a promise of speed.
const PATIENCE: Duration = Duration::from_secs(180);
/// What a healthy kernel never says.
const ALARMS: [&str; 6] = [
    "WARNING: CPU",
    "BUG: ",
    "Oops",
    "Marking clocksource 'tsc' as unstable",
    "soft lockup",
    "self-detected stall",
];

/// Every vCPU computes the same thing, all at once.
const SMP_STEPS: &[(&str, &str)] = &[
    (PROMPT, "grep -c ^processor /proc/cpuinfo\r"),
    ("\n8", ""),
    (
        PROMPT,
        "for i in 0 1 2 3 4 5 6 7; do taskset -c $i md5sum /bin/busybox & done | sort -u | wc -l; wait\r",
    ),
    ("\n1\r", ""),
    (PROMPT, "poweroff\r"),
];

const CASES: &[Case] = &[
    Case {
        name: "embedded",
        guest: Guest::Embedded,
        options: &["-append", "check"],
        steps: &[("self-check", ""), ("GUEST-OK", "")],
        exit: 0,
    },
    Case {
        name: "echo",
        guest: Guest::Embedded,
        options: &[],
        steps: &[
            ("> ", "hello there\r"),
            ("\nhello there", ""),
            ("> ", "poweroff\r"),
        ],
        exit: 0,
    },
    Case {
        name: "lockstep",
        guest: Guest::Embedded,
        options: &["-append", "check", "-d", "lockstep"],
        steps: &[("self-check", ""), ("GUEST-OK", "")],
        exit: 0,
    },
    Case {
        // The kernel unpacks itself, relocates and sets up its page tables:
        // some ten million blocks. The whole boot takes minutes.
        name: "lockstep-kernel",
        guest: Guest::Debian(Flavour::Cloud),
        options: &["-append", "earlyprintk=serial,ttyS0", "-d", "lockstep"],
        steps: &[("Linux version", "\x01x")],
        exit: 0,
    },
    Case {
        name: "shell",
        guest: Guest::Plain,
        options: &[],
        steps: &[
            (PROMPT, "ls -l /\r"),
            ("sbin -> bin", ""),
            (PROMPT, "cat /proc/cpuinfo\r"),
            ("processor\t: 0", ""),
            (PROMPT, "dd if=/dev/zero bs=1M count=100 | md5sum\r"),
            // md5 of 100 MiB of zeros, as metal computes it.
            ("2f282b84e7e608d5852449ed940bfc51", ""),
            (PROMPT, "sleep 300 & jobs\r"),
            ("Running", ""),
            (PROMPT, "kill %1; wait; echo killed $?\r"),
            ("killed ", ""),
            // The child says it, so the foreground is already its own.
            (PROMPT, "sh -c 'echo ready; exec sleep 300'\r"),
            ("\nready", "\x03"),
            (PROMPT, "echo after $?\r"),
            ("\nafter 130", ""),
            (PROMPT, "vi /tmp/a\r"),
            ("- /tmp/a", "ione two"),
            ("one two", "\x1b"),
            ("- /tmp/a", ":wq\r"),
            (PROMPT, "cat /tmp/a\r"),
            ("\none two", ""),
            (PROMPT, "poweroff\r"),
        ],
        exit: 0,
    },
    Case {
        name: "smp",
        guest: Guest::Debian(Flavour::Cloud),
        options: &["-smp", "8"],
        steps: SMP_STEPS,
        exit: 0,
    },
    Case {
        // Once more: what goes wrong between vCPUs does so now and then.
        name: "smp-again",
        guest: Guest::Debian(Flavour::Cloud),
        options: &["-smp", "8"],
        steps: SMP_STEPS,
        exit: 0,
    },
    Case {
        name: "panic",
        guest: Guest::Debian(Flavour::Cloud),
        options: &["-action", "panic=exit-failure"],
        steps: &[(PROMPT, "echo c > /proc/sysrq-trigger\r"), ("panicked", "")],
        exit: 1,
    },
    Case {
        name: "virtio",
        guest: Guest::Virtio,
        options: disks::OPTIONS,
        steps: disks::STEPS,
        exit: 0,
    },
    Case {
        name: "q35",
        guest: Guest::Board,
        options: boards::Q35_OPTIONS,
        steps: boards::Q35_STEPS,
        exit: 0,
    },
    Case {
        name: "bridges",
        guest: Guest::Board,
        options: boards::BRIDGES_OPTIONS,
        steps: boards::BRIDGES_STEPS,
        exit: 0,
    },
    Case {
        name: "adapter",
        guest: Guest::Devices(adapter::DEVICES),
        options: adapter::OPTIONS,
        steps: adapter::STEPS,
        exit: 0,
    },
    Case {
        name: "adapter-microvm",
        guest: Guest::Devices(adapter::DEVICES),
        options: adapter::MICROVM_OPTIONS,
        steps: adapter::STEPS,
        exit: 0,
    },
    Case {
        name: "network",
        guest: Guest::Devices(network::DEVICES),
        options: network::OPTIONS,
        steps: network::STEPS,
        exit: 0,
    },
    Case {
        name: "network-microvm",
        guest: Guest::Devices(network::DEVICES),
        options: network::MICROVM_OPTIONS,
        steps: network::STEPS,
        exit: 0,
    },
    Case {
        name: "network-queues",
        guest: Guest::Own(queues::boot),
        options: &[],
        steps: &[],
        exit: 0,
    },
    Case {
        name: "network-hub",
        guest: Guest::Own(peers::hub),
        options: &[],
        steps: &[],
        exit: 0,
    },
    Case {
        name: "network-group",
        guest: Guest::Own(peers::group),
        options: &[],
        steps: &[],
        exit: 0,
    },
    Case {
        name: "network-vhost-user",
        guest: Guest::Own(vhost_user::boot),
        options: &[],
        steps: &[],
        exit: 0,
    },
    Case {
        name: "balloon",
        guest: Guest::Devices(memory::DEVICES),
        options: memory::OPTIONS,
        steps: memory::STEPS,
        exit: 0,
    },
    Case {
        name: "ports",
        guest: Guest::Devices(ports::DEVICES),
        options: ports::OPTIONS,
        steps: ports::STEPS,
        exit: 0,
    },
    Case {
        name: "share",
        guest: Guest::Devices(share::DEVICES),
        options: share::OPTIONS,
        steps: share::STEPS,
        exit: 0,
    },
    Case {
        name: "share-microvm",
        guest: Guest::Devices(share::DEVICES),
        options: share::MICROVM_OPTIONS,
        steps: share::STEPS,
        exit: 0,
    },
    Case {
        name: "share-confined",
        guest: Guest::Confined(share::DEVICES),
        options: share::OPTIONS,
        steps: share::STEPS,
        exit: 0,
    },
    Case {
        name: "debugger",
        guest: Guest::Devices(debugger::DEVICES),
        options: debugger::OPTIONS,
        steps: debugger::STEPS,
        exit: 0,
    },
    Case {
        name: "debugger-held",
        guest: Guest::Devices(debugger::HELD),
        options: debugger::HELD_OPTIONS,
        steps: debugger::STEPS,
        exit: 0,
    },
    Case {
        name: "monitor",
        guest: Guest::Devices(monitor::DEVICES),
        options: monitor::OPTIONS,
        steps: monitor::STEPS,
        exit: 0,
    },
    Case {
        name: "clients",
        guest: Guest::Devices(clients::DEVICES),
        options: clients::OPTIONS,
        steps: clients::STEPS,
        exit: 0,
    },
    Case {
        name: "stat",
        guest: Guest::Devices(stat::DEVICES),
        options: stat::OPTIONS,
        steps: stat::STEPS,
        exit: 0,
    },
    Case {
        name: "ports-microvm",
        guest: Guest::Devices(ports::DEVICES),
        options: ports::MICROVM_OPTIONS,
        steps: ports::STEPS,
        exit: 0,
    },
    Case {
        name: "balloon-microvm",
        guest: Guest::Devices(memory::DEVICES),
        options: memory::MICROVM_OPTIONS,
        steps: memory::STEPS,
        exit: 0,
    },
    Case {
        name: "disk-full",
        guest: Guest::Full,
        options: full::OPTIONS,
        steps: full::STEPS,
        exit: 0,
    },
    Case {
        name: "debian",
        guest: Guest::System,
        options: &["-m", "2G", "-smp", "4"],
        steps: &[
            ("trapeze login: ", "root\r"),
            (PROMPT, "bind 'set enable-bracketed-paste off'\r"),
            (PROMPT, "systemctl is-system-running --wait\r"),
            ("\nrunning", ""),
            (PROMPT, "systemctl --no-pager --failed; nproc\r"),
            ("\n4", ""),
            (PROMPT, "dmesg | grep -c 'EXT4-fs error'\r"),
            ("\n0", ""),
            // What is read back comes from the disk.
            (
                PROMPT,
                "head -c 30M /dev/urandom > a; md5sum a > sum; sync\r",
            ),
            (PROMPT, "echo 3 > /proc/sys/vm/drop_caches; md5sum -c sum\r"),
            ("\na: OK", ""),
            (
                PROMPT,
                "stress-ng --cpu 2 --vm 1 --vm-bytes 64M --fork 2 --timeout 5 --verify\r",
            ),
            ("successful run completed", ""),
            (PROMPT, "poweroff\r"),
        ],
        exit: 0,
    },
    Case {
        // No serial port: messages and login are on virtio's console.
        name: "debian-hvc0",
        guest: Guest::System,
        options: ports::DEBIAN_OPTIONS,
        steps: &[
            ("Reached target", ""),
            ("trapeze login: ", "root\r"),
            (PROMPT, "bind 'set enable-bracketed-paste off'\r"),
            (PROMPT, "tty; cat /sys/class/tty/console/active\r"),
            ("\n/dev/hvc0", ""),
            ("\ntty0 hvc0", ""),
            (PROMPT, "poweroff\r"),
        ],
        exit: 0,
    },
    Case {
        name: "killed",
        guest: Guest::Own(killed::once_each),
        options: &[],
        steps: &[],
        exit: 0,
    },
    Case {
        name: "vms",
        guest: Guest::Own(vms::live),
        options: &[],
        steps: &[],
        exit: 0,
    },
    Case {
        name: "microvm",
        guest: Guest::Board,
        options: boards::MICROVM_OPTIONS,
        steps: boards::MICROVM_STEPS,
        exit: 0,
    },
    Case {
        name: "large-memory",
        guest: Guest::Board,
        options: boards::LARGE_OPTIONS,
        steps: boards::LARGE_STEPS,
        exit: 0,
    },
    Case {
        name: "numa",
        guest: Guest::Board,
        options: boards::NUMA_OPTIONS,
        steps: boards::NUMA_STEPS,
        exit: 0,
    },
    Case {
        name: "snapshot",
        guest: Guest::Untouched,
        options: boards::SNAPSHOT_OPTIONS,
        steps: boards::SNAPSHOT_STEPS,
        exit: 0,
    },
    Case {
        name: "identity",
        guest: Guest::Devices(boards::IDENTITY),
        options: boards::IDENTITY_OPTIONS,
        steps: boards::IDENTITY_STEPS,
        exit: 0,
    },
    Case {
        name: "amd64",
        guest: Guest::Kernel(Flavour::Amd64),
        options: kernels::PC_OPTIONS,
        steps: kernels::AMD64_STEPS,
        exit: 0,
    },
    Case {
        name: "amd64-q35",
        guest: Guest::Kernel(Flavour::Amd64),
        options: kernels::Q35_OPTIONS,
        steps: kernels::AMD64_STEPS,
        exit: 0,
    },
    Case {
        name: "rt",
        guest: Guest::Kernel(Flavour::Rt),
        options: kernels::PC_OPTIONS,
        steps: kernels::RT_STEPS,
        exit: 0,
    },
    Case {
        name: "rt-q35",
        guest: Guest::Kernel(Flavour::Rt),
        options: kernels::Q35_OPTIONS,
        steps: kernels::RT_STEPS,
        exit: 0,
    },
    Case {
        name: "i686",
        guest: Guest::Debian(Flavour::I686),
        options: &[],
        steps: &[
            (PROMPT, "uname -m\r"),
            ("\ni686", ""),
            (PROMPT, "poweroff\r"),
        ],
        exit: 0,
    },
    Case {
        name: "i686-pae",
        guest: Guest::Debian(Flavour::I686Pae),
        options: &[],
        steps: &[
            (PROMPT, "uname -r\r"),
            ("-686-pae", ""),
            (PROMPT, "poweroff\r"),
        ],
        exit: 0,
    },
];

/// `cargo xtask boot`.
pub(crate) fn run(arguments: &[String]) -> Result<bool> {
    let (accel, names) = match arguments {
        [option, accel, names @ ..] if option == "--accel" => (accel.as_str(), names),
        names => ("soft", names),
    };
    known(accel, names)?;
    let counts = some(accel, names)?;
    println!("{} passed, {} failed", counts.passed, counts.failed);
    Ok(counts.failed == 0)
}

/// Every case under `accel`.
pub(crate) fn all(accel: &str) -> Result<Counts> {
    some(accel, &[])
}

/// An error if there is no case of one of these names under `accel`.
pub(crate) fn known(accel: &str, names: &[String]) -> Result<()> {
    let mut all = cases(accel, &[]).map(|c| c.name);
    match names.iter().find(|n| !all.clone().any(|c| c == **n)) {
        None => Ok(()),
        Some(name) => {
            let first = all.next().unwrap_or_default().to_string();
            let list = all.fold(first, |list, name| list + ", " + name);
            bail!("no case '{name}' with -accel {accel}; there are {list}")
        }
    }
}

/// How many of them there are, all without names.
pub(crate) fn count(accel: &str, names: &[String]) -> usize {
    cases(accel, names).count()
}

/// The named cases that `accel` can do, or all of these. Lockstep compares
/// translations, which only the software engine makes, with an interpreter whose
/// undefined flags are Intel's: on AMD's processors the difference says nothing.
fn cases<'a>(accel: &str, names: &'a [String]) -> impl Iterator<Item = &'static Case> + Clone + 'a {
    let compares = accel == "soft" && !on_amd();
    let named = move |c: &&Case| names.is_empty() || names.iter().any(|n| n == c.name);
    let able = move |c: &&Case| compares || !in_lockstep(c);
    CASES.iter().filter(named).filter(able)
}

fn in_lockstep(case: &Case) -> bool {
    case.options.contains(&"lockstep")
}

fn on_amd() -> bool {
    std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.contains("AuthenticAMD"))
}

fn some(accel: &str, names: &[String]) -> Result<Counts> {
    let trapeze = paths::trapeze()?;
    let mut counts = Counts::default();
    if accel == "soft" && on_amd() && names.is_empty() {
        for case in CASES.iter().filter(|c| in_lockstep(c)) {
            println!(
                "boot {:<12} not on AMD's processors: docs/engine.md",
                case.name
            );
        }
    }
    for case in cases(accel, names) {
        let begin = Instant::now();
        let verdict = boot(&trapeze, accel, case);
        let seconds = begin.elapsed().as_secs_f32();
        match &verdict {
            Ok(()) => println!("boot {:<12} ok      {seconds:6.1} s", case.name),
            Err(why) => println!("boot {:<12} FAILED  {seconds:6.1} s: {why:#}", case.name),
        }
        counts.add(Counts::one(verdict.is_ok()));
    }
    Ok(counts)
}

fn boot(trapeze: &Path, accel: &str, case: &Case) -> Result<()> {
    if let Guest::Own(boot) = case.guest {
        return boot(accel);
    }
    let folder = TempFolder::new(&format!("boot-{}", case.name))?;
    let mut session = start(trapeze, accel, &case.guest, case.options, &folder)?;
    converse(&mut session, case.steps)?;
    if let Guest::Devices(devices) | Guest::Confined(devices) = &case.guest {
        (devices.act)(&mut session, &folder)?;
    }
    end(session, case.exit)?;
    match case.guest {
        Guest::Virtio => disks::check(&folder),
        Guest::Untouched => disks::check_untouched(&folder),
        _ => Ok(()),
    }
}

fn start(
    trapeze: &Path,
    accel: &str,
    guest: &Guest,
    options: &[&str],
    folder: &TempFolder,
) -> Result<Session> {
    let mut command = command(trapeze, guest, folder)?;
    let options = options.iter().map(|o| folder.fill_in(o));
    command
        .args(["-accel", accel])
        .args(options.collect::<Result<Vec<_>>>()?);
    if let Guest::Confined(_) = guest {
        command = sandbox::around(&command, &folder.fill_in("{folder}")?)?;
    }
    Session::start(command.env("TERM", "vt100"))
}

/// Types what belongs to each text once that came.
fn converse(session: &mut Session, steps: &[(&str, &str)]) -> Result<()> {
    for (needle, typed) in steps {
        session.expect(needle, PATIENCE)?;
        if !typed.is_empty() {
            session.send(typed)?;
        }
    }
    Ok(())
}

/// Waits for the machine's end, which has that exit code.
fn end(mut session: Session, exit: i32) -> Result<()> {
    let code = session.finish(PATIENCE)?;
    if code != Some(exit) {
        bail!("exit code {code:?} instead of {exit}");
    }
    if let Some(alarm) = alarm(&session.output()) {
        bail!("the kernel said '{alarm}'");
    }
    Ok(())
}

/// What of [`ALARMS`] a guest printed.
pub(crate) fn alarm(output: &str) -> Option<&'static str> {
    ALARMS.into_iter().find(|a| output.contains(a))
}

fn command(trapeze: &Path, guest: &Guest, folder: &TempFolder) -> Result<Command> {
    let mut command = Command::new(trapeze);
    match guest {
        Guest::Embedded => command.arg("guest"),
        Guest::Plain => command.arg("linux"),
        Guest::Debian(flavour) => {
            let image = fetch(*flavour)?;
            let initramfs = guestimg::initramfs(&image)?;
            system(&mut command, &image, &initramfs)
        }
        Guest::Virtio | Guest::Board | Guest::Untouched => {
            let image = fetch(Flavour::Cloud)?;
            let initramfs = disks::prepare(&image, &[], folder)?;
            system(&mut command, &image, &initramfs)
        }
        Guest::Kernel(flavour) => {
            let image = fetch(*flavour)?;
            let initramfs = kernels::prepare(&image, folder)?;
            system(&mut command, &image, &initramfs)
        }
        Guest::Devices(devices) => {
            let image = fetch(Flavour::Cloud)?;
            let initramfs = disks::initramfs(&image, devices.modules, folder)?;
            system(&mut command, &image, &initramfs)
        }
        Guest::Confined(devices) => {
            // The cache may be the user's only.
            let mut image = fetch(Flavour::Cloud)?;
            let initramfs = disks::initramfs(&image, devices.modules, folder)?;
            let kernel = folder.path("vmlinuz");
            std::fs::copy(&image.kernel, &kernel)?;
            image.kernel = kernel;
            system(&mut command, &image, &initramfs)
        }
        Guest::Full => {
            let image = fetch(Flavour::Cloud)?;
            let initramfs = disks::initramfs(&image, &[], folder)?;
            command = full::command(trapeze, folder);
            system(&mut command, &image, &initramfs)
        }
        Guest::System => {
            let debian = Debian::get()?;
            let overlay = folder.path("debian.qcow2");
            debian.overlay(&overlay)?;
            command.args(["system", "-nographic", "-no-reboot"]);
            command.args(debian.options(&overlay))
        }
        Guest::Own(_) => bail!("it boots by itself"),
    };
    Ok(command)
}

fn fetch(flavour: Flavour) -> Result<Image> {
    guestimg::fetch(flavour, false, &mut Progress::stderr())
        .with_context(|| format!("kernel {}", flavour.name()))
}

/// `trapeze system` with a Debian kernel and a shell.
fn system<'a>(command: &'a mut Command, image: &Image, initramfs: &Path) -> &'a mut Command {
    let line = guestimg::command_line(Mode::Shell, Some("vt100"), Some((24, 80)));
    command.args(["system", "-m", "1G", "-nographic", "-no-reboot", "-kernel"]);
    command
        .arg(&image.kernel)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", &line])
}
