#!/bin/busybox sh
# The guest's first process: mounts, loads the drivers, runs the scenarios, powers off.
/bin/busybox mkdir -p /proc /sys /dev /tmp
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t tmpfs tmp /tmp
/bin/busybox --install -s /bin
while read -r module; do insmod "/modules/$module"; done </modules/order
stty -F /dev/ttyS1 115200 raw -echo
export PATH=/bin:/usr/bin HOME=/tmp PYTHONPATH=/checkout:/site LANG=C.UTF-8 PYTHONFAULTHANDLER=1
cd /tmp || exit
python3 -u -c 'from tests.usb.guest import main; main()' $(cat /scenarios) </dev/null
echo "{\"what\": \"exit\", \"status\": $?}" >/dev/ttyS1
sleep 0.2
poweroff -f
