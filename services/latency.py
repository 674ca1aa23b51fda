"""The arithmetic of latency: recording a run, summaries and judgements.

Pure: no clock, no socket. Times come in as seconds or integer nanoseconds and go out as seconds.
`Recorder` joins what the load engine counted, as `histogram`s; pages and terminal ask `judge`;
`difference` compares.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from services.domain import (
    LoadSummary,
    Objective,
    Percentiles,
    Sample,
    Tick,
    Trailing,
)
from services.histogram import (
    MAX_BLOCKS,
    MIN_TAIL,
    NO_PERCENTILES,
    Gathered,
    Histogram,
    Packed,
    all_lowest_ns,
    blocks_as_text,
    enough_for,
    merged,
    rank_of,
)
from services.tally import HALF, LEAVE_WITHIN_S, NOT_SENT, NS, Answerer

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


# ── Recording a run ───────────────────────────────────────────────────────────────────────────

_LIVE_BARS = 60
_LIVE_BITS = 4
"""Made anew every second, and drawn as often: 16 bars for each doubling of the time at most."""
TRAILING: Mapping[str, int] = {"p50": 500, "p95": 950, "p99": 990}
"""The percentiles that a running test tells over its newest seconds, per mille."""
MOST_COMPARED = 5
"""Versions of one run whose times are kept apart by block: the first ones that answered."""
_MOST_VERSIONS_TEXT = 128 * 1024
"""Characters that a run keeps for all of its versions' blocks; longer ones are joined in pairs."""
_FEWEST_BLOCKS = 8
"""… but never to fewer: an interval needs some."""


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
        """Response times of every answerer together; to be read only."""
        several = tuple(self.response.values())
        return several[0] if len(several) == 1 else merged(several)


class _Trail:
    """The newest seconds of a run, as many as the rarest of TRAILING needs behind it.

    Memory is bounded by samples, not by time: some thousand, and those of one more second.
    """

    def __init__(self) -> None:
        self._seconds: deque[tuple[float, Packed]] = deque()
        self._n = 0

    def add(self, from_s: float, second: Histogram) -> None:
        """Take one second's times; `from_s`: when it began."""
        if not second.n:
            return
        self._seconds.append((from_s, second.packed()))
        self._n += second.n
        while enough_for(self._n - self._seconds[0][1].n, max(TRAILING.values())):
            self._n -= self._seconds.popleft()[1].n

    def at(self, end_s: float) -> dict[str, Trailing]:
        """Each percentile over the fewest whole seconds before `end_s` that are enough for it."""
        found: dict[str, Trailing] = {}
        seconds, window = iter(reversed(self._seconds)), Gathered()
        from_s = end_s
        for name, per_mille in sorted(TRAILING.items(), key=lambda one: one[1]):
            while not enough_for(window.n, per_mille):
                next_one = next(seconds, None)
                if next_one is None:
                    return found
                from_s, second = next_one
                window.add(second)
            found[name] = Trailing(window.quantile_s(per_mille), round(end_s - from_s, 3))
        return found


class Recorder:
    """Joins a run's slices into ticks and one summary.

    Memory does not grow with the run where it is asked for a tick now and then: till then slices
    wait as they are.

    `block_s` is the shortest block of time kept apart; it doubles whenever MAX_BLOCKS are full.
    """

    def __init__(
        self,
        *,
        target_rate: float | None = None,
        objective: Objective | None = None,
        block_s: float = 0.25,
        pause: Callable[[], object] = lambda: None,
    ) -> None:
        """`pause` is called between pieces of work, each for one answerer or one figure."""
        self._pause = pause
        self._target_rate = target_rate
        self._objective = objective or Objective()
        self._whole = Slice(0.0)
        self._block_s = block_s
        # Coarser than the rest: they only serve to resample, and there are many. By who answered:
        # that costs nothing more where it is one; None is for all beyond MOST_COMPARED.
        self._blocks: dict[_Who, dict[int, Histogram]] = {None: {}}
        self._spread = Histogram()
        self._recent = Slice(0.0)
        # Slices that are in no block yet: when each ended, and its response times.
        self._new: list[tuple[float, Mapping[Answerer, Histogram]]] = []
        self._recent_from_s = 0.0
        self._trail = _Trail()

    def add(self, piece: Slice) -> None:
        """Take one slice, later than those before it."""
        self._recent.merge(piece)
        self._new.append((piece.end_s, piece.response))

    def _keep_block(self, end_s: float, response: Mapping[Answerer, Histogram]) -> None:
        # A slice ends on its block's border: the middle of it is safely inside.
        block = max(0, int((end_s - self._block_s / 2) / self._block_s))
        while block >= MAX_BLOCKS:
            self._blocks = {who: _joined_in_pairs(kept) for who, kept in self._blocks.items()}
            self._block_s *= 2
            block //= 2
        for answerer, histogram in response.items():
            kept, coarse = self._blocks_of(answerer), histogram.coarser()
            coarse.count()
            if block in kept:
                kept[block].merge(coarse)
            else:
                kept[block] = coarse
            self._pause()

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
        new, self._new = self._new, []
        for end_s, response in new:
            self._keep_block(end_s, response)
        for histogram in (*recent.response.values(), recent.service, recent.lateness):
            histogram.count()
            self._pause()
        for histogram in recent.response.values():
            self._spread.merge(histogram.coarser(HALF >> _LIVE_BITS))
            self._pause()
        self._whole.merge(recent)
        self._pause()
        return recent

    def tick(self, *, final: bool = False) -> Tick:
        """What happened since the last tick."""
        recent, from_s = self._take_in(), self._recent_from_s
        span_s = recent.end_s - from_s
        self._recent_from_s = recent.end_s
        response = recent.whole_response()
        self._pause()
        so_far = self._whole.whole_response()
        self._pause()
        self._trail.add(from_s, response)
        trailing = self._trail.at(recent.end_s)
        self._pause()
        bars = self._spread.bars(_LIVE_BARS, _LIVE_BITS)
        self._pause()
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
            histogram=bars,
            so_far=so_far.percentiles(),
            trailing=trailing,
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
            judgement,
            f"Stopped early: {stopped}." if stopped else "",
            _failures(summary),
            limit or _trust(summary),
            _waiting(summary),
            _not_sent(summary),
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
    response_ns: defaultdict[tuple[int, Answerer], list[int]] = defaultdict(list)
    service_ns: defaultdict[int, list[int]] = defaultdict(list)
    first_s, last_s = math.inf, -math.inf
    for sample in samples:
        first_s, last_s = min(first_s, sample.intended_s), max(last_s, sample.done_s)
        block = max(0, int(sample.done_s / block_s))
        piece = pieces.setdefault(block, Slice((block + 1) * block_s))
        if sample.error is not None:
            piece.errors[sample.error] += 1
            continue
        answerer = Answerer(release=sample.release)
        response_ns[block, answerer].append(round((sample.done_s - sample.intended_s) * NS))
        service_ns[block].append(round((sample.done_s - sample.sent_s) * NS))
    for (block, answerer), times in response_ns.items():
        pieces[block].response.setdefault(answerer, Histogram()).record_all(times)
        pieces[block].service.record_all(service_ns.pop(block, ()))
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


def recorded_as(summary: LoadSummary, version: str, release: int | None) -> tuple[str, int | None]:
    """The version and the release that a run is kept under, of those that it was meant for.

    Of several that answered none can be named as the one that was measured: all are, as answered.
    """
    if max(len(summary.by_version), len(summary.by_release)) < 2:
        return version, release
    return answered_words(summary, version.rpartition("/")[0]), None


def _trust(summary: LoadSummary) -> str:
    if not summary.requests:
        return "No request was measured."
    if not summary.ok:
        return "No request was answered, so there are no times to read."
    if summary.lateness_p99_s is None or summary.requests < 100:
        return "The load engine was not the limit."
    of_those = " that were sent" if NOT_SENT in summary.errors else ""
    return (
        f"The load engine was not the limit: 99 of 100 requests{of_those} left within"
        f" {in_words(summary.lateness_p99_s)} of their time."
    )


def _failures(summary: LoadSummary) -> str:
    failed = summary.requests - summary.ok
    if not failed:
        return ""
    kinds = ", ".join(
        f"{count:,} {kind}" for kind, count in sorted(summary.errors.items(), key=lambda kv: -kv[1])
    )
    answered = "; latencies are those of the answered ones" if summary.ok else ""
    return f"{_failed_of(failed, summary.requests)} ({kinds}){answered}."


def _failed_of(failed: int, requests: int) -> str:
    if failed < requests:
        return f"{failed:,} of {requests:,} requests failed"
    return f"All {requests:,} requests failed" if requests > 1 else "The one request failed"


def _waiting(summary: LoadSummary) -> str:
    sent = summary.requests - summary.errors.get(NOT_SENT, 0)
    if summary.waited <= WAITED_SHARE * sent:
        return ""
    which = "requests" if sent == summary.requests else "requests that were sent"
    return (
        f"{summary.waited / sent:.0%} of the {which} waited for a free connection; that wait is in"
        " the response time, not in the service time."
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
        return False, f"{_failed_of(failed, requests)}; a p99 leaves room for 1 in 100."
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
    return f"p99{counted} is {in_words(response.at_rank_s(rank))}"


def _slower_than(allowed_s: float, response: Histogram, lateness: Histogram) -> int:
    """How many answers at least took longer, whichever of them were the late ones.

    All but so many requests left at most x late; of the answers longer than allowed + x, as many
    may be theirs, and the rest is the server's. The best x counts.
    """
    if not lateness.n:
        return 0
    indexes, counts = lateness.buckets()
    later = lateness.n - counts.cumsum()
    surely = response.over_each(allowed_s * NS + all_lowest_ns(indexes + 1)) - later
    return max(0, int(surely.max()))


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
