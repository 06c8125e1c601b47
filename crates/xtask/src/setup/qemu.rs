//! A QEMU that is new enough, also where the release's own is not.

use super::apt_get;
use crate::paths;
use anyhow::{Context, Result, bail};
use std::process::Command;

pub(super) const PROGRAM: &str = "qemu-system-x86_64";
pub(super) const PACKAGE: &str = "qemu-system-x86";
/// The oldest major version whose emulated processor is the one that the
/// nested suite's table of differences describes.
pub(super) const MAJOR: u32 = 10;
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// An error if QEMU is too old for the nested tests, or not there.
pub(crate) fn check_version() -> Result<()> {
    let text = said(PROGRAM, &["-version"]).context("how old QEMU is")?;
    let found = version(&text).unwrap_or("of an unknown version");
    match major(found) {
        Some(MAJOR..) => Ok(()),
        _ => bail!("QEMU {found} is too old for the nested tests, which need {MAJOR} or newer"),
    }
}

/// Options with which apt-get finds a QEMU of [`MAJOR`]: the release's own, the
/// backports if they are configured, else the backports of the mirror that the
/// release comes from, for this time only.
pub(super) fn source() -> Result<Vec<String>> {
    let policy = said("apt-cache", &["policy", PACKAGE])?;
    if candidate(&policy).and_then(major) >= Some(MAJOR) {
        return Ok(Vec::new());
    }
    let targets = said(
        "apt-get",
        &[
            "indextargets",
            "--format",
            "$(REPO_URI) $(RELEASE) $(COMPONENT)",
            "Created-By: Packages",
        ],
    )?;
    let release = said(
        "sh",
        &["-c", ". /etc/os-release; echo $ID-$VERSION_CODENAME"],
    )?;
    let Some(codename) = release.trim().strip_prefix("debian-") else {
        bail!("the package sources have no QEMU {MAJOR}; please install one");
    };
    let suite = format!("{codename}-backports");
    let mut options = vec!["-t".to_string(), suite.clone()];
    if mirror_of(&targets, &suite).is_none() {
        let mirror = mirror_of(&targets, codename)
            .with_context(|| format!("the package sources have no {codename}"))?;
        options.extend(temporary(mirror, &suite)?);
    }
    Ok(options)
}

/// Writes a list of sources with `suite` in it and fetches its index; the
/// options that name it.
fn temporary(mirror: &str, suite: &str) -> Result<[String; 2]> {
    // The file takes the place of sources.list; sources.list.d stays.
    let mut text = std::fs::read_to_string("/etc/apt/sources.list").unwrap_or_default();
    text.push_str(&format!(
        "\ndeb [signed-by={KEYRING}] {mirror} {suite} main\n"
    ));
    let path = paths::target()?.join("sources-with-backports.list");
    std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    let option = format!("Dir::Etc::sourcelist={}", path.display());
    apt_get(&["update", "-q", "-o", &option])?;
    Ok(["-o".to_string(), option])
}

fn said(program: &str, words: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(words)
        .env("LC_ALL", "C")
        .output()
        .with_context(|| program.to_string())?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The version in the first line of `qemu-system-x86_64 -version`.
fn version(text: &str) -> Option<&str> {
    let rest = text
        .lines()
        .next()?
        .strip_prefix("QEMU emulator version ")?;
    rest.split_whitespace().next()
}

/// The candidate's version in `apt-cache policy`.
fn candidate(policy: &str) -> Option<&str> {
    let lines = policy.lines().map(str::trim);
    lines.filter_map(|l| l.strip_prefix("Candidate: ")).next()
}

/// Of a version with or without an epoch.
fn major(version: &str) -> Option<u32> {
    let upstream = version.split_once(':').map_or(version, |(_, rest)| rest);
    upstream.split(['.', '+', '-', '~']).next()?.parse().ok()
}

/// Where the main component of `release` comes from, in lines of
/// `URI release component`.
fn mirror_of<'a>(targets: &'a str, release: &str) -> Option<&'a str> {
    targets.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [uri, r, "main"] if r == release => Some(uri),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        let text = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright";
        assert_eq!(version(text), Some("7.2.22"));
        assert_eq!(version("bash: no such"), None);
        for (text, want) in [
            ("7.2.22", Some(7)),
            ("1:10.0.2+ds-2+deb13u1~bpo12+1", Some(10)),
            ("(none)", None),
        ] {
            assert_eq!(major(text), want, "{text}");
        }
    }

    #[test]
    fn the_candidate_and_its_mirror_are_found() {
        let policy = "qemu-system-x86:\n  Installed: (none)\n  Candidate: 1:7.2+dfsg-7\n";
        assert_eq!(candidate(policy), Some("1:7.2+dfsg-7"));
        let targets = "http://m/debian-security/ bookworm-security main\n\
                       http://m/debian/ bookworm contrib\nhttp://m/debian/ bookworm main\n";
        assert_eq!(mirror_of(targets, "bookworm"), Some("http://m/debian/"));
        assert_eq!(mirror_of(targets, "bookworm-backports"), None);
    }
}
