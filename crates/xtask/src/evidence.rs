//! What is kept of a run that failed.

use crate::expect::Session;
use crate::paths;
use anyhow::{Context, Result};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// Writes what `session` printed, and what each thread of its process was
/// doing if it still runs, to a file called after `name`. The path is printed,
/// and returned.
pub(crate) fn keep(session: &Session, name: &str) -> Result<PathBuf> {
    let path = place(&format!("{name}.log"))?;
    let mut text = session.output();
    text.push_str("\n==== threads ====\n");
    text.push_str(&threads(session.pid()));
    fs::write(&path, text).with_context(|| path.display().to_string())?;
    println!("what it printed is in {}", path.display());
    Ok(path)
}

/// Copies `file` to where [`keep`] writes.
pub(crate) fn keep_file(file: &Path, name: &str) -> Result<()> {
    let path = place(name)?;
    fs::copy(file, &path).with_context(|| path.display().to_string())?;
    Ok(())
}

fn place(name: &str) -> Result<PathBuf> {
    let folder = paths::target()?.join("failures");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    Ok(folder.join(name))
}

/// Name, state, time on a CPU (ticks, user and system) and system call of each
/// thread, from proc(5); nothing of a process that is gone.
fn threads(pid: u32) -> String {
    let folder = format!("/proc/{pid}/task");
    let Ok(tasks) = fs::read_dir(folder) else {
        return String::new();
    };
    let mut text = String::new();
    for task in tasks.filter_map(|t| t.ok()) {
        let read = |name: &str| read(&task.path().join(name));
        let (stat, call) = (read("stat"), read("syscall"));
        // The name, in brackets, may hold anything.
        let fields: Vec<&str> = stat
            .rsplit_once(") ")
            .map_or(vec![], |(_, rest)| rest.split(' ').collect());
        let field = |n: usize| fields.get(n).copied().unwrap_or("?");
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{:<16} {} user {} system {} in {}",
            read("comm").trim(),
            field(0),
            field(11),
            field(12),
            call.trim(),
        );
    }
    text
}

/// A thread may end while it is looked at.
fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use std::time::Duration;

    #[test]
    fn output_and_threads_are_kept() {
        let mut cat = Command::new("cat");
        let mut session = Session::start(&mut cat).unwrap();
        session.send("here\n").unwrap();
        session.expect("here", Duration::from_secs(10)).unwrap();
        let path = keep(&session, "evidence-test").unwrap();
        let text = fs::read_to_string(&path).unwrap();
        fs::remove_file(path).unwrap();
        assert!(text.starts_with("here"), "{text}");
        let (_, threads) = text.split_once("threads ====\n").unwrap();
        assert!(threads.starts_with("cat "), "{threads}");
    }
}
