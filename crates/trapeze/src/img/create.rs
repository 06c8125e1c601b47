//! `img create`.

use super::getopt::Parsed;
use super::images::{Opening, Use};
use super::options::{self, FormatOptions};
use super::table::Outcome;
use super::{Tool, sizes, try_help};
use disk::{Access, Format, HostFile, HostFileOptions, ImageName, Preallocation};
use std::path::Path;
use std::sync::Arc;

pub(super) fn run(tool: &Tool, parsed: &Parsed) -> Outcome {
    let name = parsed.value("format").unwrap_or("raw");
    if parsed.all("options").any(|o| o == "help" || o == "?") {
        let format =
            Format::by_name(name).ok_or_else(|| format!("Unknown file format '{name}'"))?;
        print!("{}", options::help(format));
        return Ok(0);
    }
    let (file, size) = match &parsed.operands[..] {
        [] => return Err(try_help("Expecting image file name")),
        [file] => (file, None),
        [file, size] => (file, Some(parse_size(size)?)),
        [_, _, extra, ..] => return Err(try_help(format!("Unexpected argument: {extra}"))),
    };
    create(tool, parsed, file, size, name).map_err(|why| format!("{file}: {why}"))?;
    Ok(0)
}

fn parse_size(text: &str) -> Result<u64, String> {
    match sizes::parse(text) {
        Some(size) if size <= i64::MAX as u64 => Ok(size),
        None if !plausible(text) => Err(format!("Invalid image size specified: '{text}'.")),
        _ => Err("Invalid image size specified. Must be between 0 and 9223372036854775807.".into()),
    }
}

/// Written as a size, be it too large for one.
fn plausible(text: &str) -> bool {
    let digits = text.trim_end_matches(|c: char| "bkKMGTPE".contains(c));
    text.len() <= digits.len() + 1
        && !digits.is_empty()
        && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

fn create(
    tool: &Tool,
    parsed: &Parsed,
    file: &str,
    size: Option<u64>,
    format: &str,
) -> Result<(), String> {
    let format =
        Format::by_name(format).ok_or_else(|| format!("Unknown file format '{format}'"))?;
    let mut options = FormatOptions::new(format);
    for text in parsed.all("options") {
        options.parse(text)?;
    }
    for (option, name) in [
        ("backing", "backing_file"),
        ("backing-format", "backing_fmt"),
    ] {
        if let Some(value) = parsed.value(option) {
            options.set(name, value).map_err(|_| match option {
                "backing" => format!(
                    "Backing file not supported for file format '{}'",
                    format.name()
                ),
                _ => format!(
                    "Backing format not supported for file format '{}'",
                    format.name()
                ),
            })?;
        }
    }
    if size.is_some() && options.size().is_some() {
        return Err("The image size must be specified only once".into());
    }
    let unsafe_backing = parsed.has("backing-unsafe");
    let base = check_backing(tool, &options, file, unsafe_backing)?;
    let size = size
        .or(options.size())
        .or(base)
        .ok_or("Image creation needs a size parameter")?;
    options.set("size", &size.to_string())?;
    if !parsed.has("quiet") {
        println!(
            "Formatting '{file}', fmt={}{}",
            format.name(),
            options.show()
        );
    }
    make(file, &options, format, size)
}

/// Looks at the backing file; its size.
fn check_backing(
    tool: &Tool,
    options: &FormatOptions,
    file: &str,
    blind: bool,
) -> Result<Option<u64>, String> {
    let Some(name) = options.get("backing_file").filter(|n| !n.is_empty()) else {
        return Ok(None);
    };
    if name == file {
        return Err(
            "Error: Trying to create an image with the same filename as the backing file".into(),
        );
    }
    if blind {
        return Ok(None);
    }
    let not_opened = |why: String| format!("{why}\nCould not open backing image.");
    let parsed =
        ImageName::parse_backing(name, Path::new(file)).map_err(|e| not_opened(e.to_string()))?;
    let format = options.get("backing_fmt");
    let opening = Opening {
        share: true,
        ..Opening::new(Use::Read, format)
    };
    let shown = parsed.path.to_string_lossy().into_owned();
    let image = tool.open(&shown, &opening).map_err(|why| {
        let prefix = format!("Could not open '{shown}': ");
        not_opened(why.strip_prefix(&prefix).unwrap_or(&why).to_string())
    })?;
    if format.is_none() {
        return Err(format!(
            "Backing file specified without backing format\nDetected format of {}.",
            image.format().name()
        ));
    }
    Ok(Some(image.device().len()))
}

/// Makes the image.
pub(super) fn make(
    file: &str,
    options: &FormatOptions,
    format: Format,
    size: u64,
) -> Result<(), String> {
    options.refuse_unsupported()?;
    let name = ImageName::parse(file).map_err(|e| e.to_string())?;
    let open = || {
        let opened = HostFile::open(
            &name.path,
            &HostFileOptions {
                writable: true,
                direct: false,
                ignore_flush: false,
                access: Access::Create,
                create: true,
            },
        );
        opened.map(Arc::new).map_err(|e| e.to_string())
    };
    match format {
        Format::Raw => {
            let how = options.preallocation()?;
            if how == Preallocation::Metadata {
                return Err("Unsupported preallocation mode: metadata".into());
            }
            disk::create_raw(&*open()?, size, how).map_err(|e| e.to_string())
        }
        Format::Qcow2 => {
            let lonely_format =
                options.get("backing_file").is_none() && options.get("backing_fmt").is_some();
            let options = options.qcow2(size)?;
            options.judge().map_err(|e| e.to_string())?;
            if lonely_format {
                return Err("Backing format cannot be used without backing file".into());
            }
            disk::qcow2::create(open()?, &options).map_err(|e| e.to_string())
        }
    }
}
