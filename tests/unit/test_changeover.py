"""The moment at which the answering version changed, from a load test's seconds."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from services import changeover
from services.changeover import Changeover, changeovers
from services.domain import Percentiles, Tick

NONE = Percentiles(None, None, None, None, None, None, None)
BEGAN = datetime(2026, 3, 1, 14, 30, 0, tzinfo=UTC)


def second(number: int, by_version: Mapping[str, int], *, warm_up: bool = False) -> Tick:
    ok = sum(by_version.values())
    return Tick(
        float(number), ok, {}, float(ok), NONE, NONE, by_version=by_version, warm_up=warm_up
    )


def seconds(*told: str) -> list[Tick]:
    """One second per word: the versions that answered in it, as digits."""
    return [
        second(at, dict.fromkeys(word.replace("-", ""), 10))
        for at, word in enumerate(told, start=1)
    ]


def test_one_version_throughout_changes_nothing() -> None:
    assert changeovers(seconds("1", "1", "1")) == ()


def test_a_roll_out_is_marked_from_the_first_answer_of_the_new_version() -> None:
    assert changeovers(seconds("1", "1", "12", "12", "2")) == (
        Changeover("2", from_s=2.0, both_until_s=4.0, beside=("1",), alone=True),
    )


def test_a_second_in_which_the_old_version_answered_once_belongs_to_both() -> None:
    ticks = [*seconds("1", "12"), second(3, {"2": 500, "1": 1}), *seconds("-", "-", "-", "2")[3:]]
    (found,) = changeovers(ticks)
    assert found.both_until_s == 3.0


def test_a_late_answer_of_the_old_version_extends_the_time_of_both() -> None:
    (found,) = changeovers(seconds("1", "12", "2", "2", "12", "2"))
    assert (found.both_until_s, found.alone) == (5.0, True)


def test_a_change_without_a_common_second_has_none() -> None:
    (found,) = changeovers(seconds("1", "1", "-", "2"))
    assert (found.from_s, found.both_until_s, found.alone) == (3.0, None, True)


def test_a_canary_that_goes_on_is_no_switch() -> None:
    (found,) = changeovers(seconds("1", "12", "1", "12", "12"))
    assert (found.who, found.alone, found.both_until_s) == ("2", False, 5.0)


def test_a_rare_canary_begins_once_and_not_with_every_answer() -> None:
    rare = ["12", *["1"] * 6]
    assert len(changeovers(seconds(*["1"] * 6, *rare, *rare, "12"))) == 1


def test_a_version_whose_first_answer_came_late_by_chance_did_not_begin_then() -> None:
    ticks = [second(1, {"1": 2}), second(2, {"1": 2}), second(3, {"1": 1, "2": 1})]
    ticks += [second(at, {"1": 2}) for at in range(4, 9)]
    assert changeovers(ticks) == ()


def test_a_version_that_took_all_of_the_traffic_after_a_few_answers_began_then() -> None:
    (found,) = changeovers([second(1, {"1": 2}), *(second(at, {"2": 2}) for at in range(2, 6))])
    assert (found.who, found.from_s) == ("2", 1.0)


def test_a_return_to_the_old_version_is_a_change_of_its_own() -> None:
    found = changeovers(seconds("1", "12", *["2"] * 15, "12", "1"))
    assert [change.who for change in found] == ["2", "1"]


def test_the_warm_up_is_not_told() -> None:
    ticks = [second(-1, {"1": 5}, warm_up=True), *seconds("2", "2")]
    assert changeovers(ticks) == ()


def test_releases_are_told_apart_where_no_version_is_named() -> None:
    ticks = [
        Tick(1.0, 5, {}, 5.0, NONE, NONE, by_release={6: 5}),
        Tick(2.0, 5, {}, 5.0, NONE, NONE, by_release={7: 5}),
    ]
    (found,) = changeovers(ticks)
    assert found.who == "release 7"


def test_answers_that_name_no_version_are_not_those_of_one_that_does() -> None:
    unnamed = Tick(1.0, 5, {}, 5.0, NONE, NONE)
    (found,) = changeovers([unnamed, *seconds("-", "2", "2")[1:]])
    assert (found.who, found.from_s) == ("2", 1.0)


def test_a_second_of_failures_changes_nothing() -> None:
    failed = Tick(2.0, 0, {"reset": 5}, 0.0, NONE, NONE)
    first, _, third = seconds("1", "1", "1")
    assert changeovers([first, failed, third]) == ()


def test_a_mark_says_the_time_of_day() -> None:
    (found,) = changeovers(seconds("1", "12", "2"))
    assert changeover.mark_words(found, BEGAN) == "version 2 answers from 14:30:01"


def test_the_sentence_names_the_time_of_both() -> None:
    (found,) = changeovers(seconds("1", "12", "2"))
    told = changeover.sentence(found, BEGAN)
    assert told == "Version 2 answers from 14:30:01; until 14:30:02 version 1 answered, too."


def test_without_a_clock_seconds_of_the_test_are_told() -> None:
    (found,) = changeovers(seconds("1", "1", "2"))
    assert changeover.sentence(found, None) == "Version 2 answers from second 2."


@given(st.lists(st.sets(st.sampled_from("123"), max_size=3), max_size=40))
def test_no_second_of_another_version_lies_in_the_time_told_as_one_alone(
    answered: list[set[str]],
) -> None:
    ticks = [second(at, dict.fromkeys(who, 1)) for at, who in enumerate(answered, start=1)]
    for change in changeovers(ticks):
        if not change.alone:
            continue
        until = change.both_until_s or change.from_s
        later = [t for t in ticks if t.at_s - 1 >= until and change.who in t.by_version]
        # From there on, up to the next version's beginning, nobody else answered.
        next_s = min(
            (c.from_s for c in changeovers(ticks) if c.from_s >= until and c.who != change.who),
            default=float("inf"),
        )
        assert all(set(t.by_version) == {change.who} for t in later if t.at_s <= next_s)
