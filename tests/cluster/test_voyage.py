from __future__ import annotations

from collections.abc import Callable

import pytest

from services import rollout
from services.domain import Action, Mode, Outcome, Phase, VersionRef
from services.errors import NotOffered
from tests.cluster.conftest import Voyage
from tests.cluster.test_stream import stream

Begin = Callable[[Mode], Voyage]


@pytest.mark.parametrize("mode", [Mode.STANDARD, Mode.KNATIVE])
def test_a_service_is_deployed_changed_and_rolled_back(voyage: Begin, mode: Mode) -> None:
    journey = voyage(mode)
    first = journey.deploy(1)
    assert first.outcome is Outcome.VERIFIED
    assert journey.answer() == 1
    assert journey.deploy(2).outcome is Outcome.VERIFIED
    assert journey.current.answering[0].version == VersionRef("wine", 2)

    assert journey.plan(rollout.plan_rollback).outcome is Outcome.VERIFIED
    assert journey.answer() == 1
    newest = journey.releases[0]
    assert (newest.action, newest.rolled_back_to) == (Action.ROLLBACK, 1)
    assert journey.current.phase is Phase.READY


def test_a_canary_takes_its_share_and_is_aborted_and_promoted(voyage: Begin) -> None:
    journey = voyage(Mode.KNATIVE)
    journey.deploy(1)
    assert journey.deploy(2, canary_percent=30).outcome is Outcome.VERIFIED
    shares = {str(side.version): side.percent for side in journey.current.answering}
    assert shares == {"wine/1": 70, "wine/2": 30}
    sides = {str(side.version): side.address for side in journey.current.answering}
    assert {version: journey.answer(address) for version, address in sides.items()} == {
        "wine/1": 1,
        "wine/2": 2,
    }
    assert journey.plan(rollout.plan_canary, 60).outcome is Outcome.VERIFIED
    shares = {str(side.version): side.percent for side in journey.current.answering}
    assert shares == {"wine/1": 40, "wine/2": 60}
    assert journey.plan(rollout.plan_abort).outcome is Outcome.VERIFIED
    assert {journey.answer() for _ in range(10)} == {1}
    assert journey.deploy(2, canary_percent=10).outcome is Outcome.VERIFIED
    assert journey.plan(rollout.plan_promote).outcome is Outcome.VERIFIED
    assert {journey.answer() for _ in range(10)} == {2}


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
        assert journey.plan(rollout.plan_abort).outcome is Outcome.VERIFIED
        assert {journey.answer() for _ in range(5)} == {1}
    assert failures == []
    abort, begun, _ = journey.releases
    assert (abort.action, abort.rolled_back_to) == (Action.ABORT, 1)
    assert begun.outcome is Outcome.FAILED
    assert begun.cause is not None
    assert "cancelled by tester" in begun.cause.what

    assert journey.deploy(2).outcome is Outcome.VERIFIED
    assert journey.settled_answer(2) == 2
