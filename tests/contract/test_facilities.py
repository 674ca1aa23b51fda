"""What a cluster offers, read from a scripted API server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.cluster import Cluster
from services.domain import (
    Finding,
    Intent,
    Json,
    Mode,
    Package,
    PackageKind,
    Resources,
    Verdict,
    VersionRef,
)
from services.facilities import RIGHTS, Facilities
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


# ── The pods' credentials, the quota ──────────────────────────────────────────────────────────


ACCOUNT = "/api/v1/namespaces/models/serviceaccounts/pods"
SECRET = "/api/v1/namespaces/models/secrets/key"
QUOTAS = "/api/v1/namespaces/models/resourcequotas"
KEY_FILE = "gcloud-application-credentials.json"


def made(annotation: str = "") -> Json:
    """An InferenceService as a dry run gives it."""
    named = {"serving.kserve.io/storageSecretName": annotation} if annotation else {}
    return {
        "metadata": {"annotations": named},
        "spec": {"predictor": {"serviceAccountName": "pods"}},
    }


def planned(
    facilities: Facilities, check: str, *, annotation: str = "", creates: bool = True
) -> Finding:
    """What a plan finds of one check."""
    intent = Intent(
        "wine",
        VersionRef("wine", 1),
        Package(PackageKind.GCS, "gs://b/x"),
        Mode.STANDARD,
        resources=Resources("500m", "1Gi"),
    )
    findings = facilities.plan_findings(intent, creates=creates, made=made(annotation), starts=True)
    (found,) = [finding for finding in findings if finding.name == check]
    return found


def credentials(facilities: Facilities, annotation: str = "") -> Finding:
    return planned(facilities, "storage credentials", annotation=annotation)


@pytest.fixture
def account(api: ApiServer) -> Json:
    """The pods' ServiceAccount, which names the Secret `key`."""
    found: Json = {"metadata": {"name": "pods"}, "secrets": [{"name": "key"}]}
    api.documents[ACCOUNT] = found
    return found


def test_a_secret_with_the_key_file_is_what_the_pods_use(
    api: ApiServer, facilities: Facilities, account: Json
) -> None:
    api.documents[SECRET] = {"data": {KEY_FILE: "e30="}}
    found = credentials(facilities)
    assert found.verdict is Verdict.PASS
    assert "ServiceAccount pods: key." in found.detail


def test_an_account_whose_secret_does_not_exist_fails_the_plan(
    facilities: Facilities, account: Json
) -> None:
    found = credentials(facilities)
    assert found.verdict is Verdict.FAIL
    assert "There is no Secret key in models" in found.detail
    assert found.fix == (
        f"kubectl create secret generic key -n models --from-file={KEY_FILE}=KEYFILE"
    )


def test_a_secret_that_may_not_be_looked_at_is_not_called_passed(
    api: ApiServer, facilities: Facilities, account: Json
) -> None:
    api.refuse = lambda _method, path, _query: 403 if "/secrets/" in path else None
    found = credentials(facilities)
    assert found.verdict is Verdict.SKIP
    assert "was not checked: this account may not get Secrets" in found.detail


def test_a_secret_without_the_key_file_is_warned_of(
    api: ApiServer, facilities: Facilities, account: Json
) -> None:
    api.documents[SECRET] = {"data": {"other.json": "e30="}}
    assert credentials(facilities).verdict is Verdict.WARN


def test_the_key_files_name_is_the_configurations(
    api: ApiServer, facilities: Facilities, account: Json
) -> None:
    api.documents["/api/v1/namespaces/kserve/configmaps/inferenceservice-config"] = {
        "data": {"credentials": '{"gcs": {"gcsCredentialFileName": "other.json"}}'}
    }
    api.documents[SECRET] = {"data": {"other.json": "e30="}}
    assert credentials(facilities).verdict is Verdict.PASS


def test_the_secret_that_the_service_names_goes_before_the_accounts(
    api: ApiServer, facilities: Facilities, account: Json
) -> None:
    api.documents[SECRET] = {"data": {KEY_FILE: "e30="}}
    found = credentials(facilities, annotation="nosuch")
    assert found.verdict is Verdict.FAIL
    assert "There is no Secret nosuch in models" in found.detail


def quota(
    api: ApiServer, facilities: Facilities, used: str, hard: str, key: str = "requests.cpu"
) -> Finding:
    status = {"hard": {key: hard}, "used": {key: used}}
    api.documents[QUOTAS] = {"items": [{"metadata": {"name": "team"}, "status": status}]}
    return planned(facilities, "quota", creates=False)


@pytest.mark.parametrize(
    ("used", "hard"), [("64260m", "60"), ("60000m", "60"), ("60", "60"), ("59600m", "60")]
)
def test_a_quota_without_room_for_one_more_pod_is_warned_of(
    api: ApiServer, facilities: Facilities, account: Json, used: str, hard: str
) -> None:
    found = quota(api, facilities, used, hard)
    assert found.verdict is Verdict.WARN
    assert found.detail == (f"team: requests.cpu {used} of {hard} (the new pods ask 500m).")


@pytest.mark.parametrize(
    ("key", "used", "hard"),
    [
        ("requests.cpu", "59500m", "60"),
        ("limits.memory", "1Gi", "2Gi"),
        ("pods", "9", "10"),
        ("services", "1", "2"),
    ],
)
def test_a_quota_with_room_for_one_more_pod_passes(
    api: ApiServer, facilities: Facilities, key: str, used: str, hard: str
) -> None:
    assert quota(api, facilities, used, hard, key).verdict is Verdict.PASS


def test_the_default_account_of_a_namespace_is_not_to_be_made_by_hand(
    facilities: Facilities,
) -> None:
    found = facilities._credentials(None)
    assert (found.verdict, found.fix) == (Verdict.SKIP, "")
    assert "Kubernetes makes it itself" in found.detail


def test_a_right_on_knatives_services_names_their_group(
    api: ApiServer, facilities: Facilities
) -> None:
    def nothing(method: str, path: str, query: dict[str, str], body: Json) -> tuple[int, Json]:
        if "accessreviews" in path or "rulesreviews" in path:
            return 201, {"status": {}}
        return answer(method, path, query, body)

    answer = api.answer
    api.answer = nothing  # type: ignore[method-assign]
    said = [finding.detail for finding in facilities.right_findings(RIGHTS)]
    assert any("get or list services of serving.knative.dev in models" in text for text in said)
