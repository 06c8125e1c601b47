//! What came out.

use super::config::{Kind, Row};
use crate::bench::median;
use serde::Serialize;

/// One row: seconds of each contender, by round; none if its CPU lacks the
/// instructions.
#[derive(Serialize)]
pub(super) struct Measured {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) weight: f64,
    pub(super) native: Vec<f64>,
    pub(super) trapeze: Vec<f64>,
    pub(super) tcg: Vec<f64>,
}

/// Where it was measured.
#[derive(Serialize)]
pub(super) struct Surroundings {
    pub(super) host: String,
    pub(super) guest: String,
    /// Where rows with programs ran.
    pub(super) programs: Option<String>,
    pub(super) trapeze: String,
    pub(super) qemu: String,
    /// The guests have their kernel's mitigations on.
    pub(super) mitigations: bool,
    /// CPU flags that only one guest's kernel shows.
    pub(super) differences: Vec<String>,
}

/// A geometric mean: of Trapeze's and TCG's times over native's, and TCG's over
/// Trapeze's.
#[derive(Serialize)]
pub(super) struct Mean {
    pub(super) kind: Kind,
    pub(super) ratios: [Option<f64>; 3],
}

/// The whole measurement.
#[derive(Serialize)]
pub(super) struct Report {
    pub(super) surroundings: Surroundings,
    pub(super) rounds: usize,
    unit: &'static str,
    pub(super) means: Vec<Mean>,
    pub(super) rows: Vec<Measured>,
}

impl Measured {
    pub(super) fn new(row: &Row) -> Self {
        Self {
            name: row.name.clone(),
            kind: row.kind,
            weight: row.weight,
            native: Vec::new(),
            trapeze: Vec::new(),
            tcg: Vec::new(),
        }
    }

    /// As in [`Mean`]: medians of the ratios within each round.
    pub(super) fn ratios(&self) -> [Option<f64>; 3] {
        [
            ratio(&self.trapeze, &self.native),
            ratio(&self.tcg, &self.native),
            ratio(&self.tcg, &self.trapeze),
        ]
    }

    /// A line of the table.
    pub(super) fn line(&self) -> String {
        let native = match self.native.is_empty() {
            true => "n/a".to_string(),
            false => format!("{:.1}", 1e3 * median(self.native.iter().copied())),
        };
        let [ours, theirs, times] = self.ratios().map(shown);
        format!("| {} | {native} | {ours} | {theirs} | {times} |", self.name)
    }
}

fn ratio(of: &[f64], to: &[f64]) -> Option<f64> {
    let pairs = of.iter().zip(to);
    (!of.is_empty() && of.len() == to.len()).then(|| median(pairs.map(|(a, b)| a / b)))
}

fn shown(ratio: Option<f64>) -> String {
    ratio.map_or("n/a".into(), |r| format!("{r:.2}"))
}

/// The weighted geometric mean; none of nothing.
fn geometric_mean(values: impl Iterator<Item = (f64, f64)>) -> Option<f64> {
    let (mut logarithms, mut weights) = (0.0, 0.0);
    for (value, weight) in values {
        logarithms += weight * value.ln();
        weights += weight;
    }
    (weights > 0.0).then(|| (logarithms / weights).exp())
}

fn means(rows: &[Measured]) -> Vec<Mean> {
    let mean = |kind| {
        let ratios = [0, 1, 2].map(|at| {
            let rows = rows.iter().filter(|r| r.kind == kind);
            geometric_mean(rows.filter_map(|r| Some((r.ratios()[at]?, r.weight))))
        });
        Mean { kind, ratios }
    };
    let means = Kind::ALL.into_iter().map(mean);
    means
        .filter(|m| m.ratios.iter().any(Option::is_some))
        .collect()
}

impl Report {
    pub(super) fn new(surroundings: Surroundings, rounds: usize, rows: Vec<Measured>) -> Self {
        Self {
            surroundings,
            rounds,
            unit: "seconds",
            means: means(&rows),
            rows,
        }
    }

    /// For people.
    pub(super) fn table(&self) -> String {
        let s = &self.surroundings;
        let mut text = format!(
            "host:  {}\nguest: {}{}\n{} | {} | {} rounds, mitigations {}\nflags of one guest alone: {}\n",
            s.host,
            s.guest,
            s.programs
                .as_ref()
                .map_or(String::new(), |p| format!("; {p}")),
            s.trapeze,
            s.qemu,
            self.rounds,
            if s.mitigations { "on" } else { "off" },
            s.differences.join(" "),
        );
        for mean in &self.means {
            text.push_str(&format!(
                "\n| {} | native ms | trapeze / native | tcg / native | tcg / trapeze |\n\
                 |---|--:|--:|--:|--:|\n",
                mean.kind.name()
            ));
            for row in self.rows.iter().filter(|r| r.kind == mean.kind) {
                text.push_str(&row.line());
                text.push('\n');
            }
            let [ours, theirs, times] = mean.ratios.map(shown);
            text.push_str(&format!(
                "| **geometric mean** | | **{ours}** | **{theirs}** | **{times}** |\n"
            ));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(name: &str, native: &[f64], trapeze: &[f64], tcg: &[f64]) -> Measured {
        Measured {
            name: name.into(),
            kind: Kind::User,
            weight: 1.0,
            native: native.into(),
            trapeze: trapeze.into(),
            tcg: tcg.into(),
        }
    }

    #[test]
    fn ratios_are_of_pairs_and_absent_ones_are_not_counted() {
        // The second round was slow for all alike.
        let plain = measured("a", &[1.0, 5.0], &[2.0, 10.0], &[8.0, 40.0]);
        let wide = measured("b", &[1.0, 1.0], &[8.0, 8.0], &[]);
        assert_eq!(plain.ratios(), [Some(2.0), Some(8.0), Some(4.0)]);
        assert_eq!(wide.ratios(), [Some(8.0), None, None]);
        assert_eq!(wide.line(), "| b | 1000.0 | 8.00 | n/a | n/a |");
        let means = means(&[plain, wide]);
        let [mean] = means.as_slice() else {
            panic!("only the mean of user rows is there");
        };
        let rounded = mean.ratios.map(|r| r.map(|r| (r * 1e9).round() / 1e9));
        assert_eq!(rounded, [Some(4.0), Some(8.0), Some(4.0)]);
    }

    #[test]
    fn weights_count_in_the_geometric_mean() {
        let mean = |values: &[(f64, f64)]| geometric_mean(values.iter().copied());
        assert_eq!(mean(&[]), None);
        let close = |a: Option<f64>, b: f64| (a.unwrap() - b).abs() < 1e-12;
        assert!(close(mean(&[(1.0, 1.0), (4.0, 1.0)]), 2.0));
        assert!(close(mean(&[(1.0, 1.0), (8.0, 2.0)]), 4.0));
    }
}
