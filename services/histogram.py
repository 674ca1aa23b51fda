"""Histograms of times: counts by bucket, read as percentiles and bars, joined, made coarser.

Pure: no clock, no socket. Percentiles are nearest-rank, taken from merged counts and never
averaged, and hidden where fewer than `MIN_TAIL` samples lie behind them. `tally` counts; here is
the arithmetic over arrays: who reads a running test may share a core with the one that sends.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from services.domain import Percentiles
from services.errors import ConfigError
from services.tally import BITS, HALF, NS, index_of

MIN_TAIL = 10
"""Samples that must lie behind a percentile: with fewer it is one request's luck."""
WIDER = 4
"""So many buckets of a histogram make one of `Histogram.coarser`."""
MAX_BLOCKS = 64
"""Blocks of time that a stored run keeps: enough to resample, some ten kilobytes as text."""
NO_PERCENTILES = Percentiles(None, None, None, None, None, None, None)

Numbers = npt.NDArray[np.int64]

_AT_ONCE = 15_000
"""So many times are counted together. Each array that this needs for a moment is below 128 kB, so
that the allocator keeps it: larger ones took twice as long, for pages that were mapped anew."""
_MOST_WAITING = 1 << 18
"""So many times wait to be counted, 1 MB: more than two seconds bring."""
_MOST_BUCKETS = 1 << 16
"""Their numbers have 16 bits: enough for more than a year."""
_MOST_IN_BUCKET = 1 << 53
_DIGITS_LEFT_OUT = 52 - BITS
_INDEX_BIAS = (1023 + BITS - 1) << BITS
"""The exponent's own bias, and that of the first power of two with BITS digits behind its 1."""
_MAX_STORED_BYTES = 16 * 1024 * 1024


def lowest_ns(index: int) -> int:
    """The smallest number of nanoseconds in bucket `index`."""
    if index < 2 * HALF:
        return index
    shift = (index >> BITS) - 1
    return ((index & (HALF - 1)) + HALF) << shift


def all_lowest_ns(indexes: Numbers) -> Numbers:
    """`lowest_ns` of each."""
    shift = np.maximum((indexes >> BITS) - 1, 0)
    inside = ((indexes & (HALF - 1)) + HALF) << shift
    return np.where(indexes < 2 * HALF, indexes, inside)


def rank_of(n: int, per_mille: int) -> int:
    """Which of `n` sorted samples, from 1 on, is that nearest-rank quantile."""
    return max(1, -(-n * per_mille // 1000))


def enough_for(n: int, per_mille: int) -> bool:
    """Whether enough of `n` samples lie behind that percentile."""
    return n - rank_of(n, per_mille) >= MIN_TAIL


class Histogram:
    """Counts of times, exact to one part in 1,024; its size depends on their spread, not on n.

    Minimum, maximum and mean are exact. `step`: so many of the finest buckets make one of these, a
    power of two. Times are counted when something is asked of them, or by `count`: who joins four
    times a second and looks once touches each bucket once.
    """

    __slots__ = (
        "_counts",
        "_first",
        "_max_ns",
        "_min_ns",
        "_n",
        "_total_ns",
        "_waiting",
        "_waiting_n",
        "step",
    )

    def __init__(self, step: int = 1) -> None:
        self.step = step
        # By the number of the bucket, from `_first` on.
        self._counts: Numbers = np.zeros(0, np.int64)
        self._first = 0
        # Times that are in no other attribute.
        self._waiting: list[npt.NDArray[Any]] = []
        self._waiting_n = 0
        self._n = 0
        self._total_ns = 0
        self._min_ns = 0
        self._max_ns = 0

    @property
    def n(self) -> int:
        """How many times."""
        return self._n + self._waiting_n

    @property
    def total_ns(self) -> int:
        """The sum of all times."""
        self.count()
        return self._total_ns

    @property
    def min_ns(self) -> int:
        """The shortest time; 0 when empty."""
        self.count()
        return self._min_ns

    @property
    def max_ns(self) -> int:
        """The longest time; 0 when empty."""
        self.count()
        return self._max_ns

    def record_all(self, times_ns: Sequence[int]) -> None:
        """Take times, in nanoseconds; what a clock's jitter made negative counts as 0."""
        self._wait(np.maximum(np.array(times_ns, np.int64), 0))

    def merge(self, other: Histogram) -> None:
        """Add another histogram's times: exactly as if each of them had been recorded.

        An empty one takes the other's width of buckets; else both have the same.
        """
        if not other.n:
            return
        if not self.n:
            self.step = other.step
        assert self.step == other.step
        if other._n:
            self._add(other._first, other._counts)
            self._take_figures(other._n, other._total_ns, other._min_ns, other._max_ns)
        for times_ns in other._waiting:
            self._wait(times_ns)

    def count(self) -> None:
        """Count what waits now, so that asking for it costs nothing later."""
        waiting, self._waiting = self._waiting, []
        self._waiting_n = 0
        for times_ns in waiting:
            for begin in range(0, len(times_ns), _AT_ONCE):
                part = times_ns[begin : begin + _AT_ONCE]
                lowest, longest = int(part.min()), int(part.max())
                places = _indexes_of(part, any_short=lowest < HALF)
                places >>= self.step.bit_length() - 1
                self._reach(index_of(lowest) // self.step, index_of(longest) // self.step + 1)
                places -= self._first
                np.add.at(self._counts, places, 1)
                self._take_figures(len(part), int(part.sum()), lowest, longest)

    def _wait(self, times_ns: npt.NDArray[Any]) -> None:
        if len(times_ns):
            self._waiting.append(times_ns)
            self._waiting_n += len(times_ns)
            if self._waiting_n > _MOST_WAITING:
                self.count()

    def _reach(self, first: int, end: int) -> None:
        """Have room for the buckets from `first` to before `end`."""
        if not len(self._counts):
            self._first = first
        before, behind = self._first - first, end - self._first - len(self._counts)
        if before > 0 or behind > 0:
            # In whole doublings of the time: the next ones are hardly outside again.
            whole = max(1, HALF // self.step)
            before, behind = (max(0, -(-room // whole) * whole) for room in (before, behind))
            before = min(before, self._first)
            self._counts = np.pad(self._counts, (before, behind))
            self._first -= before

    def _add(self, first: int, counts: Numbers) -> None:
        self._reach(first, first + len(counts))
        begin = first - self._first
        self._counts[begin : begin + len(counts)] += counts

    def _take_figures(self, n: int, total_ns: int, min_ns: int, max_ns: int) -> None:
        self._min_ns = min(self._min_ns, min_ns) if self._n else min_ns
        self._max_ns = max(self._max_ns, max_ns)
        self._total_ns += total_ns
        self._n += n

    def coarser(self, wider: int = WIDER) -> Histogram:
        """The same times in buckets so many times as wide (a power of two): that much less room."""
        made = Histogram(self.step * wider)
        if self._n:
            before = self._first % wider
            counts = np.pad(self._counts, (before, -(before + len(self._counts)) % wider))
            first = self._first // wider
            while wider > 1:
                counts, wider = counts[::2] + counts[1::2], wider // 2
            made._add(first, counts)
            made._take_figures(self._n, self._total_ns, self._min_ns, self._max_ns)
        for times_ns in self._waiting:
            made._wait(times_ns)
        return made

    def buckets(self) -> tuple[Numbers, Numbers]:
        """The numbers of the buckets that hold something, as of the finest, ascending; the counts.

        A coarser bucket has the number of the first that it is made of.
        """
        self.count()
        filled = (self._counts != 0).nonzero()[0]  # from booleans a third as dear
        return (filled + self._first) * self.step, self._counts[filled]

    def packed(self) -> Packed:
        """The same, to be kept; of the finest buckets."""
        assert self.step == 1
        return Packed(self.n, self.min_ns, self.max_ns, *self.buckets())

    def counts_in(self, indexes: Numbers) -> Numbers:
        """The counts of the buckets with these numbers, as `buckets` tells them."""
        self.count()
        at = indexes // self.step - self._first
        known = (at >= 0) & (at < len(self._counts))
        found = np.zeros(len(at), np.int64)
        found[known] = self._counts[at[known]]
        return found

    def quantile_s(self, per_mille: int) -> float | None:
        """The nearest-rank quantile in seconds, at most 1/1024 above the true one; None if empty.

        Per mille, because ranks of floating-point shares are off by one (0.999 · 10,000).
        """
        return self.at_rank_s(rank_of(self.n, per_mille)) if self.n else None

    def at_rank_s(self, rank: int) -> float:
        """The time of the sample at that place, from 1 on, in ascending order."""
        self.count()
        return self._value_s(self._counts.cumsum(), rank)

    def _value_s(self, ends: Numbers, rank: int) -> float:
        if not len(ends) or rank > ends[-1]:
            return self._max_ns / NS
        index = self._first + int(ends.searchsorted(rank))
        longest = lowest_ns((index + 1) * self.step) - 1
        return min(max(longest, self._min_ns), self._max_ns) / NS

    def percentiles(self) -> Percentiles:
        """What a screen shows, hidden (None) where fewer than MIN_TAIL samples lie behind it."""
        if not self.n:
            return NO_PERCENTILES
        self.count()
        ends = self._counts.cumsum()

        def shown(per_mille: int) -> float | None:
            if not enough_for(self.n, per_mille):
                return None
            return self._value_s(ends, rank_of(self.n, per_mille))

        return Percentiles(
            p50=shown(500),
            p90=shown(900),
            p95=shown(950),
            p99=shown(990),
            p99_9=shown(999),
            max=self._max_ns / NS,
            mean=self._total_ns / self.n / NS,
        )

    def bars(self, limit: int = 200, bits: int = BITS) -> tuple[tuple[float, int], ...]:
        """(upper bound in seconds, count), ascending, at most `limit`: wider buckets, same sum.

        `bits`: at most 2^bits bars for each doubling of the time.
        """
        if not self.n:
            return ()
        indexes, counts = self.buckets()
        lowest = all_lowest_ns(indexes)
        _, lengths = np.frexp(lowest)  # exact up to 2^53 ns, a hundred days
        while True:
            shift = np.maximum(lengths.astype(np.int64) - bits - 1, 0)
            bounds = ((lowest >> shift) + 1) << shift
            first = np.append(0, (bounds[1:] != bounds[:-1]).nonzero()[0] + 1)
            if len(first) <= limit or bits == 0:
                held = np.add.reduceat(counts, first)
                return tuple(zip((bounds[first] / NS).tolist(), held.tolist(), strict=True))
            bits -= 1

    def over(self, limit_s: float) -> int:
        """How many times were longer than `limit_s`, to the width of a bucket."""
        return int(self.over_each(np.array([limit_s * NS]))[0])

    def over_each(self, limits_ns: npt.NDArray[Any]) -> Numbers:
        """`over` each of several limits, in nanoseconds."""
        indexes, counts = self.buckets()
        below = np.concatenate((np.zeros(1, np.int64), counts.cumsum()))
        return self.n - below[all_lowest_ns(indexes).searchsorted(limits_ns, side="right")]

    @classmethod
    def from_row(cls, row: Sequence[int], data: bytes | bytearray) -> Histogram:
        """The histogram of what `Tally.as_row` wrote into `data`, on the same machine."""
        at, n_times, n_buckets, total_ns, min_ns, max_ns = row
        times_ns = np.frombuffer(data, np.uint32, n_times, at)
        counts = np.frombuffer(data, np.uint32, n_buckets, at + 4 * n_times)
        places = np.frombuffer(data, np.uint16, n_buckets, at + 4 * (n_times + n_buckets))
        made = cls()
        if n_buckets:
            made._fill(places.astype(np.int64), counts)
            made._total_ns, made._min_ns, made._max_ns = total_ns, min_ns, max_ns
        made._wait(times_ns)
        return made

    @classmethod
    def from_buckets(cls, indexes: Sequence[int], counts: Sequence[int], step: int) -> Histogram:
        """The histogram with these `buckets`, ascending; extremes to the width of a bucket."""
        made = cls(step)
        if any(counts):
            made._fill(np.array(indexes, np.int64) // step, np.array(counts, np.int64))
            made._min_ns = lowest_ns(indexes[0])
            made._max_ns = lowest_ns(indexes[-1] + step) - 1
        return made

    def _fill(self, places: Numbers, counts: npt.NDArray[Any]) -> None:
        self._reach(int(places.min()), int(places.max()) + 1)
        self._counts[places - self._first] = counts
        self._n = int(self._counts.sum())


def _indexes_of(times_ns: npt.NDArray[Any], *, any_short: bool) -> Numbers:
    """`index_of` each, below 2^53 ns; `any_short`: one is below HALF."""
    # IEEE 754: a number is its exponent and, from the first digit after the leading 1 on, its
    # binary digits; so are the buckets, with BITS of the digits.
    indexes: Numbers = times_ns.astype(np.float64).view(np.int64)
    indexes >>= _DIGITS_LEFT_OUT
    indexes -= _INDEX_BIAS
    if any_short:
        short = times_ns < HALF
        indexes[short] = times_ns[short]
    return indexes


class Packed(NamedTuple):
    """A histogram in the room of what it holds: to keep many of which most hold little."""

    n: int
    min_ns: int
    max_ns: int
    indexes: Numbers
    counts: Numbers


class Gathered:
    """Packed histograms together, for their quantiles; there is one at least when asked."""

    def __init__(self) -> None:
        self.n = 0
        self._parts: list[Packed] = []
        self._first = 0
        self._ends: Numbers | None = None

    def add(self, part: Packed) -> None:
        """Take another in."""
        self._parts.append(part)
        self.n += part.n
        self._ends = None

    def quantile_s(self, per_mille: int) -> float:
        """The nearest-rank quantile of all of them."""
        if self._ends is None:
            self._first = min(int(part.indexes[0]) for part in self._parts)
            last = max(int(part.indexes[-1]) for part in self._parts)
            counts = np.zeros(last - self._first + 1, np.int64)
            for part in self._parts:
                counts[part.indexes - self._first] += part.counts
            self._ends = counts.cumsum()
        index = self._first + int(self._ends.searchsorted(rank_of(self.n, per_mille)))
        lowest = min(part.min_ns for part in self._parts)
        highest = max(part.max_ns for part in self._parts)
        return min(max(lowest_ns(index + 1) - 1, lowest), highest) / NS


def merged(histograms: Iterable[Histogram]) -> Histogram:
    """One histogram with everything that is in `histograms`."""
    whole = Histogram()
    for histogram in histograms:
        whole.merge(histogram)
    return whole


# ── What a stored run keeps ───────────────────────────────────────────────────────────────────


def blocks_as_text(blocks: Sequence[Histogram]) -> str:
    """Counts per block and bucket: variable-length integers, buckets as differences, deflated."""
    out = bytearray()
    for block in blocks:
        indexes, counts = block.buckets()
        _put(out, len(indexes))
        steps = np.diff(indexes, prepend=0)
        for step, count in zip(steps.tolist(), counts.tolist(), strict=True):
            _put(out, step)
            _put(out, count)
    return base64.b64encode(zlib.compress(bytes(out), 9)).decode() if out else ""


def blocks_from_text(text: str) -> list[Histogram]:
    """What `blocks_as_text` wrote of blocks made `coarser`; extremes to the width of a bucket.

    Raises:
        ConfigError: the text is damaged.
    """
    try:
        packed = zlib.decompressobj().decompress(
            base64.b64decode(text, validate=True), _MAX_STORED_BYTES
        )
        numbers = _numbers(packed)
        blocks: list[Histogram] = []
        for entries in numbers:
            if len(blocks) == MAX_BLOCKS or entries > _MOST_BUCKETS:
                raise damaged()
            blocks.append(_block(entries, numbers))
    except (binascii.Error, zlib.error, StopIteration) as error:
        raise damaged() from error
    return blocks


def _block(entries: int, numbers: Iterator[int]) -> Histogram:
    index, indexes, counts = 0, [], []
    for _ in range(entries):
        index += next(numbers)
        indexes.append(index)
        counts.append(next(numbers))
    if index >= _MOST_BUCKETS or max(counts, default=0) > _MOST_IN_BUCKET:
        raise damaged()
    return Histogram.from_buckets(indexes, counts, WIDER)


def damaged() -> ConfigError:
    """That what a stored run keeps of its times is none of what Slipway writes."""
    return ConfigError(
        "A stored load test cannot be compared.",
        why="Its response times are damaged.",
        fix="Run the load test again.",
    )


def _put(out: bytearray, number: int) -> None:
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)


def _numbers(packed: bytes) -> Iterator[int]:
    number = shift = 0
    for byte in packed:
        number |= (byte & 0x7F) << shift
        if byte & 0x80:
            shift += 7
        else:
            yield number
            number = shift = 0
