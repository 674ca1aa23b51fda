"""Targets of kind gke against a scripted Google and an API server that checks each token."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from services import gke
from services.cluster import Cluster
from services.domain import Finding, Json, Verdict
from services.errors import ConfigError, Denied, NotFound, SlipwayError, Unreachable
from services.facilities import Facilities
from services.gcloud import CloudPlace
from services.gke import ContainerApi, GkeAccess
from tests import google as scripted
from tests.cluster.gate import Gate, standing
from tests.google import CLUSTER, LOCATION, PROJECT, SECRET, Authority, Google


@dataclass
class Answer:
    """What urllib3 gives for one answer of the API server."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    def read(self) -> bytes:
        return self.body

    def release_conn(self) -> None:
        """There is none."""


@dataclass
class ApiServer:
    """An API server that says who is there, whatever else it is asked."""

    user: str = "deployer"
    objects: dict[str, Json] = field(default_factory=dict)
    """Last part of a path → the object there."""

    def raw(self, _method: str, path: str, **_: object) -> Answer:
        found = self.objects.get(path.rpartition("/")[2])
        said = {"status": {"userInfo": {"username": self.user}}}
        return Answer(json.dumps(found or said).encode())


@dataclass
class World:
    """Google, and one API server with a CA of its own."""

    google: Google
    gate: Gate
    api: ApiServer
    authority: Authority
    folder: Path

    def cluster(self, name: str = CLUSTER, container_api: str = "") -> Cluster:
        access = GkeAccess(
            target="prod",
            project=PROJECT,
            location=LOCATION,
            cluster=name,
            container_api=container_api or self.google.url,
        )
        return Cluster(target="prod", access=access)

    def refusal(self, kind: type[SlipwayError], cluster: Cluster | None = None) -> SlipwayError:
        """The error that asking who we are ends in; it tells no secret."""
        with pytest.raises(kind) as caught:
            (cluster or self.cluster()).identity()
        assert SECRET not in str(caught.value)
        assert "ya29" not in str(caught.value)
        assert caught.value.why
        assert caught.value.fix
        return caught.value


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    authority = Authority(tmp_path, "cluster")
    with ExitStack() as stack:
        google = stack.enter_context(scripted.listening(tmp_path))
        api = ApiServer()
        upstream = cast("Cluster", api)
        gate = stack.enter_context(standing(upstream, authority.tls, admits=google.takes))
        google.adds(f"127.0.0.1:{gate.port}", authority.pem)
        for name, value in google.environment(google.external_account()).items():
            monkeypatch.setenv(name, value)
        # Where there are no credentials, the library would look for the machine it runs on.
        monkeypatch.setenv("NO_GCE_CHECK", "true")
        yield World(google, gate, api, authority, tmp_path)


@pytest.mark.parametrize("kind", ["external_account", "service_account"])
def test_a_cluster_is_reached_by_its_name_with_googles_credentials(
    world: World, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    credentials = getattr(world.google, kind)()
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(credentials))
    cluster = world.cluster()
    assert cluster.identity() == "deployer"
    assert cluster.host == f"127.0.0.1:{world.gate.port}"
    cluster.identity()
    path = f"/v1/projects/{PROJECT}/locations/{LOCATION}/clusters/{CLUSTER}"
    assert (len(world.google.exchanges), world.google.asked) == (1, [path])


def test_a_token_that_was_revoked_is_renewed_once_and_the_call_goes_on(world: World) -> None:
    cluster = world.cluster()
    cluster.identity()
    world.google.revoke()
    assert cluster.identity() == "deployer"
    assert len(world.google.exchanges) == 2


def test_a_write_with_a_token_that_was_revoked_arrives_once(world: World) -> None:
    cluster = world.cluster()
    cluster.identity()
    world.google.revoke()
    world.gate.seen.clear()
    cluster.send("PATCH", "/apis/x", doing="deploy wine", body={})
    assert [seen.method for seen in world.gate.seen] == ["PATCH"]


def test_a_token_that_many_threads_see_refused_is_renewed_once_for_all(world: World) -> None:
    cluster = world.cluster()
    cluster.identity()
    world.google.revoke()
    with ThreadPoolExecutor(8) as pool:
        assert {each.result() for each in [pool.submit(cluster.identity) for _ in range(8)]} == {
            "deployer"
        }
    assert len(world.google.exchanges) == 2


def test_credentials_that_the_api_server_never_takes_are_denied(world: World) -> None:
    world.gate.admits = lambda _: False
    error = world.refusal(Denied)
    assert "gcloud auth application-default login" in error.fix
    assert world.gate.seen == []


def test_a_login_that_ended_is_told_with_its_fix(world: World) -> None:
    world.google.token_answer = (
        400,
        {"error": "invalid_grant", "error_description": "Token has been expired or revoked."},
    )
    error = world.refusal(Denied)
    assert "invalid_grant" in error.why
    assert "gcloud auth application-default login" in error.fix


def test_an_account_that_may_not_see_the_cluster_gets_the_role_to_ask_for(world: World) -> None:
    world.google.api_answer = scripted.error(403, 'Required "container.clusters.get" permission')
    error = world.refusal(Denied)
    assert "container.clusters.get" in error.why
    assert f"roles/container.clusterViewer on {PROJECT}" in error.fix


def test_an_api_that_is_off_gets_the_line_that_turns_it_on(world: World) -> None:
    world.google.api_answer = scripted.error(403, "It is disabled", "SERVICE_DISABLED")
    fix = world.refusal(Denied).fix
    assert fix == f"gcloud services enable container.googleapis.com --project {PROJECT}"


def test_an_unknown_cluster_names_those_that_there_are(world: World) -> None:
    error = world.refusal(NotFound, world.cluster("servnig"))
    assert f"{CLUSTER} at {LOCATION}" in error.why
    assert f"slipway targets --project {PROJECT}" in error.fix


@pytest.mark.parametrize("status", ["PROVISIONING", "STOPPING", "ERROR"])
def test_a_cluster_that_is_not_up_says_its_state(world: World, status: str) -> None:
    described = world.google.clusters[LOCATION, CLUSTER]
    described |= {"status": status, "statusMessage": "All nodes are gone."}
    error = world.refusal(Unreachable)
    assert error.why == f"Its status is {status}: All nodes are gone."
    assert world.gate.seen == []


@pytest.mark.parametrize("status", ["RECONCILING", "DEGRADED"])
def test_a_cluster_that_is_being_changed_is_used(world: World, status: str) -> None:
    world.google.clusters[LOCATION, CLUSTER]["status"] = status
    assert world.cluster().identity() == "deployer"


def test_another_ca_is_not_the_cluster_and_gets_no_token(world: World) -> None:
    stranger = Authority(world.folder, "stranger")
    world.google.adds(f"127.0.0.1:{world.gate.port}", stranger.pem)
    error = world.refusal(Unreachable)
    assert "is not the cluster that was asked for. Nothing was sent." in error.what
    assert world.gate.seen == []


def test_a_ca_that_was_renewed_is_read_again(world: World) -> None:
    stranger = Authority(world.folder, "stranger")
    world.google.adds(f"127.0.0.1:{world.gate.port}", stranger.pem)
    cluster = world.cluster()
    cluster._api()
    world.google.adds(f"127.0.0.1:{world.gate.port}", world.authority.pem)
    assert cluster.identity() == "deployer"


def test_a_cluster_with_a_dns_name_alone_is_sent_to_kubeconfig(world: World) -> None:
    disabled = {"ipEndpointsConfig": {"enabled": False}}
    world.google.adds("10.0.0.2", world.authority.pem, controlPlaneEndpointsConfig=disabled)
    fix = world.refusal(ConfigError).fix
    assert (
        f"gcloud container clusters get-credentials {CLUSTER} --location {LOCATION}"
        f" --project {PROJECT} --dns-endpoint" in fix
    )
    assert f'context = "gke_{PROJECT}_{LOCATION}_{CLUSTER}"' in fix


def test_a_private_address_that_does_not_answer_says_where_to_run(world: World) -> None:
    private = {"enablePrivateEndpoint": True, "privateEndpoint": "127.0.0.1:9"}
    world.google.adds("127.0.0.1:9", world.authority.pem, privateClusterConfig=private)
    assert "Its address is private" in world.refusal(Unreachable).fix


def test_an_address_that_does_not_answer_points_to_the_authorized_networks(world: World) -> None:
    world.google.adds("127.0.0.1:9", world.authority.pem)
    error = world.refusal(Unreachable)
    assert "authorized networks" in error.fix
    assert f"gcloud container clusters describe {CLUSTER}" in error.fix


@pytest.mark.parametrize("stumbling", ["token_answer", "api_answer"])
def test_a_google_that_stumbles_is_no_answer(world: World, stumbling: str) -> None:
    setattr(world.google, stumbling, scripted.error(503, "The service is unavailable."))
    world.refusal(Unreachable)


def test_a_google_that_is_slow_is_not_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gke, "TIMEOUT_S", 0.2)
    world.google.slow_s = 5
    world.refusal(Unreachable)


def test_a_google_behind_another_certificate_gets_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(world.authority.file))
    world.refusal(Unreachable)
    assert world.google.exchanges == []


@pytest.mark.parametrize("credentials", ["", "gone.json", "{"])
def test_missing_credentials_are_told_with_the_login(
    world: World, monkeypatch: pytest.MonkeyPatch, credentials: str
) -> None:
    monkeypatch.setenv("HOME", str(world.folder))
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(world.folder))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", credentials)
    if credentials == "{":
        broken = world.folder / "broken.json"
        broken.write_text("{")
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(broken))
    if not credentials:
        monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
    assert "gcloud auth application-default login" in world.refusal(Denied).fix


def test_tokens_leave_this_machine_over_tls_alone() -> None:
    with pytest.raises(ConfigError, match="over TLS"):
        ContainerApi("http://container.example")


@pytest.mark.parametrize("name", ["a/../../x", "x?y=1", "x y"])
def test_a_strange_name_asks_for_nothing_else(world: World, name: str) -> None:
    world.refusal(NotFound, world.cluster(name))
    assert all(
        path.startswith(f"/v1/projects/{PROJECT}/locations/") and "/../" not in path
        for path in world.google.asked
    )


def test_the_clusters_of_a_project_are_listed(world: World) -> None:
    world.google.adds("", "", name="batch", status="STOPPING")
    found = ContainerApi(world.google.url).clusters(PROJECT)
    listed = [(each.name, each.location, each.usable) for each in found]
    assert listed == [("batch", LOCATION, False), (CLUSTER, LOCATION, True)]


def test_an_answer_that_is_no_cluster_is_told(world: World) -> None:
    odd: dict[str, Any] = {"name": CLUSTER, "endpoint": "evil/path", "masterAuth": None}
    world.google.clusters[LOCATION, CLUSTER] = {**odd, "status": "RUNNING"}
    world.refusal(ConfigError)
    world.google.clusters[LOCATION, CLUSTER] = {}
    with pytest.raises(Unreachable):
        world.cluster().identity()


# ── Workload Identity ─────────────────────────────────────────────────────────────────────────

READER = "reader@acme-ml.iam.gserviceaccount.com"


def storage(world: World, annotation: str | None) -> tuple[Finding, Finding]:
    """What the checks say of the pods' credentials, and of Google Cloud."""
    annotations = {} if annotation is None else {"iam.gke.io/gcp-service-account": annotation}
    world.api.objects["predictor"] = {"metadata": {"annotations": annotations}}
    place = CloudPlace(PROJECT, LOCATION, CLUSTER, "gs://acme-models/slipway")
    facilities = Facilities(world.cluster(), "models", service_account="predictor", cloud=place)
    found = {finding.name: finding for finding in facilities.findings(tuple)}
    return found["storage credentials"], found["Google Cloud"]


def test_the_checks_say_as_whom_the_pods_act(world: World) -> None:
    pods, _ = storage(world, READER)
    assert pods.verdict is Verdict.PASS
    assert pods.detail.startswith(f"The pods act as {READER} (Workload Identity")


def test_an_annotation_without_effect_fails_with_the_line_that_mends_it(world: World) -> None:
    world.google.clusters[LOCATION, CLUSTER]["workloadIdentityConfig"] = {}
    pods, _ = storage(world, READER)
    assert pods.verdict is Verdict.FAIL
    assert f"gcloud container clusters update {CLUSTER}" in pods.fix


def test_an_annotation_that_names_no_account_fails(world: World) -> None:
    pods, _ = storage(world, "nobody\nelse")
    assert pods.verdict is Verdict.FAIL
    assert "nobody else, which is no Google service account" in pods.detail


def test_without_the_annotation_the_checks_say_what_the_pods_are_then(world: World) -> None:
    pods, _ = storage(world, None)
    assert pods.verdict is Verdict.WARN
    assert f"{PROJECT}.svc.id.goog[models/predictor]" in pods.detail
    assert "kubectl annotate serviceaccount predictor -n models" in pods.fix


def test_doctor_prints_the_lines_for_bucket_accounts_and_bindings(world: World) -> None:
    world.api.user = "ci@acme-ml.iam.gserviceaccount.com"
    _, cloud = storage(world, READER)
    assert cloud.verdict is Verdict.SKIP
    said, *lines = cloud.fix.splitlines()
    assert said == "Run these (what exists already says so, and stays as it is):"
    assert all(line.startswith(("gcloud ", "kubectl ")) for line in lines)
    for part in (
        f"--member=serviceAccount:{READER} --role=roles/storage.objectViewer",
        f"--member=serviceAccount:{world.api.user} --role=roles/storage.objectCreator",
        "--role=roles/iam.workloadIdentityUser",
    ):
        assert sum(part in line for line in lines) == 1


def test_the_gate_speaks_tls(world: World) -> None:
    with pytest.raises(ssl.SSLError):
        ssl.get_server_certificate(
            ("127.0.0.1", world.gate.port), ca_certs=str(world.google.authority.file)
        )
