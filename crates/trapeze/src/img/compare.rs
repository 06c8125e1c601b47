//! `img compare`.

use super::copy::{PIECE, is_zero};
use super::getopt::Parsed;
use super::images::{Opening, Use, cache_mode};
use super::progress::Progress;
use super::table::Outcome;
use super::{Tool, try_help};
use disk::{BlockDeviceExt, CacheMode, Image};

/// Exit code for images that differ.
const DIFFERENT: u8 = 1;

pub(super) fn run(tool: &Tool, parsed: &Parsed) -> Outcome {
    let [first, second] = &parsed.operands[..] else {
        return Err(try_help("Expecting two image file names"));
    };
    let cache = cache_mode(parsed.value("cache"), CacheMode::Writeback, "source ")?;
    let open = |name: &str, format: &str| {
        let opening = Opening {
            format: parsed.value(format),
            cache,
            ..Opening::of(Use::Read, parsed)
        };
        tool.open(name, &opening)
    };
    let images = (open(first, "a-format")?, open(second, "b-format")?);
    let quiet = parsed.has("quiet");
    let say = |text: &str| {
        if !quiet {
            println!("{text}");
        }
    };
    let (a, b) = (images.0.device().len(), images.1.device().len());
    let strict = parsed.has("strict");
    if strict && a != b {
        say("Strict mode: Image size mismatch!");
        return Ok(DIFFERENT);
    }
    let mut progress = Progress::new(parsed.has("progress") && !quiet, a.max(b));
    let difference = match compare(&images, a.min(b), strict, &mut progress)? {
        Some(found) => Some(found),
        None => {
            if a != b {
                say("Warning: Image size mismatch!");
            }
            let longer = if a > b { &images.0 } else { &images.1 };
            rest_is_zero(longer, a.min(b), a.max(b), &mut progress)?
        }
    };
    let code = match difference {
        Some(text) => {
            say(&text);
            DIFFERENT
        }
        None => {
            say("Images are identical.");
            0
        }
    };
    progress.end();
    Ok(code)
}

fn reading(name: &Image, at: u64) -> impl Fn(disk::Errno) -> String {
    let name = name.path().display().to_string();
    move |e| format!("Error while reading offset {at} of {name}: {e}")
}

fn compare(
    images: &(Image, Image),
    end: u64,
    strict: bool,
    progress: &mut Progress,
) -> Result<Option<String>, String> {
    let (mut one, mut two) = (vec![0; PIECE as usize], vec![0; PIECE as usize]);
    let mut at = 0;
    while at < end {
        let status = |image: &Image| {
            image
                .status(at, end - at)
                .map_err(|e| format!("Sector allocation test failed: {e}"))
        };
        let (a, b) = (status(&images.0)?, status(&images.1)?);
        let len = a.len.min(b.len);
        if strict && !a.same_allocation(&b) {
            return Ok(Some(format!(
                "Strict mode: Offset {at} block status mismatch!"
            )));
        }
        let len = match a.zero && b.zero {
            true => len,
            false => {
                let len = len.min(PIECE);
                let (one, two) = (&mut one[..len as usize], &mut two[..len as usize]);
                images
                    .0
                    .device()
                    .read_at(one, at)
                    .map_err(reading(&images.0, at))?;
                images
                    .1
                    .device()
                    .read_at(two, at)
                    .map_err(reading(&images.1, at))?;
                if let Some(sector) = first_difference(one, two) {
                    return Ok(Some(mismatch(at + sector)));
                }
                len
            }
        };
        at += len;
        progress.at(at);
    }
    Ok(None)
}

fn mismatch(offset: u64) -> String {
    format!("Content mismatch at offset {offset}!")
}

/// Offset of the first sector that differs.
fn first_difference(one: &[u8], two: &[u8]) -> Option<u64> {
    let sectors = one.chunks(512).zip(two.chunks(512));
    let different = sectors.enumerate().find(|(_, (a, b))| a != b);
    different.map(|(n, _)| n as u64 * 512)
}

fn rest_is_zero(
    image: &Image,
    from: u64,
    end: u64,
    progress: &mut Progress,
) -> Result<Option<String>, String> {
    let mut bytes = vec![0; PIECE as usize];
    let mut at = from;
    while at < end {
        let status = image
            .status(at, end - at)
            .map_err(|e| format!("Sector allocation test failed: {e}"))?;
        let mut len = status.len;
        if !status.zero {
            len = len.min(PIECE);
            let bytes = &mut bytes[..len as usize];
            image
                .device()
                .read_at(bytes, at)
                .map_err(reading(image, at))?;
            let sector = bytes.chunks(512).position(|s| !is_zero(s));
            if let Some(n) = sector {
                return Ok(Some(mismatch(at + n as u64 * 512)));
            }
        }
        at += len;
        progress.at(at);
    }
    Ok(None)
}
