//! Small programs of our own for the guest, built for it and added to the
//! initramfs.

use crate::paths;
use anyhow::{Context, Result, bail};
use guestimg::{Archive, Image};
use std::path::PathBuf;
use std::process::Command;

/// Static, without a C library: a guest has busybox and nothing else.
const FLAGS: [&str; 12] = [
    "--edition=2024",
    "--crate-type=bin",
    "--target=x86_64-unknown-linux-gnu",
    "-Copt-level=s",
    "-Cpanic=abort",
    "-Crelocation-model=static",
    "-Cstrip=symbols",
    "-Clink-arg=-nostdlib",
    "-Clink-arg=-nostartfiles",
    "-Clink-arg=-static",
    "-Clink-arg=-no-pie",
    "-Dwarnings",
];

/// Folder of the sources, one file a program.
fn sources() -> PathBuf {
    paths::root().join("crates/xtask/guest")
}

/// Every source.
pub(crate) fn list() -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(sources()).context("guest programs")?;
    let mut paths: Vec<PathBuf> = entries.map(|e| Ok(e?.path())).collect::<Result<_>>()?;
    paths.sort();
    Ok(paths)
}

/// An initramfs for `image` with the named programs in `/bin`.
pub(crate) fn initramfs(image: &Image, names: &[&str]) -> Result<PathBuf> {
    let base = guestimg::initramfs(image)?;
    let mut bytes = std::fs::read(&base).with_context(|| base.display().to_string())?;
    // The kernel unpacks archives that follow each other (Linux,
    // Documentation/driver-api/early-userspace/buffer-format.rst).
    let mut archive = Archive::new();
    for name in names {
        archive.file(&format!("bin/{name}"), 0o755, &build(name)?);
    }
    bytes.extend(archive.finish());
    let path = paths::target()?.join(format!("{}-initramfs.cpio", names.join("-")));
    std::fs::write(&path, bytes).with_context(|| path.display().to_string())?;
    Ok(path)
}

fn build(name: &str) -> Result<Vec<u8>> {
    let source = sources().join(format!("{name}.rs"));
    let program = paths::target()?.join(format!("guest-{name}"));
    let compiler = std::env::var_os("RUSTC").unwrap_or("rustc".into());
    let status = Command::new(compiler)
        .args(FLAGS)
        .arg("-o")
        .arg(&program)
        .arg(&source)
        .status()
        .context("rustc")?;
    if !status.success() {
        bail!("{} does not build", source.display());
    }
    std::fs::read(&program).with_context(|| program.display().to_string())
}
