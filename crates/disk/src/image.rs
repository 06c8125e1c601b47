//! Opening images with their backing chains.

use crate::device::{BlockDevice, Preallocation};
use crate::errno::{Errno, Error, IoResult, Result};
use crate::filename::{Below, ImageName};
use crate::format::{Format, PROBE_LEN, Probed, probe};
use crate::host_file::{Access, HostFile, HostFileOptions};
use crate::qcow2::{self, BackingName, Qcow2, Qcow2Options};
use crate::raw::Raw;
use crate::storage::StorageExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Longest backing chain.
pub const MAX_CHAIN: usize = 200;

/// How an image is opened.
#[derive(Clone, Copy, Debug)]
pub struct ImageOptions {
    /// The format; guessed if `None`.
    pub format: Option<Format>,
    /// For writing. Backing files are never opened for writing.
    pub writable: bool,
    /// Around the host's page cache.
    pub direct: bool,
    /// Flushes do nothing.
    pub ignore_flush: bool,
    /// What others may do meanwhile.
    pub access: Access,
    /// Open the backing files too.
    pub backing: bool,
    /// To be checked or repaired, see [`Qcow2Options::checking`].
    pub checking: bool,
    /// See [`Qcow2Options::in_order`].
    pub in_order: bool,
}

impl ImageOptions {
    /// To be read, with its backing files.
    pub fn read() -> Self {
        Self {
            format: None,
            writable: false,
            direct: false,
            ignore_flush: false,
            access: Access::Read,
            backing: true,
            checking: false,
            in_order: false,
        }
    }

    /// To be read and written, with its backing files.
    pub fn write() -> Self {
        Self {
            writable: true,
            access: Access::Write,
            ..Self::read()
        }
    }

    fn for_backing(&self) -> Self {
        Self {
            format: None,
            writable: false,
            access: match self.access {
                Access::Unlocked => Access::Unlocked,
                Access::Inspect => Access::Inspect,
                _ => Access::Read,
            },
            ..*self
        }
    }
}

/// An open image.
pub struct Image {
    path: PathBuf,
    format: Format,
    /// The format was guessed.
    probed: bool,
    file: Arc<HostFile>,
    device: Arc<dyn BlockDevice>,
    qcow2: Option<Arc<Qcow2>>,
    backing: Option<Arc<Image>>,
    backing_name: Option<BackingName>,
}

impl Image {
    /// Opens the image of this name.
    ///
    /// # Errors
    /// In QEMU's words where it has some.
    pub fn open(name: &str, options: &ImageOptions) -> Result<Self> {
        let name = ImageName::parse(name)?;
        Self::open_above(&name, options, &mut Vec::new())
    }

    /// Opens an image, and what is below it unless it is already in `above`.
    fn open_above(
        name: &ImageName,
        options: &ImageOptions,
        above: &mut Vec<(u64, u64)>,
    ) -> Result<Self> {
        note_in_chain(&name.path, above)?;
        let file = HostFile::open(
            &name.path,
            &HostFileOptions {
                writable: options.writable,
                direct: options.direct,
                ignore_flush: options.ignore_flush,
                access: options.access,
                create: false,
            },
        )?;
        let asked = options.format.or(name.format);
        let format = match asked {
            Some(format) => format,
            None => guess(&file, &name.path)?,
        };
        let file = Arc::new(file);
        match format {
            Format::Raw => Self::open_raw(name, file, asked.is_none(), options),
            Format::Qcow2 => Self::open_qcow2(name, file, asked.is_none(), options, above),
        }
    }

    fn open_raw(
        name: &ImageName,
        file: Arc<HostFile>,
        probed: bool,
        options: &ImageOptions,
    ) -> Result<Self> {
        let raw = Raw::open(file.clone(), !options.writable, probed && options.writable)
            .map_err(|e| Error::io(format!("Could not open '{}'", name.path.display()), e))?;
        Ok(Self {
            path: name.path.clone(),
            format: Format::Raw,
            probed,
            file,
            device: Arc::new(raw),
            qcow2: None,
            backing: None,
            backing_name: None,
        })
    }

    fn open_qcow2(
        name: &ImageName,
        file: Arc<HostFile>,
        probed: bool,
        options: &ImageOptions,
        above: &mut Vec<(u64, u64)>,
    ) -> Result<Self> {
        let backing_name = qcow2::backing_name(&*file)?;
        let backing = match (&name.backing, &backing_name) {
            (Some(Below::Image(below)), _) if options.backing => {
                let opened = Self::open_above(below, &options.for_backing(), above);
                Some(opened.map_err(not_below)?)
            }
            (None, Some(backing)) if options.backing => {
                Some(open_backing(backing, &name.path, options, above)?)
            }
            _ => None,
        };
        let backing = backing.map(Arc::new);
        let qcow2 = Qcow2::open(
            file.clone(),
            Qcow2Options {
                read_only: !options.writable,
                backing: backing.as_ref().map(|b| b.device()),
                checking: options.checking,
                in_order: options.in_order,
                ..Qcow2Options::default()
            },
        )?;
        let qcow2 = Arc::new(qcow2);
        Ok(Self {
            path: name.path.clone(),
            format: Format::Qcow2,
            probed,
            file,
            device: qcow2.clone(),
            qcow2: Some(qcow2),
            backing,
            backing_name,
        })
    }

    /// The disk.
    pub fn device(&self) -> Arc<dyn BlockDevice> {
        self.device.clone()
    }

    /// The image as qcow2, if it is.
    pub fn qcow2(&self) -> Option<&Arc<Qcow2>> {
        self.qcow2.as_ref()
    }

    /// Its file.
    pub fn file(&self) -> &Arc<HostFile> {
        &self.file
    }

    /// Path of its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The image below it, if that was opened.
    pub fn backing(&self) -> Option<&Arc<Image>> {
        self.backing.as_ref()
    }

    /// The backing file as the image names it.
    pub fn backing_name(&self) -> Option<&BackingName> {
        self.backing_name.as_ref()
    }

    /// What is known of the bytes from `offset`, at most `len` of them, through
    /// the whole chain.
    ///
    /// # Errors
    /// As for reads.
    pub fn status(&self, offset: u64, len: u64) -> IoResult<ChainStatus> {
        let mut image = self;
        let mut len = len;
        let mut depth = 0;
        loop {
            let status = image.device.status(offset, len)?;
            len = status.len;
            // Behind the end of a backing file, its overlay shows zeros.
            let below = image.backing.as_ref().filter(|_| !status.allocated);
            if let Some(below) = below.filter(|b| offset < b.device.len()) {
                len = len.min(below.device.len() - offset);
                image = below;
                depth += 1;
                continue;
            }
            return Ok(ChainStatus {
                len,
                depth,
                data: status.data,
                zero: status.zero,
                allocated: status.allocated,
                compressed: status.compressed,
                host_offset: status.host_offset.filter(|_| status.allocated),
                file: image.path.display().to_string(),
            });
        }
    }

    /// Changes the size of the disk.
    ///
    /// # Errors
    /// In QEMU's words where it has some.
    pub fn resize(&self, len: u64, preallocation: Preallocation) -> Result<()> {
        let failed = |e: Errno| match (self.format, preallocation) {
            (Format::Raw, Preallocation::Metadata) => {
                Error::new(e, "Unsupported preallocation mode 'metadata'")
            }
            (Format::Raw, _) => Error::io("Failed to resize the image", e),
            (Format::Qcow2, _) if e == Errno(libc::EFBIG) => {
                Error::io("Failed to grow the L1 table", e)
            }
            (Format::Qcow2, _) => Error::io("Failed to resize the image", e),
        };
        if let Some(qcow2) = &self.qcow2
            && len < self.device.len()
            && !qcow2.snapshots()?.is_empty()
        {
            return Err(Error::unsupported(
                "Can't shrink an image which has snapshots",
            ));
        }
        self.device.resize(len, preallocation).map_err(failed)
    }

    /// The same image, read-only, with the contents of an internal snapshot.
    ///
    /// # Errors
    /// There is no such snapshot.
    pub fn at_snapshot(self, id_or_name: &str) -> Result<Self> {
        let missing = || Error::new(Errno(libc::ENOENT), "Can't find snapshot");
        if self.qcow2.is_none() {
            return Err(missing());
        }
        let options = Qcow2Options {
            read_only: true,
            backing: self.backing.as_ref().map(|b| b.device()),
            snapshot: Some(id_or_name.to_string()),
            ..Qcow2Options::default()
        };
        let qcow2 = Arc::new(Qcow2::open(self.file.clone(), options)?);
        Ok(Self {
            device: qcow2.clone(),
            qcow2: Some(qcow2),
            ..self
        })
    }

    /// What the user must know if the image is written to, if anything: that
    /// nobody said it is raw.
    pub fn guard_warning(&self) -> Option<String> {
        (self.probed && self.format == Format::Raw).then(|| {
            format!(
                "WARNING: Image format was not specified for '{}' and probing guessed raw.\n\
                 \x20        Automatically detecting the format is dangerous for raw images, \
                 write operations on block 0 will be restricted.\n\
                 \x20        Specify the 'raw' format explicitly to remove the restrictions.",
                self.path.display()
            )
        })
    }
}

/// What is known of a run of bytes of a chain of images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainStatus {
    /// How long the run is.
    pub len: u64,
    /// Files below the image that was asked.
    pub depth: usize,
    /// See [`crate::Status::data`].
    pub data: bool,
    /// See [`crate::Status::zero`].
    pub zero: bool,
    /// Some file of the chain determines the bytes.
    pub allocated: bool,
    /// See [`crate::Status::compressed`].
    pub compressed: bool,
    /// See [`crate::Status::host_offset`].
    pub host_offset: Option<u64>,
    /// Path of the file that determines the bytes.
    pub file: String,
}

impl ChainStatus {
    /// `next`, which follows, is more of the same.
    pub fn continues(&self, next: &Self) -> bool {
        let place = match (self.host_offset, next.host_offset) {
            (Some(a), Some(b)) => a + self.len == b,
            (None, None) => true,
            _ => false,
        };
        place && self.depth == next.depth && self.same_allocation(next)
    }

    /// Both are allocated in the same way, wherever.
    pub fn same_allocation(&self, other: &Self) -> bool {
        let kind = |s: &Self| (s.data, s.zero, s.allocated, s.compressed);
        kind(self) == kind(other)
    }
}

/// Adds a file to a chain that is being opened, unless it is there already.
/// This is found out before it is locked: the first file of a loop would be
/// in our own way.
fn note_in_chain(path: &Path, above: &mut Vec<(u64, u64)>) -> Result<()> {
    // What cannot be looked at cannot be opened either, which says why.
    if let Ok(meta) = std::fs::metadata(path) {
        let identity = (meta.dev(), meta.ino());
        if above.contains(&identity) {
            return Err(Error::invalid(format!(
                "Backing file '{}' creates an infinite loop.",
                path.display()
            )));
        }
        above.push(identity);
    }
    match above.len() > MAX_CHAIN {
        false => Ok(()),
        true => Err(Error::invalid(format!(
            "The backing chain has more than {MAX_CHAIN} files"
        ))),
    }
}

fn not_below(error: Error) -> Error {
    error.within("Could not open backing file")
}

fn open_backing(
    backing: &BackingName,
    overlay: &Path,
    options: &ImageOptions,
    above: &mut Vec<(u64, u64)>,
) -> Result<Image> {
    let name = ImageName::parse_backing(&backing.name, overlay).map_err(not_below)?;
    let mut options = options.for_backing();
    options.format =
        match &backing.format {
            None => None,
            Some(format) => Some(Format::by_name(format).ok_or_else(|| {
                not_below(Error::unsupported(format!("Unknown driver '{format}'")))
            })?),
        };
    Image::open_above(&name, &options, above).map_err(not_below)
}

fn guess(file: &HostFile, path: &Path) -> Result<Format> {
    let mut head = [0; PROBE_LEN];
    file.read_at(&mut head, 0)
        .map_err(|e| Error::io(format!("Could not read '{}'", path.display()), e))?;
    match probe(&head) {
        Probed::Known(format) => Ok(format),
        Probed::Foreign(format) => Err(Error::unsupported(format!(
            "format '{format}' is not supported; there are raw and qcow2"
        ))),
    }
}
