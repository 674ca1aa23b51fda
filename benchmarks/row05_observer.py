"""Row 5: what looking costs: a load test with its page open in a browser, and without."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import live
import tools
from run import Bench, Table, spread

TITLE = "observer effect: log-normal 5 ms, 500 requests/s, the live page open in Chromium / not"
GOAL = "p99 with the page / without at most 1.05; rate at least 0.99"
RATE = 500.0


def run(bench: Bench) -> Table:
    """Rounds of without-with-with-without (ABBA); then the peers that have a page, once each."""
    if why := live.why_not():
        return Table(["tool"], [], f"Not measured: {why}.")
    duration_s = 6.0 if bench.quick else 15.0
    lines: list[list[object]] = []
    goals = []
    with tools.truth_server() as url:
        # The page is opened, and its charts are there, before what is measured begins.
        load = live.load_of(url, bench.body, RATE, duration_s, warm_up_s=8.0)
        ticks = live.recorded(live.load_of(url, bench.body, RATE, 4.0))

        def once(*, looking: bool, command: Sequence[str]) -> dict[str, Any]:
            tools.begin(url, kind="log-normal", median_s=0.005, sigma=0.5, seed=1)
            if looking:
                summary = live.watched(load, before=10, ticks=ticks, command=command).summary
            else:
                summary = live.alone(load, before=command)
            p99 = summary["response"]["p99"] or 0.0
            bench.say(f"slipway {'watched' if looking else 'alone'}: p99 {p99 * 1e3:.2f} ms")
            return summary

        for name, command in accounts():
            tails: list[float] = []
            served: list[float] = []
            rates: list[float] = []
            for _ in range(bench.runs(3, 1)):
                got = [once(looking=look, command=command) for look in (False, True, True, False)]
                if all(one["response"]["p99"] for one in got):
                    tails.append(looked_at([one["response"]["p99"] for one in got]))
                    served.append(looked_at([one["service"]["p99"] for one in got]))
                    rates.append(looked_at([one["rate"] for one in got]))
            lines.append([name, spread(tails), spread(served), spread(rates)])
            good = tails and statistics.median(tails) <= 1.05 and statistics.median(rates) >= 0.99
            goals.append(f"{name}: goal {'met' if good else 'missed'}.")
        lines += [
            _peer(bench, peer, url, duration_s)
            for peer in bench.peers("steady")
            if peer.name in ("k6", "locust")
        ]
    return Table(
        [
            "tool",
            "p99 from the intended send, page / no page",
            "p99 from the send",
            "rate",
        ],
        lines,
        " ".join(goals).capitalize(),
        [
            "Peers' pages are opened as their tests begin; ours 8 s before what is measured.",
            "Peers time an answer from its send: what holds a send up is in none of their figures.",
            "Page, browser and engine may use both cores; the server has the first for itself too.",
        ],
    )


def looked_at(figures: Sequence[float]) -> float:
    """Page / no page of one round without-with-with-without."""
    before, first, second, after = figures
    return (first + second) / (before + after)


def accounts() -> list[tuple[str, Sequence[str]]]:
    """Ours as who runs this, and as somebody whose sends go before nothing else."""
    ours: list[tuple[str, Sequence[str]]] = [("slipway", ())]
    if go_first_is_possible() and shutil.which(live.ORDINARY[0]):
        ours.append(("slipway without real-time priority", live.ORDINARY))
    return ours


def go_first_is_possible() -> bool:
    """Whether this account gets real-time priority."""
    asks = "import os; os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))"
    command = [sys.executable, "-c", asks]
    return not subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode


def _peer(bench: Bench, peer: tools.Tool, url: str, duration_s: float) -> list[object]:
    outcomes = []
    for port in (None, tools.free_port()):
        tools.begin(url, kind="log-normal", median_s=0.005, sigma=0.5, seed=1)
        job = tools.Job(url, bench.body, 16, duration_s, RATE, port, pinned=False)
        if port is None:
            outcomes.append(bench.attempt(peer, "steady", job))
        else:
            with live.visitor(port, duration_s):
                outcomes.append(bench.attempt(peer, "steady", job))
    alone, seen = outcomes
    if alone is None or seen is None or not alone.p99_s or not seen.p99_s:
        return [peer.name, None, None, None]
    return [peer.name, None, seen.p99_s / alone.p99_s, seen.rate / alone.rate]
