//! The other implementation, as programs.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory that goes with the value; in memory if the host has that.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let memory = Path::new("/dev/shm");
        let parent = match memory.is_dir() {
            true => memory.to_owned(),
            false => std::env::temp_dir(),
        };
        let path = parent.join(format!("trapeze-images-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("the directory for temporary files is writable");
        Self(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs a program of QEMU's. They are a requirement of these tests, which
/// `cargo xtask setup` installs.
pub fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|e| panic!("{program} (package qemu-utils): {e}"))
}

/// The same, and it must succeed.
pub fn must(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// What `qemu-img check` finds: corruptions and leaks.
pub fn check(path: &Path) -> (u64, u64, String) {
    let path = path.to_str().expect("paths of tests are ASCII");
    let output = run("qemu-img", &["check", "--output=json", path]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let found: serde_json::Value = serde_json::from_str(&text)
        .unwrap_or_else(|e| panic!("qemu-img check {path}: {e}: {text}{errors}"));
    let number = |key: &str| found[key].as_u64().unwrap_or(0);
    (
        number("corruptions") + number("check-errors"),
        number("leaks"),
        errors,
    )
}
