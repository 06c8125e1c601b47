//! Somebody who runs the workloads: the host, or a guest.

use super::config::{Config, Guest, Row};
use crate::expect::Session;
use crate::paths::{self, cargo};
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Longest wait for one row; a debug aid, not a promise of speed.
const PATIENCE: Duration = Duration::from_secs(300);

/// The static program, built now if need be.
pub(super) fn program() -> Result<PathBuf> {
    let status = cargo()
        .args(["rustc", "--release", "--quiet", "--package", "cpubench"])
        .args([
            "--",
            "-Ccodegen-units=1",
            "-Ctarget-feature=+crt-static",
            "-Crelocation-model=static",
        ])
        .status();
    if !status.context("cargo rustc")?.success() {
        bail!("cpubench does not build");
    }
    Ok(paths::target()?.join("release/cpubench"))
}

/// What it says of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Result {
        nanoseconds: u64,
        checksum: u64,
    },
    /// The CPU lacks this.
    Absent(String),
}

/// A running `cpubench`.
pub(super) struct Contender {
    name: &'static str,
    session: Session,
}

impl Contender {
    /// On the host, with `folder` for its files.
    pub(super) fn native(program: &Path, folder: &Path) -> Result<Self> {
        let mut command = Command::new(program);
        command.arg("serve").arg(folder);
        Self::start("native", &mut command)
    }

    /// On the host with a copy of `tree`, in `folder`, as its root.
    pub(super) fn native_in_tree(program: &Path, tree: &Path, folder: &Path) -> Result<Self> {
        // Neither devices, which are plain files in a tree that an ordinary user
        // unpacked, nor what belongs to users that there are not here.
        const INSIDE: &str = r#"
            mkdir "$2/root" && cd "$2/root" && mkdir -m 1777 tmp && mkdir dev proc || exit 77
            for folder in bin etc lib lib64 sbin usr; do
                cp -a --no-preserve=ownership "$1/$folder" . || exit 77
            done
            cp "$3" cpubench || exit 77
            mount --rbind /dev "$2/root/dev" && mount --rbind /proc "$2/root/proc" || exit 77
            exec chroot "$2/root" /cpubench serve /tmp
        "#;
        let mut command = Command::new("unshare");
        command
            .args(["--map-root-user", "--mount", "sh", "-c", INSIDE, "sh"])
            .args([tree, folder, program]);
        Self::start("native", &mut command)
    }

    /// As first process of a guest.
    pub(super) fn guest(name: &'static str, guest: &Guest, options: &[String]) -> Result<Self> {
        let mut command = Command::new(&guest.program);
        command.args(options).args(&guest.options);
        Self::start(name, &mut command)
    }

    fn start(name: &'static str, command: &mut Command) -> Result<Self> {
        let mut session = Session::start(command)?;
        session.expect("cpubench ready", PATIENCE).context(name)?;
        session.expect("\ndone", PATIENCE)?;
        Ok(Self { name, session })
    }

    /// What it answers to `line`.
    fn ask(&mut self, line: &str) -> Result<String> {
        self.session.send(&format!("{line}\r"))?;
        self.session
            .expect("\ndone", PATIENCE)
            .with_context(|| format!("{}: {line}", self.name))
    }

    /// Runs a row once.
    pub(super) fn measure(&mut self, row: &Row) -> Result<Answer> {
        let said = self.ask(&row.question())?;
        parse(&row.name, &said).with_context(|| self.name)
    }

    /// Runs copies of a row once, all at the same time.
    pub(super) fn measure_copies(&mut self, row: &Row, copies: usize) -> Result<Answer> {
        let said = self.ask(&row.question_of_copies(copies))?;
        parse(&row.name, &said).with_context(|| self.name)
    }

    /// Makes the files of programs.
    pub(super) fn prepare(&mut self, config: &Config) -> Result<()> {
        let said = self.ask(&config.preparation())?;
        parse("prepare", &said).with_context(|| self.name)?;
        Ok(())
    }

    /// The CPU's flags as the kernel shows them.
    pub(super) fn flags(&mut self) -> Result<BTreeSet<String>> {
        let said = self.ask("facts")?;
        let flags = said
            .lines()
            .filter_map(|l| l.trim().strip_prefix("fact flag "));
        let flags: BTreeSet<String> = flags.map(str::to_string).collect();
        match flags.is_empty() {
            true => bail!("{}: the CPU has no flags: {said}", self.name),
            false => Ok(flags),
        }
    }

    /// Powers the guest off.
    pub(super) fn finish(mut self) -> Result<()> {
        self.session.send("quit\r")?;
        match self.session.finish(PATIENCE)? {
            Some(0) => Ok(()),
            code => bail!("{}: exit code {code:?} instead of 0", self.name),
        }
    }
}

/// The answer for `row` among the lines.
fn parse(row: &str, said: &str) -> Result<Answer> {
    for line in said.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["result", name, time, checksum] if *name == row => {
                return Ok(Answer::Result {
                    nanoseconds: time.parse().with_context(|| line.to_string())?,
                    checksum: u64::from_str_radix(checksum, 16)
                        .with_context(|| line.to_string())?,
                });
            }
            ["absent", name, feature] if *name == row => {
                return Ok(Answer::Absent(feature.to_string()));
            }
            ["failed", ..] => bail!("{line}"),
            _ => {}
        }
    }
    bail!("no answer for {row} in: {said}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_found_among_what_a_terminal_shows() {
        let said = "run sieve 10\r\nresult sieve 1234 00000000000000ff\r";
        let result = Answer::Result {
            nanoseconds: 1234,
            checksum: 255,
        };
        assert_eq!(parse("sieve", said).unwrap(), result);
        let absent = Answer::Absent("avx512f".into());
        assert_eq!(parse("avx512", "absent avx512 avx512f\r").unwrap(), absent);
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        for said in [
            "",
            "result tree 1 2",
            "result sieve x 2",
            "result sieve 1 xyz",
            "failed sieve out of memory",
            "result sieve 1",
        ] {
            assert!(parse("sieve", said).is_err(), "{said}");
        }
    }
}
