"""Response times against each other: two runs, or the versions that answered in one. Pure.

The difference of p50 and p99 with its confidence interval, and a verdict in words. The intervals
come from resampling (bootstrap) what runs keep, in two ways, of which the wider counts: request by
request, and whole blocks of time, because slow answers come in clusters and are not independent.
They cover what varies inside a run, not from day to day.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from operator import mul
from statistics import NormalDist
from typing import NamedTuple

from services import latency
from services.domain import CONFIDENCE, LoadSummary, Percentiles, WayIn
from services.histogram import (
    Histogram,
    Numbers,
    all_lowest_ns,
    blocks_from_text,
    damaged,
    merged,
    rank_of,
)

_REPLICATES = 1000
_PER_MILLES = (500, 990)
FEWEST_BLOCKS = 5
"""Evenly filled blocks of time in which a version must have answered: from fewer, no interval holds
the truth as often as it says."""
_APART = 0.5
"""Versions that shared less of their time than this answered at different times."""
_UNEVEN = 2.0
"""Versions of which one got so many times the answers of the other did not meet the same load."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How one percentile differs: `ratio` = after / before, with its interval."""

    before_s: float
    after_s: float
    ratio: float
    low: float
    high: float

    @property
    def told(self) -> bool:
        """True when the interval leaves out "the same" by half a percent or more."""
        return self.low >= 1.005 or self.high <= 0.995


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs, or versions, side by side. A percentile is None where one has too few samples."""

    p50: Difference | None
    p99: Difference | None
    verdict: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VersionComparison:
    """Two versions of one run, as the answers name them: `after` against `before`."""

    before: str
    after: str
    found: Comparison


def warnings_of(found: Iterable[Comparison]) -> tuple[str, ...]:
    """The warnings of several comparisons in their order, each once."""
    return tuple(dict.fromkeys(warning for one in found for warning in one.warnings))


def compare(
    before: LoadSummary, after: LoadSummary, names: tuple[str, str] = ("the first", "the second")
) -> Comparison:
    """Response times of the run `after` against those of `before`, with 95 % intervals.

    Each run's blocks are resampled by themselves: the two shared no second.

    Raises:
        ConfigError: a run's stored blocks are damaged.
    """
    blocks = [
        [block for block in blocks_from_text(run.response_blocks) if block.n]
        for run in (before, after)
    ]
    p50 = p99 = None
    if all(blocks):
        # Seeded: the same two runs always get the same verdict. One generator for both, or their
        # resamples would go up and down together and the interval would be too narrow.
        rng = _seeded()
        p50, p99 = _differences(
            (before.response, after.response),
            [_resampled(side, _draws(len(side), rng), rng) for side in blocks],
        )
    warnings = _run_warnings(before, after, names)
    return Comparison(p50, p99, _verdict(p50, p99, names), warnings)


def compare_versions(summary: LoadSummary, model: str = "") -> tuple[VersionComparison, ...]:
    """The versions that answered in one run, each against the one with the most answers.

    Versions of one run share its seconds: what disturbed the machine or the network in one of them
    disturbed both. So a block of time is drawn for all versions together, with the answers that
    each gave in it, and a ratio is that of one run so resampled: what they share cancels, and what
    they do not share widens the interval. Versions that answered one after the other share no
    block, and vary as if apart. Requests are resampled for each version by itself.

    () where one version answered, and for runs of earlier Slipways, which did not keep the versions
    apart. `model`: of versions that answers name by their number alone.

    Raises:
        ConfigError: the run's stored blocks are damaged.
    """
    kept = {
        who: blocks_from_text(summary.response_blocks_by_version[who])
        for who in latency.by_answerer(summary)
        if who in summary.response_blocks_by_version
    }
    if len(kept) < 2:
        return ()
    uneven = len({len(blocks) for blocks in kept.values()}) > 1
    if uneven or not all(any(block.n for block in blocks) for blocks in kept.values()):
        raise damaged()
    rng = _seeded()
    # A second in which nobody answered says nothing of anybody.
    answered = [any(block.n for block in together) for together in zip(*kept.values(), strict=True)]
    kept = {who: list(compress(blocks, answered)) for who, blocks in kept.items()}
    drawn = list(_draws(sum(answered), rng))
    sides = {who: _resampled(blocks, drawn, rng) for who, blocks in kept.items()}
    first, *others = kept
    return tuple(
        VersionComparison(first, who, _beside(summary, (first, who), kept, sides, model))
        for who in others
    )


def _beside(
    summary: LoadSummary,
    pair: tuple[str, str],
    kept: Mapping[str, Sequence[Histogram]],
    sides: Mapping[str, _Side],
    model: str,
) -> Comparison:
    answerers = latency.by_answerer(summary)
    counts, times = zip(*(answerers[who] for who in pair), strict=True)
    names = latency.who_called(pair[0], model), latency.who_called(pair[1], model)
    short = [name for who, name in zip(pair, names, strict=True) if sides[who].even < FEWEST_BLOCKS]
    p50 = p99 = None
    if not short:
        p50, p99 = _differences(times, [sides[who] for who in pair])
    verdict = _verdict(p50, p99, names)
    if short:
        verdict = (
            f"No difference can be told: {' and '.join(short)} answered for too short a part of the"
            " test. Measure for longer."
        )
    warnings = _version_warnings(summary, counts, [kept[who] for who in pair], names)
    return Comparison(p50, p99, verdict, warnings)


def _version_warnings(
    summary: LoadSummary,
    counts: tuple[int, int],
    blocks: Sequence[Sequence[Histogram]],
    names: tuple[str, str],
) -> tuple[str, ...]:
    warnings = []
    if _shared(*blocks) < _APART:
        warnings.append(
            f"{names[0]} and {names[1]} answered mostly at different times: the difference contains"
            " what else changed meanwhile."
        )
    elif max(counts) >= _UNEVEN * min(counts):
        warnings.append(
            f"{names[0]} gave {counts[0]:,} answers, {names[1]} {counts[1]:,}: load alone changes"
            " latency."
        )
    failed = summary.requests - summary.ok
    if failed and failed >= 0.01 * summary.requests:
        warnings.append(
            f"{failed / summary.requests:.1%} of the requests failed, and no failure says whose it"
            " was: what failed has no latency."
        )
    return tuple(map(_sentence, warnings))


def _shared(before: Sequence[Histogram], after: Sequence[Histogram]) -> float:
    """How much of their time two versions shared, 0 to 1.

    By eighths of the test: over those even few answers are spread evenly, if they are at all.
    """
    counts = [[0] * 8, [0] * 8]
    for side, blocks in zip(counts, (before, after), strict=True):
        for number, block in enumerate(blocks):
            side[number * 8 // len(blocks)] += block.n
    before_n, after_n = sum(counts[0]), sum(counts[1])
    return sum(min(b / before_n, a / after_n) for b, a in zip(counts[0], counts[1], strict=True))


# ── Resampling ────────────────────────────────────────────────────────────────────────────────


class _Side(NamedTuple):
    """What resampling gave for one side: replicates of each quantile in ns, by per mille."""

    by_request: dict[int, list[float]]
    by_block: dict[int, list[float]]
    """NaN for a replicate in which the side has no answer."""
    even: float
    """So many blocks with equally many answers would vary as much as its own."""


def _seeded() -> random.Random:
    # Always the same: so is the verdict over the same run.
    return random.Random(20)  # noqa: S311 - resampling, no secret


def _draws(blocks: int, rng: random.Random) -> Iterator[list[int]]:
    """For each replicate how often each block is drawn."""
    for _ in range(_REPLICATES):
        drawn = Counter(rng.choices(range(blocks), k=blocks))
        yield [drawn[block] for block in range(blocks)]


def _resampled(
    blocks: Sequence[Histogram], draws: Iterable[Sequence[int]], rng: random.Random
) -> _Side:
    whole = merged(blocks)
    indexes, counts = whole.buckets()
    edges = all_lowest_ns(indexes) + all_lowest_ns(indexes + whole.step)
    middles = ((edges - 1) / 2).tolist()
    ends = counts.cumsum().tolist()
    # Row i: how many samples of each block lie in buckets up to i.
    columns = list(zip(*(_cumulative(block, indexes) for block in blocks), strict=True))
    by_request: dict[int, list[float]] = {}
    for per_mille in _PER_MILLES:
        rank = rank_of(whole.n, per_mille)
        # The k-th of n values resampled with replacement is the quantile at the k-th of n uniform
        # draws, which is Beta(k, n + 1 - k) distributed: no need to draw all n.
        by_request[per_mille] = [
            middles[bisect_left(ends, rng.betavariate(rank, whole.n + 1 - rank) * whole.n)]
            for _ in range(_REPLICATES)
        ]
    by_block: dict[int, list[float]] = {per_mille: [] for per_mille in _PER_MILLES}
    for weights in draws:
        total = sum(map(mul, weights, columns[-1]))
        for per_mille in _PER_MILLES:
            rank = rank_of(total, per_mille)
            at = bisect_left(columns, rank, key=lambda column: sum(map(mul, weights, column)))
            by_block[per_mille].append(middles[at] if total else math.nan)
    even = whole.n**2 / sum(block.n**2 for block in blocks)
    return _Side(by_request, by_block, even)


def _cumulative(block: Histogram, indexes: Numbers) -> list[int]:
    sums: list[int] = block.counts_in(indexes).cumsum().tolist()
    return sums


def _differences(
    times: tuple[Percentiles, Percentiles], sides: Sequence[_Side]
) -> tuple[Difference | None, Difference | None]:
    before, after = times
    return (
        _difference(before.p50, after.p50, sides, 500),
        _difference(before.p99, after.p99, sides, 990),
    )


def _difference(
    before_s: float | None, after_s: float | None, sides: Sequence[_Side], per_mille: int
) -> Difference | None:
    if before_s is None or after_s is None:
        return None
    tail = (1 - CONFIDENCE) / 2
    by_request = _within([side.by_request[per_mille] for side in sides], tail)
    few = min(side.even for side in sides)
    by_block = _within([side.by_block[per_mille] for side in sides], _tail_of_few(tail, few))
    ratio = after_s / before_s if before_s else math.inf
    low, high = min(by_request[0], by_block[0]), max(by_request[1], by_block[1])
    return Difference(before_s, after_s, ratio, min(low, ratio), max(high, ratio))


def _tail_of_few(tail: float, blocks: float) -> float:
    """The smaller tail to cut off replicates of so few blocks, for the interval to hold as often.

    Resampling few of anything varies too little. What Student's t adds to the normal distribution,
    and a variance over n what one over n - 1 does, is had by cutting off less: T. Hesterberg, What
    Teachers Should Know About the Bootstrap, 2015, section 4.1.3 (expanded percentiles).
    """
    if blocks <= 2:
        return 0.0
    z, free = NormalDist().inv_cdf(1 - tail), blocks - 1
    # The first terms of Student's t by the normal's: Abramowitz and Stegun, 26.7.5.
    t = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
    return NormalDist().cdf(-t * math.sqrt(blocks / free))


def _within(replicates: Sequence[Sequence[float]], tail: float) -> tuple[float, float]:
    """Between what ratios all but `tail` at each end of the replicates are."""
    ratios = sorted(
        after / before if before else math.inf
        for before, after in zip(*replicates, strict=True)
        if not (math.isnan(before) or math.isnan(after))
    )
    cut = round(len(ratios) * tail)
    return ratios[cut], ratios[-1 - cut]


# ── In words ──────────────────────────────────────────────────────────────────────────────────


def request_warning(before: str, after: str) -> str:
    """Why two runs of different requests cannot be compared; "" when alike, or when not known."""
    if before == after or not before or not after:
        return ""
    return (
        f"The runs sent different requests ({before} and {after}): the difference contains that of"
        " the requests."
    )


def hop_warning(before: WayIn | None, after: WayIn | None) -> str:
    """Why two runs over different ways in cannot be compared; "" when they took the same one."""
    if before == after or before is None or after is None:
        return ""
    return (
        f"The runs took different ways in ({before} and {after}): the difference contains that"
        " of the ways."
    )


def _verdict(p50: Difference | None, p99: Difference | None, names: tuple[str, str]) -> str:
    if p50 is None and p99 is None:
        return "No difference can be told: too few requests were answered."
    parts = [(name, difference) for name, difference in (("p99", p99), ("p50", p50)) if difference]
    told = [f"{_by_how_much(d)} at {name}" for name, d in parts if d.told]
    untold = [f"at {name} ({_between(d)})" for name, d in parts if not d.told]
    sentences = []
    if told:
        sentences.append(f"{names[1]} is {' and '.join(told)} than {names[0]}.")
    if untold:
        sentences.append(f"no difference can be told {' or '.join(untold)}.")
    if p99 is None:
        sentences.append("too few requests were answered to compare p99.")
    return " ".join(map(_sentence, sentences))


def _by_how_much(difference: Difference) -> str:
    low, high = difference.low, difference.high
    if low >= 3:
        return f"{low:.1f} to {high:.1f} times slower"
    word = "slower" if low > 1 else "faster"
    near, far = (low - 1, high - 1) if low > 1 else (1 - high, 1 - low)
    from_percent, to_percent = round(near * 100), round(far * 100)
    if from_percent == to_percent:
        return f"{to_percent} percent {word}"
    return f"{from_percent} to {to_percent} percent {word}"


def _between(difference: Difference) -> str:
    return f"between {_percent(difference.low)} and {_percent(difference.high)}"


def _percent(ratio: float) -> str:
    percent = round((ratio - 1) * 100)
    if not percent:
        return "equal"
    return f"{abs(percent)} percent {'slower' if percent > 0 else 'faster'}"


def _run_warnings(
    before: LoadSummary, after: LoadSummary, names: tuple[str, str]
) -> tuple[str, ...]:
    warnings = [
        f"{name} was client-limited: its figures are those of the client, too."
        for name, summary in zip(names, (before, after), strict=True)
        if summary.client_limited
    ]
    if before.target_rate != after.target_rate:
        warnings.append(
            f"The runs were paced differently ({_pace(before)} and {_pace(after)}): load alone"
            " changes latency."
        )
    failed = [
        1 - summary.ok / summary.requests if summary.requests else 0.0
        for summary in (before, after)
    ]
    if abs(failed[0] - failed[1]) >= 0.01:
        warnings.append(
            f"{failed[0]:.1%} of the requests failed in {names[0]}, {failed[1]:.1%} in {names[1]}:"
            " what failed has no latency."
        )
    return tuple(map(_sentence, warnings))


def _pace(summary: LoadSummary) -> str:
    return "burst" if summary.target_rate is None else f"{summary.target_rate:g} requests a second"


def _sentence(text: str) -> str:
    """With a capital letter, unless a name begins it: `wine/2` stays."""
    return text[:1].upper() + text[1:] if text.split(" ", 1)[0].isalpha() else text
