//! Takes single files out of a Debian package.

use crate::{Error, Result};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

const BLOCK: usize = 512;
/// No file we want is larger; a package that says so is damaged.
const MAX_FILE: u64 = 256 << 20;

/// True for the path of a file that is looked for.
pub(crate) type Wanted<'a> = &'a dyn Fn(&str) -> bool;

/// The first regular files of `package` that are `wanted`, in that order and in
/// one pass, which ends with the last that is found; `None` where there is no
/// such file.
pub(crate) fn find(package: &Path, wanted: &[Wanted<'_>]) -> Result<Vec<Option<Vec<u8>>>> {
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
        Some(Ok(files)) => Ok(files),
        Some(Err(source)) => Err(Error::file(package)(source)),
        None => Ok(vec![None; wanted.len()]),
    }
}

/// The first regular file of `package` whose path satisfies `is`.
pub(crate) fn extract(package: &Path, what: &str, is: Wanted<'_>) -> Result<Vec<u8>> {
    let found = find(package, &[is])?;
    let file = found.into_iter().next().flatten();
    file.ok_or_else(|| absent(package, what))
}

/// What is said of a file that should have been found.
pub(crate) fn absent(package: &Path, what: &str) -> Error {
    Error::NotInPackage {
        package: package.to_path_buf(),
        file: what.to_string(),
    }
}

/// The first regular files in a ustar stream (POSIX.1-2017, pax, "ustar
/// Interchange Format") whose paths satisfy `wanted`, in that order. Nothing is
/// read behind the last of them.
///
/// # Errors
/// The stream's, or it ends inside such a file or says impossible sizes.
pub fn find_in_tar(
    mut tar: impl Read,
    wanted: &[&dyn Fn(&str) -> bool],
) -> std::io::Result<Vec<Option<Vec<u8>>>> {
    let mut found = vec![None; wanted.len()];
    let mut header = [0u8; BLOCK];
    while found.iter().any(Option::is_none) {
        if let Err(e) = tar.read_exact(&mut header) {
            return match e.kind() {
                std::io::ErrorKind::UnexpectedEof => Ok(found),
                _ => Err(e),
            };
        }
        if header[0] == 0 {
            break;
        }
        let size = octal(&header[124..136]).filter(|&s| s <= MAX_FILE);
        let Some(size) = size else {
            return Err(std::io::Error::other("damaged archive member"));
        };
        let mut rest = size.next_multiple_of(BLOCK as u64);
        let regular = matches!(header[156], b'0' | 0);
        let path = text(&header[..100]);
        let is_place =
            |(place, is): &(&mut Option<_>, &Wanted<'_>)| place.is_none() && regular && is(&path);
        if let Some((place, _)) = found.iter_mut().zip(wanted).find(is_place) {
            let mut content = Vec::new();
            (&mut tar).take(size).read_to_end(&mut content)?;
            if content.len() as u64 != size {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            *place = Some(content);
            rest -= size;
        }
        std::io::copy(&mut (&mut tar).take(rest), &mut std::io::sink())?;
    }
    Ok(found)
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

    fn names<'a>(path: &'a str) -> impl Fn(&str) -> bool + 'a {
        move |p| p == path
    }

    #[test]
    fn the_wanted_files_are_found_among_others() {
        let mut tar = member("./boot/", b'5', b"");
        tar.extend(member("./boot/config", b'0', &[7; 700]));
        tar.extend(member("./boot/vmlinuz-1", b'0', b"kernel"));
        tar.extend(member("./boot/vmlinuz-2", b'0', b"other"));
        let kernel: &dyn Fn(&str) -> bool = &|p| p.starts_with("./boot/vmlinuz");
        let found = find_in_tar(&tar[..], &[kernel, &names("./boot/config")]).unwrap();
        assert_eq!(found, [Some(b"kernel".to_vec()), Some(vec![7; 700])]);
        let found = find_in_tar(&tar[..], &[&names("./none"), &names("./boot/vmlinuz-2")]);
        assert_eq!(found.unwrap(), [None, Some(b"other".to_vec())]);
    }

    #[test]
    fn nothing_is_read_behind_the_last_wanted_file() {
        let mut tar = member("./a", b'0', &[1; 10]);
        let end = tar.len();
        tar.extend(member("./b", b'0', b"b"));
        let mut rest = &tar[..];
        let found = find_in_tar(&mut rest, &[&names("./a")]).unwrap();
        assert_eq!(found, [Some(vec![1; 10])]);
        assert_eq!(rest.len(), tar.len() - end);
    }

    #[test]
    fn a_truncated_file_is_an_error() {
        let tar = member("./boot/vmlinuz-1", b'0', &[1; 600]);
        assert!(find_in_tar(&tar[..BLOCK + 100], &[&|_| true]).is_err());
    }

    #[test]
    fn a_damaged_size_is_an_error() {
        let mut tar = member("./x", b'0', b"");
        tar[124..136].copy_from_slice(b"77777777777\0");
        assert!(find_in_tar(&tar[..], &[&|_| false]).is_err());
    }
}
