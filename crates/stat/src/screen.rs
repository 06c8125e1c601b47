//! The live view: a table that is new each second.

use crate::text::SECOND;
use crate::{Filter, Sample, Source};
use anyhow::Result;
use ratatui::DefaultTerminal;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::Stylize;
use ratatui::text::Line;
use ratatui::widgets::{Row, Table};
use std::time::Instant;

/// What is looked at.
struct View {
    before: Sample,
    now: Sample,
    /// The busiest first, or by name.
    by_rate: bool,
    /// Rows that are scrolled over.
    top: usize,
    /// No machine is left: what is shown is the last.
    ended: bool,
}

/// Shows `source` on the terminal until `q`.
///
/// # Errors
/// The source's at the first look, the terminal's.
pub fn watch(source: &mut dyn Source, filter: &Filter) -> Result<()> {
    let first = source.read()?.filtered(filter);
    let mut view = View {
        before: first.clone(),
        now: first,
        by_rate: true,
        top: 0,
        ended: false,
    };
    let mut terminal = ratatui::try_init()?;
    let outcome = run(&mut terminal, &mut view, source, filter);
    ratatui::restore();
    outcome
}

fn run(
    terminal: &mut DefaultTerminal,
    view: &mut View,
    source: &mut dyn Source,
    filter: &Filter,
) -> Result<()> {
    let mut next = Instant::now() + SECOND;
    loop {
        terminal.draw(|frame| draw(frame, view))?;
        let left = next.saturating_duration_since(Instant::now());
        if event::poll(left)? {
            match event::read()? {
                Event::Key(key) if !view.key(key) => return Ok(()),
                _ => continue,
            }
        } else {
            next = Instant::now() + SECOND;
            view.look(source, filter);
        }
    }
}

impl View {
    fn look(&mut self, source: &mut dyn Source, filter: &Filter) {
        let sample = source.read();
        self.ended = sample.is_err();
        if let Ok(sample) = sample {
            self.before = std::mem::replace(&mut self.now, sample.filtered(filter));
        }
    }

    /// False if that was the end.
    fn key(&mut self, key: KeyEvent) -> bool {
        let last = self.now.counters.len().saturating_sub(1);
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return false,
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return false,
            KeyCode::Char('s') => self.by_rate = !self.by_rate,
            KeyCode::Down => self.top = (self.top + 1).min(last),
            KeyCode::Up => self.top = self.top.saturating_sub(1),
            KeyCode::PageDown => self.top = (self.top + 10).min(last),
            KeyCode::PageUp => self.top = self.top.saturating_sub(10),
            _ => {}
        }
        true
    }

    fn rows(&self) -> Vec<(&str, u64, f64)> {
        let mut rows = self.now.rates(&self.before);
        if self.by_rate {
            rows.sort_by(|a, b| b.2.total_cmp(&a.2).then(b.1.cmp(&a.1)));
        }
        rows
    }
}

fn draw(frame: &mut Frame, view: &View) {
    let areas = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(0),
        Constraint::Length(1),
    ]);
    let [head, body, foot] = areas.areas(frame.area());
    let who = match view.ended {
        true => "no machine runs any more".to_string(),
        false => view.now.machines.join(", "),
    };
    frame.render_widget(Line::from(format!("trapeze stat - {who}")).bold(), head);
    let rows = view.rows().into_iter().skip(view.top);
    let cells = |(name, total, rate): (&str, u64, f64)| {
        let row = Row::new([
            name.to_string(),
            format!("{total:>16}"),
            format!("{rate:>12.0}"),
        ]);
        if rate > 0.0 { row } else { row.dim() }
    };
    let widths = [
        Constraint::Length(24),
        Constraint::Length(16),
        Constraint::Length(12),
    ];
    let header = Row::new([
        "counter".into(),
        format!("{:>16}", "total"),
        format!("{:>12}", "per second"),
    ]);
    let table = Table::new(rows.map(cells), widths).header(header.reversed());
    frame.render_widget(table, body);
    let order = if view.by_rate { "name" } else { "rate" };
    let keys = format!("q: end  s: sort by {order}  arrows: scroll");
    frame.render_widget(Line::from(keys).dim(), foot);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::tests::pair;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn view() -> View {
        let (before, now) = pair();
        View {
            before,
            now,
            by_rate: true,
            top: 0,
            ended: false,
        }
    }

    fn lines(view: &View) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(60, 8)).unwrap();
        terminal.draw(|frame| draw(frame, view)).unwrap();
        let buffer = terminal.backend().buffer();
        let cells: Vec<&str> = buffer.content().iter().map(|c| c.symbol()).collect();
        cells
            .chunks(60)
            .map(|c| c.concat().trim_end().to_string())
            .collect()
    }

    #[test]
    fn the_busiest_counter_comes_first() {
        let mut view = view();
        let shown = lines(&view);
        assert_eq!(shown[0], "trapeze stat - one");
        assert!(
            shown[2].starts_with("exits ") && shown[2].ends_with(" 10"),
            "{shown:?}"
        );
        assert!(shown[3].starts_with("pf_guest"), "{shown:?}");
        assert!(view.key(KeyCode::Char('s').into()));
        assert!(lines(&view)[3].starts_with("io_exits"));
    }

    #[test]
    fn scrolling_ends_at_the_ends_and_q_ends_it() {
        let mut view = view();
        assert!(view.key(KeyCode::Up.into()) && view.top == 0);
        assert!(view.key(KeyCode::PageDown.into()) && view.top == 2);
        assert!(lines(&view)[2].starts_with("io_exits"));
        assert!(!view.key(KeyCode::Char('q').into()));
    }

    #[test]
    fn a_view_outlives_its_machines() {
        struct Gone;
        impl Source for Gone {
            fn read(&mut self) -> Result<Sample> {
                anyhow::bail!("gone")
            }
        }
        let mut view = view();
        view.look(&mut Gone, &Filter::default());
        assert!(lines(&view)[0].contains("no machine runs"));
        assert_eq!(view.now.counters["exits"], 30);
    }
}
