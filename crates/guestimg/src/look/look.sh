#!/bin/busybox sh
# First process of the machine that looks for a system on a disk it only reads.
# What it finds goes into the shared folder; the last line it prints is what the
# host waits for.
export PATH=/bin
end() {
    echo "$*"
    busybox poweroff -f
}
mount -t proc proc /proc
mount -t devtmpfs devtmpfs /dev 2>/dev/null
. /modules.sh
load_modules
mount -t virtiofs share /share || end "TRAPEZE-FAILED the shared folder"

# Puts the newest kernel of a folder, and the initrd of the same version, into
# the shared one.
take_kernel() {
    cd "$1" 2>/dev/null || return 1
    kernel=$(ls -d vmlinuz-* vmlinuz 2>/dev/null | busybox grep -v rescue | sort -V | busybox tail -n 1)
    [ -f "$kernel" ] || return 1
    version="${kernel#vmlinuz}"
    version="${version#-}"
    cat "$kernel" > /share/vmlinuz || return 1
    for initrd in "initrd.img-$version" "initramfs-$version.img" "initrd-$version" \
        "initramfs-$version" initrd.img; do
        if [ -f "$initrd" ]; then
            cat "$initrd" > /share/initrd
            break
        fi
    done
    echo "TRAPEZE-KERNEL $kernel"
}

root=
kernel=
for device in /dev/vda?* /dev/vda; do
    [ -b "$device" ] || continue
    mount -t ext4 -o ro,noload "$device" /target 2>/dev/null ||
        mount -t xfs -o ro,norecovery "$device" /target 2>/dev/null || continue
    release=/target/usr/lib/os-release
    [ -f "$release" ] || release=/target/etc/os-release
    if [ -z "$root" ] && [ -f "$release" ]; then
        root="$device"
        busybox dd if="$device" bs=2048 count=1 of=/share/super 2>/dev/null
        echo "TRAPEZE-OS $(busybox sed -n 's/^PRETTY_NAME=//p' "$release" | busybox tr -d \"\')"
        echo "TRAPEZE-ROOT $device"
    fi
    # /boot may have a partition of its own.
    if [ -z "$kernel" ] && (take_kernel /target/boot || take_kernel /target); then
        kernel=yes
    fi
    cd /
    umount /target
done
sync
end TRAPEZE-DONE
