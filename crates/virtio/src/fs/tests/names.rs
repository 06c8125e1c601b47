//! Names and links by which a guest would leave the folder, if it could.

use super::guest::{self, Body, Guest, op};
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

/// Names that are no name in a folder, and why they are refused.
fn bad_names() -> Vec<(String, i32)> {
    let mut names: Vec<_> = [
        "",
        ".",
        "..",
        "/",
        "../x",
        "a/b",
        "/etc",
        "../secret",
        "./a",
    ]
    .map(|name| (name.to_string(), libc::EINVAL))
    .into();
    names.push(("x".repeat(256), libc::ENAMETOOLONG));
    names.push(("x".repeat(5000), libc::ENAMETOOLONG));
    names
}

#[test]
fn names_that_are_paths_are_refused_by_every_request() {
    let guest = Guest::new();
    fs::write(guest.outside("secret"), "s").unwrap();
    fs::write(guest.path("file"), "f").unwrap();
    let file = guest.lookup(1, "file").unwrap();
    let plain = Body::new;
    for (name, error) in bad_names() {
        let mode = plain().word(0o644).word(0);
        let create = plain().word(libc::O_RDWR as u32).word(0o644).word(0);
        let requests = [
            (op::LOOKUP, plain().name(&name)),
            (op::SYMLINK, plain().name(&name).name("target")),
            (op::MKNOD, mode.clone().word(0).word(0).name(&name)),
            (op::MKDIR, mode.name(&name)),
            (op::UNLINK, plain().name(&name)),
            (op::RMDIR, plain().name(&name)),
            (op::RENAME, plain().long(1).name(&name).name("new")),
            (op::RENAME, plain().long(1).name("file").name(&name)),
            (op::RENAME2, plain().long(1).long(0).name(&name).name("new")),
            (op::LINK, plain().long(file).name(&name)),
            (op::CREATE, create.word(0).name(&name)),
        ];
        for (opcode, body) in requests {
            let result = guest.call(opcode, 1, body);
            assert_eq!(result, Err(error), "request {opcode} with {name:.9}");
        }
    }
    assert_eq!(guest.list(1), ["file"]);
    assert_eq!(fs::read(guest.outside("secret")).unwrap(), b"s");
    assert_eq!(fs::read_dir(guest.outside("")).unwrap().count(), 2);
}

/// A name ends at its first zero; a name without one is no request.
#[test]
fn zeros_in_names_hide_nothing() {
    let guest = Guest::new();
    let body = Body::new().word(0o755).word(0).bytes(b"a\0/../../b\0");
    assert!(guest.call(op::MKDIR, 1, body).is_ok());
    assert_eq!(guest.list(1), ["a"]);
    let body = Body::new().word(0o755).word(0).bytes(b"endless");
    assert_eq!(guest.call(op::MKDIR, 1, body), Err(libc::EINVAL));
    let body = Body::new().bytes(b"..\0x\0");
    assert_eq!(guest.call(op::LOOKUP, 1, body), Err(libc::EINVAL));
}

/// Everything that would follow a link stops at it.
fn stops_at(guest: &Guest, name: &str, target: &str) {
    let link = guest.lookup(1, name).unwrap();
    let read = guest.call(op::READLINK, link, Body::new());
    assert_eq!(read.unwrap(), target.as_bytes());
    let opened = guest.open(link, libc::O_RDWR);
    assert!(matches!(opened, Err(libc::EBADF | libc::ELOOP)));
    let opened = guest.call(op::OPENDIR, link, Body::new().long(0));
    assert!(matches!(opened, Err(libc::EBADF | libc::ELOOP)));
    for child in ["secret", "etc", "passwd"] {
        assert_eq!(guest.lookup(link, child), Err(libc::ENOTDIR));
    }
    let mkdir = Body::new().word(0o755).word(0).name("made");
    assert_eq!(guest.call(op::MKDIR, link, mkdir), Err(libc::ENOTDIR));
    let create = Body::new().word(libc::O_RDWR as u32).word(0o644);
    let made = guest.call(op::CREATE, link, create.clone().long(0).name("made"));
    assert_eq!(made, Err(libc::ENOTDIR));
    // Without O_EXCL the file that is there would be opened.
    let made = guest.call(op::CREATE, 1, create.long(0).name(name));
    assert!(matches!(made, Err(libc::EBADF | libc::ELOOP)));
    for valid in [1, 8] {
        // Mode, size.
        assert!(guest.change(link, valid, 0o600).is_err());
    }
    let body = Body::new().long(link).name("again");
    assert!(guest.call(op::LINK, 1, body).is_ok());
    assert!(guest.path("again").is_symlink());
    fs::remove_file(guest.path("again")).unwrap();
}

#[test]
fn links_lead_nowhere() {
    let guest = Guest::new();
    let secret = guest.outside("secret");
    fs::write(&secret, "s").unwrap();
    let before = fs::metadata(&secret).unwrap();
    let absolute = secret.to_str().unwrap().to_string();
    for target in ["/", "/etc", "..", "../secret", &absolute, "../../../../.."] {
        // Of the guest's making, and of the host's.
        let body = Body::new().name("link").name(target);
        let answer = guest.call(op::SYMLINK, 1, body).unwrap();
        assert_eq!(guest::mode(&answer) & libc::S_IFMT, libc::S_IFLNK);
        stops_at(&guest, "link", target);
        let body = Body::new().name("link");
        assert!(guest.call(op::UNLINK, 1, body).is_ok());
        symlink(target, guest.path("host")).unwrap();
        stops_at(&guest, "host", target);
        fs::remove_file(guest.path("host")).unwrap();
    }
    let after = fs::metadata(&secret).unwrap();
    assert_eq!(fs::read(&secret).unwrap(), b"s");
    let facts = |m: &fs::Metadata| (m.mode(), m.mtime(), m.mtime_nsec(), m.nlink());
    assert_eq!(facts(&before), facts(&after));
}

/// The host replaces a folder that the guest knows by a link out of it.
#[test]
fn a_folder_that_becomes_a_link_is_not_followed() {
    let guest = Guest::new();
    fs::create_dir(guest.path("folder")).unwrap();
    fs::write(guest.outside("secret"), "s").unwrap();
    let folder = guest.lookup(1, "folder").unwrap();
    fs::rename(guest.path("folder"), guest.path("moved")).unwrap();
    symlink("..", guest.path("folder")).unwrap();
    assert_eq!(guest.lookup(folder, "secret"), Err(libc::ENOENT));
    let body = Body::new().word(0o755).word(0).name("made");
    assert!(guest.call(op::MKDIR, folder, body).is_ok());
    assert!(guest.path("moved/made").is_dir());
    assert!(!guest.outside("made").exists());
}
