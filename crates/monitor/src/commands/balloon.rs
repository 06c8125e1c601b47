//! The balloon.

use crate::command::*;
use crate::target::Target;
use machine::DeviceModel;
use serde_json::json;

pub static COMMANDS: &[Command] = &[
    both(
        "query-balloon",
        &["info balloon"],
        "memory that the guest has, in bytes",
        |context, _| {
            check(context.target)?;
            let total = total(context.target);
            let taken = u64::from(context.target.machine.balloon().pages()) << 12;
            Ok(json!({ "actual": total.saturating_sub(taken) }))
        },
    )
    .returns(Type::Object(&[must("actual", Type::Int)]))
    .shown(|answer| {
        let bytes = answer["actual"].as_u64().unwrap_or(0);
        format!("balloon: actual={}", bytes >> 20)
    }),
    both(
        "balloon",
        &["balloon"],
        "ask the guest to use so much memory only",
        |context, arguments| {
            check(context.target)?;
            let value = need_number(arguments, "value")?;
            let total = total(context.target);
            if value == 0 {
                return Err("Parameter 'target' expects a size".into());
            }
            // As QEMU: who asks for more gets all there is.
            let taken = total.saturating_sub(value) >> 12;
            let machine = &context.target.machine;
            machine.balloon().set_target(u32::try_from(taken)?);
            done()
        },
    )
    .takes(&[need("value", Kind::Size)]),
];

fn total(target: &Target) -> u64 {
    target.machine.config().map_or(0, |config| config.ram_bytes)
}

fn check(target: &Target) -> Result<(), Failure> {
    let devices = target.machine.devices();
    let is = |model: &DeviceModel| matches!(model, DeviceModel::VirtioBalloon(_));
    match devices.iter().any(|device| is(&device.model)) {
        true => Ok(()),
        false => Err(Failure::of(
            Class::DeviceNotActive,
            "No balloon device has been activated",
        )),
    }
}
