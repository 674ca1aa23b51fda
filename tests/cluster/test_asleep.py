"""Scale to zero: a service without pods is ready, says that it sleeps, and wakes."""

from __future__ import annotations

from collections.abc import Callable

from services import planning
from services.domain import Mode, Outcome, Phase, Scale
from services.preparing import prepare_deploy
from tests import waiting
from tests.cluster.conftest import Voyage

WINDOW_S = 150
"""Knative's stable window is 20 s on the test cluster, 60 s by default, and then it takes its
time."""


def wait_until_asleep(journey: Voyage) -> None:
    waiting.seen(lambda: journey.current.asleep, within_s=WINDOW_S, every_s=1)


def test_a_service_that_sleeps_before_anybody_looked_is_ready_woken_verified_and_stops(
    voyage: Callable[[Mode], Voyage],
) -> None:
    journey = voyage(Mode.KNATIVE)
    journey.begin(1, scale=Scale(0, 1))
    wait_until_asleep(journey)
    service = journey.current
    assert (service.phase, service.asleep, service.drift) == (Phase.READY, True, ())
    assert [side.percent for side in service.answering] == [100]
    assert journey.follow().outcome is Outcome.VERIFIED
    assert journey.answer() == 1
    assert not journey.current.asleep

    assert journey.plan(lambda now, _: planning.plan_stop(now)).outcome is Outcome.STOPPED
    stopped = journey.current
    assert (stopped.phase, stopped.asleep, stopped.answering) == (Phase.STOPPED, False, ())
    assert journey.plan(planning.plan_start).outcome is Outcome.VERIFIED
    assert journey.current.intent is not None
    assert journey.current.intent.scale == Scale(0, 1)
    again = prepare_deploy(journey.ops, "wine/1", name=journey.service)
    assert again.plan.nothing_to_do
