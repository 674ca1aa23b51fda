"""The contract of every Serving, on a real cluster in Knative mode (the mode with canaries)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from services import rollout
from services.cluster import Cluster
from services.domain import Intent, Mode, Package, PackageKind, Release, VersionRef
from services.errors import SlipwayError
from services.gcs import GcsPackager
from services.journal import ClusterJournal
from services.kserve import KServeServing
from tests.cluster.account import DELETE, Account, scratch
from tests.cluster.conftest import SIGNATURE, ClusterOps
from tests.contract import test_serving as contract
from tests.machine import BROKEN
from tests.memory import MemoryRegistry

# A cluster's test inference is rollout's, through the endpoint of the release: there is none in
# what is observed.
_NOT_HERE = {"test_a_served_version_is_seen_ready_tested_and_alone"}
_CONTRACT = {k: v for k, v in vars(contract).items() if k not in _NOT_HERE}
globals().update({k: v for k, v in _CONTRACT.items() if k.startswith("test_")})


def test_a_delete_removes_the_service_and_keeps_its_history(
    target: OnCluster, account: Account
) -> None:
    with account.also(DELETE, target.ops.namespace):
        contract.test_a_delete_removes_the_service_and_keeps_its_history(target)


served, failed, canary = contract.served, contract.failed, contract.canary


@dataclass
class OnCluster:
    """A namespace of its own, because services are listed."""

    ops: ClusterOps

    @property
    def serving(self) -> KServeServing:
        return self.ops.serving

    @property
    def journal(self) -> ClusterJournal:
        return self.ops.journal

    def intent(self, number: int, name: str) -> Intent:
        if number == BROKEN:
            package = Package(PackageKind.GCS, "gs://nobody-has-this-bucket/nothing")
        else:
            version = self.ops.registry.version(VersionRef("wine", number))
            package = self.ops.packager.make(version)
        details = self.ops.registry.details(VersionRef("wine", min(number, 2)))
        intent = Intent(
            name,
            VersionRef("wine", number),
            package,
            Mode.KNATIVE,
            signature=SIGNATURE,
            example=details.example,
            requirements=details.requirements,
        )
        return self.serving.default_intent(intent)

    def settle(self, release: Release) -> Release:
        try:
            for _ in rollout.follow(self.ops, release.service, timeout_s=240, every_s=0.5):
                pass
        except SlipwayError:
            pass  # the outcome says so
        return self.journal.history(release.service)[0]


@pytest.fixture(scope="module")
def target(  # noqa: PLR0917 (fixtures by name)
    admin: Cluster,
    account: Account,
    cluster: Cluster,
    bucket: str,
    emulator: str,
    versions: MemoryRegistry,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[contract.Target]:
    """Real pods."""
    staging = tmp_path_factory.mktemp("staging")
    with scratch(admin) as namespace:
        account.may_work_in(namespace)
        journal = ClusterJournal(cluster, namespace)
        yield OnCluster(
            ClusterOps(
                registry=versions,
                packager=GcsPackager(bucket, versions, staging, emulator=emulator),
                serving=KServeServing(cluster, namespace, journal),
                journal=journal,
                namespace=namespace,
                server=cluster.host,
            )
        )
