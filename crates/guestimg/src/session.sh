#!/bin/busybox sh
# cttyhack makes the console the controlling terminal: Ctrl-C and job control.
setsid cttyhack sh -i
poweroff
