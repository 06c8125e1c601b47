//! Reading the files a machine loads.

use crate::config::Image;
use std::fs::File;
use std::io::Read;

impl Image {
    /// The name for messages.
    pub fn name(&self) -> String {
        match self {
            Self::Path(path) => path.display().to_string(),
            Self::Bytes { name, .. } => name.clone(),
        }
    }

    /// Its size, if that can be known without reading it.
    pub(crate) fn len(&self) -> Option<u64> {
        match self {
            Self::Path(path) => std::fs::metadata(path).ok().map(|m| m.len()),
            Self::Bytes { bytes, .. } => Some(bytes.len() as u64),
        }
    }

    /// The contents, refused beyond `limit` bytes.
    pub(crate) fn read(&self, limit: u64) -> Result<Vec<u8>, String> {
        let bytes = match self {
            Self::Bytes { bytes, .. } if bytes.len() as u64 > limit => None,
            Self::Bytes { bytes, .. } => Some(bytes.to_vec()),
            Self::Path(path) => {
                let file = File::open(path).map_err(|e| describe(&e))?;
                read_file(file, limit)?
            }
        };
        bytes.ok_or_else(|| format!("larger than what there is room for ({limit} bytes)"))
    }
}

/// `None` if there is more than `limit` bytes. Does not trust the size in the
/// metadata: pipes and /proc files have none.
fn read_file(file: File, limit: u64) -> Result<Option<Vec<u8>>, String> {
    let size = file.metadata().map_err(|e| describe(&e))?;
    if size.is_dir() {
        return Err("is a directory".into());
    }
    if size.len() > limit {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(size.len() as usize);
    let mut limited = file.take(limit.saturating_add(1));
    limited.read_to_end(&mut bytes).map_err(|e| describe(&e))?;
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}

/// Why a file cannot be used, in a few words.
pub(crate) fn describe(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file".into(),
        std::io::ErrorKind::PermissionDenied => "permission denied".into(),
        _ => error.to_string(),
    }
}
