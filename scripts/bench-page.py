#!/usr/bin/env python3
"""Writes one part of BENCHMARKS.md and its plot from what a bench of `make bench` measured.

    scripts/bench-page.py PART target/bench/PART.json

The other parts of the page stay as they are. All figures come from the JSON, all about the machine from the machine:

    {"title": …, "method": [paragraph…], "tables": [{"caption": …, "columns": […], "rows": [[cell…]…]}…], "notes": [line…],
     "plot": {"title": …, "unit": …, "log": bool, "reference": number or null,
              "rows": [{"label": …, "series": …, "low": …, "mid": …, "high": …}…]}}
"""

import datetime, html, json, math, os, pathlib, platform, re, subprocess, sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "BENCHMARKS.md"
PARTS = ("agent", "webhook", "transfer")
HEAD = """# Benchmarks

`make bench` measures and writes this page; `make bench PART=agent` (or `webhook`, `transfer`) measures and writes one part of it, and
leaves the others. Every figure is a bench's own output. Each part stands beside a peer that was measured in the same run on the same
machine: compare the ratios, not the figures of two machines.
"""
# Readable on light and dark grounds; told apart by shape as well.
COLOURS = ("#2f6fde", "#8a8f98", "#c7831f", "#3b9b63", "#a45bb5")


def machine():
    """What was measured on, in one line."""
    cpu = re.search(r"^model name\s*: (.+)$", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    memory = int(re.search(r"^MemTotal:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text(), re.M)[1]) / 2**20
    system = platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    cores = len(os.sched_getaffinity(0))
    name = cpu[1].strip() if cpu else platform.machine()
    return f"{name}, {cores} logical processors, {memory:.0f} GiB of memory, {system}, Linux {platform.release().split('-')[0]}"


def commit():
    """Which source was measured; this page and its plots are no part of it."""
    git = lambda *words: subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True).stdout.strip()
    changed = [line for line in git("status", "--porcelain").splitlines() if not re.search(r"BENCHMARKS\.md|docs/images/bench-", line)]
    return (git("rev-parse", "--short=12", "HEAD") or "no commit") + (", with changes" if changed else "")


def cell(text):
    return str(text).replace("|", "\\|").replace("\n", " ")


def table(data):
    columns, rows = data["columns"], data["rows"]
    for row in rows:
        if len(row) != len(columns):
            sys.exit(f"bench-page: {data['caption']!r}: a row of {len(row)} cells below {len(columns)} columns")
    lines = [f"**{data['caption']}**", "", "| " + " | ".join(map(cell, columns)) + " |"]
    lines.append("|---" + "|---:" * (len(columns) - 1) + "|")
    return lines + ["| " + " | ".join(map(cell, row)) + " |" for row in rows] + [""]


def ticks(low, high, log):
    if log:
        start, end = math.floor(math.log10(low)), math.ceil(math.log10(high))
        return [step * 10.0**power for power in range(start, end + 1) for step in (1, 2, 5) if low <= step * 10.0**power <= high]
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(step * times for times in (1, 2, 5, 10) if (high - low) / (step * times) <= 6)
    return [step * number for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def mark(shape, x, y, colour):
    if shape == 0:
        return f'<circle cx="{x:.1f}" cy="{y}" r="4" fill="{colour}"/>'
    if shape == 1:
        return f'<rect x="{x - 3.5:.1f}" y="{y - 3.5}" width="7" height="7" fill="{colour}"/>'
    return f'<path d="M{x:.1f} {y - 5}l5 9h-10z" fill="{colour}"/>'


def plot(data):
    """Dots with their spread, as SVG."""
    rows, log, reference = data["rows"], data.get("log", False), data.get("reference")
    series = list(dict.fromkeys(row["series"] for row in rows))
    values = [row[end] for row in rows for end in ("low", "mid", "high")] + ([reference] if reference else [])
    if not all(math.isfinite(value) for value in values) or (log and min(values) <= 0):
        sys.exit(f"bench-page: {data['title']!r}: a value that cannot be drawn")
    low, high = (min(values) / 1.3, max(values) * 1.3) if log else (min(0.0, min(values)), max(values) * 1.08)
    left, wide, top, each = 250, 760, 46, 18
    scale = (lambda v: math.log(v)) if log else (lambda v: v)
    at = lambda v: left + (wide - left - 24) * (scale(v) - scale(low)) / (scale(high) - scale(low))
    parts, y, last = [], top + 14, None
    for row in rows:
        if last is not None and row["label"] != last and len(series) > 1:
            y += 8
        number = series.index(row["series"])
        colour = COLOURS[number % len(COLOURS)]
        if row["label"] != last:
            parts.append(f'<text x="{left - 10}" y="{y + 4}" text-anchor="end">{html.escape(row["label"])}</text>')
        parts.append(f'<path d="M{at(row["low"]):.1f} {y}H{at(row["high"]):.1f}" stroke="{colour}" stroke-width="2"/>')
        parts.append(mark(number, at(row["mid"]), y, colour))
        last, y = row["label"], y + each
    bottom = y
    grid = []
    for value in ticks(low, high, log):
        grid.append(f'<path d="M{at(value):.1f} {top}V{bottom}" stroke="#8a8f98" stroke-opacity=".3"/>')
        grid.append(f'<text x="{at(value):.1f}" y="{bottom + 16}" text-anchor="middle">{value:g}</text>')
    if reference:
        grid.append(f'<path d="M{at(reference):.1f} {top}V{bottom}" stroke="#8a8f98" stroke-width="2" stroke-dasharray="4 3"/>')
    legend = []
    if len(series) > 1:
        for number, name in enumerate(series):
            x = left + number * (wide - left) // len(series)
            legend.append(mark(number, x, 36, COLOURS[number % len(COLOURS)]) + f'<text x="{x + 9}" y="40">{html.escape(name)}</text>')
    title = f"{data['title']}, {data['unit']}"
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {bottom + 26}" font-family="sans-serif" font-size="12" fill="#7b8089" role="img">',
        f"<title>{html.escape(title)}</title>",
        f'<text x="10" y="18" font-size="14">{html.escape(title)}</text>',
        *legend, *grid, *parts, "</svg>", ""])


def section(part, data, image):
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    lines = [f"<!-- {part}: begin; written by make bench -->", f"## {data['title']}", ""]
    for paragraph in data["method"]:
        lines += [paragraph, ""]
    lines += [f"Measured {today} at commit {commit()}: {machine()}.", ""]
    for one in data["tables"]:
        lines += table(one)
    plot = data["plot"]
    lines += [f"![{plot['title']}, {plot['unit']}: the figures of the table]({image})", ""]
    lines += [f"- {note}" for note in data["notes"]]
    return "\n".join(lines).rstrip() + f"\n<!-- {part}: end -->\n"


def main(part, file):
    if part not in PARTS:
        sys.exit(f"bench-page: {part} is not one of {', '.join(PARTS)}")
    data = json.loads(pathlib.Path(file).read_text())
    image = f"docs/images/bench-{part}.svg"
    drawn, text = plot(data["plot"]), section(part, data, image)
    page = PAGE.read_text() if PAGE.exists() else ""
    found = {name: re.search(rf"<!-- {name}: begin.*?<!-- {name}: end -->\n", page, re.S) for name in PARTS}
    kept = {name: match[0] for name, match in found.items() if match} | {part: text}
    (ROOT / image).write_text(drawn)
    PAGE.write_text("\n".join([HEAD, *(kept[name] for name in PARTS if name in kept)]))
    print(f"\nwrote the part {part} of {PAGE.name}, and {image}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
