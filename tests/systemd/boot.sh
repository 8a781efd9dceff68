#!/bin/sh
# Becomes the systemd of a node of its own: in namespaces of its own, with /etc, /var, /usr/local, /run and /tmp of the scene.
# Run by tests/systemd/machine.rs as the first process of a new pid, mount and cgroup namespace; $1 is the scene's directory.
set -eu
scene=$1
# On a machine the second process is the kernel's: the agent knows by it that no kubelet can be hidden from it.
sleep 1000000 &
second=$!
mount --make-rprivate /
kernel='S 0 0 0 0 -1 2129984 0 0 0 0 1 0 0 0 20 0 1 0 22 0 0 0 0 0 0 0 0 0 0 2147483647 0 1 0 0 0 1 0 0 0 0 0 0 0 0 0 0 0 0 0'
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs /run
echo "$second (kthreadd) $kernel" >/run/second
mount --bind /run/second "/proc/$second/stat"
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --bind "$scene/console" /dev/console
for directory in etc var usr/local; do
  mount --bind "$scene/$directory" "/$directory"
done
if [ -e "$scene/read-only" ]; then
  # As a disk is after an error: a mount that is read-only could be opened again by a sandbox.
  mount -t tmpfs tmpfs /var
  cp -a "$scene/var/." /var/
  mount -o remount,ro /var
fi
# Services get a /tmp of their own below it, and nobody removes these when the machine is switched off: what is written there goes
# to memory, but for the scene. Where that can't be had they stay, empty.
mkdir -p /run/keep/scene /run/keep/written /run/keep/work
mount --bind "$scene" /run/keep/scene
if mount -t overlay -o lowerdir=/tmp,upperdir=/run/keep/written,workdir=/run/keep/work overlay /tmp 2>/dev/null; then
  chmod 1777 /tmp
  mkdir -p "$scene"
  mount --bind /run/keep/scene "$scene"
fi
umount /run/keep/scene
# No unit and no generator of this machine: only what the scene brings.
mount -t tmpfs -o mode=755 tmpfs /usr/lib/systemd/system-generators
# As systemd does it on a machine, but not where it believes to be in a container: credentials reach their services by it.
mount --make-rshared /
mkdir -p /run/systemd
cp -r "$scene/units" /run/systemd/system
# In its sandbox the agent has a /proc of its own.
mkdir -p /run/systemd/system/ckpt-db.service.d
printf '[Service]\nBindReadOnlyPaths=/run/second:/proc/%s/stat\n' "$second" >/run/systemd/system/ckpt-db.service.d/second.conf
export container=ckpt-db-test SCENE="$scene"
export SYSTEMD_UNIT_PATH=/etc/systemd/system:/run/systemd/system:/usr/local/lib/systemd/system
exec /lib/systemd/systemd --system --unit=boot.target --log-target=null --show-status=0
