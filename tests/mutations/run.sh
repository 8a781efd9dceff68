#!/usr/bin/env bash
# Breaks the program on purpose, one way after the other, and asserts that the test which is there for it says so.
#
#   tests/mutations/run.sh [NAME...]     all of them, or these
#
# Each NAME.patch begins with what it breaks, the test that catches it (arguments of cargo test) and what that test says
# then, as an extended regular expression:
#
#   Breaks: ...
#   Test: --lib some::test
#   Says: ...
#
# Works on a copy of this tree, changes that are not committed included. The dependencies are those that are built already.
# Fails where a patch does not apply any more, where its test fails without it, and where its test passes with it.
set -euo pipefail
cd "$(dirname "$0")/../.."
top=$PWD
export CARGO_TERM_COLOR=never RUST_BACKTRACE=0

# What is built goes where cargo always puts it, under names that follow from the place of the sources; only the finished
# programs, whose names do not, are put elsewhere.
export CARGO_BUILD_BUILD_DIR="${CARGO_TARGET_DIR:-$top/target}"
export CARGO_TARGET_DIR="$CARGO_BUILD_BUILD_DIR/mutations/programs"
tree="$CARGO_BUILD_BUILD_DIR/mutations/tree"

die() { printf 'mutations: %s\n' "$*" >&2; exit 1; }
field() { sed -n "s/^$1: //p" "$2" | head -n 1; }

names=("$@")
if [ "${#names[@]}" -eq 0 ]; then
  for patch in tests/mutations/*.patch; do names+=("$(basename "$patch" .patch)"); done
fi
for name in "${names[@]}"; do
  patch="tests/mutations/$name.patch"
  [ -f "$patch" ] || die "there is no $patch"
  for key in Breaks Test Says; do [ -n "$(field "$key" "$patch")" ] || die "$patch does not say '$key: '"; done
done

# Everything is as new as can be, so that nothing built from a broken copy is taken for its own.
rm -rf "$tree"
mkdir -p "$tree"
git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
  if [ -e "$file" ]; then printf '%s\0' "$file"; fi
done | tar --null --files-from=- -cf - | tar -xmf - -C "$tree"
cd "$tree"
export GIT_CEILING_DIRECTORIES="${tree%/*}" # the copy is nobody's checkout

said=$(mktemp)
trap 'rm -f "$said"' EXIT
run_test() { # its arguments: one test, and it has to exist
  # shellcheck disable=SC2086
  cargo test --locked $1 >"$said" 2>&1 && ! grep -q '^running 0 tests' "$said"
}

# Whether a mutation is caught by its test, which passes without it.
attempt() { # its name
  local name=$1 patch="$top/tests/mutations/$1.patch" test says begun passed=no
  test=$(field Test "$patch") says=$(field Says "$patch")
  git apply --check "$patch" || { echo "$name does not apply any more: make it anew" >&2; return 1; }
  if [ -z "${sound[$test]:-}" ]; then
    run_test "$test" || { tail -n 40 "$said" >&2; echo "$name: cargo test $test fails, or does not exist, without it" >&2; return 1; }
    sound[$test]=yes
  fi
  git apply "$patch"
  begun=$SECONDS
  if run_test "$test"; then passed=yes; fi
  git apply -R "$patch"
  if [ "$passed" = yes ]; then echo "$name is not caught by cargo test $test" >&2; return 1; fi
  if ! { grep -q '^test result: FAILED' "$said" && grep -Eq "$says" "$said"; }; then
    cut -c 1-400 "$said" | tail -n 40 >&2
    echo "$name: cargo test $test does not say: $says" >&2
    return 1
  fi
  printf 'mutation %s: caught by cargo test %s (%ss)\n' "$name" "$test" "$((SECONDS - begun))"
}

declare -A sound
missed=()
for name in "${names[@]}"; do attempt "$name" || missed+=("$name"); done
[ "${#missed[@]}" -eq 0 ] || die "not shown to be caught: ${missed[*]}"
printf 'campaign: mutations: %s judged, 0 missed\n' "${#names[@]}"
