//! The machine that installs.

use super::Workshop;
use super::kernel::Kernel;
use crate::{Error, Progress, Result};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// What the machine prints at the end of all.
const DONE: &str = "TRAPEZE-DONE";
const SYSTEM: &str = "TRAPEZE-OS ";
const FAILED: &str = "TRAPEZE-FAILED ";
/// What dpkg prints of each package: it unpacks it, and sets it up.
const MARKS: [&str; 2] = ["Unpacking ", "Setting up "];

/// What the console said.
#[derive(Default)]
struct Console {
    marks: usize,
    system: String,
    done: bool,
    failed: Option<String>,
    /// The last lines, for messages.
    last: Vec<String>,
}

/// Installs the packages on `work/disk.raw`; the system's name.
pub(super) fn install(
    shop: &Workshop<'_>,
    kernel: &Kernel,
    packages: usize,
    progress: &mut Progress,
) -> Result<String> {
    let mut child = command(shop, kernel)
        .spawn()
        .map_err(|source| Error::NoProgram {
            program: "trapeze",
            source,
        })?;
    (shop.started)(&child);
    let console = follow(&mut child, packages, progress);
    let status = child.wait().map_err(Error::file(shop.program))?;
    if console.done && status.success() {
        return Ok(console.system);
    }
    let why = console.failed.unwrap_or_else(|| status.to_string());
    Err(Error::Tool {
        what: "installing packages in a machine".into(),
        why: format!("{why}\n{}", console.last.join("\n")),
    })
}

fn command(shop: &Workshop<'_>, kernel: &Kernel) -> Command {
    let work = shop.folder.join("work");
    let option = |start: &str, path: &Path, end: &str| {
        // A comma in a path is doubled, as QEMU's options want it.
        let path = path.to_string_lossy().replace(',', ",,");
        format!("{start}{path}{end}")
    };
    let disk = work.join("disk.raw");
    let share = work.join("share");
    let mut command = Command::new(shop.program);
    command
        .args([
            "system",
            "-m",
            "1G",
            "-smp",
            "2",
            "-nodefaults",
            "-no-reboot",
        ])
        .args(["-display", "none", "-serial", "stdio", "-kernel"])
        .arg(&kernel.vmlinuz)
        .arg("-initrd")
        .arg(&kernel.initrd)
        .args(["-append", "console=ttyS0 quiet panic=-1", "-drive"])
        .arg(option("file=", &disk, ",format=raw,if=virtio,cache=unsafe"))
        .arg("-fsdev")
        .arg(option("local,id=share,readonly=on,path=", &share, ""))
        .args(["-device", "virtio-fs-pci,fsdev=share,tag=share"])
        .args(["-device", "virtio-rng-pci"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    command
}

fn follow(child: &mut Child, packages: usize, progress: &mut Progress) -> Console {
    let mut console = Console::default();
    let Some(output) = child.stdout.take() else {
        return console;
    };
    // dpkg prints names as bytes; the essential ones twice.
    for line in BufReader::new(output).split(b'\n').map_while(|l| l.ok()) {
        let line = String::from_utf8_lossy(&line).trim().to_string();
        console.take(&line);
        progress.percent((console.marks * 100 / (2 * packages).max(1)) as u32);
    }
    console
}

impl Console {
    fn take(&mut self, line: &str) {
        const KEPT: usize = 8;
        self.marks += usize::from(MARKS.iter().any(|m| line.starts_with(m)));
        if let Some(name) = line.strip_prefix(SYSTEM) {
            self.system = name.to_string();
        }
        if let Some(why) = line.strip_prefix(FAILED) {
            self.failed.get_or_insert(why.to_string());
        }
        self.done |= line == DONE;
        if !line.is_empty() && self.failed.is_none() {
            self.last.push(line.to_string());
            let drop = self.last.len().saturating_sub(KEPT);
            self.last.drain(..drop);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_console_tells_progress_and_end() {
        let mut console = Console::default();
        for line in [
            "Unpacking a (1) ...",
            "x",
            "Setting up a (1) ...",
            "TRAPEZE-OS D 1",
        ] {
            console.take(line);
        }
        assert_eq!((console.marks, &*console.system), (2, "D 1"));
        assert!(!console.done && console.failed.is_none());
        console.take(DONE);
        assert!(console.done);
    }

    #[test]
    fn a_failure_keeps_what_was_said_before_it() {
        let mut console = Console::default();
        (0..20).for_each(|n| console.take(&format!("line {n}")));
        console.take("TRAPEZE-FAILED dpkg");
        console.take("reboot: Power down");
        assert_eq!(console.failed.as_deref(), Some("dpkg"));
        assert_eq!(console.last.len(), 8);
        assert_eq!(console.last.last().unwrap(), "line 19");
    }
}
