//! Files of ours in the new system.

use crate::Archive;

/// Path, permissions, content; folders come before what is in them.
const FILES: [(&str, u32, &str); 13] = [
    ("etc/hostname", 0o644, "debian\n"),
    (
        "etc/hosts",
        0o644,
        "127.0.0.1 localhost\n127.0.1.1 debian\n::1 localhost ip6-localhost ip6-loopback\n",
    ),
    // A larger disk is used up at the next boot.
    (
        "etc/fstab",
        0o644,
        "/dev/vda / ext4 errors=remount-ro,x-systemd.growfs 0 0\n",
    ),
    // The user-mode network's; nothing in the image writes the file.
    ("etc/resolv.conf", 0o644, "nameserver 10.0.2.3\n"),
    ("etc/default/locale", 0o644, "LANG=C.UTF-8\n"),
    (
        "etc/systemd/network/80-dhcp.network",
        0o644,
        "[Match]\nType=ether\n\n[Network]\nDHCP=yes\n",
    ),
    // One key is enough and quickly made.
    (
        "etc/ssh/sshd_config.d/trapeze.conf",
        0o644,
        "HostKey /etc/ssh/ssh_host_ed25519_key\nPermitRootLogin prohibit-password\n",
    ),
    (
        "etc/systemd/system/ssh.service.d/host-key.conf",
        0o644,
        "[Service]\nExecStartPre=\n\
         ExecStartPre=/bin/sh -c '[ -s /etc/ssh/ssh_host_ed25519_key ] || \
         ssh-keygen -q -t ed25519 -N \"\" -f /etc/ssh/ssh_host_ed25519_key'\n\
         ExecStartPre=/usr/sbin/sshd -t\n",
    ),
    // Only who may open the machine's console socket gets there.
    (
        "etc/systemd/system/serial-getty@ttyS0.service.d/autologin.conf",
        0o644,
        "[Service]\nExecStart=\n\
         ExecStart=-/sbin/agetty --autologin root --keep-baud 115200,57600,38400,9600 - $TERM\n",
    ),
    (
        "etc/systemd/system/trapeze-guest.service",
        0o644,
        "[Unit]\nDescription=Folders of the host\nBefore=ssh.service\n\
         DefaultDependencies=no\nAfter=systemd-remount-fs.service systemd-udevd.service\n\n\
         [Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/local/sbin/trapeze-guest\n\n\
         [Install]\nWantedBy=multi-user.target\n",
    ),
    ("etc/modules-load.d/trapeze.conf", 0o644, "qemu_fw_cfg\n"),
    ("etc/issue", 0o644, "Debian GNU/Linux \\n \\l\n\n"),
    (
        "usr/local/sbin/trapeze-guest",
        0o755,
        include_str!("guest.sh"),
    ),
];

/// Adds them under `files/`.
pub(super) fn add(archive: &mut Archive) {
    archive.directory("files");
    let mut folders: Vec<String> = Vec::new();
    for (path, permissions, content) in FILES {
        for (end, _) in path.match_indices('/') {
            let folder = format!("files/{}", &path[..end]);
            if !folders.contains(&folder) {
                archive.directory(&folder);
                folders.push(folder);
            }
        }
        archive.file(&format!("files/{path}"), permissions, content.as_bytes());
    }
}
