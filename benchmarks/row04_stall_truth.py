"""Row 4: whether a stall shows: coordinated omission."""

from __future__ import annotations

import statistics

import tools
import truth
from run import Bench, Table, spread

TITLE = "stall truth: 200 ms stall every 2 s, 500 requests/s, 8 connections"
GOAL = "reported p99 / true p99 = 0.98–1.02"


def run(bench: Bench) -> Table:
    duration_s = 6.0 if bench.quick else 12.0
    rounds = 1 if bench.quick else 3
    exact = truth.response_times(
        rate=500, duration_s=duration_s, connections=8, answered_at=truth.stalls()
    )
    true99 = tools.quantile(exact, 990)
    assert true99 is not None
    ratios: dict[str, list[float]] = {}
    service = []
    with tools.truth_server() as url:
        wrk = [peer for peer in tools.PEERS if peer.name == "wrk" and peer.installed]
        for tool, kind in [
            (tools.OURS, "steady"),
            *((peer, "burst") for peer in wrk),
            *((peer, "steady") for peer in bench.peers("steady")),
        ]:
            for _ in range(rounds if tool is tools.OURS else min(rounds, 2)):
                tools.begin(url, kind="stall", stall_s=0.2, every_s=2.0)
                rate = 500 if kind == "steady" else None
                outcome = bench.attempt(tool, kind, tools.Job(url, bench.body, 8, duration_s, rate))
                if outcome is None or outcome.p99_s is None:
                    continue
                ratios.setdefault(tool.name, []).append(outcome.p99_s / true99)
                if tool is tools.OURS:
                    told = outcome.extra["service"]
                    assert isinstance(told, dict)
                    service.append((told["p99"] or 0.0) * 1e3)
    ours = statistics.median(ratios[tools.OURS.name])
    spans = {tool.name: tool.spans for tool in (tools.OURS, *tools.PEERS)}
    return Table(
        ["tool", "reported p99 / true p99", "what it times"],
        [[name, spread(got), spans[name]] for name, got in ratios.items()],
        f"True p99: {true99 * 1e3:.1f} ms. Goal {'met' if 0.98 <= ours <= 1.02 else 'missed'}.",
        [f"Ours shows the service time apart: p99 {spread(service)} ms."],
    )
