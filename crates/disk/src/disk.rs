//! A disk as a machine uses it: an image, its cache mode and its policies.

use crate::buffer::{Dest, Source};
use crate::device::{BlockDevice, BlockSizes, Division, Preallocation, Status, Way};
use crate::errno::{Error, IoResult, Result};
use crate::filename::ImageName;
use crate::format::Format;
use crate::host_file::Access;
use crate::image::{Image, ImageOptions};
use crate::temporary;
use std::sync::Arc;

/// What the host's caches may do, by QEMU's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheMode {
    /// Writes are durable after a flush.
    #[default]
    Writeback,
    /// The same around the host's page cache.
    None,
    /// Writes are durable when they complete.
    Writethrough,
    /// The same around the host's page cache.
    Directsync,
    /// Flushes are ignored; a host crash may destroy the image.
    Unsafe,
}

impl CacheMode {
    /// Every mode.
    pub const ALL: [Self; 5] = [
        Self::Writeback,
        Self::None,
        Self::Writethrough,
        Self::Directsync,
        Self::Unsafe,
    ];

    /// QEMU's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Writeback => "writeback",
            Self::None => "none",
            Self::Writethrough => "writethrough",
            Self::Directsync => "directsync",
            Self::Unsafe => "unsafe",
        }
    }

    /// The mode of this name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|m| m.name() == name)
    }

    /// Around the host's page cache.
    pub fn direct(self) -> bool {
        matches!(self, Self::None | Self::Directsync)
    }

    /// Each write is durable when it completes.
    pub fn write_through(self) -> bool {
        matches!(self, Self::Writethrough | Self::Directsync)
    }
}

/// How an image is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskOptions {
    /// The format; guessed if `None`.
    pub format: Option<Format>,
    /// No writes.
    pub read_only: bool,
    /// Cache mode.
    pub cache: CacheMode,
    /// What the guest discards is given back to the host (`discard=unmap`).
    pub discard: bool,
    /// Others may write to the image too (`share-rw`).
    pub share_writes: bool,
    /// Take no locks (`locking=off`, `force-share`).
    pub unlocked: bool,
}

/// An open disk.
pub struct Disk {
    image: Image,
    device: Arc<dyn BlockDevice>,
    write_through: bool,
    discard: bool,
}

impl Disk {
    /// Opens the image of this name, which may be a path or a `json:`
    /// description.
    ///
    /// # Errors
    /// In QEMU's words where it has some.
    pub fn open(name: &str, options: &DiskOptions) -> Result<Self> {
        let access = match options {
            DiskOptions { unlocked: true, .. } => Access::Unlocked,
            DiskOptions {
                read_only: true, ..
            } => Access::Read,
            DiskOptions {
                share_writes: true, ..
            } => Access::ShareWrite,
            _ => Access::Write,
        };
        let image = Image::open(
            name,
            &ImageOptions {
                format: options.format,
                writable: !options.read_only,
                direct: options.cache.direct(),
                ignore_flush: options.cache == CacheMode::Unsafe,
                access,
                ..ImageOptions::read()
            },
        )?;
        Ok(Self {
            device: image.device(),
            write_through: options.cache.write_through(),
            discard: options.discard,
            image,
        })
    }

    /// Opens the image read-only and a temporary overlay on top of it, in
    /// `$TMPDIR` or `/var/tmp`, which has no name any more when this returns.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub fn open_temporary(name: &str, options: &DiskOptions) -> Result<Self> {
        let read = ImageOptions {
            format: options.format,
            direct: options.cache.direct(),
            access: match options.unlocked {
                true => Access::Unlocked,
                false => Access::Read,
            },
            ..ImageOptions::read()
        };
        if ImageName::parse(name)?.backing.is_some() {
            // The overlay's header has no place for it.
            return Err(Error::unsupported(
                "An image whose 'backing' is described cannot be under a snapshot",
            ));
        }
        let base = Image::open(name, &read)?;
        let format = base.format();
        let path = std::fs::canonicalize(base.path())
            .map_err(|e| Error::io(format!("Could not open '{name}'"), e.into()))?;
        let overlay = temporary::overlay(&path, format, base.device().len())?;
        drop(base);
        // Nothing of it survives us, so nothing needs to be durable.
        let writable = DiskOptions {
            format: Some(Format::Qcow2),
            read_only: false,
            cache: CacheMode::Unsafe,
            ..*options
        };
        let opened = Self::open(&overlay.name(), &writable);
        drop(overlay);
        opened
    }

    /// What the user must know, if anything: that the format was guessed.
    pub fn warning(&self) -> Option<String> {
        let written = !self.device.read_only();
        self.image.guard_warning().filter(|_| written)
    }

    /// The image.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// Writes that are durable when they complete.
    fn written(&self, result: IoResult<()>) -> IoResult<()> {
        result?;
        match self.write_through {
            true => self.device.flush(),
            false => Ok(()),
        }
    }
}

impl BlockDevice for Disk {
    fn len(&self) -> u64 {
        self.device.len()
    }

    fn read_vectored_at(&self, buffers: &[Dest], offset: u64) -> IoResult<()> {
        self.device.read_vectored_at(buffers, offset)
    }

    fn write_vectored_at(&self, buffers: &[Source], offset: u64) -> IoResult<()> {
        self.written(self.device.write_vectored_at(buffers, offset))
    }

    fn flush(&self) -> IoResult<()> {
        self.device.flush()
    }

    /// Does nothing unless the disk was opened so: the contents stay.
    fn discard(&self, offset: u64, len: u64) -> IoResult<()> {
        crate::device::within(offset, len, self.len())?;
        match self.discard {
            true => self.written(self.device.discard(offset, len)),
            false => Ok(()),
        }
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> IoResult<()> {
        let unmap = unmap && self.discard;
        self.written(self.device.write_zeroes(offset, len, unmap))
    }

    fn block_sizes(&self) -> BlockSizes {
        self.device.block_sizes()
    }

    fn division(&self, way: Way, offset: u64, len: u64) -> Division {
        self.device.division(way, offset, len)
    }

    fn read_only(&self) -> bool {
        self.device.read_only()
    }

    fn resize(&self, len: u64, preallocation: Preallocation) -> IoResult<()> {
        self.written(self.device.resize(len, preallocation))
    }

    fn status(&self, offset: u64, len: u64) -> IoResult<Status> {
        self.device.status(offset, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::BlockDeviceExt;
    use crate::host_file::{HostFile, HostFileOptions};
    use crate::qcow2::{CreateOptions, create};
    use crate::testing::TempDir;

    /// Paths of a new image of each format.
    fn images(dir: &TempDir) -> Vec<(Format, String)> {
        let make = |format: Format| {
            let path = dir.path(format.name());
            let options = HostFileOptions {
                writable: true,
                direct: false,
                ignore_flush: false,
                access: Access::Create,
                create: true,
            };
            let file = Arc::new(HostFile::open(&path, &options).expect("writable"));
            match format {
                Format::Raw => crate::create_raw(&*file, 1 << 20, Preallocation::Off),
                Format::Qcow2 => create(
                    file,
                    &CreateOptions {
                        size: 1 << 20,
                        ..CreateOptions::default()
                    },
                ),
            }
            .expect("there is room");
            (format, path.display().to_string())
        };
        Format::ALL.into_iter().map(make).collect()
    }

    #[test]
    fn cache_modes_mean_what_they_say() {
        for mode in CacheMode::ALL {
            let dir = TempDir::new();
            for (format, path) in images(&dir) {
                let options = DiskOptions {
                    format: Some(format),
                    cache: mode,
                    discard: true,
                    ..DiskOptions::default()
                };
                let disk = Disk::open(&path, &options).expect("just made");
                let durable = || disk.image().file().all_durable();
                let what = format!("{} {}", mode.name(), format.name());
                disk.write_at(&[1; 5000], 3000).expect("in range");
                assert_eq!(durable(), mode.write_through(), "{what}: write");
                disk.flush().expect("it works");
                assert_eq!(durable(), mode != CacheMode::Unsafe, "{what}: flush");
                disk.write_zeroes(4096, 512, false).expect("in range");
                assert_eq!(durable(), mode.write_through(), "{what}: zeroes");
                disk.discard(0, 1 << 16).expect("in range");
                // qcow2 gives the space back when the discard is durable.
                if format == Format::Raw {
                    assert_eq!(durable(), mode.write_through(), "{what}: discard");
                }
            }
        }
    }

    #[test]
    fn what_threads_can_do_sooner_is_divided() {
        const LEN: u64 = 1 << 20;
        for cache in [CacheMode::Writeback, CacheMode::None] {
            let dir = TempDir::new();
            for (format, path) in images(&dir) {
                let options = DiskOptions {
                    format: Some(format),
                    cache,
                    ..DiskOptions::default()
                };
                let disk = Disk::open(&path, &options).expect("just made");
                let division = || [Way::Read, Way::Write].map(|way| disk.division(way, 0, LEN));
                let write = match cache.direct() {
                    true => Division::Whole,
                    false => Division::Alone,
                };
                if format == Format::Qcow2 {
                    assert_eq!(division(), [Division::Whole, write], "nothing is there");
                }
                disk.write_at(&vec![1; LEN as usize], 0).expect("in range");
                let one_piece = match cache.direct() {
                    true => [Division::Whole, write],
                    false => [Division::Copied, write],
                };
                assert_eq!(division(), one_piece, "{} {format:?}", cache.name());
            }
        }
    }

    #[test]
    fn scattered_clusters_are_waited_for_together() {
        let dir = TempDir::new();
        let (_, path) = images(&dir).pop().expect("qcow2 is the last");
        let options = DiskOptions {
            format: Some(Format::Qcow2),
            cache: CacheMode::None,
            discard: true,
            ..DiskOptions::default()
        };
        const LEN: u64 = 1 << 20;
        let disk = Disk::open(&path, &options).expect("just made");
        let write = |at, len| disk.write_at(&vec![1; len as usize], at);
        write(0, LEN).expect("in range");
        for cluster in (0..16).step_by(2) {
            let there = cluster << 16;
            disk.discard(there, 1 << 16).expect("in range");
            // Where it was is in use until a flush.
            write(there, 4096).expect("in range");
        }
        let division = |len| [Way::Read, Way::Write].map(|way| disk.division(way, 0, len));
        assert_eq!(division(LEN), [Division::Scattered; 2]);
        assert_eq!(division(1 << 16), [Division::Whole; 2], "one cluster");
    }

    #[test]
    fn a_temporary_overlay_leaves_the_image_alone() {
        let dir = TempDir::new();
        for (format, path) in images(&dir) {
            let options = DiskOptions {
                format: Some(format),
                ..DiskOptions::default()
            };
            let before = std::fs::read(&path).expect("there");
            let disk = Disk::open_temporary(&path, &options).expect("there");
            disk.write_at(&[5; 70_000], 60_000).expect("in range");
            let mut bytes = [0; 2];
            disk.read_at(&mut bytes, 59_999).expect("in range");
            assert_eq!(bytes, [0, 5]);
            // Others may look at the image meanwhile, but not write to it.
            assert!(Disk::open(&path, &options).is_err());
            drop(disk);
            assert!(std::fs::read(&path).expect("there") == before);
            let disk = Disk::open(&path, &options).expect("free again");
            disk.read_at(&mut bytes, 60_000).expect("in range");
            assert_eq!(bytes, [0, 0]);
        }
    }

    #[test]
    fn a_guessed_raw_image_is_guarded_and_said_to_be() {
        let dir = TempDir::new();
        let path = dir.path("raw").display().to_string();
        std::fs::write(&path, [0; 1024]).expect("writable");
        let disk = Disk::open(&path, &DiskOptions::default()).expect("there");
        let warning = disk.warning().expect("a warning");
        let first = format!(
            "WARNING: Image format was not specified for '{path}' and probing guessed raw.\n"
        );
        assert!(warning.starts_with(&first), "{warning}");
        let header = b"QFI\xfb\0\0\0\x03";
        assert_eq!(disk.write_at(header, 0), Err(crate::Errno::EPERM));
        drop(disk);
        let told = DiskOptions {
            format: Some(Format::Raw),
            ..DiskOptions::default()
        };
        let disk = Disk::open(&path, &told).expect("there");
        assert_eq!(disk.warning(), None);
        assert_eq!(disk.write_at(header, 0), Ok(()));
    }

    #[test]
    fn a_description_says_what_is_below() {
        let dir = TempDir::new();
        let images = images(&dir);
        let path = |format: Format| {
            let found = images.iter().find(|(f, _)| *f == format);
            found.expect("one of each format").1.clone()
        };
        std::fs::write(path(Format::Raw), [7; 4096]).expect("writable");
        let first = |backing: &str| {
            let file = format!(
                r#""file":{{"driver":"file","filename":"{}"}}"#,
                path(Format::Qcow2)
            );
            let name = format!(r#"json:{{"driver":"qcow2",{file}{backing}}}"#);
            let mut byte = [1];
            let disk = Disk::open(&name, &DiskOptions::default())?;
            disk.read_at(&mut byte, 0).expect("in range");
            Ok::<_, Error>(byte[0])
        };
        let raw = path(Format::Raw);
        let below = format!(r#","backing":{{"driver":"raw","file.filename":"{raw}"}}"#);
        assert_eq!(first("").ok(), Some(0));
        assert_eq!(first(&below).ok(), Some(7));
        assert_eq!(first(r#","backing":null"#).ok(), Some(0));
        let itself = below.replace(&raw, &path(Format::Qcow2));
        let why = first(&itself).expect_err("a loop").to_string();
        assert!(why.ends_with("creates an infinite loop."), "{why}");
    }

    #[test]
    fn loops_and_missing_backing_files_are_told() {
        let dir = TempDir::new();
        let file = |name: &str, backing: &str| {
            let options = HostFileOptions {
                writable: true,
                direct: false,
                ignore_flush: false,
                access: Access::Create,
                create: true,
            };
            let opened = HostFile::open(&dir.path(name), &options).expect("writable");
            let options = CreateOptions {
                size: 1 << 20,
                backing: Some(crate::qcow2::BackingName {
                    name: backing.into(),
                    format: Some("qcow2".into()),
                }),
                ..CreateOptions::default()
            };
            create(Arc::new(opened), &options).expect("there is room");
        };
        file("a", "b");
        file("b", "a");
        file("c", "nothing");
        let error = |name: &str| {
            let path = dir.path(name).display().to_string();
            let opened = Disk::open(&path, &DiskOptions::default());
            opened.err().map(|e| e.to_string()).unwrap_or_default()
        };
        let path = |name: &str| dir.path(name).display().to_string();
        assert!(
            error("a").ends_with(&format!("'{}' creates an infinite loop.", path("a"))),
            "{}",
            error("a")
        );
        assert_eq!(
            error("c"),
            format!(
                "Could not open backing file: Could not open '{}': No such file or directory",
                path("nothing")
            )
        );
    }
}
