#!/bin/sh
# Builds the programs of an earlier commit of this repository once, keeps them outside the tree with that commit's manifests, and prints
# their folder: what `make test-upgrade` upgrades from.
#
#   scripts/build-old.sh [COMMIT]    default: the first one that is installed as today's are
#   RAILBIND_CACHE=DIR               where to keep it (default: $XDG_CACHE_HOME/railbind or ~/.cache/railbind)
#
# Needs the commit: not a shallow clone.
set -eu

cd "$(dirname "$0")/.."
script=build-old
. scripts/cache.sh
commit="$(git rev-parse --verify --quiet "${1:-d87f3c222399b50cee26b6a55961a6c3a834be12}^{commit}")" || {
    say "no commit ${1:-d87f3c22} in this clone: git fetch --unshallow"
    exit 1
}
home="$cache/old-$commit"
if [ -d "$home/done" ]; then
    echo "$home/done"
    exit 0
fi

hold "$home"
if [ ! -d "$home/done" ]; then
    say "building $commit, some minutes…"
    started="$(date +%s)"
    rm -rf "$home/tree" "$home/making"
    mkdir "$home/tree" "$home/making"
    git archive "$commit" | tar -x -C "$home/tree"
    (cd "$home/tree" && cargo build --locked --target-dir "$home/target" -p railbind-webhook -p railbind-agent >&2)
    cp "$home/target/debug/railbind-webhook" "$home/target/debug/railbind-agent" "$home/making/"
    cp -r "$home/tree/manifests" "$home/making/"
    rm -rf "$home/tree" "$home/target"
    # Never half of it under the final name, whatever ends this script.
    mv "$home/making" "$home/done"
    say "done in $(($(date +%s) - started)) s: $home/done"
fi
echo "$home/done"
