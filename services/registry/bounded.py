"""A wall-clock bound for calls into libraries that have none.

Socket timeouts bound the silence between two packets, not the whole: a server that sends one byte
a second passes them for ever. So the work runs on a thread of its own and the caller stops waiting.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Literal, TypeVar

from services.errors import SlipwayError

T = TypeVar("T")

_SLOTS = 32
"""Calls under way at once in one process. A server that drips headers for hours keeps the thread
that reads them; this many such threads, then callers are told at once."""
_slots = threading.BoundedSemaphore(_SLOTS)


class Deadline:
    """A point on the monotonic clock by which a whole call must have ended."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._ends = time.monotonic() + seconds

    @property
    def seconds(self) -> float:
        """The whole length, for messages."""
        return self._seconds

    @property
    def left_s(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._ends - time.monotonic())

    @property
    def passed(self) -> bool:
        """True when no time is left."""
        return self.left_s == 0.0


def within(limit_s: float, work: Callable[[], T], late: Callable[[], SlipwayError]) -> T:
    """The result of `work`, or the error that `late` makes when it takes longer than `limit_s`.

    Whatever `work` raises is raised here. Work that is late goes on unseen until its own timeouts
    end it; so it must be harmless when its result is thrown away.
    """
    if not _slots.acquire(timeout=limit_s):
        raise late()
    result: Future[T] = Future()
    context = contextvars.copy_context()

    def run() -> None:
        with _handing_over(result):
            result.set_result(context.run(work))

    threading.Thread(target=run, name="slipway-registry-call", daemon=True).start()
    try:
        return result.result(timeout=limit_s)
    except TimeoutError:
        if result.done():  # the work's own TimeoutError
            raise
        raise late() from None


class _handing_over:  # noqa: N801 - reads as the statement that it is
    """Give what is raised inside to the one who waits for the result, and free the slot."""

    def __init__(self, result: Future[Any]) -> None:
        self._result = result

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, _kind: object, error: BaseException | None, _traceback: object
    ) -> Literal[True]:
        _slots.release()
        if error is not None:
            self._result.set_exception(error)
        return True
