"""What the nodes have left, read from a scripted API server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.cluster import Cluster
from services.domain import Json
from services.facilities import Facilities
from tests.apiserver import ApiServer, api_server, kubeconfig

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
def facilities(api: ApiServer, tmp_path: Path) -> Facilities:
    kept = kubeconfig(tmp_path, api.url)
    return Facilities(Cluster(target="stub", context="stub", kubeconfig=kept), "models")


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
