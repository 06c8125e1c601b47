//! `trapeze ls`, `start`, `stop`, `rm`.

use super::words::{flag, json, option, vms};
use super::{BOOT, each, find, program, run, show};
use ::vms::start::{self, Ended};
use ::vms::{Vm, image, ssh, store};
use anyhow::{Context, Result};
use clap::{ArgMatches, Command, value_parser};
use serde_json::Value;
use std::time::{Duration, Instant};

pub(crate) fn declare_ls(command: Command) -> Command {
    command.arg(json())
}

pub(crate) fn ls(matches: &ArgMatches) -> Result<u8> {
    let all = store::list()?;
    if matches.get_flag("json") {
        show::json(&all.iter().map(described).collect::<Value>())?;
        return Ok(0);
    }
    let head = [
        "NAME",
        "STATE",
        "IMAGE",
        "CPUS",
        "MEMORY",
        "SSH",
        "PUBLISHED",
    ];
    let row = |vm: &Vm| {
        let c = &vm.config;
        vec![
            vm.name.clone(),
            vm.state().name().into(),
            c.image.clone(),
            c.cpus.to_string(),
            c.memory.clone(),
            format!("127.0.0.1:{}", c.ssh_port),
            c.publish.join(" ").replace("-:", "->"),
        ]
    };
    let rows = std::iter::once(head.map(String::from).to_vec()).chain(all.iter().map(row));
    show::table(&rows.collect::<Vec<_>>())?;
    Ok(0)
}

fn described(vm: &Vm) -> Value {
    let c = &vm.config;
    let share = |(folder, tag): &(std::path::PathBuf, String)| serde_json::json!({"folder": folder.to_string_lossy(), "tag": tag});
    serde_json::json!({
        "name": vm.name,
        "state": vm.state().name(),
        "pid": vm.pid(),
        "image": c.image,
        "cpus": c.cpus,
        "memory": c.memory,
        "ssh_port": c.ssh_port,
        "publish": c.publish.iter().map(|p| p.replace("-:", ":")).collect::<Vec<_>>(),
        "shares": c.shares.iter().map(share).collect::<Vec<_>>(),
        "options": c.options,
        "folder": vm.folder.to_string_lossy(),
    })
}

pub(crate) fn declare_start(command: Command) -> Command {
    command
        .arg(vms())
        .arg(flag("no-wait", "do not wait until ssh answers"))
}

pub(crate) fn start(matches: &ArgMatches) -> Result<u8> {
    each(matches, find, |mut vm| {
        let begin = Instant::now();
        let image = image::find(&vm.config.image)?;
        let image = image.with_context(|| format!("the image '{}' is gone", vm.config.image))?;
        let port = vm.config.ssh_port;
        if vm.pid().is_none() {
            wait_for_ports(&vm);
            run::check_published(&vm)?;
        }
        start::start(&mut vm, &image, &program()?)?;
        if vm.config.ssh_port != port {
            eprintln!(
                "trapeze: somebody has port {port}; ssh of {} moved",
                vm.name
            );
        }
        if image.about.seeded && !matches.get_flag("no-wait") {
            ssh::wait(&vm, BOOT)?;
        }
        let seconds = begin.elapsed().as_secs_f32();
        let ssh = run::way_in(&vm, &image)?;
        eprintln!("trapeze: {} runs after {seconds:.1} s; {ssh}", vm.name);
        Ok(())
    })
}

/// A machine that powered off a moment ago may still have them.
fn wait_for_ports(vm: &Vm) {
    let begin = Instant::now();
    let free = || ssh::is_free(vm.config.ssh_port) && run::check_published(vm).is_ok();
    while !free() && begin.elapsed() < Duration::from_secs(1) {
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn declare_stop(command: Command) -> Command {
    let time = option(
        "time",
        "SECONDS",
        "how long the guest has; with 0 it is not asked",
    );
    let time = time.default_value("60").value_parser(value_parser!(u64));
    command.arg(vms()).arg(time)
}

pub(crate) fn stop(matches: &ArgMatches) -> Result<u8> {
    let seconds = matches.get_one::<u64>("time").copied().unwrap_or(60);
    each(matches, find, |vm| {
        let ended = start::stop(&vm, Duration::from_secs(seconds))?;
        if ended == Ended::CutOff && seconds > 0 {
            eprintln!(
                "trapeze: {} did not power off within {seconds} s and was cut off; to its disk \
                 that is a power loss",
                vm.name
            );
        }
        Ok(())
    })
}

pub(crate) fn declare_rm(command: Command) -> Command {
    command.arg(vms()).arg(flag("force", "end them first"))
}

pub(crate) fn rm(matches: &ArgMatches) -> Result<u8> {
    each(matches, find, |vm| {
        if matches.get_flag("force") && vm.pid().is_some() {
            start::stop(&vm, Duration::ZERO)?;
        }
        vm.remove()
    })
}
