//! `trapeze run`: everything that can be wrong is looked at before something is
//! made.

use super::words::{flag, image_names, many, one, option};
use super::{BOOT, images, program, reach};
use crate::system::{parse_size, show_size};
use ::vms::image::{self, Image};
use ::vms::{Config, Vm, ssh, start, store};
use anyhow::{Context, Error, Result, bail, ensure};
use clap::{Arg, ArgAction, ArgMatches, Command, ValueHint, value_parser};
use clap_complete::engine::ArgValueCandidates;
use disk::{Access, ImageOptions};
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Instant;

pub(crate) fn declare(command: Command) -> Command {
    let image = Arg::new("image").value_name("IMAGE").required(true);
    let image = image.add(ArgValueCandidates::new(image_names));
    let cpus = value_parser!(u32).range(1..=255);
    command
        .arg(image.help("its name; 'debian' is made if it is not there"))
        .arg(option("name", "NAME", "default: the image's, with a number if need be"))
        .arg(option("cpus", "N", "processors").default_value("2").value_parser(cpus))
        .arg(option("memory", "SIZE", "memory, as 2G").default_value("1G"))
        .arg(option("disk-size", "SIZE", "a larger disk than the image's, as 20G; the guest's root file system grows when it boots"))
        .arg(option("publish", "[ADDR:]HOST:GUEST", "a TCP port of the host that leads to the guest's; ADDR is 127.0.0.1 by default").action(ArgAction::Append))
        .arg(option("share", "DIR[:TAG]", "a folder of the host, in the guest at /mnt/TAG").action(ArgAction::Append).value_hint(ValueHint::DirPath))
        .arg(flag("detach", "return when ssh answers"))
        .arg(flag("no-wait", "with --detach: return at once").requires("detach"))
        .arg(Arg::new("rest").value_name("OPTION").last(true).num_args(0..).help("options of 'trapeze system'"))
        .after_help("Examples:\n  trapeze run debian\n  trapeze run debian --detach --name web --publish 8080:80 --share .:src\n  trapeze ssh web")
}

pub(crate) fn run(matches: &ArgMatches) -> Result<u8> {
    let wanted = one(matches, "image");
    if Path::new(wanted).is_file() {
        bail!(
            "'{wanted}' is a file: run takes the name of an image; 'trapeze image import {wanted} \
             --name NAME' makes one of a disk"
        );
    }
    let begin = Instant::now();
    let name = matches.get_one::<String>("name");
    if let Some(name) = name {
        store::check_free(name)?;
    }
    let config = config(matches, wanted)?;
    let size = matches.get_one::<String>("disk-size");
    let size = size.map(|s| parse_size(s, 0)).transpose();
    let size = size.map_err(|why| Error::msg(format!("--disk-size: {why}")))?;
    let (image, held) = hold(wanted)?;
    if let Some(size) = size {
        check_disk(&image, size)?;
    }
    let mut vm = Vm::create(
        name.map_or(wanted, |n| n),
        name.is_some(),
        config,
        |folder| overlay(&image, size, folder),
    )?;
    drop(held);
    if let Err(why) = start::start(&mut vm, &image, &program()?) {
        return Err(match vm.remove() {
            Ok(()) => why,
            Err(also) => why.context(also),
        });
    }
    came_up(matches, &vm, &image, begin)
}

/// What is said, and waited for, once it runs.
fn came_up(matches: &ArgMatches, vm: &Vm, image: &Image, begin: Instant) -> Result<u8> {
    let name = &vm.name;
    let ssh = way_in(vm, image)?;
    if !matches.get_flag("detach") {
        eprintln!(
            "trapeze: {name} boots; {ssh}; Ctrl-A D leaves the console, Ctrl-A X ends the machine"
        );
        return reach::on_console(vm);
    }
    if !matches.get_flag("no-wait") && image.about.seeded {
        ssh::wait(vm, BOOT)?;
    }
    let seconds = begin.elapsed().as_secs_f32();
    eprintln!("trapeze: {name} runs after {seconds:.1} s; {ssh}");
    Ok(0)
}

/// How ssh gets there, for people.
pub(super) fn way_in(vm: &Vm, image: &Image) -> Result<String> {
    let (name, port) = (&vm.name, vm.config.ssh_port);
    if image.about.seeded {
        return Ok(format!("ssh: trapeze ssh {name} (port {port})"));
    }
    let key = ssh::key()?.with_extension("pub");
    Ok(format!(
        "trapeze console {name} leads to it; trapeze ssh {name} (port {port}) does once its sshd \
         lets root in with the key {}",
        key.display()
    ))
}

/// The image, made if it is Debian, and what keeps it there.
fn hold(name: &str) -> Result<(Image, File)> {
    if let Some(held) = image::hold(name)? {
        return Ok(held);
    }
    if name != "debian" {
        return Err(super::no_image(name));
    }
    images::build_debian(false)?;
    image::hold(name)?.context("somebody removed the new image")
}

fn check_disk(image: &Image, size: u64) -> Result<()> {
    let path = image.folder.join("disk.qcow2");
    let options = ImageOptions {
        access: Access::Inspect,
        backing: false,
        ..ImageOptions::read()
    };
    let disk = disk::Image::open(&path.to_string_lossy(), &options)
        .map_err(|why| Error::msg(format!("{}: {why}", path.display())))?;
    let least = disk.device().len();
    ensure!(
        size >= least && size <= i64::MAX as u64,
        "--disk-size: {} cannot be: the image's disk has {}, and disks only grow",
        show_size(size),
        show_size(least)
    );
    Ok(())
}

/// The machine's own disk, which begins as the image's.
fn overlay(image: &Image, size: Option<u64>, folder: &Path) -> Result<()> {
    let mut img = std::process::Command::new(program()?);
    img.args(["img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"]);
    img.arg(image.folder.join("disk.qcow2"));
    img.arg(folder.join("disk.qcow2"));
    img.args(size.map(|s| s.next_multiple_of(512).to_string()));
    images::finish(&mut img)
}

fn config(matches: &ArgMatches, image: &str) -> Result<Config> {
    let memory = one(matches, "memory");
    parse_size(memory, 20).map_err(|why| Error::msg(format!("--memory: {why}")))?;
    let publish = many(matches, "publish").map(|p| forward(p));
    let shares = many(matches, "share").map(|s| share(s));
    let shares = shares.collect::<Result<Vec<_>>>()?;
    for (at, (_, tag)) in shares.iter().enumerate() {
        let twice = shares[..at].iter().any(|(_, t)| t == tag);
        ensure!(
            !twice,
            "--share: two folders are '{tag}'; DIR:TAG gives another name"
        );
    }
    Ok(Config {
        image: image.into(),
        cpus: matches.get_one::<u32>("cpus").copied().unwrap_or(1),
        memory: memory.into(),
        ssh_port: ssh::free_port()?,
        publish: publish.collect::<Result<_>>()?,
        shares,
        options: many(matches, "rest").cloned().collect(),
    })
}

fn forward(text: &str) -> Result<String> {
    let parts: Vec<&str> = text.rsplitn(3, ':').collect();
    let port = |p: &str| p.parse::<u16>().ok().filter(|p| *p > 0);
    let address = parts.get(2).copied().unwrap_or("127.0.0.1");
    let address: Option<Ipv4Addr> = address.parse().ok();
    let ends = match parts[..] {
        [guest, host, ..] => address.zip(port(guest).zip(port(host))),
        _ => None,
    };
    let Some((address, (guest, host))) = ends else {
        bail!(
            "--publish {text}: not [ADDR:]HOST:GUEST with an IPv4 address and two ports, as 8080:80"
        );
    };
    // The machine listens itself; this tells before anything is made.
    if let Err(why) = may_listen(address, host) {
        bail!("--publish {text}: {address}:{host}: {why}");
    }
    Ok(format!("{address}:{host}-:{guest}"))
}

fn may_listen(address: Ipv4Addr, port: u16) -> std::result::Result<(), String> {
    use std::io::ErrorKind as Kind;
    let Err(why) = TcpListener::bind((address, port)) else {
        return Ok(());
    };
    Err(match why.kind() {
        Kind::AddrInUse => "somebody listens there already".into(),
        Kind::PermissionDenied => "ports below 1024 are root's; take a higher one".into(),
        Kind::AddrNotAvailable => "no address of this host".into(),
        _ => why.to_string(),
    })
}

/// Whether the ports that a machine publishes can be had now.
pub(super) fn check_published(vm: &Vm) -> Result<()> {
    for publish in &vm.config.publish {
        let host = publish.split("-:").next().unwrap_or_default();
        if let Ok(address) = host.parse::<SocketAddrV4>()
            && let Err(why) = may_listen(*address.ip(), address.port())
        {
            bail!("{} publishes {host}: {why}", vm.name);
        }
    }
    Ok(())
}

fn share(text: &str) -> Result<(PathBuf, String)> {
    let (folder, tag) = match text.rsplit_once(':') {
        Some((folder, tag)) => (folder, Some(tag.to_string())),
        None => (text, None),
    };
    let found = Path::new(folder).canonicalize();
    let found = found.map_err(|why| match why.kind() {
        std::io::ErrorKind::NotFound => {
            Error::msg(format!("--share {text}: there is no folder '{folder}'"))
        }
        _ => Error::new(why).context(format!("--share {text}")),
    })?;
    ensure!(found.is_dir(), "--share {text}: '{folder}' is not a folder");
    let name = found.file_name().unwrap_or_default();
    let tag = tag.unwrap_or_else(|| name.to_string_lossy().into_owned());
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
    if tag.is_empty() || tag.len() > 36 || !tag.bytes().all(plain) {
        bail!(
            "--share {text}: '{tag}' is no tag; write DIR:TAG with up to 36 letters, digits, - and _"
        );
    }
    Ok((found, tag))
}
