//! A guest with some of the host's programs, driven through its shell.

use crate::boots::virtio_modules;
use crate::expect::Session;
use crate::paths;
use crate::process::output_of;
use anyhow::{Context, Result, bail};
use guestimg::{Archive, Flavour, Mode, Progress};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const QEMU: &str = "qemu-system-x86_64";
const PROMPT: &str = ":~# ";
/// Longest wait for one step; a debug aid, not a promise of speed.
const PATIENCE: Duration = Duration::from_secs(120);
/// The programs' libraries fill a part of it.
const RAM: &str = "1G";

/// What runs the guest.
#[derive(Clone, Copy)]
pub(crate) enum Machine {
    Trapeze,
    Tcg,
}

impl Machine {
    /// As reports have it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Trapeze => "trapeze",
            Self::Tcg => "tcg",
        }
    }
}

/// What the guest has.
pub(crate) struct Kit {
    /// Programs of the host's; their libraries come along.
    pub(crate) programs: &'static [&'static str],
    /// Modules besides those for disks.
    pub(crate) modules: &'static [&'static str],
}

/// A guest at its prompt.
pub(crate) struct Guest {
    name: &'static str,
    session: Session,
}

impl Guest {
    /// Boots, with more options.
    pub(crate) fn start(machine: Machine, kit: &Kit, options: &[String]) -> Result<Self> {
        match machine {
            Machine::Trapeze => Self::trapeze("soft", kit, options),
            Machine::Tcg => {
                let mut command = Command::new(QEMU);
                command.args(["-accel", "tcg", "-cpu", "max"]);
                Self::boot(machine.name(), command, kit, options)
            }
        }
    }

    /// Boots here with one of the accelerators.
    pub(crate) fn trapeze(accel: &str, kit: &Kit, options: &[String]) -> Result<Self> {
        let mut command = Command::new(paths::trapeze()?);
        command.args(["system", "-accel", accel]);
        Self::boot(Machine::Trapeze.name(), command, kit, options)
    }

    fn boot(
        name: &'static str,
        mut command: Command,
        kit: &Kit,
        options: &[String],
    ) -> Result<Self> {
        let image = guestimg::fetch(Flavour::Cloud, false, &mut Progress::stderr())?;
        command
            .args(["-m", RAM, "-nodefaults", "-display", "none"])
            .args(["-serial", "stdio", "-no-reboot"])
            .arg("-kernel")
            .arg(&image.kernel)
            .arg("-initrd")
            .arg(initramfs(&image, kit)?)
            .arg("-append")
            .arg(guestimg::command_line(Mode::Shell, Some("vt100"), None))
            .args(options);
        let mut session = Session::start(&mut command)?;
        session.expect(PROMPT, PATIENCE)?;
        let load = "for m in $(cat /modules/order); do insmod /modules/$m.ko; done; echo in $?\r";
        session.send(load)?;
        session.expect("in 0", PATIENCE)?;
        Ok(Self { name, session })
    }

    /// Runs a command that takes some `seconds`; what it says.
    pub(crate) fn say(&mut self, command: &str, seconds: u32) -> Result<String> {
        self.session.expect(PROMPT, PATIENCE)?;
        // In a file: a terminal would break the line.
        let line = format!("{command} > /tmp/o 2>&1; echo end $?; cat /tmp/o; echo done $?\r");
        self.session.send(&line)?;
        let patience = PATIENCE + Duration::from_secs(seconds.into());
        let said = self.session.expect("\ndone 0", patience);
        said.with_context(|| format!("{}: {command}", self.name))
    }

    /// Powers off.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.session.expect(PROMPT, PATIENCE)?;
        self.session.send("poweroff\r")?;
        match self.session.finish(PATIENCE)? {
            Some(0) => Ok(()),
            code => bail!("{}: exit code {code:?} instead of 0", self.name),
        }
    }
}

/// Shell, virtio's modules, the host's programs and their libraries.
fn initramfs(image: &guestimg::Image, kit: &Kit) -> Result<PathBuf> {
    let base = guestimg::initramfs(image)?;
    let mut bytes = std::fs::read(&base).with_context(|| base.display().to_string())?;
    bytes.extend(virtio_modules(image, kit.modules)?);
    let mut archive = Archive::new();
    let mut folders = BTreeSet::new();
    let mut needed = BTreeSet::new();
    for name in kit.programs {
        let program = which(name)?;
        needed.extend(libraries(&program)?);
        let content = std::fs::read(&program).context(*name)?;
        archive.file(&format!("bin/{name}"), 0o755, &content);
    }
    for file in needed {
        add(&mut archive, &mut folders, &file)?;
    }
    bytes.extend(archive.finish());
    let names = kit.programs.join("-");
    let path = paths::target()?.join(format!("{names}-initramfs.cpio"));
    std::fs::write(&path, bytes).with_context(|| path.display().to_string())?;
    Ok(path)
}

fn which(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut candidates = std::env::split_paths(&path).map(|folder| folder.join(program));
    candidates
        .find(|p| p.is_file())
        .with_context(|| format!("{program} is not in the PATH"))
}

/// What the dynamic linker would load, itself included.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let said = output_of(Command::new("ldd").arg(program))?;
    let words = said.split_whitespace();
    let paths: BTreeSet<PathBuf> = words
        .filter(|w| w.starts_with('/'))
        .map(Into::into)
        .collect();
    match paths.is_empty() {
        true => bail!("ldd names no library of {}", program.display()),
        false => Ok(paths.into_iter().collect()),
    }
}

/// Adds a file of the host under its own path, with the folders above it.
fn add(archive: &mut Archive, folders: &mut BTreeSet<PathBuf>, file: &Path) -> Result<()> {
    let above: Vec<&Path> = file.ancestors().skip(1).collect();
    for folder in above.into_iter().rev().skip(1) {
        if folders.insert(folder.to_path_buf()) {
            archive.directory(inside(folder)?);
        }
    }
    let content = std::fs::read(file).with_context(|| file.display().to_string())?;
    archive.file(inside(file)?, 0o755, &content);
    Ok(())
}

/// A path as archives have it.
fn inside(path: &Path) -> Result<&str> {
    let text = path.to_str().context("a path that is no text")?;
    Ok(text.trim_start_matches('/'))
}
