"""When each request of a steady rate is due, which wait for a connection, how late the engine is.

Pure: every moment is an argument, in nanoseconds of one clock. Three things happen to a request, in
this order: it becomes *due* by the clock; the engine *notices* it, which on a free core is at the
same moment; it is *taken* by a connection, at once or when one becomes free. Due to noticed is the
engine's own lateness, noticed to taken is the server's: it kept every connection busy.
"""

from __future__ import annotations

from typing import Final

from services.tally import NS

NEVER: Final = 1 << 62
REST_NS: Final = 1_000_000
"""While requests wait for a connection, new ones are noticed so often: to look at each one's moment
would poll a core empty that the server may need."""
_UNBROKEN_NS: Final = 100_000
"""Polling took no longer between two looks, or something else had the core in between."""


class Schedule:
    """The requests of one steady rate, by number from 0; the first `warm_up` are not measured."""

    __slots__ = (
        "base_ns",
        "due_ns",
        "interval_ns",
        "look_ns",
        "noticed",
        "polled_ns",
        "polling_since_ns",
        "start_ns",
        "taken",
        "total",
        "warm_up",
    )

    def __init__(self, rate: float, *, warm_up: int, total: int) -> None:
        """`rate`: per second, not 0. `total` counts the warm-up, too."""
        self.interval_ns = NS / rate
        self.warm_up = warm_up
        self.total = total
        self.noticed = self.taken = 0
        self.due_ns = NEVER
        """When the next request is due that was not noticed yet; NEVER: there is none."""
        self.look_ns = 0
        """The engine looks at the schedule next."""
        self.base_ns = self.start_ns = 0
        self.polling_since_ns = 0
        """Since then the engine has polled for the next moment; 0: it has slept, or worked."""
        self.polled_ns = 0

    def begin(self, base_ns: int) -> None:
        """Let request 0 be due at `base_ns`."""
        self.base_ns = self.due_ns = base_ns
        self.start_ns = self.due_of(self.warm_up)
        self.look_ns = base_ns

    def due_of(self, number: int) -> int:
        """When a request is due."""
        return self.base_ns + int(number * self.interval_ns)

    @property
    def end_ns(self) -> int:
        """One interval after the last request is due."""
        return self.due_of(self.total)

    @property
    def unsent(self) -> int:
        """Measured requests that were not taken yet."""
        return self.total - max(self.taken, self.warm_up)

    @property
    def waiting(self) -> int:
        """Requests that were noticed and wait for a connection."""
        return self.noticed - self.taken

    @property
    def next_is_measured(self) -> bool:
        """False while the next request to be taken belongs to the warm-up."""
        return self.taken >= self.warm_up

    def notice(self, now: int, late_ns: list[int]) -> None:
        """Notice the next request, which is due; to `late_ns`, how late."""
        # Once for each request of a run: `max` and calls of what is written out here cost a tenth.
        due_ns, noticed = self.due_ns, self.noticed + 1
        if due_ns >= self.start_ns:
            # Not late by what the engine rested on purpose.
            late = now - due_ns if due_ns >= self.look_ns else now - self.look_ns
            late_ns.append(late if late >= 0 else 0)  # noqa: FURB136
        self.noticed = noticed
        self.due_ns = (
            self.base_ns + int(noticed * self.interval_ns) if noticed < self.total else NEVER
        )
        # A server too slow for the rate would answer the warm-up's requests in the measured time.
        if noticed > self.warm_up > self.taken:
            self.taken = self.warm_up

    def notice_all(self, now: int, late_ns: list[int]) -> None:
        """Notice all that is due by `now`.

        Not what becomes due meanwhile: a core that is too slow for the rate would do nothing else.
        """
        while self.due_ns <= now:
            self.notice(now, late_ns)

    def take(self) -> int:
        """Take the oldest request that waits. Its due time."""
        number = self.taken
        self.taken = number + 1
        return self.base_ns + int(number * self.interval_ns)

    def next_look(self, now: int) -> int:
        """When to look again: at the next request's moment, seldom while others wait before it."""
        look_ns = self.due_ns
        if self.taken < self.noticed and look_ns < now + REST_NS:
            look_ns = now + REST_NS
        self.look_ns = look_ns
        return look_ns

    def looks(self, now: int) -> None:
        """The engine looks; when it only polled since the last time, that was idle time."""
        if self.polling_since_ns:
            polled_ns = now - self.polling_since_ns
            if polled_ns < _UNBROKEN_NS:
                self.polled_ns += polled_ns
            self.polling_since_ns = 0

    def drop(self) -> int:
        """Nothing more is taken. How many measured requests never will be."""
        unsent = self.unsent
        self.noticed = self.taken = self.total
        self.due_ns = NEVER
        return unsent
