//! Machines and images with names: `trapeze run` and its neighbours.

pub(crate) mod images;
pub(crate) mod manage;
pub(crate) mod reach;
pub(crate) mod run;
mod show;
mod words;

use crate::near::did_you_mean;
use ::vms::{Vm, image, store};
use anyhow::{Context, Result, bail};
use clap::ArgMatches;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) use show::print;
pub(crate) use words::{flag, json, main, one, option};

/// How long a guest has until its ssh answers.
const BOOT: Duration = Duration::from_secs(300);

/// This program, which runs the machines.
fn program() -> Result<PathBuf> {
    std::env::current_exe().context("where this program is")
}

fn find(name: &str) -> Result<Vm> {
    let Some(vm) = store::find(name)? else {
        let all = store::list()?;
        let near = did_you_mean(name, all.iter().map(|vm| vm.name.as_str()));
        bail!("there is no machine '{name}'{near}; 'trapeze ls' lists them");
    };
    Ok(vm)
}

/// The machine that is named.
fn machine(matches: &ArgMatches) -> Result<Vm> {
    find(words::one(matches, "name"))
}

/// The same; it must run.
fn running(matches: &ArgMatches) -> Result<Vm> {
    let vm = machine(matches)?;
    if vm.pid().is_none() {
        bail!("{0} does not run; 'trapeze start {0}' starts it", vm.name);
    }
    Ok(vm)
}

/// Does it with each that is named, if all are there; what went wrong with one
/// keeps none of the others.
fn each<T>(
    matches: &ArgMatches,
    find: impl Fn(&str) -> Result<T>,
    mut act: impl FnMut(T) -> Result<()>,
) -> Result<u8> {
    let all = words::many(matches, "name").map(|n| find(n));
    let all = all.collect::<Result<Vec<T>>>()?;
    let mut code = 0;
    for one in all {
        if let Err(why) = act(one) {
            eprintln!("trapeze: {why:#}");
            code = 1;
        }
    }
    Ok(code)
}

fn no_image(name: &str) -> anyhow::Error {
    let all = image::list().unwrap_or_default();
    let names = all.iter().map(|i| i.name.as_str());
    let near = did_you_mean(name, names.chain(["debian"]));
    anyhow::anyhow!(
        "there is no image '{name}'{near}; 'trapeze image ls' lists them, 'trapeze image build \
         debian' makes one, 'trapeze image import' takes a disk"
    )
}
