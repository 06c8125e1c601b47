//! Modules of a kernel in the cache, for tests that need more than what is
//! built in.

use crate::apt::Apt;
use crate::cache::cache_dir;
use crate::{Error, Image, Progress, Result, deb};
use std::fs;
use std::path::PathBuf;

/// The files of the named modules (`kvm`, not `kvm.ko`), from the folder of
/// the image or from the kernel's package, which is fetched again for that.
pub fn modules(
    image: &Image,
    names: &[&'static str],
    progress: &mut Progress,
) -> Result<Vec<PathBuf>> {
    let folder = image.folder.join("modules");
    let path = |name: &&str| folder.join(format!("{name}.ko"));
    let paths: Vec<PathBuf> = names.iter().map(path).collect();
    if paths.iter().all(|p| p.is_file()) {
        return Ok(paths);
    }
    fs::create_dir_all(&folder).map_err(Error::file(&folder))?;
    let architecture = image.flavour.architecture();
    let mut apt = Apt::new(cache_dir()?.join("apt").join(architecture), architecture)?;
    let kernel = image.versions.split_whitespace().next().unwrap_or_default();
    let package = match apt.download(kernel, progress) {
        Ok(package) => package,
        // The lists may be gone or older than the archive.
        Err(_) => {
            apt.update(progress)?;
            apt.download(kernel, progress)?
        }
    };
    for (name, path) in names.iter().zip(&paths) {
        let end = format!("/{name}.ko");
        let bytes = deb::extract(&package.file, name, |p| p.ends_with(&end))?;
        fs::write(path, bytes).map_err(Error::file(path))?;
    }
    fs::remove_file(&package.file).map_err(Error::file(package.file))?;
    progress.finish();
    Ok(paths)
}
