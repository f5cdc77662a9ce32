#!/usr/bin/env bash
# Fetches the UCX of a Python wheel for tests, keeps it outside the tree, and prints the folder of its libraries.
#
#   tests/ucx/fetch.sh [FILE]        folder on stdout, progress on stderr
#   RAILBIND_CACHE=DIR               where to keep it (default: $XDG_CACHE_HOME/railbind or ~/.cache/railbind)
#
# The wheel is pinned by its hashes in FILE: wheel.txt, or that of another version beside it. Nothing of it is run here but by the tests' child processes.
set -euo pipefail

requirements=$(cd "$(dirname "$0")" && pwd)/${1:-wheel.txt}
script=fetch
. "$(dirname "$0")/../../scripts/cache.sh"

key=$({ uname -m; cat "$requirements"; } | sha256sum | cut -c1-16)
home=$cache/ucx-$key
lib=$home/libucx/lib
if [ -e "$lib/libucp.so.0" ]; then
  echo "$lib"
  exit 0
fi

python3 -m pip --version >/dev/null 2>&1 || { say "python3 has no pip: install python3-pip"; exit 1; }
mkdir -p "$cache"
exec 9>"$cache/ucx-$key.lock"
flock 9
if [ ! -e "$lib/libucp.so.0" ]; then
  say "downloading $(sed -n 's/^\([a-z].*\) \\$/\1/p' "$requirements"), up to 42 MB…"
  work=$(mktemp -d "$cache/ucx-$key.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  if ! python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
    --dest "$work/wheel" -r "$requirements" >&2; then
    say "the package index cannot be reached, or has another wheel than the pinned one"
    exit 1
  fi
  python3 -m zipfile -e "$work"/wheel/*.whl "$work/whole" >&2
  rm -rf "$home"
  mv "$work/whole" "$home"
fi
echo "$lib"
