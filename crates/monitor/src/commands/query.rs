//! What the machine is.

use crate::command::*;
use crate::qmp;
use crate::target::Target;
use serde_json::{Value, json};

const STATES: &[&str] = &[
    "running",
    "prelaunch",
    "paused",
    "debug",
    "io-error",
    "shutdown",
    "guest-panicked",
];

const VERSION: Type = Type::Object(&[
    must(
        "qemu",
        Type::Object(&[
            must("major", Type::Int),
            must("minor", Type::Int),
            must("micro", Type::Int),
        ]),
    ),
    must("package", Type::Text),
]);

const STATS: Type = Type::List(&Type::Object(&[
    must("provider", Type::Text),
    must(
        "stats",
        Type::List(&Type::Object(&[
            must("name", Type::Text),
            must("value", Type::Int),
        ])),
    ),
]));

pub static COMMANDS: &[Command] = &[
    both(
        "query-status",
        &["info status"],
        "whether the machine runs",
        |context, _| {
            let state = context.target.machine.run_state().name();
            let running = state == "running";
            Ok(json!({ "status": state, "running": running, "singlestep": false }))
        },
    )
    .returns(Type::Object(&[
        must("status", Type::Choice(STATES)),
        must("running", Type::Bool),
        must("singlestep", Type::Bool),
    ]))
    .shown(|answer| {
        let state = answer["status"].as_str().unwrap_or_default();
        match answer["running"] == true {
            true => "VM status: running".into(),
            false => format!("VM status: paused ({state})"),
        }
    }),
    both(
        "query-version",
        &["info version"],
        "the version of this program, and QEMU's that it follows",
        |context, _| Ok(version(context.target)),
    )
    .returns(VERSION)
    .shown(|answer| answer["package"].as_str().unwrap_or_default().into()),
    both(
        "query-name",
        &["info name"],
        "the guest's name",
        |context, _| {
            Ok(match &context.target.about.name {
                Some(name) => json!({ "name": name }),
                None => json!({}),
            })
        },
    )
    .returns(Type::Object(&[may("name", Type::Text)]))
    .shown(|answer| answer["name"].as_str().unwrap_or_default().into()),
    both(
        "query-uuid",
        &["info uuid"],
        "the machine's UUID",
        |context, _| Ok(json!({ "UUID": uuid(context.target) })),
    )
    .returns(Type::Object(&[must("UUID", Type::Text)]))
    .shown(|answer| answer["UUID"].as_str().unwrap_or_default().into()),
    both(
        "query-kvm",
        &["info kvm"],
        "whether the host's KVM runs the machine",
        |context, _| {
            let enabled = context.target.about.accelerator == "kvm";
            let present = std::path::Path::new("/dev/kvm").exists();
            Ok(json!({ "enabled": enabled, "present": present }))
        },
    )
    .returns(Type::Object(&[
        must("enabled", Type::Bool),
        must("present", Type::Bool),
    ]))
    .shown(|answer| match answer["enabled"] == true {
        true => "kvm support: enabled".into(),
        false => "kvm support: disabled".into(),
    }),
    program("query-target", "the guest's architecture", |_, _| {
        Ok(json!({ "arch": "x86_64" }))
    })
    .returns(Type::Object(&[must("arch", Type::Choice(&["x86_64"]))])),
    program("query-commands", "the commands", |_, _| {
        let names = super::all().filter_map(|command| command.qmp);
        Ok(names.map(|name| json!({ "name": name })).collect())
    })
    .returns(Type::List(&Type::Object(&[must("name", Type::Text)]))),
    program(
        "query-qmp-schema",
        "commands, events and their types",
        |_, _| Ok(qmp::schema()),
    )
    .returns(Type::List(&Type::Any)),
    both(
        "query-memory-size-summary",
        &["info memory_size_summary"],
        "the guest's memory, in bytes",
        |context, _| {
            let config = context.target.machine.config();
            let bytes = config.map_or(0, |config| config.ram_bytes);
            Ok(json!({ "base-memory": bytes }))
        },
    )
    .returns(Type::Object(&[must("base-memory", Type::Int)]))
    .shown(|answer| format!("base memory: {}", answer["base-memory"])),
    both(
        "query-stats",
        &["info stats"],
        "the accelerator's counters, sums over the machine and its vCPUs",
        |context, _| {
            let counters = context.target.machine.counters();
            let counter = |(name, value)| json!({ "name": name, "value": value });
            let stats: Vec<Value> = counters.into_iter().map(counter).collect();
            let provider = context.target.about.accelerator;
            Ok(json!([{ "provider": provider, "stats": stats }]))
        },
    )
    .takes(&[need("target", Kind::Choice(&["vm"])).optional()])
    .returns(STATS)
    .shown(|answer| {
        let stats = answer[0]["stats"].as_array();
        let line = |s: &Value| {
            let name = s["name"].as_str().unwrap_or_default();
            format!("{name:<24}{:>16}\n", s["value"].to_string())
        };
        stats.into_iter().flatten().map(line).collect()
    }),
    people(
        &["info roms"],
        "what was loaded into memory",
        |context, _| Ok(roms(context.target).into()),
    ),
    people(&["info qtree"], "the devices", |context, _| {
        Ok(qtree(context.target).into())
    }),
];

/// As `query-version` has it. Programs ask which commands there are by it: it is
/// the version of QEMU whose machines these are.
pub fn version(target: &Target) -> Value {
    let mut qemu = machine::boards::QEMU_VERSION.split('.');
    let mut number = || -> u32 { qemu.next().and_then(|n| n.parse().ok()).unwrap_or(0) };
    let [major, minor, micro] = target.about.version;
    json!({
        "qemu": { "major": number(), "minor": number(), "micro": number() },
        "package": format!("Trapeze {major}.{minor}.{micro}"),
    })
}

fn uuid(target: &Target) -> String {
    let uuid = target.machine.config().map_or([0; 16], |c| c.uuid);
    let hex: String = uuid.iter().map(|b| format!("{b:02x}")).collect();
    let part = |range| hex.get(range).unwrap_or_default();
    [
        part(0..8),
        part(8..12),
        part(12..16),
        part(16..20),
        part(20..32),
    ]
    .join("-")
}

fn roms(target: &Target) -> String {
    let Some(config) = target.machine.config() else {
        return String::new();
    };
    let images = [("kernel", &config.kernel), ("initrd", &config.initrd)];
    let named = images
        .iter()
        .filter_map(|(what, image)| Some((what, image.as_ref()?)));
    named
        .map(|(what, image)| format!("{what}: \"{}\"\n", image.name()))
        .collect()
}

fn qtree(target: &Target) -> String {
    let Some(config) = target.machine.config() else {
        return String::new();
    };
    let mut text = format!("board: {}\n", config.board.name);
    for device in target.machine.devices() {
        let id = device.id.as_deref().unwrap_or_default();
        text += &format!("  dev: {}, id \"{id}\"\n", device.model.name());
        if let Some(bus) = &device.bus {
            text += &format!("    bus = \"{bus}\"\n");
        }
        if let Some((slot, function)) = device.address {
            text += &format!("    addr = {slot:02x}.{function}\n");
        }
    }
    text
}
