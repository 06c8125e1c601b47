//! `img rebase`.

use super::copy::{PIECE, is_zero};
use super::getopt::Parsed;
use super::images::{Opening, Use, cache_mode, finish, one_file};
use super::progress::Progress;
use super::table::Outcome;
use super::{Tool, try_help};
use disk::qcow2::BackingName;
use disk::{BlockDeviceExt, CacheMode, Format, Image, ImageName};

pub(super) fn run(tool: &Tool, parsed: &Parsed) -> Outcome {
    let blind = parsed.has("backing-unsafe");
    let name = one_file(parsed)?;
    let backing = parsed.value("backing");
    if backing.is_none() && !blind {
        return Err(try_help(
            "Must specify backing file (-b) or use unsafe mode (-u)",
        ));
    }
    let backing = backing.filter(|b| !b.is_empty());
    let format = parsed.value("backing-format");
    let cache = cache_mode(parsed.value("cache"), CacheMode::Writeback, "")?;
    cache_mode(
        parsed.value("backing-cache"),
        CacheMode::Writeback,
        "source ",
    )?;
    let purpose = if blind { Use::WriteAlone } else { Use::Write };
    let top = tool.open(
        name,
        &Opening {
            cache,
            ..Opening::of(purpose, parsed)
        },
    )?;
    if let Some(format) = format.filter(|f| Format::by_name(f).is_none()) {
        return Err(format!("Invalid format name: '{format}'"));
    }
    if !blind {
        let new = open_new(tool, parsed, &top, backing, format)?;
        take_over(&top, new.as_ref(), parsed)?;
    }
    let refused = |why: &str| match backing {
        Some(b) => format!("Could not change the backing file to '{b}': {why}"),
        None => format!("Could not change the backing file to '': {why}"),
    };
    let Some(qcow2) = top.qcow2() else {
        return Err(refused("Operation not supported"));
    };
    if backing.is_some() && format.is_none() {
        return Err(refused("backing format must be specified"));
    }
    let written = backing.map(|b| BackingName {
        name: b.to_string(),
        format: format.map(String::from),
    });
    qcow2
        .set_backing_name(written)
        .map_err(|e| refused(&e.to_string()))?;
    finish(&top)?;
    Ok(0)
}

fn open_new(
    tool: &Tool,
    parsed: &Parsed,
    top: &Image,
    backing: Option<&str>,
    format: Option<&str>,
) -> Result<Option<Image>, String> {
    let Some(backing) = backing else {
        return Ok(None);
    };
    let failed = |why: String| format!("Could not open new backing file '{backing}': {why}");
    let name = ImageName::parse_backing(backing, top.path()).map_err(|e| failed(e.to_string()))?;
    let path = name.path.to_string_lossy().into_owned();
    let opening = Opening {
        format,
        ..Opening::of(Use::Read, parsed)
    };
    let opened = tool.open(&path, &opening).map_err(|why| {
        let prefix = format!("Could not open '{path}': ");
        failed(why.strip_prefix(&prefix).unwrap_or(&why).to_string())
    })?;
    Ok(Some(opened))
}

/// Writes into the image what it would otherwise lose with its old backing
/// file.
fn take_over(top: &Image, new: Option<&Image>, parsed: &Parsed) -> Result<(), String> {
    let Some(qcow2) = top.qcow2() else {
        return Ok(());
    };
    let device = top.device();
    let size = device.len();
    let cluster = qcow2.facts().cluster_size;
    let compress = parsed.has("compress");
    let shown = parsed.has("progress") && !parsed.has("quiet");
    let mut progress = Progress::new(shown, size);
    let (mut old, mut other) = (vec![0; PIECE as usize], vec![0; PIECE as usize]);
    let mut at = 0;
    while at < size {
        let failed = |e: disk::Errno| format!("error while rebasing at byte {at}: {e}");
        let status = device.status(at, size - at).map_err(failed)?;
        if status.allocated {
            at += status.len;
            continue;
        }
        let len = status.len.min(PIECE);
        // Statuses may end where the old backing file does.
        let len = match at + len < size {
            true => (at + len).next_multiple_of(cluster).min(size) - at,
            false => len,
        }
        .min(PIECE);
        let (old, other) = (&mut old[..len as usize], &mut other[..len as usize]);
        device.read_at(old, at).map_err(failed)?;
        read_or_zeros(new, other, at).map_err(failed)?;
        let mut done = 0;
        while done < len {
            let end = len.min(((at + done) / cluster + 1) * cluster - at);
            let (from, to) = (done as usize, end as usize);
            let bytes = &old[from..to];
            if bytes != &other[from..to] {
                let place = at + done;
                let result = match (is_zero(bytes), compress) {
                    (true, _) => device.write_zeroes(place, end - done, true),
                    (false, true) => qcow2.write_compressed(bytes, place),
                    (false, false) => device.write_at(bytes, place),
                };
                result.map_err(failed)?;
            }
            done = end;
        }
        at += len;
        progress.at(at);
    }
    progress.end();
    Ok(())
}

fn read_or_zeros(image: Option<&Image>, out: &mut [u8], at: u64) -> disk::IoResult<()> {
    out.fill(0);
    let Some(image) = image else {
        return Ok(());
    };
    let there = image.device().len().saturating_sub(at);
    let len = there.min(out.len() as u64) as usize;
    image.device().read_at(&mut out[..len], at)
}
