#!/usr/bin/env bash
# Runs every test and ends with one line of counts. A test that needs hardware that is not here counts as skipped (`ignored`).
set -uo pipefail
cd "$(dirname "$0")/.."

kube=$(scripts/build-kube.sh) || exit 1
export RAILBIND_KUBE=$kube
tools=$(scripts/build-tools.sh) || exit 1
export RAILBIND_TOOLS=$tools
log=$(mktemp)
trap 'rm -f "$log"' EXIT

cargo test --locked --workspace --no-fail-fast 2>&1 | tee "$log"
status=${PIPESTATUS[0]}

awk -f scripts/counts.awk "$log"
exit "$status"
