//! What is made once and kept in the cache, for each recipe of its own.

use crate::process::output_of;
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

/// How long what another recipe made is kept after its last use: whoever goes
/// back to that recipe, or has another branch, finds it again.
const KEPT: Duration = Duration::from_secs(14 * 24 * 3600);
/// In every folder: when it was changed last is when it was used last.
const STAMP: &str = "version";

/// A folder in the cache.
pub(super) struct Entry<'a> {
    /// The folder it is in.
    pub(super) images: &'a Path,
    /// What its name begins with; the recipe's key follows.
    pub(super) name: String,
    /// Everything that decides about its contents.
    pub(super) recipe: String,
    /// The key of the one that has no key in its name; empty for none.
    pub(super) nameless: &'static str,
}

impl Entry<'_> {
    /// The folder, filled by `make` if it is not there. A crash at any time
    /// leaves it whole or absent.
    pub(super) fn get(&self, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        if !self.folder().is_dir() {
            self.fill_once(make)?;
        }
        let folder = self.folder();
        // A cache that cannot be written to is used all the same.
        let stamp = File::options().append(true).open(folder.join(STAMP));
        let _ = stamp.and_then(|file| file.set_modified(SystemTime::now()));
        Ok(folder)
    }

    /// One process at a time: the others find what it has made. The host lets
    /// go of the lock of a process that died.
    fn fill_once(&self, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        fs::create_dir_all(self.images).with_context(|| self.images.display().to_string())?;
        let lock = self.images.join(format!("{}.lock", self.name));
        let locked = File::create(&lock).and_then(|file| file.lock().map(|()| file));
        let _locked = locked.with_context(|| lock.display().to_string())?;
        let folder = self.folder();
        if folder.is_dir() {
            return Ok(());
        }
        self.fill(&folder, make)?;
        if let Err(why) = self.forget_others(&folder) {
            eprintln!("debian: {why:#}");
        }
        Ok(())
    }

    fn folder(&self) -> PathBuf {
        let key = key(&self.recipe);
        let with_key = self.images.join(format!("{}-{key}", self.name));
        let without = self.images.join(&self.name);
        match !with_key.is_dir() && key == self.nameless && without.is_dir() {
            true => without,
            false => with_key,
        }
    }

    fn fill(&self, folder: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let new = self.images.join(format!("{}.new", self.name));
        if new.exists() {
            // Of somebody who did not come to the end.
            fs::remove_dir_all(&new).with_context(|| new.display().to_string())?;
        }
        fs::create_dir(&new).with_context(|| new.display().to_string())?;
        make(&new)?;
        let recipe = new.join("recipe");
        fs::write(&recipe, &self.recipe).with_context(|| recipe.display().to_string())?;
        // The name must not reach the host's disk before the contents.
        output_of(Command::new("sync").arg("-f").arg(&new))?;
        fs::rename(&new, folder).with_context(|| folder.display().to_string())
    }

    /// Removes what other recipes made for this name and nobody has used of
    /// late.
    fn forget_others(&self, folder: &Path) -> Result<()> {
        let entries = fs::read_dir(self.images)?.collect::<Result<Vec<_>, _>>()?;
        let others = entries.iter().map(|e| e.path()).filter(|p| p != folder);
        for other in others.filter(|p| self.is_of_this_name(p)) {
            let used = fs::metadata(other.join(STAMP)).and_then(|m| m.modified());
            let since = used.map(|t| SystemTime::now().duration_since(t).unwrap_or_default());
            if since.is_ok_and(|since| since > KEPT) {
                eprintln!("debian: removing {}, unused", other.display());
                fs::remove_dir_all(&other).with_context(|| other.display().to_string())?;
            }
        }
        Ok(())
    }

    fn is_of_this_name(&self, path: &Path) -> bool {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        match name.strip_prefix(&*self.name) {
            Some("") => true,
            Some(rest) => rest.strip_prefix('-').is_some_and(is_key),
            None => false,
        }
    }
}

/// FNV-1a of 64 bits (draft-eastlake-fnv), as hexadecimal digits: the recipes
/// are our own, nobody looks for two with the same one.
fn key(text: &str) -> String {
    let step = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325, step);
    format!("{hash:016x}")
}

fn is_key(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths::TempFolder;
    use anyhow::bail;

    fn entry<'a>(images: &'a Path, recipe: &str, nameless: &'static str) -> Entry<'a> {
        Entry {
            images,
            name: "debian".into(),
            recipe: recipe.into(),
            nameless,
        }
    }

    /// Fills a folder as a recipe does.
    fn made(folder: &Path) -> Result<()> {
        Ok(fs::write(folder.join(STAMP), "1")?)
    }

    fn not_made(_: &Path) -> Result<()> {
        bail!("made again")
    }

    fn age(folder: &Path) {
        let file = File::options().append(true).open(folder.join(STAMP));
        let then = SystemTime::now() - 2 * KEPT;
        file.unwrap().set_modified(then).unwrap();
    }

    #[test]
    fn each_recipe_is_made_once() {
        let images = TempFolder::new("entry-once").unwrap();
        let images = images.path("images");
        let a = entry(&images, "a", "").get(made).unwrap();
        let b = entry(&images, "b", "").get(made).unwrap();
        assert_ne!(a, b);
        assert_eq!(entry(&images, "a", "").get(not_made).unwrap(), a);
        assert_eq!(entry(&images, "b", "").get(not_made).unwrap(), b);
        assert_eq!(fs::read_to_string(a.join("recipe")).unwrap(), "a");
    }

    #[test]
    fn what_was_not_finished_is_made_again() {
        let images = TempFolder::new("entry-crash").unwrap();
        let images = images.path("images");
        let half = |folder: &Path| {
            fs::write(folder.join("half"), "")?;
            bail!("crash")
        };
        assert!(entry(&images, "a", "").get(half).is_err());
        let folder = entry(&images, "a", "").get(made).unwrap();
        assert!(!folder.join("half").exists());
    }

    #[test]
    fn a_folder_without_a_key_is_that_of_one_recipe() {
        let images = TempFolder::new("entry-nameless").unwrap();
        let images = images.path("images");
        let old = images.join("debian");
        fs::create_dir_all(&old).unwrap();
        made(&old).unwrap();
        // The key is FNV-1a's test vector for "a".
        let key = "af63dc4c8601ec8c";
        assert_eq!(entry(&images, "a", key).get(not_made).unwrap(), old);
        let other = entry(&images, "b", key).get(made).unwrap();
        assert_ne!(other, old);
        assert!(old.is_dir());
    }

    #[test]
    fn what_other_recipes_made_goes_when_it_is_not_used() {
        let images = TempFolder::new("entry-old").unwrap();
        let images = images.path("images");
        let old = entry(&images, "a", "").get(made).unwrap();
        let nameless = images.join("debian");
        let kin = images.join("debian-tools");
        for folder in [&nameless, &kin] {
            fs::create_dir_all(folder).unwrap();
            made(folder).unwrap();
        }
        for folder in [&old, &nameless, &kin] {
            age(folder);
        }
        let used = entry(&images, "b", "").get(made).unwrap();
        let new = entry(&images, "c", "").get(made).unwrap();
        let left = [&used, &new, &kin].map(|f| f.is_dir());
        assert_eq!(
            (left, old.exists(), nameless.exists()),
            ([true; 3], false, false)
        );
    }
}
