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
from services.tally import BITS, HALF, NS

MIN_TAIL = 10
"""Samples that must lie behind a percentile: with fewer it is one request's luck."""
WIDER = 4
"""So many buckets of a histogram make one of `Histogram.coarser`."""
MAX_BLOCKS = 64
"""Blocks of time that a stored run keeps: enough to resample, some ten kilobytes as text."""
NO_PERCENTILES = Percentiles(None, None, None, None, None, None, None)

Numbers = npt.NDArray[np.int64]

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
    """Counts of times, exact to one part in 1,024; its size depends on the longest, not on n.

    Minimum, maximum and mean are exact. `step`: so many of the finest buckets make one of these, a
    power of two.
    """

    __slots__ = ("_counts", "max_ns", "min_ns", "n", "step", "total_ns")

    def __init__(self, step: int = 1) -> None:
        self.step = step
        # By the number of the bucket; as long as the longest time needs.
        self._counts: Numbers = np.zeros(0, np.int64)
        self.n = 0
        self.total_ns = 0
        self.min_ns = 0
        self.max_ns = 0

    def record_all(self, times_ns: Sequence[int]) -> None:
        """Count times, in nanoseconds; what a clock's jitter made negative counts as 0."""
        self.merge(Histogram._counted(np.maximum(np.array(times_ns, np.int64), 0)))

    def merge(self, other: Histogram) -> None:
        """Add another histogram's counts: exactly as if each of its times had been recorded.

        An empty one takes the other's width of buckets; else both have the same.
        """
        if not other.n:
            return
        if self.n:
            assert self.step == other.step
            longer, shorter = self._counts, other._counts
            if len(longer) < len(shorter):
                self._counts = longer = np.concatenate(
                    (longer, np.zeros(len(shorter) - len(longer), np.int64))
                )
            longer[: len(shorter)] += shorter
        else:
            self.step, self._counts = other.step, other._counts.copy()
        self.min_ns = min(self.min_ns, other.min_ns) if self.n else other.min_ns
        self.max_ns = max(self.max_ns, other.max_ns)
        self.total_ns += other.total_ns
        self.n += other.n

    def coarser(self, wider: int = WIDER) -> Histogram:
        """The same times in buckets so many times as wide (a power of two): that much less room."""
        made = Histogram(self.step * wider)
        counts = self._counts
        counts = np.concatenate((counts, np.zeros(-len(counts) % wider, np.int64)))
        while wider > 1:
            counts, wider = counts[::2] + counts[1::2], wider // 2
        made._counts = counts
        made.n, made.total_ns = self.n, self.total_ns
        made.min_ns, made.max_ns = self.min_ns, self.max_ns
        return made

    def buckets(self) -> tuple[Numbers, Numbers]:
        """The numbers of the buckets that hold something, as of the finest, ascending; the counts.

        A coarser bucket has the number of the first that it is made of.
        """
        filled = (self._counts != 0).nonzero()[0]  # from booleans a third as dear
        return filled * self.step, self._counts[filled]

    def packed(self) -> Packed:
        """The same, to be kept; of the finest buckets."""
        assert self.step == 1
        return Packed(self.n, self.min_ns, self.max_ns, *self.buckets())

    def counts_in(self, indexes: Numbers) -> Numbers:
        """The counts of the buckets with these numbers, as `buckets` tells them."""
        at = indexes // self.step
        known = at < len(self._counts)
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
        return self._value_s(self._counts.cumsum(), rank)

    def _value_s(self, ends: Numbers, rank: int) -> float:
        if not len(ends) or rank > ends[-1]:
            return self.max_ns / NS
        index = int(ends.searchsorted(rank))
        longest = lowest_ns((index + 1) * self.step) - 1
        return min(max(longest, self.min_ns), self.max_ns) / NS

    def percentiles(self) -> Percentiles:
        """What a screen shows, hidden (None) where fewer than MIN_TAIL samples lie behind it."""
        if not self.n:
            return NO_PERCENTILES
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
            max=self.max_ns / NS,
            mean=self.total_ns / self.n / NS,
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
    def from_row(cls, row: Sequence[int], data: bytes) -> Histogram:
        """The histogram of what `Tally.as_row` wrote into `data`, on the same machine."""
        at, n_times, n_buckets, total_ns, min_ns, max_ns = row
        times_ns = np.frombuffer(data, np.uint32, n_times, at)
        counts = np.frombuffer(data, np.uint32, n_buckets, at + 4 * n_times)
        places = np.frombuffer(data, np.uint16, n_buckets, at + 4 * (n_times + n_buckets))
        already = cls._of(places, counts)
        already.total_ns, already.min_ns, already.max_ns = total_ns, min_ns, max_ns
        made = cls._counted(times_ns)
        made.merge(already)
        return made

    @classmethod
    def from_buckets(cls, indexes: Sequence[int], counts: Sequence[int], step: int) -> Histogram:
        """The histogram with these `buckets`, ascending; extremes to the width of a bucket."""
        made = cls._of(np.array(indexes, np.int64) // step, np.array(counts, np.int64), step)
        if made.n:
            made.min_ns = lowest_ns(indexes[0])
            made.max_ns = lowest_ns(indexes[-1] + step) - 1
        return made

    @classmethod
    def _counted(cls, times_ns: npt.NDArray[Any]) -> Histogram:
        """Of whole times, none of them negative, in the finest buckets."""
        made = cls()
        if len(times_ns):
            made._counts = np.bincount(_indexes_of(times_ns))
            made.n, made.total_ns = len(times_ns), int(times_ns.sum())
            made.min_ns, made.max_ns = int(times_ns.min()), int(times_ns.max())
        return made

    @classmethod
    def _of(cls, places: npt.NDArray[Any], counts: npt.NDArray[Any], step: int = 1) -> Histogram:
        made = cls(step)
        if len(places):
            made._counts = np.zeros(int(places.max()) + 1, np.int64)
            made._counts[places] = counts
        made.n = int(made._counts.sum())
        return made


def _indexes_of(times_ns: npt.NDArray[Any]) -> Numbers:
    """The number of the finest bucket of each time, as `Tally` numbers them; below 2^53 ns."""
    # IEEE 754: a number is its exponent and, from the first digit after the leading 1 on, its
    # binary digits; so are the buckets, with BITS of the digits.
    indexes: Numbers = times_ns.astype(np.float64).view(np.int64) >> _DIGITS_LEFT_OUT
    indexes -= _INDEX_BIAS
    exact = times_ns < HALF
    if exact.any():
        indexes[exact] = times_ns[exact]
    return indexes


class Packed(NamedTuple):
    """A histogram in the room of what it holds: to keep many of which most hold little."""

    n: int
    min_ns: int
    max_ns: int
    indexes: Numbers
    counts: Numbers


def quantile_of(parts: Sequence[Packed], per_mille: int) -> float:
    """The nearest-rank quantile of all parts together, in seconds; there are samples."""
    counts = np.zeros(1 + max(int(part.indexes[-1]) for part in parts), np.int64)
    for part in parts:
        counts[part.indexes] += part.counts
    rank = rank_of(sum(part.n for part in parts), per_mille)
    longest = lowest_ns(int(counts.cumsum().searchsorted(rank)) + 1) - 1
    lowest, highest = min(part.min_ns for part in parts), max(part.max_ns for part in parts)
    return min(max(longest, lowest), highest) / NS


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
