"""What a watcher does about an alias."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from services import planning, preparing, rollout, watching
from services.domain import Action, Cause, Outcome, Plan, Release, VersionRef
from services.watching import Choice
from tests.memory import START, World

ONE, TWO, THREE = (VersionRef("wine", number) for number in (1, 2, 3))
BROKEN = Cause("The model did not load")


def verdict(world: World, version: VersionRef) -> Choice:
    return watching.judged(
        version, world.serving.service("wine"), world.journal.history("wine")
    ).choice


def carried_out(world: World, plan: Plan, actor: str = "ana") -> None:
    rollout.apply(plan, world, actor=actor)
    rollout.settle(world, "wine", now=world.clock.now)


@pytest.fixture
def broken(world: World) -> World:
    """wine/1 serves, and wine/2 was tried and failed."""
    world.serving.fails[TWO] = BROKEN
    world.serves("wine", [1, 2])
    return world


def test_a_new_version_is_deployed(world: World) -> None:
    world.serves("wine", [1])
    assert verdict(world, TWO) is Choice.DEPLOY


def test_a_version_that_failed_is_left_alone(broken: World) -> None:
    assert verdict(broken, TWO) is Choice.SKIP


def test_a_version_that_failed_stays_left_alone_after_a_roll_back(broken: World) -> None:
    current = preparing.require(broken, "wine")
    carried_out(broken, planning.plan_rollback(current, broken.journal.history("wine")))
    assert verdict(broken, TWO) is Choice.SKIP


def test_a_roll_back_is_not_undone(world: World) -> None:
    world.serves("wine", [1, 2])
    current = preparing.require(world, "wine")
    carried_out(world, planning.plan_rollback(current, world.journal.history("wine")))
    said = watching.judged(TWO, world.serving.service("wine"), world.journal.history("wine"))
    assert said.choice is Choice.SKIP
    assert said.why == "release 3 (rollback by ana) took it back"


def test_another_deploy_between_makes_it_a_new_try(broken: World) -> None:
    broken.serves("wine", [3])
    assert verdict(broken, TWO) is Choice.DEPLOY


def test_a_stopped_service_stays_stopped(world: World) -> None:
    world.serves("wine", [1])
    carried_out(world, planning.plan_stop(preparing.require(world, "wine")))
    assert verdict(world, TWO) is Choice.SKIP


def test_a_deleted_service_is_not_made_again_for_the_same_version(world: World) -> None:
    world.serves("wine", [1])
    carried_out(world, planning.plan_delete(preparing.require(world, "wine")))
    assert (verdict(world, ONE), verdict(world, TWO)) == (Choice.SKIP, Choice.DEPLOY)


def test_a_canary_is_left_to_whoever_began_it(world: World) -> None:
    world.serves("wine", [1])
    world.registry.add("wine", 2)
    prepared = preparing.prepare_deploy(
        world, "wine/2", name="wine", wish=planning.Wish(canary_percent=10)
    )
    carried_out(world, prepared.plan)
    assert verdict(world, TWO) is Choice.SKIP


def test_an_open_operation_is_waited_for(world: World) -> None:
    world.serves("wine", [1])
    history = world.journal.history("wine")
    opened = replace(history[0], number=2, outcome=Outcome.OPEN)
    said = watching.judged(TWO, world.serving.service("wine"), [opened, *history])
    assert said.choice is Choice.WAIT


def failed_at(minutes: int) -> Release:
    at = START + timedelta(minutes=minutes)
    world = World()
    world.serving.fails[TWO] = BROKEN
    world.serves("wine", [2])
    return replace(world.journal.history("wine")[0], created_at=at, settled_at=at)


@pytest.mark.parametrize(("elsewhere_at", "expected"), [(5, Choice.SKIP), (15, Choice.DEPLOY)])
def test_a_failed_version_is_tried_again_only_after_the_alias_was_seen_elsewhere(
    elsewhere_at: int, expected: Choice
) -> None:
    seen = {ONE: START + timedelta(minutes=elsewhere_at), TWO: START + timedelta(minutes=20)}
    assert watching.judged(TWO, None, [failed_at(10)], seen).choice is expected


def test_what_was_never_applied_is_tried_again() -> None:
    release = replace(failed_at(10), outcome=Outcome.NOT_APPLIED)
    assert release.action is Action.DEPLOY
    assert watching.judged(TWO, None, [release]).choice is Choice.DEPLOY


@pytest.mark.parametrize(
    ("failures", "expected_s"), [(0, 60), (1, 120), (2, 240), (3, 480), (4, 900), (99, 900)]
)
def test_looks_that_fail_come_less_and_less_often(failures: int, expected_s: float) -> None:
    assert watching.wait_s(60, failures) == expected_s


def test_an_interval_longer_than_the_longest_wait_is_kept() -> None:
    assert watching.wait_s(3600, 5) == 3600
