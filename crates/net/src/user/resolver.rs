//! The host's name server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::SystemTime;

const PORT: u16 = 53;

/// Longest file that is read.
const LONGEST: u64 = 64 << 10;

pub(super) struct Resolver {
    path: PathBuf,
    fixed: Option<SocketAddr>,
    found: IpAddr,
    modified: Option<SystemTime>,
}

impl Resolver {
    /// `fixed`, or whoever `/etc/resolv.conf` names first.
    pub(super) fn new(fixed: Option<SocketAddr>) -> Self {
        Self {
            path: "/etc/resolv.conf".into(),
            fixed,
            found: Ipv4Addr::LOCALHOST.into(),
            modified: None,
        }
    }

    /// Looks at the file again if it has changed.
    pub(super) fn address(&mut self) -> SocketAddr {
        if let Some(fixed) = self.fixed {
            return fixed;
        }
        let modified = std::fs::metadata(&self.path).and_then(|m| m.modified());
        let modified = modified.ok();
        if modified.is_none() || modified != self.modified {
            self.modified = modified;
            self.found = self.read().unwrap_or(Ipv4Addr::LOCALHOST.into());
        }
        SocketAddr::new(self.found, PORT)
    }

    fn read(&self) -> Option<IpAddr> {
        use std::io::Read;
        let mut text = String::new();
        let file = std::fs::File::open(&self.path).ok()?;
        file.take(LONGEST).read_to_string(&mut text).ok()?;
        first_server(&text)
    }
}

/// resolv.conf(5): a keyword at the line's start, white space, its value.
fn first_server(text: &str) -> Option<IpAddr> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == "nameserver").then_some(())?;
        words.next()?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_name_server_counts() {
        let text = "# nameserver 1.1.1.1\nsearch a b\nnameserver ::1\nnameserver 9.9.9.9\n";
        assert_eq!(first_server(text), "::1".parse().ok());
        assert_eq!(first_server("options x\n"), None);
    }

    #[test]
    fn a_changed_file_is_read_again() {
        let path = std::env::temp_dir().join(format!("resolver-{}", std::process::id()));
        let mut resolver = Resolver::new(None);
        resolver.path.clone_from(&path);
        assert_eq!(resolver.address(), SocketAddr::from(([127, 0, 0, 1], 53)));
        for (n, ip) in [(1, [9, 9, 9, 9]), (2, [8, 8, 8, 8])] {
            std::fs::write(&path, format!("nameserver {}\n", IpAddr::from(ip))).unwrap();
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(n);
            file.set_modified(time).unwrap();
            assert_eq!(resolver.address(), SocketAddr::from((ip, 53)));
        }
        std::fs::remove_file(&path).unwrap();
    }
}
