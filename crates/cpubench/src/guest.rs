//! As a guest's first process.
#![allow(
    unsafe_code,
    reason = "mount and reboot have no safe wrappers in the standard library"
)]

use crate::serve;
use std::ffi::CString;
use std::io;
use std::process::ExitCode;

/// What is mounted where.
const MOUNTS: [(&str, &str); 4] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("tmpfs", "/tmp"),
];

/// Mounts, serves, powers off.
pub(crate) fn main() -> ExitCode {
    let served = prepare().and_then(|()| serve::serve("/tmp"));
    if let Err(why) = served {
        println!("failed guest {why}");
    }
    // SAFETY: both take plain integers or nothing.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_POWER_OFF);
    }
    ExitCode::FAILURE
}

fn prepare() -> io::Result<()> {
    for (kind, place) in MOUNTS {
        std::fs::create_dir_all(place)?;
        mount(kind, place)?;
    }
    Ok(())
}

fn mount(kind: &str, place: &str) -> io::Result<()> {
    let (kind, place) = (CString::new(kind)?, CString::new(place)?);
    // SAFETY: the three strings end in zero and live until the call returns; no
    // data is passed.
    let result = unsafe {
        libc::mount(
            kind.as_ptr(),
            place.as_ptr(),
            kind.as_ptr(),
            0,
            std::ptr::null(),
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
