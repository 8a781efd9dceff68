#!/usr/bin/env bash
# Fuzzes each target for so many seconds, one after the other, and says how many inputs each judged. See fuzz/README.md.
#
#   fuzz/all.sh [SECONDS [TARGET...]]
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-1800}
shift || true
targets=("$@")
[ "${#targets[@]}" -gt 0 ] || mapfile -t targets < <(sed -n 's/^name = "\(.*\)"$/\1/p' fuzz/Cargo.toml | grep -v '^ckpt')
export RUSTC_BOOTSTRAP=1
log=$(mktemp)
trap 'rm -f "$log"' EXIT
CKPT_DB_SEEDS=target/fuzz-corpus cargo test -q --locked --test corpus every_seed >/dev/null
for target in "${targets[@]}"; do
  # A slow machine takes its time for the gigabytes that redb asks for at some damaged files.
  if ! cargo fuzz run -s none "$target" "target/fuzz-corpus/$target" "fuzz/corpus/$target" -- -max_len=65536 -timeout=120 \
    -rss_limit_mb=6144 -max_total_time="$seconds" -print_final_stats=1 >"$log" 2>&1; then
    tail -n 60 "$log"
    echo "campaign: fuzz, $target: a finding; see fuzz/artifacts/$target"
    exit 1
  fi
  count=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  echo "campaign: fuzz, $target: $count inputs judged in $seconds s, 0 findings, 0 panics"
done
