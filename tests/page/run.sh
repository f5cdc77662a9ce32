#!/usr/bin/env bash
# The page in Chromium. Screenshots go to the folder RAILBIND_SCREENSHOTS, if it is set.
set -euo pipefail
cd "$(dirname "$0")"

missing=()
command -v chromium >/dev/null || missing+=(chromium)
command -v npm >/dev/null || missing+=(nodejs npm)
if [ ${#missing[@]} -gt 0 ]; then
  echo "page: installing ${missing[*]}" >&2
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "page: cannot install packages here: install ${missing[*]} by hand and run this again" >&2
    exit 1
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" fonts-dejavu-core >&2
fi
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
