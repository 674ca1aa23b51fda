"""Waiting for a service to sleep: on the ports in memory, with a clock that the test turns."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services import coldstart, preparing
from services.domain import Mode, Scale, Service, TargetKind
from services.errors import RolloutTimeout
from tests.memory import World


@pytest.fixture
def world() -> World:
    found = World(target="mini", kind=TargetKind.KUBERNETES, namespace="models", mode=Mode.KNATIVE)
    found.serves("wine")
    return found


def sleepy(world: World) -> Service:
    """A service of which nothing is kept running."""
    found = preparing.require(world, "wine")
    assert found.intent is not None
    return replace(found, intent=replace(found.intent, scale=Scale(min_replicas=0)))


def test_waiting_ends_when_nothing_runs_any_more(world: World) -> None:
    service, now = sleepy(world), 0.0

    def sleep(s: float) -> None:
        nonlocal now
        now += s
        if now >= 3:
            world.serving.asleep.add("wine")

    waited = list(coldstart.fall_asleep(world, service, clock=lambda: now, sleep=sleep))

    assert waited == [0, 1, 2]


def test_waiting_goes_on_while_a_pod_on_its_way_out_may_still_answer(world: World) -> None:
    service, now = sleepy(world), 0.0
    world.serving.asleep.add("wine")
    world.serving.leaving.add("wine")

    def sleep(s: float) -> None:
        nonlocal now
        now += s
        if now >= 2:
            world.serving.leaving.discard("wine")

    assert list(coldstart.fall_asleep(world, service, clock=lambda: now, sleep=sleep)) == [0, 1]


def test_waiting_for_one_that_stays_awake_ends_in_words(world: World) -> None:
    service, now = sleepy(world), 0.0

    def sleep(s: float) -> None:
        nonlocal now
        now += s

    sent = len(world.predictor.sent)
    with pytest.raises(RolloutTimeout, match="did not fall asleep within 20 s"):
        for _ in coldstart.fall_asleep(
            world, service, timeout_s=20, clock=lambda: now, sleep=sleep
        ):
            pass
    assert len(world.predictor.sent) == sent
