//! What the guest may not do, whoever runs the machine.

use super::guest::{self, Body, Guest, op};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

#[test]
fn a_read_only_folder_stays_as_it_is() {
    let guest = Guest::with(true);
    fs::write(guest.path("file"), "f").unwrap();
    fs::create_dir(guest.path("folder")).unwrap();
    let before = fs::metadata(guest.path("file")).unwrap();
    let file = guest.lookup(1, "file").unwrap();
    let handle = guest.open(file, libc::O_RDONLY).unwrap();
    let body = Body::new;
    let create = body().word(libc::O_RDONLY as u32).word(0o644).long(0);
    let range = body().long(handle).long(0).long(1).long(0);
    let requests = [
        (op::SYMLINK, 1, body().name("new").name("target")),
        (op::MKNOD, 1, body().word(0o644).long(0).word(0).name("new")),
        (op::MKDIR, 1, body().word(0o755).word(0).name("new")),
        (op::UNLINK, 1, body().name("file")),
        (op::RMDIR, 1, body().name("folder")),
        (op::RENAME, 1, body().long(1).name("file").name("new")),
        (op::LINK, 1, body().long(file).name("new")),
        (op::CREATE, 1, create.clone().name("new")),
        (op::CREATE, 1, create.name("file")),
        (op::FALLOCATE, file, range),
    ];
    for (opcode, node, body) in requests {
        let result = guest.call(opcode, node, body);
        assert_eq!(result, Err(libc::EROFS), "request {opcode}");
    }
    for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_TRUNC, 3] {
        assert_eq!(guest.open(file, flags), Err(libc::EROFS), "{flags:#o}");
    }
    assert_eq!(guest.write(file, handle, b"x"), Err(libc::EROFS));
    for valid in [1, 2, 4, 8, 0x10, 0x20] {
        assert_eq!(guest.change(file, valid, 0), Err(libc::EROFS), "{valid}");
    }
    assert_eq!(guest.read(file, handle, 9).unwrap(), b"f");
    let after = fs::metadata(guest.path("file")).unwrap();
    let facts = |m: &fs::Metadata| (m.mode(), m.size(), m.mtime_nsec(), m.ctime_nsec());
    assert_eq!(facts(&before), facts(&after));
    assert_eq!(fs::read_dir(guest.path("")).unwrap().count(), 2);
}

/// As the user who runs the machine, and with no more rights for anybody.
#[test]
fn nobody_gets_the_rights_of_another() {
    let guest = Guest::new();
    let create = |mode| Body::new().word(libc::O_RDWR as u32).word(mode).long(0);
    for bit in [0o4000, 0o2000] {
        let made = guest.call(op::CREATE, 1, create(0o755 | bit).name("file"));
        assert_eq!(made, Err(libc::EPERM));
        let body = Body::new().word(0o755 | bit).word(0).name("folder");
        assert_eq!(guest.call(op::MKDIR, 1, body), Err(libc::EPERM));
    }
    let made = guest.call(op::CREATE, 1, create(0o666).name("file"));
    let file = guest::node(&made.unwrap());
    // The guest's kernel applies its own mask.
    let metadata = fs::metadata(guest.path("file")).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o666);
    let owner = (metadata.uid(), metadata.gid());
    assert_eq!(guest.change(file, 1, 0o4755), Err(libc::EPERM));
    assert!(guest.change(file, 1, 0o600).is_ok());
    for valid in [2, 4, 6] {
        assert_eq!(guest.change(file, valid, 12345), Err(libc::EPERM));
    }
    // To whom it belongs already it may be given.
    assert!(guest.change(file, 2, owner.0).is_ok());
    let metadata = fs::metadata(guest.path("file")).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), owner);
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o600);
}

#[test]
fn there_are_no_devices_and_nothing_that_waits() {
    let guest = Guest::new();
    let make = |mode: u32, name| {
        let body = Body::new().word(mode | 0o600).word(0x0103).long(0);
        guest.call(op::MKNOD, 1, body.name(name))
    };
    assert_eq!(make(libc::S_IFCHR, "null"), Err(libc::EPERM));
    assert_eq!(make(libc::S_IFBLK, "disk"), Err(libc::EPERM));
    // To open a pipe would wait for its other end, in the device's thread.
    for (kind, name) in [(libc::S_IFIFO, "pipe"), (libc::S_IFSOCK, "socket")] {
        let node = guest::node(&make(kind, name).unwrap());
        assert_eq!(guest.open(node, libc::O_RDONLY), Err(libc::EBADF));
    }
    let body = Body::new().long(1).word(4).word(0);
    let body = body.name("pipe").name("gone");
    // RENAME_WHITEOUT leaves a device behind.
    assert_eq!(guest.call(op::RENAME2, 1, body), Err(libc::EINVAL));
    let body = Body::new().word(1).word(0).name("user.a").bytes(b"1");
    assert_eq!(guest.call(op::SETXATTR, 1, body), Err(libc::ENOSYS));
}
