"""How far a roll-out is, by what KServe v0.15 to v0.20 put into their objects.

tests/samples/kserve/README.md says where the looks come from. Ready, observedGeneration and
modelStatus differ between the versions, and each says "all is well" in a look where it is not: the
verdict must be the same for all.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services import inferenceservice as objects
from services import kubeobject, rollout
from services.cluster import Cluster
from services.domain import (
    Action,
    Intent,
    Json,
    Mode,
    Observed,
    Outcome,
    Phase,
    Plan,
    Release,
    StepState,
    VersionRef,
)
from services.facilities import Facilities
from services.kserve import KServeServing
from tests import apiserver
from tests.apiserver import ApiServer, api_server, kubeconfig

SAMPLES = Path(__file__).parents[1] / "samples" / "kserve" / "versions"
VERSIONS = ("v0.15", "v0.16", "v0.19", "v0.20")
AT = datetime(2026, 11, 23, 12, 1, 0, tzinfo=UTC)


def looks(version: str) -> dict[str, Json]:
    found: dict[str, Json] = json.loads((SAMPLES / f"{version}.json").read_text("utf-8"))["looks"]
    return found


class Past:
    """A history that was written before."""

    def __init__(self, *releases: Release) -> None:
        self.releases = releases

    def history(self, service: str) -> Sequence[Release]:
        return self.releases

    def histories(self) -> Mapping[str, Sequence[Release]]:
        return {"wine": self.releases}


def past_of(service: Json) -> Past:
    """Release 1 is verified; release 2, which the object carries, is open."""
    intent = replace(objects.live_intent(service), version=VersionRef("wine", 2))
    first = replace(
        intent,
        version=VersionRef("wine", 1),
        package=replace(intent.package, uri="gs://models/wine/1"),
        canary_percent=None,
        stopped=False,
    )
    return Past(
        Release(2, "wine", Action.DEPLOY, intent, "ana", "", AT, workload=2),
        Release(
            1, "wine", Action.DEPLOY, first, "ana", "", AT, workload=1, outcome=Outcome.VERIFIED
        ),
    )


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with api_server() as server:
        yield server


@pytest.fixture
def cluster(api: ApiServer, tmp_path: Path) -> Cluster:
    return Cluster(target="stub", context="stub", kubeconfig=kubeconfig(tmp_path, api.url))


def show(api: ApiServer, look: Json) -> None:
    api.put(apiserver.SERVING, look["service"])
    for collection, thing in (
        (apiserver.DEPLOYMENTS, look["deployment"]),
        (apiserver.KNATIVE, look["knative"]),
        *((apiserver.REVISIONS, revision) for revision in look["revisions"]),
        *((apiserver.PODS, pod) for pod in look["pods"]),
    ):
        if thing is not None:
            api.put(collection, thing)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", ["standard", "knative"])
def test_a_service_without_pods_is_stopped_once_kserve_took_away_what_would_make_them(
    api: ApiServer, cluster: Cluster, version: str, mode: str
) -> None:
    stopped, ready = looks(version)["standard stopped"], looks(version)[f"{mode} ready"]
    kind = "deployment" if mode == "standard" else "knative"
    service, child = ready["service"], ready[kind]
    service["metadata"].setdefault("annotations", {})[kubeobject.STOP_ANNOTATION] = "true"
    show(api, {**stopped, "service": service, kind: child})
    serving = KServeServing(cluster, "models", past_of(service))
    assert not serving.observe("wine").stopped
    child["metadata"]["deletionTimestamp"] = "2026-11-20T10:00:00Z"
    show(api, {**stopped, "service": service, kind: child})
    assert serving.observe("wine").stopped


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("name", "phase", "answering"),
    [
        ("standard ready", Phase.READY, {2: 100}),
        ("standard not acted on", Phase.ROLLING_OUT, {1: 100}),
        ("standard rolling", Phase.ROLLING_OUT, {1: 100}),
        ("standard image gone, old serves", Phase.FAILED, {1: 100}),
        ("standard deadline passed, old serves", Phase.FAILED, {1: 100}),
        ("standard status empty", Phase.READY, {2: 100}),
        ("standard stopped", Phase.STOPPED, {}),
        ("knative ready", Phase.READY, {2: 100}),
        ("knative asleep", Phase.READY, {2: 100}),
        ("knative rolling", Phase.ROLLING_OUT, {1: 100}),
        ("knative download failed, old serves", Phase.FAILED, {1: 100}),
        ("knative canary", Phase.READY, {1: 70, 2: 30}),
        ("knative canary coming", Phase.ROLLING_OUT, {1: 100}),
    ],
)
def test_the_verdict_is_the_same_whatever_the_version_says(  # noqa: PLR0917 (a table's columns)
    api: ApiServer,
    cluster: Cluster,
    version: str,
    name: str,
    phase: Phase,
    answering: dict[int, int],
) -> None:
    look = looks(version)[name]
    show(api, look)
    seen = KServeServing(cluster, "models", past_of(look["service"])).observe("wine")
    progress = rollout.progress_of(seen)
    assert progress.phase is phase, progress.message
    assert {side.release: side.percent for side in progress.answering} == answering


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("leaving", [True, False])
def test_a_service_that_fell_asleep_says_whether_a_pod_is_still_on_its_way_out(
    api: ApiServer, cluster: Cluster, version: str, leaving: bool
) -> None:
    look = looks(version)["knative asleep"]
    going = [
        {**pod, "metadata": {**pod["metadata"], "deletionTimestamp": "2026-01-05T09:00:00Z"}}
        for pod in looks(version)["knative ready"]["pods"]
    ]
    show(api, {**look, "pods": going if leaving else []})
    (service,) = KServeServing(cluster, "models", past_of(look["service"])).services()
    assert (service.asleep, service.leaving) == (True, leaving)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_list_names_the_mode_in_todays_words(
    api: ApiServer, cluster: Cluster, version: str
) -> None:
    look = looks(version)["knative ready"]
    show(api, look)
    (service,) = KServeServing(cluster, "models", past_of(look["service"])).services()
    assert service.mode is Mode.KNATIVE


@pytest.mark.parametrize(
    ("edit", "verified"),
    [
        ({}, True),
        ({"minReplicas": 3}, True),
        ({"model": {"storageUri": "gs://models/other"}}, False),
        ({"model": {"env": [{"name": "MLSERVER_MODEL_VERSION", "value": "9"}]}}, False),
    ],
    ids=["as it was", "scaled", "other files", "other environment"],
)
def test_pods_that_somebody_changed_after_the_test_are_not_called_verified(
    api: ApiServer, cluster: Cluster, edit: Json, verified: bool
) -> None:
    look = copy.deepcopy(looks(VERSIONS[-1])["standard ready"])
    newest, earlier = past_of(look["service"]).releases
    predictor = look["service"]["spec"]["predictor"]
    predictor |= {**edit, "model": {**predictor["model"], **edit.get("model", {})}}
    show(api, look)
    past = Past(replace(newest, outcome=Outcome.VERIFIED), earlier)
    (service,) = KServeServing(cluster, "models", past).services()
    assert service.verified is verified
    assert bool(service.drift) is bool(edit)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({"storageUri": "gs://models/other"}, "gs://models/other was seen"),
        (
            {"env": [{"name": "MLSERVER_MODEL_VERSION", "value": "9"}]},
            "env MLSERVER_MODEL_VERSION: 2 is recorded, 9 was seen",
        ),
    ],
    ids=["other files", "other name"],
)
def test_a_roll_out_of_which_somebody_changed_the_model_is_failed_and_not_verified(
    api: ApiServer, cluster: Cluster, edit: Json, said: str
) -> None:
    look = copy.deepcopy(looks(VERSIONS[-1])["standard ready"])
    look["service"]["spec"]["predictor"]["model"] |= edit
    past = past_of(looks(VERSIONS[-1])["standard ready"]["service"])
    show(api, look)
    progress = rollout.progress_of(KServeServing(cluster, "models", past).observe("wine"))
    assert progress.phase is Phase.FAILED
    assert progress.cause is not None
    assert progress.cause.what == "What its pods carry is not wine/2"
    assert said in progress.cause.why


def test_pods_that_load_other_files_than_the_spec_says_are_not_verified(
    api: ApiServer, cluster: Cluster
) -> None:
    look = copy.deepcopy(looks(VERSIONS[-1])["standard ready"])
    for pod in look["pods"]:
        pod["spec"]["initContainers"] = [
            {"name": "storage-initializer", "args": ["gs://models/other", "/mnt/models"]}
        ]
    show(api, look)
    seen = KServeServing(cluster, "models", past_of(look["service"])).observe("wine")
    assert seen.failure is not None
    assert "gs://models/other was seen" in seen.failure.why


def seen_of_one_release(cluster: Cluster, look: Json) -> Observed:
    """What is observed of a sample whose object is as its first and only release wrote it."""
    intent = objects.live_intent(look["service"])
    written = kubeobject.written_at(look["service"])
    assert written is not None
    release = Release(1, intent.service, Action.DEPLOY, intent, "ana", "", written, workload=1)
    return KServeServing(cluster, "models", Past(release)).observe(intent.service)


def test_a_model_that_does_not_load_is_told_of_the_model_and_not_of_its_container(
    api: ApiServer, cluster: Cluster
) -> None:
    text = (SAMPLES.parent / "skops_on_old.json").read_text("utf-8")
    look: Json = json.loads(text)
    show(api, look)
    seen = seen_of_one_release(cluster, look)
    states = {step.name: step.state for step in seen.steps}
    assert states["image pulled"] is StepState.DONE
    assert states["server up"] is StepState.DONE
    assert states["model loaded"] is StepState.FAILED
    assert states["verified"] is StepState.PENDING


def test_a_roll_out_waits_for_the_node_that_is_being_added_for_its_pod(
    api: ApiServer, cluster: Cluster
) -> None:
    look: Json = json.loads((SAMPLES.parent / "unschedulable.json").read_text("utf-8"))
    for thing in (look["service"], look["deployment"], *look["pods"]):
        thing["metadata"]["namespace"] = "models"
    show(api, look)
    seen = seen_of_one_release(cluster, look)
    assert seen.failure is not None
    assert seen.failure.code == "E11"
    event = {
        "metadata": {"name": "scale-up"},
        "involvedObject": {"kind": "Pod", "name": look["pods"][0]["metadata"]["name"]},
        "reason": "TriggeredScaleUp",
        "message": "pod triggered scale-up: [{pool-1 1->2 (max: 3)}]",
        "lastTimestamp": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
    }
    api.put(apiserver.EVENTS, event)
    seen = seen_of_one_release(cluster, look)
    assert seen.failure is None
    assert "a node is being added for it: pod triggered scale-up" in seen.message
    assert rollout.progress_of(seen).phase is Phase.ROLLING_OUT


@pytest.mark.parametrize("version", VERSIONS)
def test_an_earlier_failure_is_not_told_as_todays(
    api: ApiServer, cluster: Cluster, version: str
) -> None:
    look = looks(version)["standard ready"]
    assert look["service"]["status"]["modelStatus"]["lastFailureInfo"]
    show(api, look)
    seen = KServeServing(cluster, "models", past_of(look["service"])).observe("wine")
    assert seen.failure is None
    assert "not found" not in seen.message


def with_controller(api: ApiServer, tag: str) -> None:
    container = {"name": "manager", "image": f"kserve/kserve-controller:{tag}"}
    api.put(
        "/apis/apps/v1/namespaces/kserve/deployments",
        {
            "metadata": {"name": "kserve-controller-manager"},
            "spec": {"template": {"spec": {"containers": [container]}}},
        },
    )


def with_schema(api: ApiServer, *fields: str) -> None:
    """The API description that any identity may read."""
    status = {"type": "object", "properties": {name: {"type": "string"} for name in fields}}
    kind = "io.kserve.serving.v1beta1.InferenceService"
    api.documents["/openapi/v3/apis/serving.kserve.io/v1beta1"] = {
        "components": {"schemas": {kind: {"type": "object", "properties": {"status": status}}}}
    }


@pytest.mark.parametrize(
    ("tag", "old"),
    [("v0.15.2", True), ("v0.14.0", True), ("v0.16.0", False), ("v0.20.0", False), ("v1.0", False)],
)
def test_the_controllers_version_says_which_names_it_knows(
    api: ApiServer, cluster: Cluster, tag: str, old: bool
) -> None:
    with_controller(api, tag)
    assert Facilities(cluster, "models").names_old_modes() is old


@pytest.mark.parametrize(
    ("fields", "old"),
    [(("deploymentMode", "url"), True), (("deploymentMode", "servingRuntimeName"), False)],
)
def test_a_controller_that_may_not_be_seen_is_told_by_the_api_description(
    api: ApiServer, cluster: Cluster, fields: tuple[str, ...], old: bool
) -> None:
    with_schema(api, *fields)
    assert Facilities(cluster, "models").names_old_modes() is old


@pytest.mark.parametrize(
    ("tag", "mode", "written"),
    [
        ("v0.15.2", Mode.STANDARD, "RawDeployment"),
        ("v0.15.2", Mode.KNATIVE, "Serverless"),
        ("v0.16.0", Mode.STANDARD, "Standard"),
        ("v0.20.0", Mode.KNATIVE, "Knative"),
    ],
)
def test_a_new_service_names_its_mode_in_the_installed_versions_words(
    api: ApiServer, cluster: Cluster, tag: str, mode: Mode, written: str
) -> None:
    with_controller(api, tag)
    intent: Intent = replace(
        objects.live_intent(looks("v0.20")["standard ready"]["service"]),
        version=VersionRef("wine", 2),
        mode=mode,
    )
    plan = Plan(Action.DEPLOY, "wine", "stub", "models", None, intent, None, (), "n")
    made = KServeServing(cluster, "models", Past()).rehearse(plan).manifest
    assert f"deploymentMode: {written}" in made


@pytest.mark.parametrize("version", VERSIONS)
def test_an_update_leaves_the_modes_name_as_it_stands(
    api: ApiServer, cluster: Cluster, version: str
) -> None:
    look = looks(version)["standard ready"]
    show(api, look)
    with_controller(api, "v0.20.0")  # upgraded since: a webhook refuses another name (up to v0.18)
    serving = KServeServing(cluster, "models", past_of(look["service"]))
    live = look["service"]
    before = objects.live_intent(live)
    after = replace(before, package=replace(before.package, uri="gs://models/wine/3"))
    plan = Plan(
        Action.DEPLOY,
        "wine",
        "stub",
        "models",
        before,
        after,
        objects.object_version(live),
        (),
        "n",
    )
    name = live["metadata"]["annotations"]["serving.kserve.io/deploymentMode"]
    assert f"deploymentMode: {name}" in serving.rehearse(plan).manifest
