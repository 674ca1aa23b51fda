"""What is counted while a load runs: times by bucket, and who gave an answer.

Plain Python without a library, because the load engine's process starts with it and does little
else; `histogram` reads what was counted here.
"""

from __future__ import annotations

import binascii
from array import array
from collections.abc import Sequence
from typing import NamedTuple

NS = 1_000_000_000

# The layout of HdrHistogram (Gil Tene): linear inside a power of two, so that every bucket is at
# most 1/1024 of its value wide. Below 2,048 ns buckets are exact.
BITS = 10
HALF = 1 << BITS

NOT_SENT = "not-sent"
LEAVE_WITHIN_S = 1.0
"""What still waits for a connection when a steady rate's time is over has so long to leave."""


class Answerer(NamedTuple):
    """Who answered, as far as an answer says it."""

    release: int | None = None
    version: str | None = None


class Tally:
    """Counts of times, exact to one part in 1,024; its size depends on the spread, not on n.

    Minimum, maximum and sum are exact. An hour of load between 1 ms and 10 s needs at most some
    13,000 buckets.
    """

    __slots__ = ("counts", "max_ns", "min_ns", "total_ns")

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        """By the number of the bucket."""
        self.total_ns = 0
        self.min_ns = 0
        self.max_ns = 0

    def record_all(self, times_ns: Sequence[int]) -> None:
        """Count times, in nanoseconds, none of them negative: a third of what each alone costs."""
        if not times_ns:
            return
        lowest = min(times_ns)
        # The first ones find a minimum that nobody recorded.
        self.min_ns = min(self.min_ns, lowest) if self.counts else lowest
        self.max_ns = max(self.max_ns, *times_ns)
        self.total_ns += sum(times_ns)
        counts = self.counts
        for ns in times_ns:
            shift = ns.bit_length() - BITS - 1
            index = ns if shift <= 0 else (shift << BITS) + (ns >> shift)
            counts[index] = counts.get(index, 0) + 1

    def merge(self, other: Tally) -> None:
        """Add another's counts: exactly as if each of its times had been recorded."""
        if not other.counts:
            return
        self.min_ns = min(self.min_ns, other.min_ns) if self.counts else other.min_ns
        self.max_ns = max(self.max_ns, other.max_ns)
        self.total_ns += other.total_ns
        counts = self.counts
        for index, count in other.counts.items():
            counts[index] = counts.get(index, 0) + count

    def as_row(self) -> list[object]:
        """Plain values for a pipe; `Histogram.from_row` reads them back.

        Buckets and counts as the machine's own 16 and 32 bits: numbers as text cost the reader,
        who may share a core with the sender, ten times as much.
        """
        return [
            binascii.b2a_base64(array("H", self.counts), newline=False).decode(),
            binascii.b2a_base64(array("I", self.counts.values()), newline=False).decode(),
            self.total_ns,
            self.min_ns,
            self.max_ns,
        ]
