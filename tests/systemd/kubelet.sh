#!/bin/sh
# Stands in for the kubelet: notes what it finds when it starts, then stays.
cd /etc/kubernetes 2>/dev/null || true
{
  for directory in manifests inactive-manifests; do
    for file in "$directory"/*.json; do
      [ -e "$file" ] && echo "$file"
    done
  done
  grep -q ' /etc/kubernetes/checkpoint-secrets tmpfs ' /proc/mounts && echo 'secret root in memory'
} >"$1/kubelet.new"
mv "$1/kubelet.new" "$1/kubelet"
exec sleep 1000000
