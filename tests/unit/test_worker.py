"""Long steps: one operation per nonce, lines kept, errors told."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from dashboard.worker import Operation, State, Worker
from services.errors import Conflict
from services.ports import Report


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker()
    yield made
    made.close()


def _start(worker: Worker, nonce: str, job: object) -> bool:
    return worker.start(nonce, job, target="local", service="wine", title="Deploy")  # type: ignore[arg-type]


def _ended(worker: Worker, nonce: str) -> Operation:
    worker.wait(nonce, 20)
    found = worker.of("local", "wine")
    assert found is not None
    return found


def test_one_nonce_is_one_operation(worker: Worker) -> None:
    runs: list[int] = []
    begun = [_start(worker, "a", lambda _report: runs.append(1)) for _ in range(10)]
    _ended(worker, "a")
    assert begun == [True] + [False] * 9
    assert runs == [1]


def test_lines_are_kept_for_whoever_looks(worker: Worker) -> None:
    def job(report: Report) -> None:
        report("copied\x1b[31m a\nfile", 0.5)

    _start(worker, "a", job)
    operation = _ended(worker, "a")
    assert [(line.text, line.ratio) for line in operation.lines] == [("copied [31m a file", 0.5)]
    assert operation.state is State.DONE


def test_an_error_is_kept_and_told(worker: Worker) -> None:
    def job(_report: Report) -> None:
        raise Conflict("It changed.")

    _start(worker, "a", job)
    operation = _ended(worker, "a")
    assert operation.state is State.FAILED
    assert isinstance(operation.error, Conflict)


def test_a_bug_is_told_by_reference(worker: Worker) -> None:
    def job(_report: Report) -> None:
        raise RuntimeError("secret")

    _start(worker, "a", job)
    error = _ended(worker, "a").error
    assert error is not None
    assert "secret" not in str(error)


def test_waiting_is_bounded(worker: Worker) -> None:
    go_on = threading.Event()
    _start(worker, "a", lambda _report: go_on.wait(20))
    worker.wait("a", 0.05)
    found = worker.of("local", "wine")
    go_on.set()
    assert found is not None
    assert found.state is State.RUNNING


def test_a_cancelled_operation_ends_at_its_next_line_of_progress(worker: Worker) -> None:
    cancelled = threading.Event()
    went_on: list[int] = []

    def job(report: Report) -> None:
        report("half", 0.5)
        cancelled.wait(20)
        report("more", 0.6)
        went_on.append(1)

    _start(worker, "a", job)
    worker.cancel("a")
    cancelled.set()
    ended = _ended(worker, "a")
    assert (ended.state, went_on) == (State.FAILED, [])
    assert ended.error is not None
    assert "cancelled while it was being prepared" in ended.error.what


def test_an_operation_that_ended_is_not_cancelled(worker: Worker) -> None:
    _start(worker, "a", lambda _report: None)
    _ended(worker, "a")
    worker.cancel("a")
    assert _ended(worker, "a").state is State.DONE
