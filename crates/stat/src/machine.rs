//! A machine of this user's that runs: it answers QMP at a place that is known.

use anyhow::{Result, bail};
use serde_json::{Value, json};
use std::path::Path;
use vms::qmp::Client;
use vms::runtime;

/// A connection to one.
pub struct Machine {
    /// Its name.
    pub name: String,
    /// Its process.
    pub pid: u32,
    pub(crate) client: Client,
}

impl Machine {
    /// The one of a process. Who does not answer is ending, or is not ours to ask.
    pub(crate) fn connect(pid: u32, path: &Path) -> Option<Self> {
        let mut client = Client::connect(path).ok()?;
        let answer = client.execute("query-name").ok()?;
        let name = answer["name"].as_str().unwrap_or("unnamed").into();
        Some(Self { name, pid, client })
    }

    /// The one with this name or process; without either the only one that runs.
    ///
    /// # Errors
    /// There is none, or there are several.
    pub fn find(wanted: Option<&str>) -> Result<Self> {
        let mut all: Vec<Self> = runtime::sockets()
            .into_iter()
            .filter_map(|(pid, path)| Self::connect(pid, &path))
            .collect();
        let is = |m: &Self, wanted: &str| m.name == wanted || m.pid.to_string() == wanted;
        let names: Vec<String> = all.iter().map(Self::label).collect();
        all.retain(|machine| wanted.is_none_or(|wanted| is(machine, wanted)));
        match (all.pop(), wanted, all.is_empty()) {
            (Some(machine), _, true) => Ok(machine),
            (Some(_), _, false) => bail!("say which machine, by its process: {}", names.join(", ")),
            (None, Some(wanted), _) if !names.is_empty() => {
                bail!("no machine '{wanted}' runs; {} do", names.join(", "))
            }
            (None, ..) => bail!("no machine of this user's runs"),
        }
    }

    /// What people know it by.
    pub(crate) fn label(&self) -> String {
        format!("{} ({})", self.name, self.pid)
    }

    /// What it has counted so far.
    pub(crate) fn counters(&mut self) -> Result<Vec<(String, u64)>> {
        let wanted = json!({ "target": "vm" });
        let answer = self.client.execute_with("query-stats", wanted)?;
        Ok(parse(&answer))
    }
}

/// What is a number in the answer of `query-stats`.
fn parse(answer: &Value) -> Vec<(String, u64)> {
    let results = answer.as_array().into_iter().flatten();
    let stats = results.filter_map(|result| result["stats"].as_array());
    let number = |s: &Value| Some((s["name"].as_str()?.to_string(), s["value"].as_u64()?));
    stats.flatten().filter_map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_taken_and_nothing_else() {
        let answer = json!([{"provider": "kvm", "stats": [
            {"name": "exits", "value": 3}, {"name": "histogram", "value": [1, 2]},
            {"value": 4}, {"name": "negative", "value": -1}]}, {"stats": 5}]);
        assert_eq!(parse(&answer), [("exits".to_string(), 3)]);
        assert_eq!(parse(&json!("nothing")), []);
    }
}
