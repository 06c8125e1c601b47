//! A guest writes records to its disk, syncs each and acknowledges it on the
//! console, while the process that runs it is killed at a random moment. Every
//! record that came as far as the console must be on the image, and the image
//! must be sound.

#[path = "../guest/record.rs"]
mod record;

use crate::boots::virtio_modules;
use crate::evidence;
use crate::expect::Session;
use crate::paths::{self, TempFolder};
use crate::process::output_of;
use crate::programs;
use anyhow::{Context, Result, bail};
use guestimg::{Flavour, Image, Mode, Progress};
use record::{DISK, Random, Record, SLOTS};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const PROMPT: &str = ":~# ";
/// Longest wait for one step; a debug aid, not a promise of speed.
const PATIENCE: Duration = Duration::from_secs(180);
/// What begins the line of a record that is safe.
const ACKNOWLEDGED: &str = "ack ";
/// A kill comes after at most so many of them, and so much later.
const MOST_RECORDS: u64 = 60;
const MOST_DELAY: Duration = Duration::from_millis(20);
/// A guest is never that far ahead of what it acknowledged.
const AHEAD: u64 = 1000;

/// Kinds of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    Raw,
    Qcow2,
    Overlay,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Raw, Self::Qcow2, Self::Overlay];

    /// As a row of the results has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Overlay => "qcow2 with backing file",
        }
    }

    fn format(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            _ => "qcow2",
        }
    }
}

/// The boot test: one kill of each kind; `cargo xtask soak writer` does more.
pub(crate) fn once_each(accel: &str) -> Result<()> {
    for (seed, kind) in Kind::ALL.into_iter().enumerate() {
        let mut victim = Victim::new(accel, kind, seed as u64)?;
        victim
            .kill(&format!("killed-{kind:?}"))
            .context(kind.name())?;
    }
    Ok(())
}

/// A disk, and guests that write to it one after the other.
pub(crate) struct Victim {
    kind: Kind,
    accel: String,
    trapeze: PathBuf,
    image: Image,
    initramfs: PathBuf,
    folder: TempFolder,
    /// The next record.
    next: u64,
    random: Random,
}

impl Victim {
    /// A new image; `seed` chooses the moments.
    pub(crate) fn new(accel: &str, kind: Kind, seed: u64) -> Result<Self> {
        let image = guestimg::fetch(Flavour::Cloud, false, &mut Progress::stderr())?;
        let folder = TempFolder::new(&format!("killed-{kind:?}"))?;
        let initramfs = folder.path("initramfs.cpio");
        let mut bytes = fs::read(programs::initramfs(&image, &["writer"])?)?;
        bytes.extend(virtio_modules(&image, &[])?);
        fs::write(&initramfs, bytes).with_context(|| initramfs.display().to_string())?;
        let victim = Self {
            kind,
            accel: accel.into(),
            trapeze: paths::trapeze()?,
            image,
            initramfs,
            folder,
            next: 0,
            random: Random::new(seed),
        };
        victim.create()?;
        Ok(victim)
    }

    /// Boots, kills and looks; how many records were acknowledged. Console and
    /// image of a run that failed are kept under `name`, beside each other.
    pub(crate) fn kill(&mut self, name: &str) -> Result<u64> {
        if self.next + MOST_RECORDS + AHEAD > SLOTS {
            // Records must not overwrite each other.
            self.create()?;
            self.next = 0;
        }
        let mut session = Session::start(&mut self.command())?;
        let verdict = self.kill_and_look(&mut session);
        verdict.or_else(|why| {
            evidence::keep(&session, name)?;
            evidence::keep_file(&self.disk(), name)?;
            Err(why)
        })
    }

    fn kill_and_look(&mut self, session: &mut Session) -> Result<u64> {
        let wanted = self.random.below(MOST_RECORDS);
        let delay = self.random.below(MOST_DELAY.as_micros() as u64);
        session.expect(PROMPT, PATIENCE)?;
        session
            .send("cd /modules; for m in $(cat order); do insmod $m.ko; done; cd; echo in $?\r")?;
        session.expect("\nin 0", PATIENCE)?;
        session.expect(PROMPT, PATIENCE)?;
        session.send(&format!("writer /dev/vda {}\r", self.next))?;
        for _ in 0..wanted {
            session.expect(ACKNOWLEDGED, PATIENCE)?;
        }
        std::thread::sleep(Duration::from_micros(delay));
        session.kill()?;
        if session.finish(PATIENCE)?.is_some() {
            bail!("the machine ended by itself");
        }
        let acknowledged = acknowledged(&session.output())?;
        let first = self.next;
        self.next = acknowledged.last().map_or(first, |last| last + 1);
        // The last line that was waited for need not have come whole.
        let too_few = self.next + 1 < first + wanted;
        if self.next - first != acknowledged.len() as u64 || too_few {
            bail!("{wanted} records from {first}: {acknowledged:?}");
        }
        self.look()?;
        Ok(self.next - first)
    }

    fn disk(&self) -> PathBuf {
        self.folder.path("disk")
    }

    /// Makes the image anew.
    fn create(&self) -> Result<()> {
        let mut create = Command::new(&self.trapeze);
        create.args(["img", "create", "-q", "-f", self.kind.format()]);
        if self.kind == Kind::Overlay {
            let base = self.folder.path("base");
            fs::write(&base, vec![0x77; DISK as usize / 2])?;
            create.args(["-F", "raw", "-b"]).arg(base);
        }
        output_of(create.arg(self.disk()).arg(DISK.to_string()))?;
        Ok(())
    }

    fn command(&self) -> Command {
        let format = self.kind.format();
        let drive = format!("file={},if=virtio,format={format}", self.disk().display());
        let line = guestimg::command_line(Mode::Shell, Some("vt100"), None);
        let mut command = Command::new(&self.trapeze);
        command
            .args([
                "system",
                "-accel",
                &self.accel,
                "-m",
                "256M",
                "-smp",
                "2",
                "-nodefaults",
            ])
            .args(["-display", "none", "-serial", "stdio", "-no-reboot"])
            .args(["-drive", &drive, "-append", &line, "-kernel"])
            .arg(&self.image.kernel)
            .arg("-initrd")
            .arg(&self.initramfs);
        command
    }

    /// Every record so far is there, for us and for QEMU, and neither finds
    /// the image corrupt.
    fn look(&self) -> Result<()> {
        if self.kind == Kind::Raw {
            return self.all_records(&self.disk());
        }
        let tools: [(&Path, &[&str]); 2] =
            [(&self.trapeze, &["img"]), (Path::new("qemu-img"), &[])];
        let flat = self.folder.path("flat");
        for (program, words) in tools {
            check(Command::new(program).args(words), &self.disk())?;
            let mut convert = Command::new(program);
            convert.args(words).args(["convert", "-O", "raw"]);
            output_of(convert.arg(self.disk()).arg(&flat))?;
            self.all_records(&flat)
                .with_context(|| format!("read by {}", program.display()))?;
        }
        Ok(())
    }

    fn all_records(&self, flat: &Path) -> Result<()> {
        let bytes = fs::read(flat).with_context(|| flat.display().to_string())?;
        match (0..self.next).find(|&n| !holds(&bytes, n)) {
            Some(n) => bail!(
                "record {n} at {} is not there; all before {} were acknowledged",
                Record::new(n).offset,
                self.next
            ),
            None => Ok(()),
        }
    }
}

fn holds(disk: &[u8], number: u64) -> bool {
    let mut record = Record::new(number);
    let at = record.offset as usize;
    let found = disk.get(at..at + record.len);
    found.is_some_and(|found| found.iter().all(|&byte| byte == record.byte()))
}

/// Numbers of the lines that came whole.
fn acknowledged(output: &str) -> Result<Vec<u64>> {
    let lines = output.split_inclusive('\n');
    let whole = lines.filter_map(|l| l.strip_prefix(ACKNOWLEDGED)?.strip_suffix('\n'));
    whole
        .map(|number| number.trim().parse().with_context(|| number.to_string()))
        .collect()
}

/// `qemu-img check` of either kind; clusters that are merely lost are what a
/// kill may leave (qemu-img(1): exit code 3).
fn check(tool: &mut Command, image: &Path) -> Result<()> {
    let output = tool
        .args(["check", "-f", "qcow2"])
        .arg(image)
        .output()
        .with_context(|| format!("{}", tool.get_program().display()))?;
    match output.status.code() {
        Some(0 | 3) => Ok(()),
        code => bail!(
            "{} check: exit code {code:?}: {}{}",
            tool.get_program().display(),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_lines_acknowledge() {
        let output = "~# writer /dev/vda 3\r\nack 0003\r\nack 0004\r\nack 00";
        assert_eq!(acknowledged(output).unwrap(), [3, 4]);
        assert!(acknowledged("ack 1x\r\n").is_err());
    }

    #[test]
    fn a_record_with_a_wrong_byte_is_not_there() {
        let mut disk = vec![0; DISK as usize];
        assert!(!holds(&disk, 5));
        let mut record = Record::new(5);
        let at = record.offset as usize;
        for place in &mut disk[at..at + record.len] {
            *place = record.byte();
        }
        assert!(holds(&disk, 5));
        disk[at + record.len - 1] ^= 1;
        assert!(!holds(&disk, 5));
    }

    #[test]
    fn records_lie_apart_in_the_first_half() {
        let offsets: std::collections::BTreeSet<u64> =
            (0..SLOTS).map(|n| Record::new(n).offset).collect();
        assert_eq!(offsets.len() as u64, SLOTS);
        assert!(
            offsets
                .last()
                .is_some_and(|last| last + record::SLOT <= DISK / 2)
        );
    }
}
