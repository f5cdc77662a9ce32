#!/usr/bin/env bash
# Three parts, each beside a peer in the same run; PART=agent, webhook or transfer for one of them.
#
# agent: how long a survey takes, beside prometheus/procfs, which node_exporter is built on, reading the classes infiniband and net
# of the same trees. Not the same work: it reads every counter and no GID table, GPU, PCI tree or process. Then the agent's size,
# and what a survey holds in memory.
#
# webhook: reviews alone under a steady load; pods through a real API server beside no webhook, a policy and a Go webhook that make
# the same patch.
#
# transfer: bench-transfer.sh, beside ucx_perftest; and what a whole self-test session costs beside its traffic.
set -euo pipefail
cd "$(dirname "$0")/.."
part=${PART:-all}
case $part in
  all | agent | webhook | transfer) ;;
  *) echo "bench: PART is agent, webhook or transfer, not $part" >&2; exit 1 ;;
esac

if [ "$part" = all ] || [ "$part" = webhook ]; then
  cargo build --locked -q --release -p railbind-webhook
  RAILBIND_KUBE=$(scripts/build-kube.sh) cargo bench --locked -q -p railbind-tests --bench webhook
fi
if [ "$part" = all ] || [ "$part" = transfer ]; then
  scripts/bench-transfer.sh
fi
[ "$part" = all ] || [ "$part" = agent ] || exit 0

trees=$(mktemp -d -p "$([ -d /dev/shm ] && echo /dev/shm || echo "${TMPDIR:-/tmp}")" railbind-bench-XXXXXX)
trap 'rm -rf "$trees"' EXIT
target=${CARGO_TARGET_DIR:-target}

(cd tests/bench/peer-go && go build -o "$trees/peer-go" .)
RAILBIND_BENCH_TREES=$trees cargo bench --locked -q -p railbind-sysfs --bench survey
cargo build --locked -q --release -p railbind-agent

python3 - "$target" "$trees" <<'PY'
import json, os, subprocess, sys

target, trees = sys.argv[1:]
print(f"\n{'machine':<24} {'survey':>10} {'limit':>8} {'procfs':>10} {'ratio':>7}")
for name, limit in {"ib-ndr-gdr": 20, "sriov-128vf": 150, "gpu8-nic18-gid256": 20, "gpu8-nic18-gid256-full": None}.items():
    with open(f"{target}/criterion/survey/{name}/new/estimates.json") as file:
        ours = json.load(file)["median"]["point_estimate"] / 1e6
    tree = f"{trees}/{name}" if os.path.isdir(f"{trees}/{name}") else f"tests/fixtures/{name}"
    peer = subprocess.run([f"{trees}/peer-go", tree, "30"], capture_output=True, text=True)
    theirs = int(peer.stdout) / 1e6 if peer.returncode == 0 else None
    cells = (f"{theirs:.2f} ms", f"{ours / theirs:.2f}") if theirs else (peer.stderr.strip(), "-")
    mark = "" if limit is None or ours < limit else "  over the limit"
    print(f"{name:<24} {f'{ours:.2f} ms':>10} {f'{limit} ms' if limit else '-':>8} {cells[0]:>10} {cells[1]:>7}{mark}")

agent = f"{target}/release/railbind-agent"
print(f"\nrailbind-agent: {os.path.getsize(agent) / 2**20:.1f} MiB (limit 20)")
tree = f"{trees}/gpu8-nic18-gid256"
child = subprocess.Popen([agent, "survey", "--root", tree, "--json"], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(child.pid, 0)
if status:
    sys.exit(f"railbind-agent survey failed: {status}")
print(f"peak memory of `railbind-agent survey` on {os.path.basename(tree)}: {usage.ru_maxrss / 1024:.1f} MiB")
PY
