//! Reading the files a machine loads.

use crate::config::Image;
use parking_lot::Mutex;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// A file of the host. It is opened when it is read first and stays open, so
/// that a reset finds it again whatever has become of its name or of the
/// current folder. Clones share what is open.
#[derive(Clone, Debug)]
pub struct HostFile(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    opened: Mutex<Option<Opened>>,
    /// The files that `path` lists, if it turns out to be such a list.
    list: OnceLock<Vec<(Image, String)>>,
}

#[derive(Clone, Debug)]
enum Opened {
    File(Arc<File>),
    /// Of a pipe, which can be read only once.
    Bytes(Arc<[u8]>),
}

impl HostFile {
    /// Its name.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// What `split` makes of the name when it is asked for the first time.
    pub(crate) fn list(&self, split: impl FnOnce() -> Vec<(Image, String)>) -> &[(Image, String)] {
        self.0.list.get_or_init(split)
    }

    fn len(&self) -> Option<u64> {
        match &*self.0.opened.lock() {
            Some(Opened::Bytes(bytes)) => Some(bytes.len() as u64),
            Some(Opened::File(file)) => file.metadata().ok().map(|m| m.len()),
            None => std::fs::metadata(self.path()).ok().map(|m| m.len()),
        }
    }

    /// `None` if there is more than `limit` bytes.
    fn read(&self, limit: u64) -> Result<Option<Vec<u8>>, String> {
        let opened = &mut *self.0.opened.lock();
        let opened = match opened {
            Some(opened) => opened,
            None => match open(self.path(), limit)? {
                Some(new) => opened.insert(new),
                None => return Ok(None),
            },
        };
        match opened {
            Opened::Bytes(bytes) => Ok((bytes.len() as u64 <= limit).then(|| bytes.to_vec())),
            Opened::File(file) => {
                let metadata = file.metadata().map_err(|e| describe(&e))?;
                read_all(FromStart { file, at: 0 }, &metadata, limit)
            }
        }
    }
}

/// Opens what can be read again, and reads what cannot.
fn open(path: &Path, limit: u64) -> Result<Option<Opened>, String> {
    let file = File::open(path).map_err(|e| describe(&e))?;
    let metadata = file.metadata().map_err(|e| describe(&e))?;
    if metadata.is_dir() {
        return Err("is a directory".into());
    }
    if metadata.is_file() {
        return Ok(Some(Opened::File(Arc::new(file))));
    }
    let bytes = read_all(file, &metadata, limit)?;
    Ok(bytes.map(|bytes| Opened::Bytes(bytes.into())))
}

/// Reads a file without moving the offset that others share.
struct FromStart<'a> {
    file: &'a File,
    at: u64,
}

impl Read for FromStart<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(buffer, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// `None` if there is more than `limit` bytes. Does not trust the size in the
/// metadata: pipes and /proc files have none.
fn read_all(from: impl Read, metadata: &Metadata, limit: u64) -> Result<Option<Vec<u8>>, String> {
    if metadata.len() > limit {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    let mut limited = from.take(limit.saturating_add(1));
    limited.read_to_end(&mut bytes).map_err(|e| describe(&e))?;
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}

impl Image {
    /// A file of the host.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self::File(HostFile(Arc::new(Inner {
            path: path.into(),
            opened: Mutex::new(None),
            list: OnceLock::new(),
        })))
    }

    /// The name for messages.
    pub fn name(&self) -> String {
        match self {
            Self::File(file) => file.path().display().to_string(),
            Self::Bytes { name, .. } => name.clone(),
        }
    }

    /// Its size, if that can be known without reading it.
    pub(crate) fn len(&self) -> Option<u64> {
        match self {
            Self::File(file) => file.len(),
            Self::Bytes { bytes, .. } => Some(bytes.len() as u64),
        }
    }

    /// The contents, refused beyond `limit` bytes.
    pub(crate) fn read(&self, limit: u64) -> Result<Vec<u8>, String> {
        let bytes = match self {
            Self::Bytes { bytes, .. } if bytes.len() as u64 > limit => None,
            Self::Bytes { bytes, .. } => Some(bytes.to_vec()),
            Self::File(file) => file.read(limit)?,
        };
        bytes.ok_or_else(|| format!("larger than what there is room for ({limit} bytes)"))
    }
}

/// Why a file cannot be used, in a few words.
pub(crate) fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file".into(),
        io::ErrorKind::PermissionDenied => "permission denied".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A folder that goes away with its owner.
    struct Folder(PathBuf);

    impl Folder {
        fn new(test: &str) -> Self {
            let name = format!("machine-image-{test}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_file_is_read_again_when_its_name_is_gone() {
        let folder = Folder::new("again");
        let path = folder.0.join("kernel");
        fs::write(&path, "kernel").unwrap();
        let image = Image::at(&path);
        assert_eq!(image.len(), Some(6));
        let clone = image.clone();
        assert_eq!(image.read(6).unwrap(), b"kernel");
        fs::remove_file(&path).unwrap();
        assert_eq!(clone.read(6).unwrap(), b"kernel");
        assert_eq!(clone.len(), Some(6));
        assert!(clone.read(5).unwrap_err().contains("5 bytes"));
    }

    #[test]
    fn a_pipe_is_read_once_and_answers_again() {
        let (reader, mut writer) = io::pipe().unwrap();
        io::Write::write_all(&mut writer, b"module").unwrap();
        drop(writer);
        let number = std::os::fd::AsRawFd::as_raw_fd(&reader);
        let image = Image::at(format!("/proc/self/fd/{number}"));
        assert_eq!(image.read(100).unwrap(), b"module");
        drop(reader);
        assert_eq!(image.read(100).unwrap(), b"module");
        assert_eq!(image.len(), Some(6));
    }

    #[test]
    fn what_cannot_be_opened_is_tried_again() {
        let folder = Folder::new("later");
        let path = folder.0.join("later");
        let image = Image::at(&path);
        assert_eq!(image.read(10).unwrap_err(), "no such file");
        fs::write(&path, "now").unwrap();
        assert_eq!(image.read(10).unwrap(), b"now");
    }
}
