#!/usr/bin/env bash
# Transfers of `railbind-agent bench` beside ucx_perftest of the same UCX: same host, same transports, same sizes, turn by turn, each
# server on one processor and each client on another. Medians, the spread (smallest to largest), and the ratio, which should be at
# least 0.95 for bandwidth and at most 1.1 for latency. A difference within the spread is the machine's.
#
# Then what a whole self-test session costs beside its traffic, phase by phase: TCP, TLS 1.3 with both certificates and the hello; the
# answer; the children's start and their workers' addresses; the transfer as an agent makes it by default; the reports. First the
# channel alone, with children that say an address and report at once.
#
#   ROUNDS=5 SECONDS_EACH=0.5 scripts/bench-transfer.sh
#   RAILBIND_BENCH_OUT=FILE: what bench-page.py writes on the page, where nothing below leaves a part out
#   ONLY=1.13 or ONLY=1.22: one UCX    TLS="tcp posix": some transports    AGENT=FILE: this program, instead of a release build
#   PARTS="transfer session": one of them
#
# ucx_perftest: of the Debian package ucx-utils for the distribution's UCX, and the wheels' own. Between 1.18 and 1.19 UCX changed how it
# reaches another's memory over TCP, so these two are measured over TCP alone, unless TLS is given.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh bench
if [ -z "${AGENT:-}" ]; then
  cargo build --locked -q --release -p railbind-agent
  AGENT=${CARGO_TARGET_DIR:-target}/release/railbind-agent
fi
cargo build --locked -q --release -p railbind-agent --example session
wheels=("$(tests/ucx/fetch.sh wheel-1.18.1.txt)" "$(tests/ucx/fetch.sh wheel-1.19.0.txt)" "$(tests/ucx/fetch.sh)")
exec python3 - "$AGENT" "${CARGO_TARGET_DIR:-target}/release/examples/session" "${wheels[@]}" <<'PY'
import json, os, re, shutil, socket, statistics, subprocess, sys, tempfile, time

agent, session, *wheels = sys.argv[1:]
# What goes to the page: rows of the tables, and ratios to draw.
lines, phases, bars = [], [], []
rounds, seconds = int(os.environ.get("ROUNDS", 5)), float(os.environ.get("SECONDS_EACH", 0.5))
sizes = {"64 KiB": 1 << 16, "1 MiB": 1 << 20, "16 MiB": 1 << 24, "128 MiB": 1 << 27}
cpus = sorted(os.sched_getaffinity(0))
pinned = [["taskset", "-c", str(cpus[i % len(cpus)])] for i in (0, 1)]

REAL_MEMORY = {"UCX_ALLOC_PRIO": "heap", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.perturb=165"}

parts = os.environ.get("PARTS", "transfer session").split()
ucx = {"1.13.1": (shutil.which("ucx_perftest"), {}, [])}
tools = tempfile.TemporaryDirectory()
for version, wheel in zip(("1.18.1", "1.19.0", "1.22.0"), wheels):
    # The wheel's tool has no right to run, and finds its libraries by a path.
    tool = os.path.join(tools.name, f"ucx_perftest-{version}")
    shutil.copy(os.path.join(wheel, "../bin/ucx_perftest"), tool)
    os.chmod(tool, 0o755)
    libraries = {"LD_LIBRARY_PATH": f"{wheel}:{wheel}/../../libucx_cu12.libs"}
    ucx[version] = (tool, libraries, ["--ucx-lib", wheel])
chosen = [version for version in ucx if version.startswith(os.environ.get("ONLY", ""))]


def starts(version):
    binary, env, _ = ucx[version]
    return subprocess.run([binary, "-h"], env=os.environ | env, capture_output=True).returncode in (0, 1)


# That of the wheel for 1.18.1 ends in its loader.
peerless = [version for version in chosen if "transfer" in parts and not starts(version)]
if peerless:
    print(f"no transfers beside the ucx_perftest of UCX {', '.join(peerless)}: it does not start")


def transports(version):
    default = "tcp" if version in ("1.18.1", "1.19.0") else "tcp posix posix,cma"
    return os.environ.get("TLS", default).split()


def free():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def pair(server, client, env, ready):
    env = {k: v for k, v in os.environ.items() if not k.startswith("UCX_")} | env
    with subprocess.Popen(pinned[0] + server, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as one:
        try:
            until = time.time() + 10
            while time.time() < until and not ready():
                time.sleep(0.05)
            two = subprocess.run(pinned[1] + client, env=env, capture_output=True, text=True, timeout=180)
            if two.returncode:
                sys.exit(f"{' '.join(client)}: {two.stderr[-600:]}{two.stdout[-300:]}")
            return two.stdout
        finally:
            one.kill()


def listening(port):
    return lambda: any(f":{port:04X} " in line and " 0A " in line for f in ("tcp", "tcp6") for line in open(f"/proc/net/{f}"))


def theirs(version, tls, op, size, count):
    binary, env, _ = ucx[version]
    test = {"tag": "tag_bw", "put": "ucp_put_bw", "get": "ucp_get", "latency": "tag_lat"}[op]
    port = free()
    args = ["-t", test, "-s", str(size), "-n", str(count), "-p", str(port)] + ([] if op == "latency" else ["-O", "32"])
    # As ours: an endpoint that notices a lost peer, which shared memory cannot have.
    args += ["-e"] if tls == "tcp" else []
    # Memory as ours: it never writes to what it sends, so where UCX maps it anew that is the kernel's one page of zeroes, which is
    # read from the processor's cache. From the heap, which glibc fills and makes of huge pages, there is memory behind it.
    env = env | {"UCX_TLS": tls, "UCX_WARN_UNUSED_ENV_VARS": "n"} | REAL_MEMORY
    out = pair([binary, "-p", str(port)], [binary, "127.0.0.1", *args, "-f"], env, listening(port))
    found = re.findall(r"^\s*(?:(?:Final:|\[.*?\])\s+)?\d+\s+([\d.]+)\s+([\d.]+)\s+([\d.]+)\s+([\d.]+)\s+([\d.]+)", out, re.M)
    if not found:
        return None, out
    # Latency is in the columns "50.0%ile" and, of all messages, "overall"; its MB/s are MiB/s.
    figures = [float(column) for column in found[-1]]
    return ({"p50": figures[0], "mean": figures[2]} if op == "latency" else {"": figures[4] * 1048576 / 1e9}), out


def ours(version, tls, op, size):
    port = free()
    listen = f"127.0.0.1:{port}"
    extra = ucx[version][2]
    server = [agent, "bench", "server", "--once", "--listen", listen, *extra]
    client = [agent, "bench", "client", listen, "--json", "--op", op, "--sizes", str(size), "--seconds", str(seconds), *extra]
    report = json.loads(pair(server, client, {"UCX_TLS": tls}, listening(port)))
    figure = report["sizes"][0]
    values = {"p50": figure["usec"], "mean": figure["usec_mean"]} if op == "latency" else {"": figure["gbytes_per_s"]}
    return values, figure["iterations"]


def row(version, tls, op, name, size):
    mine, peers, count, fewer = [], [], None, None
    for turn in range(rounds):
        for who in ("ours", "theirs") if turn % 2 == 0 or count is None else ("theirs", "ours"):
            if who == "ours":
                value, count = ours(version, tls, op, size)
                mine.append(value)
            else:
                began = time.time()
                value, said = theirs(version, tls, op, size, fewer or count)
                # Where it crawls, it need not do so for minutes.
                if (took := time.time() - began) > 5:
                    fewer = max(2, int((fewer or count) * 5 / took))
                if value is None:
                    print(f"{version} {tls} {op} {name}: ucx_perftest gave no figure: {said.strip()[-200:]!r}", flush=True)
                    return
                peers.append(value)
    for kind in mine[0]:
        compare(version, tls, f"{op} {kind}".strip(), name, [values[kind] for values in mine], [values[kind] for values in peers])


def compare(version, tls, op, name, mine, peers):
    # Turn by turn: the machine is not the same from one to the next.
    ratios = sorted(one / other for one, other in zip(mine, peers))
    m, p, ratio = statistics.median(mine), statistics.median(peers), statistics.median(ratios)
    latency = op.startswith("latency")
    within = ratio <= 1.1 if latency else ratio >= 0.95
    # A tenth of a microsecond takes three digits.
    digits = 3 if max(mine + peers) < 1 else 2
    spread = lambda values: f"{min(values):.{digits}f}–{max(values):.{digits}f}"
    unit = "µs" if latency else "GB/s"
    mark = "" if within else ("  within the spread" if max(min(mine), min(peers)) <= min(max(mine), max(peers)) else "  MISSED")
    print(f"{version:<7} {tls:<10} {op:<12} {name:>8} {unit:>5} {m:>8.{digits}f} {spread(mine):>14} {p:>8.{digits}f} {spread(peers):>14} {ratio:>6.2f}{mark}", flush=True)
    figure = lambda value, values: f"{value:.{digits}f} ({spread(values)})"
    lines.append([version, f"`{tls}`", op, name, unit, figure(m, mine), figure(p, peers), figure(ratio, ratios) + mark])
    series = "latency" if latency else "bandwidth"
    bars.append({"label": f"{version} {tls} {op} {name}", "series": series, "low": ratios[0], "mid": ratio, "high": ratios[-1]})


if "transfer" in parts:
    print(f"{'UCX':<7} {'transport':<10} {'op':<12} {'size':>8} {'unit':>5} {'ours':>8} {'spread':>14} {'perftest':>8} {'spread':>14} {'ratio':>6}")
for version in (version for version in chosen if "transfer" in parts and version not in peerless):
    for tls in transports(version):
        for op in ("tag", "put", "get"):
            for name, size in sizes.items():
                row(version, tls, op, name, size)
        row(version, tls, "latency", "8 B", 8)

if "session" in parts:
    print(f"\n{'UCX':<7} {'transport':<14} {'phase of a session':<24} {'unit':>4} {'median':>9} {'spread':>19}", flush=True)
    env = {k: v for k, v in os.environ.items() if not k.startswith("UCX_")}
    whats = [("-", "none", [])] + [(version, tls, ucx[version][2][1:]) for version in chosen for tls in transports(version)]
    for version, tls, folder in whats:
        done = subprocess.run([session, agent, str(max(rounds, 5)), version, tls, *folder], env=env, text=True, timeout=600, stdout=subprocess.PIPE)
        print(done.stdout, end="", flush=True)
        if done.returncode:
            sys.exit(f"{session} {version} {tls} failed")
        phases += [re.split(r"\s{2,}", line.strip()) for line in done.stdout.splitlines()]

out = os.environ.get("RAILBIND_BENCH_OUT")
if out and not any(name in os.environ for name in ("ONLY", "TLS", "AGENT", "PARTS")):
    section = {
        "title": "Transfers: railbind-agent bench beside ucx_perftest",
        "method": [
            "`railbind-agent bench` and `ucx_perftest` of the same UCX, on one host, over the same transports and sizes, turn by turn; each "
            "server on one processor and each client on another.",
            f"{rounds} turns of {seconds:g} s: the median, in brackets the least and the greatest; the ratio is the median of the single turns', in "
            "brackets the least and the greatest of them. Bandwidth should be at least 0.95 of ucx_perftest's, latency at most 1.1 of it; what is beyond is marked.",
            "ucx_perftest gets memory that is there, as ours is (`UCX_ALLOC_PRIO=heap` and glibc's tunables that fill it and make it of huge "
            "pages): it never writes to what it sends, which is the kernel's one page of zeroes otherwise, read from the processor's cache.",
        ],
        "tables": [{
            "caption": "Transfers in GB/s (10⁹ bytes a second), latency in µs",
            "columns": ["UCX", "transports", "operation", "size", "unit", "Railbind", "ucx_perftest", "Railbind ÷ ucx_perftest"],
            "rows": lines,
        }, {
            "caption": "A self-test session beside its traffic, by phase",
            "columns": ["UCX", "transports", "phase", "unit", "median", "least–greatest"],
            "rows": phases,
        }],
        "plot": {"title": "Railbind ÷ ucx_perftest", "unit": "ratio (1: as fast)", "reference": 1.0, "rows": bars},
        "notes": [
            "Medians of a tenth of a microsecond: ucx_perftest's come in steps of 0.005 µs on AMD processors (0.090, 0.095), whose clock counts in "
            "steps of 10 ns; ours is of 32 round trips together. Such a step is 5 % of the ratio. The means have no steps.",
            "Over shared memory without `cma` either tool's bandwidth differs up to tenfold from one run to the next where the two processors are a "
            "virtual machine's: a row there takes more turns (`ONLY=1.22 TLS=posix ROUNDS=15`).",
        ]
        + [f"UCX {version} has no rows of transfers: the ucx_perftest of its package does not start." for version in peerless],
    }
    with open(out, "w") as file:
        json.dump(section, file, indent=1)
PY
