//! What is measured, and in what: `crates/cpubench/cpu.json`.

use crate::bench::COMMON;
use crate::paths;
use anyhow::{Context, Result, bail};
use guestimg::{Archive, Flavour, Image, Progress};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

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
    pub(super) rows: Vec<Row>,
}

/// Which geometric mean a row counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    User,
    System,
}

impl Kind {
    pub(super) const ALL: [Self; 2] = [Self::User, Self::System];

    /// As the file has it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::System => "system",
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
    pub(super) count: u64,
    /// What must come out.
    #[serde(deserialize_with = "hexadecimal")]
    pub(super) checksum: u64,
    /// A small count and what comes out, for `crates/cpubench`'s own tests.
    #[allow(dead_code, reason = "read by the tests of cpubench")]
    smoke: (u64, String),
    /// Runs here on [`Config::trapeze_whole_cpu`].
    #[serde(default)]
    pub(super) whole_cpu: bool,
}

fn hexadecimal<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let text = String::deserialize(from)?;
    u64::from_str_radix(&text, 16).map_err(serde::de::Error::custom)
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
        match config.rows.iter().find(|r| r.weight <= 0.0 || r.count == 0) {
            Some(row) => bail!("cpu.json: {}: weight and count must be above 0", row.name),
            None => Ok(config),
        }
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

    /// The guest whose first process is `program`; the same in every byte for all.
    pub(super) fn guest(&self, program: &Path, mitigations_off: bool) -> Result<Guest> {
        let image = self.image()?;
        let initramfs = initramfs(program)?;
        let mut append = self.append.clone();
        if mitigations_off {
            append.push(' ');
            append.push_str(&self.append_mitigations_off);
        }
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let own = [
            "-m",
            &self.memory,
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

/// An initramfs with nothing but `program`.
fn initramfs(program: &Path) -> Result<PathBuf> {
    let bytes = std::fs::read(program).with_context(|| program.display().to_string())?;
    let mut archive = Archive::new();
    archive.directory("dev");
    archive.device("dev/console", 0o600, 5, 1);
    archive.file("cpubench", 0o755, &bytes);
    let path = paths::target()?.join("cpubench-initramfs.cpio");
    std::fs::write(&path, archive.finish()).with_context(|| path.display().to_string())?;
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
