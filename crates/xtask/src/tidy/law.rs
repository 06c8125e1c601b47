//! Which crate may depend on which: a folder is a layer.

use super::Source;

/// (crate, what it may depend on). Tests may use more: only `[dependencies]`
/// and `[build-dependencies]` count.
const LAW: [(&str, &[&str]); 26] = [
    ("x86", &[]),
    ("hv", &["x86"]),
    ("irqchip", &["x86"]),
    ("isa", &["x86"]),
    ("jit", &["x86", "isa"]),
    ("softmmu", &["x86"]),
    ("engine", &["x86", "hv", "isa", "jit", "softmmu", "irqchip"]),
    ("kvm", &["x86", "hv"]),
    ("state", &[]),
    ("devices", &["x86", "state"]),
    ("disk", &[]),
    ("net", &[]),
    ("virtio", &["devices", "disk", "net", "state"]),
    (
        "machine",
        &["x86", "hv", "devices", "virtio", "disk", "net", "state"],
    ),
    ("monitor", &["x86", "hv", "machine"]),
    ("gdb", &["hv", "machine"]),
    ("guest", &[]),
    ("cpubench", &[]),
    ("guestimg", &[]),
    ("vms", &[]),
    ("stat", &["vms"]),
    (
        "trapeze",
        &[
            "hv", "engine", "kvm", "machine", "monitor", "gdb", "virtio", "disk", "net",
            "guestimg", "guest", "vms", "stat",
        ],
    ),
    ("conformance", &["x86", "hv", "engine", "kvm"]),
    ("difftest", &["x86", "hv", "isa", "jit", "engine"]),
    (
        "fuzz",
        &[
            "x86", "hv", "irqchip", "isa", "jit", "softmmu", "engine", "devices", "disk", "net",
            "virtio", "machine", "monitor", "gdb", "guest", "guestimg", "trapeze", "state",
        ],
    ),
    ("xtask", &["guestimg"]),
];

pub(super) fn check(sources: &[Source]) -> Vec<String> {
    let manifests = sources.iter().filter(|s| s.path.ends_with("/Cargo.toml"));
    manifests
        .flat_map(|s| violations(&s.path, &s.text))
        .collect()
}

fn violations(path: &str, text: &str) -> Vec<String> {
    let name = path.split('/').nth(1).unwrap_or_default();
    let Some((_, allowed)) = LAW.iter().find(|(n, _)| *n == name) else {
        return vec![format!("{name} has no row in the law")];
    };
    let ours = |d: &&str| LAW.iter().any(|(n, _)| n == d);
    dependencies(text)
        .filter(ours)
        .filter(|d| !allowed.contains(d))
        .map(|d| format!("{name} must not depend on {d}"))
        .collect()
}

fn dependencies(text: &str) -> impl Iterator<Item = &str> {
    let mut counts = false;
    text.lines().filter_map(move |line| {
        if line.starts_with('[') {
            counts = matches!(line.trim(), "[dependencies]" | "[build-dependencies]");
        }
        let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
        (counts && !name.is_empty() && !line.starts_with(['[', '#'])).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forbidden_dependency_is_found_and_a_test_one_is_not() {
        let manifest = "[package]\nname = \"devices\"\n[dependencies]\nx86.workspace = true\n\
            kvm = { path = \"../kvm\" }\nlog = \"1\"\n[dev-dependencies]\nengine.workspace = true\n";
        assert_eq!(
            violations("crates/devices/Cargo.toml", manifest),
            ["devices must not depend on kvm"]
        );
        assert_eq!(
            violations("crates/new/Cargo.toml", ""),
            ["new has no row in the law"]
        );
    }
}
