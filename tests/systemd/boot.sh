#!/bin/sh
# Becomes the systemd of a node of its own: in namespaces of its own, with /etc, /var, /usr/local and /run of the scene.
# Run by tests/systemd/main.rs as the first process of a new pid, mount and cgroup namespace; $1 is the scene's directory.
set -eu
scene=$1
# On a machine the second process is the kernel's: the agent knows by it that no kubelet can be hidden from it.
sleep 1000000 &
second=$!
mount --make-rprivate /
kernel='S 0 0 0 0 -1 2129984 0 0 0 0 1 0 0 0 20 0 1 0 22 0 0 0 0 0 0 0 0 0 0 2147483647 0 1 0 0 0 1 0 0 0 0 0 0 0 0 0 0 0 0 0'
echo "$second (kthreadd) $kernel" >"$scene/second"
mount --bind "$scene/second" "/proc/$second/stat"
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs /run
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --bind "$scene/console" /dev/console
for directory in etc var usr/local; do
  mount --bind "$scene/$directory" "/$directory"
done
# No unit and no generator of this machine: only what the scene brings.
mount -t tmpfs -o mode=755 tmpfs /usr/lib/systemd/system-generators
if [ -e "$scene/read-only" ]; then
  mount -o remount,bind,ro /var
fi
# As systemd does it on a machine, but not where it believes to be in a container: credentials reach their services by it.
mount --make-rshared /
mkdir -p /run/systemd
cp -r "$scene/units" /run/systemd/system
# A service with a /proc of its own sees it too.
cp "$scene/second" /run/second
mkdir -p /run/systemd/system/ckpt-db.service.d
printf '[Service]\nBindReadOnlyPaths=/run/second:/proc/%s/stat\n' "$second" >/run/systemd/system/ckpt-db.service.d/second.conf
export container=ckpt-db-test SYSTEMD_UNIT_PATH=/etc/systemd/system:/run/systemd/system SCENE="$scene"
exec /lib/systemd/systemd --system --unit=boot.target --log-target=null --show-status=0
