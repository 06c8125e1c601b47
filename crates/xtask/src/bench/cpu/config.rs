//! What is measured, and in what: `crates/cpubench/cpu.json`.

use crate::bench::COMMON;
use crate::paths;
use anyhow::{Context, Result, bail};
use guestimg::{Archive, Flavour, Image, Progress};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Of a line on a terminal in bytes (`man 3 termios`).
const LONGEST_LINE: usize = 4000;
const TEXT: &str = include_str!("../../../../cpubench/cpu.json");

/// The file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    /// What changed in the file and why, oldest first: a row that goes needs a
    /// reason.
    #[allow(dead_code, reason = "for people")]
    log: Vec<String>,
    /// Which kernel, by [`Flavour::name`].
    kernel: String,
    memory: String,
    append: String,
    append_mitigations_off: String,
    /// Options of each contender alone.
    pub(super) trapeze: Vec<String>,
    pub(super) tcg: Vec<String>,
    /// For rows with instructions that TCG does not know.
    pub(super) trapeze_whole_cpu: Vec<String>,
    /// Flags that only one guest's kernel shows and no program can use.
    flags_that_differ: BTreeSet<String>,
    programs: ProgramsGuest,
    pub(super) rows: Vec<Row>,
}

/// Where rows with programs run.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProgramsGuest {
    /// More, since the tree is in it.
    memory: String,
    /// A line of shell that makes their files.
    prepare: String,
}

/// Which geometric mean a row counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    User,
    System,
    Program,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::User, Self::System, Self::Program];

    /// As the file has it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::System => "system",
            Self::Program => "program",
        }
    }
}

/// One workload.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) kind: Kind,
    /// In the geometric mean.
    pub(super) weight: f64,
    /// How often the work is done.
    #[serde(default = "once")]
    count: u64,
    /// What a row of a program runs: a line of shell.
    command: Option<String>,
    /// What must come out; of programs, whose versions may be newer than this
    /// file, what comes out natively.
    #[serde(default, deserialize_with = "hexadecimal")]
    pub(super) checksum: Option<u64>,
    /// A small count and what comes out, for `crates/cpubench`'s own tests.
    smoke: Option<(u64, String)>,
    /// Runs here on [`Config::trapeze_whole_cpu`].
    #[serde(default)]
    pub(super) whole_cpu: bool,
}

fn once() -> u64 {
    1
}

fn hexadecimal<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let text = String::deserialize(from)?;
    let number = u64::from_str_radix(&text, 16);
    number.map(Some).map_err(serde::de::Error::custom)
}

impl Row {
    /// What `cpubench` is asked.
    pub(super) fn question(&self) -> String {
        match &self.command {
            Some(line) => format!("program {} {line}", self.name),
            None => format!("run {} {}", self.name, self.count),
        }
    }

    /// The same of so many copies at once; rows of programs have none.
    pub(super) fn question_of_copies(&self, copies: usize) -> String {
        format!("together {copies} {} {}", self.name, self.count)
    }

    /// Says what is wrong.
    fn check(&self) -> Result<()> {
        let is_program = self.kind == Kind::Program;
        if self.command.is_some() != is_program || self.smoke.is_none() != is_program {
            bail!("programs have a command, others a smoke count");
        }
        if self.checksum.is_some() == is_program {
            bail!("all but programs have a checksum");
        }
        if self.weight <= 0.0 || self.count == 0 {
            bail!("weight and count must be above 0");
        }
        if self.question().len() > LONGEST_LINE {
            bail!("the command is longer than a terminal's line");
        }
        Ok(())
    }
}

/// How a guest is started, but for the options of each contender.
pub(super) struct Guest {
    pub(super) program: PathBuf,
    pub(super) options: Vec<String>,
}

impl Config {
    /// The committed one.
    pub(super) fn read() -> Result<Self> {
        let config: Self = serde_json::from_str(TEXT).context("cpu.json")?;
        for row in &config.rows {
            row.check()
                .with_context(|| format!("cpu.json: {}", row.name))?;
        }
        Ok(config)
    }

    /// Makes the files of programs.
    pub(super) fn preparation(&self) -> String {
        format!("program prepare {}", self.programs.prepare)
    }

    pub(super) fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|r| r.name == name)
    }

    fn image(&self) -> Result<Image> {
        let flavour = Flavour::from_name(&self.kernel);
        let flavour = flavour.with_context(|| format!("cpu.json: no kernel '{}'", self.kernel))?;
        Ok(guestimg::fetch(flavour, false, &mut Progress::stderr())?)
    }

    /// Packages and versions of kernel and busybox.
    pub(super) fn versions(&self) -> Result<String> {
        Ok(self.image()?.versions.trim_end().replace('\n', ", "))
    }

    /// The guest whose first process is `program`, in a tree if one is given; the
    /// same in every byte for all.
    pub(super) fn guest(
        &self,
        program: &Path,
        tree: Option<&Path>,
        mitigations_off: bool,
    ) -> Result<Guest> {
        let image = self.image()?;
        let initramfs = initramfs(program, tree)?;
        let memory = match tree {
            Some(_) => &self.programs.memory,
            None => &self.memory,
        };
        let mut append = self.append.clone();
        if mitigations_off {
            append.push(' ');
            append.push_str(&self.append_mitigations_off);
        }
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let own = [
            "-m",
            memory,
            "-append",
            &append,
            "-kernel",
            &text(&image.kernel),
            "-initrd",
            &text(&initramfs),
        ];
        let all = COMMON.iter().copied().chain(own);
        Ok(Guest {
            program: PathBuf::new(),
            options: all.map(str::to_string).collect(),
        })
    }

    /// The flags that only one guest has; an error if a program could tell.
    pub(super) fn compare_flags(
        &self,
        ours: &BTreeSet<String>,
        theirs: &BTreeSet<String>,
    ) -> Result<Vec<String>> {
        let differ: Vec<String> = ours.symmetric_difference(theirs).cloned().collect();
        let unexpected = differ
            .iter()
            .filter(|f| !self.flags_that_differ.contains(*f));
        let unexpected: Vec<&str> = unexpected.map(String::as_str).collect();
        match unexpected.is_empty() {
            true => Ok(differ),
            false => bail!(
                "the guests' CPUs are not the same: only one has {}; cpu.json says what each is told",
                unexpected.join(", ")
            ),
        }
    }
}

/// An initramfs with `program`, after that of the tree.
fn initramfs(program: &Path, tree: Option<&Path>) -> Result<PathBuf> {
    let read = |path: &Path| std::fs::read(path).with_context(|| path.display().to_string());
    // The kernel unpacks archives that follow each other (Linux,
    // Documentation/driver-api/early-userspace/buffer-format.rst).
    let mut bytes = tree.map_or(Ok(Vec::new()), read)?;
    let mut archive = Archive::new();
    archive.directory("dev");
    archive.device("dev/console", 0o600, 5, 1);
    archive.file("cpubench", 0o755, &read(program)?);
    bytes.extend(archive.finish());
    let name = match tree {
        Some(_) => "cpubench-programs.cpio",
        None => "cpubench.cpio",
    };
    let path = paths::target()?.join(name);
    std::fs::write(&path, bytes).with_context(|| path.display().to_string())?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_file_is_sound() {
        let config = Config::read().unwrap();
        let names: BTreeSet<&str> = config.rows.iter().map(|r| r.name.as_str()).collect();
        assert_eq!(names.len(), config.rows.len(), "two rows of one name");
        for kind in Kind::ALL {
            assert!(config.rows.iter().any(|r| r.kind == kind), "{kind:?}");
        }
        assert!(Flavour::from_name(&config.kernel).is_some());
        assert!(!config.log.is_empty());
        assert!(config.row("sieve").is_some());
        assert!(config.row("no such row").is_none());
    }

    #[test]
    fn a_flag_that_programs_could_use_must_be_in_both_guests() {
        let set = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<BTreeSet<_>>();
        let mut config = Config::read().unwrap();
        config.flags_that_differ = set(&["kvmclock"]);
        let both = set(&["sse2", "avx2"]);
        assert!(config.compare_flags(&both, &both).unwrap().is_empty());
        let ours = set(&["sse2", "avx2", "kvmclock"]);
        assert_eq!(config.compare_flags(&ours, &both).unwrap(), ["kvmclock"]);
        let why = config.compare_flags(&ours, &set(&["sse2"])).unwrap_err();
        assert!(why.to_string().contains("only one has avx2"), "{why}");
    }
}
