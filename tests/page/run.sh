#!/usr/bin/env bash
# The page in Chromium. Screenshots go to the folder RAILBIND_SCREENSHOTS, if it is set.
set -euo pipefail
cd "$(dirname "$0")"

../../scripts/setup.sh page
[ -d node_modules/puppeteer-core ] || npm ci --no-audit --no-fund --ignore-scripts >&2

log=$(mktemp)
trap 'rm -f "$log"' EXIT
CHROMIUM=$(command -v chromium) node --test --test-reporter=spec page.test.mjs | tee "$log"
awk '
  $2 == "pass" { passed = $3 }
  $2 == "fail" { failed = $3 }
  $2 == "skipped" { skipped = $3 }
  END { printf "\ntests: %d passed, %d failed, %d skipped\n", passed, failed, skipped }
' "$log"
