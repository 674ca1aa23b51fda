"""Row 6: how old the newest point of the live charts is, and what each refresh takes."""

from __future__ import annotations

import live
import tools
from run import Bench, Table, spread

TITLE = "live freshness: a load test's page in Chromium, in minute 1 and in minute 10"
GOAL = (
    "newest point at most 1.5 s old when it is painted (19 of 20), at most 100 kB a refresh, "
    "script at most 50 ms, both the same in minute 10 as in minute 1"
)
PEERS = (
    "Peers by their documentation: locust's table every 2 s, its charts every 5 s; k6's dashboard "
    "every 10 s."
)
AGE = (
    "Age: from the end of the second that a point stands for to the browser's frame that has it. "
    "The page looks once a second, so up to a second of it is waiting."
)


def run(bench: Bench) -> Table:
    """A real load of a few hundred requests a second, after 30 and after 600 recorded seconds."""
    if why := live.why_not():
        return Table(["minute"], [], f"Not measured: {why}.")
    duration_s = 12.0 if bench.quick else 25.0
    lines = []
    with tools.truth_server() as url:
        tools.begin(url, kind="log-normal", median_s=0.005, sigma=0.5, seed=1)
        ticks = live.recorded(live.load_of(url, bench.body, 300, 5.0))
        seen = {
            minute: live.watched(
                live.load_of(url, bench.body, 300, duration_s), before=before, ticks=ticks
            )
            for minute, before in ((1, 30), (10, 600))
        }
    for minute, one in seen.items():
        lines.append(
            [
                minute,
                spread(one.ages_s),
                spread([size / 1e3 for size in one.refresh_bytes]),
                spread([took * 1e3 for took in one.scripts_s]),
                spread([took * 1e3 for took in one.script_cpus_s]),
            ]
        )
    last = seen[10]
    if not last.ages_s or not last.scripts_s:
        return Table(["minute"], [], "Nothing was painted: the goal cannot be judged.")
    met = (
        live.high(last.ages_s) <= 1.5
        and live.middle(last.refresh_bytes) <= 100e3
        and live.middle(last.scripts_s) <= 0.05
    )
    slower = live.middle(last.script_cpus_s) / live.middle(seen[1].script_cpus_s)
    return Table(
        ["minute", "newest point, s old", "kB a refresh", "script, ms", "its CPU, ms"],
        lines,
        f"In minute 10: newest point {live.high(last.ages_s):.2f} s old (19 of 20), "
        f"{live.middle(last.refresh_bytes) / 1e3:.0f} kB; goal {'met' if met else 'missed'}. "
        f"The script's CPU in minute 10 / in minute 1: {slower:.2f}.",
        [
            PEERS,
            AGE,
        ],
    )
