//! What a machine's vCPUs leave the guest for, as the machine recorded it.

use crate::Machine;
use anyhow::Result;
use serde_json::{Value, json};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Between two looks at what was recorded.
const PAUSE: Duration = Duration::from_millis(20);

/// One exit; times in ns on a clock of the machine's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Who left.
    pub vcpu: u64,
    /// When it had entered the guest.
    pub entered_ns: u64,
    /// When it left.
    pub left_ns: u64,
    /// When that was dealt with.
    pub served_ns: u64,
    /// KVM's name of the reason.
    pub reason: String,
    /// What of a device was read or written.
    pub access: Option<Access>,
}

/// An access to a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Or read.
    pub write: bool,
    /// Port, or guest-physical address.
    pub address: u64,
    /// Bytes.
    pub size: u64,
    /// What was written.
    pub value: Option<u64>,
}

/// What was read of a recording.
#[derive(Debug, Default)]
pub struct Batch {
    /// The machine's time.
    pub now_ns: u64,
    /// Exits that there was no room for.
    pub lost: u64,
    /// The others.
    pub exits: Vec<Exit>,
    /// What the accelerator has counted so far.
    pub counters: Vec<(String, u64)>,
}

impl Machine {
    /// Records for so long, and gives what comes to `take`. Ends early, and well, if
    /// the machine does.
    ///
    /// # Errors
    /// The machine refuses, or what `take` says.
    pub fn record(
        mut self,
        time: Duration,
        mut take: impl FnMut(Batch) -> Result<()>,
    ) -> Result<()> {
        self.switch(true)?;
        let ended = self.poll(time, &mut take);
        // A machine that is gone records nothing.
        let _ = self.switch(false);
        ended
    }

    fn poll(&mut self, time: Duration, take: &mut impl FnMut(Batch) -> Result<()>) -> Result<()> {
        let begin = Instant::now();
        loop {
            // What comes faster than it is read must not keep this from its end.
            let last = begin.elapsed() >= time;
            let Ok(batch) = self.next() else {
                return Ok(());
            };
            take(batch)?;
            if last {
                return Ok(());
            }
            sleep(PAUSE);
        }
    }

    fn switch(&mut self, on: bool) -> Result<()> {
        let arguments = json!({ "enable": on });
        self.client.execute_with("x-record-exits", arguments)?;
        Ok(())
    }

    fn next(&mut self) -> Result<Batch> {
        let mut batch = Batch {
            counters: self.counters()?,
            ..Batch::default()
        };
        loop {
            let answer = self.client.execute("x-recorded-exits")?;
            let exits = answer["exits"].as_array().into_iter().flatten();
            let before = batch.exits.len();
            batch.exits.extend(exits.filter_map(exit));
            batch.now_ns = answer["now-ns"].as_u64().unwrap_or_default();
            batch.lost += answer["lost"].as_u64().unwrap_or_default();
            // It fell behind so far that the machine gave up.
            if answer["recording"] == false {
                self.switch(true)?;
            }
            if batch.exits.len() - before < FEW || batch.exits.len() > MANY {
                return Ok(batch);
            }
        }
    }
}

/// An answer with fewer was the last for now.
const FEW: usize = 1024;
/// Exits in a batch.
const MANY: usize = 1 << 18;

/// In the order that the machine's schema gives.
fn exit(fields: &Value) -> Option<Exit> {
    let number = |at: usize| fields[at].as_u64();
    let access = fields[5].as_str().map(|way| Access {
        write: way == "write",
        address: number(6).unwrap_or_default(),
        size: number(7).unwrap_or_default(),
        value: number(8),
    });
    Some(Exit {
        vcpu: number(0)?,
        entered_ns: number(1)?,
        left_ns: number(2)?,
        served_ns: number(3)?,
        reason: fields[4].as_str()?.into(),
        access,
    })
}

impl Exit {
    /// What it is called: reason, and which device's register.
    pub fn name(&self) -> String {
        match &self.access {
            Some(access) => {
                let way = if access.write { "write" } else { "read" };
                format!("{} {way} {:#x}", self.reason, access.address)
            }
            None => self.reason.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_become_exits() {
        let fields = json!([
            1,
            5,
            6,
            9,
            "KVM_EXIT_MMIO",
            "write",
            0xfeb0_0000_u64,
            8,
            u64::MAX
        ]);
        let mmio = exit(&fields).unwrap();
        assert_eq!(mmio.access.as_ref().unwrap().value, Some(u64::MAX));
        assert_eq!(mmio.name(), "KVM_EXIT_MMIO write 0xfeb00000");
        let plain = exit(&json!([0, 1, 2, 3, "KVM_EXIT_INTR"])).unwrap();
        assert_eq!(plain.name(), "KVM_EXIT_INTR");
        assert_eq!(exit(&json!([1, 2])), None);
    }
}
