//! `-drive`: images, and the devices that `if=virtio` adds for them.

use super::keyval::{self, on_off};
use super::parse::Options;
use crate::near::did_you_mean;
use disk::{CacheMode, DiskOptions, Format};
use machine::{DeviceConfig, DeviceModel, DriveConfig, VirtioBlkConfig};
use virtio::blk::OnError;

/// How a drive reaches the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Interface {
    /// By its own device.
    Virtio,
    /// By a `-device` that names it.
    #[default]
    None,
}

/// A drive as the command line describes it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Drive {
    interface: Interface,
    id: Option<String>,
    /// Its number among those of its interface.
    index: Option<u32>,
    file: Option<String>,
    pub(super) options: DiskOptions,
    pub(super) read_error: Option<OnError>,
    pub(super) write_error: Option<OnError>,
    snapshot: Option<bool>,
}

/// One property.
struct Property {
    name: &'static str,
    values: &'static str,
    apply: fn(&mut Drive, &str) -> Result<(), String>,
}

const fn property(
    name: &'static str,
    values: &'static str,
    apply: fn(&mut Drive, &str) -> Result<(), String>,
) -> Property {
    Property {
        name,
        values,
        apply,
    }
}

const PROPERTIES: [Property; 14] = [
    property("file", "the image", |d, v| {
        d.file = Some(v.into());
        Ok(())
    }),
    property(
        "if",
        "virtio or none; ide, scsi and others are not there yet",
        interface,
    ),
    property("id", "a name for -device", |d, v| {
        d.id = Some(keyval::id(v)?);
        Ok(())
    }),
    property("index", "a number, in the id by default", |d, v| {
        d.index = Some(v.parse().map_err(|_| NO_SUCH)?);
        Ok(())
    }),
    property("format", "raw or qcow2", format),
    property("driver", "raw or qcow2, as format=", format),
    property(
        "cache",
        "writeback, none, writethrough, directsync or unsafe",
        |d, v| {
            d.options.cache = CacheMode::by_name(v).ok_or(NO_SUCH)?;
            Ok(())
        },
    ),
    property("readonly", "on or off", |d, v| {
        d.options.read_only = on_off(v)?;
        Ok(())
    }),
    property("media", "disk", |_, v| match v {
        "disk" => Ok(()),
        _ => Err(NO_SUCH.into()),
    }),
    property("discard", "unmap (on) or ignore (off)", |d, v| {
        d.options.discard = match v {
            "unmap" | "on" => true,
            "ignore" | "off" => false,
            _ => return Err(NO_SUCH.into()),
        };
        Ok(())
    }),
    property("rerror", READ_ERRORS, |d, v| {
        d.read_error = Some(read_error(v)?);
        Ok(())
    }),
    property("werror", WRITE_ERRORS, |d, v| {
        d.write_error = Some(write_error(v)?);
        Ok(())
    }),
    property(
        "aio",
        "threads; native and io_uring are not there",
        |_, v| match v {
            "threads" => Ok(()),
            _ => Err(NO_SUCH.into()),
        },
    ),
    property("snapshot", "on or off", |d, v| {
        d.snapshot = Some(on_off(v)?);
        Ok(())
    }),
];

const READ_ERRORS: &str = "report, ignore or stop";
const WRITE_ERRORS: &str = "report, ignore, stop or enospc";
const NO_SUCH: &str = "no such value";

fn format(drive: &mut Drive, value: &str) -> Result<(), String> {
    drive.options.format = Some(Format::by_name(value).ok_or(NO_SUCH)?);
    Ok(())
}

fn interface(drive: &mut Drive, value: &str) -> Result<(), String> {
    drive.interface = match value {
        "virtio" => Interface::Virtio,
        "none" => Interface::None,
        _ => return Err(NO_SUCH.into()),
    };
    Ok(())
}

/// A value of `rerror=`.
pub(super) fn read_error(value: &str) -> Result<OnError, String> {
    match value {
        "report" => Ok(OnError::Report),
        "ignore" => Ok(OnError::Ignore),
        "stop" => Ok(OnError::Stop),
        _ => Err(NO_SUCH.into()),
    }
}

/// A value of `werror=`.
pub(super) fn write_error(value: &str) -> Result<OnError, String> {
    match value {
        "enospc" => Ok(OnError::Enospc),
        other => read_error(other),
    }
}

/// `-hda` to `-hdd`, and an image without an option: a virtio disk, as long as
/// there is no IDE.
pub(super) fn plain(options: &mut Options, file: &str) -> Result<(), String> {
    options.drives.push(Drive {
        interface: Interface::Virtio,
        file: Some(file.into()),
        ..Drive::default()
    });
    Ok(())
}

/// `-drive`.
pub(super) fn apply(options: &mut Options, value: &str) -> Result<(), String> {
    let mut drive = Drive::default();
    let mut interface_given = false;
    for (key, value) in keyval::parse(value) {
        let row = PROPERTIES.iter().find(|p| p.name == key).ok_or_else(|| {
            let names = PROPERTIES.iter().map(|p| p.name);
            let all: Vec<_> = names.clone().collect();
            let near = did_you_mean(&key, names);
            format!(
                "property '{key}' is not supported{near}; there are {}",
                all.join(", ")
            )
        })?;
        let value = value.ok_or_else(|| format!("{key}= needs a value: {}", row.values))?;
        (row.apply)(&mut drive, &value)
            .map_err(|why| format!("{key}={value}: {why}; {key}= takes {}", row.values))?;
        interface_given |= key == "if";
    }
    if !interface_given {
        return Err(
            "if= is missing: the default would be IDE, which is not there yet; \
                    write if=virtio, or if=none for a -device"
                .into(),
        );
    }
    if drive.file.is_none() {
        return Err("file= is missing; drives without a medium are not supported".into());
    }
    options.drives.push(drive);
    Ok(())
}

/// Gives every drive its id, adds the devices of `if=virtio` and hands what
/// is left to the machine. QEMU numbers drives by interface.
pub(super) fn resolve(options: &mut Options) -> Result<(), String> {
    let mut taken: Vec<(&str, u32)> = Vec::new();
    for drive in std::mem::take(&mut options.drives) {
        let word = match drive.interface {
            Interface::Virtio => "virtio",
            Interface::None => "none",
        };
        let is_free = |index: &u32| !taken.contains(&(word, *index));
        let index = match drive.index {
            Some(index) if !is_free(&index) => {
                return Err(format!("-drive: index={index}: if={word} has one already"));
            }
            Some(index) => index,
            None => (0..).find(is_free).unwrap_or(u32::MAX),
        };
        taken.push((word, index));
        let id = drive.id.clone().unwrap_or_else(|| format!("{word}{index}"));
        if options.config.drives.iter().any(|d| d.id == id) {
            return Err(format!("-drive: two drives have the id '{id}'"));
        }
        if drive.interface == Interface::Virtio {
            let model = DeviceModel::VirtioBlk(VirtioBlkConfig {
                drive: id.clone(),
                options: super::device::blk_defaults(),
            });
            let device = DeviceConfig {
                mmio: options.config.board.pci.is_none(),
                ..DeviceConfig::new(model)
            };
            options.config.devices.push(device);
        }
        finish_devices(options, &drive, &id);
        let snapshot = drive.snapshot.unwrap_or(options.snapshot);
        options.config.drives.push(DriveConfig {
            id,
            file: drive.file.unwrap_or_default(),
            // What is written goes elsewhere.
            snapshot: snapshot && !drive.options.read_only,
            options: drive.options,
        });
    }
    Ok(())
}

/// What a drive says about the devices in front of it. What a device says
/// itself counts more.
fn finish_devices(options: &mut Options, drive: &Drive, id: &str) {
    for device in &mut options.config.devices {
        let DeviceModel::VirtioBlk(blk) = &mut device.model else {
            continue;
        };
        if blk.drive == id {
            let options = &mut blk.options;
            options.write_cache &= !drive.options.cache.write_through();
            options.read_error = options.read_error.or(drive.read_error);
            options.write_error = options.write_error.or(drive.write_error);
        }
    }
}
