#!/usr/bin/env bash
# Builds the program as it is shipped, and the driver, and measures; see docs/performance.md. Options go to the driver.
#
# What is shipped is what `make` builds: static, stripped, with musl. Where its target or musl-gcc is not there, it is the static
# program with glibc that docs/how-to/install.md names beside it; the table says which one was measured.
set -euo pipefail
cd "$(dirname "$0")/.."
target=$(uname -m)-unknown-linux-musl
if ! command -v musl-gcc >/dev/null || ! rustup target list --installed 2>/dev/null | grep -qx "$target"; then
  target=$(uname -m)-unknown-linux-gnu
  echo "no musl target or no musl-gcc here: measured is the static program with glibc" >&2
fi
built=${CARGO_TARGET_DIR:-target}
make TARGET="$target"
# The second one with the machine's C library, dynamically linked: allocations are counted in it.
cargo build --profile campaign --locked -p ckpt-db-bench -p ckpt-db --features ckpt-db-bench/peers
exec "$built/campaign/ckpt-db-bench" --program "$built/$target/release/ckpt-db" --json "$built/bench.json" "$@"
