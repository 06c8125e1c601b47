//! Runs the conformance suite of [`hv::conformance`] on a backend.
//!
//! One line per case and a summary; exit code 1 if a case failed.

use anyhow::{Context, Result, bail};
use conformance::report::Report;
use hv::Hypervisor;
use hv::conformance::{Case, cases};

const USAGE: &str = "\
usage: conformance [--backend NAME] [--stress HOW] [--filter TEXT] [--except NAMES] [--list]

  --backend NAME  which backend runs the cases (kvm, soft, interpreter or lockstep; default soft)
  --stress HOW    the software backends meet rare paths often: single, small-tlb, logged, forgetful,
                  small-cache, or several separated by commas
  --filter TEXT   only cases whose group::name contains TEXT
  --except NAMES  without these cases, group::name separated by commas
  --list          print the cases and their sources, run nothing";

/// The parsed command line.
struct Options {
    backend: String,
    stress: String,
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
        stress: String::new(),
        filter: String::new(),
        except: String::new(),
        list: false,
    };
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--backend" => options.backend = value()?,
            "--stress" => options.stress = value()?,
            "--filter" => options.filter = value()?,
            "--except" => options.except = value()?,
            "--list" => options.list = true,
            _ => bail!("unknown argument '{arg}'\n{USAGE}"),
        }
    }
    Ok(options)
}

/// A backend's name and how to get it.
type Backend = (
    &'static str,
    fn(engine::Options) -> hv::Result<Box<dyn Hypervisor>>,
);

/// Every backend this command can drive.
const BACKENDS: &[Backend] = &[
    ("kvm", |_| Ok(Box::new(kvm::Kvm::new()?))),
    ("soft", |o| Ok(Box::new(engine::Soft::with_options(o)))),
    ("interpreter", |mut o| {
        o.translate = false;
        Ok(Box::new(engine::Soft::with_options(o)))
    }),
    // Compares each block with the interpreter.
    ("lockstep", |mut o| {
        o.lockstep = true;
        Ok(Box::new(engine::Soft::with_options(o)))
    }),
];

fn backend(name: &str, stress: &str) -> Result<Box<dyn Hypervisor>> {
    let Some((_, open)) = BACKENDS.iter().find(|(known, _)| *known == name) else {
        let names: Vec<_> = BACKENDS.iter().map(|(name, _)| *name).collect();
        bail!("no backend '{name}', there are: {}", names.join(", "));
    };
    let engine = engine::Options::default();
    let engine = engine.strained(stress).map_err(anyhow::Error::msg)?;
    open(engine).with_context(|| format!("backend '{name}'"))
}

fn main() -> Result<std::process::ExitCode> {
    let options = parse(std::env::args().skip(1))?;
    if options.list {
        for case in options.selected() {
            println!("{}::{}  [{}]", case.group, case.name, case.manual);
        }
        return Ok(std::process::ExitCode::SUCCESS);
    }
    let hv = backend(&options.backend, &options.stress)?;
    let mut report = Report::default();
    for case in options.selected() {
        report.add(case, (case.run)(hv.as_ref()));
    }
    Ok(report.finish())
}
