//! Writer of `newc` cpio archives, the kernel's initramfs format
//! (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).

/// An archive in memory.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    next_inode: u32,
}

const DIRECTORY: u32 = 0o040_000;
const CHARACTER: u32 = 0o020_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;

impl Archive {
    /// An empty archive.
    pub fn new() -> Self {
        Self::default()
    }
    /// Adds a folder; its parent must have been added before.
    pub fn directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY | 0o755, (0, 0), &[]);
    }
    /// Adds a file with the given permission bits.
    pub fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        self.entry(path, REGULAR | permissions, (0, 0), content);
    }
    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) {
        self.entry(path, SYMLINK | 0o777, (0, 0), target.as_bytes());
    }
    /// Adds a character device.
    pub fn device(&mut self, path: &str, permissions: u32, major: u32, minor: u32) {
        self.entry(path, CHARACTER | permissions, (major, minor), &[]);
    }
    /// Closes the archive: its bytes, padded to 512.
    pub fn finish(mut self) -> Vec<u8> {
        self.next_inode = 0;
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.pad(512);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        let inode = self.next_inode;
        self.next_inode += 1;
        // Everything belongs to root and is as old as the epoch, so that the
        // same content always gives the same bytes.
        let fields = [
            inode,
            mode,
            0,
            0,
            1,
            0,
            content.len() as u32,
            0,
            0,
            device.0,
            device.1,
            path.len() as u32 + 1,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad(4);
        self.bytes.extend_from_slice(content);
        self.pad(4);
    }
    fn pad(&mut self, align: usize) {
        self.bytes
            .resize(self.bytes.len().next_multiple_of(align), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    #[test]
    fn a_header_is_as_the_kernel_documents_it() {
        let mut archive = Archive::new();
        archive.file("a", 0o644, b"xyz");
        let bytes = archive.finish();
        let header = "070701\
            00000000000081A40000000000000000000000010000000000000003\
            00000000000000000000000000000000000000020000000";
        assert!(bytes.starts_with(header.as_bytes()));
        assert_eq!(&bytes[110..116], b"a\0xyz\0"[..].get(..6).unwrap());
        assert_eq!(bytes.len() % 512, 0);
    }

    #[test]
    fn cpio_lists_what_was_packed() {
        let mut archive = Archive::new();
        archive.directory("dev");
        archive.device("dev/console", 0o600, 5, 1);
        archive.file("init", 0o755, b"#!/bin/sh\n");
        archive.symlink("sh", "bin/busybox");
        let Ok(mut cpio) = Command::new("cpio")
            .args(["-itv", "--quiet"])
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
        else {
            // Without the tool the header test above has to do.
            return;
        };
        cpio.stdin
            .take()
            .unwrap()
            .write_all(&archive.finish())
            .unwrap();
        let list = String::from_utf8(cpio.wait_with_output().unwrap().stdout).unwrap();
        let lines: Vec<&str> = list.lines().collect();
        assert_eq!(lines.len(), 4, "{list}");
        assert!(lines[0].starts_with("drwxr-xr-x"), "{list}");
        assert!(
            lines[1].starts_with("crw-------") && lines[1].contains("5,   1"),
            "{list}"
        );
        assert!(lines[2].starts_with("-rwxr-xr-x"), "{list}");
        assert!(lines[3].ends_with("sh -> bin/busybox"), "{list}");
    }
}
