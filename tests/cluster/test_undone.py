"""A release that fails is undone by itself, where that was chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from services import planning, rollout
from services.domain import Action, Mode, Outcome
from tests.cluster.conftest import Voyage, intent_of


def test_a_release_that_fails_is_undone_once_and_the_old_one_answers(
    voyage: Callable[[Mode], Voyage],
) -> None:
    journey = voyage(Mode.STANDARD)
    assert journey.deploy(1).outcome is Outcome.VERIFIED
    gone = replace(intent_of(journey.current).package, uri="gs://nobody-has-this-bucket/2")
    after = replace(intent_of(journey.current), package=gone)
    plan = planning.plan_deploy(
        journey.current, after, target="test", namespace=journey.ops.namespace
    )
    rollout.apply(planning.with_rollback(plan), journey.ops, actor="tester")
    error = journey.failure(180)
    assert "nobody-has-this-bucket" in error.why
    assert "rolled back by release 3: wine/1 answers" in error.what
    assert [(r.action, r.outcome) for r in journey.releases] == [
        (Action.ROLLBACK, Outcome.VERIFIED),
        (Action.DEPLOY, Outcome.FAILED),
        (Action.DEPLOY, Outcome.VERIFIED),
    ]
    assert journey.answer() == 1
