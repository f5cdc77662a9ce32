#!/usr/bin/env bash
# Checks what the dependency tree holds: licences, banned crates, sources, and known advisories where their database can be reached.
# `scripts/audit.sh sbom` writes a CycloneDX list for each program to target/sbom instead.
set -euo pipefail
cd "$(dirname "$0")/.."
deny=0.20.2 cyclonedx=0.5.9

tool() {
  if ! cargo "$1" --version 2>/dev/null | grep -qF " $2"; then
    echo "audit: installing cargo-$1 $2" >&2
    cargo install --locked --quiet "cargo-$1@$2" >&2
  fi
}

if [ "${1:-}" = sbom ]; then
  tool cyclonedx "$cyclonedx"
  mkdir -p target/sbom
  for crate in node-agent:railbind-agent webhook:railbind-webhook; do
    cargo cyclonedx --quiet --format json --spec-version 1.5 --manifest-path "${crate%%:*}/Cargo.toml" --override-filename sbom
    mv "${crate%%:*}/sbom.json" "target/sbom/${crate#*:}.cdx.json"
    # It writes one for each crate of ours on the way.
    git ls-files --others --exclude-standard -- '*/sbom.json' | xargs -r rm
    echo "target/sbom/${crate#*:}.cdx.json: $(grep -c '"type": "library"' "target/sbom/${crate#*:}.cdx.json") libraries"
  done
  exit 0
fi

tool deny "$deny"
cargo deny --log-level error check bans licenses sources
if out=$(cargo deny --log-level error check advisories 2>&1); then
  echo "advisories: none"
elif grep -q 'failed to fetch advisory database' <<<"$out"; then
  echo "advisories: NOT CHECKED, their database cannot be reached from here" >&2
else
  echo "$out" >&2
  exit 1
fi
