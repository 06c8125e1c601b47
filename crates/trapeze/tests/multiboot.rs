//! Multiboot kernels and the devices of test programs, end to end. What the
//! kernel prints is what the specification says it must find.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

const TRAPEZE: &str = env!("CARGO_BIN_EXE_trapeze");

/// A file of this test's.
fn file(name: &str, content: &[u8]) -> String {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("multiboot");
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join(name);
    std::fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_string()
}

fn run(arguments: &[&str]) -> Output {
    Command::new(TRAPEZE)
        .args(["system", "-nodefaults", "-display", "none", "-m", "64"])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Boots a kernel with two modules; what it prints line by line.
fn boots(kernel: &str) {
    let one = file("one", b"ONE!first");
    let two = file("two,with comma", b"TWO!");
    let two = two.replace(' ', "-");
    std::fs::write(&two, b"TWO!").unwrap();
    let quoted = two.replace(',', ",,");
    let modules = format!("{one} a=1 b,{quoted}");
    let output = run(&[
        "-kernel",
        kernel,
        "-append",
        "hello world",
        "-initrd",
        &modules,
        "-debugcon",
        "stdio",
        "-device",
        "isa-debug-exit,iobase=0xf4,iosize=4",
    ]);
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0x21), "{text}\n{errors}");
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    let expected = [
        "magic 2badb002".to_string(),
        "flags 0000024d".into(),
        "lower 0000027f".into(),
        "upper 0000fc00".into(),
        format!("line {kernel} hello world"),
        "loader trapeze".into(),
        format!("module {one} a=1 b size 00000009 at page 00000000 begins ONE!"),
        format!("module {two} size 00000004 at page 00000000 begins TWO!"),
        "map 0000000000000000 000000000009fc00 00000001".into(),
        "map 000000000009fc00 0000000000000400 00000002".into(),
        "map 00000000000e0000 0000000000020000 00000002".into(),
        "map 0000000000100000 0000000003f00000 00000001".into(),
    ];
    assert_eq!(lines[..expected.len()], expected, "{errors}");
    assert_eq!(lines[lines.len() - 2..], ["bss 00000000", "END"]);
}

#[test]
fn a_flat_kernel_with_address_fields() {
    boots(&file("kernel.bin", guest::MULTIBOOT));
}

#[test]
fn an_elf32_kernel_linked_high_and_loaded_low() {
    boots(&file("kernel.elf", &guest::multiboot_elf32()));
}

#[test]
fn bad_headers_are_named() {
    let patched = |name: &str, patches: &[(usize, u32)]| {
        let mut bytes = guest::MULTIBOOT.to_vec();
        for (at, value) in patches {
            bytes[*at..*at + 4].copy_from_slice(&value.to_le_bytes());
        }
        let flags = u32::from_le_bytes(bytes[4..8].try_into().unwrap());
        let sum = 0u32.wrapping_sub(0x1bad_b002u32.wrapping_add(flags));
        bytes[8..12].copy_from_slice(&sum.to_le_bytes());
        file(name, &bytes)
    };
    let refused = |kernel: &str, why: &str| {
        let output = run(&["-kernel", kernel]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(kernel) && text.contains(why), "{text}");
    };
    refused(&patched("unknown", &[(4, 0x1_0013)]), "features 0x10");
    refused(&patched("no-elf", &[(4, 3)]), "no ELF file");
    refused(&patched("backwards", &[(16, 0x20_0000)]), "contradict");
    refused(&patched("end", &[(20, 0x10)]), "contradict");
    refused(&patched("long", &[(20, 0x90_0000), (24, 0)]), "ends early");
    refused(&patched("bss", &[(24, 0x7000_0000)]), "outside the guest's");
    refused(&patched("entry", &[(28, 0x500)]), "entry 0x500");
    let mut wide = guest::multiboot_elf32();
    wide[4] = 2;
    refused(&file("wide", &wide), "32-bit ELF");
    let elf = guest::multiboot_elf32();
    refused(&file("short", &elf[..elf.len() / 2]), "truncated");
    let kernel = file("kernel.bin", guest::MULTIBOOT);
    let output = run(&["-kernel", &kernel, "-initrd", "/nonexistent/m x=1"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("module '/nonexistent/m'"), "{text}");
}
