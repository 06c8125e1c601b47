//! The boot test of a full host: two qcow2 disks of 64 MiB on a file system of
//! 8 MiB. The first one reports errors; the second one, with QEMU's default,
//! stops the machine. Both images are sound afterwards.

use super::boards::LOAD;
use crate::paths::TempFolder;
use std::path::Path;
use std::process::Command;

/// In namespaces of its own, so that the small file system goes away with the
/// last process, whatever happens. Arguments: trapeze, folder, trapeze's own.
const SCRIPT: &str = r#"
trapeze=$1 folder=$2
shift 2
mount -t tmpfs -o size=8m tmpfs "$folder/small" || exit 77
for name in a b; do
    "$trapeze" img create -q -f qcow2 "$folder/small/$name" 64M || exit 78
done
"$trapeze" "$@"
code=$?
for name in a b; do
    "$trapeze" img check "$folder/small/$name" || exit 79
done
exit $code
"#;

pub(super) const OPTIONS: &[&str] = &[
    "-drive",
    "file={folder}/small/a,if=virtio,format=qcow2,werror=report",
    "-drive",
    "file={folder}/small/b,if=virtio,format=qcow2,id=second",
];

const PROMPT: &str = super::PROMPT;

pub(super) const STEPS: &[(&str, &str)] = &[
    (PROMPT, LOAD),
    ("\nin 0", ""),
    (
        PROMPT,
        "dd if=/dev/zero of=/dev/vda bs=1M count=20 conv=fsync; echo wrote $?\r",
    ),
    ("I/O error, dev vda", ""),
    ("\nwrote 1", ""),
    (
        PROMPT,
        "dd if=/dev/zero of=/dev/vdb bs=1M count=20 conv=fsync\r",
    ),
    (
        "drive 'second': writing: No space left on device; the machine is stopped (io-error)",
        "\x01x",
    ),
    ("No errors were found on the image", ""),
    ("No errors were found on the image", ""),
];

pub(super) fn command(trapeze: &Path, folder: &TempFolder) -> Command {
    // What fails here fails again, with a message, when it is mounted.
    let _ = std::fs::create_dir_all(folder.path("small"));
    let mut command = Command::new("unshare");
    command
        .args(["--map-root-user", "--mount", "sh", "-c", SCRIPT, "sh"])
        .arg(trapeze)
        .arg(folder.path(""));
    command
}
