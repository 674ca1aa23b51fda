"""The arithmetic of latency: histograms, percentiles, summaries and judgements.

Pure: no clock, no socket. Times come in as seconds or integer nanoseconds and go out as seconds.
The load engine records with `Histogram`, joins what it recorded with `Recorder`, and pages and
terminal ask `judge`; `difference` compares. Percentiles are nearest-rank, taken from merged counts
and never averaged, and hidden where fewer than `MIN_TAIL` samples lie behind them.
"""

from __future__ import annotations

import base64
import binascii
import math
import zlib
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from statistics import NormalDist
from typing import NamedTuple, TypeVar

from services.domain import (
    LoadSummary,
    Objective,
    Percentiles,
    Sample,
    Tick,
    Trailing,
)
from services.errors import ConfigError

MIN_TAIL = 10
"""Samples that must lie behind a percentile: with fewer it is one request's luck."""

NOT_SENT = "not-sent"
LEAVE_WITHIN_S = 1.0
"""What still waits for a connection when a steady rate's time is over has so long to leave."""

ERROR_KINDS: Mapping[str, str] = {
    "refused": "nothing listens at the address",
    "unreachable": "no way to the address, or the connection could not be made",
    "tls": "the connection could not be secured",
    "reset": "the server hung up before its answer was complete",
    "timeout": "no complete answer in time",
    "http-3xx": "a redirect, which is not followed",
    "http-4xx": "the server refused the request",
    "http-5xx": "the server failed",
    "wrong-body": "a good status, but no prediction in the body",
    "not-http": "the answer is not HTTP",
    NOT_SENT: "still waiting for a free connection when the test ended",
}
"""Every kind of failure that a load test tells apart, in words."""


# ── Histograms ────────────────────────────────────────────────────────────────────────────────

# The layout of HdrHistogram (Gil Tene): linear inside a power of two, so that every bucket is at
# most 1/1024 of its value wide. Below 2,048 ns buckets are exact.
_BITS = 10
_HALF = 1 << _BITS
WIDER = 4
"""So many buckets of a histogram make one of `Histogram.coarser`."""
NS = 1_000_000_000


def lowest_ns(index: int) -> int:
    """The smallest number of nanoseconds in bucket `index`."""
    if index < 2 * _HALF:
        return index
    shift = (index >> _BITS) - 1
    return ((index & (_HALF - 1)) + _HALF) << shift


class Histogram:
    """Counts of times, exact to one part in 1,024; its size depends on the spread, not on n.

    Minimum, maximum and mean are exact. An hour of load between 1 ms and 10 s needs at most some
    13,000 buckets.
    """

    __slots__ = ("counts", "max_ns", "min_ns", "n", "total_ns")

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.n = 0
        self.total_ns = 0
        self.min_ns = 0
        self.max_ns = 0

    def record(self, ns: int) -> None:
        """Count one time, in nanoseconds; what a clock's jitter made negative counts as 0."""
        if ns < 0:  # noqa: PLR1730 - as below: a call to max() costs more than all the rest
            ns = 0
        shift = ns.bit_length() - _BITS - 1
        index = ns if shift <= 0 else (shift << _BITS) + (ns >> shift)
        counts = self.counts
        counts[index] = counts.get(index, 0) + 1
        self.total_ns += ns
        if ns > self.max_ns:  # noqa: PLR1730
            self.max_ns = ns
        # The first one finds n = 0 and a minimum that nobody recorded.
        if ns < self.min_ns or not self.n:
            self.min_ns = ns
        self.n += 1

    def record_all(self, times_ns: Sequence[int]) -> None:
        """Count several times, none of them negative: as `record` each, at a third of its cost."""
        if not times_ns:
            return
        counts = self.counts
        for ns in times_ns:
            shift = ns.bit_length() - _BITS - 1
            index = ns if shift <= 0 else (shift << _BITS) + (ns >> shift)
            counts[index] = counts.get(index, 0) + 1
        lowest = min(times_ns)
        self.min_ns = min(self.min_ns, lowest) if self.n else lowest
        self.max_ns = max(self.max_ns, *times_ns)
        self.total_ns += sum(times_ns)
        self.n += len(times_ns)

    def merge(self, other: Histogram) -> None:
        """Add another histogram's counts: exactly as if each of its times had been recorded."""
        if not other.n:
            return
        if not self.n:
            self.counts = other.counts.copy()  # a hundredth of the cost
        else:
            counts = self.counts
            for index, count in other.counts.items():
                counts[index] = counts.get(index, 0) + count
        self.min_ns = min(self.min_ns, other.min_ns) if self.n else other.min_ns
        self.max_ns = max(self.max_ns, other.max_ns)
        self.total_ns += other.total_ns
        self.n += other.n

    def coarser(self, wider: int = WIDER) -> Histogram:
        """The same times in buckets so many times as wide (a power of two): that much less room."""
        made = Histogram()
        counts = made.counts
        for index, count in self.counts.items():
            counts[index & -wider] = counts.get(index & -wider, 0) + count
        made.n, made.total_ns = self.n, self.total_ns
        made.min_ns, made.max_ns = self.min_ns, self.max_ns
        return made

    def quantile_s(self, per_mille: int) -> float | None:
        """The nearest-rank quantile in seconds, at most 1/1024 above the true one; None if empty.

        Per mille, because ranks of floating-point shares are off by one (0.999 · 10,000).
        """
        return self._at_rank(rank_of(self.n, per_mille)) if self.n else None

    def _at_rank(self, rank: int) -> float:
        seen = 0
        for index in sorted(self.counts):
            seen += self.counts[index]
            if seen >= rank:
                return self._value_s(index)
        return self.max_ns / NS

    def _value_s(self, index: int) -> float:
        return min(max(lowest_ns(index + 1) - 1, self.min_ns), self.max_ns) / NS

    def percentiles(self) -> Percentiles:
        """What a screen shows, hidden (None) where fewer than MIN_TAIL samples lie behind it."""
        if not self.n:
            return NO_PERCENTILES
        indexes = sorted(self.counts)
        ends = list(accumulate(self.counts[index] for index in indexes))

        def shown(per_mille: int) -> float | None:
            if not _shown(self.n, per_mille):
                return None
            return self._value_s(indexes[bisect_left(ends, rank_of(self.n, per_mille))])

        return Percentiles(
            p50=shown(500),
            p90=shown(900),
            p95=shown(950),
            p99=shown(990),
            p99_9=shown(999),
            max=self.max_ns / NS,
            mean=self.total_ns / self.n / NS,
        )

    def bars(self, limit: int = 200, bits: int = _BITS) -> tuple[tuple[float, int], ...]:
        """(upper bound in seconds, count), ascending, at most `limit`: wider buckets, same sum.

        `bits`: at most 2^bits bars for each doubling of the time.
        """
        while True:
            bars: dict[float, int] = {}
            for index in sorted(self.counts):
                bound = _coarser_bound(index, bits)
                bars[bound] = bars.get(bound, 0) + self.counts[index]
            if len(bars) <= limit or bits == 0:
                return tuple((bound / NS, count) for bound, count in bars.items())
            bits -= 1

    def over(self, limit_s: float) -> int:
        """How many times were longer than `limit_s`, to the width of a bucket."""
        limit_ns = limit_s * NS
        return sum(count for index, count in self.counts.items() if lowest_ns(index) > limit_ns)

    def as_row(self) -> list[object]:
        """Plain numbers for a pipe; `from_row` reads them back."""
        counts = self.counts
        return [list(counts), list(counts.values()), self.total_ns, self.min_ns, self.max_ns]

    @classmethod
    def from_row(cls, row: Sequence[object]) -> Histogram:
        """The histogram that `as_row` wrote."""
        indexes, counts, total_ns, min_ns, max_ns = row
        assert isinstance(indexes, list)
        assert isinstance(counts, list)
        assert isinstance(total_ns, int)
        assert isinstance(min_ns, int)
        assert isinstance(max_ns, int)
        made = cls()
        made.counts = dict(zip(indexes, counts, strict=True))
        made.n = sum(counts)
        made.total_ns, made.min_ns, made.max_ns = total_ns, min_ns, max_ns
        return made


NO_PERCENTILES = Percentiles(None, None, None, None, None, None, None)


def rank_of(n: int, per_mille: int) -> int:
    """Which of `n` sorted samples, from 1 on, is that nearest-rank quantile."""
    return max(1, -(-n * per_mille // 1000))


def _shown(n: int, per_mille: int) -> bool:
    """Whether enough of `n` samples lie behind that percentile."""
    return n - rank_of(n, per_mille) >= MIN_TAIL


def _coarser_bound(index: int, bits: int) -> int:
    """The end, in nanoseconds, of the bucket with 2^bits parts per power of two around `index`."""
    low = lowest_ns(index)
    shift = max(0, low.bit_length() - bits - 1)
    return ((low >> shift) + 1) << shift


# ── Recording a run ───────────────────────────────────────────────────────────────────────────

_LIVE_BARS = 60
_LIVE_BITS = 4
"""Made anew every second, and drawn as often: 16 bars for each doubling of the time at most."""
TRAILING: Mapping[str, int] = {"p50": 500, "p95": 950, "p99": 990}
"""The percentiles that a running test tells over its newest seconds, per mille."""
MAX_BLOCKS = 64
"""Blocks of time that a stored run keeps: enough to resample, some ten kilobytes as text."""
MOST_COMPARED = 5
"""Versions of one run whose times are kept apart by block: the first ones that answered."""
_MOST_VERSIONS_TEXT = 128 * 1024
"""Characters that a run keeps for all of its versions' blocks; longer ones are joined in pairs."""
_FEWEST_BLOCKS = 8
"""… but never to fewer: an interval needs some."""


class Answerer(NamedTuple):
    """Who answered, as far as an answer says it."""

    release: int | None = None
    version: str | None = None


@dataclass(slots=True)
class Slice:
    """What happened in a short stretch of a run: the unit in which it is recorded and joined."""

    end_s: float
    """Since the measured start; negative while warming up."""
    response: dict[Answerer, Histogram] = field(default_factory=dict)
    service: Histogram = field(default_factory=Histogram)
    lateness: Histogram = field(default_factory=Histogram)
    """Intended send → the client was ready to send, connection or not: the client's own delay."""
    errors: Counter[str] = field(default_factory=Counter)
    waited: int = 0
    resent: int = 0
    cpu_s: float = 0.0
    """Seconds that the client computed, or wanted to and had to wait for a core; not those in which
    it only polled for the next moment to send."""

    def merge(self, other: Slice) -> None:
        """Add a later slice's counts."""
        self.end_s = max(self.end_s, other.end_s)
        for answerer, histogram in other.response.items():
            self.response.setdefault(answerer, Histogram()).merge(histogram)
        self.service.merge(other.service)
        self.lateness.merge(other.lateness)
        self.errors.update(other.errors)
        self.waited += other.waited
        self.resent += other.resent
        self.cpu_s += other.cpu_s

    @property
    def ok(self) -> int:
        """Answers that are predictions."""
        return self.service.n

    def whole_response(self) -> Histogram:
        """Response times of every answerer together."""
        return merged(self.response.values())


def merged(histograms: Iterable[Histogram]) -> Histogram:
    """One histogram with everything that is in `histograms`."""
    whole = Histogram()
    for histogram in histograms:
        whole.merge(histogram)
    return whole


class _Trail:
    """The newest seconds of a run, as many as the rarest of TRAILING needs behind it.

    Memory is bounded by samples, not by time: some thousand, and those of one more second.
    """

    def __init__(self) -> None:
        self._seconds: deque[tuple[float, Histogram]] = deque()
        self._n = 0

    def add(self, from_s: float, second: Histogram) -> None:
        """Take one second's times; `from_s`: when it began."""
        if not second.n:
            return
        self._seconds.append((from_s, second))
        self._n += second.n
        while _shown(self._n - self._seconds[0][1].n, max(TRAILING.values())):
            self._n -= self._seconds.popleft()[1].n

    def at(self, end_s: float) -> dict[str, Trailing]:
        """Each percentile over the fewest whole seconds before `end_s` that are enough for it."""
        found: dict[str, Trailing] = {}
        seconds, window = iter(reversed(self._seconds)), Histogram()
        from_s = end_s
        for name, per_mille in sorted(TRAILING.items(), key=lambda one: one[1]):
            while not _shown(window.n, per_mille):
                next_one = next(seconds, None)
                if next_one is None:
                    return found
                from_s = next_one[0]
                window.merge(next_one[1])
            value_s = window.quantile_s(per_mille)
            assert value_s is not None  # there are samples
            found[name] = Trailing(value_s, round(end_s - from_s, 3))
        return found


class Recorder:
    """Joins a run's slices into ticks and one summary. Memory does not grow with the run.

    `block_s` is the shortest block of time kept apart; it doubles whenever MAX_BLOCKS are full.
    """

    def __init__(
        self,
        *,
        target_rate: float | None = None,
        objective: Objective | None = None,
        block_s: float = 0.25,
    ) -> None:
        self._target_rate = target_rate
        self._objective = objective or Objective()
        self._whole = Slice(0.0)
        self._block_s = block_s
        # Coarser than the rest: they only serve to resample, and there are many. By who answered:
        # that costs nothing more where it is one; None is for all beyond MOST_COMPARED.
        self._blocks: dict[_Who, dict[int, Histogram]] = {None: {}}
        self._spread = Histogram()
        self._recent = Slice(0.0)
        self._recent_from_s = 0.0
        self._trail = _Trail()

    def add(self, piece: Slice) -> None:
        """Take one slice, later than those before it."""
        self._recent.merge(piece)
        # A slice ends on its block's border: the middle of it is safely inside.
        block = max(0, int((piece.end_s - self._block_s / 2) / self._block_s))
        while block >= MAX_BLOCKS:
            self._blocks = {who: _joined_in_pairs(kept) for who, kept in self._blocks.items()}
            self._block_s *= 2
            block //= 2
        for answerer, histogram in piece.response.items():
            kept, coarse = self._blocks_of(answerer), histogram.coarser()
            if block in kept:
                kept[block].merge(coarse)
            else:
                kept[block] = coarse

    def _blocks_of(self, answerer: Answerer) -> dict[int, Histogram]:
        who = answerer.release if answerer.version is None else answerer.version
        if who not in self._blocks and len(self._blocks) > MOST_COMPARED:
            who = None
        return self._blocks.setdefault(who, {})

    @property
    def failed(self) -> int:
        """Failures so far."""
        return self._whole.errors.total() + self._recent.errors.total()

    def _take_in(self) -> Slice:
        """Add what is recent to the whole; gives it. Once a second, as a large part is the same."""
        recent, self._recent = self._recent, Slice(self._recent.end_s)
        self._whole.merge(recent)
        for histogram in recent.response.values():
            self._spread.merge(histogram.coarser(_HALF >> _LIVE_BITS))
        return recent

    def tick(self, *, final: bool = False) -> Tick:
        """What happened since the last tick."""
        recent, from_s = self._take_in(), self._recent_from_s
        span_s = recent.end_s - from_s
        self._recent_from_s = recent.end_s
        response, so_far = recent.whole_response(), self._whole.whole_response()
        self._trail.add(from_s, response)
        return Tick(
            at_s=recent.end_s,
            ok=recent.ok,
            errors=dict(recent.errors),
            rate=recent.ok / span_s if span_s > 0 else 0.0,
            response=response.percentiles(),
            service=recent.service.percentiles(),
            by_release=_counts_by(recent.response, lambda answerer: answerer.release),
            by_version=_counts_by(recent.response, lambda answerer: answerer.version),
            final=final,
            histogram=self._spread.bars(_LIVE_BARS, _LIVE_BITS),
            so_far=so_far.percentiles(),
            trailing=self._trail.at(recent.end_s),
        )

    def summary(self, *, span_s: float, stopped: str = "") -> LoadSummary:
        """The whole run. `span_s`: the seconds in which its requests were sent and answered."""
        self._take_in()
        whole = self._whole
        response = whole.whole_response()
        failed = whole.errors.total()
        cpu_ratio = whole.cpu_s / span_s if whole.cpu_s and span_s > 0 else None
        by_release = _histograms_by(whole.response, lambda answerer: answerer.release)
        by_version = _histograms_by(whole.response, lambda answerer: answerer.version)
        lateness_s = whole.lateness.quantile_s(990)
        summary = LoadSummary(
            requests=whole.ok + failed,
            ok=whole.ok,
            errors=dict(sorted(whole.errors.items())),
            duration_s=span_s,
            rate=whole.ok / span_s if span_s > 0 else 0.0,
            target_rate=self._target_rate,
            response=response.percentiles(),
            service=whole.service.percentiles(),
            lateness_p99_s=lateness_s,
            client_limited=False,
            verdict="",
            by_release={key: histogram.n for key, histogram in by_release.items()},
            histogram=response.bars(),
            by_version={key: histogram.n for key, histogram in by_version.items()},
            response_by_release={k: h.percentiles() for k, h in by_release.items()},
            response_by_version={k: h.percentiles() for k, h in by_version.items()},
            cpu_ratio=cpu_ratio,
            waited=whole.waited,
            resent=whole.resent,
            stopped=stopped,
            response_blocks=self._whole_blocks(),
            response_blocks_by_version=self._blocks_by_version(),
        )
        limit = _client_limit(summary, whole.service.quantile_s(500))
        summary = replace(summary, client_limited=bool(limit))
        met, judgement = judge(summary, self._objective, response, whole.lateness)
        sentences = [
            f"Stopped early: {stopped}." if stopped else "",
            _failures(summary),
            limit or _trust(summary),
            _waiting(summary),
            _not_sent(summary),
            judgement,
        ]
        return replace(summary, verdict=" ".join(filter(None, sentences)), objective_met=met)

    def _whole_blocks(self) -> str:
        numbers = [number for kept in self._blocks.values() for number in kept]
        return blocks_as_text(
            [
                merged(kept[number] for kept in self._blocks.values() if number in kept)
                for number in range(max(numbers, default=-1) + 1)
            ]
        )

    def _blocks_by_version(self) -> dict[str, str]:
        """As text, each with the same blocks of time; none where there is nothing to compare."""
        named = {who: kept for who, kept in self._blocks.items() if isinstance(who, str)} or {
            f"release {who}": kept for who, kept in self._blocks.items() if isinstance(who, int)
        }
        if len(named) < 2:
            return {}
        while True:
            count = max(number for kept in named.values() for number in kept) + 1
            texts = {
                who: blocks_as_text([kept.get(number, Histogram()) for number in range(count)])
                for who, kept in named.items()
            }
            if count < 2 * _FEWEST_BLOCKS or sum(map(len, texts.values())) <= _MOST_VERSIONS_TEXT:
                return texts
            named = {who: _joined_in_pairs(kept) for who, kept in named.items()}


_Who = str | int | None
"""Who answered: a version; the release where an answer names none; None where it names nobody."""


def _joined_in_pairs(blocks: Mapping[int, Histogram]) -> dict[int, Histogram]:
    """Blocks twice as long, by number."""
    joined: dict[int, Histogram] = {}
    for number, block in blocks.items():
        joined.setdefault(number // 2, Histogram()).merge(block)
    return joined


Key = TypeVar("Key")


def _histograms_by(
    response: Mapping[Answerer, Histogram], key_of: Callable[[Answerer], Key | None]
) -> dict[Key, Histogram]:
    histograms: dict[Key, Histogram] = {}
    for answerer, histogram in response.items():
        key = key_of(answerer)
        if key is not None:
            histograms.setdefault(key, Histogram()).merge(histogram)
    return histograms


def _counts_by(
    response: Mapping[Answerer, Histogram], key_of: Callable[[Answerer], Key | None]
) -> dict[Key, int]:
    counts: Counter[Key] = Counter()
    for answerer, histogram in response.items():
        key = key_of(answerer)
        if key is not None:
            counts[key] += histogram.n
    return dict(counts)


def summarize(
    samples: Iterable[Sample],
    *,
    target_rate: float | None = None,
    objective: Objective | None = None,
) -> LoadSummary:
    """Timed requests, in any order, to one summary. Failures never count as fast requests."""
    block_s = 0.25
    recorder = Recorder(target_rate=target_rate, objective=objective, block_s=block_s)
    pieces: dict[int, Slice] = {}
    first_s, last_s = math.inf, -math.inf
    for sample in samples:
        first_s, last_s = min(first_s, sample.intended_s), max(last_s, sample.done_s)
        block = max(0, int(sample.done_s / block_s))
        piece = pieces.setdefault(block, Slice((block + 1) * block_s))
        if sample.error is not None:
            piece.errors[sample.error] += 1
            continue
        answerer = Answerer(release=sample.release)
        response_ns = round((sample.done_s - sample.intended_s) * NS)
        piece.response.setdefault(answerer, Histogram()).record(response_ns)
        piece.service.record(round((sample.done_s - sample.sent_s) * NS))
    for block in sorted(pieces):
        recorder.add(pieces[block])
    return recorder.summary(span_s=max(0.0, last_s - first_s) if pieces else 0.0)


# ── Verdicts in words ─────────────────────────────────────────────────────────────────────────

LATE_S = 0.001
"""Lateness (p99) up to which a client keeps its schedule: performance.md, row 2."""
LATE_SHARE = 0.05
"""… or this share of the median service time, whichever is more: it changes little then. Not of the
response: what a client makes wait would excuse its lateness."""
BUSY_RATIO = 0.9
"""Share of a core from which on the client itself may be what was measured."""
WAITED_SHARE = 0.01


def _client_limit(summary: LoadSummary, median_s: float | None) -> str:
    """Why this machine, and not the server, set the figures; "" when it did not."""
    late_s, busy = summary.lateness_p99_s, summary.cpu_ratio or 0.0
    advice = "Measure at a lower rate, or from a machine with a free core."
    if late_s is not None and late_s > max(LATE_S, LATE_SHARE * (median_s or 0.0)):
        who = "1 in 100 requests left" if summary.requests >= 100 else "a request left"
        return (
            f"Client-limited: {who} {in_words(late_s)} late or later, because this machine was too"
            f" busy. {advice}"
        )
    if busy >= BUSY_RATIO:
        return (
            f"Client-limited: the load engine needed {busy:.0%} of a core, so the server may be"
            f" faster than the figures say. {advice}"
        )
    return ""


def _trust(summary: LoadSummary) -> str:
    if not summary.requests:
        return "No request was measured."
    if not summary.ok:
        return "No request was answered, so there are no times to read."
    if summary.lateness_p99_s is None or summary.requests < 100:
        return "The figures can be trusted: the load engine was not the limit."
    return (
        "The figures can be trusted: 99 of 100 requests left within"
        f" {in_words(summary.lateness_p99_s)} of their time."
    )


def _failures(summary: LoadSummary) -> str:
    failed = summary.requests - summary.ok
    if not failed:
        return ""
    kinds = ", ".join(
        f"{count:,} {kind}" for kind, count in sorted(summary.errors.items(), key=lambda kv: -kv[1])
    )
    return (
        f"{failed:,} of {summary.requests:,} requests failed ({kinds}); latencies are those of the"
        " answered ones."
    )


def _waiting(summary: LoadSummary) -> str:
    if summary.waited <= WAITED_SHARE * summary.requests:
        return ""
    return (
        f"{summary.waited / summary.requests:.0%} of the requests waited for a free connection;"
        " that wait is in the response time, not in the service time."
    )


def _not_sent(summary: LoadSummary) -> str:
    count = summary.errors.get(NOT_SENT, 0)
    if not count:
        return ""
    requests, were = ("requests", "were") if count > 1 else ("request", "was")
    return (
        f"{count:,} {requests} still waited for a free connection when the test's time was over,"
        f" and {were} not sent."
    )


def in_words(seconds: float) -> str:
    """A duration with three digits and its unit: 0.00123 → "1.23 ms"."""
    if seconds >= 1:
        return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:.0f} s"
    if seconds >= 0.001:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds * 1e6:.0f} µs"


ENOUGH_FOR_P99 = MIN_TAIL * 100
"""Answers from which on a p99 is shown, and judged whatever it is."""


def judge(
    summary: LoadSummary, objective: Objective, response: Histogram, lateness: Histogram
) -> tuple[bool | None, str]:
    """Whether the run kept what users were promised, and why, in a sentence.

    `response` and `lateness`: all of the run's. None when nothing was promised, and when the run
    cannot tell: too few answers for a p99, or one missed while the client was the limit. A run with
    slower answers or more failures is never judged better, one with more of the same never less.
    """
    verdicts: list[tuple[bool | None, str]] = []
    if objective.error_ratio is not None:
        verdicts.append(_judge_errors(summary, objective.error_ratio))
    if objective.p99_s is not None:
        verdicts.append(_judge_p99(summary, objective.p99_s, response, lateness))
    if not verdicts:
        return None, ""
    sentence = " ".join(text for _, text in verdicts)
    outcomes = [met for met, _ in verdicts]
    if False in outcomes:
        return False, f"Objective missed. {sentence}"
    if None in outcomes:
        return None, f"The objective cannot be judged. {sentence}"
    return True, f"Objective met. {sentence}"


def _judge_errors(summary: LoadSummary, allowed: float) -> tuple[bool | None, str]:
    if not summary.requests:
        return None, "No request was made."
    ratio = (summary.requests - summary.ok) / summary.requests
    return ratio <= allowed, f"{ratio:.3%} of the requests failed; {allowed:.3%} are allowed."


def _judge_p99(
    summary: LoadSummary, allowed_s: float, response: Histogram, lateness: Histogram
) -> tuple[bool | None, str]:
    """A p99 leaves room for 1 request in 100 that fails or comes later than promised."""
    requests, failed = summary.requests, summary.requests - summary.ok
    if not requests:
        return None, "No request was made."
    slow = response.over(allowed_s)
    surely_slow = slow
    # What counts for certain against the server while the client was the limit: of an answer's time
    # what is not the client's lateness, and what never left unless the client was as late as that.
    if summary.client_limited:
        if lateness.max_ns >= LEAVE_WITHIN_S * NS:
            not_sent = summary.errors.get(NOT_SENT, 0)
            requests, failed = requests - not_sent, failed - not_sent
        surely_slow = _slower_than(allowed_s, response, lateness)
    room = requests // 100
    promised = f"{in_words(allowed_s)} is promised."
    if failed > room:
        return False, (
            f"{failed:,} of {requests:,} requests failed; a p99 leaves room for 1 in 100."
        )
    told = _p99_told(summary, response, requests, f"{slow:,} of {summary.ok:,} answers took longer")
    # Up to MIN_TAIL slow ones may be luck, as behind any percentile; a failure is none.
    if failed + surely_slow > max(room, MIN_TAIL):
        own = ", more than this machine's own lateness explains" if summary.client_limited else ""
        return False, f"{told}{own}; {promised}"
    kept = summary.requests - summary.ok + slow <= summary.requests // 100
    if kept and summary.ok >= ENOUGH_FOR_P99:
        return True, f"{told}; {promised}"
    if kept and not slow and response.n and summary.ok == summary.requests:
        return True, f"Every answer came within {in_words(response.max_ns / NS)}; {promised}"
    if summary.client_limited and not kept:
        return None, f"{told}; {promised} But the client was the limit."
    return None, (
        f"{summary.ok:,} answers are too few for a p99 ({ENOUGH_FOR_P99:,} are needed), and not"
        f" all came within {in_words(allowed_s)}."
    )


def _p99_told(summary: LoadSummary, response: Histogram, requests: int, otherwise: str) -> str:
    """The p99 of all requests, failures behind the slowest answer; `otherwise` if there is none."""
    if not response.n:
        return "No request was answered"
    rank = rank_of(requests, 990)
    if summary.ok < ENOUGH_FOR_P99 or rank > response.n:
        return otherwise
    counted = " with failures as the slowest" if requests > response.n else ""
    return f"p99{counted} is {in_words(response._at_rank(rank))}"  # noqa: SLF001 - of this module


def _slower_than(allowed_s: float, response: Histogram, lateness: Histogram) -> int:
    """How many answers at least took longer, whichever of them were the late ones.

    All but so many requests left at most x late; of the answers longer than allowed + x, as many
    may be theirs, and the rest is the server's. The best x counts.
    """
    later, found = lateness.n, 0
    for index in sorted(lateness.counts):
        later -= lateness.counts[index]
        found = max(found, response.over(allowed_s + lowest_ns(index + 1) / NS) - later)
    return found


# ── Who answered ──────────────────────────────────────────────────────────────────────────────


def by_answerer(summary: LoadSummary) -> dict[str, tuple[int, Percentiles]]:
    """Answers and response times by who gave them, most first: `wine/2`, `2`.

    `release 7` where no answer named a version; those that name nobody are left out.
    """
    times = summary.response_by_version
    found = {
        who: (count, times.get(who, NO_PERCENTILES)) for who, count in summary.by_version.items()
    } or {
        f"release {release}": (count, summary.response_by_release.get(release, NO_PERCENTILES))
        for release, count in summary.by_release.items()
    }
    return dict(sorted(found.items(), key=lambda one: -one[1][0]))


def who_called(who: str, model: str = "") -> str:
    """`2` → "version 2", or `wine/2` where its model is known; other names stay."""
    if not who.isdigit():
        return who
    return f"{model}/{who}" if model else f"version {who}"


def answered_words(summary: LoadSummary, model: str = "") -> str:
    """Whose times a run's are, by its answers: "wine/1 70 %, wine/2 30 % as answered".

    The one version alone, without a share; releases where no answer named a version; "" where none
    named anything. `model`: of versions that answers name by their number alone.
    """
    counts = {who_called(who, model): count for who, (count, _) in by_answerer(summary).items()}
    if not counts:
        return ""
    unnamed = summary.ok - sum(counts.values())
    if unnamed > 0:
        counts["unnamed"] = unnamed
    if len(counts) == 1:
        return next(iter(counts))
    whole = sum(counts.values())
    digits = 0 if all(count * 100 >= whole for count in counts.values()) else 1
    shares = sorted(counts.items(), key=lambda item: -item[1])
    told = (f"{name} {max(count * 100 / whole, 0.1):.{digits}f} %" for name, count in shares)
    return f"{', '.join(told)} as answered"


# ── What a stored run keeps ───────────────────────────────────────────────────────────────────

_MAX_STORED_BYTES = 16 * 1024 * 1024


def blocks_as_text(blocks: Sequence[Histogram]) -> str:
    """Counts per block and bucket: variable-length integers, buckets as differences, deflated."""
    out = bytearray()
    for block in blocks:
        _put(out, len(block.counts))
        before = 0
        for index in sorted(block.counts):
            _put(out, index - before)
            _put(out, block.counts[index])
            before = index
    return base64.b64encode(zlib.compress(bytes(out), 9)).decode() if out else ""


def blocks_from_text(text: str) -> list[Histogram]:
    """What `blocks_as_text` wrote; minimum and maximum to the width of a bucket.

    Raises:
        ConfigError: the text is damaged.
    """
    try:
        packed = zlib.decompressobj().decompress(
            base64.b64decode(text, validate=True), _MAX_STORED_BYTES
        )
        numbers = iter(_numbers(packed))
        blocks = []
        for entries in numbers:
            block, index = Histogram(), 0
            for _ in range(entries):
                index += next(numbers)
                block.counts[index] = next(numbers)
            if block.counts:
                block.n = sum(block.counts.values())
                block.min_ns = lowest_ns(min(block.counts))
                block.max_ns = lowest_ns(max(block.counts) + WIDER) - 1
            blocks.append(block)
            if len(blocks) > MAX_BLOCKS:
                raise damaged()
    except (binascii.Error, zlib.error, StopIteration) as error:
        raise damaged() from error
    return blocks


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


def _numbers(packed: bytes) -> Iterable[int]:
    number = shift = 0
    for byte in packed:
        number |= (byte & 0x7F) << shift
        if byte & 0x80:
            shift += 7
        else:
            yield number
            number = shift = 0


# ── Shares ────────────────────────────────────────────────────────────────────────────────────


CONFIDENCE = 0.95


def wilson_interval(count: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Where the true ratio lies when `count` of `n` were seen (Wilson's score interval, 0 to 1).

    (0, 1) for n = 0. Unlike the textbook's p ± z·s it stays within 0 and 1 and holds for small n.
    """
    if not 0 <= count <= n:
        raise ValueError(f"{count} of {n} is no share")
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = count / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)
