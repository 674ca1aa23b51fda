"""When the answering version changed while a load test ran: from its seconds to moments. Pure.

A load test that runs through a roll-out measures two versions. Every answer says who gave it
(engine.py), every tick counts its answers by version; here those counts become changes: the second
in which a version began to answer, and the last one in which another still answered beside it. A
second in which both answered is never told as one of the new version alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.domain import Tick

BY_CHANCE = 0.01
"""So improbable is no chance: a version that took its share from the first answer on, and yet gave
none of those before its first, began later."""
GONE_AFTER_S = 10.0
"""A version that is silent for less is still there: at a small share of the traffic, or a low rate,
not every second has an answer of each."""

_UNNAMED = "an unnamed version"


@dataclass(frozen=True, slots=True)
class Changeover:
    """A version that began to answer during a load test; seconds since its measured start."""

    who: str
    """As the answers name it: `wine/2`, `2`; `release 7` where answers name releases alone."""
    from_s: float
    """The beginning of the second of its first answer."""
    both_until_s: float | None
    """The end of the last second in which another version answered, too; None when none did."""
    beside: tuple[str, ...]
    """The others that answered in that time."""
    alone: bool
    """Whether it answered alone afterwards."""


@dataclass(frozen=True, slots=True)
class _Second:
    """One second of a test: when it was, and its answers by who gave them."""

    from_s: float
    to_s: float
    counts: Mapping[str, int]


@dataclass(slots=True)
class _Span:
    """One version's uninterrupted time: from the start of a second to the end of another."""

    who: str
    from_s: float
    to_s: float


def changeovers(ticks: Sequence[Tick]) -> tuple[Changeover, ...]:
    """Every version that began to answer while the test ran, in order of time."""
    seconds = _answered_seconds(ticks)
    spans = _spans(seconds)
    found = []
    for span in spans:
        if _was_there_before(span, seconds):
            continue
        beside = [
            other
            for other in spans
            if other is not span and other.from_s < span.to_s and other.to_s > span.from_s
        ]
        others_end_s = max((other.to_s for other in beside), default=None)
        found.append(
            Changeover(
                span.who,
                span.from_s,
                None if others_end_s is None else min(others_end_s, span.to_s),
                tuple(dict.fromkeys(other.who for other in beside)),
                alone=others_end_s is None or others_end_s < span.to_s,
            )
        )
    return tuple(found)


def _was_there_before(span: _Span, seconds: Sequence[_Second]) -> bool:
    """Whether a version may have taken its share of the traffic from the beginning on.

    At a small share, or a low rate, its first answer is not one of the first second's.
    """
    if span.from_s - seconds[0].from_s >= GONE_AFTER_S:
        return False
    before = sum(sum(one.counts.values()) for one in seconds if one.from_s < span.from_s)
    beside = [one.counts for one in seconds if span.from_s <= one.from_s < span.to_s]
    share = sum(one.get(span.who, 0) for one in beside) / sum(sum(one.values()) for one in beside)
    return (1 - share) ** before > BY_CHANCE


def counts_by_answerer(ticks: Sequence[Tick]) -> list[Mapping[str, int]]:
    """Each tick's answers by who gave them: by version, or by release where none is ever named."""
    if any(tick.by_version for tick in ticks):
        return [_with_unnamed(tick) for tick in ticks]
    return [
        {f"release {release}": count for release, count in tick.by_release.items()}
        for tick in ticks
    ]


def totals(ticks: Sequence[Tick]) -> dict[str, int]:
    """Answers of the whole run by who gave them, in words, in order of their first one."""
    found: dict[str, int] = {}
    for counts in counts_by_answerer(ticks):
        for who, count in counts.items():
            found[who_words(who)] = found.get(who_words(who), 0) + count
    return {who: count for who, count in found.items() if count}


def _with_unnamed(tick: Tick) -> Mapping[str, int]:
    # Whoever does not say its version is another one, as far as anybody can tell.
    unnamed = tick.ok - sum(tick.by_version.values())
    return {**tick.by_version, _UNNAMED: unnamed} if unnamed > 0 else tick.by_version


def _answered_seconds(ticks: Sequence[Tick]) -> list[_Second]:
    """Every measured second that somebody is known to have answered."""
    seconds = []
    start_s = 0.0
    for tick, counts in zip(ticks, counts_by_answerer(ticks), strict=True):
        if tick.warm_up:
            continue
        answered = {who: count for who, count in counts.items() if count}
        if answered:
            seconds.append(_Second(start_s, tick.at_s, answered))
        start_s = tick.at_s
    return seconds


def _spans(seconds: Sequence[_Second]) -> list[_Span]:
    spans: list[_Span] = []
    newest: dict[str, _Span] = {}
    for second in seconds:
        for who in sorted(second.counts):
            span = newest.get(who)
            if span is not None and second.from_s - span.to_s < GONE_AFTER_S:
                span.to_s = second.to_s
                continue
            newest[who] = span = _Span(who, second.from_s, second.to_s)
            spans.append(span)
    return spans


# ── In words ──────────────────────────────────────────────────────────────────────────────────


def who_words(who: str) -> str:
    """`2` → "version 2"; names that say it themselves stay: `wine/2`, `release 7`."""
    return f"version {who}" if who.isdigit() else who


def moment_words(at_s: float, began_at: datetime | None) -> str:
    """A moment of the test by the clock, in `began_at`'s time zone; else by its seconds."""
    if began_at is None:
        return f"second {at_s:.0f}"
    return f"{began_at + timedelta(seconds=at_s):%H:%M:%S}"


def mark_words(change: Changeover, began_at: datetime | None) -> str:
    """What stands at the change's mark in a chart."""
    return f"{who_words(change.who)} answers from {moment_words(change.from_s, began_at)}"


def sentence(change: Changeover, began_at: datetime | None) -> str:
    """One change in a sentence, with the time in which both answered."""
    told = _first_upper(mark_words(change, began_at))
    if change.both_until_s is None:
        return f"{told}."
    others = " and ".join(who_words(who) for who in change.beside)
    until = moment_words(change.both_until_s, began_at)
    if change.alone:
        return f"{told}; until {until} {others} answered, too."
    return f"{told}, beside {others} until {until}."


def _first_upper(text: str) -> str:
    return text if "/" in text.split(" ", 1)[0] else text[:1].upper() + text[1:]
