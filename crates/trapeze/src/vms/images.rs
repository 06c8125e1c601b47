//! `trapeze image`: what machines are made from.

use super::words::{flag, image_names, json, one, option};
use super::{each, no_image, program, show};
use crate::system::show_size;
use ::vms::image::{self, About, Image};
use ::vms::unfinished;
use anyhow::{Context, Error, Result, bail, ensure};
use clap::{Arg, ArgMatches, Command, ValueHint};
use clap_complete::engine::ArgValueCandidates;
use guestimg::{Look, Progress, Workshop};
use serde_json::Value;
use std::path::Path;

/// Of a disk that is built.
const DISK_BYTES: u64 = 10 << 30;

pub(crate) fn declare(command: Command) -> Command {
    let file = |name, help| option(name, "FILE", help).value_hint(ValueHint::FilePath);
    let build = Command::new("build")
        .about("Make an image from the host's package sources")
        .arg(
            Arg::new("system")
                .required(true)
                .value_name("SYSTEM")
                .value_parser(["debian"]),
        )
        .arg(flag("refresh", "make it anew"));
    let import = Command::new("import")
        .about("Make an image from a disk: raw or qcow2, with a Linux on it")
        .arg(Arg::new("file").value_name("FILE").required(true).value_hint(ValueHint::FilePath).help("the disk"))
        .arg(option("name", "NAME", "of the image").required(true))
        .arg(file("kernel", "what boots; without it a kernel is looked for on the disk"))
        .arg(file("initrd", "for --kernel").requires("kernel"))
        .arg(option("append", "TEXT", "the kernel's command line, in place of what suits the disk"))
        .after_help("There is no firmware: a machine of ours looks for the newest kernel in /boot of ext4 and XFS\nfile systems. Without --append, root= is the file system with an os-release and the\nconsole is ttyS0.\n\nssh gets into such a machine if its sshd lets root in with the key of 'trapeze ssh'; a systemd\nof version 252 or newer takes that key by itself if qemu_fw_cfg is loaded early. 'trapeze console' always leads there.");
    let names = Arg::new("name")
        .value_name("NAME")
        .required(true)
        .num_args(1..);
    let names = names.add(ArgValueCandidates::new(image_names));
    command
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .subcommand(build)
        .subcommand(import)
        .subcommand(Command::new("ls").about("List images").arg(json()))
        .subcommand(Command::new("rm").about("Remove images").arg(names))
}

pub(crate) fn run(matches: &ArgMatches) -> Result<u8> {
    match matches.subcommand() {
        Some(("build", m)) => say(&build_debian(m.get_flag("refresh"))?),
        Some(("import", m)) => say(&import(m)?),
        Some(("rm", m)) => {
            let find = |n: &str| image::find(n)?.ok_or_else(|| no_image(n));
            each(m, find, |image| image.remove())
        }
        Some((_, m)) => ls(m),
        None => Ok(1),
    }
}

fn say(image: &Image) -> Result<u8> {
    let (name, system) = (&image.name, &image.about.system);
    let folder = image.folder.display();
    show::print(format!("{name}: {system}, {folder}\n").as_bytes())?;
    Ok(0)
}

fn ls(matches: &ArgMatches) -> Result<u8> {
    let all = image::list()?;
    let on_host = |i: &Image| {
        let disk = std::fs::metadata(i.folder.join("disk.qcow2"));
        disk.map_or(0, |m| std::os::unix::fs::MetadataExt::blocks(&m) * 512)
    };
    let users = all.iter().map(Image::users).collect::<Result<Vec<_>>>()?;
    let all = all.iter().zip(users);
    if matches.get_flag("json") {
        let row = |(i, users): (&Image, Vec<String>)| {
            serde_json::json!({
                "name": i.name,
                "system": i.about.system,
                "kernel": i.about.kernel,
                "append": i.about.append,
                "takes_key": i.about.seeded,
                "bytes": on_host(i),
                "machines": users,
                "folder": i.folder.to_string_lossy(),
            })
        };
        show::json(&all.map(row).collect::<Value>())?;
        return Ok(0);
    }
    let head = ["NAME", "SIZE", "MACHINES", "SYSTEM"]
        .map(String::from)
        .to_vec();
    let row = |(i, users): (&Image, Vec<String>)| {
        let size = show_size(on_host(i).next_multiple_of(1 << 20));
        let system = i.about.system.clone();
        vec![i.name.clone(), size, users.len().to_string(), system]
    };
    show::table(
        &std::iter::once(head)
            .chain(all.map(row))
            .collect::<Vec<_>>(),
    )?;
    Ok(0)
}

/// A child that goes when this process is told to.
fn started(child: &std::process::Child) {
    unfinished::ends_with_us(child.id());
}

/// Debian, made if it is not there or `again` says so.
pub(super) fn build_debian(again: bool) -> Result<Image> {
    let program = program()?;
    image::make("debian", again, |folder| {
        let shop = Workshop {
            program: &program,
            folder,
            disk_bytes: DISK_BYTES,
            started: &started,
        };
        let made = shop.debian(&mut Progress::stderr())?;
        Ok(About {
            system: made.system,
            kernel: made.kernel,
            append: "root=/dev/vda console=ttyS0 quiet net.ifnames=0".into(),
            seeded: true,
        })
    })
}

fn import(matches: &ArgMatches) -> Result<Image> {
    let (file, name) = (one(matches, "file"), one(matches, "name"));
    let path = |id| matches.get_one::<String>(id).map(Path::new);
    let (kernel, initrd) = (path("kernel"), path("initrd"));
    for file in [Some(Path::new(file)), kernel, initrd]
        .into_iter()
        .flatten()
    {
        ensure!(file.exists(), "there is no file '{}'", file.display());
        ensure!(!file.is_dir(), "'{}' is a folder", file.display());
    }
    let taken =
        || format!("there is an image '{name}' already; 'trapeze image rm {name}' removes it");
    ensure!(image::find(name)?.is_none(), taken());
    let mut made = false;
    let image = image::make(name, false, |folder| {
        made = true;
        let disk = folder.join("disk.qcow2");
        let mut img = std::process::Command::new(program()?);
        img.args(["img", "convert", "-O", "qcow2", file]).arg(&disk);
        finish(&mut img)?;
        let mut about = match kernel {
            Some(kernel) => given(kernel, initrd, folder)?,
            None => looked_for(file, &disk, folder)?,
        };
        if let Some(append) = matches.get_one::<String>("append") {
            about.append = append.clone();
        }
        Ok(about)
    })?;
    ensure!(made, taken());
    Ok(image)
}

/// A kernel that the user names.
fn given(kernel: &Path, initrd: Option<&Path>, folder: &Path) -> Result<About> {
    let files = std::iter::once((kernel, "vmlinuz")).chain(initrd.map(|i| (i, "initrd")));
    for (file, name) in files {
        let copied = std::fs::copy(file, folder.join(name));
        copied.with_context(|| file.display().to_string())?;
    }
    Ok(About {
        system: "imported".into(),
        kernel: kernel.display().to_string(),
        append: "root=/dev/vda console=ttyS0".into(),
        seeded: false,
    })
}

/// The disk's own kernel.
fn looked_for(file: &str, disk: &Path, folder: &Path) -> Result<About> {
    let program = program()?;
    let look = Look {
        program: &program,
        disk,
        folder,
        started: &started,
    };
    let Some(found) = look.find(&mut Progress::stderr())? else {
        bail!(
            "{file}: no Linux with a kernel in /boot is on an ext4 or XFS file system of it; \
             --kernel FILE names one"
        );
    };
    Ok(About {
        system: found.system,
        kernel: found.kernel,
        append: format!("root={} ro console=ttyS0", found.root),
        seeded: false,
    })
}

/// Runs this program for a disk; its last words are the error.
pub(super) fn finish(img: &mut std::process::Command) -> Result<()> {
    let output = img.output().context("this program")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rfind(|l| !l.trim().is_empty());
    let last = last.unwrap_or("no reason given");
    match output.status.success() {
        true => Ok(()),
        false => Err(Error::msg(
            last.trim_start_matches("trapeze img: ").to_string(),
        )),
    }
}
