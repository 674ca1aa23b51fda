"""Long steps off the page's script: one bounded pool, one operation per plan.

Streamlit stops a script on a click, a reload or a closed tab; what runs here goes on. It never
calls `st.*` and keeps nothing that matters: the release, its outcome and the audit entry are in the
journal and the store. Only the lines of packaging, which comes before there is a release, and an
error that kept a release from being made are remembered here.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum

from services.errors import NotDeployable, SlipwayError, one_line
from services.ports import Report

_LINES_KEPT = 200
"""Progress lines per operation: more would only scroll."""
_OPERATIONS_KEPT = 500
"""Nonces remembered: a replayed click is at most minutes old."""

log = logging.getLogger("slipway.worker")


class State(StrEnum):
    """How far a step has come."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of progress; `ratio` is the part done, 0 to 1, None when unknown."""

    at: datetime
    text: str
    ratio: float | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """What the worker knows of one plan that was confirmed in this process."""

    nonce: str
    target: str
    service: str
    title: str
    started_at: datetime
    state: State = State.RUNNING
    lines: tuple[Line, ...] = ()
    error: SlipwayError | None = None
    cancelled: bool = False
    """True when it was asked to end: it does so at its next line of progress."""


Job = Callable[[Report], object]


class Worker:
    """Runs at most `threads` long steps at once; the same nonce is the same operation."""

    def __init__(self, threads: int = 4) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="slipway-step")
        self._lock = threading.Lock()
        self._operations: dict[str, Operation] = {}
        self._ends: dict[str, threading.Event] = {}

    def start(
        self,
        nonce: str,
        job: Job,
        *,
        target: str,
        service: str,
        title: str,
        done: Callable[[Operation], None] = lambda _operation: None,
    ) -> bool:
        """Begin `job`, unless this nonce was begun before; True when it was begun now.

        `done` is called in the worker's thread when it ended, well or not.
        """
        with self._lock:
            if nonce in self._operations:
                return False
            operation = Operation(nonce, target, service, title, datetime.now(UTC))
            self._operations[nonce] = operation
            self._forget_oldest()
            end = self._ends[nonce] = threading.Event()
            future: Future[object] = self._pool.submit(job, self._reporter(nonce))

        def finish(ended: Future[object]) -> None:
            done(self._ended(nonce, ended))
            end.set()

        future.add_done_callback(finish)
        return True

    def wait(self, nonce: str, timeout_s: float) -> None:
        """Wait for an operation, at most so long: quick ones are then seen at once."""
        end = self._ends.get(nonce)
        if end is not None:
            end.wait(timeout_s)

    def get(self, nonce: str) -> Operation | None:
        """The operation that carries out the plan with this nonce, or None."""
        with self._lock:
            return self._operations.get(nonce)

    def cancel(self, nonce: str) -> None:
        """Let a running operation end at its next line of progress, with NotDeployable.

        What made the line cleans up behind itself as after any other error.
        """
        with self._lock:
            known = self._operations.get(nonce)
            if known is not None and known.state is State.RUNNING:
                self._operations[nonce] = replace(known, cancelled=True)

    def of(self, target: str, service: str) -> Operation | None:
        """The newest operation on a service, or None."""
        with self._lock:
            mine = [
                operation
                for operation in self._operations.values()
                if (operation.target, operation.service) == (target, service)
            ]
        return mine[-1] if mine else None

    def close(self) -> None:
        """Take no more work; what runs may end."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _reporter(self, nonce: str) -> Report:
        def report(line: str, ratio: float | None = None) -> None:
            with self._lock:
                known = self._operations.get(nonce)
                if known is not None:
                    lines = (*known.lines, Line(datetime.now(UTC), one_line(line), ratio))
                    self._operations[nonce] = replace(known, lines=lines[-_LINES_KEPT:])
            if known is not None and known.cancelled:
                raise NotDeployable(
                    f"{known.title}: cancelled while it was being prepared. Nothing was changed.",
                    fix="Deploy it again: what is made already is used.",
                )

        return report

    def _ended(self, nonce: str, future: Future[object]) -> Operation:
        error = None if future.cancelled() else future.exception()
        told = told_error(error) if error is not None else None
        with self._lock:
            state = State.FAILED if told else State.DONE
            operation = replace(self._operations[nonce], state=state, error=told)
            self._operations[nonce] = operation
        return operation

    def _forget_oldest(self) -> None:
        while len(self._operations) > _OPERATIONS_KEPT:
            oldest = next(iter(self._operations))
            if self._operations[oldest].state is State.RUNNING:
                break
            del self._operations[oldest]
            self._ends.pop(oldest, None)


def told_error(error: BaseException) -> SlipwayError:
    """What an operator is told of an error: itself, or, for a bug of ours, where to look it up."""
    if isinstance(error, SlipwayError):
        return error
    reference = secrets.token_hex(4)
    log.error("bug %s", reference, exc_info=error)
    return SlipwayError(
        "Something went wrong inside Slipway.",
        why=f"This is a bug, not something that you did. Its reference is {reference}.",
        fix="Look the reference up in logs/slipway.log of Slipway's state folder, and report it"
        " with those lines.",
    )
