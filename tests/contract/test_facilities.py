"""What a cluster offers, read from a scripted API server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.cluster import Cluster
from services.domain import Finding, Json, Verdict
from services.facilities import Facilities
from services.kserve import KServeServing
from tests.apiserver import ApiServer, api_server, kubeconfig
from tests.contract.test_kserve_versions import Past

NODES, PODS = "/api/v1/nodes", "/api/v1/pods"


def node(name: str, cpu: str, memory: str) -> Json:
    return {
        "metadata": {"name": name},
        "status": {"allocatable": {"cpu": cpu, "memory": memory}},
    }


def pod(on: str, cpu: str, memory: str) -> Json:
    asked = {"requests": {"cpu": cpu, "memory": memory}}
    return {"spec": {"nodeName": on, "containers": [{"resources": asked}]}}


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with api_server() as server:
        server.documents[NODES] = {"items": [node("one", "4", "8Gi"), node("two", "2", "4Gi")]}
        yield server


@pytest.fixture
def cluster(api: ApiServer, tmp_path: Path) -> Cluster:
    return Cluster(target="stub", context="stub", kubeconfig=kubeconfig(tmp_path, api.url))


@pytest.fixture
def facilities(cluster: Cluster) -> Facilities:
    return Facilities(cluster, "models")


def test_a_node_has_left_what_its_pods_do_not_ask_for(
    api: ApiServer, facilities: Facilities
) -> None:
    api.documents[PODS] = {"items": [pod("one", "500m", "1Gi"), pod("one", "1", "2Gi")]}
    assert [str(room) for room in facilities.rooms()] == [
        "2.5 CPU and 5.0 Gi",
        "2 CPU and 4.0 Gi",
    ]


def test_pods_that_have_ended_are_not_asked_for(api: ApiServer, facilities: Facilities) -> None:
    api.documents[PODS] = {"items": []}
    facilities.rooms()
    (listed,) = [query for _, path, query in api.asked if path == PODS and query["limit"] != "1"]
    assert listed["fieldSelector"] == "status.phase!=Succeeded,status.phase!=Failed"


def test_too_many_pods_are_counted_and_not_read(api: ApiServer, facilities: Facilities) -> None:
    api.documents[PODS] = {"items": [pod("one", "1", "1Gi")], "metadata": {}}
    api.documents[PODS]["metadata"]["remainingItemCount"] = 100_000
    assert [room.counted for room in facilities.rooms()] == [False, False]
    assert [query["limit"] for _, path, query in api.asked if path == PODS] == ["1"]


def checked(cluster: Cluster) -> dict[str, Finding]:
    """What doctor finds, by the names of the checks."""
    return {found.name: found for found in KServeServing(cluster, "models", Past()).check()}


def test_a_server_that_does_not_know_us_is_asked_nothing_more(
    api: ApiServer, cluster: Cluster
) -> None:
    api.refuse = lambda *_: 401
    assert set(checked(cluster)) == {"API server"}
    assert {path.rpartition("/")[2] for _, path, _ in api.asked} == {"selfsubjectreviews"}


def test_ingresses_that_may_not_be_looked_for_are_not_called_silent(
    api: ApiServer, cluster: Cluster
) -> None:
    api.documents |= {"/version": {"gitVersion": "v1"}, "/api/v1/namespaces/models": {}}
    api.refuse = lambda _method, path, _query: 403 if "/services/" in path else None
    assert checked(cluster)["ingress"].verdict is Verdict.SKIP
