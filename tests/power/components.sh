#!/usr/bin/env bash
# Provides the machine that tests/power/ cuts the power of: QEMU, busybox and e2fsprogs from Debian's packages, and the
# kernel of Debian's cloud images, unpacked and not installed. The kernel is cached outside of the checkout.
#
# Prints the directory of the kernel (boot/vmlinuz-*, lib/modules/) on its last line; progress goes to standard error.
#   CKPT_DB_POWER_CACHE  where to keep it (default: $XDG_CACHE_HOME or ~/.cache, below it ckpt-db/power)
# With --cached it installs and downloads nothing, and fails where something is missing.
set -euo pipefail

cache=${CKPT_DB_POWER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ckpt-db/power}
say() { printf '%s\n' "$*" >&2; }

missing=()
command -v qemu-system-x86_64 >/dev/null || missing+=(qemu-system-x86)
command -v busybox >/dev/null || missing+=(busybox-static)
for program in mke2fs e2fsck debugfs; do
  [ -n "$(PATH=$PATH:/sbin:/usr/sbin command -v $program)" ] || { missing+=(e2fsprogs); break; }
done
have_kernel() { compgen -G "$cache/boot/vmlinuz-*" >/dev/null; }

if [ "${1:-}" = --cached ]; then
  [ "${#missing[@]}" = 0 ] || { say "not installed: ${missing[*]}"; exit 1; }
  have_kernel || { say "no kernel in $cache: run tests/power/components.sh on Debian"; exit 1; }
  echo "$cache"
  exit
fi

if [ "${#missing[@]}" -gt 0 ] || ! have_kernel; then
  command -v apt-get >/dev/null || { say "needs Debian's packages: ${missing[*]} linux-image-cloud-amd64"; exit 1; }
  [ "$(id -u)" = 0 ] || { say 'cannot install packages: run as root'; exit 1; }
  apt-get update -qq >&2
fi
if [ "${#missing[@]}" -gt 0 ]; then
  say "installing ${missing[*]}"
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
fi
if ! have_kernel; then
  say 'downloading the kernel'
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  package=$(apt-cache depends linux-image-cloud-amd64 | awk '$1 == "Depends:" && $2 ~ /^linux-image-/ { print $2; exit }')
  (cd "$work" && apt-get download -qq "$package" >&2)
  dpkg -x "$work"/*.deb "$work/kernel"
  mkdir -p "$(dirname "$cache")"
  rm -rf "$cache"
  mv "$work/kernel" "$cache"
fi
echo "$cache"
