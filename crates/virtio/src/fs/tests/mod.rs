//! The device as a driver sees it: requests of FUSE (linux/fuse.h, 7.38) in
//! queue 1, answered from a folder of the host.

mod chains;
mod guest;
mod names;
mod rights;

use super::*;
use guest::{Body, Guest, op};
use std::fs;

#[test]
fn configuration_is_the_tag_and_the_number_of_queues() {
    let guest = Guest::new();
    let bytes: Vec<u8> = (0..CONFIG_LEN as u64)
        .map(|i| guest.rig.read(0x2000 + i, 1) as u8)
        .collect();
    let mut expected = [0; CONFIG_LEN];
    expected[..6].copy_from_slice(b"folder");
    expected[TAG_LEN] = 3;
    assert_eq!(bytes, expected);
    // The queue that must not wait, and three of requests.
    assert_eq!(guest.fs.queue_sizes(), [8; 4]);
}

#[test]
fn a_file_is_found_read_and_written() {
    let guest = Guest::new();
    fs::write(guest.path("greeting"), "hello").unwrap();
    let node = guest.lookup(1, "greeting").unwrap();
    let file = guest.open(node, libc::O_RDWR).unwrap();
    let read = || guest.read(node, file, 4096);
    assert_eq!(read().unwrap(), b"hello");
    assert_eq!(guest.write(node, file, b"HE"), Ok(2));
    assert_eq!(read().unwrap(), b"HEllo");
    assert_eq!(fs::read(guest.path("greeting")).unwrap(), b"HEllo");
    // What the host changes is seen at the next request.
    fs::write(guest.path("greeting"), "bye").unwrap();
    assert_eq!(read().unwrap(), b"bye");
    let release = Body::new().long(file).word(0).word(0).long(0);
    assert!(guest.call(op::RELEASE, node, release).is_ok());
    assert_eq!(read(), Err(libc::EBADF));
}

#[test]
fn a_folder_with_many_files_is_listed_whole() {
    let guest = Guest::new();
    let mut names: Vec<String> = (0..500).map(|i| format!("file-{i:04}")).collect();
    for name in &names {
        fs::write(guest.path(name), name).unwrap();
    }
    let mut listed = guest.list(1);
    listed.sort();
    names.sort();
    assert_eq!(listed, names);
}

#[test]
fn a_hard_link_is_the_same_file() {
    let guest = Guest::new();
    fs::write(guest.path("one"), "1").unwrap();
    fs::create_dir(guest.path("folder")).unwrap();
    let (one, folder) = (guest.lookup(1, "one"), guest.lookup(1, "folder"));
    let body = Body::new().long(one.unwrap()).name("two");
    let answer = guest.call(op::LINK, folder.unwrap(), body).unwrap();
    assert_eq!(guest::node(&answer), one.unwrap());
    assert_eq!(fs::read(guest.path("folder/two")).unwrap(), b"1");
    // What the guest looked up is gone, and another file in its place.
    fs::rename(guest.path("one"), guest.path("three")).unwrap();
    fs::remove_file(guest.path("folder/two")).unwrap();
    fs::remove_file(guest.path("three")).unwrap();
    fs::write(guest.path("one"), "other").unwrap();
    let body = Body::new().long(one.unwrap()).name("two");
    assert!(guest.call(op::LINK, folder.unwrap(), body).is_err());
    assert!(!guest.path("folder/two").exists());
}

#[test]
fn a_reset_forgets_what_was_open() {
    let guest = Guest::new();
    fs::write(guest.path("a"), "a").unwrap();
    let node = guest.lookup(1, "a").unwrap();
    guest.rig.set_status(0);
    guest.mount();
    assert_eq!(guest.open(node, libc::O_RDONLY), Err(libc::EBADF));
    assert!(guest.lookup(1, "a").is_ok());
}

#[test]
fn only_a_device_without_a_driver_is_saved() {
    let guest = Guest::new();
    assert!(!guest.fs.suspend());
    guest.rig.set_status(0);
    assert!(guest.fs.suspend());
}

#[test]
fn what_is_no_folder_is_not_shared() {
    let guest = Guest::new();
    fs::write(guest.path("file"), "").unwrap();
    for (name, kind) in [
        ("file", io::ErrorKind::NotADirectory),
        ("none", io::ErrorKind::NotFound),
    ] {
        let error = Share::open(&guest.path(name), false).unwrap_err();
        assert_eq!(error.kind(), kind, "{name}");
    }
}
