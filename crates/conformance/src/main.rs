//! Runs the conformance suite of [`hv::conformance`] on a backend.
//!
//! One line per case and a summary; exit code 1 if a case failed.

use anyhow::{Context, Result, bail};
use conformance::report::Report;
use hv::Hypervisor;
use hv::conformance::{Case, cases};

const USAGE: &str = "\
usage: conformance [--backend NAME] [--filter TEXT] [--except NAMES] [--list]

  --backend NAME  which backend runs the cases (kvm, soft, interpreter or lockstep; default soft)
  --filter TEXT   only cases whose group::name contains TEXT
  --except NAMES  without these cases, group::name separated by commas
  --list          print the cases and their sources, run nothing";

/// The parsed command line.
struct Options {
    backend: String,
    filter: String,
    except: String,
    list: bool,
}

impl Options {
    fn selected(&self) -> impl Iterator<Item = &'static Case> {
        cases().filter(|case| {
            let name = format!("{}::{}", case.group, case.name);
            name.contains(&self.filter) && self.except.split(',').all(|e| e != name)
        })
    }
}

fn parse(args: impl IntoIterator<Item = String>) -> Result<Options> {
    let mut options = Options {
        backend: "soft".to_owned(),
        filter: String::new(),
        except: String::new(),
        list: false,
    };
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--backend" => options.backend = value()?,
            "--filter" => options.filter = value()?,
            "--except" => options.except = value()?,
            "--list" => options.list = true,
            _ => bail!("unknown argument '{arg}'\n{USAGE}"),
        }
    }
    Ok(options)
}

/// A backend's name and how to get it.
type Backend = (&'static str, fn() -> hv::Result<Box<dyn Hypervisor>>);

/// Every backend this command can drive.
const BACKENDS: &[Backend] = &[
    ("kvm", || Ok(Box::new(kvm::Kvm::new()?))),
    ("soft", || Ok(Box::new(engine::Soft::new()))),
    ("interpreter", || Ok(Box::new(interpreter()))),
    ("lockstep", || Ok(Box::new(lockstep()))),
];

/// The software backend without translation.
fn interpreter() -> engine::Soft {
    engine::Soft::with_options(engine::Options {
        translate: false,
        ..engine::Options::default()
    })
}

/// The software backend that compares each block with the interpreter.
fn lockstep() -> engine::Soft {
    engine::Soft::with_options(engine::Options {
        lockstep: true,
        ..engine::Options::default()
    })
}

fn backend(name: &str) -> Result<Box<dyn Hypervisor>> {
    let Some((_, open)) = BACKENDS.iter().find(|(known, _)| *known == name) else {
        let names: Vec<_> = BACKENDS.iter().map(|(name, _)| *name).collect();
        bail!("no backend '{name}', there are: {}", names.join(", "));
    };
    open().with_context(|| format!("backend '{name}'"))
}

fn main() -> Result<std::process::ExitCode> {
    let options = parse(std::env::args().skip(1))?;
    if options.list {
        for case in options.selected() {
            println!("{}::{}  [{}]", case.group, case.name, case.manual);
        }
        return Ok(std::process::ExitCode::SUCCESS);
    }
    let hv = backend(&options.backend)?;
    let mut report = Report::default();
    for case in options.selected() {
        report.add(case, (case.run)(hv.as_ref()));
    }
    Ok(report.finish())
}
