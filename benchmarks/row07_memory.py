"""Row 7: what a request costs in memory while a test runs."""

from __future__ import annotations

import json
import sys

import tools
from run import Bench, Table

TITLE = "memory: growth per request"
GOAL = "at most 24 bytes per request below 2 million, none beyond"
MIB = 1024 * 1024


def run(bench: Bench) -> Table:
    requests = 200_000 if bench.quick else 3_000_000
    lines = []
    with tools.server("null_server") as url:
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
            for seconds in (2.0, 4.0) if bench.quick else (5.0, 20.0):
                job = tools.Job(url, bench.body, 16, seconds)
                outcome = bench.attempt(peer, "burst", job)
                if outcome is not None and outcome.peak_bytes is not None:
                    peaks.append((outcome.rate * seconds, outcome.peak_bytes))
            if len(peaks) == 2:
                (n1, bytes1), (n2, bytes2) = peaks
                growth = (bytes2 - bytes1) / (n2 - n1)
                lines.append([peer.name, round(n2), bytes2 / MIB, growth])
    met = engine <= 24 and page <= 24
    return Table(
        ["tool", "requests", "resident, MiB", "bytes per further request"],
        lines,
        f"Goal {'met' if met else 'missed'}.",
        ["Ours: resident size at every tick of one run. Peers: peak of a short and a long run."],
    )
