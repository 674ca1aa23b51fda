"""Why the network failed, in words: the same ones for registry, bucket and cluster.

The libraries tell it by wrapping one error into the next, and print addresses and paths before the
one fact that helps. Only what is at the bottom is told.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator

from services.errors import one_line


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
