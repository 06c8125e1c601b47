//! Where each machine of this user's can be asked while it runs: a QMP socket with
//! the number of its process, in a folder that nobody else can look into.

use rustix::process::geteuid;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

const END: &str = ".qmp";

/// The folder (XDG Base Directory Specification; without a runtime folder one below
/// that for temporary files). `None` where it is not this user's alone.
fn folder() -> Option<PathBuf> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let folder = match runtime.filter(|path| path.is_absolute() && path.is_dir()) {
        Some(runtime) => runtime.join("trapeze"),
        None => std::env::temp_dir().join(format!("trapeze-{}", geteuid().as_raw())),
    };
    // It may be there already, and then it is looked at like a new one.
    let _ = fs::DirBuilder::new().mode(0o700).create(&folder);
    let about = fs::symlink_metadata(&folder).ok()?;
    let ours = about.is_dir() && about.uid() == geteuid().as_raw() && about.mode() & 0o077 == 0;
    ours.then_some(folder)
}

/// Where this process's machine listens; `None` if there is no place for it.
pub fn socket() -> Option<PathBuf> {
    Some(folder()?.join(format!("{}{END}", std::process::id())))
}

/// Processes with a machine, and where they listen. What machines left that were
/// killed is removed.
pub fn sockets() -> Vec<(u32, PathBuf)> {
    let entries = folder().and_then(|folder| fs::read_dir(folder).ok());
    let machine = |entry: fs::DirEntry| {
        let pid = entry
            .file_name()
            .to_str()?
            .strip_suffix(END)?
            .parse()
            .ok()?;
        Some((pid, entry.path()))
    };
    let all = entries.into_iter().flatten().flatten().filter_map(machine);
    let mut all: Vec<_> = all.filter(|(_, path)| !left_behind(path)).collect();
    all.sort();
    all
}

fn left_behind(path: &PathBuf) -> bool {
    let refused = UnixStream::connect(path)
        .is_err_and(|why| why.kind() == std::io::ErrorKind::ConnectionRefused);
    if refused {
        // Another may have done so in the meantime.
        let _ = fs::remove_file(path);
    }
    refused
}
