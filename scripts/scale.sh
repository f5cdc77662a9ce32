#!/usr/bin/env bash
# Thousands of nodes, hundreds of pods a second, and what fails meanwhile, on a real API server: tests/tests/scale says what is real.
# Prints a table; docs/scale.md has that of one run, and what would break first.
#
#   SCALE_NODES=5000 SCALE_RATE=500 scripts/scale.sh
set -euo pipefail
cd "$(dirname "$0")/.."

# Each agent has a connection of its own, and so has the API server for it.
ulimit -n "$(ulimit -Hn)"
RAILBIND_KUBE=$(scripts/build-kube.sh)
export RAILBIND_KUBE
cargo build --locked -q --release -p railbind-webhook -p railbind-agent
exec cargo test --locked -q --release -p railbind-tests --test scale -- --ignored --nocapture thousands_of_nodes
