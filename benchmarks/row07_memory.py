"""Row 7: what a request costs in memory while a test runs."""

from __future__ import annotations

import json
import sys

import live
import tools
from run import Bench, Table

TITLE = "memory: growth per request"
GOAL = (
    "at most 24 bytes per request below 2 million, none beyond; the page's process at most 50 MiB "
    "more in an hour of live charts"
)
MIB = 1024 * 1024


def run(bench: Bench) -> Table:
    requests = 200_000 if bench.quick else 2_500_000
    lines = []
    with tools.quick_server() as url:
        command = [sys.executable, str(tools.HERE / "ours.py"), url, tools.PATH, str(bench.body)]
        command += ["--memory", "--max-requests", str(requests), "--duration", "600"]
        text, _, _ = tools.timed(command, timeout_s=700)
        told = json.loads(text)
        seen = told["memory"]
        # From the second tick on: the first holds what imports and first answers allocate.
        first, last = seen[1], seen[-1]
        engine = (last[1] - first[1]) / (last[0] - first[0])
        page = (last[2] - first[2]) / (last[0] - first[0])
        lines.append(["slipway: engine", told["ok"], last[1] / MIB, engine])
        lines.append(["slipway: who reads it", told["ok"], last[2] / MIB, page])
        for peer in bench.peers("burst"):
            if peer.name not in ("k6", "oha", "locust", "vegeta", "hey"):
                continue
            peaks = []
            for seconds in (2.0, 4.0) if bench.quick else (4.0, 14.0):
                job = tools.Job(url, bench.body, 16, seconds)
                outcome = bench.attempt(peer, "burst", job)
                if outcome is not None and outcome.peak_bytes is not None:
                    peaks.append((outcome.rate * seconds, outcome.peak_bytes))
            if len(peaks) == 2:
                (n1, bytes1), (n2, bytes2) = peaks
                growth = (bytes2 - bytes1) / (n2 - n1)
                lines.append([peer.name, round(n2), bytes2 / MIB, growth])
    notes = [
        "Ours: resident size at every tick of one run. Peers: peak of a short and a long run.",
        _page_process(bench),
    ]
    met = engine <= 24 and page <= 24
    return Table(
        ["tool", "requests", "resident, MiB", "bytes per further request"],
        lines,
        f"Goal for the engine {'met' if met else 'missed'}.",
        notes,
    )


def _page_process(bench: Bench) -> str:
    """What the page's process grows by while a browser looks at charts of a growing run."""
    if why := live.why_not():
        return f"The page's process was not measured: {why}."
    look_s = 20.0 if bench.quick else 75.0
    with tools.truth_server() as url:
        tools.begin(url, kind="log-normal", median_s=0.005, sigma=0.5, seed=1)
        ticks = live.recorded(live.load_of(url, bench.body, 200, 4.0))
        load = live.load_of(url, bench.body, 200, look_s + 60)
        seen = live.watched(load, before=3_500, ticks=ticks, every_s=0.2, leave_after_s=look_s)
    drawn = seen.resident
    # The first drawings load what every later one shares.
    warm = len(drawn) // 4
    if warm < 5:
        return "The page's process was not measured: the panel was drawn too seldom."
    grown = drawn[-1] - drawn[warm]
    an_hour = grown / (len(drawn) - warm) * 3_600 / MIB
    return (
        f"The page's process, minute 59 of a run, {len(drawn)} drawings in {look_s:.0f} s: "
        f"{drawn[-1] / MIB:.0f} MiB, {grown / MIB:+.1f} MiB since drawing {warm}; "
        f"an hour of drawings at that pace is {an_hour:+.0f} MiB (goal: 50)."
    )
