"""Images on a real cluster: built, brought to the node, served in both modes, gone, explained.

How this machine builds is found as for any target (minikube, kind). For others
SLIPWAY_TEST_IMAGE_LOAD is the command that brings an image to the cluster; SLIPWAY_TEST_IMAGE_BASE
may name an image that has MLServer, so that nothing is downloaded.
"""

from __future__ import annotations

import os
import secrets
import struct
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from services import planning, preparing, rollout
from services.cluster import Cluster
from services.domain import Mode, Outcome, Package, PackageKind, Resources, Verdict, VersionRef
from services.errors import ConfigError, Denied, Unreachable
from services.facilities import Facilities
from services.images import (
    Builder,
    EnvironmentPackager,
    ImageOptions,
    ImagePackager,
    chosen,
    prefix,
)
from services.kubeconfig import contexts
from services.ports import Packager, no_report
from tests.cluster.account import ENVIRONMENTS, Account
from tests.cluster.conftest import ClusterOps, Voyage, holding, intent_of
from tests.memory import MemoryRegistry

ONE, TWO = VersionRef("wine", 1), VersionRef("wine", 2)
SIZE = Resources(cpu="100m", memory="1Gi")


@pytest.fixture(scope="session")
def versions(trained: dict[int, Path]) -> MemoryRegistry:
    """What MLflow saves by default: an image has to hold the libraries that load it."""
    return holding(trained)


@pytest.fixture(scope="session")
def builder(cluster: Cluster) -> Builder:
    """Whoever builds images for this cluster."""
    known = {context.name: context for context in contexts()}
    current = next((context.name for context in known.values() if context.current), "")
    name = os.environ.get("SLIPWAY_TEST_CONTEXT") or current
    try:
        found = chosen(
            target="test",
            context=name,
            flavour=known[name].flavour if name in known else "",
            load_command=os.environ.get("SLIPWAY_TEST_IMAGE_LOAD", ""),
        )
        found.digest("dev.local/slipway/nothing:1")
    except (ConfigError, Unreachable) as error:
        pytest.skip(f"images cannot be built for the cluster: {error}")
    return found


@pytest.fixture(scope="session")
def options() -> ImageOptions:
    """A base that has MLServer where one is given; else the official Python image."""
    return ImageOptions(
        base=os.environ.get("SLIPWAY_TEST_IMAGE_BASE", ""), prefix=prefix(flavour="")
    )


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("images")


@pytest.fixture
def facilities(cluster: Cluster, namespace: str) -> Facilities:
    return Facilities(cluster, namespace)


@pytest.fixture
def images(
    registry: MemoryRegistry,
    work: Path,
    builder: Builder,
    options: ImageOptions,
    facilities: Facilities,
) -> ImagePackager:
    return ImagePackager(registry, work, lambda: builder, options, on_nodes=facilities.node_images)


Begin = Callable[[Mode, Packager], Voyage]


@pytest.fixture
def journey(ops: ClusterOps, voyage: Callable[[Mode], Voyage]) -> Begin:
    """A service whose packages are made by the given packager."""

    def begin(mode: Mode, packager: Packager) -> Voyage:
        made = voyage(mode)
        made.ops = replace(ops, packager=packager)
        return made

    return begin


def test_an_image_serves_in_both_modes_changes_and_goes_back(
    journey: Begin, images: ImagePackager
) -> None:
    standard, knative = journey(Mode.STANDARD, images), journey(Mode.KNATIVE, images)
    standard.begin(1, resources=SIZE)
    knative.begin(1, resources=SIZE)
    assert standard.follow().outcome is Outcome.VERIFIED
    assert knative.follow().outcome is Outcome.VERIFIED
    assert (standard.settled_answer(1), knative.settled_answer(1)) == (1, 1)
    first = standard.releases[0].intent.package
    assert first.kind is PackageKind.IMAGE
    assert first.image_digest.startswith("sha256:")

    lines: list[str] = []

    def note(line: str, _ratio: float | None = None) -> None:
        lines.append(line)

    images.make(images._registry.version(ONE), note)
    assert not any("building" in line for line in lines)  # the same content is not built twice

    assert standard.deploy(2).outcome is Outcome.VERIFIED
    assert standard.settled_answer(2) == 2
    assert standard.plan(planning.plan_rollback).outcome is Outcome.VERIFIED
    assert standard.settled_answer(1) == 1


def test_a_second_version_of_the_same_requirements_is_built_in_seconds(
    registry: MemoryRegistry, images: ImagePackager, builder: Builder
) -> None:
    """Only its own files are new: every layer of the libraries comes from the builder's cache."""
    images.make(registry.version(ONE))
    other = MemoryRegistry()
    ref = other.add("wine", 3)
    other.details_of[ref] = replace(registry.details(ONE), ref=ref)
    other.files[ref] = {"MLmodel": secrets.token_bytes(64)}
    recipe = ImagePackager(other, images._maker._work, lambda: builder, images._options)
    lines: list[str] = []

    def note(line: str, _ratio: float | None = None) -> None:
        lines.append(line)

    began = time.monotonic()
    with recipe._maker._context(*recipe._recipe(other.version(ref), no_report)) as folder:
        builder.build("dev.local/slipway/wine:3-seconds", folder, note)
    took = time.monotonic() - began
    assert not any("Collecting" in line for line in lines)
    assert took < 60, "a copy of files and a commit"


def test_an_image_that_is_gone_is_named_before_a_roll_back_and_after(
    journey: Begin, images: ImagePackager
) -> None:
    """A release whose image nobody has any more: the check says so; a pod would say so too."""
    made = journey(Mode.STANDARD, images)
    package = images.propose(images._registry.version(ONE))
    gone = replace(package, uri=f"{package.uri.rpartition(':')[0]}:1-{secrets.token_hex(6)}")
    found = images.exists(gone)
    assert (found.verdict, gone.uri in found.detail) == (Verdict.FAIL, True)
    assert "slipway image" in found.fix

    prepared = preparing.prepare_deploy(
        made.ops,
        "wine/1",
        name=made.service,
        wish=planning.Wish(mode=Mode.STANDARD, resources=SIZE),
    )
    assert prepared.plan.after is not None
    missing = replace(prepared.plan, after=replace(prepared.plan.after, package=gone))
    rollout.apply(missing, made.ops, actor="tester")
    error = made.failure()
    assert gone.uri in str(error)
    assert "loaded onto the node" in error.fix


# As much of a program for 64-bit ARM as a kernel reads before it refuses: an ELF header (machine
# 183) and one segment.
FOR_ARM = (
    b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    + struct.pack("<HHIQQQIHHHHHH", 2, 183, 1, 0x400078, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    + struct.pack("<IIQQQQQQ", 1, 5, 0, 0x400000, 0x400000, 124, 124, 0x1000)
    + bytes(4)
)


def test_an_image_for_another_processor_is_named_and_the_old_release_serves(
    voyage: Callable[[Mode], Voyage], builder: Builder, options: ImageOptions, tmp_path: Path
) -> None:
    image = f"{options.prefix}/for-arm:{secrets.token_hex(4)}"
    (tmp_path / "server").write_bytes(FOR_ARM)
    (tmp_path / "server").chmod(0o755)
    (tmp_path / "Dockerfile").write_text(
        'FROM scratch\nCOPY server /server\nENTRYPOINT ["/server"]\n'
    )
    builder.build(image, tmp_path, no_report)
    builder.deliver(image, no_report)
    made = voyage(Mode.STANDARD)
    assert made.deploy(1).outcome is Outcome.VERIFIED
    after = replace(
        intent_of(made.current), package=Package(PackageKind.IMAGE, image), runtime=None
    )
    plan = planning.plan_deploy(made.current, after, target="test", namespace=made.ops.namespace)
    rollout.apply(plan, made.ops, actor="tester")
    error = made.failure()
    assert f"{image} is made for another kind of processor" in error.what
    assert "wine/1 still answers" in error.what
    assert made.answer() == 1


def test_one_environment_serves_versions_from_the_bucket(  # noqa: PLR0917 (fixtures by name)
    journey: Begin,
    registry: MemoryRegistry,
    ops: ClusterOps,
    work: Path,
    builder: Builder,
    options: ImageOptions,
    facilities: Facilities,
    account: Account,
) -> None:
    packager = EnvironmentPackager(
        ops.packager, registry, work, lambda: builder, options,
        runtimes=facilities, on_nodes=facilities.node_images,
    )  # fmt: skip
    made = journey(Mode.KNATIVE, packager)
    with pytest.raises(Denied, match="slipway-environments"):
        packager.make(registry.version(ONE))
    with account.also(ENVIRONMENTS, ops.namespace):
        assert made.deploy(1, resources=SIZE).outcome is Outcome.VERIFIED
    first = made.releases[0].intent
    assert first.package.kind is PackageKind.GCS
    assert first.runtime is not None
    assert first.runtime.startswith("slipway-py")
    assert packager.exists(first.package).verdict is not Verdict.FAIL
    second = packager.propose(registry.version(TWO))
    assert second.environment == first.package.environment  # nothing is built for the second
