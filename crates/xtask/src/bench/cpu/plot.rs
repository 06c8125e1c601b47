//! The table as a picture: two bars a row, times as multiples of native's on a
//! logarithmic scale.

use super::report::{Measured, Report};
use std::fmt::Write;

/// Pixels.
const LABELS: f64 = 150.0;
const BARS: f64 = 520.0;
const ROW: f64 = 22.0;
const HEAD: f64 = 48.0;
/// Both ends of the scale.
const LEAST: f64 = 0.25;
const MOST: f64 = 128.0;
const OURS: &str = "#2b6cb0";
const THEIRS: &str = "#c05621";

/// Place of a ratio on the scale.
fn x(ratio: f64) -> f64 {
    let part = (ratio.clamp(LEAST, MOST) / LEAST).ln() / (MOST / LEAST).ln();
    LABELS + BARS * part
}

/// The whole picture.
pub(super) fn svg(report: &Report) -> String {
    let height = HEAD + ROW * report.rows.len() as f64 + 10.0;
    let width = LABELS + BARS + 60.0;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    head(&mut text, height);
    for (number, row) in report.rows.iter().enumerate() {
        bars(&mut text, row, HEAD + ROW * number as f64);
    }
    text.push_str("</svg>\n");
    text
}

// Writing to a string does not fail, here and below.

fn head(text: &mut String, height: f64) {
    let _ = writeln!(
        text,
        "<text x=\"10\" y=\"16\">time as a multiple of native: \
         <tspan fill=\"{OURS}\">trapeze</tspan>, <tspan fill=\"{THEIRS}\">QEMU TCG</tspan></text>"
    );
    let mut mark = LEAST;
    while mark <= MOST {
        let at = x(mark);
        let color = if mark == 1.0 { "black" } else { "#ddd" };
        let _ = writeln!(
            text,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{:.0}\" y2=\"{height}\" stroke=\"{color}\"/>\
             <text x=\"{at:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{mark}</text>",
            HEAD - 6.0,
            HEAD - 10.0
        );
        mark *= 2.0;
    }
}

fn bars(text: &mut String, row: &Measured, y: f64) {
    let _ = writeln!(
        text,
        "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
        LABELS - 8.0,
        y + 13.0,
        row.name
    );
    let [ours, theirs, _] = row.ratios();
    bar(text, ours, OURS, y + 2.0);
    bar(text, theirs, THEIRS, y + 11.0);
}

/// From native's place to the ratio's; nothing if there is none.
fn bar(text: &mut String, ratio: Option<f64>, color: &str, y: f64) {
    let Some(ratio) = ratio else { return };
    let (from, to) = (x(ratio.min(1.0)), x(ratio.max(1.0)));
    let _ = writeln!(
        text,
        "<rect x=\"{from:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"8\" fill=\"{color}\"/>\
         <text x=\"{:.1}\" y=\"{:.1}\" font-size=\"9\">{ratio:.2}</text>",
        to - from,
        to + 4.0,
        y + 7.5
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_is_logarithmic_and_ends() {
        assert_eq!(x(LEAST), LABELS);
        assert_eq!(x(MOST), LABELS + BARS);
        assert!((x(2.0) - x(1.0) - (x(64.0) - x(32.0))).abs() < 1e-9);
        assert_eq!(x(1e9), LABELS + BARS);
    }

    #[test]
    fn a_row_without_a_result_has_no_bar() {
        let mut text = String::new();
        bar(&mut text, None, OURS, 0.0);
        assert_eq!(text, "");
        bar(&mut text, Some(2.0), OURS, 0.0);
        assert!(
            text.starts_with("<rect") && text.contains(">2.00<"),
            "{text}"
        );
    }
}
