//! Traces that viewers open: Chrome's trace event format, as Perfetto reads it.

use crate::exits::{Batch, Exit};
use anyhow::Result;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

/// A trace that is being written.
pub struct Trace<W: Write> {
    out: W,
    pid: u32,
    /// Something was written already.
    begun: bool,
    vcpus: BTreeSet<u64>,
    counters: BTreeMap<String, u64>,
    /// Exits written.
    pub exits: u64,
    /// Those that the machine had no room for.
    pub lost: u64,
}

impl<W: Write> Trace<W> {
    /// Of a machine.
    ///
    /// # Errors
    /// Nothing can be written.
    pub fn new(mut out: W, name: &str, pid: u32) -> Result<Self> {
        write!(out, "{{\"displayTimeUnit\":\"ns\",\"traceEvents\":[")?;
        let mut trace = Self {
            out,
            pid,
            begun: false,
            vcpus: BTreeSet::new(),
            counters: BTreeMap::new(),
            exits: 0,
            lost: 0,
        };
        trace.event(json!({"ph": "M", "name": "process_name", "args": {"name": name}}))?;
        Ok(trace)
    }

    /// Adds what was recorded.
    ///
    /// # Errors
    /// Nothing can be written.
    pub fn add(&mut self, batch: &Batch) -> Result<()> {
        for exit in &batch.exits {
            if self.vcpus.insert(exit.vcpu) {
                let name = format!("vCPU {}", exit.vcpu);
                self.event(json!({"ph": "M", "name": "thread_name", "tid": exit.vcpu,
                    "args": {"name": name}}))?;
            }
            self.exit(exit)?;
        }
        self.exits += batch.exits.len() as u64;
        self.lost += batch.lost;
        let ts = us(batch.now_ns);
        for (name, value) in &batch.counters {
            // How many came since the last time; what never moves is no track.
            let before = self.counters.insert(name.clone(), *value);
            let more = value.saturating_sub(before.unwrap_or(*value));
            if before.is_some_and(|before| before != *value) {
                self.event(json!({"ph": "C", "name": name, "ts": ts, "args": {"count": more}}))?;
            }
        }
        Ok(())
    }

    fn exit(&mut self, exit: &Exit) -> Result<()> {
        self.slice(exit, "guest", exit.entered_ns, exit.left_ns, json!({}))?;
        let mut arguments = json!({});
        if let Some(access) = &exit.access {
            arguments["size"] = access.size.into();
            if let Some(value) = access.value {
                arguments["value"] = format!("{value:#x}").into();
            }
        }
        let name = exit.name();
        self.slice(exit, &name, exit.left_ns, exit.served_ns, arguments)
    }

    fn slice(&mut self, of: &Exit, name: &str, from: u64, to: u64, arguments: Value) -> Result<()> {
        self.event(
            json!({"ph": "X", "name": name, "tid": of.vcpu, "ts": us(from),
            "dur": us(to.saturating_sub(from)), "args": arguments}),
        )
    }

    fn event(&mut self, mut event: Value) -> Result<()> {
        event["pid"] = self.pid.into();
        let comma = if self.begun { "," } else { "" };
        self.begun = true;
        Ok(write!(self.out, "{comma}\n{event}")?)
    }

    /// Nothing more comes.
    ///
    /// # Errors
    /// Nothing can be written.
    pub fn finish(mut self) -> Result<()> {
        write!(self.out, "\n]}}\n")?;
        Ok(self.out.flush()?)
    }
}

/// The format's times are in microseconds.
fn us(ns: u64) -> f64 {
    ns as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exits::Access;

    fn batch(exits: Vec<Exit>, count: u64) -> Batch {
        Batch {
            now_ns: 5000,
            lost: 1,
            exits,
            counters: vec![("tlb_flush".into(), count), ("idle".into(), 3)],
        }
    }

    #[test]
    fn what_is_written_is_json_with_all_of_it() {
        let exit = Exit {
            vcpu: 2,
            entered_ns: 1000,
            left_ns: 2500,
            served_ns: 2600,
            reason: "KVM_EXIT_IO".into(),
            access: Some(Access {
                write: true,
                address: 0x3f8,
                size: 1,
                value: Some(0x41),
            }),
        };
        let mut out = Vec::new();
        let mut trace = Trace::new(&mut out, "a \"name\"", 7).unwrap();
        trace.add(&batch(vec![exit], 10)).unwrap();
        trace.add(&batch(Vec::new(), 14)).unwrap();
        assert_eq!((trace.exits, trace.lost), (1, 2));
        trace.finish().unwrap();
        let trace: Value = serde_json::from_slice(&out).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        let of = |ph| events.iter().filter(move |e| e["ph"] == ph);
        assert_eq!(of("M").count(), 2);
        let slices: Vec<&Value> = of("X").collect();
        assert_eq!(
            (&slices[0]["name"], &slices[0]["dur"]),
            (&json!("guest"), &json!(1.5))
        );
        assert_eq!(slices[1]["name"], "KVM_EXIT_IO write 0x3f8");
        assert_eq!(slices[1]["args"]["value"], "0x41");
        let counted: Vec<&Value> = of("C").collect();
        assert_eq!(counted.len(), 1);
        assert_eq!(counted[0]["args"]["count"], 4);
        assert!(events.iter().all(|e| e["pid"] == 7));
    }
}
