"""Reads that never hold a page up, on threads and a clock of their own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dashboard.reads import Look, Reads
from services.domain import RegisteredModel
from services.errors import Denied, NotFound, Unreachable

KEY = ("registry", "models")


@pytest.fixture
def reads() -> Iterator[Reads]:
    made = Reads()
    made.begin_run(5)
    yield made
    made.close()


def _number(reads: Reads, read: Callable[[], int], **how: object) -> Look[int]:
    return reads.look(KEY, read, fresh_s=0, **how)  # type: ignore[arg-type]  # passed on


def _until(held: Callable[[], bool]) -> None:
    for _ in range(500):
        if held():
            return
        time.sleep(0.01)
    pytest.fail("it did not come about within 5 s")


def test_an_answer_within_the_budget_is_given(reads: Reads) -> None:
    look = _number(reads, lambda: 7)
    assert (look.value, look.error, look.waiting) == (7, None, False)


def test_a_fresh_answer_is_not_read_again(reads: Reads) -> None:
    calls: list[int] = []
    for _ in range(3):
        reads.look(KEY, lambda: calls.append(1), fresh_s=60)
    assert len(calls) == 1


def test_the_last_good_answer_stays_with_the_error_beside_it(reads: Reads) -> None:
    def fail() -> int:
        raise Denied("You may not.")

    _number(reads, lambda: 7)
    look = _number(reads, fail)
    assert look.value == 7
    assert isinstance(look.error, Denied)
    assert look.stale


def test_a_slow_read_is_left_behind_and_picked_up_later(reads: Reads) -> None:
    go_on = threading.Event()

    def slow() -> int:
        go_on.wait(20)
        return 8

    reads.begin_run(0.05)
    first = _number(reads, slow)
    assert (first.value, first.waiting) == (None, True)
    go_on.set()
    _until(lambda: _number(reads, slow, wait=False).value == 8)


def test_a_silent_source_is_waited_for_once(reads: Reads) -> None:
    go_on = threading.Event()
    reads.begin_run(0.2)
    reads.look(("registry", "a"), lambda: go_on.wait(20), fresh_s=0)
    reads.begin_run(20)
    began = time.monotonic()
    look = reads.look(("registry", "b"), lambda: go_on.wait(20), fresh_s=0)
    waited_s = time.monotonic() - began
    go_on.set()
    assert waited_s < 10  # without the breaker it would be 20
    assert (look.waiting, look.late) == (True, True)


def test_what_stays_unanswered_is_told_as_unreachable(
    reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dashboard.reads.PATIENCE_S", 0.0)
    go_on = threading.Event()
    reads.begin_run(0.05)
    look = _number(reads, lambda: int(go_on.wait(20)))
    go_on.set()
    assert isinstance(look.error, Unreachable)


def test_the_budget_is_for_all_reads_of_a_run_together(reads: Reads) -> None:
    go_on = threading.Event()
    reads.begin_run(0.3)
    began = time.monotonic()
    for source in "abcdefgh":
        reads.look((source,), lambda: go_on.wait(20), fresh_s=0)
    spent_s = time.monotonic() - began
    go_on.set()
    assert spent_s < 2  # eight budgets would be 2.4


def test_what_was_forgotten_while_it_was_read_is_read_again(reads: Reads) -> None:
    go_on = threading.Event()
    calls: list[int] = []

    def slow() -> int:
        calls.append(1)
        go_on.wait(20)
        return len(calls)

    reads.begin_run(0.05)
    reads.look(KEY, slow, fresh_s=60)
    reads.forget("registry")
    go_on.set()
    _until(lambda: reads.look(KEY, slow, fresh_s=60, wait=False).value == 2)


def test_an_error_is_not_asked_for_again_at_once_unless_told_to(reads: Reads) -> None:
    calls: list[int] = []

    def fail() -> int:
        calls.append(1)
        raise NotFound("There is none.")

    _number(reads, fail)
    _number(reads, fail)
    assert len(calls) == 1
    reads.forget()
    _number(reads, fail)
    assert len(calls) == 2


def test_a_bug_is_told_by_reference_only(reads: Reads) -> None:
    def broken() -> int:
        raise RuntimeError("secret")

    error = _number(reads, broken).error
    assert error is not None
    assert "secret" not in str(error)
    assert "reference" in str(error)


def test_a_list_survives_a_restart(tmp_path: Path) -> None:
    models = (RegisteredModel("wine", aliases={"champion": 2}),)
    first = Reads(tmp_path)
    first.begin_run(5)
    first.look(KEY, lambda: models, fresh_s=0, keep=tuple[RegisteredModel, ...])
    _until(lambda: any(tmp_path.glob("*.json")))
    first.close()
    second = Reads(tmp_path)
    second.begin_run(5)

    def down() -> tuple[RegisteredModel, ...]:
        raise Unreachable("It is down.")

    look = second.look(KEY, down, fresh_s=0, keep=tuple[RegisteredModel, ...])
    second.close()
    assert look.value == models
    assert look.at is not None
    assert isinstance(look.error, Unreachable)


@pytest.mark.parametrize("content", ["", "half", "2026-01-01T00:00:00+00:00\n{", "x\n[]"])
def test_a_damaged_list_is_as_good_as_none(content: str, tmp_path: Path) -> None:
    first = Reads(tmp_path)
    file = first._file(KEY)
    assert file is not None
    file.write_text(content)
    first.begin_run(5)
    look = first.look(
        KEY, lambda: (RegisteredModel("a"),), fresh_s=0, keep=tuple[RegisteredModel, ...]
    )
    first.close()
    assert look.value == (RegisteredModel("a"),)
