//! Every input of the corpus runs; inputs that once failed are among them.

use std::path::{Path, PathBuf};

fn inputs(name: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(name);
    let entries = std::fs::read_dir(&folder);
    let entries = entries.unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    files.sort();
    files
}

/// Runs a target's whole corpus; the failing file is the last one named.
fn check(name: &str) {
    let target = fuzz::by_name(name).unwrap();
    let files = inputs(name);
    assert!(files.len() >= 3, "{name}: {} inputs", files.len());
    for file in files {
        println!("{}", file.display());
        let data = std::fs::read(&file).unwrap();
        (target.run)(&data[..data.len().min(target.max_len)]);
    }
}

macro_rules! corpora {
    ($($name:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            check(&stringify!($name).replace('_', "-"));
        })*
        /// The tests of this file, one a target.
        const TESTED: &[&str] = &[$(stringify!($name)),*];
    };
}

corpora! {
    insn, vcpu, lockstep, translate, qmp, hmp, gdb, walk, boot, uart, rtc, i8042, acpi_pm, ports, fw_cfg, testdevs, pci, virtio, irqchip, disk, saved, options, tar, user_net,
}

#[test]
fn every_target_has_a_test_and_every_corpus_a_target() {
    let mut names: Vec<String> = fuzz::TARGETS
        .iter()
        .map(|t| t.name.replace('-', "_"))
        .collect();
    assert_eq!(names, TESTED);
    names.sort();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let entries = std::fs::read_dir(folder).unwrap();
    let name = |e: std::fs::DirEntry| e.file_name().to_string_lossy().replace('-', "_");
    let mut folders: Vec<String> = entries.map(|e| name(e.unwrap())).collect();
    folders.sort();
    assert_eq!(names, folders);
}
