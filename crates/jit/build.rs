//! Finds out the facts about each instruction code.

#[path = "src/codes.rs"]
#[allow(dead_code, reason = "what the translator asks")]
mod codes;
#[path = "src/find.rs"]
mod find;

use find::{find, pack};
use iced_x86::Code;
use std::path::Path;

fn main() -> std::io::Result<()> {
    for part in ["codes", "find"] {
        println!("cargo::rerun-if-changed=src/{part}.rs");
    }
    let table: Vec<u8> = Code::values().map(|code| pack(find(code))).collect();
    let folder = std::env::var_os("OUT_DIR").unwrap_or_default();
    std::fs::write(Path::new(&folder).join("facts"), table)
}
