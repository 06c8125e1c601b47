//! KVM's sums over all machines of the host, whoever runs them, in debugfs
//! (Linux, Documentation/virt/kvm/api.rst, 4.133, and `kvm_stat`).

use crate::{Sample, Source};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// The kernel's names that are others than the documents'.
const RENAMED: [(&str, &str); 3] = [
    ("irq_window_exits", "irq_window"),
    ("nmi_window_exits", "nmi_window"),
    ("request_irq_exits", "request_irq"),
];

/// A folder with a file for each counter.
pub struct Host(PathBuf);

impl Host {
    /// Where the kernel has it.
    pub fn new() -> Self {
        Self::at(Path::new("/sys/kernel/debug/kvm"))
    }

    fn at(folder: &Path) -> Self {
        Self(folder.to_path_buf())
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Source for Host {
    fn read(&mut self) -> Result<Sample> {
        let folder = fs::read_dir(&self.0).with_context(|| {
            format!(
                "{}: the host's counters need root, debugfs mounted, and KVM",
                self.0.display()
            )
        })?;
        let mut sample = Sample::new();
        sample
            .machines
            .push("all machines on KVM of this host".into());
        let counter = |entry: fs::DirEntry| {
            let text = fs::read_to_string(entry.path()).ok()?;
            let name = entry.file_name().into_string().ok()?;
            let ours = RENAMED.iter().find(|(theirs, _)| *theirs == name);
            let name = ours.map_or(name.clone(), |(_, ours)| ours.to_string());
            Some((name, text.trim().parse().ok()?))
        };
        sample.add(folder.flatten().filter_map(counter));
        Ok(sample)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_counters() {
        let folder = std::env::temp_dir().join(format!("trapeze-stat-{}", std::process::id()));
        fs::create_dir_all(folder.join("123-4")).unwrap();
        fs::write(folder.join("exits"), "17\n").unwrap();
        fs::write(folder.join("irq_window_exits"), "2\n").unwrap();
        fs::write(folder.join("text"), "no number\n").unwrap();
        let sample = Host::at(&folder).read().unwrap();
        fs::remove_dir_all(&folder).unwrap();
        let found: Vec<_> = sample.counters.into_iter().collect();
        assert_eq!(
            found,
            [("exits".to_string(), 17), ("irq_window".to_string(), 2)]
        );
        let why = Host::at(&folder).read().unwrap_err();
        assert!(format!("{why:#}").contains("debugfs mounted"));
    }
}
