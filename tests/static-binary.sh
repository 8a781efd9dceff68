#!/usr/bin/env bash
# Builds a static `ckpt-db` for the tests that run it where there is no C library, and prints its path.
#
# The development profile without debugging information, in a target directory of its own (target/static), since other
# flags would rebuild everything else. Static with glibc, as the musl target can't be had everywhere; what needs a C
# library to match at run time (the resolver's plug-ins) is not in the parts that these tests use.
set -euo pipefail
cd "$(dirname "$0")/.."
unset CARGO_ENCODED_RUSTFLAGS # of a build that this may be called from
export RUSTFLAGS='-C target-feature=+crt-static' CARGO_PROFILE_DEV_DEBUG=0 CARGO_INCREMENTAL=0
# The target is named, so that procedural macros, which can't be static, are built without the flag.
target=x86_64-unknown-linux-gnu
cargo build --quiet --locked --bin ckpt-db --target "$target" --target-dir target/static >&2
echo "$PWD/target/static/$target/debug/ckpt-db"
