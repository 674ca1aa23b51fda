"""Row 3: whether percentiles are true, with log-normal service times."""

from __future__ import annotations

import statistics

import tools
from run import Bench, Table, spread

TITLE = "percentile truth: log-normal service times, median 5 ms, 500 requests/s for 60 s"
GOAL = "error at p50 at most 1 %, at p99 2 %, at p99.9 5 %, and no peer better"
UNSEEN = (
    "The server's log knows nothing of the way between both: a client that does nothing but wait "
    "on one socket sees {us:.0f} µs more than the log, {p50:.1f} % of the median, most of it an "
    "idle core's waking. Ours pays {own:.1f} %, because it takes the kernel's stamp of an answer."
)
MEDIAN_S = 0.005
LIMITS = {500: 1.0, 990: 2.0, 999: 5.0}
OURS_S, PEERS_S, QUICK_S = 60.0, 30.0, 10.0
HOW_LONG = (
    f"Ours {OURS_S:.0f} s a seed, peers {PEERS_S:.0f} s, one tool after another: each is held "
    "against what the server did in that very run."
)


def unseen(way_s: float, error_percent: float) -> str:
    """What of an error at p50 is the way to the server and back."""
    return UNSEEN.format(us=way_s * 1e6, p50=way_s / MEDIAN_S * 100, own=error_percent)


def run(bench: Bench) -> Table:
    """The truth is what the server did in that very run: arrival to answer, from its log."""
    lines = []
    medians: dict[str, dict[int, float]] = {}
    ours_p50 = 0.0
    with tools.truth_server() as url:
        ways = [tools.way_s(url, bench.body)]
        for tool in (tools.OURS, *bench.peers("steady")):
            errors: dict[int, list[float]] = {500: [], 990: [], 999: []}
            ours = tool is tools.OURS
            duration_s = QUICK_S if bench.quick else OURS_S if ours else PEERS_S
            for seed in range(1, 1 + (bench.runs(5, 3) if ours else bench.runs(2, 1))):
                tools.begin(url, kind="log-normal", median_s=MEDIAN_S, sigma=0.5, seed=seed)
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
            ways.append(tools.way_s(url, bench.body))
            lines.append([tool.name, *(spread(errors[at]) for at in (500, 990, 999))])
            if ours:
                ours_p50 = statistics.median(errors[500])
            medians[tool.name] = {
                at: statistics.median(abs(e) for e in values)
                for at, values in errors.items()
                if values
            }
    peers = {name: errors for name, errors in medians.items() if name != tools.OURS.name}
    mine = medians[tools.OURS.name]
    better = [
        f"{name} at p{at / 10:g}"
        for name, errors in peers.items()
        for at in LIMITS
        if at in errors and at in mine and errors[at] < mine[at]
    ]
    met = not better and all(at in mine and mine[at] <= limit for at, limit in LIMITS.items())
    return Table(
        ["tool", "error at p50, %", "at p99, %", "at p99.9, %"],
        lines,
        f"Goal {'met' if met else 'missed'}. Nearer to the truth than ours: "
        f"{', '.join(better) or 'none'}.",
        [unseen(statistics.median(ways), ours_p50), HOW_LONG],
    )
