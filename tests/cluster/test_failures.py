"""What goes wrong on a cluster is named within seconds, and the old release goes on serving."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from services import planning, preparing, rollout
from services.domain import Mode, Outcome, Package, PackageKind, Resources
from tests import waiting
from tests.cluster.conftest import Voyage, holding, intent_of
from tests.memory import MemoryRegistry

Begin = Callable[[Mode], Voyage]
MODES = pytest.mark.parametrize("mode", [Mode.STANDARD, Mode.KNATIVE])


@pytest.fixture(scope="session")
def versions(trained: dict[int, Path]) -> MemoryRegistry:
    """What MLflow saves by default: a server of another MLflow cannot load it."""
    return holding(trained)


@pytest.fixture
def begin(voyage: Begin) -> Callable[..., Voyage]:
    """A service whose next release is wrong in one way; nothing serves before it."""

    def start(mode: Mode, *, package: Package | None = None, **wish: object) -> Voyage:
        journey = voyage(mode)
        prepared = preparing.prepare_deploy(
            journey.ops, "wine/1", name=journey.service, wish=planning.Wish(mode=mode)
        )
        after = prepared.plan.after
        assert after is not None
        changed = replace(after, **wish)  # type: ignore[arg-type]  # the test's own fields
        if package is not None:
            runtime = changed.runtime if package.kind is PackageKind.GCS else None
            changed = replace(changed, package=package, runtime=runtime)
        plan = replace(prepared.plan, after=changed)
        rollout.apply(plan, journey.ops, actor="tester")
        return journey

    return start


@MODES
def test_an_image_that_cannot_be_pulled_is_named(begin: Callable[..., Voyage], mode: Mode) -> None:
    journey = begin(mode, package=Package(PackageKind.IMAGE, "registry.invalid/none/at-all:1"))
    error = journey.failure(180)
    assert "registry.invalid/none/at-all:1" in error.what
    cause = journey.releases[0].cause
    assert cause is not None
    assert cause.code == ("E9" if mode is Mode.STANDARD else "E8")
    assert cause.evidence


@MODES
def test_files_that_are_gone_are_named(
    begin: Callable[..., Voyage], bucket: str, mode: Mode
) -> None:
    journey = begin(mode, package=Package(PackageKind.GCS, f"{bucket}/nothing-here"))
    assert "not where the pod looks" in journey.failure(90).what
    cause = journey.releases[0].cause
    assert cause is not None
    assert (cause.code, cause.exit_code) == ("E6", 1)
    assert "nothing-here" in cause.why


@MODES
def test_a_request_that_no_node_can_meet_is_named(begin: Callable[..., Voyage], mode: Mode) -> None:
    journey = begin(mode, resources=Resources("100m", "900Gi"))
    error = journey.failure(180)
    assert "No node has room" in error.what
    assert "Insufficient memory" in error.why
    assert "900Gi memory" in error.why


def test_a_runtime_that_does_not_exist_is_named(begin: Callable[..., Voyage]) -> None:
    journey = begin(Mode.STANDARD, runtime="no-such-runtime")
    journey.failure(180)
    cause = journey.releases[0].cause
    assert cause is not None
    assert cause.code == "E3"


@MODES
def test_a_service_account_that_does_not_exist_is_named(
    begin: Callable[..., Voyage], mode: Mode
) -> None:
    journey = begin(mode, service_account="no-such-account")
    error = journey.failure(180)
    assert "no-such-account" in error.why


def previous_log(journey: Voyage) -> list[str]:
    """What `slipway logs --previous` shows, once a crashed server was started again."""

    def lines() -> list[str]:
        return [line.text for line in journey.ops.serving.logs(journey.service, previous=True)]

    return waiting.seen(lines, within_s=60, every_s=1)


def test_a_model_that_does_not_load_is_named_and_the_old_release_serves(voyage: Begin) -> None:
    # In Standard mode the same is done by hand, in browser/test_cluster_voyage.py.
    journey = voyage(Mode.KNATIVE)
    assert journey.deploy(1).outcome is Outcome.VERIFIED
    after = replace(intent_of(journey.current), runtime="kserve-mlserver")
    plan = planning.plan_deploy(
        journey.current, after, target="test", namespace=journey.ops.namespace
    )
    rollout.apply(plan, journey.ops, actor="tester")
    error = journey.failure(180)
    assert "wine/1 still answers" in error.what
    cause = journey.releases[0].cause
    assert cause is not None
    assert cause.code == "E1"
    assert any("skops" in line for line in cause.evidence)
    assert any("skops" in line for line in previous_log(journey))
    assert journey.answer() == 1
    assert journey.plan(planning.plan_rollback).outcome is Outcome.VERIFIED
