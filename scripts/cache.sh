# For scripts that make something once and keep it outside the tree; sourced, with `script` set to its name.
#
#   RAILBIND_CACHE=DIR               where to keep it (default: $XDG_CACHE_HOME/railbind or ~/.cache/railbind)
# shellcheck shell=sh disable=SC2034,SC2154

cache="${RAILBIND_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/railbind}"

say() { echo "$script: $*" >&2; }

# Holds the folder until the script ends; waits for another script that does.
hold() {
    mkdir -p "$1"
    exec 9>"$1/lock"
    if ! flock -n 9; then
        say "another build is running, waiting for it"
        flock 9
    fi
}

needs_go() { command -v go >/dev/null || { say "Go is not installed (https://go.dev/doc/install)"; exit 1; }; }
