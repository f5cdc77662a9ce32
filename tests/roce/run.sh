#!/usr/bin/env bash
# Runs the RoCE tests (tests/tests/roce) with what they need, and ends with the line of counts of every test script. Only
# where a package that they need cannot be had do they count as skipped, and the script says so.
set -uo pipefail
cd "$(dirname "$0")/../.."

count() { printf '\ntests: %d passed, %d failed, %d skipped\n' "$@"; }

guest=$(tests/roce/build.sh)
case $? in
  0) ;;
  77) echo "roce: SKIPPED, for the reason above" >&2; count 0 0 1; exit 0 ;;
  *) echo "roce: no image for the guests" >&2; count 0 1 0; exit 1 ;;
esac
scripts/setup.sh roce && kube=$(scripts/build-kube.sh) && cargo build --locked -p railbind-agent || { count 0 1 0; exit 1; }

log=$(mktemp)
trap 'rm -f "$log"' EXIT
RAILBIND_GUEST=$guest RAILBIND_KUBE=$kube \
  cargo test --locked -p railbind-tests --test roce -- --ignored --nocapture 2>&1 | tee "$log"
status=${PIPESTATUS[0]}
awk -f scripts/counts.awk "$log"
exit "$status"
