//! `img resize`.

use super::getopt::Parsed;
use super::images::{Opening, Use, finish};
use super::options::preallocation;
use super::table::Outcome;
use super::{Tool, sizes, try_help};
use disk::Preallocation;

/// How the new size was given.
enum Change {
    To,
    By,
    Less,
}

pub(super) fn run(tool: &Tool, parsed: &Parsed) -> Outcome {
    let [name, size] = &parsed.operands[..] else {
        return Err(try_help("Expecting image file name and size"));
    };
    let how = match parsed.value("preallocation") {
        None => Preallocation::Off,
        Some(text) => {
            preallocation(text).ok_or_else(|| format!("Invalid preallocation mode '{text}'"))?
        }
    };
    let (change, digits) = match size.as_bytes().first() {
        Some(b'+') => (Change::By, &size[1..]),
        Some(b'-') => (Change::Less, &size[1..]),
        _ => (Change::To, &size[..]),
    };
    let amount = sizes::parse(digits).ok_or_else(|| sizes::expected("size"))?;
    let image = tool.open(name, &Opening::of(Use::Write, parsed))?;
    let old = image.device().len();
    let new = match change {
        Change::To => Some(amount),
        Change::By => old.checked_add(amount),
        Change::Less => old.checked_sub(amount),
    };
    let new = new.filter(|n| *n > 0 && *n <= i64::MAX as u64);
    let new = new.ok_or("New image size must be positive")?;
    if new <= old && how != Preallocation::Off {
        return Err("Preallocation can only be used for growing images".into());
    }
    if new < old && !parsed.has("shrink") {
        tool.warn("Use the --shrink option to perform a shrink operation.");
        return Err(
            "warning: Shrinking an image will delete all data beyond the shrunken image's end. \
             Before performing such an operation, make sure there is no important data there."
                .into(),
        );
    }
    image
        .resize(new, how)
        .and_then(|()| finish(&image).map_err(disk::Error::invalid))
        .map_err(|e| e.to_string())?;
    if !parsed.has("quiet") {
        println!("Image resized.");
    }
    Ok(0)
}
