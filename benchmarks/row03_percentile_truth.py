"""Row 3: whether percentiles are true, with log-normal service times."""

from __future__ import annotations

import statistics

import tools
from run import Bench, Table, spread

TITLE = "percentile truth: log-normal service times, median 5 ms, 500 requests/s"
GOAL = "error at p50 at most 1 %, at p99 2 %, at p99.9 5 %, and no peer better"
UNSEEN = (
    "The server's log knows nothing of the way between both: some 50 to 100 µs, which is 1 to 2 % "
    "of the median, are in every tool's figure."
)
LIMITS = {500: 1.0, 990: 2.0, 999: 5.0}


def run(bench: Bench) -> Table:
    """The truth is what the server did in that very run: arrival to answer, from its log."""
    duration_s = 10.0 if bench.quick else 30.0
    seeds = range(1, 2 if bench.quick else 6)
    lines = []
    medians: dict[str, dict[int, float]] = {}
    with tools.server("truth_server") as url:
        for tool in (tools.OURS, *bench.peers("steady")):
            errors: dict[int, list[float]] = {500: [], 990: [], 999: []}
            chosen = seeds if tool is tools.OURS else list(seeds)[:1]
            for seed in chosen:
                tools.begin(url, kind="log-normal", median_s=0.005, sigma=0.5, seed=seed)
                job = tools.Job(url, bench.body, 64, duration_s, 500)
                outcome = bench.attempt(tool, "steady", job)
                if outcome is None:
                    continue
                took = sorted((done - arrived) / 1e9 for arrived, done in tools.log_of(url))
                for per_mille, value in (
                    (500, outcome.p50_s),
                    (990, outcome.p99_s),
                    (999, outcome.p99_9_s),
                ):
                    true = tools.quantile(took, per_mille)
                    if value is not None and true:
                        errors[per_mille].append((value / true - 1) * 100)
            lines.append([tool.name, *(spread(errors[at]) for at in (500, 990, 999))])
            medians[tool.name] = {
                at: statistics.median(abs(e) for e in values)
                for at, values in errors.items()
                if values
            }
    ours = medians.get(tools.OURS.name, {})
    met = all(ours.get(at, 0.0) <= limit for at, limit in LIMITS.items()) and ours
    return Table(
        ["tool", "error at p50, %", "at p99, %", "at p99.9, %"],
        lines,
        f"Goal {'met' if met else 'missed'}.",
        [UNSEEN],
    )
