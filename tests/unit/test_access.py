"""A token that is kept: renewed before its end, and never waited for while it holds."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import pytest

from services.access import RETRY_S, KeptToken, Token
from services.errors import Unreachable


@dataclass
class Issuer:
    """Gives tokens 1, 2, … of a life by a clock that tests turn; may be away."""

    life_s: float | None = 300.0
    now: float = 0.0
    given: int = 0
    asked: int = 0
    away: bool = False
    kept: KeptToken = field(init=False)

    def __post_init__(self) -> None:
        self.kept = KeptToken(self.fetch, lambda: self.now)

    def fetch(self) -> Token:
        self.asked += 1
        if self.away:
            raise Unreachable("The issuer did not answer.")
        self.given += 1
        return Token(str(self.given), self.life_s)

    def at(self, moment: float) -> str:
        self.now = moment
        return self.kept.value()


def test_a_token_is_kept_for_four_fifths_of_its_life_and_then_renewed() -> None:
    issuer = Issuer()
    assert [issuer.at(moment) for moment in (0, 200, 239, 240, 241)] == ["1", "1", "1", "2", "2"]


def test_a_token_without_an_end_is_never_renewed() -> None:
    issuer = Issuer(life_s=None)
    assert [issuer.at(moment) for moment in (0, 1e9)] == ["1", "1"]


def test_while_the_old_token_holds_a_renewal_that_fails_is_no_error() -> None:
    issuer = Issuer()
    issuer.at(0)
    issuer.away = True
    assert issuer.at(250) == "1"
    assert issuer.at(251) == "1"
    assert issuer.asked == 2
    issuer.away = False
    assert issuer.at(250 + RETRY_S) == "2"


def test_when_the_old_token_has_ended_the_failure_is_told() -> None:
    issuer = Issuer()
    issuer.at(0)
    issuer.away = True
    with pytest.raises(Unreachable):
        issuer.at(300)


def test_nobody_waits_for_anothers_renewal_while_the_token_holds() -> None:
    now = 0.0
    asked, answer = threading.Event(), threading.Event()
    tokens = iter(("1", "2"))

    def fetch() -> Token:
        token = next(tokens)
        if token == "2":
            asked.set()
            answer.wait(30)
        return Token(token, 300)

    kept = KeptToken(fetch, lambda: now)
    kept.value()
    now = 250.0
    renewing = threading.Thread(target=kept.value)
    renewing.start()
    assert asked.wait(30)
    assert kept.value() == "1"
    answer.set()
    renewing.join(30)
    assert kept.value() == "2"
