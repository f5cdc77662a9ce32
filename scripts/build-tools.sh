#!/bin/sh
# Builds helm and promtool (tests/tools/go.mod) once, keeps them outside the tree, and prints their folder.
#
#   RAILBIND_CACHE=DIR               where to keep it (default: $XDG_CACHE_HOME/railbind or ~/.cache/railbind)
#
# Needs Go and, the first time, Go's module proxy. The Kubernetes parts are those of tests/kube, so that they are compiled once.
set -eu

cd "$(dirname "$0")/.."
script=build-tools
. scripts/cache.sh
needs_go
cd tests/tools
# Without service discovery: nothing is scraped here.
flags="-tags=remove_all_sd -ldflags=-s"
key="$({ go version; echo "$flags"; sha256sum -- go.mod go.sum; } | sha256sum | cut -d' ' -f1)"
home="$cache/tools-$key"
if [ -x "$home/helm" ] && [ -x "$home/promtool" ]; then
    echo "$home"
    exit 0
fi

hold "$home"
for package in helm.sh/helm/v4/cmd/helm github.com/prometheus/prometheus/cmd/promtool; do
    name="${package##*/}"
    [ -x "$home/$name" ] && continue
    say "building $name with $(go version | cut -d' ' -f3)…"
    started="$(date +%s)"
    # shellcheck disable=SC2086
    CGO_ENABLED=0 go build $flags -o "$home/$name.$$" "$package" >&2 || { rm -f "$home/$name.$$"; exit 1; }
    mv "$home/$name.$$" "$home/$name"
    say "done in $(($(date +%s) - started)) s: $home/$name"
done
echo "$home"
