"""The sentences that pages open with."""

from __future__ import annotations

from dashboard import words
from services.domain import Answering, Finding, Mode, Phase, Service, Verdict, VersionRef


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
