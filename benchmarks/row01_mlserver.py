"""Row 1, second half: the same burst against a real MLServer with a scikit-learn model."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tools
from run import Bench, Table, spread

TITLE = "peak rate against a real MLServer, scikit-learn model of 38 numbers, 16 connections"
GOAL = "at least 0.95 of wrk"
NOTES = (
    "The server is the limit, on one core; its CPU per request hardly changes with other work.",
    "Every tool runs beside ours (ours-it-it-ours): MLServer's own speed drifts while it runs.",
)


@dataclass
class Seen:
    """A tool's runs, and ours beside them."""

    rates: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    server_ms: list[float] = field(default_factory=list)
    """CPU of the server per request."""
    ours_to_it: list[float] = field(default_factory=list)


def run(bench: Bench) -> Table:
    """Rounds of ours-peer-peer-ours (ABBA): three with wrk, one with each other peer."""
    seen: dict[str, Seen] = {}
    with tempfile.TemporaryDirectory() as folder, tools.mlserver(Path(folder)) as (url, server):
        job = tools.Job(url, bench.body, 16, 2.0 if bench.quick else 5.0)

        def once(tool: tools.Tool) -> float | None:
            before_s = tools.cpu_s(server)
            outcome = bench.attempt(tool, "burst", job)
            if outcome is None:
                return None
            answers = outcome.rate * job.duration_s
            it = seen.setdefault(tool.name, Seen())
            it.rates.append(outcome.rate)
            it.server_ms.append((tools.cpu_s(server) - before_s) / answers * 1e3)
            if outcome.p99_s is not None:
                it.p99_ms.append(outcome.p99_s * 1e3)
            return outcome.rate

        once(tools.OURS)  # warm-up: the server's, above all
        seen.clear()
        for peer in beside(bench):
            for _ in range(bench.runs(3, 2) if peer.name == "wrk" else 1):
                ours, first, second, again = map(once, (tools.OURS, peer, peer, tools.OURS))
                if ours and first and second and again:
                    seen[peer.name].ours_to_it.append((ours + again) / (first + second))
    return Table(
        ["tool", "requests/s", "ours / it", "p99, ms", "server's CPU, ms a request"],
        [
            [name, *map(spread, (it.rates, it.ours_to_it, it.p99_ms, it.server_ms))]
            for name, it in sorted(seen.items(), key=lambda item: -statistics.median(item[1].rates))
        ],
        judged(seen.get("wrk", Seen()).ours_to_it),
        NOTES,
    )


def beside(bench: Bench) -> list[tools.Tool]:
    wanted = ("wrk", "oha", "locust", "requests + threads")
    return [peer for peer in bench.peers("burst") if peer.name in wanted]


def judged(ratios: Sequence[float]) -> str:
    if not ratios:
        return "wrk was not measured: the goal cannot be judged."
    met = statistics.median(ratios) >= 0.95
    return f"Ours / wrk per round: {spread(ratios)}: goal {'met' if met else 'missed'}."
