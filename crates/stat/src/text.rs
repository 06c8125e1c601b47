//! Counters as lines.

use crate::counters::ALL;
use crate::{Filter, Sample, Source};
use anyhow::Result;
use serde_json::{Value, json as value};
use std::io::{self, Write};
use std::thread::sleep;
use std::time::Duration;

/// The time between two looks.
pub(crate) const SECOND: Duration = Duration::from_secs(1);
/// Lines of the log between two headers.
const LINES: usize = 20;

/// Two looks, a second apart.
fn second(source: &mut dyn Source, filter: &Filter) -> Result<(Sample, Sample)> {
    let before = source.read()?.filtered(filter);
    sleep(SECOND);
    Ok((before, source.read()?.filtered(filter)))
}

/// `--once`: name, sum and rate of each, with what no source has.
///
/// # Errors
/// The source's.
pub fn once(source: &mut dyn Source, filter: &Filter) -> Result<String> {
    let (before, now) = second(source, filter)?;
    Ok(table(&before, &now, filter))
}

fn table(before: &Sample, now: &Sample, filter: &Filter) -> String {
    let mut text = format!("{:<24}{:>16}{:>14}\n", "counter", "total", "per second");
    for (name, total, rate) in now.rates(before) {
        text += &format!("{name:<24}{total:>16}{rate:>14.0}\n");
    }
    let absent = |name: &&&str| filter.passes(name) && !now.counters.contains_key(**name);
    for name in ALL.iter().filter(absent) {
        text += &format!("{name:<24}{:>16}\n", "unsupported");
    }
    text
}

/// `--once --json`.
///
/// # Errors
/// The source's.
pub fn json(source: &mut dyn Source, filter: &Filter) -> Result<Value> {
    let (before, now) = second(source, filter)?;
    let counter = |(name, total, rate): (&str, u64, f64)| {
        (name.to_string(), value!({"total": total, "rate": rate}))
    };
    let counters: serde_json::Map<_, _> = now.rates(&before).into_iter().map(counter).collect();
    Ok(value!({"machines": now.machines, "counters": counters}))
}

/// `--log`: a line of rates each second, until nobody reads or no machine is left.
///
/// # Errors
/// The source's at the first look.
pub fn log(source: &mut dyn Source, filter: &Filter, out: &mut dyn Write) -> Result<()> {
    let mut before = source.read()?.filtered(filter);
    let names: Vec<String> = before.counters.keys().cloned().collect();
    for line in 0.. {
        sleep(SECOND);
        let Ok(now) = source.read() else {
            return Ok(());
        };
        let now = now.filtered(filter);
        if line % LINES == 0 && !still_read(out.write_all(header(&names).as_bytes()))? {
            return Ok(());
        }
        let numbers = row(&names, &now.rates(&before));
        if !still_read(out.write_all(numbers.as_bytes()).and_then(|()| out.flush()))? {
            return Ok(());
        }
        before = now;
    }
    Ok(())
}

/// A reader that has left ends a log well.
fn still_read(written: io::Result<()>) -> io::Result<bool> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true),
    }
}

/// Width of a column: the name's, or what a rate needs.
fn width(name: &str) -> usize {
    name.len().max(8)
}

fn header(names: &[String]) -> String {
    let columns = names.iter().map(|n| format!("{n:>w$}", w = width(n)));
    columns.collect::<Vec<_>>().join(" ") + "\n"
}

fn row(names: &[String], rates: &[(&str, u64, f64)]) -> String {
    let column = |name: &String| {
        let rate = rates.iter().find(|(n, _, _)| n == name);
        let text = rate.map_or("-".into(), |(_, _, rate)| format!("{rate:.0}"));
        format!("{text:>w$}", w = width(name))
    };
    names.iter().map(column).collect::<Vec<_>>().join(" ") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::tests::pair;

    #[test]
    fn a_counter_without_a_source_is_unsupported_and_not_0() {
        let (before, now) = pair();
        let text = table(&before, &now, &Filter::new("e|io").unwrap());
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|l| l.split_whitespace().collect())
            .collect();
        assert_eq!(lines[1], ["exits", "30", "10"]);
        assert_eq!(lines[2], ["io_exits", "4", "0"]);
        assert_eq!(lines[4], ["efer_reload", "unsupported"]);
        assert!(!text.contains("tlb_flush"), "not asked for: {text}");
    }

    #[test]
    fn columns_stand_below_their_names() {
        let (before, now) = pair();
        let names = ["exits".to_string(), "a_rather_long_name".to_string()];
        let (header, row) = (header(&names), row(&names, &now.rates(&before)));
        assert_eq!(header.len(), row.len());
        assert_eq!(row.split_whitespace().collect::<Vec<_>>(), ["10", "-"]);
    }
}
