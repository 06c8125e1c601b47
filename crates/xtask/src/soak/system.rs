//! A whole Debian with four vCPUs: under load, and building a program.

use super::record;
use crate::boots::alarm;
use crate::debian::{Debian, Tools};
use crate::evidence;
use crate::expect::Session;
use crate::paths::{self, TempFolder};
use crate::process::output_of;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const PROMPT: &str = ":~# ";
/// Longest wait for one step; a debug aid, not a promise of speed.
const PATIENCE: Duration = Duration::from_secs(300);
const VCPUS: &str = "4";

/// Unpacks, builds and tries the program, the same way on both sides; prints a
/// checksum of each file.
const BUILD: &str = "cd /work && rm -rf lua-* && tar -x --no-same-owner -f /src/lua*.orig.tar.gz && cd lua-*/src \
    && make -j4 generic > /work/log 2>&1 && sha256sum * \
    && ./lua -e \"s = 0; for i = 1, 1e6 do s = s * 3 % 1000003 + i end; print(_VERSION, s)\"";

/// `stress-ng` as the issue has it, for so many seconds.
pub(super) fn stress(seconds: usize) -> Result<bool> {
    let debian = Debian::get()?;
    let what = format!(
        "stress-ng --cpu 4 --vm 2 --fork 4 --timeout {seconds} --verify in Debian, {VCPUS} vCPUs"
    );
    attempt(&what, "stress", &debian.version.clone(), |session| {
        load(session, seconds)
    })
}

/// Each stressor of `stress-ng` for processors, memory and scheduling, one after the
/// other, for so many seconds.
pub(super) fn stressors(seconds: usize) -> Result<bool> {
    let line = format!(
        "stress-ng --class cpu,memory,vm,scheduler,interrupt --sequential 1 \
         --timeout {seconds} --verify --oomable"
    );
    let what = format!("{line} in Debian, {VCPUS} vCPUs");
    // stress-ng makes the semaphores of `sem-sysv` before all else, and when its
    // `resources` ends it removes those with id 0, whosever they are: not these then.
    const FIRST: &str = "ipcmk --semaphore 1 > /dev/null";
    // Some want all memory there is; who else runs in their unit is to live on.
    let line = format!("systemd-run --wait --pipe --quiet -p OOMPolicy=continue {line}");
    let line = format!("{FIRST} && {line}");
    let guest = &Debian::get()?.version;
    attempt(&what, "stressors", guest, |session| {
        let patience = PATIENCE + Duration::from_secs(400 * seconds as u64);
        let (lines, rates) = stress_ng(session, &line, patience)?;
        // What the kernel says when memory ran out is as it should be.
        let kernel = said(session, "dmesg --notime; dmesg --clear", PATIENCE)?.join("\n");
        if let Some(alarm) = alarm(&kernel) {
            bail!("the kernel said '{alarm}': {kernel}");
        }
        match rates.len() {
            0..100 => bail!("only {} stressors ran: {}", rates.len(), lines.join("\n")),
            n => Ok(format!("{n} stressors, all verified")),
        }
    })
}

/// Builds, so many, each compared with the host's own.
pub(super) fn build(builds: usize) -> Result<bool> {
    let tools = Tools::get()?;
    let (native, here) = natively(&tools)?;
    let guest = format!("{}, {}", Debian::get()?.version, tools.version);
    let what = format!("{builds} builds with make -j4 in Debian, {VCPUS} vCPUs");
    attempt(&what, "build", &guest, |session| {
        let mut seconds = Vec::new();
        for number in 1..=builds {
            let (files, time) = in_guest(session)?;
            compare(&native, &files).with_context(|| format!("build {number}"))?;
            println!("build {number}/{builds} {time:.1} s");
            seconds.push(time);
        }
        Ok(format!(
            "{} files and what the program prints as natively; median {:.1} s, natively {here:.1} s",
            native.len() - 1,
            crate::bench::median(seconds.into_iter())
        ))
    })
}

/// Boots a Debian, with the tools as second disk for a `build`, and does `act`
/// there; the row of the results.
fn attempt(
    what: &str,
    name: &str,
    guest: &str,
    act: impl FnOnce(&mut Session) -> Result<String>,
) -> Result<bool> {
    let commit = record::commit();
    let folder = TempFolder::new(&format!("soak-{name}"))?;
    let mut session = Session::start(&mut command(&folder, name == "build")?)?;
    let verdict = whole_run(&mut session, act);
    let (good, measured) = match verdict {
        Ok(measured) => (true, measured),
        Err(why) => {
            evidence::keep(&session, name)?;
            (false, format!("{why:#}"))
        }
    };
    println!("{measured}");
    record::append(&commit, what, good, &measured, guest)?;
    Ok(good)
}

fn command(folder: &TempFolder, with_tools: bool) -> Result<Command> {
    let debian = Debian::get()?;
    let disk = folder.path("debian.qcow2");
    debian.overlay(&disk)?;
    let mut command = Command::new(paths::trapeze()?);
    command
        .args(["system", "-m", "2G", "-smp", VCPUS, "-nodefaults"])
        .args(["-display", "none", "-serial", "stdio", "-no-reboot"])
        .args(debian.options(&disk));
    if with_tools {
        let tools = folder.path("tools.qcow2");
        Tools::get()?.overlay(&tools)?;
        let drive = format!("file={},format=qcow2,if=virtio", tools.display());
        command.args(["-drive", &drive]);
    }
    Ok(command)
}

/// Login, `act`, the state of systemd, what the kernel says, power-off.
fn whole_run(
    session: &mut Session,
    act: impl FnOnce(&mut Session) -> Result<String>,
) -> Result<String> {
    session.expect("trapeze login: ", PATIENCE)?;
    session.send("root\r")?;
    session.expect(PROMPT, PATIENCE)?;
    // Nothing comes between what programs print: neither the shell's codes nor
    // what the kernel says, which is looked at afterwards.
    session.send("bind 'set enable-bracketed-paste off'; dmesg --clear; dmesg --console-off\r")?;
    session.expect(PROMPT, PATIENCE)?;
    let measured = act(session)?;
    let warnings = said(
        session,
        "dmesg --notime --level emerg,alert,crit,err,warn",
        PATIENCE,
    )?;
    let (late, complaints): (Vec<String>, _) = warnings.into_iter().partition(|w| is_late(w));
    if !complaints.is_empty() {
        bail!("the guest's kernel complains: {}", complaints.join(" "));
    }
    let state = said(session, "systemctl is-system-running", PATIENCE)?;
    if state != ["running"] {
        bail!("systemd: {}", state.join(" "));
    }
    session.send("poweroff\r")?;
    let code = session.finish(PATIENCE)?;
    if code != Some(0) {
        bail!("exit code {code:?} instead of 0");
    }
    match alarm(&session.output()) {
        Some(alarm) => bail!("the kernel said '{alarm}'"),
        None => Ok(format!(
            "{measured}; no complaint of the guest's kernel{}, systemd running",
            match late.len() {
                0 => String::new(),
                n => format!(" but {n} of a busy host ({})", late.join(", ")),
            }
        )),
    }
}

/// What a kernel says when the host gave a vCPU no CPU for long: in an
/// interrupt, or between two looks at the clocks. They say how long it was,
/// and that it does no harm.
fn is_late(warning: &str) -> bool {
    const LATE: [&str; 2] = [
        "hrtimer: interrupt took ",
        "clocksource: Long readout interval, skipping watchdog check",
    ];
    LATE.iter().any(|text| warning.starts_with(text))
}

/// The lines that `line` prints in the guest, from prompt to prompt. Its own
/// exit code does not matter.
fn said(session: &mut Session, line: &str, patience: Duration) -> Result<Vec<String>> {
    // The echo of the line has the quotes.
    session.send(&format!("echo 'SAID-'BEGIN; {line}; echo 'SAID-'END\r"))?;
    session.expect("SAID-BEGIN", patience)?;
    let text = session.expect("SAID-END", patience)?;
    session.expect(PROMPT, patience)?;
    let lines = text.lines().map(|l| l.trim().to_string());
    Ok(lines.filter(|l| !l.is_empty()).collect())
}

fn load(session: &mut Session, seconds: usize) -> Result<String> {
    let line = format!("stress-ng --cpu 4 --vm 2 --fork 4 --timeout {seconds} --verify");
    let patience = PATIENCE + Duration::from_secs(seconds as u64);
    let (lines, rates) = stress_ng(session, &line, patience)?;
    match rates.len() {
        3 => Ok(format!("clean; operations: {}", rates.join(", "))),
        _ => bail!(
            "stress-ng's metrics are not those of three stressors: {}",
            lines.join("\n")
        ),
    }
}

/// What a run of `stress-ng` that found nothing wrong prints, and what each stressor
/// did.
fn stress_ng(
    session: &mut Session,
    line: &str,
    patience: Duration,
) -> Result<(Vec<String>, Vec<String>)> {
    let line = format!("{line} --metrics-brief 2>&1; echo stress ended $?");
    let lines = said(session, &line, patience)?;
    let text = lines.join("\n");
    let good = text.ends_with("stress ended 0") && text.contains("successful run completed");
    if !good || text.contains(" fail: ") {
        let told = |l: &&String| l.contains(" fail: ") || l.contains(" error: ");
        let why: Vec<&str> = lines.iter().filter(told).map(String::as_str).collect();
        bail!(
            "stress-ng failed: {}",
            match why.is_empty() {
                true => text,
                false => why.join(" "),
            }
        );
    }
    let rates = lines.iter().filter_map(|l| rate(l)).collect();
    Ok((lines, rates))
}

/// Name and number of operations of a line of `--metrics-brief`,
/// `stress-ng: metrc: [123] cpu 1234 60.00 ...`.
fn rate(line: &str) -> Option<String> {
    let (_, rest) = line.split_once(" metrc: [")?;
    let mut words = rest.split_whitespace().skip(1);
    let (name, count) = (words.next()?, words.next()?);
    count.parse::<u64>().ok()?;
    Some(format!("{name} {count}"))
}

/// The build on the host, with the tree as root: lines and seconds.
fn natively(tools: &Tools) -> Result<(Vec<String>, f64)> {
    const INSIDE: &str = r#"
        mount --rbind /dev "$1/dev" && mount --bind "$2" "$1/work" || exit 77
        exec chroot "$1" env -i PATH=/usr/bin:/bin LC_ALL=C sh -c "$3"
    "#;
    let work = TempFolder::new("soak-build-native")?;
    let mut command = Command::new("unshare");
    command
        .args(["--map-root-user", "--mount", "sh", "-c", INSIDE, "sh"])
        .args([&tools.tree, Path::new(&work.path(""))])
        .arg(BUILD);
    let begin = Instant::now();
    let text = output_of(&mut command)?;
    let lines: Vec<String> = text.lines().map(|l| l.trim().to_string()).collect();
    match lines.len() {
        0..50 => bail!("the build on the host printed only: {text}"),
        _ => Ok((lines, begin.elapsed().as_secs_f64())),
    }
}

/// The same in the guest.
fn in_guest(session: &mut Session) -> Result<(Vec<String>, f64)> {
    let mount = "mountpoint -q /mnt || mount /dev/vdb /mnt && mount --bind /dev /mnt/dev";
    said(session, mount, PATIENCE)?;
    let begin = Instant::now();
    let build = format!("chroot /mnt env -i PATH=/usr/bin:/bin LC_ALL=C sh -c '{BUILD}'");
    let lines = said(session, &build, PATIENCE * 4)?;
    Ok((lines, begin.elapsed().as_secs_f64()))
}

fn compare(native: &[String], guest: &[String]) -> Result<()> {
    if native == guest {
        return Ok(());
    }
    let other: Vec<&str> = guest
        .iter()
        .filter(|l| !native.contains(l))
        .map(String::as_str)
        .collect();
    bail!(
        "{} lines instead of {}; only in the guest: {}",
        guest.len(),
        native.len(),
        other.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_metrics_are_told_from_their_heads() {
        let line = "stress-ng: metrc: [415] cpu                5163     60.03    117.80";
        assert_eq!(rate(line).as_deref(), Some("cpu 5163"));
        let head = "stress-ng: metrc: [415] stressor       bogo ops real time  usr time";
        assert_eq!(rate(head), None);
        assert_eq!(rate("stress-ng: info:  [415] passed: 10: cpu (4)"), None);
    }

    #[test]
    fn a_file_that_differs_is_named() {
        let lines = |text: &str| text.lines().map(str::to_string).collect::<Vec<_>>();
        let native = lines("aa  a.o\nbb  b.o");
        assert!(compare(&native, &native).is_ok());
        let why = compare(&native, &lines("aa  a.o\nbc  b.o")).unwrap_err();
        assert!(why.to_string().contains("bc  b.o"), "{why}");
        assert!(compare(&native, &lines("aa  a.o")).is_err());
    }
}
