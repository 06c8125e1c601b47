//! Images: folders with a disk, a kernel and an initrd.

use crate::unfinished::Unfinished;
use crate::{check_name, places, store};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// What `image.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// As the system calls itself.
    pub system: String,
    /// Of the kernel.
    pub kernel: String,
    /// The kernel's command line.
    pub append: String,
    /// It has what `trapeze image build` puts into one: takes ssh keys, mounts
    /// shared folders.
    pub seeded: bool,
}

/// An image.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its name.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
    /// What is in it.
    pub about: About,
}

impl Image {
    /// A file of it, if it has that.
    pub fn file(&self, name: &str) -> Option<PathBuf> {
        Some(self.folder.join(name)).filter(|p| p.is_file())
    }

    /// The machines whose disks are laid over it.
    ///
    /// # Errors
    /// The host's.
    pub fn users(&self) -> Result<Vec<String>> {
        let all = store::list()?.into_iter();
        let ours = all.filter(|vm| vm.config.image == self.name);
        Ok(ours.map(|vm| vm.name).collect())
    }

    /// Removes it. Whoever makes a machine of it is waited for.
    ///
    /// # Errors
    /// A machine needs it, or the host's.
    pub fn remove(&self) -> Result<()> {
        let _lock = places::lock(&lock_file(&self.name)?)?;
        self.check_unused()?;
        fs::remove_dir_all(&self.folder).with_context(|| self.folder.display().to_string())
    }

    fn check_unused(&self) -> Result<()> {
        let users = self.users()?.join(", ");
        if !users.is_empty() {
            bail!(
                "image {} is in use by {users}; 'trapeze rm' removes machines",
                self.name
            );
        }
        Ok(())
    }
}

fn lock_file(name: &str) -> Result<PathBuf> {
    let images = places::images()?;
    places::make(&images)?;
    Ok(images.join(format!(".{name}.lock")))
}

/// Every image, by name.
///
/// # Errors
/// The host's, or a description is damaged.
pub fn list() -> Result<Vec<Image>> {
    let Ok(entries) = fs::read_dir(places::images()?) else {
        return Ok(Vec::new());
    };
    let names = entries.filter_map(|e| e.ok()?.file_name().into_string().ok());
    let names = names.filter(|n| check_name(n).is_ok());
    let found = names.filter_map(|n| find(&n).transpose());
    let mut found = found.collect::<Result<Vec<_>>>()?;
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// The image of that name, if there is one, and what keeps it from being
/// removed or made anew until it is dropped.
///
/// # Errors
/// Those of [`find`], or the host's.
pub fn hold(name: &str) -> Result<Option<(Image, File)>> {
    check_name(name)?;
    let lock = places::lock_shared(&lock_file(name)?)?;
    Ok(find(name)?.map(|image| (image, lock)))
}

/// The image of that name, if there is one.
///
/// # Errors
/// The name is none, or its description is damaged.
pub fn find(name: &str) -> Result<Option<Image>> {
    check_name(name)?;
    let folder = places::images()?.join(name);
    let path = folder.join("image.json");
    let Ok(text) = fs::read_to_string(&path) else {
        return Ok(None);
    };
    let about = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    Ok(Some(Image {
        name: name.into(),
        folder,
        about,
    }))
}

/// Makes an image, one process at a time: `fill` gets a new folder, which is
/// called by the name only when it is whole. Without `again` one that is there
/// already is what comes out.
///
/// # Errors
/// What `fill` says, or machines need the old one.
pub fn make(name: &str, again: bool, fill: impl FnOnce(&Path) -> Result<About>) -> Result<Image> {
    check_name(name)?;
    let _lock = places::lock(&lock_file(name)?)?;
    let old = find(name)?;
    if let Some(image) = &old {
        if !again {
            return Ok(image.clone());
        }
        image.check_unused()?;
    }
    let folder = places::images()?.join(name);
    let new = folder.with_file_name(format!(".{name}.new"));
    let _unfinished = Unfinished::new(&new)?;
    let about = fill(&new)?;
    let text = serde_json::to_string_pretty(&about)?;
    places::write(&new.join("image.json"), &text)?;
    if old.is_some() {
        fs::remove_dir_all(&folder)?;
    }
    fs::rename(&new, &folder).with_context(|| folder.display().to_string())?;
    Ok(Image {
        name: name.into(),
        folder,
        about,
    })
}
