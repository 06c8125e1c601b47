//! The boot test of a shared folder: everything a program does with files, by
//! the guest, looked at by the host, and the other way round. The folder is
//! shared twice, the second time only to read.

use super::{Devices, PATIENCE, PROMPT};
use crate::expect::Session;
use crate::paths::TempFolder;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

pub(super) const DEVICES: Devices = Devices {
    modules: &["fuse", "virtiofs"],
    act: share,
};

pub(super) const OPTIONS: &[&str] = &[
    "-smp",
    "2",
    "-fsdev",
    "local,id=work,path={folder}",
    "-fsdev",
    "local,id=look,path={folder},readonly=on",
    "-device",
    "virtio-fs-pci,fsdev=work,tag=work",
    "-device",
    "virtio-fs-pci,fsdev=look,tag=look",
];

pub(super) const MICROVM_OPTIONS: &[&str] = &[
    "-M",
    "microvm",
    "-fsdev",
    "local,id=work,path={folder}",
    "-fsdev",
    "local,id=look,path={folder},readonly=on",
    "-device",
    "virtio-fs-device,fsdev=work,tag=work",
    "-device",
    "virtio-fs-device,fsdev=look,tag=look",
];

pub(super) const STEPS: &[(&str, &str)] = &[
    (PROMPT, super::boards::LOAD),
    ("\nin 0", ""),
    (
        PROMPT,
        "mkdir /w /l; mount -t virtiofs work /w; mount -t virtiofs look /l; echo mounted $?\r",
    ),
    ("\nmounted 0", ""),
];

/// What the guest runs, from the folder. Every line must succeed.
const SCRIPT: &str = r#"
cd /w
md5sum -c sum-of-host
head -c 8388608 /dev/urandom > from-guest
md5sum from-guest > sum-of-guest
mkdir -p d/e d/many
echo one > d/a
mv d/a d/e/b
[ ! -e d/a ]
ln -s e/b d/link
[ "$(cat d/link)" = one ]
ln d/e/b d/hard
[ "$(stat -c %h d/hard)" = 2 ]
truncate -s 1000000 d/large
truncate -s 1000 d/large
[ "$(stat -c %s d/large)" = 1000 ]
chmod 640 d/large
touch -d '2001-02-03 04:05:06' d/large
[ "$(stat -c %Y d/large)" = "$(date -d '2001-02-03 04:05:06' +%s)" ]
dd if=/dev/urandom of=d/synced bs=4k count=100 conv=fsync
exec 3< d/hard
rm d/hard
[ "$(cat <&3)" = one ]
i=0
while [ $i -lt 2000 ]; do : > d/many/a-file-with-a-name-$i; i=$((i + 1)); done
[ "$(ls d/many | wc -l)" = 2000 ]
rm -r d/many
mkdir d/empty
rmdir d/empty
echo 3 > /proc/sys/vm/drop_caches
md5sum -c sum-of-guest
cp /bin/busybox busybox
chmod 755 busybox
[ "$(./busybox echo runs)" = runs ]
ln -s /etc d/etc
! chown 12345 d/large
! mknod d/null c 1 3
! chmod 4755 busybox
[ "$(cat no-such-file || echo none)" = none ]
cd /l
md5sum -c sum-of-host sum-of-guest
! touch new
! rm from-host
! mkdir new
! mv from-host new
! truncate -s 0 from-host
! chmod 777 from-host
! sh -c 'echo more >> from-host'
"#;

/// Bytes that the host writes; Linux asks for at most 1 MiB at once.
const LEN: u32 = 8 << 20;

fn share(session: &mut Session, folder: &TempFolder) -> Result<()> {
    let words = (0..LEN / 4).map(|i| i.wrapping_mul(0x9e37_79b9));
    let bytes: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
    fs::write(folder.path("from-host"), bytes)?;
    let sum = md5sum(folder, &["from-host"])?;
    fs::write(folder.path("sum-of-host"), sum)?;
    fs::write(folder.path("script"), script())?;
    session.expect(PROMPT, PATIENCE)?;
    session.send("sh /w/script\r")?;
    session.expect("\nscript ended", PATIENCE)?;
    look(folder)?;
    // The guest believes what it knows for a second.
    fs::write(folder.path("d/e/b"), "two, and longer\n")?;
    session.expect(PROMPT, PATIENCE)?;
    session.send("sleep 2; cat /w/d/e/b /l/d/link; cd; umount /w /l; echo out $?\r")?;
    session.expect("\ntwo, and longer", PATIENCE)?;
    session.expect("\ntwo, and longer", PATIENCE)?;
    session.expect("\nout 0", PATIENCE)?;
    session.expect(PROMPT, PATIENCE)?;
    session.send("poweroff\r")
}

/// The script, which says what went wrong in place of the last words.
fn script() -> String {
    let check = |line: &str| format!("{line} || {{ echo \"line $LINENO\"; exit 1; }}\n");
    let loops = |line: &str| line.starts_with("while") || line.starts_with("i=");
    let line = |line: &str| match loops(line) {
        true => format!("{line}\n"),
        false => check(line),
    };
    let lines: String = SCRIPT.lines().filter(|l| !l.is_empty()).map(line).collect();
    format!("{lines}echo script ended\n")
}

/// What the guest made, as the host sees it.
fn look(folder: &TempFolder) -> Result<()> {
    md5sum(folder, &["-c", "sum-of-guest", "sum-of-host"])?;
    let large = fs::metadata(folder.path("d/large"))?;
    ensure!(large.len() == 1000, "{} bytes", large.len());
    ensure!(large.mode() & 0o7777 == 0o640, "mode {:o}", large.mode());
    // The guest's clock is in UTC.
    ensure!(large.mtime() == 981_173_106, "time {}", large.mtime());
    ensure!(fs::read(folder.path("d/e/b"))? == b"one\n", "d/e/b");
    ensure!(fs::metadata(folder.path("d/synced"))?.len() == 409_600);
    let target = |name| fs::read_link(folder.path(name));
    ensure!(target("d/link")?.as_os_str() == "e/b", "d/link");
    ensure!(target("d/etc")?.as_os_str() == "/etc", "d/etc");
    for gone in ["d/a", "d/hard", "d/many", "d/empty", "d/null", "new"] {
        ensure!(!folder.path(gone).exists(), "{gone} is there");
    }
    Ok(())
}

/// The host's own md5sum, in the folder.
fn md5sum(folder: &TempFolder, arguments: &[&str]) -> Result<Vec<u8>> {
    let mut command = Command::new("md5sum");
    let output = command.args(arguments).current_dir(folder.path(""));
    let output = output.output().context("md5sum")?;
    let what = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "md5sum: {what}");
    Ok(output.stdout)
}
