//! Where guest images are kept, and how they come there.

use crate::apt::{Apt, Package};
use crate::{Error, Flavour, Progress, Result, deb};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// A kernel and a busybox in the cache.
#[derive(Clone, Debug)]
pub struct Image {
    /// Which kernel.
    pub flavour: Flavour,
    /// The folder that holds the files.
    pub folder: PathBuf,
    /// The bzImage.
    pub kernel: PathBuf,
    /// The static busybox.
    pub busybox: PathBuf,
    /// Packages and versions, one a line.
    pub versions: String,
}

impl Image {
    fn at(flavour: Flavour, folder: PathBuf) -> Option<Self> {
        let versions = fs::read_to_string(folder.join("versions")).ok()?;
        let image = Self {
            flavour,
            kernel: folder.join("vmlinuz"),
            busybox: folder.join("busybox"),
            folder,
            versions,
        };
        (image.kernel.is_file() && image.busybox.is_file()).then_some(image)
    }
}

/// `$XDG_CACHE_HOME/trapeze`, or `~/.cache/trapeze`
/// (XDG Base Directory Specification).
pub fn cache_dir() -> Result<PathBuf> {
    let absolute = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|p| p.is_absolute())
    };
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|h| h.join(".cache")))
        .map(|p| p.join("trapeze"))
        .ok_or(Error::NoCacheDir)
}

/// The image of `flavour`: from the cache, or fetched if it is not there yet
/// or `refresh` asks for the current one. A refresh that fails leaves the old
/// image in place.
pub fn fetch(flavour: Flavour, refresh: bool, progress: &mut Progress) -> Result<Image> {
    let root = cache_dir()?;
    let images = root.join("images");
    let folder = images.join(flavour.name());
    if !refresh && let Some(image) = Image::at(flavour, folder.clone()) {
        return Ok(image);
    }
    fs::create_dir_all(&images).map_err(Error::file(&images))?;
    let _lock = lock(&root.join("lock"))?;
    // Another process may have fetched it while we waited.
    if !refresh && let Some(image) = Image::at(flavour, folder.clone()) {
        return Ok(image);
    }
    let new = images.join(format!("{}.new", flavour.name()));
    fill(flavour, &root, &new, progress)?;
    replace(&new, &folder)?;
    progress.finish();
    Image::at(flavour, folder.clone()).ok_or(Error::File {
        path: folder,
        source: std::io::ErrorKind::NotFound.into(),
    })
}

/// Waits until no other process fills the cache; until the file is dropped.
pub(crate) fn lock(path: &Path) -> Result<File> {
    let file = File::create(path).map_err(Error::file(path))?;
    file.lock().map_err(Error::file(path))?;
    Ok(file)
}

/// Puts kernel, busybox and versions into the folder `new`.
fn fill(flavour: Flavour, root: &Path, new: &Path, progress: &mut Progress) -> Result<()> {
    let mut apt = Apt::new(
        root.join("apt").join(flavour.architecture()),
        flavour.architecture(),
    )?;
    apt.update(progress)?;
    let name = apt.resolve(flavour.meta_package())?;
    let kernel = apt.download(&name, progress)?;
    let busybox = apt.download("busybox-static", progress)?;
    let _ = fs::remove_dir_all(new);
    fs::create_dir_all(new).map_err(Error::file(new))?;
    progress.step(format!("unpacking {} {}", kernel.name, kernel.version));
    let bytes = deb::extract(&kernel.file, "boot/vmlinuz", &|p| {
        p.starts_with("./boot/vmlinuz-")
    })?;
    write(&new.join("vmlinuz"), &bytes)?;
    let bytes = deb::extract(&busybox.file, "bin/busybox", &|p| {
        p.ends_with("/bin/busybox")
    })?;
    write(&new.join("busybox"), &bytes)?;
    make_executable(&new.join("busybox"))?;
    write(
        &new.join("versions"),
        versions(&[&kernel, &busybox]).as_bytes(),
    )?;
    // The packages have served; the lists stay, they make the next update cheap.
    for package in [kernel, busybox] {
        fs::remove_file(&package.file).map_err(Error::file(package.file))?;
    }
    Ok(())
}

fn versions(packages: &[&Package]) -> String {
    packages
        .iter()
        .map(|p| format!("{} {}\n", p.name, p.version))
        .collect()
}

/// Writes and syncs, so that a file that is there is whole.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).map_err(Error::file(path))?;
    let file = File::open(path).map_err(Error::file(path))?;
    file.sync_all().map_err(Error::file(path))
}

fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(Error::file(path))
}

/// Swaps the new folder in.
fn replace(new: &Path, folder: &Path) -> Result<()> {
    let old = folder.with_extension("old");
    let _ = fs::remove_dir_all(&old);
    if folder.exists() {
        fs::rename(folder, &old).map_err(Error::file(folder))?;
    }
    fs::rename(new, folder).map_err(Error::file(folder))?;
    let _ = fs::remove_dir_all(&old);
    Ok(())
}
