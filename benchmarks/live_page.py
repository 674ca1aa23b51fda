"""The Predict page's live panel alone, over a load test that begins with the first visitor.

`live.py` serves it and looks at it in a browser; what to send and where to write comes as JSON in
BENCH_LIVE. Real ticks may be put before those of the load, so that minute 10 need not be
waited for. Each tick and each drawing of the panel leaves a line in a log.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import streamlit as st

from dashboard import trial, wiring
from services import records
from services.domain import Load, LoadSummary, Tick
from services.engine.run import LoadRun, ProcessEngine
from services.ports import Run


def note(**what: object) -> None:
    """A line in the log, with the time of day."""
    with Path(asked["log"]).open("a") as log:
        log.write(json.dumps({"wall": time.time(), **what}) + "\n")


class Longer:
    """A real load test with recorded ticks before it."""

    def __init__(self, run: LoadRun, before: list[Tick]) -> None:
        self.run = run
        self.stop, self.close = run.stop, run.close
        self.parts = self.told(before)

    def told(self, before: list[Tick]) -> Iterator[Tick | LoadSummary]:
        yield from before
        for part in self.run:
            if isinstance(part, Tick) and not part.warm_up:
                note(tick=part.at_s + len(before), engine=self.run.pid)
                yield dataclasses.replace(part, at_s=part.at_s + len(before))
            elif isinstance(part, LoadSummary):
                note(summary=json.loads(records.dump(part)))
                yield part

    def __iter__(self) -> Longer:
        return self

    def __next__(self) -> Tick | LoadSummary:
        return next(self.parts)


class LongerEngine:
    """The engine, as if it had been running for a while."""

    def run(self, load: Load) -> Longer:
        recorded = [
            records.load(Tick, line) for line in Path(asked["ticks"]).read_text().splitlines()
        ]
        before = [
            dataclasses.replace(recorded[at % len(recorded)], at_s=at + 1.0, final=False)
            for at in range(asked["before"])
        ]
        return Longer(ProcessEngine().run(load), before)


class NoStore:
    """Keeps nothing: what is measured is the panel."""

    def save_run(self, _run: Run) -> int:
        return 1


@st.cache_resource
def begun() -> str:
    """The load test's id; it begins with the first visitor."""
    load = records.load(Load, asked["load"])
    ours: Any = NoStore()

    def run(summary: LoadSummary) -> Run:
        return Run(None, "", "", "", "", "", "bench", None, "", "{}", summary, ())

    return wiring.load_tests().start(
        LongerEngine(), ours, load, run, service="bench", label="a load test"
    )


def panel(test_id: str) -> None:
    """The panel, timed; the last drawing ends in a rerun and is not."""
    began, computed = time.perf_counter(), time.thread_time()
    trial.live_panel(test_id)
    took, cpu = time.perf_counter() - began, time.thread_time() - computed
    note(script_s=took, cpu_s=cpu, resident=int(Path("/proc/self/statm").read_text().split()[1]))


asked: dict[str, Any] = json.loads(os.environ["BENCH_LIVE"])
st.set_page_config(layout="wide")
st.fragment(panel, run_every=asked["every_s"] or trial.LOOK_EVERY_S)(begun())
