"""A wall-clock bound for calls into libraries that have none, and the facts behind a failed one.

Socket timeouts bound the silence between two packets, not the whole: a server that sends one byte
a second passes them for ever. So the work runs on a thread of its own and the caller stops waiting.
"""

from __future__ import annotations

import contextvars
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, Literal, TypeVar

from services.errors import SlipwayError, one_line

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


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and everything below it: causes, contexts, and errors carried as arguments."""
    seen: set[int] = set()
    waiting: list[BaseException] = [error]
    while waiting:
        current = waiting.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        waiting += [
            below
            for below in (current.__cause__, current.__context__, *current.args)
            if isinstance(below, BaseException)
        ]
        reason = getattr(current, "reason", None)  # urllib3 keeps the cause of MaxRetryError there
        if isinstance(reason, BaseException):
            waiting.append(reason)


def network_cause(error: BaseException, timeout_s: float) -> str:
    """Why a request failed, as a sentence without addresses, headers or tokens."""
    found = list(causes(error))
    for cause in found:
        if isinstance(cause, socket.gaierror):
            return f"The host's name does not resolve: {one_line(cause.strerror or cause)}."
        if isinstance(cause, ConnectionRefusedError):
            return "The connection was refused: nothing listens there."
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed: {one_line(cause.reason or cause, 120)}."
    for cause in found:
        if isinstance(cause, TimeoutError) or "timeout" in type(cause).__name__.lower():
            return f"No answer within {timeout_s:g} s."
        if isinstance(cause, ConnectionError):
            return f"The connection broke: {one_line(cause.strerror or type(cause).__name__)}."
    names = {type(cause).__name__ for cause in found}
    if names & {"IncompleteRead", "ProtocolError", "ChunkedEncodingError", "DecodeError"}:
        return "The answer broke off or was damaged on the way."
    return f"{type(found[-1]).__name__} while sending the request."
