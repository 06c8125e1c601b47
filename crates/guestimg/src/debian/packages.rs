//! The packages: fetched, and repacked so that the machine need not decompress.

use super::{ESSENTIAL, MORE, make_folder};
use crate::apt::{Apt, Package};
use crate::{Error, Flavour, Progress, Result};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Package files, by what is done with them.
pub(super) struct Packages {
    folder: PathBuf,
    /// What dpkg itself needs.
    essential: Vec<String>,
    rest: Vec<String>,
    pub(super) kernel: Package,
    pub(super) busybox: Package,
}

impl Packages {
    pub(super) fn fetch(apt: &Apt, work: &Path, progress: &mut Progress) -> Result<Self> {
        let folder = work.join("debs");
        make_folder(&folder)?;
        make_folder(&folder.join("partial"))?;
        progress.step("packages every Debian has");
        apt.download_all(&ESSENTIAL, &folder, progress)?;
        let essential = names(&folder)?;
        progress.step("packages systemd, openssh-server and others");
        let all = [&ESSENTIAL[..], &MORE].concat();
        apt.download_all(&all, &folder, progress)?;
        let mut rest = names(&folder)?;
        rest.retain(|name| !essential.contains(name));
        // These two are unpacked here, not installed there.
        let name = apt.resolve(Flavour::Cloud.meta_package())?;
        let kernel = keep(apt.download(&name, progress)?, work)?;
        let busybox = keep(apt.download("busybox-static", progress)?, work)?;
        Ok(Self {
            folder,
            essential,
            rest,
            kernel,
            busybox,
        })
    }

    /// Those that are installed.
    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.essential.iter().chain(&self.rest)
    }

    /// Fills `share/packages` and the lists beside it.
    pub(super) fn repack(&self, work: &Path, progress: &mut Progress) -> Result<()> {
        let share = work.join("share");
        let target = share.join("packages");
        make_folder(&target)?;
        let count = self.names().count();
        for (at, name) in self.names().enumerate() {
            let package = self.folder.join(name);
            repack(&package, &target.join(name))?;
            fs::remove_file(&package).map_err(Error::file(package))?;
            progress.percent((at * 100 / count) as u32);
        }
        for (file, list) in [("essential", &self.essential), ("rest", &self.rest)] {
            let path = share.join(file);
            fs::write(&path, list.join("\n") + "\n").map_err(Error::file(path))?;
        }
        Ok(())
    }
}

/// Moves a package out of apt's cache, where the next fetch would look at it.
fn keep(package: Package, work: &Path) -> Result<Package> {
    let file = work.join(format!("{}.deb", package.name));
    fs::copy(&package.file, &file).map_err(Error::file(&file))?;
    fs::remove_file(&package.file).map_err(Error::file(&package.file))?;
    Ok(Package { file, ..package })
}

/// The package files in a folder, in alphabetical order.
fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).map_err(Error::file(folder))?;
    let mut names: Vec<String> = entries
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".deb"))
        .collect();
    names.sort();
    Ok(names)
}

/// Writes `package` with uncompressed members (deb(5), ar(5)).
fn repack(package: &Path, target: &Path) -> Result<()> {
    let mut file = File::create(target).map_err(Error::file(target))?;
    let failed = || Error::file(target);
    file.write_all(b"!<arch>\n").map_err(failed())?;
    member(&mut file, "debian-binary", &mut &b"2.0\n"[..]).map_err(failed())?;
    for (name, option) in [
        ("control.tar", "--ctrl-tarfile"),
        ("data.tar", "--fsys-tarfile"),
    ] {
        tar_of(package, option, |tar| {
            member(&mut file, name, tar).map_err(failed())
        })?;
    }
    Ok(())
}

/// Lets `take` read what dpkg-deb makes of a package.
pub(super) fn tar_of(
    package: &Path,
    option: &str,
    take: impl FnOnce(&mut dyn Read) -> Result<()>,
) -> Result<()> {
    let mut child = Command::new("dpkg-deb")
        .arg(option)
        .arg(package)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|source| Error::NoProgram {
            program: "dpkg-deb",
            source,
        })?;
    let taken = child.stdout.take().map_or(Ok(()), |mut tar| take(&mut tar));
    let status = child.wait().map_err(Error::file(package))?;
    taken?;
    match status.success() {
        true => Ok(()),
        false => Err(Error::Tool {
            what: format!("dpkg-deb {option} {}", package.display()),
            why: status.to_string(),
        }),
    }
}

/// Appends a member; its size comes into the header when it is known.
fn member(file: &mut File, name: &str, content: &mut dyn Read) -> std::io::Result<()> {
    let start = file.stream_position()?;
    file.write_all(&[b' '; 60])?;
    let size = std::io::copy(content, file)?;
    if size % 2 == 1 {
        file.write_all(b"\n")?;
    }
    let end = file.stream_position()?;
    file.seek(SeekFrom::Start(start))?;
    writeln!(
        file,
        "{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`",
        0, 0, 0, 100644
    )?;
    file.seek(SeekFrom::Start(end))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// dpkg-deb judges what we write.
    #[test]
    fn a_repacked_package_is_the_same_to_dpkg() {
        let folder = std::env::temp_dir().join(format!("guestimg-repack-{}", std::process::id()));
        fs::create_dir_all(folder.join("tree/DEBIAN")).unwrap();
        let control =
            "Package: k\nVersion: 1\nArchitecture: all\nMaintainer: m <m@m>\nDescription: d\n";
        fs::write(folder.join("tree/DEBIAN/control"), control).unwrap();
        fs::write(folder.join("tree/file"), "odd").unwrap();
        let said = |option: &str, file: &Path| {
            let mut command = Command::new("dpkg-deb");
            let output = command.arg(option).arg(file).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            output.stdout
        };
        let (old, new) = (folder.join("old.deb"), folder.join("new.deb"));
        let mut build = Command::new("dpkg-deb");
        build.args(["--root-owner-group", "--build"]);
        let built = build.arg(folder.join("tree")).arg(&old).output().unwrap();
        assert!(built.status.success(), "{built:?}");
        repack(&old, &new).unwrap();
        for option in ["--fsys-tarfile", "--ctrl-tarfile", "--field", "--contents"] {
            assert!(said(option, &old) == said(option, &new), "{option}");
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}
