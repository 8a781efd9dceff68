#!/bin/sh
# Stands in for the kubelet: notes what it finds when it starts, then stays, under its name.
cd /etc/kubernetes 2>/dev/null || true
{
  for directory in manifests inactive-manifests; do
    for file in "$directory"/*.json; do
      [ -e "$file" ] && echo "$file"
    done
  done
  grep -q ' /etc/kubernetes/checkpoint-secrets tmpfs ' /proc/mounts && echo 'secret root in memory'
  find checkpoint-secrets checkpoint-configmaps -type f -exec sha256sum {} + 2>/dev/null
} >"$1/kubelet.new"
mv "$1/kubelet.new" "$1/kubelet"
exec /usr/local/bin/kubelet 1000000
