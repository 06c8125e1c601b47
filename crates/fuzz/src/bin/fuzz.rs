//! libFuzzer around one target, named by the environment variable
//! `TRAPEZE_FUZZ_TARGET`. `cargo xtask fuzz` builds and runs it.
#![no_main]

use std::sync::LazyLock;

static TARGET: LazyLock<&fuzz::Target> = LazyLock::new(|| {
    let name = std::env::var("TRAPEZE_FUZZ_TARGET").unwrap_or_default();
    fuzz::by_name(&name).unwrap_or_else(|| panic!("TRAPEZE_FUZZ_TARGET: no target '{name}'"))
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let data = &data[..data.len().min(TARGET.max_len)];
    (TARGET.run)(data);
});
