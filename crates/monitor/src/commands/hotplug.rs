//! What comes and goes while the machine runs.

use crate::command::*;
use crate::maker::Words;
use machine::HotpluggableCpu;
use serde_json::{Value, json};

/// How QEMU calls a processor here.
const CPU: &str = "x86_64-cpu";

pub static COMMANDS: &[Command] = &[
    both(
        "device_add",
        &["device_add"],
        "plug a device in, as -device describes it; a processor is DRIVER max-x86_64-cpu with socket-id=, core-id=, thread-id=",
        |context, arguments| {
            let words = words(arguments);
            if need_text(arguments, "driver")?.ends_with(CPU) {
                return add_cpu(context, &words);
            }
            let machine = &context.target.machine;
            let device = context.target.maker.device(&words, &machine.devices())?;
            machine.add_device(device)?;
            done()
        },
    )
    .takes(&[need("driver", Kind::Options("driver"))]),
    both(
        "device_del",
        &["device_del"],
        "ask the guest to let go of a device; the event DEVICE_DELETED says that it has",
        |context, arguments| {
            let id = need_text(arguments, "id")?;
            let machine = &context.target.machine;
            let cpus = machine.cpus();
            if let Some(cpu) = cpus.iter().find(|cpu| cpu.id.as_deref() == Some(id)) {
                machine.remove_cpu(cpu.number)?;
                return done();
            }
            let devices = machine.devices();
            if !devices.iter().any(|device| device.id.as_deref() == Some(id)) {
                let text = format!("Device '{id}' not found");
                return Err(Failure::of(Class::DeviceNotFound, text));
            }
            machine.remove_device(id)?;
            done()
        },
    )
    .takes(&[need("id", Kind::Text)]),
    both("netdev_add", &["netdev_add"], "make a network, as -netdev describes it", |context, arguments| {
        let netdev = context.target.maker.netdev(&words(arguments))?;
        context.target.machine.add_netdev(&netdev)?;
        done()
    })
    .takes(&[need("type", Kind::Options("type"))]),
    both("netdev_del", &["netdev_del"], "end a network that no device uses", |context, arguments| {
        context.target.machine.remove_netdev(need_text(arguments, "id")?)?;
        done()
    })
    .takes(&[need("id", Kind::Text)]),
    people(
        &["drive_add"],
        "open a disk for a later device_add, as -drive describes it (with if=none)",
        |context, arguments| {
            let options = need_text(arguments, "options")?;
            // QEMU wants a number first, which means nothing here either.
            let options = match options.split_once(char::is_whitespace) {
                Some((number, rest)) if number.parse::<u32>().is_ok() => rest.trim(),
                _ => options,
            };
            let words = crate::hmp::options("file", options);
            let mut words = self::words(words.as_object().unwrap_or(&Arguments::new()));
            if !words.iter().any(|(key, _)| key == "if") {
                words.push(("if".into(), "none".into()));
            }
            let drive = context.target.maker.drive(&words)?;
            let text = format!("drive '{}' is open", drive.id);
            context.target.machine.add_drive(&drive)?;
            Ok(text.into())
        },
    )
    .takes(&[need("options", Kind::Rest)]),
    people(&["drive_del"], "close a disk that no device uses", |context, arguments| {
        context.target.machine.remove_drive(need_text(arguments, "id")?)?;
        done()
    })
    .takes(&[need("id", Kind::Text)]),
    program("blockdev-add", "open a disk, as -blockdev describes it", |context, arguments| {
        let json = Value::Object(arguments.clone()).to_string();
        let drive = context.target.maker.blockdev(&json)?;
        context.target.machine.add_drive(&drive)?;
        done()
    })
    .takes(&[need("driver", Kind::Options("driver"))]),
    program("blockdev-del", "close a disk that no device uses", |context, arguments| {
        context.target.machine.remove_drive(need_text(arguments, "node-name")?)?;
        done()
    })
    .takes(&[need("node-name", Kind::Text)]),
    both(
        "query-hotpluggable-cpus",
        &["info hotpluggable-cpus"],
        "the processors that are there and those that may come",
        |context, _| Ok(context.target.machine.cpus().iter().map(cpu).collect()),
    )
    .returns(Type::List(&Type::Object(&[
        must("type", Type::Text),
        must("vcpus-count", Type::Int),
        must("props", Type::Object(super::processor::PLACE)),
        may("qom-path", Type::Text),
    ])))
    .shown(|answer| {
        let rows = answer.as_array().into_iter().flatten();
        rows.map(|row| {
            let props = &row["props"];
            let there = if row["qom-path"].is_string() { "present" } else { "absent" };
            format!(
                "  socket-id={} core-id={} thread-id={}: {there}\n",
                props["socket-id"], props["core-id"], props["thread-id"]
            )
        })
        .collect()
    }),
];

fn cpu(cpu: &HotpluggableCpu) -> Value {
    let mut row = json!({
        "type": format!("max-{CPU}"),
        "vcpus-count": 1,
        "props": { "socket-id": cpu.socket, "core-id": cpu.core, "thread-id": cpu.thread },
    });
    if cpu.present {
        let path = match &cpu.id {
            Some(id) => format!("/machine/peripheral/{id}"),
            None => format!("/machine/unattached/device[{}]", cpu.number),
        };
        row["qom-path"] = path.into();
    }
    row
}

/// As an option's words; QMP's numbers and truths are what people write, and so are
/// dots between the names of objects in objects.
pub(super) fn words(arguments: &Arguments) -> Words {
    let mut words = Words::new();
    for (key, value) in arguments {
        let value = match value {
            Value::Object(inner) => {
                let inner = self::words(inner).into_iter();
                words.extend(inner.map(|(name, value)| (format!("{key}.{name}"), value)));
                continue;
            }
            Value::String(text) => text.clone(),
            Value::Bool(true) => "on".into(),
            Value::Bool(false) => "off".into(),
            other => other.to_string(),
        };
        words.push((key.clone(), value));
    }
    words
}

fn add_cpu(context: &Context<'_>, words: &Words) -> Answer {
    let mut id = None;
    let (mut socket, mut core, mut thread) = (None, None, None);
    for (key, value) in words {
        let place = match &**key {
            "driver" => continue,
            "id" => {
                id = Some(value.as_str());
                continue;
            }
            "socket-id" => &mut socket,
            "core-id" => &mut core,
            "thread-id" => &mut thread,
            other => return Err(format!("Property '{other}' not found").into()),
        };
        let number: u32 = value
            .parse()
            .map_err(|_| format!("{key}={value}: takes a number"))?;
        *place = Some(number);
    }
    let wanted = (socket.unwrap_or(0), core.unwrap_or(0), thread.unwrap_or(0));
    let machine = &context.target.machine;
    let cpus = machine.cpus();
    let found = cpus
        .iter()
        .find(|cpu| (cpu.socket, cpu.core, cpu.thread) == wanted)
        .ok_or(
            "there is no such socket-id=, core-id=, thread-id=; query-hotpluggable-cpus lists them",
        )?;
    machine.add_cpu(found.number, id)?;
    done()
}
