"""Load tests that go on when the tab is closed: one thread reads each, and never calls `st.*`.

The engine is a process of its own; here its ticks are only kept for whoever looks. A finished run
is saved to the store, so that it can be laid over another one tomorrow.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from dashboard.worker import told_error
from services.domain import Load, LoadSummary, Objective, Percentiles, Tick, WayIn
from services.errors import Conflict, SlipwayError
from services.ports import LoadEngine, Run, RunningLoad, Store

_TESTS_KEPT = 20
"""Load tests remembered by this process; their results are in the store."""
_AT_ONCE = 2
"""More load tests at once would measure each other."""
_TICKS_KEPT = 3_600
"""An hour at one a second: the longest load that the engine takes."""


@dataclass(frozen=True, slots=True)
class LoadTest:
    """One load test as a page sees it."""

    id: str
    service: str
    label: str
    """The version and what was asked, in words: `wine/3, 50 per second for 30 s`."""
    duration_s: float
    started_at: datetime
    via: WayIn
    """The hop that is measured."""
    objective: Objective
    ticks: tuple[Tick, ...] = ()
    """Without what they tell of the run so far, which is the newest one's below."""
    histogram: tuple[tuple[float, int], ...] = ()
    so_far: Percentiles | None = None
    summary: LoadSummary | None = None
    error: SlipwayError | None = None
    run_id: int | None = None
    running: bool = True
    stop_asked_at: datetime | None = None
    began_at: datetime | None = None
    """When its second 0 was: after the warm-up; None before the first second was measured."""


class LoadTests:
    """Starts, watches and stops load tests; the same for every tab."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._one_ended = threading.Condition(self._lock)
        self._tests: OrderedDict[str, LoadTest] = OrderedDict()
        self._loads: dict[str, RunningLoad] = {}

    def start(
        self,
        engine: LoadEngine,
        store: Store,
        load: Load,
        run: Callable[[LoadSummary], Run],
        *,
        service: str,
        label: str,
    ) -> str:
        """Begin `load` and give its id; `run` makes the stored record from the summary.

        Refused loads (ConfigError, Unreachable) are raised here, before anything is sent; Conflict
        when this service is under load already.
        """
        under_way = self.under_way()
        if any(test.service == service for test in under_way) or len(under_way) >= _AT_ONCE:
            whose = service if service in {test.service for test in under_way} else "other services"
            raise Conflict(
                f"A load test of {whose} is under way.",
                why="Several at once would measure each other.",
                fix="Wait for it, or stop it.",
            )
        running = engine.run(load)
        test = LoadTest(
            secrets.token_hex(6),
            service,
            label,
            load.duration_s,
            datetime.now(UTC),
            load.endpoint.via,
            load.objective,
        )
        with self._lock:
            self._tests[test.id] = test
            self._loads[test.id] = running
            while len(self._tests) > _TESTS_KEPT:
                self._tests.popitem(last=False)
        # A daemon: a dashboard that is told to end does not wait for an hour's load. The engine
        # ends with it.
        threading.Thread(
            target=self._read,
            args=(test.id, running, store, run),
            name="slipway-load",
            daemon=True,
        ).start()
        return test.id

    def test(self, test_id: str) -> LoadTest | None:
        """One load test, or None when this process does not know it (any more)."""
        with self._lock:
            return self._tests.get(test_id)

    def running_on(self, service: str) -> LoadTest | None:
        """The load test under way on a service, or None."""
        return next((test for test in self.under_way() if test.service == service), None)

    def under_way(self) -> list[LoadTest]:
        """Every load test that runs now."""
        with self._lock:
            return [test for test in self._tests.values() if test.running]

    def stop(self, test_id: str) -> None:
        """End it within a second; what was measured is summed up and kept."""
        with self._lock:
            running = self._loads.get(test_id)
            test = self._tests.get(test_id)
            if running is not None and test is not None and test.stop_asked_at is None:
                self._tests[test_id] = replace(test, stop_asked_at=datetime.now(UTC))
        if running is not None:
            running.stop()

    def ended(self, test_id: str, within_s: float) -> LoadTest | None:
        """The same as `test`, as soon as it has ended, else as it is after `within_s`."""
        with self._one_ended:
            self._one_ended.wait_for(
                lambda: test_id not in self._tests or not self._tests[test_id].running, within_s
            )
            return self._tests.get(test_id)

    def _read(
        self, test_id: str, running: RunningLoad, store: Store, run: Callable[[LoadSummary], Run]
    ) -> None:
        with ExitStack() as ending:
            ending.push(lambda _kind, error, _trace: self._ended(test_id, running, error))
            for piece in running:
                if isinstance(piece, Tick):
                    self._note(test_id, tick=piece)
                else:
                    self._note(test_id, summary=piece)
                    self._save(test_id, store, run(piece))

    def _ended(self, test_id: str, running: RunningLoad, error: BaseException | None) -> bool:
        """Whatever ended the reading is told to who looks; True: and to nobody else."""
        running.close()
        self._note(test_id, error=told_error(error) if error else None, ended=True)
        return True

    def _save(self, test_id: str, store: Store, run: Run) -> None:
        test = self.test(test_id)
        ticks = test.ticks if test else ()
        if test and test.stop_asked_at is not None:
            asked = {"stop_asked_at": test.stop_asked_at.isoformat()}
            run = replace(run, settings=json.dumps(json.loads(run.settings) | asked))
        run_id = store.save_run(replace(run, ticks=ticks))
        self._note(test_id, run_id=run_id)

    def _note(
        self,
        test_id: str,
        *,
        tick: Tick | None = None,
        summary: LoadSummary | None = None,
        error: SlipwayError | None = None,
        run_id: int | None = None,
        ended: bool = False,
    ) -> None:
        with self._lock:
            test = self._tests.get(test_id)
            if test is None:
                return
            began_at = test.began_at
            if summary is not None:
                began_at = summary.began_at or began_at
            elif began_at is None and tick is not None and not tick.warm_up:
                began_at = datetime.now(UTC) - timedelta(seconds=tick.at_s)
            self._tests[test_id] = replace(
                test,
                began_at=began_at,
                ticks=(*test.ticks, replace(tick, histogram=(), so_far=None))[-_TICKS_KEPT:]
                if tick
                else test.ticks,
                histogram=tick.histogram if tick else test.histogram,
                so_far=(tick.so_far if tick else None) or test.so_far,
                summary=summary or test.summary,
                error=error or test.error,
                run_id=run_id if run_id is not None else test.run_id,
                running=test.running and not ended,
            )
            if ended:
                self._loads.pop(test_id, None)
                self._one_ended.notify_all()
