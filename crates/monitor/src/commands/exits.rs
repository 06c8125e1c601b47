//! Exits, recorded for `trapeze trace` and `trapeze stat --exits`. QEMU has nothing
//! like it.

use crate::command::*;
use hv::VcpuExit;
use machine::ExitRecord;
use serde_json::{Value, json};

/// Exits in one answer.
const MOST: usize = 4096;

const RECORDED: Type = Type::Object(&[
    must("recording", Type::Bool),
    must("now-ns", Type::Int),
    must("lost", Type::Int),
    must(
        "exits",
        // vCPU, times when it had entered the guest, left it, and was served, KVM's
        // reason; for ports and devices' memory also "read" or "write", address,
        // size, and what was written.
        Type::List(&Type::List(&Type::Any)),
    ),
]);

pub static COMMANDS: &[Command] = &[
    program(
        "x-record-exits",
        "records what the vCPUs leave the guest for, from now on, or no longer",
        |context, arguments| {
            let on = arguments.get("enable").and_then(Value::as_bool);
            context.target.machine.record_exits(on == Some(true));
            done()
        },
    )
    .takes(&[need("enable", Kind::Switch)]),
    program(
        "x-recorded-exits",
        "takes the next of the exits recorded, at most 4096; times on a clock of their own",
        |context, _| {
            let read = context.target.machine.recorded_exits(MOST);
            let exits: Vec<Value> = read.exits.iter().map(exit).collect();
            Ok(json!({
                "recording": read.recording,
                "now-ns": read.now_ns,
                "lost": read.lost,
                "exits": exits,
            }))
        },
    )
    .returns(RECORDED),
];

fn exit(record: &ExitRecord) -> Value {
    let mut fields: Vec<Value> = vec![
        record.vcpu.into(),
        record.entered_ns.into(),
        record.left_ns.into(),
        record.served_ns.into(),
        record.exit.reason().into(),
    ];
    let access = match record.exit {
        VcpuExit::IoIn { port, size } => Some(("read", port.into(), size, None)),
        VcpuExit::IoOut { port, size, value } => {
            Some(("write", port.into(), size, Some(value.into())))
        }
        VcpuExit::MmioRead { gpa, size } => Some(("read", gpa, size, None)),
        VcpuExit::MmioWrite { gpa, size, value } => Some(("write", gpa, size, Some(value))),
        _ => None,
    };
    if let Some((way, address, size, value)) = access {
        let (address, value): (u64, Option<u64>) = (address, value);
        fields.extend([way.into(), address.into(), size.into(), value.into()]);
    }
    fields.into()
}
