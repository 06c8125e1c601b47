#!/bin/sh
# Mounts the folders that 'trapeze run --share' names, one "TAG PLACE" a line.
list=/sys/firmware/qemu_fw_cfg/by_name/opt/org.trapeze/shares/raw
[ -r "$list" ] || exit 0
status=0
while read -r tag place; do
    mkdir -p "$place"
    mount -t virtiofs "$tag" "$place" || status=1
done < "$list"
exit $status
