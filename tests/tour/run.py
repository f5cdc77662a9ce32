#!/usr/bin/env python3
"""Follows docs/tour.md word for word: runs its commands in order, and looks for what it shows.

A block ```sh is run by bash, in the repository's root. The block without a language behind it is what its output shows: every line of
it has to be in the output, in this order, but for what differs from run to run (MASKS). A comment before a block says more:

    <!-- tour: exit 7 -->     it ends with this code; else with 0
    <!-- tour: within 60 s --> what it shows is there after a while: it is run again until then
    <!-- tour: page -->       it serves until Ctrl-C at the address that it prints first, and then ends with 0
    <!-- tour: not run -->    it is for the reader alone; the document says why

Ends with the line of counts that .ci/run adds up: each block is a test.
"""

import pathlib, re, selectors, signal, subprocess, sys, time, urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
LIMIT = 600  # seconds that one block may take: the first one may build.
# What differs from run to run, and the scheduler's choice between two nodes that are as good.
MASKS = (
    (r"\b(\d+d)?(\d+h)?(\d+m)?\d+s\b( \(x\d+ over [^)]*\))?", "AGE"),
    (r"\broce-[12]\b", "roce-N"),
    (r"UCX_IB_GID_INDEX=[35]", "UCX_IB_GID_INDEX=N"),
    (r"\b\d+(\.\d+){3}:\d+\b", "ADDRESS"),
    (r"\b[0-9a-f]{32}\b", "SECRET"),
    (r"\b[0-9a-f]{8}-[0-9a-f]{4}\b", "DECISION"),
    (r"\s+", " "),
)


class Block:
    """A command of the document, and what follows it."""

    def __init__(self, line, text, note):
        self.line, self.text, self.note, self.shown = line, text, note, ""

    @property
    def title(self):
        return f"docs/tour.md:{self.line}: {self.text.splitlines()[0]}"


def read(document):
    """The blocks of a document. A block that nobody would run or compare is an error: it would be a claim without a test."""
    blocks, note, inside, begun, body = [], "", None, 0, []
    for number, line in enumerate(document.splitlines(), 1):
        if inside is None and line.startswith("```"):
            inside, begun, body = line[3:], number, []
        elif inside is not None and line == "```":
            text = "\n".join(body)
            if inside == "sh":
                blocks.append(Block(begun + 1, text, note))
            elif inside == "" and blocks and not blocks[-1].shown:
                blocks[-1].shown = text
            else:
                sys.exit(f"docs/tour.md:{begun}: a block that is neither a command (sh) nor what the last command shows")
            inside, note = None, ""
        elif inside is not None:
            body.append(line)
        elif match := re.fullmatch(r"<!-- tour: (.+) -->", line):
            note = match[1]
    return blocks


def masked(line):
    for pattern, word in MASKS:
        line = re.sub(pattern, word, line)
    return line.strip()


def missing(shown, output):
    """The first line that should be there, after those before it, and is not. A line that ends in … or ... may go on."""
    lines = iter([masked(line) for line in output.splitlines()])
    for want in shown.splitlines():
        want = masked(want)
        start = re.sub(r"(…|\.\.\.)$", "", want)
        same = (lambda line: line.startswith(start)) if start != want else (lambda line: line == want)
        if start and not any(same(line) for line in lines):
            return want
    return None


def run(block):
    """What is wrong with it, or nothing."""
    code, within = re.fullmatch(r"exit (\d+)", block.note), re.fullmatch(r"within (\d+) s", block.note)
    if block.note and not code and not within:
        return f"nobody knows what {block.note!r} means"
    until = time.monotonic() + (int(within[1]) if within else 0)
    while (wrong := once(block, int(code[1]) if code else 0)) and time.monotonic() < until:
        time.sleep(1)
    return wrong


def once(block, want):
    # Into a file: what `make demo-up` leaves running would keep a pipe open.
    with open(ROOT / "target/tour.log", "w+") as log:
        try:
            done = subprocess.run(["bash", "-c", block.text], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=LIMIT)
        except subprocess.TimeoutExpired:
            return f"not done after {LIMIT} s"
        log.seek(0)
        output = log.read()
    if done.returncode != want:
        return f"it ended with {done.returncode}, not {want}:\n{output}"
    line = missing(block.shown, output)
    return None if line is None else f"no line {line!r} (or not in this place) in:\n{output}"


def page(block):
    """Opens what it serves, as a browser would, and ends it."""
    child = subprocess.Popen(["bash", "-c", f"exec {block.text}"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        with selectors.DefaultSelector() as ready:
            ready.register(child.stdout, selectors.EVENT_READ)
            if not ready.select(timeout=60):
                return "it prints no address"
        address = child.stdout.readline().strip()
        if not address.startswith("http://127.0.0.1:"):
            return f"{address!r} is no address: {child.stderr.read()}"
        with urllib.request.urlopen(address, timeout=60) as answer:
            html, place = answer.read().decode(), answer.geturl()
        with urllib.request.urlopen(f"{place}data.json", timeout=60) as answer:
            data = answer.read().decode()
        if "<title>Railbind" not in html or '"roce-2"' not in data:
            return f"not the page: {html[:300]} {data[:300]}"
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=30)
        if child.returncode != 0:
            return f"it ended with {child.returncode}: {err}"
        line = missing(block.shown, f"{address}\n{out}{err}")
        return None if line is None else f"no line {line!r} in:\n{address}\n{out}{err}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    finally:
        child.kill()
        child.communicate()


def main():
    blocks = read((ROOT / "docs/tour.md").read_text())
    if len(blocks) < 10:
        sys.exit("docs/tour.md: that is no tour")
    passed = failed = skipped = 0
    (ROOT / "target").mkdir(exist_ok=True)
    try:
        for block in blocks:
            begun = time.monotonic()
            if block.note == "not run":
                skipped += 1
                print(f"skip  {block.title}", flush=True)
                continue
            wrong = page(block) if block.note == "page" else run(block)
            print(f"{'FAIL' if wrong else 'ok':<5} {block.title} ({time.monotonic() - begun:.1f} s)", flush=True)
            if wrong:
                print("      " + wrong.replace("\n", "\n      "), flush=True)
            passed, failed = passed + (not wrong), failed + bool(wrong)
    finally:
        # Whatever happened on the way: nothing is left running.
        subprocess.run(["make", "-s", "demo-down"], cwd=ROOT, stdout=subprocess.DEVNULL)
    print(f"\ntests: {passed} passed, {failed} failed, {skipped} skipped")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
