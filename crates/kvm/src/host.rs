//! What of this host decides whether there can be a KVM.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The processor's and the kernel's part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// `GenuineIntel`, `AuthenticAMD`, ...
    pub vendor: String,
    /// Its name for people.
    pub model: String,
    /// `vmx` or `svm`, if the processor shows one.
    pub extension: Option<&'static str>,
    /// It is itself a virtual machine.
    pub guest: bool,
    /// A module for the extension is in the kernel.
    pub module: bool,
}

impl Host {
    /// This one.
    pub fn this() -> Self {
        let modules = ["kvm_intel", "kvm_amd"];
        let there = |m: &&str| Path::new("/sys/module").join(m).exists();
        Self {
            module: modules.iter().any(there),
            ..Self::parse(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default())
        }
    }

    /// From the text of `/proc/cpuinfo`.
    fn parse(text: &str) -> Self {
        let field = |name: &str| {
            let line = text.lines().find(|l| l.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_string())
        };
        let flags = field("flags").unwrap_or_default();
        let has = |flag: &str| flags.split_whitespace().any(|f| f == flag);
        Self {
            vendor: field("vendor_id").unwrap_or_default(),
            model: field("model name").unwrap_or_default(),
            extension: ["vmx", "svm"].into_iter().find(|f| has(f)),
            guest: has("hypervisor"),
            module: false,
        }
    }

    /// Why there is no device, and what would help.
    pub(crate) fn why_absent(&self) -> String {
        match (self.extension, self.module) {
            (None, _) if self.guest => "this host is itself a virtual machine whose processor \
                has no vmx or svm: nested virtualization would have to be switched on outside"
                .into(),
            (None, _) => "the processor shows no vmx or svm: virtualization may be switched \
                off in the firmware's setup (BIOS, 'Intel VT-x' or 'SVM mode')"
                .into(),
            (Some(_), true) => "the kernel has KVM, so the device is missing here only: a \
                container needs it given ('--device /dev/kvm')"
                .into(),
            (Some(flag), false) => {
                let module = if flag == "vmx" {
                    "kvm_intel"
                } else {
                    "kvm_amd"
                };
                format!(
                    "the module is not loaded: 'modprobe {module}' as root; if that fails, \
                     virtualization is switched off in the firmware's setup (BIOS)"
                )
            }
        }
    }
}

/// Why the device at `path` does not open for this user, and what would help.
pub(crate) fn why_denied(path: &Path) -> String {
    let Ok(about) = fs::metadata(path) else {
        return "its folder cannot be read".into();
    };
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    match group_name(&groups, about.gid()) {
        Some(group) if group != "root" => format!(
            "it belongs to the group '{group}': 'sudo usermod -aG {group} $USER', then log in again"
        ),
        _ => format!(
            "it belongs to user {} and group {} with mode {:o}: root can give it to a group \
             ('chgrp kvm {path}; chmod 660 {path}')",
            about.uid(),
            about.gid(),
            about.mode() & 0o777,
            path = path.display()
        ),
    }
}

/// Name of a group in the text of `/etc/group`.
fn group_name(text: &str, gid: u32) -> Option<&str> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(gid)).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let table = [
            ("flags\t: fpu hypervisor", false, "nested virtualization"),
            ("flags\t: fpu", false, "BIOS"),
            ("flags\t: fpu vmx", false, "modprobe kvm_intel"),
            ("flags\t: fpu svm hypervisor", false, "modprobe kvm_amd"),
            ("flags\t: fpu svm", true, "--device /dev/kvm"),
        ];
        for (text, module, want) in table {
            let host = Host {
                module,
                ..Host::parse(text)
            };
            assert!(host.why_absent().contains(want), "{text}: {host:?}");
        }
    }

    #[test]
    fn processors_are_read() {
        let text = "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: A, B @ C\n";
        let host = Host::parse(text);
        assert_eq!((&*host.vendor, &*host.model), ("AuthenticAMD", "A, B @ C"));
        assert_eq!(host.extension, None);
    }

    #[test]
    fn groups_have_names() {
        let text = "root:x:0:\nkvm:x:104:me,you\n";
        assert_eq!(group_name(text, 104), Some("kvm"));
        assert_eq!(group_name(text, 1), None);
    }
}
