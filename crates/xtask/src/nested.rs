//! The conformance suite on real KVM without hardware virtualization: Debian's
//! kernel and its `kvm-amd` inside QEMU's TCG, which emulates SVM.
//!
//! What differs there is known and listed, each with its owner and the manual's
//! section. Nothing is left out in silence: a case that is not run, or cannot
//! observe anything, has its row as well.

mod differences;

use crate::hosts::libraries;
use crate::paths::{self, cargo, installed};
use crate::process::Counts;
use crate::setup;
use anyhow::{Context, Result, bail};
use differences::{KNOWN, Kind, Known};
use guestimg::{Archive, Flavour, Image, Progress};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const QEMU: &str = "qemu-system-x86_64";
/// In the order of their dependencies.
const MODULES: [&str; 3] = ["irqbypass", "kvm", "kvm-amd"];
/// Lines around the suite's output on the serial port.
const BEGIN: &str = "SUITE-BEGIN";
const END: &str = "SUITE-END";
/// Start of the line that tells what the kernel around the suite has.
const FACTS: &str = "FACTS";
/// Seconds after which QEMU is stopped; the suite takes some 110.
const LIMIT: &str = "420";
/// Boots at most. Now and then QEMU's TCG loses the outer kernel's timer, and
/// with it everything stands still: once in some forty runs, while a guest
/// waited for its own timer and the suite's watchdog for its.
const BOOTS: usize = 2;

/// `cargo xtask nested [--trace] [FILTER]`.
pub(crate) fn run(arguments: &[String]) -> Result<bool> {
    let trace = arguments.iter().any(|a| a == "--trace");
    let mut rest = arguments.iter().filter(|a| *a != "--trace");
    let filter = rest.next().map_or("", String::as_str);
    let text = output(filter, trace)?;
    if trace {
        print!("{}", text.split(BEGIN).last().unwrap_or_default());
    }
    let counts = judge(&text, filter)?;
    println!("{} passed, {} failed", counts.passed, counts.failed);
    Ok(counts.failed == 0)
}

/// The whole suite, for `cargo xtask test`.
pub(crate) fn all() -> Result<Counts> {
    judge(&output("", false)?, "")
}

/// What the suite prints.
fn output(filter: &str, trace: bool) -> Result<String> {
    if !installed(QEMU) {
        bail!("{QEMU} is not installed; 'cargo xtask setup' does it");
    }
    setup::check_qemu()?;
    let mut progress = Progress::stderr();
    let image = guestimg::fetch(Flavour::Cloud, false, &mut progress)?;
    let modules = guestimg::modules(&image, &MODULES, &mut progress)?;
    let initramfs = paths::target()?.join("nested-initramfs.cpio");
    let bytes = pack(&image, &modules, &program()?, &init(filter, trace))?;
    std::fs::write(&initramfs, bytes).context("initramfs")?;
    boot(&image, &initramfs)
}

/// The release build of the suite's command.
fn program() -> Result<PathBuf> {
    let status = cargo()
        .args(["build", "--release", "--quiet", "--package", "conformance"])
        .status();
    if !status.context("cargo build")?.success() {
        bail!("conformance does not build");
    }
    Ok(paths::target()?.join("release/conformance"))
}

/// What runs before the suite with `--trace`, and after it.
const TRACE: (&str, &str) = (
    "busybox mkdir /trace\n\
     busybox mount -t tracefs trace /trace\n\
     for e in kvm_exit kvm_inj_exception kvm_inj_virq kvm_emulate_insn kvm_page_fault; do\n\
       echo 1 > /trace/events/kvm/$e/enable\n\
     done\n",
    "busybox cat /trace/trace\n",
);

fn init(filter: &str, trace: bool) -> String {
    let mut script = String::from(
        "#!/bin/busybox sh\n\
         busybox mount -t proc proc /proc\n\
         busybox mount -t devtmpfs dev /dev\n\
         busybox mkdir /sys\n\
         busybox mount -t sysfs sys /sys\n",
    );
    for module in MODULES {
        script.push_str(&format!("busybox insmod /{module}.ko\n"));
    }
    let crashing = KNOWN.iter().filter(|k| k.kind == Kind::Crashes);
    let except: Vec<&str> = crashing.map(|k| k.case).filter(|c| *c != filter).collect();
    let (before, after) = if trace { TRACE } else { ("", "") };
    script.push_str(&format!(
        "{before}\
         echo {BEGIN}\n\
         echo {FACTS} $(busybox grep -m 2 -E '^(flags|vendor_id)' /proc/cpuinfo) \
         nested=$(busybox cat /sys/module/kvm_amd/parameters/nested)\n\
         /conformance --backend kvm --filter '{}' --except '{}'\n\
         {after}\
         echo {END} $?\n\
         busybox poweroff -f\n",
        filter.replace('\'', ""),
        except.join(","),
    ));
    script
}

/// A root with busybox, the modules, the suite and its libraries.
fn pack(image: &Image, modules: &[PathBuf], program: &Path, init: &str) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    let read = |path: &Path| std::fs::read(path).with_context(|| path.display().to_string());
    let libraries = libraries(program)?;
    let mut folders = BTreeSet::from(["bin", "dev", "proc"].map(PathBuf::from));
    for library in &libraries {
        let parents = library.ancestors().skip(1).filter(|p| p.parent().is_some());
        folders.extend(parents.filter_map(|p| Some(p.strip_prefix("/").ok()?.to_path_buf())));
    }
    for folder in folders {
        archive.directory(&folder.to_string_lossy());
    }
    archive.device("dev/console", 0o600, 5, 1);
    archive.file("bin/busybox", 0o755, &read(&image.busybox)?);
    archive.file("conformance", 0o755, &read(program)?);
    for file in modules.iter().chain(&libraries) {
        let path = match file.extension().is_some_and(|e| e == "ko") {
            true => file.file_name().unwrap_or_default().to_string_lossy(),
            false => file.to_string_lossy(),
        };
        archive.file(path.trim_start_matches('/'), 0o755, &read(file)?);
    }
    archive.file("init", 0o755, init.as_bytes());
    Ok(archive.finish())
}

/// The serial port's output, of another boot if the suite did not end.
fn boot(image: &Image, initramfs: &Path) -> Result<String> {
    let mut text = boot_once(image, initramfs)?;
    for _ in 1..BOOTS {
        if text.contains(END) {
            break;
        }
        let last = text.lines().last().unwrap_or_default();
        println!("the suite did not end in {LIMIT} s, the last line is '{last}': once more");
        text = boot_once(image, initramfs)?;
    }
    Ok(text)
}

fn boot_once(image: &Image, initramfs: &Path) -> Result<String> {
    let output = Command::new("timeout")
        .args([LIMIT, QEMU, "-accel", "tcg", "-cpu", "max,+svm,-la57"])
        .args(["-m", "768", "-nodefaults", "-display", "none"])
        .args(["-serial", "stdio", "-no-reboot", "-kernel"])
        .arg(&image.kernel)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off"])
        .stdin(Stdio::null())
        .output()
        .context(QEMU)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What a line of the suite says about a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Passed,
    Failed,
    Skipped,
}

fn verdict(line: &str) -> Option<(Verdict, &str)> {
    let (word, rest) = line.split_once(' ')?;
    let verdict = match word {
        "ok" => Verdict::Passed,
        "FAIL" => Verdict::Failed,
        "skip" => Verdict::Skipped,
        _ => return None,
    };
    let name = rest.trim_start().split([' ', ',']).next()?;
    Some((verdict, name.strip_suffix(':').unwrap_or(name)))
}

/// What a case's line comes to, given its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judgement {
    Passed,
    /// As its row says.
    Expected,
    /// With what is wrong.
    Failed(&'static str),
}

fn judge_case(verdict: Verdict, row: Option<&Known>, facts: &str) -> Judgement {
    use Judgement::{Expected, Failed, Passed};
    match (verdict, row.map(|k| k.kind)) {
        (Verdict::Passed, None | Some(Kind::Crashes)) => Passed,
        (Verdict::Failed, Some(Kind::Differs)) => Expected,
        (Verdict::Skipped, Some(Kind::Unobservable(fact))) if fact.holds(facts) => Expected,
        (Verdict::Skipped, Some(Kind::Unobservable(_))) => Failed("the reason does not hold"),
        (Verdict::Skipped, _) => Failed("skipped, and no row says why"),
        (Verdict::Failed, _) => Failed("failed"),
        (Verdict::Passed, Some(_)) => Failed("passes, so its row is wrong"),
    }
}

/// Says what a row is about.
fn explain(row: &Known) -> String {
    let Known {
        case,
        owner,
        manual,
        why,
        ..
    } = row;
    let place = format!("{case} [{}; {manual}]: {why}", owner.name());
    match row.kind {
        Kind::Differs => format!("differs: {place}"),
        Kind::Crashes => format!("not run: {place}"),
        Kind::Unobservable(fact) => format!("not observable: {place} (checked: {fact})"),
    }
}

/// Counts the lines, each held against its row. With an empty filter every
/// row must have been met.
fn judge(text: &str, filter: &str) -> Result<Counts> {
    let mut counts = Counts::default();
    let facts = text.lines().find(|l| l.starts_with(FACTS));
    let facts = facts.unwrap_or_default();
    let mut met = BTreeSet::new();
    for line in text.lines().map(str::trim_end) {
        let Some((verdict, name)) = verdict(line) else {
            continue;
        };
        let row = KNOWN.iter().find(|k| k.case == name);
        match (judge_case(verdict, row, facts), row) {
            (Judgement::Passed, _) => counts.passed += 1,
            (Judgement::Expected, Some(row)) => {
                println!("{}", explain(row));
                met.insert(row.case);
            }
            (Judgement::Expected, None) => {}
            (Judgement::Failed(what), _) => {
                counts.failed += 1;
                println!("{what}: {line}");
            }
        }
    }
    if !text.contains(END) {
        let tail: Vec<&str> = text.lines().rev().take(10).collect();
        bail!(
            "the suite did not end; newest lines first:\n{}",
            tail.join("\n")
        );
    }
    if counts == Counts::default() && met.is_empty() {
        bail!("no case ran");
    }
    for row in KNOWN.iter().filter(|_| filter.is_empty()) {
        if row.kind == Kind::Crashes {
            println!("{}", explain(row));
        } else if !met.contains(row.case) {
            counts.failed += 1;
            println!("a row without its case: {}", explain(row));
        }
    }
    println!("{} as their rows say", met.len());
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_suite_are_understood() {
        let table = [
            ("ok   pio::out_dx", Some((Verdict::Passed, "pio::out_dx"))),
            (
                "skip tlb::x: needs PCID",
                Some((Verdict::Skipped, "tlb::x")),
            ),
            (
                "FAIL fault::smep [SDM 3 4.6.1]: vector",
                Some((Verdict::Failed, "fault::smep")),
            ),
            ("3 passed, 0 failed, 0 skipped", None),
            ("[    1.0] kvm: Nested Paging enabled", None),
        ];
        for (line, want) in table {
            assert_eq!(verdict(line), want, "{line}");
        }
    }

    #[test]
    fn cases_are_held_against_their_rows() {
        use Judgement::{Expected, Passed};
        let row = |kind| *KNOWN.iter().find(|k| k.kind == kind).unwrap();
        let differs = row(Kind::Differs);
        let unseen = row(Kind::Unobservable(differences::Fact::Lacks("pcid")));
        let judge = |verdict, row: Option<&Known>, facts| judge_case(verdict, row, facts);
        assert_eq!(judge(Verdict::Passed, None, ""), Passed);
        assert_eq!(judge(Verdict::Failed, Some(&differs), ""), Expected);
        assert_eq!(
            judge(Verdict::Skipped, Some(&unseen), "FACTS svm"),
            Expected
        );
        for wrong in [
            judge(Verdict::Failed, None, ""),
            judge(Verdict::Skipped, None, ""),
            judge(Verdict::Passed, Some(&differs), ""),
            judge(Verdict::Skipped, Some(&differs), ""),
            judge(Verdict::Skipped, Some(&unseen), "FACTS svm pcid"),
        ] {
            assert!(matches!(wrong, Judgement::Failed(_)), "{wrong:?}");
        }
    }

    #[test]
    fn without_a_filter_every_row_must_be_met() {
        let text = format!("ok   a::b\n{END} 1\n");
        assert_eq!(judge(&text, "b").unwrap().failed, 0);
        let rows = KNOWN.iter().filter(|k| k.kind != Kind::Crashes).count();
        assert_eq!(judge(&text, "").unwrap().failed, rows as u64);
    }

    #[test]
    fn a_suite_that_does_not_end_is_an_error() {
        assert!(judge("ok   a::b\n", "").is_err());
        assert!(judge(END, "").is_err());
    }
}
