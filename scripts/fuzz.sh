#!/usr/bin/env bash
# Fuzzes the parsers, whole machines and admission reviews, FUZZ_SECONDS (60) each; says how much was tried. A finding is a file below
# tests/fuzz/artifacts and a failure: put it into the corpus with its repair. What is learned stays in tests/fuzz/found, which git ignores.
#
#   scripts/fuzz.sh         fuzz
#   scripts/fuzz.sh keep    fuzz, then make tests/fuzz/corpus anew: the fewest inputs that reach all that these reach. `make test` tries
#                           every one of them again
set -euo pipefail
cd "$(dirname "$0")/../tests/fuzz"
seconds=${FUZZ_SECONDS:-60}

if ! rustup toolchain list | grep -q '^nightly'; then
  echo "fuzz: installing the nightly toolchain, whose compiler the coverage needs" >&2
  rustup toolchain install nightly --profile minimal >&2
fi
if ! command -v cargo-fuzz >/dev/null; then
  echo "fuzz: installing cargo-fuzz" >&2
  cargo +nightly install cargo-fuzz --locked >&2
fi

log=$(mktemp)
kept=$(mktemp -d)
trap 'rm -rf "$log" "$kept"' EXIT
failed=0
# No sanitizer: there is no unsafe code under test, and without one four times as much is tried.
fuzz() { cargo +nightly fuzz run --fuzz-dir . --sanitizer none "$@"; }
for target in parsers tree review; do
  mkdir -p "found/$target"
  options=(-max_total_time="$seconds" -print_final_stats=1 -verbosity=1)
  case $target in
    parsers) limits=(-max_len=2048) ;;
    tree) limits=(-max_len=1024 -len_control=20) ;;
    review) limits=(-max_len=4096 -timeout=5) ;;
  esac
  status=0
  fuzz "$target" "found/$target" "corpus/$target" -- "${options[@]}" "${limits[@]}" >"$log" 2>&1 || status=$?
  runs=$(awk '/^stat::number_of_executed_units:/ {print $2}' "$log")
  covered=$(grep -o 'cov: [0-9]* ft: [0-9]* corp: [0-9]*' "$log" | tail -n 1 || true)
  echo "fuzz $target: ${runs:-0} executions, ${covered:-nothing covered}"
  if [ "$status" != 0 ] || [ -z "$runs" ]; then
    tail -n 40 "$log" >&2
    failed=1
  elif [ "${1:-}" = keep ]; then
    mkdir "$kept/$target"
    fuzz "$target" "$kept/$target" "found/$target" "corpus/$target" -- -set_cover_merge=1 "${limits[@]}" >"$log" 2>&1 ||
      { tail -n 40 "$log" >&2; exit 1; }
    rm -f "corpus/$target"/*
    for input in "$kept/$target"/*; do
      name=$(sha1sum <"$input")
      cp "$input" "corpus/$target/${name:0:12}"
    done
    echo "kept $target: $(ls "corpus/$target" | wc -l) inputs, $(cat "corpus/$target"/* | wc -c) bytes"
  fi
done
exit "$failed"
