#!/usr/bin/env bash
# Provides the real control plane and node that tests/cluster/ starts: etcd from Debian's package, kube-apiserver, kubelet
# and kubectl built from Debian's source package of Kubernetes (1.20.2, vendored) with Debian's Go, which takes about five
# minutes on two cores the first time, and none after that: the binaries are cached outside of the checkout. What a node
# needs beside its kubelet (containerd, runc, CNI plugins, busybox for the images) is installed from Debian's packages.
#
# Prints the directory of the binaries on its last line; progress goes to standard error.
#   CKPT_DB_CLUSTER_CACHE  where to keep them (default: $XDG_CACHE_HOME or ~/.cache, below it ckpt-db/cluster)
#   KUBEBUILDER_ASSETS     binaries you already have: used as they are, and nothing is built
# With --cached it installs and builds nothing, and fails where there are no binaries.
set -euo pipefail

# What the tests' node runs on; the tests say what they miss where it is not there.
node_packages() {
  local program missing=
  for program in containerd ctr runc busybox ip iptables /usr/lib/cni/bridge; do
    command -v "$program" >/dev/null || missing=$program
  done
  [ -n "$missing" ] || return 0
  command -v apt-get >/dev/null && [ "$(id -u)" = 0 ] || return 0
  echo 'installing containerd, runc and CNI plugins' >&2
  apt-get update -qq >&2
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    containerd runc containernetworking-plugins busybox-static iproute2 iptables >&2
  # The package starts a system-wide containerd where there is an init system; the tests start their own.
  if command -v systemctl >/dev/null; then systemctl disable --now containerd >&2 2>/dev/null || true; fi
}
[ "${1:-}" = --cached ] || node_packages

if [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
  for name in etcd kube-apiserver; do
    [ -x "$KUBEBUILDER_ASSETS/$name" ] || { echo "KUBEBUILDER_ASSETS=$KUBEBUILDER_ASSETS holds no executable $name" >&2; exit 1; }
  done
  echo "$KUBEBUILDER_ASSETS"
  exit
fi

package=1.20.5+really1.20.2-1.1+deb12u1 # Debian 12; its name notwithstanding the source is 1.20.2
build=2                                 # one more whenever this script builds something else from the same source
cache=${CKPT_DB_CLUSTER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ckpt-db/cluster}/kubernetes-$package-$build
if [ -x "$cache/kube-apiserver" ] && [ -x "$cache/etcd" ] && [ -x "$cache/kubelet" ] && [ -x "$cache/kubectl" ]; then
  echo "$cache"
  exit
fi

if [ "${1:-}" = --cached ]; then
  echo "no control plane on this machine: run tests/cluster/components.sh as root, or set KUBEBUILDER_ASSETS" >&2
  exit 1
fi

say() { printf '%s (%ss)\n' "$*" "$SECONDS" >&2; }
[ "$(id -u)" = 0 ] || { say "cannot install packages: run as root, or set KUBEBUILDER_ASSETS"; exit 1; }

say 'installing etcd and what builds Kubernetes'
apt-get update -qq >&2
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
  etcd-server golang-go rsync make jq dpkg-dev patch xz-utils ca-certificates >&2
# The package starts a system-wide etcd where there is an init system; the tests start their own.
if command -v systemctl >/dev/null; then systemctl disable --now etcd >&2 2>/dev/null || true; fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tree=$work/go/src/k8s.io/kubernetes
mkdir -p "$work/lists/partial" "$(dirname "$tree")"

say 'fetching the source package'
# The source repositories are asked for here only: the machine's own package sources stay as they are.
suites='bookworm bookworm-updates bookworm-security'
for suite in $suites; do
  archive=debian; [ "$suite" = bookworm-security ] && archive=debian-security
  echo "deb-src http://deb.debian.org/$archive $suite main"
done > "$work/sources.list"
apt=(apt-get -qq -o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=/dev/null -o "Dir::State::Lists=$work/lists")
"${apt[@]}" update >&2
(cd "$work" && "${apt[@]}" source --download-only "kubernetes=$package" >&2)
dpkg-source --no-check -x "$work"/kubernetes_*.dsc "$tree" >&2

say 'building (the longest part)'
cd "$tree"
export GOPATH=$work/go GOCACHE=$work/gocache GO111MODULE=off CGO_ENABLED=0 GOFLAGS=
make generated_files >&2
rm -rf _output
# Outside of module mode the vendored packages are called by where they lie.
at=k8s.io/kubernetes/vendor/k8s.io/component-base/version
version="-X $at.gitVersion=v1.20.2 -X $at.gitMajor=1 -X $at.gitMinor=20"
mkdir -p "$work/bin"
go build -ldflags "$version -s -w" -o "$work/bin/" ./cmd/kube-apiserver ./cmd/kubelet ./cmd/kubectl >&2
install -m 0755 "$(command -v etcd)" "$work/bin/etcd"

# Whole or not at all: a build that was interrupted must not look like one that ended.
mkdir -p "$(dirname "$cache")"
rm -rf "$cache.new"
cp -a "$work/bin" "$cache.new"
rm -rf "$cache"
mv "$cache.new" "$cache"
say 'done'
echo "$cache"
