"""Which way of packaging a deploy takes: the wish, else the service's, else the target's own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services import planning, preparing, rollout
from services.domain import Finding, Package, PackageKind, TargetKind, Verdict, VersionRef
from services.errors import Unreachable
from services.planning import Wish
from tests.memory import World

NOTHING = Wish()


def world() -> World:
    made = World(target="mini", kind=TargetKind.KUBERNETES, namespace="models")
    for number in (1, 2):
        made.registry.add("wine", number)
    return made


def asked(made: World, wish: Wish = NOTHING) -> tuple[PackageKind | None, bool]:
    made.packager.asked.clear()
    preparing.prepare_deploy(made, "wine/2", name="wine", wish=wish)
    return made.packager.asked[0]


def served_as(made: World, package: Package) -> None:
    made.serves("wine", [1])
    held = made.serving.held["wine"]
    held.intent = replace(held.intent, package=package)


def test_a_new_service_is_packaged_in_the_targets_own_way() -> None:
    assert asked(world()) == (None, False)


def test_a_service_keeps_the_way_that_it_has() -> None:
    made = world()
    served_as(made, Package(PackageKind.GCS, "gs://b/x", environment="dev.local/e:1"))
    assert asked(made) == (PackageKind.GCS, True)


def test_a_wish_changes_the_way() -> None:
    made = world()
    served_as(made, Package(PackageKind.GCS, "gs://b/x", environment="dev.local/e:1"))
    assert asked(made, Wish(own_environment=False)) == (PackageKind.GCS, False)
    assert asked(made, Wish(package=PackageKind.IMAGE)) == (PackageKind.IMAGE, False)


def test_what_others_made_says_nothing_of_how_we_package() -> None:
    made = world()
    made.foreign("other")
    current = made.serving.service("other")
    assert current is not None
    assert current.intent is not None
    made.packager.asked.clear()
    preparing._packager(made, current, Wish())
    assert made.packager.asked == [(None, False)]


def test_a_release_keeps_which_image_came_out() -> None:
    made = world()
    prepared = preparing.prepare_deploy(made, "wine/1", name="wine")
    assert prepared.plan.after is not None
    digest = "sha256:" + "ab" * 32
    make = made.packager.make
    made.packager.make = lambda *args: replace(make(*args), image_digest=digest)  # type: ignore[method-assign]
    release = rollout.apply(prepared.plan, made, actor="ana", version=prepared.version)
    assert release is not None
    assert release.intent.package.image_digest == digest


def test_who_builds_is_part_of_the_plan() -> None:
    made = world()
    propose = made.packager.propose
    made.packager.propose = lambda version: replace(propose(version), made_by="built by docker")  # type: ignore[method-assign]
    prepared = preparing.prepare_deploy(made, "wine/1", name="wine")
    (finding,) = [found for found in prepared.findings if found.name == "image"]
    assert (finding.verdict, finding.detail) == (Verdict.PASS, "built by docker")


def test_the_reference_of_a_version_is_not_needed_to_look_for_its_package() -> None:
    made = world()
    made.serves("wine", [1, 2])
    current = preparing.require(made, "wine")
    plan = planning.plan_rollback(current, made.journal.history("wine"))
    assert plan.after is not None
    assert plan.after.version == VersionRef("wine", 1)
    prepared = preparing.prepare(made, plan)
    assert prepared.findings[0].name == "package"


def package_finding(prepared: preparing.Prepared) -> Finding:
    (found,) = [found for found in prepared.findings if found.name == "package"]
    return found


def test_a_plan_says_whether_the_package_will_be_made() -> None:
    made = world()
    before = package_finding(preparing.prepare_deploy(made, "wine/2", name="wine"))
    assert (before.verdict, before.detail) == (Verdict.PASS, "Will be copied: 1,024 bytes.")
    made.packager.make(made.registry.version(VersionRef("wine", 2)))
    after = package_finding(preparing.prepare_deploy(made, "wine/2", name="wine"))
    assert after.detail == "Copied already."


def test_a_package_that_cannot_be_made_refuses_the_plan_as_making_it_would() -> None:
    made = world()
    made.packager.fails = Finding("package", Verdict.FAIL, "Silent.", refusal=Unreachable)
    prepared = preparing.prepare_deploy(made, "wine/2", name="wine")
    with pytest.raises(Unreachable, match="Nothing was changed"):
        planning.refuse_if_blocked(prepared.plan, prepared.findings)


def test_what_serves_already_is_not_refused_for_its_package() -> None:
    made = world()
    made.serves("wine", [1])
    made.packager.fails = Finding("package", Verdict.FAIL, "Silent.", refusal=Unreachable)
    made.packager.gone.add("/packages/wine/1")
    prepared = preparing.prepare_deploy(made, "wine/1", name="wine")
    assert prepared.plan.nothing_to_do
    found = package_finding(prepared)
    assert (found.verdict, found.fix) == (Verdict.WARN, "slipway publish wine/1")
