//! `img commit`.

use super::copy::PIECE;
use super::getopt::Parsed;
use super::images::{Opening, Use, cache_mode, finish, one_file};
use super::progress::Progress;
use super::table::Outcome;
use super::{Tool, try_help};
use disk::{BlockDeviceExt, CacheMode, Image, ImageName, Preallocation};

pub(super) fn run(tool: &Tool, parsed: &Parsed) -> Outcome {
    let cache = cache_mode(parsed.value("cache"), CacheMode::Writeback, "")?;
    let name = one_file(parsed)?;
    let base = parsed.value("base");
    let top = tool.open(
        name,
        &Opening {
            cache,
            ..Opening::of(Use::WriteAlone, parsed)
        },
    )?;
    if top.backing_name().is_none() {
        return match base {
            Some(base) => Err(not_in_chain(base, name)),
            None => Err("Image does not have a backing file".into()),
        };
    }
    let (layers, target) = open_layers(tool, top, name, base, cache)?;
    let quiet = parsed.has("quiet");
    copy(&layers, &target, parsed.has("progress") && !quiet)?;
    finish(&target)?;
    let keep = parsed.has("drop") || base.is_some();
    if let (false, Some(qcow2)) = (keep, layers[0].qcow2()) {
        qcow2
            .make_empty()
            .map_err(|e| format!("Could not empty {name}: {e}"))?;
    }
    if !quiet {
        println!("Image committed.");
    }
    Ok(0)
}

fn not_in_chain(base: &str, name: &str) -> String {
    format!("Did not find '{base}' in the backing chain of '{name}'")
}

/// The images above the base, each by itself, and the base for writing.
fn open_layers(
    tool: &Tool,
    top: Image,
    name: &str,
    base: Option<&str>,
    cache: CacheMode,
) -> Result<(Vec<Image>, Image), String> {
    let mut layers = vec![top];
    loop {
        let upper = &layers[layers.len() - 1];
        let Some(backing) = upper.backing_name() else {
            return Err(not_in_chain(base.unwrap_or_default(), name));
        };
        let lower = ImageName::parse_backing(&backing.name, upper.path())
            .map_err(|e| format!("Could not open '{name}': Could not open backing file: {e}"))?;
        let path = lower.path.to_string_lossy().into_owned();
        let format = backing.format.clone();
        let wanted = base.is_none_or(|b| b == backing.name || b == path);
        let opening = Opening {
            cache,
            ..Opening::new(Use::ReadAlone, format.as_deref())
        };
        let open = |purpose| {
            let opening = Opening { purpose, ..opening };
            tool.open(&path, &opening).map_err(|why| {
                let why = why.replacen(&format!("Could not open '{path}': "), "", 1);
                format!("Could not open '{name}': Could not open backing file: {why}")
            })
        };
        // As a backing file first: whoever uses it is told so.
        let opened = open(Use::ReadAlone)?;
        if wanted {
            drop(opened);
            return Ok((layers, open(Use::Write)?));
        }
        if layers.len() >= disk::MAX_CHAIN {
            return Err(try_help("The backing chain is too long"));
        }
        layers.push(opened);
    }
}

/// Writes what the layers determine into the target.
fn copy(layers: &[Image], target: &Image, shown: bool) -> Result<(), String> {
    let size = layers[0].device().len();
    if target.device().len() < size {
        target
            .resize(size, Preallocation::Off)
            .map_err(|e| format!("Failed to resize backing file: {e}"))?;
    }
    let mut progress = Progress::new(shown, size);
    let mut buffer = vec![0; PIECE as usize];
    let mut at = 0;
    while at < size {
        let failed = |e: disk::Errno| format!("Failed to commit at byte {at}: {e}");
        // The first layer that determines the bytes, and for how far.
        let mut len = size - at;
        let mut from = None;
        for layer in layers {
            let end = layer.device().len();
            if at >= end {
                // Below a shorter layer nothing shows.
                from = Some((layer, true));
                break;
            }
            let status = layer
                .device()
                .status(at, len.min(end - at))
                .map_err(failed)?;
            len = len.min(status.len);
            if status.allocated {
                from = Some((layer, status.zero));
                break;
            }
        }
        match from {
            None => {}
            Some((_, true)) => target
                .device()
                .write_zeroes(at, len, true)
                .map_err(failed)?,
            Some((layer, false)) => {
                len = len.min(PIECE);
                let bytes = &mut buffer[..len as usize];
                layer.device().read_at(bytes, at).map_err(failed)?;
                target.device().write_at(bytes, at).map_err(failed)?;
            }
        }
        at += len;
        progress.at(at);
    }
    progress.end();
    Ok(())
}
