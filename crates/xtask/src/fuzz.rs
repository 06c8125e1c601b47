//! The fuzz targets of crate `fuzz` under libFuzzer.
//!
//! Coverage comes from the compiler's own pass, which stable rustc runs when it
//! is named; only sanitizers would need a nightly one. New inputs gather in
//! `target/fuzz-work/found/`, failing ones in `target/fuzz-work/failed/`.

use crate::paths::{self, cargo};
use crate::process::Counts;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Instant;

/// What the compiler adds for libFuzzer: 8-bit counters on edges and a table of
/// their addresses. Calls on comparisons would halve the speed; the corpus
/// has the magic numbers and words that they would find.
const FLAGS: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=3 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table";
/// Named, so that build scripts and macros are built without [`FLAGS`].
const HOST: &str = "x86_64-unknown-linux-gnu";
/// What each target gets in `cargo xtask test`: both.
const SECONDS: u64 = 10;
const EXECUTIONS: u64 = 100_000;
/// Where `cargo xtask test` begins: the same run everywhere, so that what it
/// finds belongs to the change. `cargo xtask fuzz` begins elsewhere each time.
const SEED: u64 = 1;
/// Targets at a time.
const WORKERS: usize = 2;
/// Seconds for making a failing input smaller.
const MINIMIZE: u64 = 20;
/// Longest input; targets have shorter limits of their own.
const MAX_LEN: usize = 8192;
/// Seconds after which one input counts as hanging.
const HANG: u64 = 20;

/// `cargo xtask fuzz [--seconds N] [--keep] [TARGET... | TARGET FILE]`.
pub(crate) fn run(arguments: &[String]) -> Result<bool> {
    let mut seconds = 60;
    let mut keep = false;
    let mut names = Vec::new();
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--seconds" => {
                let value = words.next().context("--seconds needs a number")?;
                seconds = value.parse().context("--seconds")?;
            }
            "--keep" => keep = true,
            _ => names.push(word.clone()),
        }
    }
    let fuzzer = Fuzzer::build()?;
    if let [target, file] = names.as_slice()
        && Path::new(file).is_file()
    {
        fuzzer.known(target)?;
        return Ok(fuzzer.command(target).arg(file).status()?.success());
    }
    for name in &names {
        fuzzer.known(name)?;
    }
    if names.is_empty() {
        names.clone_from(&fuzzer.targets);
    }
    let counts = fuzzer.every(&names, &|name| fuzzer.anew(name, seconds))?;
    if keep {
        names.iter().try_for_each(|name| fuzzer.keep(name))?;
    }
    println!("{} passed, {} failed", counts.passed, counts.failed);
    Ok(counts.failed == 0)
}

/// Every target, for `cargo xtask test`.
pub(crate) fn all() -> Result<Counts> {
    let fuzzer = Fuzzer::build()?;
    fuzzer.every(&fuzzer.targets, &|name| fuzzer.known_run(name))
}

struct Fuzzer {
    program: PathBuf,
    /// Names: the folders of the corpus.
    targets: Vec<String>,
    corpus: PathBuf,
    work: PathBuf,
}

impl Fuzzer {
    fn build() -> Result<Self> {
        let status = cargo()
            .args(["build", "--quiet", "--package", "fuzz", "--bin", "fuzz"])
            .args(["--features", "libfuzzer", "--profile", "fuzz"])
            .args(["--target", HOST])
            .env("RUSTFLAGS", FLAGS)
            .status();
        if !status.context("cargo build")?.success() {
            bail!("the fuzzer does not build; it needs a C++ compiler ('cargo xtask setup')");
        }
        let corpus = paths::root().join("crates/fuzz/corpus");
        let folders = files(&corpus)?;
        let name = |f: &PathBuf| Some(f.file_name()?.to_string_lossy().into_owned());
        let mut targets: Vec<String> = folders.iter().filter_map(name).collect();
        targets.sort();
        let target = paths::target()?;
        Ok(Self {
            program: target.join(HOST).join("fuzz/fuzz"),
            targets,
            corpus,
            work: target.join("fuzz-work"),
        })
    }

    fn known(&self, name: &str) -> Result<()> {
        if self.targets.iter().any(|t| t == name) {
            return Ok(());
        }
        bail!(
            "no fuzz target '{name}'; there are {}",
            self.targets.join(", ")
        )
    }

    fn command(&self, target: &str) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("TRAPEZE_FUZZ_TARGET", target)
            .args([format!("-timeout={HANG}"), format!("-max_len={MAX_LEN}")])
            // The translator's own handlers decide what a fault means.
            .args(["-handle_segv=0", "-handle_fpe=0", "-handle_bus=0"]);
        command
    }

    /// Fuzzes the targets, some at a time.
    fn every(
        &self,
        names: &[String],
        one: &(dyn Fn(&str) -> Result<Report> + Sync),
    ) -> Result<Counts> {
        let queue = Mutex::new(names.iter());
        let total = Mutex::new(Counts::default());
        let next = || queue.lock().ok()?.next();
        let work = || {
            while let Some(name) = next() {
                let begun = Instant::now();
                let (line, good) = match one(name) {
                    Ok(done) => (format!("ok   fuzz {name}: {done}"), true),
                    Err(why) => (format!("FAIL fuzz {name}: {why:#}"), false),
                };
                println!("{line}, {} s", begun.elapsed().as_secs());
                if let Ok(mut total) = total.lock() {
                    total.add(Counts::one(good));
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..WORKERS {
                scope.spawn(work);
            }
        });
        total
            .into_inner()
            .map_err(|_| anyhow::anyhow!("a worker died"))
    }

    /// From a place of the fuzzer's choice.
    fn anew(&self, name: &str, seconds: u64) -> Result<Report> {
        self.session(name, "found", &[format!("-max_total_time={seconds}")])
    }

    /// From [`SEED`]: at least [`EXECUTIONS`], for at least [`SECONDS`].
    fn known_run(&self, name: &str) -> Result<Report> {
        const FOLDER: &str = "known-run";
        let _ = std::fs::remove_dir_all(self.work.join(FOLDER).join(name));
        let begun = Instant::now();
        let seed = format!("-seed={SEED}");
        let runs = [format!("-runs={EXECUTIONS}"), seed.clone()];
        let mut report = self.session(name, FOLDER, &runs)?;
        let left = SECONDS.saturating_sub(begun.elapsed().as_secs());
        if left > 0 {
            let time = [format!("-max_total_time={left}"), seed];
            let more = self.session(name, FOLDER, &time)?;
            report.executions += more.executions;
            report.found += more.found;
        }
        Ok(report)
    }

    /// One run of the fuzzer; what it finds gathers in `folder`.
    fn session(&self, name: &str, folder: &str, limits: &[String]) -> Result<Report> {
        let found = self.work.join(folder).join(name);
        let failed = self.work.join("failed");
        std::fs::create_dir_all(&found).context("folder for new inputs")?;
        std::fs::create_dir_all(&failed).context("folder for failing inputs")?;
        let prefix = format!("{}/{name}-", failed.display());
        let output = self
            .command(name)
            .args(limits)
            .arg("-print_final_stats=1")
            .arg(format!("-artifact_prefix={prefix}"))
            .arg(&found)
            .arg(self.corpus.join(name))
            .stdin(Stdio::null())
            .output()
            .context("the fuzzer")?;
        let text = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            return report(&text).context("the fuzzer's statistics");
        }
        let file = text.lines().find_map(|l| l.split("written to ").nth(1));
        let why = reason(&text);
        let Some(file) = file else {
            let tail: Vec<&str> = text.lines().rev().take(8).collect();
            bail!(
                "{why}; no input was saved; newest lines first:\n{}",
                tail.join("\n")
            );
        };
        let file = self.minimized(name, Path::new(file.trim()))?;
        bail!(
            "{why}\n     input: {}\n     again: cargo xtask fuzz {name} {}",
            std::fs::read(&file).map_or_else(|e| e.to_string(), |bytes| hex(&bytes)),
            file.display()
        )
    }

    /// A smaller input that fails as well, or the same one.
    fn minimized(&self, name: &str, file: &Path) -> Result<PathBuf> {
        let small = file.with_extension("min");
        self.command(name)
            .args(["-minimize_crash=1", &format!("-max_total_time={MINIMIZE}")])
            .arg(format!("-exact_artifact_path={}", small.display()))
            .arg(file)
            .stdin(Stdio::null())
            .output()
            .context("the fuzzer")?;
        // The fuzzer leaves an empty file where it found nothing smaller.
        let found = small.metadata().is_ok_and(|m| m.len() > 0);
        Ok(if found { small } else { file.to_path_buf() })
    }

    /// Chooses a small set of inputs that between them reach what the corpus
    /// and the new ones reach. Inputs with a name of their own stay; those
    /// that the fuzzer named (by hash) are replaced.
    fn keep(&self, name: &str) -> Result<()> {
        let corpus = self.corpus.join(name);
        let chosen = self.work.join("chosen").join(name);
        let _ = std::fs::remove_dir_all(&chosen);
        std::fs::create_dir_all(&chosen).context("folder for chosen inputs")?;
        let status = self
            .command(name)
            .args(["-set_cover_merge=1", "-use_counters=0"])
            .args([&chosen, &corpus, &self.work.join("found").join(name)])
            .stderr(Stdio::null())
            .status()
            .context("the fuzzer")?;
        if !status.success() {
            bail!("choosing the inputs of {name} failed");
        }
        for file in files(&corpus)?.iter().filter(|f| is_hash(f)) {
            std::fs::remove_file(file).context("corpus")?;
        }
        for file in files(&chosen)? {
            let to = corpus.join(file.file_name().unwrap_or_default());
            std::fs::copy(&file, to).context("corpus")?;
        }
        Ok(())
    }
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    entries.map(|e| Ok(e?.path())).collect()
}

/// A name that libFuzzer gave: 40 hexadecimal digits.
fn is_hash(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    name.len() == 40 && name.bytes().all(|b| b.is_ascii_hexdigit())
}

/// What a failing run said: the panic's message or libFuzzer's line.
fn reason(text: &str) -> String {
    let says = |l: &&str| l.contains("panicked at") || l.contains("ERROR:");
    let end = |l: &&str| !l.trim().is_empty() && !l.contains("stack backtrace");
    let lines = text.lines().skip_while(|l| !says(l)).take_while(end);
    lines.take(200).collect::<Vec<_>>().join("\n     ")
}

/// An input as one can type it in again.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Report {
    executions: u64,
    found: u64,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { executions, found } = self;
        write!(f, "{executions} executions, {found} new inputs")
    }
}

fn report(text: &str) -> Option<Report> {
    let stat = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name))?;
        line.trim().parse().ok()
    };
    Some(Report {
        executions: stat("stat::number_of_executed_units:")?,
        found: stat("stat::new_units_added:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_with_names_of_their_own_are_told_from_hashes() {
        assert!(is_hash(Path::new(
            "a/adc83b19e793491b1c6ea0fd8b46cd9f32e592fc"
        )));
        assert!(!is_hash(Path::new("a/a-day-late")));
    }

    #[test]
    fn the_reason_is_the_whole_message() {
        let text = "INFO: x\nthread 'a' panicked at f.rs:1:\none\ntwo\n\nmore";
        let want = "thread 'a' panicked at f.rs:1:\n     one\n     two";
        assert_eq!(reason(text), want);
        assert_eq!(reason("fine"), "");
    }

    #[test]
    fn statistics_are_read() {
        let text = "#5 DONE\nstat::number_of_executed_units: 17983\n\
            stat::average_exec_per_sec:     0\nstat::new_units_added:          8\n";
        let want = Report {
            executions: 17983,
            found: 8,
        };
        assert_eq!(report(text), Some(want));
        assert_eq!(report("stat::new_units_added: 8"), None);
    }
}
