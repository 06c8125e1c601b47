//! `img map`.

use super::getopt::Parsed;
use super::images::{Opening, Use, one_file, wants_json};
use super::table::Outcome;
use super::{Tool, sizes};
use disk::{ChainStatus, Image};

pub(super) fn run(tool: &Tool, parsed: &Parsed) -> Outcome {
    let json = wants_json(parsed)?;
    let number = |option: &str, what: &str| match parsed.value(option) {
        None => Ok(None),
        Some(text) => match sizes::parse(text) {
            Some(n) if n <= i64::MAX as u64 => Ok(Some(n)),
            _ => Err(format!("Invalid {what} specified: '{text}'.")),
        },
    };
    let start = number("start-offset", "start offset")?.unwrap_or(0);
    let length = number("max-length", "max length")?;
    let name = one_file(parsed)?;
    let image = tool.open(name, &Opening::of(Use::Read, parsed))?;
    let end = length
        .map_or(u64::MAX, |l| start.saturating_add(l))
        .min(image.device().len());
    match json {
        true => print_json(&image, start, end),
        false => print_text(&image, start, end),
    }
}

/// Runs from `start` to `end`, joined where they continue each other.
fn runs(
    image: &Image,
    start: u64,
    end: u64,
    mut each: impl FnMut(u64, &ChainStatus) -> Result<(), String>,
) -> Result<(), String> {
    let mut waiting: Option<(u64, ChainStatus)> = None;
    let mut at = start;
    while at < end {
        let status = image
            .status(at, end - at)
            .map_err(|e| format!("Failed to read image metadata: {e}"))?;
        let len = status.len;
        match &mut waiting {
            Some((_, before)) if before.continues(&status) => before.len += len,
            _ => {
                if let Some((from, run)) = waiting.replace((at, status)) {
                    each(from, &run)?;
                }
            }
        }
        at += len;
    }
    match waiting {
        Some((from, run)) => each(from, &run),
        None => Ok(()),
    }
}

fn print_json(image: &Image, start: u64, end: u64) -> Outcome {
    let mut first = true;
    print!("[");
    runs(image, start, end, |from, run| {
        if !std::mem::take(&mut first) {
            println!(",");
        }
        let offset = match run.host_offset {
            Some(offset) => format!(", \"offset\": {offset}"),
            None => String::new(),
        };
        print!(
            "{{ \"start\": {from}, \"length\": {}, \"depth\": {}, \"present\": {}, \"zero\": {}, \
             \"data\": {}, \"compressed\": {}{offset}}}",
            run.len, run.depth, run.allocated, run.zero, run.data, run.compressed
        );
        Ok(())
    })?;
    println!("]");
    Ok(0)
}

fn print_text(image: &Image, start: u64, end: u64) -> Outcome {
    println!("{:<16}{:<16}{:<16}File", "Offset", "Length", "Mapped to");
    runs(image, start, end, |from, run| {
        if !run.data || run.zero {
            return Ok(());
        }
        let Some(offset) = run.host_offset else {
            return Err("File contains external, encrypted or compressed clusters.".into());
        };
        println!(
            "{:<16}{:<16}{:<16}{}",
            hex(from),
            hex(run.len),
            hex(offset),
            run.file
        );
        Ok(())
    })?;
    Ok(0)
}

/// As C's `%#x`: zero has no prefix.
fn hex(number: u64) -> String {
    match number {
        0 => "0".to_string(),
        n => format!("{n:#x}"),
    }
}
