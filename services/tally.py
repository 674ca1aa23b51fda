"""What is counted while a load runs: times by bucket, and who gave an answer.

Plain Python without a library, because the load engine's process starts with it and does little
else; `histogram` reads what was counted here.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Final, NamedTuple

NS = 1_000_000_000

# The layout of HdrHistogram (Gil Tene): linear inside a power of two, so that every bucket is at
# most 1/1024 of its value wide. Below 2,048 ns buckets are exact.
BITS = 10
HALF = 1 << BITS

NOT_SENT = "not-sent"
LEAVE_WITHIN_S = 1.0
"""What still waits for a connection when a steady rate's time is over has so long to leave."""


def index_of(ns: int) -> int:
    """The number of the bucket that holds a time."""
    shift = ns.bit_length() - BITS - 1
    return ns if shift <= 0 else (shift << BITS) + (ns >> shift)


class Answerer(NamedTuple):
    """Who answered, as far as an answer says it."""

    release: int | None = None
    version: str | None = None


UNCOUNTED: Final = 1 << 16
"""So many times a tally keeps as they are, 256 kB: more than a quarter of a second brings."""


class Tally:
    """Times, first as they are; beyond `UNCOUNTED` counted, exact to one part in 1,024.

    Counting is left to who reads, for whom it is a matter of arrays: here it would cost each time
    0.45 µs, of the 15 that a request costs in all, instead of 0.04. A reader that does not come
    finds counts, whose size depends on the spread and not on n: an hour of load between 1 ms and
    10 s needs at most some 13,000 buckets.
    """

    __slots__ = ("counts", "max_ns", "min_ns", "times_ns", "total_ns")

    def __init__(self) -> None:
        self.times_ns = array("I")
        """Those that nobody counted yet; in no other attribute."""
        self.counts: dict[int, int] = {}
        """By the number of the bucket. Minimum, maximum and sum are of these, and exact."""
        self.total_ns = 0
        self.min_ns = 0
        self.max_ns = 0

    def __bool__(self) -> bool:
        return bool(self.times_ns or self.counts)

    def record_all(self, times_ns: list[int]) -> None:
        """Take times, in nanoseconds, none of them negative."""
        if len(self.times_ns) + len(times_ns) <= UNCOUNTED:
            try:
                self.times_ns.fromlist(times_ns)  # all of them or none
            except OverflowError:  # one is longer than 32 bits, 4.3 s
                self._count(times_ns)
        else:
            self._count(times_ns)

    def _count(self, times_ns: Sequence[int]) -> None:
        if not times_ns:
            return
        lowest = min(times_ns)
        # The first ones find a minimum that nobody recorded.
        self.min_ns = min(self.min_ns, lowest) if self.counts else lowest
        self.max_ns = max(self.max_ns, *times_ns)
        self.total_ns += sum(times_ns)
        counts = self.counts
        for ns in times_ns:  # `index_of`, without a call for each
            shift = ns.bit_length() - BITS - 1
            index = ns if shift <= 0 else (shift << BITS) + (ns >> shift)
            counts[index] = counts.get(index, 0) + 1

    def merge(self, other: Tally) -> None:
        """Add another's times: exactly as if each of them had been recorded."""
        if len(self.times_ns) + len(other.times_ns) <= UNCOUNTED:
            self.times_ns.extend(other.times_ns)
        else:
            self._count(other.times_ns)
        if not other.counts:
            return
        self.min_ns = min(self.min_ns, other.min_ns) if self.counts else other.min_ns
        self.max_ns = max(self.max_ns, other.max_ns)
        self.total_ns += other.total_ns
        counts = self.counts
        for index, count in other.counts.items():
            counts[index] = counts.get(index, 0) + count

    def as_row(self, into: bytearray) -> list[int]:
        """Plain values for a pipe, and at the end of `into` what they tell of.

        `Histogram.from_row` reads both back. Times, counts and buckets go as the machine's own 32,
        32 and 16 bits: as text they cost the reader, who may share a core with the sender, up to
        ten times as much.
        """
        begin = len(into)
        into += self.times_ns.tobytes()
        into += array("I", self.counts.values()).tobytes()
        into += array("H", self.counts).tobytes()
        figures = [self.total_ns, self.min_ns, self.max_ns]
        return [begin, len(self.times_ns), len(self.counts), *figures]
