#!/bin/busybox sh
# The first process of the machine whose power is cut: mounts the disk, says what its store holds, then lets the agent
# follow a source that changes step by step, or restores one backup after the other. Each step that the agent says is stored
# and rendered, or that was restored, is acknowledged to the outside over the serial line; a mark on the disk, beyond the file
# system, then tells where in the log of the disk's writes that was.
#
# /settings (made by tests/power/machine.rs) says mount_options, mark_page and work; /steps/N.json is the source at step N, or
# /backups/N.db a backup of a store that holds it.

busybox=/bin/busybox
export RUST_BACKTRACE=1
$busybox mkdir -p /proc /sys /dev /disk /source /backups
$busybox mount -t proc proc /proc
$busybox mount -t sysfs sysfs /sys
$busybox mount -t devtmpfs devtmpfs /dev
exec </dev/console >/dev/console 2>&1
. /settings

fail() {
  echo "FAILED $*"
  $busybox poweroff -f
}

for module in $modules; do $busybox insmod "/modules/$module.ko" || fail "insmod $module"; done
echo MOUNTING
$busybox mount -t ext4 -o "$mount_options" /dev/vda /disk || fail mount

# The disk is the agent's root. What a node keeps in memory, and what the test brings along, is mounted over it.
for path in proc sys dev source backups bin lib lib64 keys run etc/kubernetes/checkpoint-secrets; do
  [ -d "/disk/$path" ] || $busybox mkdir -p "/disk/$path"
done
for path in proc sys dev source backups bin lib lib64 keys; do $busybox mount --bind "/$path" "/disk/$path"; done
$busybox mount -t tmpfs -o mode=0755 tmpfs /disk/run
$busybox mount -t tmpfs -o mode=0700 tmpfs /disk/etc/kubernetes/checkpoint-secrets
agent() { exec $busybox chroot /disk /bin/ckpt-db "$@" --node-key /keys/node-key.pem; }

step=0
if [ -e /disk/var/lib/ckpt-db/checkpoint-store.db ]; then
  (agent verify) >/verified
  echo "VERIFIED $? $($busybox head -n 1 /verified)"
  step=$(agent dump sequence --kind configmap -o json | $busybox sed -n 's/.*"step": *"\([0-9]*\)".*/\1/p')
  step=${step:-0}
fi
echo "STORED $step"

acknowledge() {
  echo "ACKNOWLEDGED $step"
  echo "ACKNOWLEDGED $step" >/mark
  # Past the page cache, and without a flush, which would make durable what the agent forgot to sync. (A buffer of a
  # page is one that busybox aligns.)
  $busybox dd if=/mark of=/dev/vda bs=4096 seek="$mark_page" conv=sync oflag=direct 2>/mark-said || fail mark
}

if [ "$work" = restore ]; then
  while :; do
    step=$((step + 1))
    [ -e "/backups/$step.db" ] || { echo DONE; $busybox sleep 100000; }
    # What was kept of the store before last; that is looked at outside.
    $busybox rm -f /disk/var/lib/ckpt-db/*.replaced-*
    (agent restore "/backups/$step.db" --yes) || fail restore
    acknowledge
  done
fi

next() {
  step=$((step + 1))
  [ -e "/steps/$step.json" ] || { echo DONE; $busybox sleep 100000; }
  $busybox cp "/steps/$step.json" /source/pods.json
}

next
$busybox mkfifo /said
# It looks at the source when it is told to, and not between two steps.
agent run --feature-gates=Checkpointing=true --manifests /source --file-check-frequency 86400 >/said &
pid=$!
stored=
while read -r line; do
  case $line in
    'cold start'*) echo "$line" ;;
    'stored '*) stored=yes ;;
    'ready:'*)
      # The first one tells of the cold start.
      [ "$stored" ] || continue
      stored=
      acknowledge
      next
      kill -HUP "$pid"
      ;;
  esac
done </said
# The agent ended.
fail agent
