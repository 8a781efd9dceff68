#!/usr/bin/env bash
# Builds the image of the Dockerfile around the static program of tests/static-binary.sh, and prints the path of its archive,
# which `ctr images import` takes. With --check it also looks that a second build is the same image, runs `ckpt-db --version` in
# a container, and there the main job on the embedded example. With --quick the program is linked statically from what the tests
# have compiled, in seconds; it takes the place of target/debug/ckpt-db until that is built again.
#
# Builder: Debian's buildah; no registry is asked, nothing is pulled. Where there is none, the last stage is made by the same
# commands without one, which is said, and --check fails. The stage that compiles needs a registry for its toolchain and is
# not built here: its command is that of tests/static-binary.sh, but for the profile and the C library.
set -euo pipefail
cd "$(dirname "$0")/.."
image=registry.example/ckpt-db:0.1.0
check='' quick=''
for option; do
  case $option in
    --check) check=1 ;;
    --quick) quick=1 ;;
    *) echo "usage: $0 [--check] [--quick]" >&2; exit 2 ;;
  esac
done
if [ -n "$quick" ]; then
  # The flag is the last crate's alone: procedural macros can't be static, and all others need not know.
  cargo rustc --quiet --locked --bin ckpt-db -- -C target-feature=+crt-static -C strip=symbols
  program=target/debug/ckpt-db
  if ldd "$program" 2>/dev/null | grep -q '=>'; then echo "$program is not static" >&2; exit 1; fi
else
  program=$(tests/static-binary.sh)
fi
mkdir -p target/image
archive=$PWD/target/image/ckpt-db.tar
exec 9>target/image/lock # tests run beside each other
flock 9
cmp -s "$program" target/image/ckpt-db || install -m 0755 "$program" target/image/ckpt-db

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
say() { echo "$*" >&2; }

# Needs no daemon, no registry and no configuration of the machine's.
builder() { buildah --storage-driver vfs --root "$work/root" --runroot "$work/run" "$@"; }
build() {
  builder bud --quiet --isolation chroot --format oci --timestamp 0 --pull-never --build-arg PROGRAM=prebuilt --tag "$image" . 9>&-
}

if command -v buildah >/dev/null; then
  id=$(build | tail -n 1)
  builder push --quiet "$image" "docker-archive:$work/image.tar:$image" >&2
  if [ -n "$check" ]; then
    again=$(build | tail -n 1)
    [ "$id" = "$again" ] || { say "two builds of the same sources are two images: $id and $again"; exit 1; }
    container=$(builder from --pull-never "$image")
    within() { builder run --isolation chroot --volume "$PWD/examples:/examples:ro" "$container" -- "$@" </dev/null; }
    within /ckpt-db --version >&2
    said=$(within /ckpt-db run --feature-gates=Checkpointing=true --once --root /demo --generate-node-key --manifests /examples/node)
    say "$said"
    grep -q "^ready: [1-9][0-9]* pods rendered" <<<"$said"
    builder rm "$container" >/dev/null
    say "ok: $image is $id, built twice, run twice"
  fi
elif [ -n "$check" ]; then
  say 'there is no buildah (apt-get install buildah): the image is not built'
  exit 1
else
  say 'NOTE: there is no buildah: the last stage of the Dockerfile is made by its commands, without a builder'
  mkdir "$work/layer"
  install -m 0755 target/image/ckpt-db "$work/layer/ckpt-db"
  tar -C "$work/layer" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$work/layer.tar" ckpt-db
  layer=$(sha256sum "$work/layer.tar" | cut -d ' ' -f 1)
  printf '{"architecture":"amd64","os":"linux","config":{"User":"0:0","Entrypoint":["/ckpt-db"],"Cmd":["run"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$layer" > "$work/config.json"
  printf '[{"Config":"config.json","RepoTags":["%s"],"Layers":["layer.tar"]}]' "$image" > "$work/manifest.json"
  tar -C "$work" -cf "$work/image.tar" manifest.json config.json layer.tar
fi
mv "$work/image.tar" "$archive"
echo "$archive"
