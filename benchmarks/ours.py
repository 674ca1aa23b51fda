"""One load test by Slipway's own engine, as JSON: so that it is measured like any other tool."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from services import records
from services.domain import (
    Endpoint,
    InferRequest,
    Load,
    LoadMode,
    LoadSummary,
    Protocol,
    WayIn,
)
from services.engine.run import ProcessEngine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("path")
    parser.add_argument("body", type=Path)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--duration", type=float, default=10.0)
    parser.add_argument("--max-requests", type=int, default=100_000_000)
    parser.add_argument("--timeout", type=float, default=10.0)
    parser.add_argument("--memory", action="store_true", help="the engine's size over time, too")
    options = parser.parse_args()
    load = Load(
        Endpoint(options.url, "bench", WayIn.LOOPBACK),
        (InferRequest(Protocol.V2, options.path, options.body.read_bytes()),),
        LoadMode.STEADY_RATE if options.rate else LoadMode.BURST,
        options.duration,
        rate=options.rate,
        concurrency=options.concurrency,
        max_requests=options.max_requests,
        timeout_s=options.timeout,
    )
    run = ProcessEngine().run(load)
    memory, answered = [], 0
    spent: list[tuple[int, float]] = []
    for item in run:
        if isinstance(item, LoadSummary):
            told = json.loads(records.dump(item))
            told.pop("histogram")
            told.pop("response_blocks")
            json.dump({**told, "memory": memory, "engine_us": _per_request(spent)}, sys.stdout)
        elif not item.final:
            answered += item.ok
            spent.append((answered, _cpu_us(run.pid)))
            if options.memory:
                memory.append((answered, _resident_bytes(run.pid), _resident_bytes("self")))


def _per_request(spent: list[tuple[int, float]]) -> float | None:
    """The engine's CPU µs for a request, from its first second to its last: nothing of starting."""
    if len(spent) < 2 or spent[-1][0] == spent[0][0]:
        return None
    return (spent[-1][1] - spent[0][1]) / (spent[-1][0] - spent[0][0])


def _cpu_us(pid: int) -> float:
    # Documentation/scheduler/sched-stats.rst: on the CPU (ns), waiting for it, slices.
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e3


def _resident_bytes(pid: int | str) -> int:
    with Path(f"/proc/{pid}/statm").open() as statm:
        return int(statm.read().split()[1]) * 4096


if __name__ == "__main__":
    main()
