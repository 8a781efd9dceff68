#!/usr/bin/env bash
# Prints the path of promtool, which checks metrics and alerts (tests/metrics/). Takes it out of Debian's package prometheus
# where there is none: installed as a package, that would start a server, and bring eleven packages of its pages.
#
#   CKPT_DB_PROMTOOL        a promtool that is there; nothing is fetched then
#   CKPT_DB_PROMTOOL_CACHE  where to keep it (default: $XDG_CACHE_HOME or ~/.cache, below it ckpt-db/promtool)
#
# With --cached it fetches nothing, and fails where there is none.
set -euo pipefail
if [ -n "${CKPT_DB_PROMTOOL:-}" ]; then
  echo "$CKPT_DB_PROMTOOL"
  exit 0
fi
if command -v promtool; then
  exit 0
fi
cache=${CKPT_DB_PROMTOOL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ckpt-db/promtool}
if [ ! -x "$cache/promtool" ]; then
  if [ "${1:-}" = --cached ]; then
    echo "no promtool in $cache; tests/metrics/promtool.sh fetches one (Debian)" >&2
    exit 1
  fi
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  # So that _apt may write there.
  chmod 0755 "$work"
  (cd "$work" && { apt-get download -qq prometheus || { apt-get update -qq && apt-get download -qq prometheus; }; }) >&2
  dpkg-deb --fsys-tarfile "$work"/prometheus_*.deb | tar -x -C "$work" ./usr/bin/promtool
  mkdir -p "$cache"
  mv "$work/usr/bin/promtool" "$cache/promtool"
fi
echo "$cache/promtool"
