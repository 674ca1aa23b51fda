"""A canary's split as measured, held against the split as configured.

Requests are counted by the version that their answers name; every share has its 95 % interval, so
that ten requests are not taken for a measurement. Pure but for the `ask` that it is given.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from services.domain import CONFIDENCE, Answering, Prediction, VersionRef
from services.errors import InferenceFailed, Unreachable

TOLD_TO_WITHIN = 0.10
"""An interval that reaches further than this to either side tells nothing worth acting on."""


@dataclass(frozen=True, slots=True)
class Share:
    """One version's part of the answers, with its 95 % interval; ratios, 0 to 1."""

    version: VersionRef | None
    answered: int
    ratio: float
    low: float
    high: float
    configured_ratio: float | None
    """None for a version that is to have no traffic."""

    @property
    def fits(self) -> bool:
        """Whether the configured share lies within the interval."""
        return self.low <= (self.configured_ratio or 0.0) <= self.high


@dataclass(frozen=True, slots=True)
class Split:
    """What came of `requests` requests; failed ones have no version and no share."""

    requests: int
    failed: Mapping[str, int]
    """Kind of error → how many."""
    shares: tuple[Share, ...]
    verdict: str


def measure(ask: Callable[[], Prediction], requests: int, answering: Sequence[Answering]) -> Split:
    """Ask so many times, one after the other, and count who answered.

    `answering` is the split as read back from the target. A request that fails is counted, and the
    next one is sent; ten in a row end it.
    """
    seen: list[VersionRef | None] = []
    failed: Counter[str] = Counter()
    in_a_row = 0
    for _ in range(requests):
        try:
            seen.append(ask().version)
            in_a_row = 0
        except (InferenceFailed, Unreachable) as error:
            failed[error.kind] += 1
            in_a_row += 1
            if in_a_row == 10:
                break
    return split_of(seen, failed, answering)


def split_of(
    seen: Sequence[VersionRef | None], failed: Mapping[str, int], answering: Sequence[Answering]
) -> Split:
    """The shares of the versions that were seen or are configured, largest share first."""
    configured: dict[VersionRef | None, float] = {}
    for side in answering:
        configured[side.version] = configured.get(side.version, 0.0) + side.percent / 100
    counted = Counter(seen)
    versions = sorted(
        {*configured, *counted}, key=lambda version: (-counted[version], str(version))
    )
    shares = []
    for version in versions:
        low, high = wilson_interval(counted[version], len(seen))
        ratio = counted[version] / len(seen) if seen else math.nan
        shares.append(Share(version, counted[version], ratio, low, high, configured.get(version)))
    requests = len(seen) + sum(failed.values())
    return Split(requests, dict(failed), tuple(shares), _verdict(seen, shares))


def share_words(ratio: float) -> str:
    """A share for people: "34 %"; "–" when it is not known."""
    return "–" if math.isnan(ratio) else f"{ratio * 100:.0f} %"


def _verdict(seen: Sequence[VersionRef | None], shares: Sequence[Share]) -> str:
    if not seen:
        return "Nothing answered: no share can be told."
    if None in seen:
        return "Some answers do not name the version that gave them: no share can be told."
    wrong = next((share for share in shares if not share.fits), None)
    if wrong is not None:
        configured = wrong.configured_ratio or 0.0
        return (
            f"Not as configured: {wrong.version} took {share_words(wrong.ratio)}"
            f" ({share_words(wrong.low)} to {share_words(wrong.high)}),"
            f" configured are {share_words(configured)}."
        )
    widest = max(max(s.high - s.ratio, s.ratio - s.low) for s in shares)
    if widest > TOLD_TO_WITHIN:
        return (
            f"Too few answers to tell: the shares are known to {share_words(widest)} only."
            f" Send {enough_for(shares)} requests."
        )
    return f"As configured, to within {share_words(widest)}."


def enough_for(shares: Sequence[Share]) -> int:
    """So many requests tell these shares to within `TOLD_TO_WITHIN`, in round numbers."""
    z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    spread = max((s.configured_ratio or 0.0) * (1 - (s.configured_ratio or 0.0)) for s in shares)
    return max(50, math.ceil(z * z * spread / TOLD_TO_WITHIN**2 / 50) * 50)


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
