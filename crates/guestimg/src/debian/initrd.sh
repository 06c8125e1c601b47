#!/bin/busybox sh
# First process of a machine with a disk: loads what the disk needs and goes on
# there.
export PATH=/bin
mount -t proc proc /proc
mount -t devtmpfs devtmpfs /dev 2>/dev/null
. /modules.sh
load_modules || echo "initrd: these modules are not loaded:$left"
device=/dev/vda
for word in $(cat /proc/cmdline); do
    case "$word" in
        root=/dev/*) device="${word#root=}" ;;
    esac
done
left=100
while [ ! -b "$device" ] && [ "$left" -gt 0 ]; do
    sleep 0.1
    left=$((left - 1))
done
if ! mount -t ext4 -o rw "$device" /target; then
    echo "initrd: no root file system on $device; root=DEVICE names another"
    exec sh
fi
umount /proc
mount -o move /dev /target/dev
exec switch_root /target /sbin/init
