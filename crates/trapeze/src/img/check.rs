//! `img check`.

use super::getopt::Parsed;
use super::images::{Opening, Use, cache_mode, one_file, wants_json};
use super::json::Json;
use super::table::Outcome;
use super::{Tool, try_help};
use disk::CacheMode;
use disk::qcow2::{CheckReport, Qcow2, Repair};
use std::fmt::Write;

/// Exit codes, as QEMU's manual gives them.
const CORRUPT: u8 = 2;
const LEAKS: u8 = 3;
const NOT_SUPPORTED: u8 = 63;

pub(super) fn run(tool: &Tool, parsed: &Parsed) -> Outcome {
    let repair = match parsed.value("repair") {
        None => Repair::None,
        Some("leaks") => Repair::Leaks,
        Some("all") => Repair::All,
        Some(other) => {
            return Err(try_help(format!(
                "--repair (-r) expects 'leaks' or 'all' not '{other}'"
            )));
        }
    };
    let json = wants_json(parsed)?;
    let name = one_file(parsed)?;
    let purpose = match repair {
        Repair::None => Use::Check,
        _ => Use::Repair,
    };
    let opening = Opening {
        cache: cache_mode(parsed.value("cache"), CacheMode::Writeback, "source ")?,
        ..Opening::of(purpose, parsed)
    };
    let image = tool.open(name, &opening)?;
    let Some(qcow2) = image.qcow2() else {
        tool.warn("This image format does not support checks");
        return Ok(NOT_SUPPORTED);
    };
    let quiet = parsed.has("quiet");
    let report = check(qcow2, repair, quiet, json)?;
    if json {
        println!("{}", report_json(&report, name).pretty());
    } else if !quiet {
        print!("{}", report_text(&report));
    }
    Ok(match report {
        CheckReport {
            corruptions: 1.., ..
        } => CORRUPT,
        CheckReport {
            check_errors: 1.., ..
        } => {
            tool.warn("Check failed");
            1
        }
        CheckReport { leaks: 1.., .. } => LEAKS,
        _ => 0,
    })
}

/// Checks, and after repairs once more.
fn check(qcow2: &Qcow2, repair: Repair, quiet: bool, json: bool) -> Result<CheckReport, String> {
    let mut say = |line: &str| eprintln!("{line}");
    let first = qcow2.check(repair, &mut say).map_err(|e| e.to_string())?;
    if first.leaks_fixed + first.corruptions_fixed == 0 {
        return Ok(first);
    }
    if !quiet && !json {
        println!(
            "The following inconsistencies were found and repaired:\n\n    {} leaked clusters\n    \
             {} corruptions\n\nDouble checking the fixed image now...",
            first.leaks_fixed, first.corruptions_fixed
        );
    }
    let second = qcow2
        .check(Repair::None, &mut say)
        .map_err(|e| e.to_string())?;
    Ok(CheckReport {
        leaks_fixed: first.leaks_fixed,
        corruptions_fixed: first.corruptions_fixed,
        ..second
    })
}

fn percent(part: u64, whole: u64) -> f64 {
    part as f64 * 100.0 / whole as f64
}

fn report_text(r: &CheckReport) -> String {
    let mut out = String::new();
    if r.corruptions + r.leaks + r.check_errors == 0 {
        out.push_str("No errors were found on the image.\n");
    }
    if r.corruptions > 0 {
        let _ = writeln!(
            out,
            "\n{} errors were found on the image.\nData may be corrupted, or further writes to \
             the image may corrupt it.",
            r.corruptions
        );
    }
    if r.leaks > 0 {
        let _ = writeln!(
            out,
            "\n{} leaked clusters were found on the image.\nThis means waste of disk space, but \
             no harm to data.",
            r.leaks
        );
    }
    if r.check_errors > 0 {
        let _ = writeln!(
            out,
            "\n{} internal errors have occurred during the check.",
            r.check_errors
        );
    }
    if r.total_clusters != 0 && r.allocated_clusters != 0 {
        let _ = writeln!(
            out,
            "{}/{} = {:.2}% allocated, {:.2}% fragmented, {:.2}% compressed clusters",
            r.allocated_clusters,
            r.total_clusters,
            percent(r.allocated_clusters, r.total_clusters),
            percent(r.fragmented_clusters, r.allocated_clusters),
            percent(r.compressed_clusters, r.allocated_clusters)
        );
    }
    if r.image_end_offset > 0 {
        let _ = writeln!(out, "Image end offset: {}", r.image_end_offset);
    }
    out
}

fn report_json(r: &CheckReport, name: &str) -> Json {
    // QEMU leaves out what is 0, except for these.
    let always = ["image-end-offset", "check-errors"];
    let numbers = [
        ("image-end-offset", r.image_end_offset),
        ("compressed-clusters", r.compressed_clusters),
        ("total-clusters", r.total_clusters),
        ("corruptions-fixed", r.corruptions_fixed),
        ("corruptions", r.corruptions),
        ("check-errors", r.check_errors),
        ("leaks", r.leaks),
        ("leaks-fixed", r.leaks_fixed),
        ("allocated-clusters", r.allocated_clusters),
    ];
    let mut fields: Vec<(&'static str, Json)> = numbers
        .into_iter()
        .filter(|(name, number)| *number > 0 || always.contains(name))
        .map(|(name, number)| (name, number.into()))
        .collect();
    fields.push(("filename", name.into()));
    fields.push(("format", "qcow2".into()));
    if r.fragmented_clusters > 0 {
        fields.push(("fragmented-clusters", r.fragmented_clusters.into()));
    }
    Json::Object(fields)
}
