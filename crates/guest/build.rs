//! Builds the freestanding guest with the compiler that builds the workspace.
//!
//! Cargo has no stable way to make one package's binary an input of another,
//! and the guest needs its own panic strategy and linker script; so the
//! compiler is called directly, for the host's target, without its start files.

use std::path::Path;
use std::process::{Command, exit};

const FLAGS: [&str; 22] = [
    "--edition=2024",
    "--crate-name=trapeze_guest",
    "--crate-type=bin",
    "--target=x86_64-unknown-linux-gnu",
    "-Copt-level=s",
    "-Cpanic=abort",
    "-Crelocation-model=static",
    "-Cno-redzone=yes",
    "-Cdebuginfo=0",
    "-Cstrip=symbols",
    "-Clink-arg=-nostdlib",
    "-Clink-arg=-nostartfiles",
    "-Clink-arg=-static",
    "-Clink-arg=-no-pie",
    "-Clink-arg=-Wl,--build-id=none",
    "-Clink-arg=-Wl,-z,noexecstack",
    "-Clink-arg=-Wl,-z,norelro",
    "-Clink-arg=-Wl,-n",
    "-Clinker=cc",
    "-Clinker-features=-lld",
    "-Dwarnings",
    "-Dunsafe-op-in-unsafe-fn",
];

/// Source file, linker script and what comes out of them.
const PROGRAMS: [(&str, &str, &str); 2] = [
    ("main.rs", "link.ld", "guest.elf"),
    ("multiboot.rs", "multiboot.ld", "multiboot.bin"),
];

fn main() {
    let folder = format!("{}/freestanding", env("CARGO_MANIFEST_DIR"));
    println!("cargo::rerun-if-changed={folder}");
    for (source, script, output) in PROGRAMS {
        build(&folder, source, script, output);
    }
}

fn build(folder: &str, source: &str, script: &str, output: &str) {
    let status = Command::new(env("RUSTC"))
        .args(FLAGS)
        .arg(format!("-Clink-arg=-Wl,-T,{folder}/{script}"))
        .arg("-o")
        .arg(format!("{}/{output}", env("OUT_DIR")))
        .arg(Path::new(folder).join(source))
        .env("TRAPEZE_VERSION", env("CARGO_PKG_VERSION"))
        .env_remove("RUSTC_WRAPPER")
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!("{output} does not build ({status})")),
        Err(error) => fail(&format!("the compiler cannot be run: {error}")),
    }
}

fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| fail(&format!("cargo did not set {name}")))
}

fn fail(why: &str) -> ! {
    println!("cargo::error={why}");
    exit(1)
}
