#!/usr/bin/env bash
# Prints the path of a Python that has `cryptography`, the second implementation of what the store's format names
# (tests/independent/check.py). Makes a virtual environment where there is none yet.
#
#   CKPT_DB_PYTHON        a Python that has it; nothing is installed then
#   CKPT_DB_PYTHON_CACHE  where to keep the environment (default: $XDG_CACHE_HOME or ~/.cache, below it ckpt-db/python)
#
# With --cached it installs nothing, and fails where there is none.
set -euo pipefail
version=50.0.2
has() { [ -n "$1" ] && "$1" -c 'import cryptography' 2>/dev/null; }

if [ -n "${CKPT_DB_PYTHON:-}" ]; then
  has "$CKPT_DB_PYTHON" || { echo "$CKPT_DB_PYTHON has no module cryptography" >&2; exit 1; }
  echo "$CKPT_DB_PYTHON"
  exit 0
fi
cache=${CKPT_DB_PYTHON_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ckpt-db/python}
if ! has "$cache/bin/python"; then
  if [ "${1:-}" = --cached ]; then
    echo "no Python with cryptography in $cache; tests/independent/python.sh makes one" >&2
    exit 1
  fi
  mkdir -p "$(dirname "$cache")"
  rm -rf "$cache"
  python3 -m venv "$cache" >&2
  "$cache/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: "cryptography==$version" >&2
fi
echo "$cache/bin/python"
