"""Reads that come from watches, on a real API server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from services import kubeobject
from services.cluster import Cluster
from services.domain import Mode, Outcome
from services.journal import ClusterJournal
from services.kserve import KServeServing, collections
from services.kubepaths import Paths
from services.watched import Watched
from tests import waiting
from tests.cluster.conftest import ClusterOps, Voyage


@pytest.fixture
def reads(cluster: Cluster, namespace: str) -> Iterator[Watched]:
    found = Watched(cluster, collections(namespace))
    yield found
    found.close()


@pytest.mark.parametrize("mode", [Mode.STANDARD, Mode.KNATIVE])
def test_what_watches_bring_is_what_the_server_says(  # noqa: PLR0917 (fixtures by name)
    ops: ClusterOps, admin: Cluster, cluster: Cluster, namespace: str, reads: Watched, mode: Mode
) -> None:
    journal = ClusterJournal(cluster, namespace, reads=reads)
    mine = replace(
        ops, serving=KServeServing(cluster, namespace, journal, reads=reads), journal=journal
    )
    journey = Voyage(mine, f"watched-{mode.value.lower()}", mode)
    assert journey.deploy(1).outcome is Outcome.VERIFIED
    assert reads.watching >= 4
    mine_and_said = waiting.seen(
        lambda: (journey.current, ops.serving.service(journey.service)),
        lambda both: both[0] == both[1],
        within_s=15,
        every_s=0.2,
    )
    assert mine_and_said[0] == mine_and_said[1]
    assert mine.serving.services() == ops.serving.services()
    assert journal.history(journey.service) == ops.journal.history(journey.service)
    path = Paths(ops.namespace).service(journey.service)
    admin.send("DELETE", path, doing="clean up")
    left = waiting.seen(
        lambda: mine.serving.service(journey.service),
        lambda it: it is None,
        within_s=30,
        every_s=0.2,
    )
    assert left is None


def test_a_change_by_others_is_seen_within_a_second(
    ops: ClusterOps, admin: Cluster, cluster: Cluster, namespace: str, reads: Watched
) -> None:
    serving = KServeServing(cluster, namespace, ops.journal, reads=reads)

    def make(name: str) -> None:
        spec = {
            "predictor": {"model": {"modelFormat": {"name": "mlflow"}, "storageUri": "gs://n/1"}}
        }
        body = {
            "apiVersion": kubeobject.API_VERSION,
            "kind": kubeobject.KIND,
            "metadata": {"name": name, "annotations": {kubeobject.STOP_ANNOTATION: "true"}},
            "spec": spec,
        }
        admin.send("POST", Paths(namespace).services, doing="make one", body=body)

    before = {service.name for service in serving.services()}
    took = []
    for turn in range(5):
        name = f"idle-{turn}"
        make(name)
        began = time.monotonic()
        while name not in {service.name for service in serving.services()}:
            assert time.monotonic() - began < 10
            time.sleep(0.01)
        took.append(time.monotonic() - began)
    assert sorted(took)[2] < 1.0
    for turn in range(5):
        admin.send("DELETE", Paths(namespace).service(f"idle-{turn}"), doing="clean up")
    left = waiting.seen(  # KServe's finalizer takes its moment
        lambda: {service.name for service in serving.services()} - before,
        lambda names: not names,
        within_s=30,
        every_s=0.2,
    )
    assert not left
