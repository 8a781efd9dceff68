#!/usr/bin/env bash
# Writes FILE, an image archive of nothing but Debian's static busybox, under each of the NAMEs. No registry is asked.
set -euo pipefail
file=$1
shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/root/{bin,etc,tmp,proc,dev}
cp "$(command -v busybox)" "$work/root/bin/busybox"
for applet in $("$work/root/bin/busybox" --list); do
  [ "$applet" = busybox ] || ln -s busybox "$work/root/bin/$applet"
done
printf 'root:x:0:0::/:/bin/sh\nservice:x:1000:1000::/:/bin/sh\n' > "$work/root/etc/passwd"
tar -C "$work/root" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$work/layer.tar" .
layer=$(sha256sum "$work/layer.tar" | cut -d ' ' -f 1)
printf '{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/bin"],"Cmd":["sleep","2147483647"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
  "$layer" > "$work/config.json"
names=$(printf ',"%s"' "$@")
printf '[{"Config":"config.json","RepoTags":[%s],"Layers":["layer.tar"]}]' "${names#,}" > "$work/manifest.json"
tar -C "$work" -cf "$file" manifest.json config.json layer.tar
