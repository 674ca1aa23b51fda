"""A canary's split, measured: shares, their intervals, and what may be said of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.domain import Answering, Prediction, Protocol, Timing, VersionRef, WayIn
from services.errors import InferenceFailed
from services.split import Split, measure, split_of, wilson_interval

OLD, NEW = VersionRef("wine", 1), VersionRef("wine", 2)
CONFIGURED = (Answering(OLD, 1, 70), Answering(NEW, 2, 30))


def seen(old: int, new: int) -> Split:
    return split_of([OLD] * old + [NEW] * new, {}, CONFIGURED)


def answer(version: VersionRef | None) -> Prediction:
    timing = Timing(0.0, 0.01, 0.0)
    return Prediction((), 200, timing, "http://x", WayIn.INGRESS, Protocol.V2, b"", version=version)


def test_a_share_comes_with_its_interval_and_what_was_configured() -> None:
    new = next(share for share in seen(140, 60).shares if share.version == NEW)
    assert (new.answered, new.ratio, new.configured_ratio) == (60, 0.3, 0.3)
    assert new.low == pytest.approx(0.2408, abs=1e-4)
    assert new.high == pytest.approx(0.3668, abs=1e-4)


def test_a_split_that_fits_is_said_to_fit_and_how_closely() -> None:
    assert seen(140, 60).verdict == "As configured, to within 7 %."


def test_a_version_that_gets_another_share_is_named() -> None:
    assert seen(199, 1).verdict.startswith("Not as configured: wine/1 took 100 %")


def test_ten_answers_are_too_few_and_the_number_that_tells_is_given() -> None:
    assert seen(7, 3).verdict.startswith("Too few answers to tell")
    assert "Send 100 requests" in seen(7, 3).verdict


def test_a_version_that_was_to_have_nothing_and_answers_is_not_as_configured() -> None:
    split = split_of([OLD] * 150 + [VersionRef("wine", 9)] * 50, {}, (Answering(OLD, 1, 100),))
    assert split.verdict.startswith("Not as configured")


def test_answers_without_a_version_tell_no_share() -> None:
    assert "no share can be told" in split_of([OLD, None], {}, CONFIGURED).verdict


def test_failed_requests_are_counted_by_kind_and_take_no_share() -> None:
    coming: Iterator[Prediction | InferenceFailed] = iter(
        [answer(OLD), InferenceFailed("500"), answer(NEW), answer(OLD)]
    )

    def ask() -> Prediction:
        given = next(coming)
        if isinstance(given, InferenceFailed):
            raise given
        return given

    split = measure(ask, 4, CONFIGURED)
    assert (split.requests, split.failed) == (4, {"InferenceFailed": 1})
    assert sum(share.answered for share in split.shares) == 3


def test_a_service_that_only_fails_is_not_asked_for_ever() -> None:
    def ask() -> Prediction:
        raise InferenceFailed("500")

    split = measure(ask, 500, CONFIGURED)
    assert split.requests == 10
    assert split.verdict == "Nothing answered: no share can be told."


@given(st.integers(0, 300), st.integers(0, 300))
def test_whatever_is_seen_the_shares_add_up_and_lie_in_their_intervals(old: int, new: int) -> None:
    split = seen(old, new)
    assert sum(share.answered for share in split.shares) == old + new == split.requests
    if old + new:
        assert all(s.low - 1e-9 <= s.ratio <= s.high + 1e-9 for s in split.shares)


@given(st.integers(0, 500), st.integers(0, 500))
def test_a_wilson_interval_holds_the_share_and_stays_within_bounds(count: int, rest: int) -> None:
    n = count + rest
    low, high = wilson_interval(count, n)
    assert 0 <= low <= high <= 1
    assert n == 0 or low - 1e-12 <= count / n <= high + 1e-12


def test_the_wilson_interval_is_the_published_one() -> None:
    # Newcombe 1998, table I: 15 of 148 gives 0.0624 to 0.1605.
    low, high = wilson_interval(15, 148)
    assert (round(low, 4), round(high, 4)) == (0.0624, 0.1605)


def test_an_impossible_share_is_refused() -> None:
    with pytest.raises(ValueError, match="3 of 2"):
        wilson_interval(3, 2)
