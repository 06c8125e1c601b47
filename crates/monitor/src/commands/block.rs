//! Disks.

use crate::command::*;
use machine::{BlockStats, DeviceModel, DriveView, Requests};
use serde_json::{Value, json};
use std::fmt::Write;

pub static COMMANDS: &[Command] = &[
    both("query-block", &["info block"], "the disks", |context, _| {
        let machine = &context.target.machine;
        let devices = machine.devices();
        let user = |drive: &DriveView| {
            let uses = devices.iter().find(|device| match &device.model {
                DeviceModel::VirtioBlk(blk) => blk.drive == drive.id,
                _ => false,
            });
            uses.map(|device| device.id.clone().unwrap_or_default())
        };
        let drives = machine.drives();
        Ok(drives
            .iter()
            .map(|drive| describe(drive, user(drive)))
            .collect())
    })
    .returns(Type::List(&Type::Object(&[
        must("device", Type::Text),
        may("qdev", Type::Text),
        must("type", Type::Text),
        must("removable", Type::Bool),
        must("locked", Type::Bool),
        may("inserted", Type::Object(INSERTED)),
    ])))
    .shown(show),
    both(
        "query-blockstats",
        &["info blockstats"],
        "what the disks have done",
        |context, _| {
            let drives = context.target.machine.drives();
            let stats =
                |drive: &DriveView| json!({ "device": drive.id, "stats": stats(&drive.stats) });
            Ok(drives.iter().map(stats).collect())
        },
    )
    .returns(Type::List(&Type::Object(&[
        must("device", Type::Text),
        must("stats", Type::Object(STATS)),
    ])))
    .shown(|answer| {
        let disks = answer.as_array().into_iter().flatten();
        disks.map(show_stats).collect()
    }),
    both(
        "block_resize",
        &["block_resize"],
        "change the size of a disk; the guest is told",
        |context, arguments| {
            let device = text_of(arguments, "device").or_else(|| text_of(arguments, "node-name"));
            let device = device.ok_or_else(|| missing("device"))?;
            let size = need_number(arguments, "size")?;
            context.target.machine.resize_drive(device, size)?;
            done()
        },
    )
    .takes(&[
        need("device", Kind::Text).optional(),
        need("node-name", Kind::Text).optional().of(Of::Qmp),
        need("size", Kind::Size),
    ]),
];

const INSERTED: &[Member] = &[
    must("file", Type::Text),
    must("drv", Type::Text),
    must("ro", Type::Bool),
    may("backing_file", Type::Text),
    must(
        "image",
        Type::Object(&[
            must("filename", Type::Text),
            must("format", Type::Text),
            must("virtual-size", Type::Int),
        ]),
    ),
];

const STATS: &[Member] = &[
    must("rd_bytes", Type::Int),
    must("wr_bytes", Type::Int),
    must("unmap_bytes", Type::Int),
    must("rd_operations", Type::Int),
    must("wr_operations", Type::Int),
    must("flush_operations", Type::Int),
    must("unmap_operations", Type::Int),
    must("rd_total_time_ns", Type::Int),
    must("wr_total_time_ns", Type::Int),
    must("flush_total_time_ns", Type::Int),
    must("unmap_total_time_ns", Type::Int),
    must("failed_rd_operations", Type::Int),
    must("failed_wr_operations", Type::Int),
    must("failed_flush_operations", Type::Int),
    must("failed_unmap_operations", Type::Int),
];

fn describe(drive: &DriveView, user: Option<String>) -> Value {
    let mut inserted = json!({
        "file": drive.file,
        "drv": drive.format,
        "ro": drive.read_only,
        "image": {
            "filename": drive.file,
            "format": drive.format,
            "virtual-size": drive.bytes,
        },
    });
    if let Some(backing) = &drive.backing {
        inserted["backing_file"] = backing.as_str().into();
    }
    let mut device = json!({
        "device": drive.id,
        "type": "unknown",
        "removable": false,
        "locked": false,
        "inserted": inserted,
    });
    if let Some(user) = user {
        device["qdev"] = user.into();
    }
    device
}

fn stats(stats: &BlockStats) -> Value {
    let BlockStats {
        reads,
        writes,
        flushes,
        discards,
    } = stats;
    let mut object = Arguments::new();
    let kinds = [
        ("rd", reads),
        ("wr", writes),
        ("flush", flushes),
        ("unmap", discards),
    ];
    for (name, requests) in kinds {
        let Requests {
            done,
            failed,
            bytes,
            time_ns,
        } = *requests;
        if name != "flush" {
            object.insert(format!("{name}_bytes"), bytes.into());
        }
        object.insert(format!("{name}_operations"), done.into());
        object.insert(format!("{name}_total_time_ns"), time_ns.into());
        object.insert(format!("failed_{name}_operations"), failed.into());
    }
    Value::Object(object)
}

fn show(answer: &Value) -> String {
    let mut text = String::new();
    for disk in answer.as_array().into_iter().flatten() {
        let text_of = |value: &Value| value.as_str().unwrap_or_default().to_string();
        let inserted = &disk["inserted"];
        let read_only = if inserted["ro"] == true {
            ", read-only"
        } else {
            ""
        };
        let (device, file) = (text_of(&disk["device"]), text_of(&inserted["file"]));
        let _ = writeln!(
            text,
            "{device}: {file} ({}{read_only})",
            text_of(&inserted["drv"])
        );
        if let Some(user) = disk["qdev"].as_str() {
            let _ = writeln!(text, "    Attached to:      {user}");
        }
        if let Some(backing) = inserted["backing_file"].as_str() {
            let _ = writeln!(text, "    Backing file:     {backing}");
        }
    }
    text
}

fn show_stats(disk: &Value) -> String {
    let stats = disk["stats"].as_object();
    let words = stats.into_iter().flatten();
    let words: Vec<String> = words
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let device = disk["device"].as_str().unwrap_or_default();
    format!("{device}: {}\n", words.join(" "))
}
