"""What callers and operators see beyond the voyage that `test_program.py` makes in both modes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from services import planning, rollout
from services.domain import Action, Mode, Outcome
from services.errors import NotOffered
from tests.cluster.conftest import Voyage
from tests.cluster.test_stream import stream

Begin = Callable[[Mode], Voyage]


def test_each_side_of_a_canary_answers_at_an_address_of_its_own(voyage: Begin) -> None:
    journey = voyage(Mode.KNATIVE)
    journey.deploy(1)
    assert journey.deploy(2, canary_percent=30).outcome is Outcome.VERIFIED
    sides = {str(side.version): side.address for side in journey.current.answering}
    assert {version: journey.answer(address) for version, address in sides.items()} == {
        "wine/1": 1,
        "wine/2": 2,
    }


def test_standard_mode_says_what_it_offers_instead_of_a_canary(voyage: Begin) -> None:
    journey = voyage(Mode.STANDARD)
    with pytest.raises(NotOffered, match="splits traffic in Knative mode only"):
        journey.deploy(1, canary_percent=10)


@pytest.mark.parametrize(
    ("mode", "wish"),
    [(Mode.STANDARD, {}), (Mode.KNATIVE, {"canary_percent": 30})],
    ids=["Standard", "canary"],
)
def test_a_roll_out_that_is_given_up_changes_nothing_for_callers(
    voyage: Begin, mode: Mode, wish: dict[str, int]
) -> None:
    journey = voyage(mode)
    journey.deploy(1)
    with stream(journey) as failures:
        journey.begin(2, **wish)
        assert not rollout.settle(journey.ops, journey.service).settled
        assert journey.plan(planning.plan_abort).outcome is Outcome.VERIFIED
        assert {journey.answer() for _ in range(5)} == {1}
    assert failures == []
    abort, begun, _ = journey.releases
    assert (abort.action, abort.rolled_back_to) == (Action.ABORT, 1)
    assert begun.outcome is Outcome.FAILED
    assert begun.cause is not None
    assert "cancelled by tester" in begun.cause.what

    assert journey.deploy(2).outcome is Outcome.VERIFIED
    assert journey.settled_answer(2) == 2
