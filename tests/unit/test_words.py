"""The sentences that pages open with."""

from __future__ import annotations

import pytest

from dashboard import words
from services.domain import (
    Answering,
    Finding,
    Mode,
    Phase,
    Service,
    Verdict,
    VersionRef,
    after_failure,
)


def test_what_still_answers_is_said_once() -> None:
    service = Service(
        name="parcel", target="local", namespace="", mode=Mode.LOCAL, managed=True,
        object_version="2", intent=None, release=2, phase=Phase.FAILED,
        message="A package is missing. prices/1 still answers.",
        answering=(Answering(VersionRef("prices", 1), 1, 100, 1),),
    )  # fmt: skip
    assert words.trouble(service).count("prices/1 still answers.") == 1


def test_one_of_a_thing_is_no_plural() -> None:
    assert [words.counted(count, "request") for count in (0, 1, 2_000)] == [
        "0 requests",
        "1 request",
        "2,000 requests",
    ]


def test_a_check_that_did_not_answer_yet_is_no_check_that_works() -> None:
    passed = Finding("registry", Verdict.PASS, "it answers")
    said = words.health_sentence([passed], ["target t"])
    assert said == "Still checking: target t. Until now 1 passed."


def test_what_could_not_be_checked_is_neither_awaited_nor_said_to_work() -> None:
    passed = Finding("registry", Verdict.PASS, "it answers")
    said = words.health_sentence([passed], [], ["target t"])
    assert said == "Could not be checked: target t."


def side(number: int, release: int, percent: int) -> Answering:
    return Answering(VersionRef("wine", number), release, percent)


@pytest.mark.parametrize(
    ("answering", "said"),
    [
        ((), "Nothing answers."),
        ((side(4, 4, 100),), "wine/4 still answers."),
        ((side(5, 5, 100),), "wine/5 has 100 % of the traffic."),
        (
            (side(4, 4, 50), side(5, 5, 50)),
            "wine/4 50 % still answers; wine/5 has 50 % of the traffic.",
        ),
    ],
    ids=["nothing", "the one before", "the failed one", "both"],
)
def test_a_release_that_failed_is_not_said_to_still_answer(
    answering: tuple[Answering, ...], said: str
) -> None:
    assert after_failure(answering, 5) == said


def rolling(mode: Mode, *answering: Answering) -> Service:
    return Service(
        name="wine", target="t", namespace="", mode=mode, managed=True, object_version="2",
        intent=None, release=5, phase=Phase.ROLLING_OUT, answering=answering,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("mode", "until"),
    [
        (Mode.LOCAL, "it is verified"),
        (Mode.STANDARD, "its pods are ready"),
        (Mode.KNATIVE, "its pods are ready"),
    ],
)
def test_how_long_the_version_before_answers_is_said_as_the_target_does_it(
    mode: Mode, until: str
) -> None:
    said = words.service_sentence(rolling(mode, side(4, 4, 100)))
    assert said.endswith(f"wine/4 answers until {until}.")


def test_a_new_version_that_has_the_traffic_is_not_said_to_give_it_up() -> None:
    said = words.service_sentence(rolling(Mode.STANDARD, side(5, 5, 100)))
    assert said.endswith("wine/5 answers already, and is not verified yet.")
