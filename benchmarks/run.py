"""Runs the benchmarks of the load engine and writes what came out.

    python benchmarks/run.py                 all rows
    python benchmarks/run.py 1 4             these rows (also: --rows 1,4)
    python benchmarks/run.py 3 --short       fewer runs of each tool: wider ranges, same measures
    python benchmarks/run.py 4 --quick       one run of each: to see that it works, no more
    python benchmarks/run.py --write         also into benchmarks/README.md

Each row is a module `row…` with `TITLE`, `GOAL` and `run(bench) -> Table`. Every figure is a ratio
against a peer, or against the truth, of the same run.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

import tools  # noqa: E402 - the modules beside this one, wherever it is started from

ROWS = {
    "1": "row01_peak_rate",
    "1m": "row01_mlserver",
    "2": "row02_rate_fidelity",
    "3": "row03_percentile_truth",
    "4": "row04_stall_truth",
    "5": "row05_observer",
    "6": "row06_freshness",
    "7": "row07_memory",
    "10": "row10_thousand_services",
    "11": "row11_deploy_overhead",
    "12a": "row12a_payload",
}


# What a tool that got nowhere leads to: no output, half of one, or not a single answer in it.
TOOL_FAILED = (
    RuntimeError,
    OSError,  # TimeoutError, too
    ValueError,
    LookupError,
    AssertionError,
    ZeroDivisionError,
    subprocess.SubprocessError,
)


@dataclass(frozen=True)
class Table:
    """A row's result: a table, whether the goal was met, and what has to be said about it."""

    head: Sequence[str]
    lines: Sequence[Sequence[object]]
    verdict: str
    notes: Sequence[str] = ()

    def markdown(self) -> str:
        rows = [self.head, ["---"] * len(self.head), *self.lines]
        text = "\n".join("| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows)
        return "\n".join([text, "", self.verdict, *(f"- {note}" for note in self.notes)])


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Bench:
    """How thoroughly to measure, and what all rows share."""

    quick: bool
    short: bool
    body: Path

    def runs(self, full: int, short: int) -> int:
        """How often to measure the same thing: `full` or `short` times, once when it is quick."""
        return 1 if self.quick else short if self.short else full

    def say(self, text: str) -> None:
        print(f"  {time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)

    def peers(self, kind: str) -> list[tools.Tool]:
        """Installed peers that can run a `burst` or a `steady` rate."""
        return [peer for peer in tools.PEERS if peer.installed and getattr(peer, kind)]

    def attempt(self, tool: tools.Tool, kind: str, job: tools.Job) -> tools.Outcome | None:
        """One run of a tool; None, and a line on stderr, when the tool itself failed."""
        try:
            outcome: tools.Outcome = getattr(tool, kind)(job)
        except TOOL_FAILED as error:
            self.say(f"{tool.name} failed: {error}")
            return None
        self.say(
            f"{tool.name}: {outcome.rate:,.0f}/s"
            + (f", p99 {outcome.p99_s * 1e3:.2f} ms" if outcome.p99_s else "")
        )
        return outcome


def spread(values: Sequence[float]) -> str:
    """Median (minimum–maximum)."""
    if not values:
        return "–"
    middle = statistics.median(values)
    return f"{middle:.3g} ({min(values):.3g}–{max(values):.3g})"


def machine() -> str:
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    load = os.getloadavg()[0]
    return (
        f"{model}, {os.cpu_count()} cores, Linux {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}; load average before: {load:.1f}"
    )


def versions() -> str:
    """The peers' versions as they tell them."""
    told = []
    for name, command in (
        ("wrk", ["wrk", "-v"]),
        ("h2load", ["h2load", "--version"]),
        ("ab", ["ab", "-V"]),
        ("oha", ["oha", "--version"]),
        ("k6", ["k6", "version"]),
        ("autocannon", ["autocannon", "--version"]),
        ("locust", ["locust", "--version"]),
    ):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        except OSError:
            continue
        found = re.search(r"\d+\.\d+(\.\d+)?", done.stdout + done.stderr)
        told.append(f"{name} {found[0] if found else '?'}")
    return ", ".join(told)


def write(row: str, text: str) -> None:
    """Put a row's result between its marks in README.md."""
    readme = Path(__file__).resolve().parent / "README.md"
    begin, end = f"<!-- row {row} -->", f"<!-- end of row {row} -->"
    old = readme.read_text()
    before, found, rest = old.partition(begin)
    after = rest.partition(end)[2]
    if not found:
        raise SystemExit(f"benchmarks/README.md has no place for row {row}")
    readme.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--rows", dest="listed", default="", help="the same, with commas")
    parser.add_argument("--quick", action="store_true", help="one run of each: to see it work")
    parser.add_argument("--short", action="store_true", help="fewer runs of each tool")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    rows = options.rows + [row for row in options.listed.split(",") if row]
    unknown = set(rows) - set(ROWS)
    if unknown:
        parser.error(f"no row {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    print(f"{machine()}\n{versions()}")
    if tools.missing():
        print(f"Not installed here, so not measured: {', '.join(tools.missing())}.")
    for name, why in tools.NOT_INSTALLABLE.items():
        print(f"Not measured: {name} ({why}).")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options.quick, options.short, tools.body_file(Path(folder)))
        for row in rows or ROWS:
            module = importlib.import_module(ROWS[row])
            print(f"\n## Row {row}: {module.TITLE}\n\nGoal: {module.GOAL}\n", flush=True)
            before, began = f"{time.strftime('%Y-%m-%d')}, {machine()}", time.monotonic()
            text = module.run(bench).markdown()
            print(f"{text}\n\nRow {row} took {time.monotonic() - began:.0f} s.", flush=True)
            if options.write:
                write(row, f"Goal: {module.GOAL}\n\n{text}\n\n{before}.{how_short(options)}")


def how_short(options: argparse.Namespace) -> str:
    """What a reader has to know about a run that was no full one."""
    if options.quick:
        return " A quick run: it shows that it works, no more."
    return " A short run: fewer runs of each tool." if options.short else ""


if __name__ == "__main__":
    main()
