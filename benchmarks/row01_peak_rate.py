"""Row 1: how many requests a second, on one core, from 16 connections."""

from __future__ import annotations

import statistics

import tools
from run import Bench, Table, spread

TITLE = "peak rate, 16 connections, 500-byte body, null server"
GOAL = "at least 0.9 of wrk; 3 × locust; 10 × requests; at most 1/8 of requests' CPU per request"


def run(bench: Bench) -> Table:
    """Rounds of ours-wrk-wrk-ours (ABBA), then the other peers once or twice."""
    duration_s = 2.0 if bench.quick else 6.0
    rounds = bench.runs(5, 3)
    rates: dict[str, list[float]] = {}
    costs: dict[str, list[float]] = {}
    ratios = []
    alone: list[float] = []

    def once(tool: tools.Tool) -> float | None:
        job = tools.Job(url, bench.body, 16, duration_s)
        outcome = bench.attempt(tool, "burst", job)
        if outcome is None:
            return None
        rates.setdefault(tool.name, []).append(outcome.rate)
        if isinstance(engine_us := outcome.extra.get("engine_us"), float):
            alone.append(engine_us)
        if outcome.cpu_us is not None:
            costs.setdefault(tool.name, []).append(outcome.cpu_us)
        return outcome.rate

    with tools.quick_server() as url:
        peers = bench.peers("burst")
        wrk = next((peer for peer in peers if peer.name == "wrk"), None)
        once(tools.OURS)  # warm-up: files into the cache
        rates.clear()
        costs.clear()
        alone.clear()
        for _ in range(rounds):
            order = [tools.OURS, wrk, wrk, tools.OURS] if wrk else [tools.OURS]
            got = [once(tool) for tool in order if tool]
            if wrk and all(got):
                ratios.append((got[0] + got[3]) / (got[1] + got[2]))  # type: ignore[operator]
        others = [peer for peer in peers if peer is not wrk]
        for peer in others * bench.runs(2, 1):
            once(peer)
    ours = statistics.median(rates[tools.OURS.name])
    notes = [
        tools.server_note(),
        "Server and client have a core each; ours contains starting Python and the pipe.",
        "At its peak the engine calls itself client-limited, which is what this row measures.",
    ]
    if alone and "wrk" in costs:
        notes.insert(0, _engine_note(alone, costs["wrk"]))
    lines = [
        [name, spread(got), ours / statistics.median(got), spread(costs.get(name, []))]
        for name, got in sorted(rates.items(), key=lambda item: -statistics.median(item[1]))
    ]
    ratio = statistics.median(ratios) if ratios else None
    said = (
        f"Ours / wrk per round: {spread(ratios)}: goal {'met' if ratio >= 0.9 else 'missed'}."
        if ratio is not None
        else "wrk is not installed: the goal cannot be judged."
    )
    return Table(
        ["tool", "requests/s", "ours / it", "CPU µs per request"],
        lines,
        said,
        notes,
    )


def _engine_note(alone: list[float], wrk: list[float]) -> str:
    ratio = statistics.median(alone) / statistics.median(wrk)
    return (
        f"The engine alone, once it runs: {spread(alone)} CPU µs per request, {ratio:.2f} of "
        "wrk's; unlike the rates this hardly changes with what else the machine does."
    )
