//! The machines of this user that run: each answers QMP at a place that is known.

use crate::{Sample, Source};
use anyhow::{Result, bail};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use vms::qmp::Client;
use vms::runtime;

/// Connections to all of them, or to one.
#[derive(Default)]
pub struct Fleet {
    /// Only this process's.
    pid: Option<u32>,
    /// Name and connection by process.
    clients: BTreeMap<u32, (String, Client)>,
}

impl Fleet {
    /// All machines, or the one with that process.
    pub fn new(pid: Option<u32>) -> Self {
        Self {
            pid,
            ..Self::default()
        }
    }

    /// Connects to those that are new.
    fn look(&mut self) {
        let wanted = |pid: u32| self.pid.is_none_or(|only| only == pid);
        for (pid, path) in runtime::sockets() {
            if !wanted(pid) || self.clients.contains_key(&pid) {
                continue;
            }
            // Who does not answer is ending, or is not ours to ask.
            if let Ok(mut client) = Client::connect(&path) {
                let name = name(&mut client).unwrap_or_default();
                self.clients.insert(pid, (name, client));
            }
        }
    }
}

impl Source for Fleet {
    fn read(&mut self) -> Result<Sample> {
        self.look();
        let mut sample = Sample::new();
        self.clients.retain(|pid, (name, client)| {
            let Ok(counters) = counters(client) else {
                return false;
            };
            sample.machines.push(format!("{name} ({pid})"));
            sample.add(counters);
            true
        });
        match (self.pid, sample.machines.is_empty()) {
            (Some(pid), true) => bail!("process {pid} is no machine of this user's that runs"),
            (None, true) => bail!("no machine of this user's runs"),
            _ => Ok(sample),
        }
    }
}

pub(crate) fn name(client: &mut Client) -> Result<String> {
    let answer = client.execute("query-name")?;
    Ok(answer["name"].as_str().unwrap_or("unnamed").into())
}

pub(crate) fn counters(client: &mut Client) -> Result<Vec<(String, u64)>> {
    let answer = client.execute_with("query-stats", json!({ "target": "vm" }))?;
    Ok(parse(&answer))
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
