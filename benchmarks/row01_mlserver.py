"""Row 1, second half: the same burst against a real MLServer with a scikit-learn model."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import tools
from run import Bench, Table, spread

TITLE = "peak rate against a real MLServer, scikit-learn model of 38 numbers, 16 connections"
GOAL = "at least 0.95 of wrk"


def run(bench: Bench) -> Table:
    """Rounds of ours-wrk-wrk-ours (ABBA), then oha and locust once."""
    duration_s = 2.0 if bench.quick else 5.0
    wrk = next((peer for peer in bench.peers("burst") if peer.name == "wrk"), None)
    rates: dict[str, list[float]] = {}
    tails: dict[str, list[float]] = {}
    ratios = []
    with tempfile.TemporaryDirectory() as folder, tools.mlserver(Path(folder)) as url:

        def once(tool: tools.Tool) -> float | None:
            outcome = bench.attempt(tool, "burst", tools.Job(url, bench.body, 16, duration_s))
            if outcome is None:
                return None
            rates.setdefault(tool.name, []).append(outcome.rate)
            if outcome.p99_s is not None:
                tails.setdefault(tool.name, []).append(outcome.p99_s * 1e3)
            return outcome.rate

        once(tools.OURS)  # warm-up: the server's, above all
        rates.clear()
        tails.clear()
        for _ in range(1 if bench.quick else 3):
            got = [once(tool) for tool in (tools.OURS, wrk, wrk, tools.OURS) if tool]
            if len(got) == 4 and all(got):
                ratios.append((got[0] + got[3]) / (got[1] + got[2]))  # type: ignore[operator]
        for peer in bench.peers("burst"):
            if peer.name in ("oha", "locust", "requests + threads"):
                once(peer)
    ours = statistics.median(rates[tools.OURS.name])
    ratio = statistics.median(ratios) if ratios else None
    said = (
        f"Ours / wrk per round: {spread(ratios)}: goal {'met' if ratio >= 0.95 else 'missed'}."
        if ratio is not None
        else "wrk is not installed: the goal cannot be judged."
    )
    return Table(
        ["tool", "requests/s", "ours / it", "p99, ms"],
        [
            [name, spread(got), ours / statistics.median(got), spread(tails.get(name, []))]
            for name, got in sorted(rates.items(), key=lambda item: -statistics.median(item[1]))
        ],
        said,
        ["The server is the limit here: what differs is what a client takes from its machine."],
    )
