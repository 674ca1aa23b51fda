"""Load tests that go on without the tab that began them, on the ports in memory."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from dashboard.loadtests import LoadTests
from dashboard.report import settings_text
from services.domain import (
    Endpoint,
    InferRequest,
    Load,
    LoadMode,
    LoadSummary,
    Protocol,
    Tick,
    WayIn,
)
from services.errors import Conflict, Unreachable
from services.ports import Run
from tests.memory import MemoryEngine, MemoryLoad, MemoryStore


def a_load(seconds: float = 3.0) -> Load:
    return Load(
        endpoint=Endpoint(
            "http://127.0.0.1:1", "wine", WayIn.LOOPBACK, headers=(("authorization", "secret"),)
        ),
        requests=(InferRequest(Protocol.V2, "/v2/models/wine/infer", b"{}"),),
        mode=LoadMode.STEADY_RATE,
        duration_s=seconds,
        rate=10.0,
    )


def a_run(summary: LoadSummary) -> Run:
    return Run(
        id=None,
        name="wine/1, 10 per second",
        actor="ana",
        created_at="2026-01-05T09:00:00+00:00",
        target="local",
        namespace="",
        service="wine",
        release=1,
        version="wine/1",
        settings="{}",
        summary=summary,
        ticks=(),
    )


class HeldLoad(MemoryLoad):
    """Ticks only when the test lets it."""

    def __init__(self, load: Load, go: threading.Event) -> None:
        super().__init__(load)
        self.go = go

    def __next__(self) -> Tick | LoadSummary:
        self.go.wait(30)
        return super().__next__()


class HeldEngine(MemoryEngine):
    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def run(self, load: Load) -> MemoryLoad:
        return HeldLoad(load, self.go)


def wait_until(done: Callable[[], bool]) -> None:
    for _ in range(600):
        if done():
            return
        time.sleep(0.05)
    pytest.fail("it did not happen within 30 s")


def start(tests: LoadTests, engine: MemoryEngine, store: MemoryStore) -> str:
    return tests.start(engine, store, a_load(), a_run, service="wine", label="wine/1")


def ended(tests: LoadTests, test_id: str) -> bool:
    test = tests.test(test_id)
    return test is not None and not test.running


def test_a_finished_load_test_is_stored_with_its_ticks() -> None:
    tests, store = LoadTests(), MemoryStore()
    test_id = start(tests, MemoryEngine(), store)
    wait_until(lambda: ended(tests, test_id))
    assert [len(run.ticks) for run in store.runs(service="wine").found] == [3]


def test_a_stopped_load_test_keeps_what_was_measured() -> None:
    tests, store, engine = LoadTests(), MemoryStore(), HeldEngine()
    test_id = start(tests, engine, store)
    tests.stop(test_id)
    engine.go.set()
    wait_until(lambda: ended(tests, test_id))
    test = tests.test(test_id)
    assert test is not None
    assert test.summary is not None
    assert test.ticks == ()


def test_one_service_takes_one_load_test_at_a_time() -> None:
    tests, store, engine = LoadTests(), MemoryStore(), HeldEngine()
    test_id = start(tests, engine, store)
    with pytest.raises(Conflict, match="under way"):
        start(tests, engine, store)
    engine.go.set()
    wait_until(lambda: ended(tests, test_id))


def test_the_newest_ticks_histogram_is_kept_and_no_other() -> None:
    class Telling(MemoryLoad):
        def __next__(self) -> Tick | LoadSummary:
            part = super().__next__()
            return replace(part, histogram=((part.at_s, 1),)) if isinstance(part, Tick) else part

    class TellingEngine(MemoryEngine):
        def run(self, load: Load) -> MemoryLoad:
            return Telling(load)

    tests = LoadTests()
    test_id = start(tests, TellingEngine(), MemoryStore())
    wait_until(lambda: ended(tests, test_id))
    test = tests.test(test_id)
    assert test is not None
    assert test.histogram == ((3.0, 1),)
    assert {tick.histogram for tick in test.ticks} == {()}


def test_the_dashboard_ends_without_waiting_for_a_load_test() -> None:
    tests, engine = LoadTests(), HeldEngine()
    test_id = start(tests, engine, MemoryStore())
    [reading] = [one for one in threading.enumerate() if one.name == "slipway-load"]
    assert reading.daemon
    engine.go.set()
    wait_until(lambda: ended(tests, test_id))


def test_more_load_tests_than_can_be_told_apart_are_refused() -> None:
    tests, engine = LoadTests(), HeldEngine()
    for service in ("one", "two"):
        tests.start(engine, MemoryStore(), a_load(), a_run, service=service, label="x")
    with pytest.raises(Conflict, match="of other services is under way"):
        start(tests, engine, MemoryStore())
    engine.go.set()
    wait_until(lambda: not tests.under_way())


def test_a_store_that_fails_is_told_on_the_load_test() -> None:
    class FullStore(MemoryStore):
        def save_run(self, run: Run) -> int:
            raise Unreachable("The store cannot be written.")

    tests = LoadTests()
    test_id = start(tests, MemoryEngine(), FullStore())
    wait_until(lambda: ended(tests, test_id))
    test = tests.test(test_id)
    assert test is not None
    assert test.error is not None
    assert test.summary is not None


def test_stored_settings_hold_no_secret_and_no_body() -> None:
    text = settings_text(a_load())
    assert "secret" not in text
    assert json.loads(text)["requests"] == []
