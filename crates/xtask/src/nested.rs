//! The conformance suite on real KVM without hardware virtualization: Debian's
//! kernel and its `kvm-amd` inside QEMU's TCG, which emulates SVM.
//!
//! What differs there is known and listed, each with the manual's section.

mod differences;

use crate::hosts::libraries;
use crate::paths::{self, cargo, installed};
use crate::process::Counts;
use anyhow::{Context, Result, bail};
use differences::DIFFERENCES;
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
/// Seconds after which QEMU is stopped.
const LIMIT: &str = "900";

/// `cargo xtask nested [FILTER]`.
pub(crate) fn run(arguments: &[String]) -> Result<bool> {
    let filter = arguments.first().map_or("", String::as_str);
    let counts = suite(filter)?;
    println!("{} passed, {} failed", counts.passed, counts.failed);
    Ok(counts.failed == 0)
}

/// The whole suite, for `cargo xtask test`.
pub(crate) fn all() -> Result<Counts> {
    suite("")
}

fn suite(filter: &str) -> Result<Counts> {
    if !installed(QEMU) {
        bail!("{QEMU} is not installed; 'cargo xtask setup' does it");
    }
    let mut progress = Progress::stderr();
    let image = guestimg::fetch(Flavour::Cloud, false, &mut progress)?;
    let modules = guestimg::modules(&image, &MODULES, &mut progress)?;
    let initramfs = paths::target()?.join("nested-initramfs.cpio");
    let bytes = pack(&image, &modules, &program()?, filter)?;
    std::fs::write(&initramfs, bytes).context("initramfs")?;
    let text = boot(&image, &initramfs)?;
    judge(&text)
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

fn init(filter: &str) -> String {
    let mut script = String::from(
        "#!/bin/busybox sh\n\
         busybox mount -t proc proc /proc\n\
         busybox mount -t devtmpfs dev /dev\n",
    );
    for module in MODULES {
        script.push_str(&format!("busybox insmod /{module}.ko\n"));
    }
    let filter = filter.replace('\'', "");
    script.push_str(&format!(
        "echo {BEGIN}\n\
         /conformance --backend kvm --filter '{filter}'\n\
         echo {END} $?\n\
         busybox poweroff -f\n"
    ));
    script
}

/// A root with busybox, the modules, the suite and its libraries.
fn pack(image: &Image, modules: &[PathBuf], program: &Path, filter: &str) -> Result<Vec<u8>> {
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
    archive.file("init", 0o755, init(filter).as_bytes());
    Ok(archive.finish())
}

fn boot(image: &Image, initramfs: &Path) -> Result<String> {
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

/// Counts the lines: a failure that is listed passes as a known difference.
fn judge(text: &str) -> Result<Counts> {
    let mut counts = Counts::default();
    let mut known = 0;
    for line in text.lines().map(str::trim_end) {
        let Some((verdict, name)) = verdict(line) else {
            continue;
        };
        let listed = DIFFERENCES.iter().find(|d| d.case == name);
        match (verdict, listed) {
            (Verdict::Skipped, _) => println!("{line}"),
            (Verdict::Passed, None) => counts.passed += 1,
            (Verdict::Passed, Some(_)) => {
                counts.passed += 1;
                println!("ok   {name}, although it is listed as a difference");
            }
            (Verdict::Failed, Some(d)) => {
                known += 1;
                println!("diff {name} [{}]: {}", d.manual, d.why);
            }
            (Verdict::Failed, None) => {
                counts.failed += 1;
                println!("{line}");
            }
        }
    }
    println!("{known} known differences");
    if !text.contains(END) {
        let tail: Vec<&str> = text.lines().rev().take(10).collect();
        bail!(
            "the suite did not end; newest lines first:\n{}",
            tail.join("\n")
        );
    }
    if counts == Counts::default() && known == 0 {
        bail!("no case ran");
    }
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
    fn a_listed_failure_is_no_failure_and_an_unlisted_one_is() {
        let known = DIFFERENCES[0].case;
        let text = format!("ok   a::b\nFAIL {known} [x]: y\n{END} 1\n");
        let want = Counts {
            passed: 1,
            failed: 0,
        };
        assert_eq!(judge(&text).unwrap(), want);
        let text = format!("FAIL a::b [x]: y\n{END} 1\n");
        assert_eq!(judge(&text).unwrap().failed, 1);
    }

    #[test]
    fn a_suite_that_does_not_end_is_an_error() {
        assert!(judge("ok   a::b\n").is_err());
        assert!(judge(END).is_err());
    }
}
