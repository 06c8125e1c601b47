//! Linux guests to boot: Debian's own kernel and busybox, fetched once.
//!
//! [`fetch`] asks the host's `apt-get` for the packages, with state, lists and
//! cache in a private folder, so that neither root nor fresh system lists are
//! needed. apt verifies the archive's signature with the system's keyrings and
//! every package against the signed index; a source that is not signed is
//! refused. What is already in the cache is used without the network.
//!
//! [`initramfs`] wraps busybox into a `newc` archive the kernel unpacks.

mod apt;
mod cache;
mod cpio;
mod deb;
mod debian;
mod follow;
mod initramfs;
mod look;
mod modules;
mod progress;

pub use cache::{Image, cache_dir, fetch};
pub use cpio::Archive;
pub use deb::find_in_tar;
pub use debian::{Made, Workshop};
pub use initramfs::{Mode, command_line, initramfs};
pub use look::{Found, Look};
pub use modules::modules;
pub use progress::Progress;

use std::path::PathBuf;

/// Shorthand.
pub type Result<T> = std::result::Result<T, Error>;

/// Why no guest image could be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No folder to keep the image in.
    #[error("no cache folder: set XDG_CACHE_HOME or HOME")]
    NoCacheDir,
    /// A file operation failed.
    #[error("{path}: {source}")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The host's answer.
        source: std::io::Error,
    },
    /// A program of the host's package tools is missing.
    #[error("{program} cannot be run ({source}); it comes with Debian and its derivatives")]
    NoProgram {
        /// Name of the program.
        program: &'static str,
        /// The host's answer.
        source: std::io::Error,
    },
    /// A package tool failed.
    #[error("{what} failed: {why}")]
    Tool {
        /// Program and action.
        what: String,
        /// Its last words.
        why: String,
    },
    /// The package sources do not have the package.
    #[error("the configured package sources do not give {package}{why}")]
    NoPackage {
        /// Package name.
        package: String,
        /// What the update said, if it failed.
        why: String,
    },
    /// The package does not hold the expected file.
    #[error("{package} holds no {file}")]
    NotInPackage {
        /// Package file.
        package: PathBuf,
        /// What was looked for.
        file: String,
    },
}

impl Error {
    fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}

/// Which Debian kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// The 64-bit kernel for virtual machines.
    Cloud,
    /// The 64-bit kernel for every machine: what the cloud kernel has built in
    /// for disks and file systems are modules there.
    Amd64,
    /// The same with PREEMPT_RT.
    Rt,
    /// The 32-bit kernel without PAE.
    I686,
    /// The 32-bit kernel with PAE.
    I686Pae,
}

/// One row per kernel: name in the cache, package architecture, meta package.
const FLAVOURS: [(Flavour, &str, &str, &str); 5] = [
    (
        Flavour::Cloud,
        "cloud-amd64",
        "amd64",
        "linux-image-cloud-amd64",
    ),
    (Flavour::Amd64, "amd64", "amd64", "linux-image-amd64"),
    (Flavour::Rt, "rt-amd64", "amd64", "linux-image-rt-amd64"),
    (Flavour::I686, "686", "i386", "linux-image-686"),
    (Flavour::I686Pae, "686-pae", "i386", "linux-image-686-pae"),
];

impl Flavour {
    /// Every kernel there is.
    pub const ALL: [Self; 5] = [
        Self::Cloud,
        Self::Amd64,
        Self::Rt,
        Self::I686,
        Self::I686Pae,
    ];

    fn row(self) -> &'static (Flavour, &'static str, &'static str, &'static str) {
        // Exhaustive by construction: the table's order is the enum's.
        &FLAVOURS[self as usize]
    }
    /// Name for commands and folders: `cloud-amd64`, `amd64`, `rt-amd64`, `686`,
    /// `686-pae`.
    pub fn name(self) -> &'static str {
        self.row().1
    }
    /// Debian's name of the architecture.
    pub fn architecture(self) -> &'static str {
        self.row().2
    }
    /// The package that depends on the current kernel image.
    pub fn meta_package(self) -> &'static str {
        self.row().3
    }
    /// The flavour of that [`Flavour::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|f| f.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_enum() {
        for flavour in Flavour::ALL {
            assert_eq!(flavour.row().0, flavour);
            assert_eq!(Flavour::from_name(flavour.name()), Some(flavour));
        }
        assert_eq!(Flavour::from_name("arm64"), None);
    }
}
