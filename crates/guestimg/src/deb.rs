//! Takes single files out of a Debian package.

use crate::{Error, Result};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

const BLOCK: usize = 512;
/// No file we want is larger; a package that says so is damaged.
const MAX_FILE: u64 = 256 << 20;

/// The first regular file of `package` whose path satisfies `wanted`.
pub(crate) fn extract(
    package: &Path,
    what: &'static str,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<u8>> {
    let mut child = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|source| Error::NoProgram {
            program: "dpkg-deb",
            source,
        })?;
    let found = child.stdout.take().map(|tar| find_in_tar(tar, wanted));
    // dpkg-deb is cut off in mid-stream on purpose, so its status says nothing.
    let _ = child.kill();
    let _ = child.wait();
    match found {
        Some(Ok(Some(content))) => Ok(content),
        Some(Err(source)) => Err(Error::file(package)(source)),
        _ => Err(Error::NotInPackage {
            package: package.to_path_buf(),
            file: what,
        }),
    }
}

/// The first regular file in a ustar stream (POSIX.1-2017, pax, "ustar
/// Interchange Format") whose path satisfies `wanted`.
///
/// # Errors
/// The stream's, or it ends inside that file or says impossible sizes.
pub fn find_in_tar(
    mut tar: impl Read,
    wanted: impl Fn(&str) -> bool,
) -> std::io::Result<Option<Vec<u8>>> {
    let mut header = [0u8; BLOCK];
    loop {
        if let Err(e) = tar.read_exact(&mut header) {
            return match e.kind() {
                std::io::ErrorKind::UnexpectedEof => Ok(None),
                _ => Err(e),
            };
        }
        if header[0] == 0 {
            return Ok(None);
        }
        let size = octal(&header[124..136]).filter(|&s| s <= MAX_FILE);
        let Some(size) = size else {
            return Err(std::io::Error::other("damaged archive member"));
        };
        let padded = size.next_multiple_of(BLOCK as u64);
        let regular = matches!(header[156], b'0' | 0);
        if regular && wanted(&text(&header[..100])) {
            let mut content = Vec::new();
            (&mut tar).take(size).read_to_end(&mut content)?;
            return match content.len() as u64 == size {
                true => Ok(Some(content)),
                false => Err(std::io::ErrorKind::UnexpectedEof.into()),
            };
        }
        std::io::copy(&mut (&mut tar).take(padded), &mut std::io::sink())?;
    }
}

fn text(field: &[u8]) -> String {
    let end = field.iter().position(|&b| b == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}

fn octal(field: &[u8]) -> Option<u64> {
    u64::from_str_radix(text(field).trim(), 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, kind: u8, content: &[u8]) -> Vec<u8> {
        let mut block = vec![0u8; BLOCK];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
        block[156] = kind;
        block.extend_from_slice(content);
        block.resize(block.len().next_multiple_of(BLOCK), 0);
        block
    }

    #[test]
    fn the_wanted_file_is_found_past_others() {
        let mut tar = member("./boot/", b'5', b"");
        tar.extend(member("./boot/config", b'0', &[7; 700]));
        tar.extend(member("./boot/vmlinuz-1", b'0', b"kernel"));
        let found = find_in_tar(&tar[..], |p| p.starts_with("./boot/vmlinuz")).unwrap();
        assert_eq!(found.as_deref(), Some(&b"kernel"[..]));
        assert_eq!(find_in_tar(&tar[..], |p| p == "./none").unwrap(), None);
    }

    #[test]
    fn a_truncated_file_is_an_error() {
        let tar = member("./boot/vmlinuz-1", b'0', &[1; 600]);
        assert!(find_in_tar(&tar[..BLOCK + 100], |_| true).is_err());
    }

    #[test]
    fn a_damaged_size_is_an_error() {
        let mut tar = member("./x", b'0', b"");
        tar[124..136].copy_from_slice(b"77777777777\0");
        assert!(find_in_tar(&tar[..], |_| false).is_err());
    }
}
