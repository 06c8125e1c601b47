//! Opening images for the commands.

use super::Tool;
use super::getopt::Parsed;
use disk::{Access, BlockDevice, CacheMode, Format, Image, ImageOptions};
use std::sync::Arc;

/// What a command does with an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// Look at what it says of itself, without backing files.
    Inspect,
    /// Read, with its backing files.
    Read,
    /// Write, with its backing files.
    Write,
    /// Read the image alone.
    ReadAlone,
    /// Write the image alone.
    WriteAlone,
    /// Check.
    Check,
    /// Check and repair.
    Repair,
}

impl Use {
    fn options(self) -> ImageOptions {
        let (writable, access, backing) = match self {
            Self::Inspect => (false, Access::Inspect, false),
            Self::Read => (false, Access::Read, true),
            Self::ReadAlone | Self::Check => (false, Access::Read, false),
            Self::Write => (true, Access::Write, true),
            Self::WriteAlone | Self::Repair => (true, Access::Write, false),
        };
        ImageOptions {
            writable,
            access,
            backing,
            checking: matches!(self, Self::Check | Self::Repair),
            // As `qemu-img` does, whose images are to be the same.
            in_order: true,
            ..ImageOptions::read()
        }
    }
}

/// How an image is opened.
#[derive(Clone, Copy)]
pub(super) struct Opening<'a> {
    pub(super) purpose: Use,
    /// The format's name, if the user gave one.
    pub(super) format: Option<&'a str>,
    pub(super) cache: CacheMode,
    /// Without locks.
    pub(super) share: bool,
}

impl<'a> Opening<'a> {
    pub(super) fn new(purpose: Use, format: Option<&'a str>) -> Self {
        Self {
            purpose,
            format,
            cache: CacheMode::Writeback,
            share: false,
        }
    }

    /// With the options that most commands have.
    pub(super) fn of(purpose: Use, parsed: &'a Parsed) -> Self {
        Self {
            share: parsed.has("force-share"),
            ..Self::new(purpose, parsed.value("format"))
        }
    }
}

impl Tool {
    /// Opens an image; a warning about its format is said here.
    pub(super) fn open(&self, name: &str, opening: &Opening) -> Result<Image, String> {
        let failed = |why: String| format!("Could not open '{name}': {why}");
        let mut options = opening.purpose.options();
        options.format = match opening.format {
            None => None,
            Some(text) => {
                let format = Format::by_name(text);
                Some(format.ok_or_else(|| failed(format!("Unknown driver '{text}'")))?)
            }
        };
        options.direct = opening.cache.direct();
        options.ignore_flush = opening.cache == CacheMode::Unsafe;
        if opening.share {
            options.access = Access::Unlocked;
        }
        let image = Image::open(name, &options).map_err(|e| failed(e.to_string()))?;
        if let Some(warning) = image.guard_warning().filter(|_| options.writable) {
            eprintln!("{warning}");
        }
        Ok(image)
    }
}

/// The only operand.
pub(super) fn one_file(parsed: &Parsed) -> Result<&str, String> {
    match &parsed.operands[..] {
        [name] => Ok(name),
        _ => Err(super::try_help("Expecting one image file name")),
    }
}

/// A cache mode by its name; `default` if there is none.
pub(super) fn cache_mode(
    name: Option<&str>,
    default: CacheMode,
    what: &str,
) -> Result<CacheMode, String> {
    let Some(name) = name else {
        return Ok(default);
    };
    // Older names of the same.
    let known = match name {
        "off" => "none",
        other => other,
    };
    CacheMode::by_name(known).ok_or_else(|| format!("Invalid {what}cache option: {name}"))
}

/// Whether the output is to be JSON.
pub(super) fn wants_json(parsed: &Parsed) -> Result<bool, String> {
    match parsed.value("output") {
        None | Some("human") => Ok(false),
        Some("json") => Ok(true),
        Some(other) => Err(super::try_help(format!(
            "--output expects 'human' or 'json' not '{other}'"
        ))),
    }
}

/// Makes what was written durable and the image consistent.
pub(super) fn finish(image: &Image) -> Result<(), String> {
    let device: Arc<dyn BlockDevice> = image.device();
    let closed = match image.qcow2() {
        Some(qcow2) => qcow2.close(),
        None => device.flush(),
    };
    closed.map_err(|e| format!("Could not flush '{}': {e}", image.path().display()))
}
