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

fn main() {
    let out = format!("{}/guest.elf", env("OUT_DIR"));
    let folder = format!("{}/freestanding", env("CARGO_MANIFEST_DIR"));
    println!("cargo::rerun-if-changed={folder}");
    let status = Command::new(env("RUSTC"))
        .args(FLAGS)
        .arg(format!("-Clink-arg=-Wl,-T,{folder}/link.ld"))
        .arg("-o")
        .arg(&out)
        .arg(Path::new(&folder).join("main.rs"))
        .env("TRAPEZE_VERSION", env("CARGO_PKG_VERSION"))
        .env_remove("RUSTC_WRAPPER")
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!("the guest does not build ({status})")),
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
