//! Exits by reason, with how long it took to deal with them.

use crate::exits::{Batch, Exit};
use hdrhistogram::Histogram;
use serde_json::{Value, json as value};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Shades of a histogram's columns, from few to all.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Longer ones count as this: an hour, in ns.
const LONGEST: u64 = 3_600_000_000_000;
/// The columns are powers of two of ns: the first has all below 2^7, the last all
/// from 2^20.
const COLUMNS: std::ops::RangeInclusive<u32> = 6..=20;
const WIDTH: usize = (*COLUMNS.end() - *COLUMNS.start() + 1) as usize;

/// The exits of one machine.
#[derive(Default)]
pub struct Latencies {
    rows: BTreeMap<String, Row>,
    lost: u64,
    guest_ns: u64,
    first_ns: Option<u64>,
    last_ns: u64,
}

struct Row {
    times: Histogram<u64>,
    columns: [u64; WIDTH],
    total_ns: u64,
}

impl Row {
    fn new() -> Self {
        Self {
            times: Histogram::new_with_max(LONGEST, 2).expect("two digits are in its range"),
            columns: [0; WIDTH],
            total_ns: 0,
        }
    }

    fn add(&mut self, ns: u64) {
        self.times.saturating_record(ns);
        let power = ns.max(1).ilog2().clamp(*COLUMNS.start(), *COLUMNS.end());
        self.columns[(power - COLUMNS.start()) as usize] += 1;
        self.total_ns += ns;
    }

    fn bars(&self) -> String {
        let most = self.columns.iter().max().copied().unwrap_or(0).max(1);
        let bar = |&count: &u64| match count {
            0 => ' ',
            count => BARS[(count * 7 / most) as usize],
        };
        self.columns.iter().map(bar).collect()
    }
}

impl Latencies {
    /// Adds what was recorded.
    pub fn add(&mut self, batch: &Batch) {
        self.lost += batch.lost;
        batch.exits.iter().for_each(|exit| self.exit(exit));
    }

    fn exit(&mut self, exit: &Exit) {
        let row = self.rows.entry(exit.name()).or_insert_with(Row::new);
        row.add(exit.served_ns.saturating_sub(exit.left_ns));
        self.guest_ns += exit.left_ns.saturating_sub(exit.entered_ns);
        self.first_ns = Some(self.first_ns.map_or(exit.left_ns, |f| f.min(exit.left_ns)));
        self.last_ns = self.last_ns.max(exit.served_ns);
    }

    /// Those that took most time first.
    fn sorted(&self) -> Vec<(&String, &Row)> {
        let mut rows: Vec<_> = self.rows.iter().collect();
        rows.sort_by_key(|(_, row)| std::cmp::Reverse(row.total_ns));
        rows
    }

    fn seconds(&self) -> f64 {
        let first = self.first_ns.unwrap_or_default();
        self.last_ns.saturating_sub(first) as f64 / 1e9
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:<36}{:>9}{:>11}{:>9}{:>9}{:>9}{:>10}  handled in 64 ns .. 1 ms\n",
            "exit", "count", "per second", "mean", "median", "99 %", "longest"
        );
        let seconds = self.seconds();
        let (mut count, mut total) = (0, 0);
        for (name, row) in self.sorted() {
            let n = row.times.len();
            (count, total) = (count + n, total + row.total_ns);
            let rate = if seconds > 0.0 {
                n as f64 / seconds
            } else {
                0.0
            };
            let _ = writeln!(
                text,
                "{name:<36}{n:>9}{rate:>11.0}{:>9}{:>9}{:>9}{:>10}  |{}|",
                time(row.times.mean() as u64),
                time(row.times.value_at_quantile(0.5)),
                time(row.times.value_at_quantile(0.99)),
                time(row.times.max()),
                row.bars()
            );
        }
        let _ = writeln!(
            text,
            "{count} exits in {seconds:.2} s: {} to deal with them, {} in the guest, waits included",
            time(total),
            time(self.guest_ns)
        );
        if self.lost > 0 {
            let _ = writeln!(text, "{} more came too fast to be recorded", self.lost);
        }
        text
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let row = |(name, row): (&String, &Row)| {
            let columns = COLUMNS.zip(row.columns);
            let histogram: Vec<Value> = columns
                .map(|(power, count)| value!({"from-ns": 1u64 << power, "count": count}))
                .collect();
            value!({
                "exit": name,
                "count": row.times.len(),
                "total-ns": row.total_ns,
                "median-ns": row.times.value_at_quantile(0.5),
                "p99-ns": row.times.value_at_quantile(0.99),
                "longest-ns": row.times.max(),
                "histogram": histogram,
            })
        };
        let rows: Vec<Value> = self.sorted().into_iter().map(row).collect();
        value!({
            "seconds": self.seconds(),
            "guest-ns": self.guest_ns,
            "lost": self.lost,
            "exits": rows,
        })
    }
}

/// A time with a unit that suits it.
fn time(ns: u64) -> String {
    match ns {
        0..10_000 => format!("{ns} ns"),
        10_000..10_000_000 => format!("{} us", ns / 1000),
        10_000_000..10_000_000_000 => format!("{} ms", ns / 1_000_000),
        _ => format!("{} s", ns / 1_000_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(reason: &str, left_ns: u64, took: u64) -> Exit {
        Exit {
            vcpu: 0,
            entered_ns: left_ns - 10,
            left_ns,
            served_ns: left_ns + took,
            reason: reason.into(),
            access: None,
        }
    }

    fn some() -> Latencies {
        let mut all = Latencies::default();
        all.add(&Batch {
            lost: 4,
            exits: vec![
                exit("KVM_EXIT_INTR", 100, 1),
                exit("KVM_EXIT_DEBUG", 200, 300),
                exit("KVM_EXIT_DEBUG", 1_000_000_200, 40_000_000),
            ],
            ..Batch::default()
        });
        all
    }

    #[test]
    fn the_most_time_is_first() {
        let text = some().table();
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[1].starts_with("KVM_EXIT_DEBUG                              2"),
            "{text}"
        );
        assert!(lines[1].ends_with("40 ms  |  █           █|"), "{text}");
        assert!(lines[2].starts_with("KVM_EXIT_INTR"), "{text}");
        assert!(lines[3].starts_with("3 exits in 1.04 s: 40 ms"), "{text}");
        assert!(lines[4].starts_with("4 more came"), "{text}");
    }

    #[test]
    fn programs_get_the_same() {
        let all = some().json();
        assert_eq!(all["lost"], 4);
        assert_eq!(all["exits"][0]["count"], 2);
        let columns = all["exits"][1]["histogram"].as_array().unwrap();
        assert_eq!(columns[0], value!({"from-ns": 64, "count": 1}));
        assert!(columns[1..].iter().all(|c| c["count"] == 0));
    }
}
