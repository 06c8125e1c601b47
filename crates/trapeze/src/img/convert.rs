//! `img convert`.

use super::copy::{PIECE, is_zero, zero_runs};
use super::create;
use super::getopt::Parsed;
use super::images::{Opening, Use, cache_mode, finish};
use super::options::{self, FormatOptions};
use super::progress::Progress;
use super::table::Outcome;
use super::{Tool, sizes};
use disk::{BlockDeviceExt, CacheMode, Format, Image};

/// Zeros of this length become holes.
const SPARSE: u64 = 4096;

pub(super) fn run(tool: &Tool, parsed: &Parsed) -> Outcome {
    let name = parsed.value("target-format").unwrap_or("raw");
    if parsed
        .all("target-options")
        .any(|o| o == "help" || o == "?")
    {
        let format =
            Format::by_name(name).ok_or_else(|| format!("Unknown file format '{name}'"))?;
        print!("{}", options::help(format));
        return Ok(0);
    }
    let sparse = sparse_size(parsed)?;
    let workers = parsed.value("parallel").unwrap_or("8").parse::<u32>();
    if !workers.is_ok_and(|n| (1..=16).contains(&n)) {
        return Err("Invalid number of coroutines specified. Must be between 1 and 16.".into());
    }
    let Some((target, sources)) = parsed.operands.split_last().filter(|(_, s)| !s.is_empty())
    else {
        return Err("Must specify image file name".into());
    };
    let cache = cache_mode(parsed.value("target-cache"), CacheMode::Unsafe, "")?;
    let sources = open_sources(tool, parsed, sources)?;
    let size = sources.iter().map(|s| s.device().len()).sum();
    let format = Format::by_name(name).ok_or_else(|| format!("Unknown file format '{name}'"))?;
    if !parsed.has("no-create") {
        create_target(parsed, target, format, size)?;
    }
    let opening = Opening {
        format: Some(name),
        cache,
        ..Opening::new(Use::Write, None)
    };
    let image = tool.open(target, &opening)?;
    if image.device().len() < size {
        return Err("output file is smaller than input file".into());
    }
    let job = Job {
        target: &image,
        sparse,
        compress: parsed.has("compress"),
        backed: parsed.has("backing"),
        target_is_zero: (!parsed.has("no-create") || parsed.has("target-is-zero"))
            && image.backing_name().is_none(),
    };
    let quiet = parsed.has("quiet");
    let mut progress = Progress::new(parsed.has("progress") && !quiet, size);
    let mut base = 0;
    for source in &sources {
        job.copy(source, base, &mut progress)?;
        base += source.device().len();
    }
    finish(&image)?;
    progress.end();
    Ok(0)
}

fn sparse_size(parsed: &Parsed) -> Result<u64, String> {
    let Some(text) = parsed.value("sparse-size") else {
        return Ok(SPARSE);
    };
    match sizes::parse(text) {
        Some(n) if n.is_multiple_of(512) && n <= PIECE => Ok(n),
        _ => Err(format!(
            "Invalid buffer size for sparse output specified: '{text}'."
        )),
    }
}

fn open_sources(tool: &Tool, parsed: &Parsed, names: &[String]) -> Result<Vec<Image>, String> {
    let cache = cache_mode(
        parsed.value("source-cache"),
        CacheMode::Writeback,
        "source ",
    )?;
    let snapshot = parsed.value("source-snapshot").map(|text| {
        let rest = text.strip_prefix("snapshot.id=");
        rest.or_else(|| text.strip_prefix("snapshot.name="))
            .unwrap_or(text)
    });
    let open = |name: &String| {
        let opening = Opening {
            format: parsed.value("source-format"),
            cache,
            share: parsed.has("force-share"),
            ..Opening::new(Use::Read, None)
        };
        let image = tool.open(name, &opening)?;
        match snapshot {
            None => Ok(image),
            Some(wanted) => image
                .at_snapshot(wanted)
                .map_err(|e| format!("Failed to load snapshot: {e}")),
        }
    };
    names.iter().map(open).collect()
}

fn create_target(parsed: &Parsed, target: &str, format: Format, size: u64) -> Result<(), String> {
    let mut options = FormatOptions::new(format);
    for text in parsed.all("target-options") {
        options.parse(text)?;
    }
    if let Some(backing) = parsed.value("backing") {
        options.set("backing_file", backing).map_err(|_| {
            format!(
                "Backing file not supported for file format '{}'",
                format.name()
            )
        })?;
    }
    if let Some(backing_format) = parsed.value("backing-format") {
        options.set("backing_fmt", backing_format)?;
    }
    if options.get("backing_file").is_some() && options.get("backing_fmt").is_none() {
        return Err("Use of backing file requires explicit backing format".into());
    }
    if parsed.has("compress") {
        if format != Format::Qcow2 {
            return Err("Compression not supported for this file format".into());
        }
        if options.get("preallocation").is_some_and(|p| p != "off") {
            return Err("Compression and preallocation not supported at the same time".into());
        }
    }
    let size = options.size().unwrap_or(size);
    create::make(target, &options, format, size)
        .map_err(|why| format!("{target}: error while converting {}: {why}", format.name()))
}

struct Job<'a> {
    target: &'a Image,
    /// 0: everything is written.
    sparse: u64,
    compress: bool,
    /// What a source leaves to its backing file, the target does too.
    backed: bool,
    /// What is not written reads as zeros.
    target_is_zero: bool,
}

impl Job<'_> {
    /// Copies a source to `base` of the target.
    fn copy(&self, source: &Image, base: u64, progress: &mut Progress) -> Result<(), String> {
        let size = source.device().len();
        let mut buffer = vec![0; PIECE as usize];
        let mut at = 0;
        while at < size {
            let reading = |e: disk::Errno| format!("error while reading at byte {at}: {e}");
            let status = source.status(at, size - at).map_err(reading)?;
            let left = self.backed && (status.depth > 0 || !status.allocated);
            let zero = status.zero && self.sparse > 0;
            let len = match left || zero {
                true => status.len,
                false => status.len.min(PIECE - (base + at) % PIECE),
            };
            if zero && !left {
                self.zero(base + at, len)?;
            } else if !left {
                let bytes = &mut buffer[..len as usize];
                source.device().read_at(bytes, at).map_err(reading)?;
                self.write(bytes, base + at)?;
            }
            at += len;
            progress.at(base + at);
        }
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64) -> Result<(), String> {
        if self.target_is_zero {
            return Ok(());
        }
        self.target
            .device()
            .write_zeroes(offset, len, true)
            .map_err(writing(offset))
    }

    fn write(&self, bytes: &[u8], offset: u64) -> Result<(), String> {
        if self.compress
            && let Some(qcow2) = self.target.qcow2()
        {
            return self.write_compressed(qcow2, bytes, offset);
        }
        if self.sparse == 0 {
            return self
                .target
                .device()
                .write_at(bytes, offset)
                .map_err(writing(offset));
        }
        for (range, zero) in zero_runs(bytes, offset, self.sparse) {
            let at = offset + range.start as u64;
            match zero {
                true => self.zero(at, range.len() as u64)?,
                false => self
                    .target
                    .device()
                    .write_at(&bytes[range], at)
                    .map_err(writing(at))?,
            }
        }
        Ok(())
    }

    /// Whole clusters; what a source has of others is written as it is.
    fn write_compressed(
        &self,
        qcow2: &disk::qcow2::Qcow2,
        bytes: &[u8],
        offset: u64,
    ) -> Result<(), String> {
        let cluster = qcow2.facts().cluster_size;
        let end = self.target.device().len();
        let mut at = 0;
        while at < bytes.len() {
            let place = offset + at as u64;
            let len = (cluster - place % cluster).min((bytes.len() - at) as u64);
            let piece = &bytes[at..at + len as usize];
            let whole = len == cluster || place.is_multiple_of(cluster) && place + len == end;
            let result = match (is_zero(piece), whole) {
                (true, _) => {
                    self.zero(place, len)?;
                    Ok(())
                }
                (false, true) => qcow2.write_compressed(piece, place),
                (false, false) => self.target.device().write_at(piece, place),
            };
            result.map_err(writing(place))?;
            at += len as usize;
        }
        Ok(())
    }
}

fn writing(offset: u64) -> impl Fn(disk::Errno) -> String {
    move |e| format!("error while writing at byte {offset}: {e}")
}
