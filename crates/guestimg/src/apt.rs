//! `apt-get` with everything it writes in a private folder.

use crate::follow::run;
use crate::{Error, Progress, Result};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A private apt for one architecture.
pub(crate) struct Apt {
    root: PathBuf,
    architecture: &'static str,
    /// What the last update complained about.
    complaint: String,
}

/// A package that was fetched.
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) file: PathBuf,
}

impl Apt {
    pub(crate) fn new(root: PathBuf, architecture: &'static str) -> Result<Self> {
        for folder in ["lists/partial", "archives/partial", "log", "state"] {
            let path = root.join(folder);
            std::fs::create_dir_all(&path).map_err(Error::file(path))?;
        }
        let apt = Self {
            root,
            architecture,
            complaint: String::new(),
        };
        apt.write("status", "")?;
        apt.write("apt.conf", &apt.configuration())?;
        Ok(apt)
    }

    /// Sources, keyrings and proxies stay the system's; what apt writes and
    /// what it runs afterwards does not. Insecure sources are refused.
    fn configuration(&self) -> String {
        let root = self.root.display();
        let architecture = self.architecture;
        format!(
            r#"#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
#clear APT::Architectures;
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Sandbox::User "";
APT::Get::AllowUnauthenticated "false";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
Acquire::Languages "none";
Acquire::Retries "1";
Acquire::http::Timeout "10";
Acquire::https::Timeout "10";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::DEP-11-icons::DefaultEnabled "false";
Acquire::IndexTargets::deb::DEP-11-icons-small::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
Dir::State "{root}/state";
Dir::State::status "{root}/status";
Dir::State::lists "{root}/lists";
Dir::Cache "{root}";
Dir::Cache::archives "{root}/archives";
Dir::Log "{root}/log";
"#
        )
    }

    fn write(&self, name: &str, content: &str) -> Result<()> {
        let path = self.root.join(name);
        std::fs::write(&path, content).map_err(Error::file(path))
    }

    fn command(&self, program: &'static str) -> Command {
        let mut command = Command::new(program);
        command
            .arg("-c")
            .arg(self.root.join("apt.conf"))
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        command
    }

    /// Fetches the lists. Sources that fail are remembered, not fatal: the
    /// packages may come from the others.
    pub(crate) fn update(&mut self, progress: &mut Progress) -> Result<()> {
        progress.step(format!("package lists ({})", self.architecture));
        let mut command = self.command("apt-get");
        command.args(["-q", "-o", "APT::Status-Fd=1", "update"]);
        self.complaint = run(command, "apt-get", progress)?.complaint;
        Ok(())
    }

    /// The package that the meta package `name` stands for.
    pub(crate) fn resolve(&self, name: &str) -> Result<String> {
        let output = self
            .command("apt-cache")
            .args(["depends", "--important", name])
            .output()
            .map_err(|source| Error::NoProgram {
                program: "apt-cache",
                source,
            })?;
        let text = String::from_utf8_lossy(&output.stdout);
        kernel_of(&text).ok_or_else(|| self.no_package(name))
    }

    /// Downloads and verifies one package.
    pub(crate) fn download(&self, name: &str, progress: &mut Progress) -> Result<Package> {
        let folder = self.root.join("archives");
        remove_packages(&folder, name)?;
        progress.step(format!("package {name}"));
        let mut command = self.command("apt-get");
        command
            .args(["-q", "-o", "APT::Status-Fd=1", "download", name])
            .current_dir(&folder);
        let end = run(command, "apt-get", progress)?;
        let unknown = end.complaint.is_empty() || end.complaint.contains("Unable to locate");
        if !end.good && unknown {
            return Err(self.no_package(name));
        }
        if !end.good {
            return Err(Error::Tool {
                what: format!("apt-get download {name}"),
                why: end.complaint,
            });
        }
        let file = packages(&folder, name)?.pop();
        let file = file.ok_or_else(|| self.no_package(name))?;
        Ok(Package {
            name: name.to_string(),
            version: version_of(&file),
            file,
        })
    }

    /// Downloads and verifies packages with all that they depend on into
    /// `folder`; names may be patterns of apt's.
    pub(crate) fn download_all(
        &self,
        names: &[&str],
        folder: &Path,
        progress: &mut Progress,
    ) -> Result<()> {
        let mut command = self.command("apt-get");
        command
            .arg("-o")
            .arg(format!("Dir::Cache::archives={}", folder.display()))
            .args(["-q", "-y", "-o", "APT::Status-Fd=1"])
            .args(["--no-install-recommends", "--download-only", "install"])
            .args(names);
        let end = run(command, "apt-get", progress)?;
        if end.good {
            return Ok(());
        }
        match end.complaint.as_str() {
            "" => Err(self.no_package(&names.join(" "))),
            complaint => Err(Error::Tool {
                what: "apt-get install --download-only".into(),
                why: complaint.to_string(),
            }),
        }
    }

    fn no_package(&self, name: &str) -> Error {
        let why = match self.complaint.as_str() {
            "" => String::new(),
            complaint => format!(": {complaint}"),
        };
        Error::NoPackage {
            package: name.to_string(),
            why,
        }
    }
}

/// The kernel image among the lines of `apt-cache depends`.
fn kernel_of(depends: &str) -> Option<String> {
    depends.lines().find_map(|line| {
        let name = line.trim().strip_prefix("Depends: ")?;
        name.starts_with("linux-image-").then(|| name.to_string())
    })
}

/// The version in a package's file name, `name_version_arch.deb`, where apt
/// writes the epoch's colon as `%3a`.
fn version_of(file: &Path) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let version = name.split('_').nth(1).unwrap_or_default();
    version.replace("%3a", ":")
}

fn packages(folder: &Path, name: &str) -> Result<Vec<PathBuf>> {
    let prefix = format!("{name}_");
    let entries = std::fs::read_dir(folder).map_err(Error::file(folder))?;
    Ok(entries
        .filter_map(|e| e.ok())
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|e| e == "deb"))
        .filter(|p| {
            p.file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with(&prefix))
        })
        .collect())
}

fn remove_packages(folder: &Path, name: &str) -> Result<()> {
    for path in packages(folder, name)? {
        std::fs::remove_file(&path).map_err(Error::file(path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_meta_package_resolves_to_its_image() {
        let text = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-9-cloud-amd64\n";
        assert_eq!(
            kernel_of(text).as_deref(),
            Some("linux-image-6.1.0-9-cloud-amd64")
        );
        assert_eq!(kernel_of("N: Unable to locate package\n"), None);
    }

    #[test]
    fn versions_come_from_file_names() {
        let file = Path::new("/x/busybox-static_1%3a1.35.0-4+b3_amd64.deb");
        assert_eq!(version_of(file), "1:1.35.0-4+b3");
    }
}
