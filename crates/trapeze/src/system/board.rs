//! `-machine`: the board and what of it can be chosen.

use super::accel;
use super::keyval;
use super::memory;
use super::parse::Options;
use crate::near::did_you_mean;
use machine::boards::{BOARDS, BoardKind};

/// A property of boards with one value here: naming that value is right, any
/// other is refused.
struct Fixed {
    name: &'static str,
    /// Words for what is so.
    accepted: &'static [&'static str],
    why: &'static str,
}

const ON: &[&str] = &["on", "yes", "true", "y"];
const OFF: &[&str] = &["off", "no", "false", "n"];

const fn fixed(name: &'static str, accepted: &'static [&'static str], why: &'static str) -> Fixed {
    Fixed {
        name,
        accepted,
        why,
    }
}

const FIXED: [Fixed; 15] = [
    fixed("acpi", ON, "the boards always have ACPI tables"),
    fixed("graphics", OFF, "there is no graphics adapter"),
    fixed("hpet", OFF, "there is no HPET"),
    fixed(
        "i8042",
        ON,
        "pc and q35 always have the keyboard controller",
    ),
    fixed("ioapic2", &["off", "auto"], "there is one I/O APIC"),
    fixed("isa-serial", ON, "the serial ports are ISA's"),
    fixed("pcie", &["off", "auto"], "microvm has no PCI"),
    fixed("pic", ON, "the 8259 pair is always there"),
    fixed("pit", ON, "the 8254 is always there"),
    fixed("rtc", &["on", "auto"], "the RTC is always there"),
    fixed("sata", OFF, "there is no SATA controller"),
    fixed("smbus", OFF, "there is no SMBus controller"),
    fixed(
        "smm",
        &["off", "auto"],
        "there is no system management mode",
    ),
    fixed("usb", OFF, "there is no USB controller"),
    fixed("vmport", &["off", "auto"], "there is no VMware port"),
];

/// The name this board had before PCI.
const OLD_NAME: &str = "trapeze";

fn by_name(name: &str) -> Result<&'static BoardKind, String> {
    let name = if name == OLD_NAME { "pc" } else { name };
    BoardKind::by_name(name).ok_or_else(|| {
        let versioned: Vec<String> = BOARDS.iter().map(|b| b.versioned()).collect();
        let names = versioned.iter().map(|n| &**n);
        let near = did_you_mean(name, BOARDS.iter().map(|b| b.name).chain(names));
        let list: Vec<&str> = BOARDS.iter().map(|b| b.name).collect();
        let list = list.join(", ");
        format!("board '{name}' is not supported{near}; there are {list}")
    })
}

/// As QEMU's list: an alias, then the name with its version.
fn list() -> String {
    let mut text = String::from("Supported machines are:\n");
    for (i, board) in BOARDS.iter().enumerate() {
        let versioned = board.versioned();
        let default = if i == 0 { " (default)" } else { "" };
        if versioned != board.name {
            let alias = format!("(alias of {versioned})");
            text += &format!("{:<20} {} {alias}\n", board.name, board.help);
        }
        text += &format!("{versioned:<20} {}{default}\n", board.help);
    }
    text
}

/// Properties of a board, with what there is to choose.
fn properties(board: &BoardKind) -> String {
    let accel = [("accel", "<str> - accelerators, tried in order, as kvm:soft")];
    let chosen = accel.iter().chain(&memory::MACHINE_PROPERTIES);
    let chosen = chosen.map(|(name, help)| format!("  {name}={help}\n"));
    let fixed = |row: &Fixed| format!("  {}={} - {}\n", row.name, row.accepted[0], row.why);
    let rows = chosen.chain(FIXED.iter().map(fixed));
    let rows: String = rows.collect();
    format!("{}-machine options:\n{rows}", board.versioned())
}

/// `-machine`.
pub(super) fn apply(options: &mut Options, value: &str) -> Result<(), String> {
    for (position, (key, value)) in keyval::parse(value).into_iter().enumerate() {
        match (&*key, value) {
            ("help" | "?", None) => {
                let board = options.config.board;
                options.print.get_or_insert_with(|| match position {
                    0 => list(),
                    _ => properties(board),
                });
                return Ok(());
            }
            ("type", Some(name)) => options.config.board = by_name(&name)?,
            (name, None) if position == 0 => options.config.board = by_name(name)?,
            (key, Some(value)) => property(options, key, &value)?,
            (key, None) => return Err(format!("property '{key}' needs a value: {key}=")),
        }
    }
    Ok(())
}

fn property(options: &mut Options, key: &str, value: &str) -> Result<(), String> {
    if key == "accel" {
        options.accelerators.clear();
        for name in value.split(':') {
            options.accelerators.push(accel::by_name(name)?);
        }
        return Ok(());
    }
    if memory::machine(options, key, value).map_err(|why| format!("{key}={value}: {why}"))? {
        return Ok(());
    }
    let row = FIXED.iter().find(|row| row.name == key).ok_or_else(|| {
        let names = || {
            let fixed = FIXED.iter().map(|r| r.name);
            ["accel"]
                .into_iter()
                .chain(memory::MACHINE_PROPERTIES.map(|p| p.0))
                .chain(fixed)
        };
        let near = did_you_mean(key, names());
        let list: Vec<&str> = names().collect();
        let list = list.join(", ");
        format!("property '{key}' is not supported{near}; there are {list}")
    })?;
    match row.accepted.contains(&value) {
        true => Ok(()),
        false => Err(format!("{key}={value}: {}", row.why)),
    }
}
