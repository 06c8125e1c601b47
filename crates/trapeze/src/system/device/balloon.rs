//! `-device virtio-balloon-pci` and `-balloon`.

use super::{Property, property};
use crate::system::keyval::{self, on_off};
use crate::system::parse::Options;
use machine::{DeviceConfig, DeviceModel};
use virtio::balloon;

/// A balloon that does nothing by itself.
pub(super) fn new() -> DeviceModel {
    DeviceModel::VirtioBalloon(balloon::Options::default())
}

pub(super) const PROPERTIES: [Property; 4] = [
    property(
        "deflate-on-oom",
        "<bool> - a guest without memory takes its pages back (default: off)",
        |d, v| {
            balloon(d).deflate_on_oom = on_off(v)?;
            Ok(())
        },
    ),
    property(
        "free-page-reporting",
        "<bool> - the host gets pages that the guest freed (default: off)",
        |d, v| {
            balloon(d).free_page_reporting = on_off(v)?;
            Ok(())
        },
    ),
    property(
        "free-page-hint",
        "<bool> - off: hints are for migration, which there is not",
        |_, v| match on_off(v)? {
            false => Ok(()),
            true => Err("free-page hints are not supported; there is free-page-reporting".into()),
        },
    ),
    property(
        "page-poison",
        "<bool> - on: reported pages that the guest poisons stay",
        |_, v| match on_off(v)? {
            true => Ok(()),
            false => Err("cannot be turned off".into()),
        },
    ),
];

/// The balloon that a row of [`PROPERTIES`] is about.
fn balloon(device: &mut DeviceConfig) -> &mut balloon::Options {
    match &mut device.model {
        DeviceModel::VirtioBalloon(options) => options,
        model => unreachable!("a property of balloons for {model:?}"),
    }
}

/// `-balloon`.
pub(in crate::system) fn apply(options: &mut Options, value: &str) -> Result<(), String> {
    let mut words = keyval::parse(value).into_iter();
    match words.next() {
        Some((name, None)) if name == "none" && words.next().is_none() => Ok(()),
        Some((name, None)) if name == "virtio" => {
            let rest = value.strip_prefix("virtio").unwrap_or_default();
            super::apply(options, &format!("virtio-balloon-pci{rest}"))
        }
        _ => Err("takes none or virtio[,PROPERTY=VALUE...]".into()),
    }
}

/// There is only one host memory to give to.
pub(super) fn check(devices: &[DeviceConfig]) -> Result<(), String> {
    let balloons = devices.iter().map(|d| &d.model);
    let balloons = balloons.filter(|m| matches!(m, DeviceModel::VirtioBalloon(_)));
    match balloons.count() {
        0 | 1 => Ok(()),
        _ => Err("-device virtio-balloon-pci: a machine has one balloon".into()),
    }
}
