#!/bin/sh
# Builds the control plane the tests run against (tests/kube) once, keeps it outside the tree, and prints its path.
#
#   scripts/build-kube.sh            path of the binary on stdout, progress on stderr
#   RAILBIND_CACHE=DIR               where to keep it (default: $XDG_CACHE_HOME/railbind or ~/.cache/railbind)
#
# Needs Go (the version in tests/kube/go.mod or newer) and, the first time, Go's module proxy. About 7 minutes on two
# cores with a cold build cache, well under a minute with a warm one, nothing at all when it is already there: the
# folder's name is the hash of everything that goes into the binary.
set -eu

cd "$(dirname "$0")/.."
script=build-kube
. scripts/cache.sh
needs_go
cd tests/kube

# kubectl and the API server compare versions, so the binary must say which Kubernetes it is.
version="$(sed -n 's/^[[:space:]]*k8s.io\/kubernetes \(v[0-9.]*\)$/\1/p' go.mod)"
minor="${version#v*.}"; minor="${minor%%.*}"
package=k8s.io/component-base/version
ldflags="-s -w -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=$minor"

# Names go into the hash too: a file that is renamed or split is another build. LC_ALL fixes the order of the files.
key="$({ go version; echo "$ldflags"; LC_ALL=C; export LC_ALL; sha256sum -- *.go go.mod go.sum; } | sha256sum | cut -d' ' -f1)"
home="$cache/kube-$key"
if [ -x "$home/kube" ]; then
    echo "$home/kube"
    exit 0
fi

hold "$home"
if [ ! -x "$home/kube" ]; then
    say "building Kubernetes $version with $(go version | cut -d' ' -f3), about 7 minutes where nothing is cached yet…"
    started="$(date +%s)"
    # Never a half-written binary under the final name, whatever ends this script.
    go build -o "$home/kube.$$" -ldflags "$ldflags" . >&2 || { rm -f "$home/kube.$$"; exit 1; }
    mv "$home/kube.$$" "$home/kube"
    say "done in $(($(date +%s) - started)) s: $home/kube"
fi
echo "$home/kube"
