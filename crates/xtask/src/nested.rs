//! Real KVM without hardware virtualization: Debian's kernel and its `kvm-amd`
//! inside QEMU's TCG, which emulates SVM.

mod differences;
mod suite;

use crate::boots;
use crate::outer::{KVM_CPU, KVM_MODULES, Outer};
use crate::paths::{self, BUILT};
use crate::process::Counts;
use anyhow::{Context, Result, bail};

/// Boot tests of every `cargo xtask test`: a shell, processors, disks, an adapter's
/// interrupts, hot-plug. The others are as good there: `cargo xtask nested boot`.
const BOOTS: [&str; 5] = ["shell", "smp", "virtio", "network", "monitor"];

/// `cargo xtask nested [--trace] [FILTER]` and `cargo xtask nested boot [CASE...]`.
pub(crate) fn run(arguments: &[String]) -> Result<bool> {
    let counts = match arguments {
        [first, cases @ ..] if first == "boot" => {
            boots::known("kvm", cases)?;
            boot(cases)?
        }
        _ => {
            let trace = arguments.iter().any(|a| a == "--trace");
            let mut rest = arguments.iter().filter(|a| *a != "--trace");
            suite::run(rest.next().map_or("", String::as_str), trace)?
        }
    };
    println!("{} passed, {} failed", counts.passed, counts.failed);
    Ok(counts.failed == 0)
}

/// What is part of `cargo xtask test`.
pub(crate) fn all() -> Result<Counts> {
    let mut counts = suite::run("", false)?;
    counts.add(boot(&BOOTS.map(String::from))?);
    Ok(counts)
}

/// A machine with a `/dev/kvm`.
fn outer(seconds: u32) -> Outer {
    Outer {
        cpu: KVM_CPU,
        modules: &KVM_MODULES,
        kernel: "mitigations=off",
        mebibytes: 3072,
        seconds,
    }
}

/// Boot tests with `-accel kvm`: the named ones, or all.
fn boot(cases: &[String]) -> Result<Counts> {
    /// For each case. The longest takes 60.
    const SECONDS: u32 = 120;
    let wanted = boots::count("kvm", cases);
    let trapeze = paths::trapeze()?;
    let this = std::env::current_exe().context("where this program is")?;
    let script = format!(
        "export {BUILT}='{}'\n'{}' boot --accel kvm {}\n",
        trapeze.display(),
        this.display(),
        cases.join(" "),
    );
    let counts = outer(SECONDS * (wanted as u32 + 1)).follow(&script)?;
    if counts.passed + counts.failed != wanted as u64 {
        bail!("{wanted} boot tests were wanted on nested KVM; not all of them ended");
    }
    Ok(counts)
}
