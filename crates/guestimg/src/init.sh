#!/bin/busybox sh
# First process of the guest.
export PATH=/bin HOME=/root PS1='\u@trapeze:\w\$ '
mount -t proc proc /proc
if [ "$TRAPEZE_MODE" = bench ]; then
    # Timed from outside: nothing but the line that ends the measurement.
    echo TRAPEZE-FIRST-PROCESS
    exec busybox poweroff -f
fi
read -r up rest < /proc/uptime
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /tmp
[ -x /bin/sh ] || busybox --install -s /bin
hostname trapeze
ip link set lo up 2>/dev/null
[ -n "$TRAPEZE_ROWS" ] && stty rows "$TRAPEZE_ROWS" cols "$TRAPEZE_COLUMNS" < /dev/console
mem=$(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo)
echo
echo "Linux $(uname -r) $(uname -m), $(grep -c ^processor /proc/cpuinfo) vCPU, $((mem / 1024)) MiB free for use"
echo "First user process after ${up} s of guest time. poweroff ends the guest, Ctrl-A X quits at once."
echo
cd /root
# busybox's poweroff, reboot and halt send these signals to the first process.
trap 'sync; busybox poweroff -f' USR2
trap 'sync; busybox reboot -f' TERM
trap 'sync; busybox halt -f' USR1
# Started this way the session does not inherit the ignored SIGINT of a
# script's background commands.
start-stop-daemon -S -b -x /etc/session
while :; do
    sleep 2147483 &
    wait $!
done
