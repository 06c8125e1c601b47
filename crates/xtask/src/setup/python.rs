//! QEMU's own clients of QMP, which are Python's: in an environment of their own in
//! the cache.

use crate::process::output_of;
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::process::Command;

const PACKAGE: &str = "qemu.qmp==0.0.5";

/// Where their programs are, `python3` and `qmp-shell` among them; made if they are
/// not there.
pub(crate) fn qmp_clients() -> Result<PathBuf> {
    let folder = guestimg::cache_dir()?.join(PACKAGE);
    let programs = folder.join("bin");
    if !programs.join("qmp-shell").is_file() {
        let mut make = Command::new("python3");
        make.args(["-m", "venv", "--clear"]).arg(&folder);
        output_of(&mut make).context("making an environment of Python; package python3-venv")?;
        let mut install = Command::new(programs.join("pip"));
        install.args(["install", "--quiet", "--disable-pip-version-check", PACKAGE]);
        output_of(&mut install).context("from PyPI")?;
    }
    Ok(programs)
}
