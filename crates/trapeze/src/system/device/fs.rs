//! `-fsdev` and `-device virtio-fs-pci`.

use super::{Property, number, property};
use crate::near::did_you_mean;
use crate::system::keyval::{self, on_off};
use crate::system::parse::Options;
use machine::{DeviceConfig, DeviceModel, VirtioFsConfig};
use std::path::PathBuf;
use virtio::fs;

/// A folder with a name (`-fsdev`).
pub(crate) struct Folder {
    id: String,
    path: PathBuf,
    read_only: bool,
}

/// A device without a folder; its path holds the name of the `-fsdev` until
/// [`resolve`].
pub(super) fn new() -> DeviceModel {
    DeviceModel::VirtioFs(VirtioFsConfig {
        folder: PathBuf::new(),
        read_only: false,
        options: fs::Options {
            tag: String::new(),
            queues: 1,
            queue_size: fs::DEFAULT_QUEUE_SIZE,
        },
    })
}

pub(super) const PROPERTIES: [Property; 4] = [
    property("fsdev", "<str> - id of a -fsdev", |d, v| {
        fs(d).folder = v.into();
        Ok(())
    }),
    property(
        "tag",
        "<str> - what the guest mounts, up to 36 bytes",
        |d, v| {
            if v.is_empty() || v.len() > fs::TAG_LEN {
                return Err(format!("takes 1 to {} bytes", fs::TAG_LEN));
            }
            fs(d).options.tag = v.into();
            Ok(())
        },
    ),
    property(
        "num-request-queues",
        "<uint16> - queues for requests, 1 to 64 (default: 1)",
        |d, v| {
            let queues = number(v)?;
            if !(1..=64).contains(&queues) {
                return Err("takes 1 to 64".into());
            }
            fs(d).options.queues = queues;
            Ok(())
        },
    ),
    property(
        "queue-size",
        "<uint16> - size of each queue (default: 128)",
        |d, v| {
            let size: u16 = number(v)?;
            if !(4..=1024).contains(&size) || !size.is_power_of_two() {
                return Err("takes a power of two from 4 to 1024".into());
            }
            fs(d).options.queue_size = size;
            Ok(())
        },
    ),
];

/// The device that a row of [`PROPERTIES`] is about.
fn fs(device: &mut DeviceConfig) -> &mut VirtioFsConfig {
    match &mut device.model {
        DeviceModel::VirtioFs(fs) => fs,
        model => unreachable!("a property of virtio-fs for {model:?}"),
    }
}

/// `-fsdev`.
pub(in crate::system) fn apply(options: &mut Options, value: &str) -> Result<(), String> {
    let mut words = keyval::parse(value).into_iter();
    match words.next() {
        Some((name, None)) if name == "local" => {}
        _ => return Err("the only driver is local: local,id=ID,path=DIR".into()),
    }
    let (mut id, mut path, mut read_only) = (None, None, false);
    for (key, value) in words {
        let value = value.ok_or_else(|| format!("{key}= needs a value"))?;
        match &*key {
            "id" => id = Some(keyval::id(&value).map_err(|why| format!("id={value}: {why}"))?),
            "path" => path = Some(value),
            "readonly" => read_only = on_off(&value)?,
            // What the folder's owner may, and nobody else.
            "security_model" if value == "none" => {}
            "security_model" => return Err("security_model takes none".into()),
            key => {
                let all = ["id", "path", "readonly", "security_model"];
                let near = did_you_mean(key, all.into_iter());
                return Err(format!("there is no property '{key}'{near}"));
            }
        }
    }
    let id = id.filter(|id| !id.is_empty()).ok_or("id= is missing")?;
    let path = path.filter(|p| !p.is_empty()).ok_or("path= is missing")?;
    if options.folders.iter().any(|f| f.id == id) {
        return Err(format!("two folders have the id '{id}'"));
    }
    options.folders.push(Folder {
        id,
        path: path.into(),
        read_only,
    });
    Ok(())
}

/// Puts the folders in the place of their names.
pub(in crate::system) fn resolve(options: &mut Options) -> Result<(), String> {
    let refuse = |why: String| Err(format!("-device virtio-fs-pci: {why}"));
    let mut tags: Vec<String> = Vec::new();
    for device in &mut options.config.devices {
        let DeviceModel::VirtioFs(fs) = &mut device.model else {
            continue;
        };
        let id = fs.folder.to_string_lossy().into_owned();
        let Some(folder) = options.folders.iter().find(|f| f.id == id) else {
            if id.is_empty() {
                return refuse("fsdev= is missing".into());
            }
            let near = did_you_mean(&id, options.folders.iter().map(|f| &*f.id));
            return refuse(format!("there is no fsdev '{id}'{near}"));
        };
        fs.folder = folder.path.clone();
        fs.read_only = folder.read_only;
        let tag = fs.options.tag.clone();
        if tag.is_empty() {
            return refuse("tag= is missing".into());
        }
        if tags.contains(&tag) {
            return refuse(format!("two devices have the tag '{tag}'"));
        }
        tags.push(tag);
    }
    Ok(())
}
