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
#
# Each part that ends well writes its section of BENCHMARKS.md and its plot (bench-page.py).
set -euo pipefail
cd "$(dirname "$0")/.."
part=${PART:-all}
case $part in
  all | agent | webhook | transfer) ;;
  *) echo "bench: PART is agent, webhook or transfer, not $part" >&2; exit 1 ;;
esac

target=${CARGO_TARGET_DIR:-target}
out=$(realpath -m "$target")/bench
mkdir -p "$out"

if [ "$part" = all ] || [ "$part" = webhook ]; then
  cargo build --locked -q --release -p railbind-webhook
  RAILBIND_KUBE=$(scripts/build-kube.sh) RAILBIND_BENCH_OUT=$out/webhook.json cargo bench --locked -q -p railbind-tests --bench webhook
  scripts/bench-page.py webhook "$out/webhook.json"
fi
if [ "$part" = all ] || [ "$part" = transfer ]; then
  rm -f "$out/transfer.json"
  RAILBIND_BENCH_OUT=$out/transfer.json scripts/bench-transfer.sh
  [ ! -e "$out/transfer.json" ] || scripts/bench-page.py transfer "$out/transfer.json"
fi
[ "$part" = all ] || [ "$part" = agent ] || exit 0

trees=$(mktemp -d -p "$([ -d /dev/shm ] && echo /dev/shm || echo "${TMPDIR:-/tmp}")" railbind-bench-XXXXXX)
trap 'rm -rf "$trees"' EXIT

(cd tests/bench/peer-go && go build -o "$trees/peer-go" .)
RAILBIND_BENCH_TREES=$trees cargo bench --locked -q -p railbind-sysfs --bench survey
cargo build --locked -q --release -p railbind-agent

python3 - "$target" "$trees" "$out/agent.json" <<'PY'
import json, os, subprocess, sys

target, trees, out = sys.argv[1:]
rows, bars = [], []
print(f"\n{'machine':<24} {'survey':>10} {'limit':>8} {'procfs':>10} {'ratio':>7}")
for name, limit in {"ib-ndr-gdr": 20, "sriov-128vf": 150, "gpu8-nic18-gid256": 20, "gpu8-nic18-gid256-full": None}.items():
    with open(f"{target}/criterion/survey/{name}/new/sample.json") as file:
        sample = json.load(file)
    took = sorted(time / count / 1e6 for time, count in zip(sample["times"], sample["iters"]))
    ours = [took[len(took) // 4], took[len(took) // 2], took[len(took) * 3 // 4]]
    tree = f"{trees}/{name}" if os.path.isdir(f"{trees}/{name}") else f"tests/fixtures/{name}"
    peer = subprocess.run([f"{trees}/peer-go", tree, "30"], capture_output=True, text=True)
    theirs = [int(line) / 1e6 for line in peer.stdout.split()] if peer.returncode == 0 else None
    cells = (f"{theirs[1]:.2f} ms", f"{ours[1] / theirs[1]:.2f}") if theirs else (peer.stderr.strip(), "-")
    over = limit is not None and ours[1] >= limit
    print(f"{name:<24} {f'{ours[1]:.2f} ms':>10} {f'{limit} ms' if limit else '-':>8} {cells[0]:>10} {cells[1]:>7}{'  over the limit' if over else ''}")
    spread = lambda of: f"{of[1]:.2f} ({of[0]:.2f}–{of[2]:.2f})"
    ratio = spread([ours[0] / theirs[2], ours[1] / theirs[1], ours[2] / theirs[0]]) if theirs else "–"
    limited = f"{limit}{' (missed)' if over else ''}" if limit else "–"
    rows.append([f"`{name}`", spread(ours), limited, spread(theirs) if theirs else peer.stderr.strip(), ratio])
    for series, of in (("railbind-agent survey", ours), ("prometheus/procfs", theirs)):
        if of:
            bars.append({"label": name, "series": series, "low": of[0], "mid": of[1], "high": of[2]})

agent = f"{target}/release/railbind-agent"
size = f"{os.path.getsize(agent) / 2**20:.1f} MiB"
print(f"\nrailbind-agent: {size} (limit 20)")
tree = f"{trees}/gpu8-nic18-gid256"
child = subprocess.Popen([agent, "survey", "--root", tree, "--json"], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(child.pid, 0)
if status:
    sys.exit(f"railbind-agent survey failed: {status}")
memory = f"{usage.ru_maxrss / 1024:.1f} MiB"
print(f"peak memory of `railbind-agent survey` on {os.path.basename(tree)}: {memory}")

section = {
    "title": "Agent: a survey beside prometheus/procfs",
    "method": [
        "How long one survey with its verdict takes, beside prometheus/procfs, which node_exporter is built on, reading the classes "
        "`infiniband` and `net` of the same trees of files in memory. Not the same work: procfs reads every counter and no GID table, GPU, "
        "PCI tree or process; a survey reads those and no counter.",
        "`ib-ndr-gdr` and `sriov-128vf` are fixtures of this repository; `gpu8-nic18-gid256` has 8 GPUs, 18 NICs and GID tables of 256 "
        "slots, 12 of each in use, and in `-full` all of them. 30 measurements each: the median, in brackets the middle half of them; a "
        "ratio's brackets are the furthest that those allow. Below 1, the survey is the faster.",
    ],
    "tables": [{
        "caption": "A survey, in ms", "columns": ["machine", "survey", "limit", "procfs", "survey ÷ procfs"], "rows": rows,
    }],
    "plot": {"title": "A survey and prometheus/procfs", "unit": "ms (median and middle half)", "log": True, "rows": bars},
    "notes": [f"The program: {size} (limit 20 MiB).", f"Peak memory of `railbind-agent survey` on `{os.path.basename(tree)}`: {memory}."],
}
with open(out, "w") as file:
    json.dump(section, file, indent=1)
PY
scripts/bench-page.py agent "$out/agent.json"
