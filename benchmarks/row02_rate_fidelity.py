"""Row 2: whether requests leave when they should, seen from the server."""

from __future__ import annotations

import statistics

import tools
from run import Bench, Table, spread

TITLE = "rate fidelity at half of the peak"
SEEN_FROM = (
    "Lateness by the truth server's arrival log, against a schedule through the earliest arrival: "
    "it contains the way to the server and the server's own queue."
)
GOAL = "achieved / target 0.999–1.001; p99 lateness at most 1 ms, and at most vegeta's"


def lateness(arrivals_ns: list[int], rate: float) -> list[float]:
    """How late each arrival was, in seconds, ascending: against a schedule through the earliest.

    The constant way to the server cancels out; the first tenth is left out, where tools start up.
    """
    kept = arrivals_ns[len(arrivals_ns) // 10 :]
    off = [at / 1e9 - number / rate for number, at in enumerate(kept)]
    earliest = min(off)
    return sorted(value - earliest for value in off)


def run(bench: Bench) -> Table:
    duration_s = 3.0 if bench.quick else 10.0
    rounds = 1 if bench.quick else 5
    connections = 32
    with tools.server("null_server") as url:
        job = tools.Job(url, bench.body, 16, 2.0 if bench.quick else 5.0)
        peak = statistics.median(
            outcome.rate for _ in range(3) if (outcome := bench.attempt(tools.OURS, "burst", job))
        )
    half = round(peak / 2, -2)
    lines, notes = [], []
    verdict = ""
    with tools.server("truth_server") as url:
        for tool in (tools.OURS, *bench.peers("steady")):
            achieved, late99, late50, said, limited = [], [], [], [], 0
            for _ in range(rounds if tool is tools.OURS else min(rounds, 2)):
                tools.begin(url, kind="constant", median_s=0.0)
                job = tools.Job(url, bench.body, connections, duration_s, half)
                outcome = bench.attempt(tool, "steady", job)
                arrivals = [arrival for arrival, _ in tools.log_of(url)]
                if outcome is None or len(arrivals) < half:
                    continue
                span_s = (arrivals[-1] - arrivals[0]) / 1e9
                achieved.append((len(arrivals) - 1) / span_s / half)
                late = lateness(arrivals, half)
                late99.append((tools.quantile(late, 990) or 0.0) * 1e3)
                late50.append((tools.quantile(late, 500) or 0.0) * 1e3)
                limited += outcome.client_limited
                own = outcome.extra.get("lateness_p99_s")
                if isinstance(own, float):
                    said.append(own * 1e3)
            lines.append(
                [tool.name, spread(achieved), spread(late50), spread(late99), spread(said)]
            )
            if tool is tools.OURS and achieved:
                met = (
                    0.999 <= statistics.median(achieved) <= 1.001
                    and statistics.median(late99) <= 1.0
                )
                verdict = f"At {half:,.0f} requests/s: goal {'met' if met else 'missed'}."
                if limited:
                    notes.append(f"Of ours, {limited} of {rounds} runs called themselves limited.")
    return Table(
        ["tool", "achieved / target", "p50 late, ms", "p99 late, ms", "says of itself, ms"],
        lines,
        verdict,
        [*notes, SEEN_FROM],
    )
