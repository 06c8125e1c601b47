//! `img snapshot`, and lists of snapshots.
#![allow(unsafe_code, reason = "localtime_r")]

use super::getopt::Parsed;
use super::images::{Opening, Use, finish, one_file};
use super::json::Json;
use super::table::Outcome;
use super::{Tool, sizes, try_help};
use disk::qcow2::Snapshot;
use disk::{Errno, Image};

pub(super) fn run(tool: &Tool, parsed: &Parsed) -> Outcome {
    let asked: Vec<&(&str, String)> = parsed
        .options
        .iter()
        .filter(|(n, _)| matches!(*n, "list" | "create" | "apply" | "delete"))
        .collect();
    if asked.len() > 1 {
        return Err(try_help("Cannot mix '-l', '-a', '-c', '-d'"));
    }
    let name = one_file(parsed)?;
    let Some((action, argument)) = asked.first().filter(|(n, _)| *n != "list") else {
        let image = tool.open(name, &Opening::of(Use::ReadAlone, parsed))?;
        return list(&image);
    };
    let image = tool.open(name, &Opening::of(Use::Write, parsed))?;
    change(&image, action, argument)?;
    finish(&image)?;
    Ok(0)
}

fn list(image: &Image) -> Outcome {
    if let Some(qcow2) = image.qcow2() {
        let snapshots = qcow2.snapshots().map_err(|e| e.to_string())?;
        if !snapshots.is_empty() {
            print!("{}", listing(&snapshots));
        }
    }
    Ok(0)
}

fn change(image: &Image, action: &str, name: &str) -> Result<(), String> {
    let Some(qcow2) = image.qcow2() else {
        return Err(format!(
            "Could not {action} snapshot '{name}': Operation not supported"
        ));
    };
    let known = |n: &str| {
        let list = qcow2.snapshots().unwrap_or_default();
        list.iter().any(|s| s.id == n || s.name == n)
    };
    match action {
        "create" => qcow2
            .create_snapshot(name)
            .map_err(|e| format!("Could not create snapshot '{name}': {e}")),
        "apply" => qcow2.apply_snapshot(name).map_err(|e| match e.errno() {
            Errno(libc::ENOENT) => {
                format!("Could not apply snapshot '{name}': Failed to load snapshot: {e}")
            }
            _ => format!("Could not apply snapshot '{name}': {e}"),
        }),
        _ if !known(name) => Err(format!(
            "Could not delete snapshot '{name}': snapshot not found"
        )),
        _ => qcow2
            .delete_snapshot(name)
            .map_err(|e| format!("Could not delete snapshot '{name}': {e}")),
    }
}

/// The list for a reader.
pub(super) fn listing(snapshots: &[Snapshot]) -> String {
    let line = |columns: [&str; 6]| {
        let [id, tag, size, date, clock, icount] = columns;
        format!("{id:<7} {tag:<16} {size:>8} {date:>19} {clock:>15} {icount:>10}\n")
    };
    let mut out = String::from("Snapshot list:\n");
    out.push_str(&line([
        "ID", "TAG", "VM_SIZE", "DATE", "VM_CLOCK", "ICOUNT",
    ]));
    for s in snapshots {
        let icount = s.icount.map_or("--".to_string(), |n| n.to_string());
        out.push_str(&line([
            &s.id,
            &s.name,
            &sizes::show(s.vm_state_size),
            &local_time(s.seconds.into()),
            &clock(s.guest_time),
            &icount,
        ]));
    }
    out
}

fn clock(nanoseconds: u64) -> String {
    let (milliseconds, seconds) = (nanoseconds / 1_000_000 % 1000, nanoseconds / 1_000_000_000);
    format!(
        "{:04}:{:02}:{:02}.{milliseconds:03}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

/// The host's local time.
fn local_time(seconds: i64) -> String {
    // SAFETY: all-zero bytes are a valid tm.
    let mut time: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both point to initialized values that live through the call.
    unsafe { libc::localtime_r(&raw const seconds, &raw mut time) };
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}",
        time.tm_year + 1900,
        time.tm_mon + 1,
        time.tm_mday,
        time.tm_hour,
        time.tm_min,
        time.tm_sec
    )
}

/// The list for a program.
pub(super) fn snapshots_json(snapshots: &[Snapshot]) -> Json {
    let one = |s: &Snapshot| {
        let mut fields = Vec::new();
        if let Some(icount) = s.icount {
            fields.push(("icount", Json::from(icount)));
        }
        fields.extend([
            ("vm-clock-nsec", (s.guest_time % 1_000_000_000).into()),
            ("name", s.name.as_str().into()),
            ("date-sec", u64::from(s.seconds).into()),
            ("date-nsec", u64::from(s.nanoseconds).into()),
            ("vm-clock-sec", (s.guest_time / 1_000_000_000).into()),
            ("id", s.id.as_str().into()),
            ("vm-state-size", s.vm_state_size.into()),
        ]);
        Json::Object(fields)
    };
    Json::List(snapshots.iter().map(one).collect())
}
