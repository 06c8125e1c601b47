#!/bin/busybox sh
# First process of the machine that makes a Debian disk. The shared folder has
# the packages (repacked without compression), the disk an empty file system.
# The last line it prints is what the host waits for.
export PATH=/bin
fail() {
    echo "TRAPEZE-FAILED $*"
    sync
    busybox poweroff -f
}
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
mkdir -p /share /target
. /modules.sh
load_modules || fail "loading modules: $left"
mount -t virtiofs -o ro share /share || fail "the shared folder"
mount -t ext4 -o noatime,data=writeback /dev/vda /target || fail "the disk"

# Folders that Debian has merged into /usr: packages follow the links.
cd /target
for name in bin sbin lib lib32 lib64 libx32; do
    mkdir -p "usr/$name"
    ln -s "usr/$name" "$name"
done
# Enough to run dpkg, which then installs the same packages properly.
while read -r package; do
    ar -p "/share/packages/$package" data.tar | tar -x -p -C /target ||
        fail "unpacking $package"
done < /share/essential
mkdir -p proc sys dev run packages etc/ssh var/lib/dpkg etc/dpkg/dpkg.cfg.d usr/sbin
mount -t proc proc proc
mount -t devtmpfs devtmpfs dev
mount -o bind /share/packages packages
: > var/lib/dpkg/status
# Nothing is started here.
printf '#!/bin/sh\nexit 101\n' > usr/sbin/policy-rc.d
chmod 755 usr/sbin/policy-rc.d
# Each machine makes keys of its own: the package finds these and makes none.
for kind in rsa ecdsa ed25519; do
    : > "etc/ssh/ssh_host_${kind}_key"
done
cat > etc/dpkg/dpkg.cfg.d/build <<'END'
force-unsafe-io
force-depends
force-confold
path-exclude=/usr/share/doc/*
path-include=/usr/share/doc/*/copyright
path-exclude=/usr/share/man/*
path-exclude=/usr/share/info/*
path-exclude=/usr/share/locale/*
path-exclude=/usr/share/lintian/*
END
# By its full name: busybox would run its own programs of these names.
in_target() {
    chroot /target /usr/bin/env -i PATH=/usr/sbin:/usr/bin LC_ALL=C.UTF-8 HOME=/root \
        DPKG_COLORS=never DEBIAN_FRONTEND=noninteractive \
        DEBCONF_NONINTERACTIVE_SEEN=true "$@"
}
in_target sh -c 'cd /packages && xargs dpkg --install' < /share/essential || fail "dpkg --install"
in_target sh -c 'cd /packages && xargs dpkg --unpack' < /share/rest || fail "dpkg --unpack"
in_target dpkg --configure -a || fail "dpkg --configure"
in_target dpkg --audit

tar -x -p -f /share/kernel.tar ./lib/modules || fail "the kernel's modules"
for folder in lib/modules/*; do
    in_target depmod "${folder##*/}" || fail depmod
done
cp -a /files/. /target/ || fail "settings"
chmod 700 root
: > etc/machine-id
rm -f etc/ssh/ssh_host_* usr/sbin/policy-rc.d etc/dpkg/dpkg.cfg.d/build var/lib/dpkg/*-old
rm -rf var/cache/debconf/*-old var/log/dpkg.log var/log/bootstrap.log run/* tmp/*
in_target systemctl --quiet enable systemd-networkd.service trapeze-guest.service || fail systemctl
in_target systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer
in_target systemctl --quiet disable e2scrub_all.timer e2scrub_reap.service
umount packages && rmdir packages
umount proc dev
. etc/os-release
# Where a guest of Debian's installs more from; only releases have the others.
if [ "$ID" = debian ]; then
    mirror=http://deb.debian.org
    echo "deb $mirror/debian $VERSION_CODENAME main" > etc/apt/sources.list
    if [ -n "$VERSION_ID" ]; then
        echo "deb $mirror/debian $VERSION_CODENAME-updates main"
        echo "deb $mirror/debian-security $VERSION_CODENAME-security main"
    fi >> etc/apt/sources.list
fi
echo "TRAPEZE-OS $PRETTY_NAME"
cd /
umount /target || fail "unmounting the disk"
echo TRAPEZE-DONE
busybox poweroff -f
