"""Waiting for what others do in their own time, with a bound."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def seen(
    look: Callable[[], T],
    good: Callable[[T], object] = bool,
    *,
    within_s: float,
    every_s: float = 0.5,
) -> T:
    """What `look` gives as soon as it is `good`, else as it is when the time is over.

    It never fails by itself: the caller's assertion says what was seen instead.
    """
    until = time.monotonic() + within_s
    while not good(found := look()) and time.monotonic() < until:
        time.sleep(every_s)
    return found
