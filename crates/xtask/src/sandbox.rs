//! Trapeze where most users sit: an ordinary user in a container with a
//! read-only root, a small `/dev/shm`, `vm.memfd_noexec=1` and a system-call
//! filter like Docker's default profile.

use crate::paths;
use crate::process::Counts;
use anyhow::{Context, Result, bail};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// The hidden command that this program runs inside.
pub(crate) const CONFINED: &str = "confined";

/// Makes the surroundings, as root of new namespaces, then drops into
/// [`confined`]. $1 is this program, $2 trapeze, $3 a folder that can be
/// written, or nothing; the rest is for trapeze.
const SCRIPT: &str = r#"set -e
mount --make-rprivate /
mount -t tmpfs -o size=64m,mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /mnt
cp "$1" /mnt/xtask
cp "$2" /mnt/trapeze
chmod 755 /mnt/xtask /mnt/trapeze
if [ -n "$3" ]; then
    chmod 777 "$3"
    mount --bind "$3" "$3"
fi
noexec=/proc/sys/vm/memfd_noexec
if [ -e $noexec ] && ! echo 1 2>/dev/null > $noexec; then
    echo "NOTE only the host's root may set $noexec; it stays $(cat $noexec)"
fi
mount -o remount,bind,ro /
cd /
shift 3
exec /mnt/xtask confined /mnt/trapeze "$@"
"#;

/// What Docker's default profile refuses ("Significant syscalls blocked by the
/// default profile", Docker documentation, Seccomp security profiles).
const REFUSED: [libc::c_long; 41] = [
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_fsopen,
    libc::SYS_get_mempolicy,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_mbind,
    libc::SYS_mount,
    libc::SYS_move_mount,
    libc::SYS_move_pages,
    libc::SYS_open_by_handle_at,
    libc::SYS_perf_event_open,
    libc::SYS_personality,
    libc::SYS_pivot_root,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_set_mempolicy,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_sysfs,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_uselib,
    libc::SYS_userfaultfd,
    libc::SYS_ustat,
];

/// `cargo xtask sandbox`.
pub(crate) fn run() -> Result<bool> {
    let counts = check()?;
    println!("{} passed, {} failed", counts.passed, counts.failed);
    Ok(counts.failed == 0)
}

/// The command that runs `trapeze`, a command, in the sandbox. There only
/// `folder` can be written.
pub(crate) fn around(trapeze: &Command, folder: &str) -> Result<Command> {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--mount-proc"]);
    if !is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command
        .args(["sh", "-c", SCRIPT, "sh"])
        .arg(std::env::current_exe()?)
        .arg(trapeze.get_program())
        .arg(folder)
        .args(trapeze.get_args());
    Ok(command)
}

/// The embedded guest's self-check in the sandbox.
pub(crate) fn check() -> Result<Counts> {
    let mut trapeze = Command::new(paths::trapeze()?);
    trapeze.args(["guest", "-m", "64", "-append", "check"]);
    let sandbox = around(&trapeze, "")?;
    let output = Command::new("timeout")
        .arg("120")
        .arg(sandbox.get_program())
        .args(sandbox.get_args())
        .stdin(Stdio::null())
        .output()
        .context("unshare")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let good = output.status.success() && text.contains("GUEST-OK");
    for note in text.lines().filter_map(|l| l.strip_prefix("NOTE ")) {
        println!("sandbox: {note}");
    }
    match good {
        true => println!("sandbox ok"),
        false => println!(
            "sandbox FAILED ({}): {text}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        ),
    }
    Ok(Counts::one(good))
}

fn is_root() -> bool {
    // SAFETY: geteuid only reads.
    #[allow(unsafe_code, reason = "no safe wrapper among our dependencies")]
    let user = unsafe { libc::geteuid() };
    user == 0
}

/// Gives up privileges and system calls, then becomes the given program.
pub(crate) fn confined(arguments: &[String]) -> Result<bool> {
    let Some((program, rest)) = arguments.split_first() else {
        bail!("no program");
    };
    if std::fs::write("/trapeze-sandbox-probe", "").is_ok() {
        bail!("the root is not read-only");
    }
    drop_privileges().context("becoming an ordinary user")?;
    install_filter().context("system-call filter")?;
    Err(Command::new(program).args(rest).exec()).context(program.clone())
}

/// Becomes `nobody` where there is one (not in a namespace with one user).
#[allow(unsafe_code, reason = "no safe wrappers among our dependencies")]
fn drop_privileges() -> std::io::Result<()> {
    const NOBODY: u32 = 65534;
    let map = std::fs::read_to_string("/proc/self/uid_map")?;
    let alone = map.split_whitespace().nth(2) == Some("1");
    // SAFETY: these calls take integers or a null pointer with length 0 and
    // change only this process's credentials.
    let good = unsafe {
        let user = alone
            || (libc::setgroups(0, std::ptr::null()) == 0
                && libc::setgid(NOBODY) == 0
                && libc::setuid(NOBODY) == 0);
        user && libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    };
    match good {
        true => Ok(()),
        false => Err(std::io::Error::last_os_error()),
    }
}

/// Refused calls answer EPERM, as Docker's do (seccomp(2)).
#[allow(unsafe_code, reason = "no safe wrapper among our dependencies")]
fn install_filter() -> std::io::Result<()> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    const X86_64: u32 = 0xc000_003e;
    let instruction = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    // `seccomp_data`: number at 0, architecture at 4.
    let mut program = vec![
        instruction(LOAD, 0, 0, 4),
        instruction(IF_EQUAL, 1, 0, X86_64),
        instruction(RETURN, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
        instruction(LOAD, 0, 0, 0),
    ];
    let refuse = libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();
    for call in REFUSED {
        program.push(instruction(IF_EQUAL, 0, 1, call as u32));
        program.push(instruction(RETURN, 0, 0, refuse));
    }
    program.push(instruction(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW));
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: `filter` names `program`, alive during the call, with its true
    // length; the kernel copies both.
    let answer = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &filter) };
    match answer {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
