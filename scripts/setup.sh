#!/usr/bin/env bash
# Installs what this repository needs and this machine lacks: Debian packages, and the Rust toolchain of rust-toolchain.toml.
# Says what it installs, and nothing where nothing is missing. `scripts/setup.sh roce`, `page` or `bench` adds what
# `make test-roce`, `make test-page` or `make bench` needs.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
need() { command -v "$1" >/dev/null || missing+=("$2"); }
need cc gcc
need make make
need git git
need flock util-linux
need unshare util-linux
need ip iproute2
need python3 python3
python3 -m pip --version >/dev/null 2>&1 || missing+=(python3-pip)
# The distribution's UCX, which the tests of `probe ucx` load.
case "$(/sbin/ldconfig -p)" in *libucp.so.0*) ;; *) missing+=(libucx0) ;; esac
case "${1:-}" in
  roce) need qemu-system-x86_64 qemu-system-x86 ;;
  page)
    command -v chromium >/dev/null || missing+=(chromium fonts-dejavu-core)
    need node nodejs
    need npm npm
    ;;
  bench) need ucx_perftest ucx-utils ;;
esac
if [ ${#missing[@]} -gt 0 ]; then
  echo "setup: installing ${missing[*]}" >&2
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "setup: cannot install packages here: install ${missing[*]} by hand and run this again" >&2
    exit 1
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
fi

if ! command -v cargo >/dev/null; then
  echo "setup: no cargo: install rustup (Debian package rustup, or your own way) and run this again; it then fetches the pinned toolchain" >&2
  exit 1
fi
# The first call in this folder makes rustup fetch the pinned toolchain, if it is not here.
cargo --version >/dev/null

want=$(awk '$1 == "go" {print $2}' tests/kube/go.mod)
have=$(go env GOVERSION 2>/dev/null | sed 's/^go//' || true)
if [ -z "$have" ] || [ "$(printf '%s\n%s\n' "$want" "$have" | sort -V | head -n 1)" != "$want" ]; then
  echo "setup: the test control plane needs Go $want or later, found '${have:-none}': install it and run this again" >&2
  exit 1
fi
