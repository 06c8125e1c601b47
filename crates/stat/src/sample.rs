//! Counters at one moment.

use regex::Regex;
use std::collections::BTreeMap;
use std::time::Instant;

/// What was read at one time.
#[derive(Clone, Debug)]
pub struct Sample {
    /// When.
    pub at: Instant,
    /// Whose counters these are, for people.
    pub machines: Vec<String>,
    /// Sums over all of them.
    pub counters: BTreeMap<String, u64>,
}

impl Sample {
    /// Nothing yet.
    pub fn new() -> Self {
        Self {
            at: Instant::now(),
            machines: Vec::new(),
            counters: BTreeMap::new(),
        }
    }

    /// Adds one machine's.
    pub fn add(&mut self, counters: impl IntoIterator<Item = (String, u64)>) {
        for (name, value) in counters {
            let sum = self.counters.entry(name).or_default();
            *sum = sum.saturating_add(value);
        }
    }

    /// Those that `filter` lets through.
    pub(crate) fn filtered(mut self, filter: &Filter) -> Self {
        self.counters.retain(|name, _| filter.passes(name));
        self
    }

    /// Name, value, and how many came in a second since `before`. A machine that has
    /// ended takes its numbers with it, which is no negative rate.
    pub(crate) fn rates(&self, before: &Self) -> Vec<(&str, u64, f64)> {
        let seconds = self.at.duration_since(before.at).as_secs_f64();
        let rate = |name: &String, value: u64| {
            let then = before.counters.get(name).copied().unwrap_or(0);
            match seconds > 0.0 {
                true => value.saturating_sub(then) as f64 / seconds,
                false => 0.0,
            }
        };
        let each = self.counters.iter();
        each.map(|(name, value)| (&**name, *value, rate(name, *value)))
            .collect()
    }
}

impl Default for Sample {
    fn default() -> Self {
        Self::new()
    }
}

/// Which counters are wanted: a regular expression that matches a name's beginning.
#[derive(Default)]
pub struct Filter(Option<Regex>);

impl Filter {
    /// From `--fields`.
    ///
    /// # Errors
    /// It is no regular expression.
    pub fn new(pattern: &str) -> Result<Self, String> {
        let regex = Regex::new(&format!("^(?:{pattern})"));
        let regex = regex.map_err(|_| format!("'{pattern}' is no regular expression"))?;
        Ok(Self(Some(regex)))
    }

    pub(crate) fn passes(&self, name: &str) -> bool {
        self.0.as_ref().is_none_or(|regex| regex.is_match(name))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::time::Duration;

    /// Two seconds apart.
    pub(crate) fn pair() -> (Sample, Sample) {
        let mut before = Sample::new();
        before.add([("exits".into(), 10), ("io_exits".into(), 4)]);
        let mut now = before.clone();
        now.at += Duration::from_secs(2);
        now.machines = vec!["one".into()];
        now.add([("exits".into(), 20), ("pf_guest".into(), 1)]);
        (before, now)
    }

    #[test]
    fn rates_are_per_second() {
        let (before, now) = pair();
        let want = [
            ("exits", 30, 10.0),
            ("io_exits", 4, 0.0),
            ("pf_guest", 1, 0.5),
        ];
        assert_eq!(now.rates(&before), want);
        // The machine ended.
        assert_eq!(before.rates(&now)[0].2, 0.0);
    }

    #[test]
    fn names_are_chosen_by_their_beginning() {
        let filter = Filter::new("io|pf").unwrap();
        let (_, now) = pair();
        let names: Vec<_> = now.filtered(&filter).counters.into_keys().collect();
        assert_eq!(names, ["io_exits", "pf_guest"]);
        assert!(Filter::new("(").is_err());
        assert!(Filter::default().passes("anything"));
    }
}
