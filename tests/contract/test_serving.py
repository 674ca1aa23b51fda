"""What every Serving keeps to: the twin in memory, and target `local` with real processes.

A `Target` says how to make each of them roll out, fail and settle; the tests know only the ports.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest

from services import planning, rollout
from services.domain import (
    Cause,
    Intent,
    Mode,
    Outcome,
    Package,
    PackageKind,
    Phase,
    Plan,
    Release,
    TestResult,
    VersionRef,
)
from services.errors import Conflict, NotFound
from services.ports import Journal, Serving
from tests.machine import BROKEN, EXAMPLE, Machine
from tests.memory import World


class Target(Protocol):
    """A target under test, with versions 1, 2 that work and BROKEN that does not."""

    @property
    def serving(self) -> Serving: ...

    @property
    def journal(self) -> Journal: ...

    def intent(self, number: int, name: str) -> Intent: ...

    def settle(self, release: Release) -> Release:
        """Wait until the release has its outcome."""


class Memory:
    """The twin in memory."""

    def __init__(self) -> None:
        self._world = World()
        broken = Cause("The package holds no model.")
        self._world.serving.fails[VersionRef("wine", BROKEN)] = broken

    @property
    def serving(self) -> Serving:
        return self._world.serving

    @property
    def journal(self) -> Journal:
        return self._world.journal

    def intent(self, number: int, name: str) -> Intent:
        intent = Intent(
            name,
            VersionRef("wine", number),
            Package(PackageKind.FOLDER, f"/packages/{number}", f"{number:064x}"),
            Mode.LOCAL,
            example=EXAMPLE,
        )
        return self._world.serving.default_intent(intent)

    def settle(self, release: Release) -> Release:
        rollout.settle(self._world, release.service)
        return self._world.journal.history(release.service)[0]


class Local:
    """Real processes on this machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    @property
    def serving(self) -> Serving:
        return self._machine.serving

    @property
    def journal(self) -> Journal:
        return self._machine.journal

    def intent(self, number: int, name: str) -> Intent:
        return self._machine.intent(number, name)

    def settle(self, release: Release) -> Release:
        return self._machine.outcome(release)


@pytest.fixture(
    scope="module",
    params=["memory", pytest.param("local", marks=[pytest.mark.local, pytest.mark.timeout(420)])],
)
def target(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    if request.param == "memory":
        yield Memory()
        return
    models: Path = request.getfixturevalue("saved_models")
    machine = Machine(tmp_path_factory.mktemp("contract") / "state", models)
    yield Local(machine)
    machine.end()


def planned(target: Target, number: int, name: str, percent: int | None = None) -> Plan:
    intent = replace(target.intent(number, name), canary_percent=percent)
    return planning.plan_deploy(target.serving.service(name), intent, target="local", namespace="")


def carried_out(target: Target, plan: Plan) -> Release:
    release = target.journal.begin(plan, "ana", "")
    target.serving.apply(plan, release)
    return target.settle(release)


@pytest.fixture(scope="module")
def served(target: Target) -> str:
    """Name of a service that serves version 1 since release 1. Tests leave it as it is."""
    assert carried_out(target, planned(target, 1, "served")).outcome is Outcome.VERIFIED
    return "served"


@pytest.fixture(scope="module")
def failed(target: Target) -> str:
    """Name of a service that serves version 1, after a deploy of a BROKEN version."""
    carried_out(target, planned(target, 1, "failed"))
    assert carried_out(target, planned(target, BROKEN, "failed")).outcome is Outcome.FAILED
    return "failed"


@pytest.fixture(scope="module")
def canary(target: Target) -> str:
    """Name of a service of which version 2 takes 20 %, beside version 1."""
    carried_out(target, planned(target, 1, "canary"))
    assert carried_out(target, planned(target, 2, "canary", 20)).outcome is Outcome.VERIFIED
    return "canary"


def test_a_service_that_nobody_made_is_absent(target: Target) -> None:
    assert target.serving.service("nobody") is None
    assert not target.serving.observe("nobody").exists


def test_what_belongs_to_an_absent_service_is_not_found(target: Target) -> None:
    for ask in (
        lambda: target.serving.endpoint("nobody"),
        lambda: target.serving.events("nobody"),
        lambda: list(target.serving.logs("nobody")),
    ):
        with pytest.raises(NotFound):
            ask()


def test_a_served_version_is_listed_with_its_release(target: Target, served: str) -> None:
    service = next(s for s in target.serving.services() if s.name == served)
    assert service.release == 1
    assert service.phase is Phase.READY
    assert service.verified
    assert service.actor == "ana"
    assert service.intent == target.intent(1, served)


def test_services_are_listed_by_name(target: Target, served: str, failed: str) -> None:
    names = [service.name for service in target.serving.services()]
    assert names == sorted(names)
    assert {served, failed} <= set(names)


def test_a_served_version_is_seen_ready_tested_and_alone(target: Target, served: str) -> None:
    seen = target.serving.observe(served)
    assert seen.caught_up
    assert (seen.desired, seen.updated, seen.total, seen.available) == (1, 1, 1, 1)
    assert seen.model_ready
    assert seen.traffic_as_wanted
    assert seen.test is TestResult.PASS
    assert [(side.release, side.percent) for side in seen.answering] == [(1, 100)]
    assert seen.failure is None


def test_progress_of_a_served_version_is_ready(target: Target, served: str) -> None:
    assert rollout.progress_of(target.serving.observe(served)).phase is Phase.READY


def test_a_service_has_a_way_in_and_one_to_each_release(target: Target, served: str) -> None:
    endpoint = target.serving.endpoint(served)
    assert (endpoint.model_name, endpoint.release) == (served, None)
    assert endpoint.base_url.startswith("http://")
    assert target.serving.endpoint(served, 1).release == 1


def test_a_plan_from_an_older_look_is_a_conflict_and_changes_nothing(
    target: Target, served: str
) -> None:
    old = replace(planned(target, 2, served), based_on="0")
    release = Release(
        99, served, old.action, target.intent(2, served), "bob", "", rollout.utc_now()
    )
    before = target.serving.service(served)
    with pytest.raises(Conflict):
        target.serving.apply(old, release)
    assert target.serving.service(served) == before


def test_a_plan_that_saw_no_service_is_a_conflict_where_there_is_one(
    target: Target, served: str
) -> None:
    blind = replace(planned(target, 2, served), based_on=None)
    release = Release(
        99, served, blind.action, target.intent(2, served), "bob", "", rollout.utc_now()
    )
    with pytest.raises(Conflict):
        target.serving.apply(blind, release)


def test_the_same_release_again_writes_nothing(target: Target, served: str) -> None:
    before = target.serving.service(served)
    assert before is not None
    release = target.journal.history(served)[0]
    again = replace(planned(target, 1, served), based_on=None)
    assert target.serving.apply(again, release).object_version == before.object_version
    assert target.serving.service(served) == before


def test_a_rehearsal_shows_a_manifest_and_writes_nothing(target: Target, served: str) -> None:
    before = target.serving.service(served)
    rehearsal = target.serving.rehearse(planned(target, 2, served))
    assert served in rehearsal.manifest
    assert rehearsal.findings
    assert target.serving.service(served) == before


def test_a_default_intent_keeps_the_port_of_the_service(target: Target, served: str) -> None:
    intent = target.intent(2, served)
    assert target.serving.default_intent(intent) == intent


def test_a_service_has_a_log_and_a_time_line(target: Target, served: str) -> None:
    assert next(iter(target.serving.logs(served))).text
    assert target.serving.events(served)


def test_a_failed_deploy_is_seen_with_its_cause(target: Target, failed: str) -> None:
    seen = target.serving.observe(failed)
    assert seen.failure is not None
    assert seen.failure.what
    assert rollout.progress_of(seen).phase is Phase.FAILED


def test_after_a_failed_deploy_the_old_version_answers(target: Target, failed: str) -> None:
    answering = target.serving.observe(failed).answering
    assert [(str(side.version), side.percent) for side in answering] == [("wine/1", 100)]


def test_a_canary_is_seen_with_both_shares(target: Target, canary: str) -> None:
    service = target.serving.service(canary)
    assert service is not None
    assert service.stable == 1
    assert {(side.release, side.percent) for side in service.answering} == {(1, 80), (2, 20)}
    assert target.serving.observe(canary).traffic_as_wanted


def test_a_stop_keeps_the_service_and_ends_its_processes(target: Target) -> None:
    carried_out(target, planned(target, 1, "stopped"))
    service = target.serving.service("stopped")
    assert service is not None
    assert carried_out(target, planning.plan_stop(service)).outcome is Outcome.STOPPED
    seen = target.serving.observe("stopped")
    assert (seen.stopped, seen.desired, seen.answering) == (True, 0, ())


def test_a_delete_removes_the_service_and_keeps_its_history(target: Target) -> None:
    carried_out(target, planned(target, 1, "deleted"))
    service = target.serving.service("deleted")
    assert service is not None
    assert carried_out(target, planning.plan_delete(service)).outcome is Outcome.DELETED
    assert target.serving.service("deleted") is None
    assert len(target.journal.history("deleted")) == 2


def test_a_check_always_finds_something(target: Target) -> None:
    assert target.serving.check()
