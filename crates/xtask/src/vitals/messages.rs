//! What the kernel warns of here and not under QEMU's TCG. Each such line is a
//! fault of our machine, or stands in [`KNOWN`] with the reason why not.

use super::{Machine, PATIENCE, PROMPT, QEMU, guest, kernel_log, power_off};
use crate::expect::Session;
use crate::paths::installed;
use anyhow::{Context, Result, bail};
use guestimg::Flavour;
use std::collections::BTreeSet;

/// A message that is no fault of ours.
struct Known {
    /// Its beginning, numbers replaced as by [`plain`].
    text: &'static str,
    why: &'static str,
}

const KNOWN: [Known; 0] = [];

/// KERN_WARNING (Linux, include/linux/kern_levels.h): this and below is worse.
const WARNING: u32 = 4;

/// Boots each kernel here and under TCG and compares.
pub(super) fn check(accel: &str) -> Result<String> {
    if !installed(QEMU) {
        bail!("{QEMU} is not installed; 'cargo xtask setup' does it");
    }
    let (mut shared, mut known) = (0, 0);
    for flavour in Flavour::ALL {
        let ours = warnings(Machine::Trapeze(accel), flavour).context(flavour.name())?;
        let theirs = warnings(Machine::Tcg, flavour).context(flavour.name())?;
        let (listed, new) = judge(&ours, &theirs);
        if !new.is_empty() {
            bail!(
                "the {} kernel warns here and not under TCG:\n{}",
                flavour.name(),
                new.join("\n")
            );
        }
        shared += ours.len() - listed.len();
        known += listed.len();
        for (text, why) in listed {
            println!("{}: '{text}': {why}", flavour.name());
        }
    }
    Ok(format!(
        "{shared} warnings as under TCG, {known} known, 0 others"
    ))
}

/// Of our warnings those that only we have: (known ones with the reason, new
/// ones).
fn judge<'a>(
    ours: &'a BTreeSet<String>,
    theirs: &'a BTreeSet<String>,
) -> (Vec<(&'a str, &'static str)>, Vec<&'a str>) {
    let (mut listed, mut new) = (Vec::new(), Vec::new());
    for text in ours.difference(theirs) {
        match KNOWN.iter().find(|k| text.starts_with(k.text)) {
            Some(known) => listed.push((text.as_str(), known.why)),
            None => new.push(text.as_str()),
        }
    }
    (listed, new)
}

fn warnings(machine: Machine<'_>, flavour: Flavour) -> Result<BTreeSet<String>> {
    let mut session = Session::start(&mut guest(machine, flavour)?)?;
    session.expect(PROMPT, PATIENCE * 2)?;
    let log = kernel_log(&mut session)?;
    power_off(&mut session)?;
    let all: Vec<(u32, String)> = log.lines().filter_map(message).collect();
    if all.len() < 100 {
        bail!("only {} messages in the kernel's log", all.len());
    }
    let worse = all.into_iter().filter(|(level, _)| *level <= WARNING);
    Ok(worse.map(|(_, text)| text).collect())
}

/// Level and text of a line of `dmesg -r`, `<level>[time] text`.
fn message(line: &str) -> Option<(u32, String)> {
    let (prefix, rest) = line.trim_end().strip_prefix('<')?.split_once('>')?;
    let text = rest.strip_prefix('[')?.split_once("] ")?.1;
    // The facility is in the higher bits.
    Some((prefix.parse::<u32>().ok()? & 7, plain(text)))
}

/// The text with every number, decimal or not, as `#`.
fn plain(text: &str) -> String {
    let mut result = String::new();
    let mut number = false;
    let mut before = ' ';
    for c in text.chars() {
        let starts = c.is_ascii_digit() && !before.is_ascii_alphanumeric();
        number = starts || number && (c.is_ascii_hexdigit() || c == 'x');
        match (number, starts) {
            (true, true) => result.push('#'),
            (true, false) => {}
            (false, _) => result.push(c),
        }
        before = c;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_apart() {
        let line = "<4>[    0.332459] acpi PNP0A03:00: window [mem 0x40000000-0x7f] at 12 ms\r";
        let text = "acpi PNP0A03:#: window [mem #-#] at # ms";
        assert_eq!(message(line), Some((4, text.into())));
        assert_eq!(
            message("<30>[    1.0] init: x"),
            Some((6, "init: x".into()))
        );
        assert_eq!(message("root@trapeze:~# dmesg -r"), None);
        assert_eq!(plain("v5 9p 0xff1 abc"), "v5 #p # abc");
    }

    #[test]
    fn only_what_tcg_does_not_say_counts() {
        let set = |texts: &[&str]| texts.iter().map(|t| t.to_string()).collect();
        let theirs = set(&["a", "b"]);
        assert_eq!(judge(&set(&["a"]), &theirs), (vec![], vec![]));
        assert_eq!(judge(&set(&["a", "c"]), &theirs), (vec![], vec!["c"]));
    }

    #[test]
    fn every_known_message_has_a_reason() {
        for known in &KNOWN {
            assert!(!known.text.is_empty() && !known.why.is_empty());
        }
    }
}
