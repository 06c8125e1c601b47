//! The commands, one row each, and what the program's own name means.

use crate::near::did_you_mean;
use crate::system::{self, Personality};
use crate::{embedded, img, linux};

struct Command {
    name: &'static str,
    arguments: &'static str,
    help: &'static str,
    run: fn(&[String]) -> u8,
}

const COMMANDS: [Command; 6] = [
    Command {
        name: "linux",
        arguments: "[OPTIONS]",
        help: "boot Debian's kernel to a shell (the default); takes the options of 'system'",
        run: linux::run,
    },
    Command {
        name: "guest",
        arguments: "[OPTIONS]",
        help: "boot the embedded guest: shows CPU, memory and interrupts, checks itself",
        run: embedded::run,
    },
    Command {
        name: "system",
        arguments: "[OPTIONS]",
        help: "run a machine described by QEMU's options; 'trapeze system -help' lists them",
        run: |arguments| system::main(Personality::Trapeze, arguments),
    },
    Command {
        name: "img",
        arguments: "COMMAND [OPTIONS]",
        help: "make, check, convert disk images; 'trapeze img --help' lists the commands",
        run: |arguments| img::main("trapeze img", arguments),
    },
    Command {
        name: "fetch",
        arguments: "[--refresh] [cloud-amd64|686|686-pae]",
        help: "get a Debian kernel and busybox into the cache, print where they are",
        run: linux::fetch,
    },
    Command {
        name: "help",
        arguments: "",
        help: "this text",
        run: |_| help(),
    },
];

/// Names under which the binary behaves as QEMU, and the accelerators each
/// tries unless told otherwise.
const QEMU_NAMES: [(&str, &[&str]); 3] = [
    ("qemu-system-x86_64", &["soft"]),
    ("qemu-kvm", &["kvm", "soft"]),
    ("kvm", &["kvm", "soft"]),
];

/// The name under which it behaves as `trapeze img`.
const QEMU_IMG: &str = "qemu-img";

/// Runs what the program's name and its arguments ask for; the exit code.
pub fn dispatch(program: &str, arguments: &[String]) -> u8 {
    let name = program.rsplit('/').next().unwrap_or_default();
    if let Some((name, accelerators)) = QEMU_NAMES.iter().find(|(n, _)| *n == name) {
        return system::main(Personality::Qemu { name, accelerators }, arguments);
    }
    if name == QEMU_IMG {
        return img::main(QEMU_IMG, arguments);
    }
    let Some(first) = arguments.first() else {
        return linux::run(&[]);
    };
    match first.as_str() {
        "-h" | "-help" | "--help" => return help(),
        "-V" | "-version" | "--version" => {
            println!("{}", system::version());
            return 0;
        }
        _ => {}
    }
    match COMMANDS.iter().find(|c| c.name == first) {
        Some(command) => (command.run)(&arguments[1..]),
        None => unknown(first),
    }
}

fn unknown(word: &str) -> u8 {
    let names = COMMANDS.iter().map(|c| c.name);
    let hint = match word.starts_with('-') {
        true => "; machine options go after 'trapeze linux' or 'trapeze system'".to_string(),
        false => did_you_mean(word, names),
    };
    eprintln!("trapeze: '{word}' is not a command{hint}; 'trapeze help' lists them");
    1
}

fn help() -> u8 {
    println!("{}\n\nusage: trapeze [COMMAND]\n", system::version());
    for c in &COMMANDS {
        println!("  {:<8}{}\n          {}", c.name, c.arguments, c.help);
    }
    println!("\nLinked as qemu-system-x86_64, qemu-kvm or kvm it behaves as 'trapeze system',");
    println!("linked as qemu-img as 'trapeze img'.");
    0
}
