//! The manual's pages, from the tables that the commands are read with.

use super::tree;
use crate::system;
use anyhow::{Context, Result};
use clap::{Arg, ArgMatches, Command, ValueHint};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use std::fs;
use std::path::Path;

pub(super) fn declare(command: Command) -> Command {
    let folder = Arg::new("folder").value_name("DIR").required(true);
    command
        .arg(
            folder
                .value_hint(ValueHint::DirPath)
                .help("made if it is not there"),
        )
        .after_help("Example:\n  trapeze man ~/.local/share/man/man1 && man trapeze")
}

pub(super) fn run(matches: &ArgMatches) -> Result<u8> {
    let folder = matches.get_one::<String>("folder").map_or("", |n| n);
    let folder = Path::new(folder);
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    for (name, text) in pages()? {
        let path = folder.join(format!("{name}.1"));
        fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    Ok(0)
}

/// Every page with its name.
fn pages() -> Result<Vec<(String, Vec<u8>)>> {
    let mut all = tree::all();
    all.build();
    let mut pages = Vec::new();
    collect(&all, "trapeze", &mut pages)?;
    Ok(pages)
}

/// The page of a command, and those of the commands below it.
fn collect(command: &Command, name: &str, pages: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    for below in command.get_subcommands() {
        collect(below, &format!("{name}-{}", below.get_name()), pages)?;
    }
    let mut text = Vec::new();
    match name {
        "trapeze-system" => system_page(&mut text)?,
        _ => usual_page(command, name, &mut text)?,
    }
    pages.push((name.to_string(), text));
    Ok(())
}

fn page(command: &Command, name: &str) -> Man {
    // clap_mangen makes references to pages below from this name.
    let display = name.to_string();
    Man::new(command.clone().display_name(display).version(None))
        .title(name.to_uppercase())
        .source(system::version())
        .manual("Trapeze")
}

fn usual_page(command: &Command, name: &str, text: &mut Vec<u8>) -> Result<()> {
    let man = page(command, name);
    man.render_title(text)?;
    man.render_name_section(text)?;
    man.render_synopsis_section(text)?;
    man.render_description_section(text)?;
    if command.get_arguments().next().is_some() {
        man.render_options_section(text)?;
    }
    if command.has_subcommands() {
        man.render_subcommands_section(text)?;
    }
    let mut roff = Roff::default();
    if let Some(more) = command.get_after_help() {
        let more = more.to_string();
        let (title, lines) = match more.split_once('\n') {
            Some(("Examples:" | "Example:", lines)) => ("EXAMPLES", lines.to_string()),
            _ => ("NOTES", more),
        };
        roff.control("SH", [title]);
        // Lines stay as they are.
        roff.control("nf", []);
        roff.text([roman(lines)]);
        roff.control("fi", []);
    }
    roff.to_writer(text)?;
    Ok(())
}

/// The options of `trapeze system` have a table of their own.
fn system_page(text: &mut Vec<u8>) -> Result<()> {
    let name = "trapeze-system";
    let command = Command::new(name).about("run a machine described by QEMU's options");
    let man = page(&command, name);
    man.render_title(text)?;
    man.render_name_section(text)?;
    let mut roff = Roff::default();
    // Options are long words, between which lines cannot be stretched.
    roff.control("ad", ["l"]);
    roff.control("SH", ["SYNOPSIS"]);
    roff.text([bold("trapeze system"), roman(" [OPTIONS] [DISK]")]);
    roff.control("SH", ["OPTIONS"]);
    entries(
        &mut roff,
        system::options().map(|(n, v, h)| (format!("-{n}"), v, h)),
    );
    roff.control("SH", ["ITEMS OF -d"]);
    entries(
        &mut roff,
        system::items_to_log().map(|(n, h)| (n.into(), "", h)),
    );
    roff.control("SH", ["SEE ALSO"]);
    roff.text([bold("trapeze"), roman("(1)")]);
    roff.to_writer(text)?;
    Ok(())
}

/// Name, value and meaning of each.
fn entries<'a>(roff: &mut Roff, all: impl Iterator<Item = (String, &'a str, &'a str)>) {
    for (name, value, help) in all {
        let value = match value {
            "" => String::new(),
            value => format!(" {value}"),
        };
        roff.control("TP", []);
        roff.text([bold(name), roman(value)]);
        roff.text([roman(help)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command as Process, Stdio};

    /// groff judges the pages, with all its warnings.
    #[test]
    fn the_formatter_has_nothing_to_complain_about() {
        let pages = pages().unwrap();
        assert!(pages.iter().any(|(name, _)| name == "trapeze-image-import"));
        for (name, text) in pages {
            let mut groff = Process::new("groff")
                .args(["-man", "-ww", "-z", "-Tutf8"])
                .stdin(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            groff.stdin.take().unwrap().write_all(&text).unwrap();
            let output = groff.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && said.is_empty(), "{name}: {said}");
        }
    }

    #[test]
    fn every_option_of_a_machine_has_its_entry() {
        let pages = pages().unwrap();
        let (_, text) = pages.iter().find(|(n, _)| n == "trapeze-system").unwrap();
        let text = String::from_utf8_lossy(text).replace("\\-", "-");
        for (name, value, _) in system::options() {
            let entry = format!("\n\\fB-{name}\\fR");
            assert!(text.contains(&entry), "{entry} {value}");
        }
    }
}
