#!/usr/bin/env bash
# A machine in the machine: namespaces of every kind, the root file system DISK, and a process 1 whose death is the power
# cut. What lies below DISK survives it; /run and /tmp, mounts, interfaces, firewall rules, cgroups and processes do not.
# The clocks since boot begin anew, and the boot id is another one. Of the host it sees /usr and /dev, nothing else.
#
#   machine.sh DISK CGROUP HOSTNAME [PROGRAM...]    each PROGRAM (a file, or a directory of them) appears below /opt
set -euo pipefail

if [ -z "${CKPT_DB_INSIDE:-}" ]; then
  cgroup=$2
  for hierarchy in /sys/fs/cgroup/*/; do
    mkdir -p "$hierarchy$cgroup"
    if [ -e "$hierarchy/cpuset.cpus" ]; then
      for what in cpus mems; do cat "${hierarchy}cpuset.$what" > "$hierarchy$cgroup/cpuset.$what"; done
    fi
    echo $$ > "$hierarchy$cgroup/cgroup.procs"
  done
  read -r uptime _ < /proc/uptime
  back=-$(( ${uptime%.*} - 1 ))
  export CKPT_DB_INSIDE=1
  exec unshare --fork --kill-child --propagation private --pid --mount --uts --ipc --net --cgroup \
    --time --boottime "$back" --monotonic "$back" bash "$0" "$@"
fi

disk=$1 name=$3
shift 3
mount --bind "$disk" "$disk"
cd "$disk"

mkdir -p dev etc opt proc root run sys tmp usr var/lib var/log host
for link in bin sbin lib lib64; do [ -e /$link ] && ln -sfn "usr/$link" $link; done
ln -sfn ../run var/run
cp -a /etc/passwd /etc/group /etc/nsswitch.conf /etc/ld.so.cache /etc/alternatives etc/
echo "127.0.0.1 localhost $name" > etc/hosts
echo 'nameserver 127.0.0.1' > etc/resolv.conf
[ -s etc/machine-id ] || tr -d - < /proc/sys/kernel/random/uuid > etc/machine-id
mount --rbind -o ro /usr usr
mount --rbind /dev dev
for program; do
  at=opt/${program##*/}
  if [ -d "$program" ]; then mkdir -p "$at"; else touch "$at"; fi
  mount --bind "$program" "$at"
done

mount -t proc proc proc
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t sysfs sysfs sys
mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup
for hierarchy in /sys/fs/cgroup/*/; do
  hierarchy=${hierarchy%/} hierarchy=${hierarchy##*/} options=$hierarchy
  case $hierarchy in unified) continue ;; systemd) options=none,name=systemd ;; esac
  mkdir "sys/fs/cgroup/$hierarchy"
  mount -t cgroup -o "$options" cgroup "sys/fs/cgroup/$hierarchy"
done

# What the kubelet would set for the whole kernel reads as if it were set already.
mkdir run/host
settings='sys/vm/overcommit_memory=1 sys/vm/panic_on_oom=0 sys/kernel/panic=10 sys/kernel/panic_on_oops=1
  sys/kernel/keys/root_maxkeys=1000000 sys/kernel/keys/root_maxbytes=25000000'
for setting in $settings sys/kernel/random/boot_id="$(cat /proc/sys/kernel/random/uuid)"; do
  file=${setting%%=*}
  echo "${setting#*=}" > "run/host/${file##*/}"
  mount --bind "run/host/${file##*/}" "proc/$file"
done

echo "$name" > /proc/sys/kernel/hostname
ip link set lo up
# The kubelet wants an address that is not of loopback, and a default route. Nobody is at the other end.
ip link add node0 type veth peer name uplink0
ip address add 10.77.0.1/24 dev node0
ip link set node0 up
ip link set uplink0 up
ip route add default via 10.77.0.254 dev node0
# There is no cloud whose metadata the kubelet would wait for.
ip route add unreachable 169.254.0.0/16

pivot_root . host
umount -l /host
rmdir /host
cd /
# What a test mounts before anything else starts.
if [ -e /var/local-fs.sh ]; then sh -eu /var/local-fs.sh; fi
echo up > /var/machine-is-up
# It reaps what is left to it.
exec sh -c 'while :; do sleep 1000 & wait; done'
