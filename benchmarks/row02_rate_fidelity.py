"""Row 2: whether requests leave when they should, seen from the server's kernel."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

import tools
from run import Bench, Table, spread

TITLE = "rate fidelity at half of the peak, and at a rate that every tool can hold"
SEEN_FROM = (
    "Lateness: when the server's kernel had the request, which on loopback is within the tool's "
    "own system call, against a schedule through the earliest; the server's queue is not in it. "
    "A dash: the tool failed, or sent less than a second's worth."
)
GOAL = "achieved / target 0.999–1.001; p99 lateness at most 1 ms, and at most vegeta's"
HELD_BY_ALL = 2_000
CONNECTIONS = 256
"""Enough for what is due while the server's core stands still for some milliseconds: with 32 at
66,700/s, half a millisecond of it held every tool's sends up, ours 13 ms at p99 instead of 2."""


def lateness(arrivals_ns: list[int], rate: float) -> list[float]:
    """How late each arrival was, in seconds, ascending: against a schedule through the earliest.

    The constant way to the server cancels out; the first tenth is left out, where tools start up.
    """
    kept = arrivals_ns[len(arrivals_ns) // 10 :]
    off = [at / 1e9 - number / rate for number, at in enumerate(kept)]
    earliest = min(off)
    return sorted(value - earliest for value in off)


@dataclass
class Kept:
    """How a tool kept one rate, over its runs; times in ms."""

    achieved: list[float] = field(default_factory=list)
    late50: list[float] = field(default_factory=list)
    late99: list[float] = field(default_factory=list)
    says99: list[float] = field(default_factory=list)
    limited: int = 0

    def add(self, outcome: tools.Outcome, arrivals: list[int], rate: float) -> None:
        late = lateness(arrivals, rate)
        span_s = (arrivals[-1] - arrivals[0]) / 1e9
        self.achieved.append((len(arrivals) - 1) / span_s / rate)
        self.late50.append((tools.quantile(late, 500) or 0.0) * 1e3)
        self.late99.append((tools.quantile(late, 990) or 0.0) * 1e3)
        self.limited += outcome.client_limited
        own = outcome.extra.get("lateness_p99_s")
        if isinstance(own, float):
            self.says99.append(own * 1e3)


def run(bench: Bench) -> Table:
    duration_s = 3.0 if bench.quick else 10.0
    with tools.quick_server() as url:
        job = tools.Job(url, bench.body, 16, 2.0 if bench.quick else 5.0)
        peak = statistics.median(
            outcome.rate for _ in range(3) if (outcome := bench.attempt(tools.OURS, "burst", job))
        )
    half = round(peak / 2, -2)
    lines, notes, verdicts = [], [], []
    with tools.truth_server() as url:
        for rate in (half, HELD_BY_ALL):
            job = tools.Job(url, bench.body, CONNECTIONS, duration_s, rate)
            kept = {tool.name: measured(bench, tool, job) for tool in with_a_rate(bench)}
            for name, one in kept.items():
                figures = (one.achieved, one.late50, one.late99, one.says99)
                lines.append([f"{rate:,.0f}", name, *map(spread, figures)])
            verdicts.append(judged(rate, kept))
            if limited := kept[tools.OURS.name].limited:
                runs = len(kept[tools.OURS.name].achieved)
                notes.append(
                    f"At {rate:,.0f}/s {limited} of {runs} of our runs say client-limited."
                )
    return Table(
        ["asked", "tool", "achieved / target", "p50 late, ms", "p99 late, ms", "it says, ms"],
        lines,
        " ".join(verdicts),
        [*notes, floor(half, duration_s), SEEN_FROM, tools.server_note()],
    )


def floor(rate: float, duration_s: float) -> str:
    """What this machine lets nobody keep: the lateness of a sender that costs nothing itself."""
    gaps, stolen = tools.standstills(duration_s)
    late = [0.0] * round(rate * duration_s)
    at = 0
    for _, took in gaps:
        for number in range(min(int(took * rate), len(late) - at)):
            late[at] = took - number / rate
            at += 1
    late.sort()
    return (
        f"The machine itself, both cores doing nothing but reading the clock for {duration_s:.0f} "
        f"s: {len(gaps):,} standstills of over 50 µs, the longest "
        f"{max((took for _, took in gaps), default=0) * 1e3:.1f} ms, {stolen:.1%} of the time "
        f"stolen by its host. A sender that costs nothing would be late "
        f"{(tools.quantile(late, 990) or 0) * 1e3:.2f} ms at p99 for that alone."
    )


def with_a_rate(bench: Bench) -> list[tools.Tool]:
    return [tools.OURS, *bench.peers("steady")]


def measured(bench: Bench, tool: tools.Tool, job: tools.Job) -> Kept:
    """Several runs of one tool at one rate."""
    assert job.rate
    kept = Kept()
    rounds = bench.runs(5, 3) if tool is tools.OURS else bench.runs(2, 1)
    for _ in range(rounds):
        tools.begin(job.url)
        outcome = bench.attempt(tool, "steady", job)
        arrivals = [arrival for arrival, _ in tools.log_of(job.url)]
        if outcome is not None and len(arrivals) >= job.rate:
            kept.add(outcome, arrivals, job.rate)
    return kept


def judged(rate: float, kept: dict[str, Kept]) -> str:
    ours, vegeta = kept[tools.OURS.name], kept.get("vegeta")
    if not ours.achieved:
        return f"At {rate:,.0f} requests/s: nothing was measured."
    late_ms = statistics.median(ours.late99)
    beside = statistics.median(vegeta.late99) if vegeta and vegeta.late99 else late_ms
    achieved = statistics.median(ours.achieved)
    met = 0.999 <= achieved <= 1.001 and late_ms <= min(1.0, beside)
    return f"At {rate:,.0f} requests/s: goal {'met' if met else 'missed'}."
