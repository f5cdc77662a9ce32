#!/usr/bin/env bash
# The page in Chromium. Screenshots go to the folder RAILBIND_SCREENSHOTS, if it is set.
#
# Chromium and two npm packages come over the network. Where they cannot be had, this fails; with PAGE_OPTIONAL=1, as in CI, it says
# so and counts every test as skipped.
set -uo pipefail
cd "$(dirname "$0")"

log=$(mktemp)
trap 'rm -f "$log"' EXIT
why=
if ! ../../scripts/setup.sh page; then
  why="Chromium, Node.js or npm cannot be installed here"
elif ! [ -d node_modules/puppeteer-core ] && ! npm ci --no-audit --no-fund --ignore-scripts >&2; then
  why="puppeteer-core and axe-core cannot be fetched from the npm registry"
fi
if [ -n "$why" ]; then
  [ -n "${PAGE_OPTIONAL:-}" ] || { echo "test-page: $why" >&2; exit 1; }
  printf '\n*** test-page: SKIPPED, nothing was tested: %s ***\n\n' "$why" >&2
  if ! command -v node >/dev/null; then
    # Nobody is here to count them.
    printf '\ntests: 0 passed, 0 failed, 1 skipped\n'
    exit 0
  fi
fi

CHROMIUM=$(command -v chromium) PAGE_SKIP=$why node --test --test-reporter=spec page.test.mjs | tee "$log"
status=${PIPESTATUS[0]}
awk '
  $2 == "pass" { passed = $3 }
  $2 == "fail" { failed += $3 }
  $2 == "cancelled" { failed += $3 }
  $2 == "skipped" { skipped = $3 }
  END { printf "\ntests: %d passed, %d failed, %d skipped\n", passed, failed, skipped }
' "$log"
exit "$status"
