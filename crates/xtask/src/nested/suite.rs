//! The conformance suite on real KVM.
//!
//! What differs there is known and listed, each with its owner and the manual's
//! section. Nothing is left out in silence: a case that is not run, or cannot
//! observe anything, has its row as well.

use super::differences::{KNOWN, Kind, Known};
use super::outer;
use crate::paths::{self, cargo};
use crate::process::Counts;
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Lines around the suite's output on the serial port.
const BEGIN: &str = "SUITE-BEGIN";
const END: &str = "SUITE-END";
/// Start of the line that tells what the kernel around the suite has.
const FACTS: &str = "FACTS";
/// Seconds after which QEMU is stopped; the suite takes some 70.
const LIMIT: u32 = 420;

/// The cases whose names hold `filter`; with `trace` what KVM did is printed.
pub(super) fn run(filter: &str, trace: bool) -> Result<Counts> {
    let program = program()?;
    let text = outer(LIMIT).run(&script(&program, filter, trace))?;
    if trace {
        print!("{}", text.split(BEGIN).last().unwrap_or_default());
    }
    judge(&text, filter)
}

/// The release build of the suite's command.
fn program() -> Result<PathBuf> {
    let status = cargo()
        .args(["build", "--release", "--quiet", "--package", "conformance"])
        .status();
    if !status.context("cargo build")?.success() {
        bail!("conformance does not build");
    }
    Ok(paths::target()?.join("release/conformance"))
}

/// What runs before the suite with `--trace`, and after it.
const TRACE: (&str, &str) = (
    "mkdir /trace\n\
     mount -t tracefs trace /trace\n\
     for e in kvm_exit kvm_inj_exception kvm_inj_virq kvm_emulate_insn kvm_page_fault; do\n\
       echo 1 > /trace/events/kvm/$e/enable\n\
     done\n",
    "cat /trace/trace\n",
);

fn script(program: &Path, filter: &str, trace: bool) -> String {
    let crashing = KNOWN.iter().filter(|k| k.kind == Kind::Crashes);
    let except: Vec<&str> = crashing.map(|k| k.case).filter(|c| *c != filter).collect();
    let (before, after) = if trace { TRACE } else { ("", "") };
    format!(
        "{before}\
         echo {BEGIN}\n\
         echo {FACTS} $(grep -m 2 -E '^(flags|vendor_id)' /proc/cpuinfo) \
         nested=$(cat /sys/module/kvm_amd/parameters/nested)\n\
         '{}' --backend kvm --filter '{}' --except '{}'\n\
         status=$?\n\
         {after}\
         echo {END} $status\n",
        program.display(),
        filter.replace('\'', ""),
        except.join(","),
    )
}

/// What a line of the suite says about a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Passed,
    Failed,
    Skipped,
}

fn verdict(line: &str) -> Option<(Verdict, &str)> {
    let (word, rest) = line.split_once(' ')?;
    let verdict = match word {
        "ok" => Verdict::Passed,
        "FAIL" => Verdict::Failed,
        "skip" => Verdict::Skipped,
        _ => return None,
    };
    let name = rest.trim_start().split([' ', ',']).next()?;
    Some((verdict, name.strip_suffix(':').unwrap_or(name)))
}

/// What a case's line comes to, given its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judgement {
    Passed,
    /// As its row says.
    Expected,
    /// With what is wrong.
    Failed(&'static str),
}

fn judge_case(verdict: Verdict, row: Option<&Known>, facts: &str) -> Judgement {
    use Judgement::{Expected, Failed, Passed};
    match (verdict, row.map(|k| k.kind)) {
        (Verdict::Passed, None | Some(Kind::Crashes)) => Passed,
        (Verdict::Failed, Some(Kind::Differs)) => Expected,
        (Verdict::Skipped, Some(Kind::Unobservable(fact))) if fact.holds(facts) => Expected,
        (Verdict::Skipped, Some(Kind::Unobservable(_))) => Failed("the reason does not hold"),
        (Verdict::Skipped, _) => Failed("skipped, and no row says why"),
        (Verdict::Failed, _) => Failed("failed"),
        (Verdict::Passed, Some(_)) => Failed("passes, so its row is wrong"),
    }
}

/// Says what a row is about.
fn explain(row: &Known) -> String {
    let Known {
        case,
        owner,
        manual,
        why,
        ..
    } = row;
    let place = format!("{case} [{}; {manual}]: {why}", owner.name());
    match row.kind {
        Kind::Differs => format!("differs: {place}"),
        Kind::Crashes => format!("not run: {place}"),
        Kind::Unobservable(fact) => format!("not observable: {place} (checked: {fact})"),
    }
}

/// Counts the lines, each held against its row. With an empty filter every
/// row must have been met.
fn judge(text: &str, filter: &str) -> Result<Counts> {
    let mut counts = Counts::default();
    let facts = text.lines().find(|l| l.starts_with(FACTS));
    let facts = facts.unwrap_or_default();
    let mut met = BTreeSet::new();
    for line in text.lines().map(str::trim_end) {
        let Some((verdict, name)) = verdict(line) else {
            continue;
        };
        let row = KNOWN.iter().find(|k| k.case == name);
        match (judge_case(verdict, row, facts), row) {
            (Judgement::Passed, _) => counts.passed += 1,
            (Judgement::Expected, Some(row)) => {
                println!("{}", explain(row));
                met.insert(row.case);
            }
            (Judgement::Expected, None) => {}
            (Judgement::Failed(what), _) => {
                counts.failed += 1;
                println!("{what}: {line}");
            }
        }
    }
    if !text.contains(END) {
        let tail: Vec<&str> = text.lines().rev().take(10).collect();
        bail!(
            "the suite did not end; newest lines first:\n{}",
            tail.join("\n")
        );
    }
    if counts == Counts::default() && met.is_empty() {
        bail!("no case ran");
    }
    for row in KNOWN.iter().filter(|_| filter.is_empty()) {
        if row.kind == Kind::Crashes {
            println!("{}", explain(row));
        } else if !met.contains(row.case) {
            counts.failed += 1;
            println!("a row without its case: {}", explain(row));
        }
    }
    println!("{} as their rows say", met.len());
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_suite_are_understood() {
        let table = [
            ("ok   pio::out_dx", Some((Verdict::Passed, "pio::out_dx"))),
            (
                "skip tlb::x: needs PCID",
                Some((Verdict::Skipped, "tlb::x")),
            ),
            (
                "FAIL fault::smep [SDM 3 4.6.1]: vector",
                Some((Verdict::Failed, "fault::smep")),
            ),
            ("3 passed, 0 failed, 0 skipped", None),
            ("[    1.0] kvm: Nested Paging enabled", None),
        ];
        for (line, want) in table {
            assert_eq!(verdict(line), want, "{line}");
        }
    }

    #[test]
    fn cases_are_held_against_their_rows() {
        use Judgement::{Expected, Passed};
        let row = |kind| *KNOWN.iter().find(|k| k.kind == kind).unwrap();
        let differs = row(Kind::Differs);
        let unseen = row(Kind::Unobservable(crate::nested::differences::Fact::Lacks(
            "pcid",
        )));
        let judge = |verdict, row: Option<&Known>, facts| judge_case(verdict, row, facts);
        assert_eq!(judge(Verdict::Passed, None, ""), Passed);
        assert_eq!(judge(Verdict::Failed, Some(&differs), ""), Expected);
        assert_eq!(
            judge(Verdict::Skipped, Some(&unseen), "FACTS svm"),
            Expected
        );
        for wrong in [
            judge(Verdict::Failed, None, ""),
            judge(Verdict::Skipped, None, ""),
            judge(Verdict::Passed, Some(&differs), ""),
            judge(Verdict::Skipped, Some(&differs), ""),
            judge(Verdict::Skipped, Some(&unseen), "FACTS svm pcid"),
        ] {
            assert!(matches!(wrong, Judgement::Failed(_)), "{wrong:?}");
        }
    }

    #[test]
    fn without_a_filter_every_row_must_be_met() {
        let text = format!("ok   a::b\n{END} 1\n");
        assert_eq!(judge(&text, "b").unwrap().failed, 0);
        let rows = KNOWN.iter().filter(|k| k.kind != Kind::Crashes).count();
        assert_eq!(judge(&text, "").unwrap().failed, rows as u64);
    }

    #[test]
    fn a_suite_that_does_not_end_is_an_error() {
        assert!(judge("ok   a::b\n", "").is_err());
        assert!(judge(END, "").is_err());
    }
}
