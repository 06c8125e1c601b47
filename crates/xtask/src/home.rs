//! A user with folders of its own, who runs machines with names.

use crate::paths::{self, TempFolder};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// A user's folders; machines in it end with it.
pub(crate) struct Home {
    pub(crate) folder: TempFolder,
    pub(crate) trapeze: PathBuf,
    pub(crate) accel: String,
    /// The machine that is used.
    name: &'static str,
}

impl Home {
    pub(crate) fn new(name: &'static str, accel: &str) -> Result<Self> {
        Ok(Self {
            folder: TempFolder::new(&format!("home-{name}"))?,
            trapeze: paths::trapeze()?,
            accel: accel.into(),
            name,
        })
    }

    pub(crate) fn command(&self, words: &[&str]) -> Result<Command> {
        let mut command = Command::new(&self.trapeze);
        let cache = guestimg::cache_dir()?;
        command
            .args(words)
            .env("HOME", self.folder.path("home"))
            .env("XDG_STATE_HOME", self.folder.path("state"))
            .env("XDG_DATA_HOME", self.folder.path("data"))
            .env("XDG_CACHE_HOME", cache.parent().unwrap_or(&cache))
            .env("TERM", "vt100")
            .stdin(Stdio::null());
        Ok(command)
    }

    pub(crate) fn output(&self, words: &[&str]) -> Result<Output> {
        let output = self.command(words)?.output();
        output.with_context(|| words.join(" "))
    }

    /// What a command that succeeds prints: standard output and error.
    pub(crate) fn run(&self, words: &[&str]) -> Result<(String, String)> {
        let output = self.output(words)?;
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        ensure!(
            output.status.success(),
            "{words:?}: {}: {err}",
            output.status
        );
        Ok((out, err))
    }

    /// What a program in the guest prints.
    pub(crate) fn exec(&self, words: &[&str]) -> Result<String> {
        Ok(self.run(&[&["exec", self.name], words].concat())?.0)
    }

    pub(crate) fn sh(&self, line: &str) -> Result<String> {
        self.exec(&["sh", "-c", line])
    }

    pub(crate) fn listed(&self) -> Result<Value> {
        let all: Value = serde_json::from_str(&self.run(&["ls", "--json"])?.0)?;
        let mut all = all.as_array().cloned().unwrap_or_default().into_iter();
        all.find(|vm| vm["name"] == self.name)
            .context("ls --json does not have it")
    }

    pub(crate) fn check_state(&self, state: &str) -> Result<()> {
        let listed = self.listed()?;
        ensure!(listed["state"] == state, "not {state}: {listed}");
        let (table, _) = self.run(&["ls"])?;
        let row = table.lines().find(|l| l.starts_with(self.name));
        let word = row.and_then(|r| r.split_whitespace().nth(1));
        ensure!(word == Some(state), "not {state}:\n{table}");
        Ok(())
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let all = self.run(&["ls", "--json"]).map(|(out, _)| out);
        let all: Value = serde_json::from_str(&all.unwrap_or_default()).unwrap_or_default();
        for vm in all.as_array().into_iter().flatten() {
            // What is left over after a failure.
            let _ = self.output(&["rm", "--force", vm["name"].as_str().unwrap_or_default()]);
        }
    }
}
