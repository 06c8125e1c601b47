//! What this process may have of the host.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Lets it open as many files as the host allows it: the guest's connections and
/// open files are files of this process, and the usual limit of 1024 is for programs
/// that call select().
pub(super) fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(why) = setrlimit(Resource::Nofile, most) {
        log::debug!("open files stay limited to {:?}: {why}", limit.current);
    }
}
