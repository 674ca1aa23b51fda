"""Manifests, and what objects of a cluster amount to. No cluster is asked."""

from __future__ import annotations

import copy
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services import inferenceservice as objects
from services import kubeobject, manifests, podsteps, servingruntime
from services.checks import choose_runtime
from services.domain import (
    Action,
    Intent,
    Json,
    Mode,
    Outcome,
    Package,
    PackageKind,
    Protocol,
    Release,
    Resources,
    Scale,
    VersionRef,
)
from services.errors import NotDeployable, NotOffered

AT = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)


def intent_of(number: int = 1, mode: Mode = Mode.STANDARD, **fields: Json) -> Intent:
    package = Package(PackageKind.GCS, f"gs://models/wine/{number}", f"{number:064x}")
    return replace(Intent("wine", VersionRef("wine", number), package, mode), **fields)


def release_of(number: int, intent: Intent, **fields: Json) -> Release:
    made = Release(number, "wine", Action.DEPLOY, intent, "ana", "", AT, workload=number)
    return replace(made, **fields)


def applied(intent: Intent, workload: int = 1, **status: Json) -> Json:
    """The object as the API server keeps it."""
    made = manifests.manifest(
        intent, namespace="models", workload=workload, mode_value=intent.mode.value
    )
    made["metadata"] |= {"uid": "u", "generation": 1, "resourceVersion": "7"}
    made["status"] = {"deploymentMode": intent.mode.value, **status}
    return made


def pod(workload: int, *, ready: bool = True, name: str = "", uri: str = "") -> Json:
    return {
        "metadata": {
            "name": name or f"wine-{workload}",
            "labels": {kubeobject.WORKLOAD_LABEL: str(workload)},
            "annotations": {"internal.serving.kserve.io/storage-initializer-sourceuri": uri},
            "creationTimestamp": f"2026-11-23T12:00:{workload:02d}Z",
        },
        "spec": {"containers": [{"name": "kserve-container"}]},
        "status": {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}]},
    }


def deployment(workload: int, intent: Intent, **status: Json) -> Json:
    counts = {"replicas": 1, "updatedReplicas": 1, "availableReplicas": 1, "observedGeneration": 1}
    return {
        "metadata": {"name": "wine-predictor", "generation": 1},
        "spec": {
            "replicas": 1,
            "template": {
                "metadata": {
                    "labels": {kubeobject.WORKLOAD_LABEL: str(workload)},
                    "annotations": {
                        "internal.serving.kserve.io/storage-initializer-sourceuri": (
                            intent.package.uri
                        )
                    },
                }
            },
        },
        "status": {**counts, **status},
    }


# ── Manifests ─────────────────────────────────────────────────────────────────────────────────


def test_a_manifest_asks_for_mlflow_over_v2_without_a_format_version() -> None:
    model = applied(intent_of())["spec"]["predictor"]["model"]
    assert model["modelFormat"] == {"name": "mlflow"}
    assert model["protocolVersion"] == "v2"
    assert model["storageUri"] == "gs://models/wine/1"


def test_the_answering_version_is_named_by_the_server() -> None:
    env = applied(intent_of(7))["spec"]["predictor"]["model"]["env"]
    assert {"name": "MLSERVER_MODEL_VERSION", "value": "7"} in env


def test_no_environment_makes_a_version_answer_as_another() -> None:
    kept = (("MLSERVER_MODEL_VERSION", "1"), ("A", "b"))
    env = applied(intent_of(7, env=kept))["spec"]["predictor"]["model"]["env"]
    assert env == [{"name": "MLSERVER_MODEL_VERSION", "value": "7"}, {"name": "A", "value": "b"}]


def test_a_pod_gets_requests_only_when_its_model_is_loaded() -> None:
    model = applied(intent_of())["spec"]["predictor"]["model"]
    assert model["readinessProbe"]["httpGet"]["path"] == "/v2/models/wine/ready"


def test_knative_gets_no_hooks_which_it_refuses() -> None:
    assert "lifecycle" in applied(intent_of())["spec"]["predictor"]["model"]
    assert "lifecycle" not in applied(intent_of(mode=Mode.KNATIVE))["spec"]["predictor"]["model"]


def test_a_change_of_traffic_alone_leaves_all_that_flows_into_the_pods() -> None:
    canary = applied(intent_of(2, Mode.KNATIVE, canary_percent=10), workload=2)
    promoted = applied(intent_of(2, Mode.KNATIVE), workload=2)
    assert canary["spec"]["predictor"].pop("canaryTrafficPercent") == 10
    assert canary == promoted


def test_each_side_of_a_canary_gets_an_address_with_new_pods_only() -> None:
    first, standard = intent_of(1, Mode.KNATIVE), intent_of(1)
    without = applied(first, workload=1)
    asked = manifests.manifest(
        first, namespace="models", workload=1, mode_value="Knative", tag_routing=True
    )
    refused = copy.deepcopy(asked)
    refused["metadata"]["annotations"][manifests.TAG_ROUTING_ANNOTATION] = "false"
    tags = manifests.tags_routes
    assert tags(first, 1, None)
    assert (tags(first, 1, without), tags(first, 2, without)) == (False, True)
    assert tags(first, 1, asked)
    assert not tags(first, 2, refused)
    assert not tags(standard, 1, None)


def test_standard_mode_offers_no_canary() -> None:
    with pytest.raises(NotOffered, match="second service"):
        applied(intent_of(canary_percent=10))


def test_mlflows_own_server_is_asked_in_its_own_words() -> None:
    """It speaks no V2: /ping says that the model is loaded, and KServe is told nothing of V2."""
    package = Package(
        PackageKind.IMAGE, "dev.local/slipway/wine:1-ab", protocol=Protocol.INVOCATIONS
    )
    made = manifests.manifest(
        intent_of(package=package), namespace="models", workload=1, mode_value="Standard"
    )
    (container,) = made["spec"]["predictor"]["containers"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/ping"
    assert "PROTOCOL" not in {env["name"] for env in container["env"]}


def test_an_environment_is_offered_as_a_runtime_that_nobody_is_given_unasked() -> None:
    made = servingruntime.environment_manifest("dev.local/slipway/environment:py3.11-abc", "models")
    runtime = servingruntime.runtime_of(made)
    assert made["metadata"]["name"] == "slipway-py3-11-abc"
    assert runtime.takes_mlflow
    assert runtime.environment
    assert choose_runtime([runtime], ["mlflow==3.17.2"]) is None


def test_an_image_is_served_without_the_initializer() -> None:
    package = Package(PackageKind.IMAGE, "dev.local/wine:1", "")
    predictor = applied(intent_of(package=package))["spec"]["predictor"]
    assert predictor["containers"][0]["image"] == "dev.local/wine:1"
    assert "model" not in predictor


def test_scale_resources_account_and_timeout_are_written_where_kserve_reads_them() -> None:
    wished = intent_of(
        scale=Scale(1, 3, "cpu", 70),
        resources=Resources("500m", "1Gi"),
        service_account="reader",
        timeout_s=30,
    )
    predictor = applied(wished)["spec"]["predictor"]
    assert predictor["minReplicas"] == 1
    assert predictor["scaleMetric"] == "cpu"
    assert predictor["model"]["resources"]["requests"] == {"cpu": "500m", "memory": "1Gi"}
    assert (predictor["serviceAccountName"], predictor["timeout"]) == ("reader", 30)


def test_a_patch_is_merged_and_named_things_by_name() -> None:
    patch = "spec: {predictor: {model: {env: [{name: A, value: b}]}, tolerations: [{key: gpu}]}}"
    predictor = applied(intent_of(patch=patch))["spec"]["predictor"]
    names = [entry["name"] for entry in predictor["model"]["env"]]
    assert names == ["MLSERVER_MODEL_VERSION", "A"]
    assert predictor["tolerations"] == [{"key": "gpu"}]


@pytest.mark.parametrize(
    "patch",
    [
        "metadata: {name: other}",
        "metadata: {namespace: kube-system}",
        f"metadata: {{labels: {{{kubeobject.WORKLOAD_LABEL}: '9'}}}}",
        "kind: Pod",
        "spec: {predictor: {canaryTrafficPercent: 50}}",
        "[1]",
        "{",
    ],
)
def test_a_patch_cannot_move_the_object_or_forge_a_release(patch: str) -> None:
    with pytest.raises(NotDeployable, match="Nothing was changed"):
        applied(intent_of(patch=patch))


OTHER = "gs://models/wine/2"


@pytest.mark.parametrize(
    "patch",
    [
        f"spec: {{predictor: {{model: {{storageUri: {OTHER}}}}}}}",
        "spec: {predictor: {model: {storageUri: null}}}",
        "spec: {predictor: {model: null}}",
        f"spec: {{predictor: {{model: {{storageUris: [{{uri: {OTHER}}}]}}}}}}",
        f"spec: {{predictor: {{storageUris: [{{uri: {OTHER}}}]}}}}",
        "spec: {predictor: {model: {storage: {key: k, path: wine/2}}}}",
        "spec: {predictor: {model: {modelFormat: {name: sklearn}}}}",
        "spec: {predictor: {model: {env: [{name: MLSERVER_MODEL_VERSION, value: '9'}]}}}",
        "spec: {predictor: {model: {env: [{value: '9'}]}}}",
        "spec: {predictor: {model: {env: [{name: MLSERVER_MODEL_NAME, value: other}]}}}",
        "spec: {predictor: {model: {env: [{name: MLSERVER_MODEL_URI, value: /other}]}}}",
        f"spec: {{predictor: {{model: {{env: [{{name: STORAGE_URI, value: '{OTHER}'}}]}}}}}}",
        "spec: {predictor: {model: {volumeMounts: [{name: v, mountPath: /mnt/models/data}]}}}",
        "spec: {predictor: {containers: [{name: kserve-container, image: other}]}}",
        "spec: {predictor: {initContainers: [{name: storage-initializer, image: other}]}}",
        "spec: {canary: [{trafficPercent: 50, predictor: {name: other}}]}",
    ],
)
def test_a_patch_cannot_put_another_model_under_a_release(patch: str) -> None:
    with pytest.raises(NotDeployable, match="The patch may not set") as refused:
        applied(intent_of(patch=patch))
    assert "which model the pods load" in refused.value.why
    assert "wine/1" in refused.value.fix


@pytest.mark.parametrize(
    "patch",
    [
        "spec: {predictor: {containers: [{name: kserve-container, image: other}]}}",
        "spec: {predictor: {containers: [{image: other}]}}",
        f"spec: {{predictor: {{model: {{storageUri: {OTHER}}}}}}}",
        (
            "spec: {predictor: {containers: [{name: kserve-container,"
            " env: [{name: MLSERVER_MODEL_NAME, value: other}]}]}}"
        ),
    ],
)
def test_a_patch_cannot_put_another_image_under_a_release(patch: str) -> None:
    package = Package(PackageKind.IMAGE, "dev.local/wine:1", "")
    with pytest.raises(NotDeployable, match="The patch may not set"):
        applied(intent_of(package=package, patch=patch))


@pytest.mark.parametrize(
    "patch",
    ["metadata: {labels: null}", "metadata: {annotations: {serving.kserve.io/stop: 'true'}}"],
)
def test_a_patch_cannot_take_away_what_a_release_is_known_by(patch: str) -> None:
    with pytest.raises(NotDeployable, match="may not set metadata"):
        applied(intent_of(patch=patch))


@pytest.mark.parametrize(
    "patch",
    [
        "spec: {predictor: {model: {image: registry.example/mlserver:2}}}",
        "spec: {predictor: {containers: [{name: proxy, image: envoy}]}}",
        "spec: {predictor: {model: {volumeMounts: [{name: v, mountPath: /mnt/models-cache}]}}}",
        f"spec: {{predictor: {{model: {{storageUri: {intent_of().package.uri}}}}}}}",
    ],
)
def test_a_patch_may_set_what_leaves_the_model_alone(patch: str) -> None:
    wished = intent_of(patch=patch)
    assert objects.drift_of(applied(wished), release_of(1, wished)) == ()


def test_a_wish_cannot_say_by_its_environment_which_model_is_loaded() -> None:
    wished = intent_of(env=(("MLSERVER_MODEL_URI", OTHER), ("A", "b")))
    assert manifests.wished_model_env(None, wished) == ("MLSERVER_MODEL_URI",)
    names = [entry["name"] for entry in applied(wished)["spec"]["predictor"]["model"]["env"]]
    assert names == ["A", "MLSERVER_MODEL_VERSION"]


def test_what_an_adopted_service_says_there_is_dropped_without_a_word() -> None:
    adopted = intent_of(env=(("MLSERVER_MODEL_NAME", "old"),), version=None)
    wished = replace(adopted, version=VersionRef("wine", 2))
    assert manifests.wished_model_env(adopted, wished) == ()
    assert applied(adopted)["spec"]["predictor"]["model"]["env"] == [
        {"name": "MLSERVER_MODEL_NAME", "value": "old"}
    ]


@given(st.text(max_size=60))
def test_any_models_name_is_data_in_the_manifest(name: str) -> None:
    intent = replace(intent_of(), version=VersionRef(name, 1))
    made = applied(intent)
    assert made["metadata"]["annotations"][kubeobject.VERSION_ANNOTATION] == f"{name}/1"
    assert made["metadata"]["labels"] == {kubeobject.WORKLOAD_LABEL: "1"}
    assert kubeobject.version_of(made) == (VersionRef(name, 1) if name else None)


def test_what_is_applied_reads_back_as_the_same_intent() -> None:
    wished = intent_of(runtime="r", scale=Scale(1, 2), resources=Resources("1", "1Gi"))
    assert objects.drift_of(applied(wished), release_of(1, wished)) == ()


# ── The object ────────────────────────────────────────────────────────────────────────────────


def test_the_objects_version_changes_with_the_wish_and_not_with_the_status() -> None:
    before = applied(intent_of())
    status_only, labelled, changed = (copy.deepcopy(before) for _ in range(3))
    status_only["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
    status_only["metadata"]["resourceVersion"] = "8"
    labelled["metadata"]["labels"]["x"] = "y"
    changed["metadata"]["generation"] = 2
    version = objects.object_version(before)
    assert objects.object_version(status_only) == version
    assert objects.object_version(labelled) != version
    assert objects.object_version(changed) != version


@pytest.mark.parametrize(
    ("told", "mode"),
    [
        ("RawDeployment", Mode.STANDARD),
        ("Standard", Mode.STANDARD),
        ("Serverless", Mode.KNATIVE),
        ("Knative", Mode.KNATIVE),
    ],
)
def test_both_spellings_of_a_mode_are_known(told: str, mode: Mode) -> None:
    service = applied(intent_of())
    service["status"]["deploymentMode"] = told
    assert kubeobject.mode_of(service) is mode


@pytest.mark.parametrize(
    ("place", "key", "tool"),
    [
        ("annotations", "argocd.argoproj.io/tracking-id", "Argo CD"),
        ("labels", "kustomize.toolkit.fluxcd.io/name", "Flux"),
        ("annotations", "meta.helm.sh/release-name", "Helm"),
    ],
)
def test_a_gitops_tool_is_recognised(place: str, key: str, tool: str) -> None:
    service = applied(intent_of())
    assert objects.owner_of(service) == ""
    service["metadata"].setdefault(place, {})[key] = "models"
    assert objects.owner_of(service) == tool


def test_the_wanted_release_is_the_one_whose_share_the_object_has() -> None:
    first = release_of(1, intent_of(1, Mode.KNATIVE))
    start = release_of(2, intent_of(2, Mode.KNATIVE, canary_percent=10))
    more = release_of(3, intent_of(2, Mode.KNATIVE, canary_percent=60), workload=2)
    history = (more, start, first)
    assert objects.wanted_release(applied(start.intent, 2), history) == start
    assert objects.wanted_release(applied(more.intent, 2), history) == more


def test_a_release_that_was_never_applied_is_not_wanted() -> None:
    first = release_of(1, intent_of(1))
    lost = release_of(2, intent_of(1), workload=1, outcome=Outcome.NOT_APPLIED)
    assert objects.wanted_release(applied(first.intent, 1), (lost, first)) == first


def test_an_edit_by_others_is_drift_with_its_manager() -> None:
    release = release_of(1, intent_of())
    service = applied(release.intent)
    service["spec"]["predictor"]["model"]["storageUri"] = "gs://elsewhere/9"
    service["metadata"]["managedFields"] = [
        {"manager": "slipway", "time": "2026-11-23T12:00:00Z"},
        {"manager": "kubectl-edit", "time": "2026-11-23T12:05:00Z"},
    ]
    (drift,) = objects.drift_of(service, release)
    assert (drift.field, drift.recorded, drift.seen, drift.by) == (
        "package",
        "gs://models/wine/1",
        "gs://elsewhere/9",
        "kubectl-edit",
    )


@pytest.mark.parametrize(
    ("patch", "drifts"),
    [
        ("spec: {predictor: {model: {image: registry.example/mlserver:2}}}", False),
        ("spec: {predictor: {model: {runtimeVersion: '2'}}}", False),
        ("spec: {predictor: {tolerations: []}}", True),
        ("", True),
    ],
)
def test_an_image_that_the_release_itself_set_is_no_drift(patch: str, drifts: bool) -> None:
    release = release_of(1, intent_of(patch=patch, runtime_image="registry.example/mlserver:1"))
    made = deployment(1, release.intent)
    made["spec"]["template"]["spec"] = {
        "containers": [{"name": "kserve-container", "image": "registry.example/mlserver:2"}]
    }
    look = objects.Look(applied(release.intent), made)
    assert (objects.image_drift(look, release) is not None) is drifts


def test_an_image_that_a_patch_set_and_somebody_changed_is_drift() -> None:
    patch = "spec: {predictor: {model: {image: registry.example/mlserver:2}}}"
    release = release_of(1, intent_of(patch=patch, runtime_image="registry.example/mlserver:1"))
    made = deployment(1, release.intent)
    made["spec"]["template"]["spec"] = {
        "containers": [{"name": "kserve-container", "image": "registry.example/mlserver:3"}]
    }
    drift = objects.image_drift(objects.Look(applied(release.intent), made), release)
    assert drift is not None
    assert drift.recorded == "registry.example/mlserver:2"


@pytest.mark.parametrize("patch", ["", "spec: {predictor: {tolerations: []}}"])
@pytest.mark.parametrize(
    ("edit", "field"),
    [
        ({"storageUri": OTHER}, "package"),
        (
            {"env": [{"name": "MLSERVER_MODEL_VERSION", "value": "2"}]},
            "env MLSERVER_MODEL_VERSION",
        ),
    ],
)
def test_a_spec_that_names_another_model_than_the_release_is_seen(
    patch: str, edit: Json, field: str
) -> None:
    release = release_of(1, intent_of(patch=patch))
    service = applied(release.intent)
    service["spec"]["predictor"]["model"] |= edit
    found = objects.carries_another(objects.Look(service), release, ())
    assert found is not None
    assert found.field == field


def test_pods_that_load_another_model_than_the_release_are_seen() -> None:
    release = release_of(1, intent_of())
    look = objects.Look(applied(release.intent))
    mine, other = pod(1, uri=release.intent.package.uri), pod(1, uri=OTHER)
    assert objects.carries_another(look, release, (mine, pod(1))) is None
    found = objects.carries_another(look, release, (mine, other))
    assert found is not None
    assert found.seen == OTHER


def rolled_back(service: Json, *, at: str) -> Json:
    """The object as Slipway wrote it at `at`, under the label that an edit had left."""
    service["metadata"]["managedFields"] = [{"manager": "slipway", "time": at}]
    return service


def undoing(intent: Intent) -> Release:
    """The open roll-back to workload 1, begun at 12:00:30."""
    begun = AT + timedelta(seconds=30, milliseconds=400)
    return release_of(4, intent, workload=1, created_at=begun)


def left_by_edit(name: str, **fields: Json) -> Json:
    """A pod that somebody's edit made at 12:00:10 under the label of workload 1."""
    made = pod(1, ready=False, name=name, **fields)
    made["metadata"]["creationTimestamp"] = "2026-11-23T12:00:10Z"
    return made


def test_pods_of_an_edit_that_a_roll_back_undoes_are_no_evidence_against_it() -> None:
    intent = intent_of()
    ours = pod(1, name="ours", uri=intent.package.uri)
    larger = left_by_edit("larger", uri=intent.package.uri)
    larger["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "900"}}
    look = objects.Look(
        rolled_back(applied(intent), at="2026-11-23T12:00:30Z"),
        deployment(1, intent, replicas=3, updatedReplicas=1),
        pods=(ours, left_by_edit("others", uri=OTHER), larger),
    )
    template = look.deployment["spec"]["template"] if look.deployment else {}
    template["spec"] = {"containers": [{"name": "kserve-container"}]}
    release = undoing(intent)
    facts = objects.read(look, (release, release_of(1, intent)))
    assert [found["metadata"]["name"] for found in facts.pods] == ["ours"]
    assert objects.carries_another(look, release, facts.pods) is None


def test_a_roll_back_that_is_still_to_be_written_is_not_judged_by_the_edit_before_it() -> None:
    release, first = undoing(intent_of()), release_of(1, intent_of())
    edited = applied(release.intent)
    edited["spec"]["predictor"]["model"]["storageUri"] = OTHER
    before = rolled_back(copy.deepcopy(edited), at="2026-11-23T12:00:00Z")
    assert objects.wanted_release(before, (release, first)) == first
    edited_again = rolled_back(edited, at="2026-11-23T12:00:30Z")
    assert objects.wanted_release(edited_again, (release, first)) == release
    assert objects.carries_another(objects.Look(edited_again), release, ()) is not None


def test_a_revision_of_an_edit_is_not_the_one_that_undoes_it() -> None:
    intent = intent_of(mode=Mode.KNATIVE)
    edited = revision(1)
    edited["metadata"]["annotations"] = {
        "internal.serving.kserve.io/storage-initializer-sourceuri": OTHER
    }
    look = objects.Look(
        applied(intent),
        knative=knative(1, intent, [{"revisionName": "wine-1", "percent": 100}]),
        revisions=(edited,),
        pods=(knative_pod(1, uri=OTHER),),
    )
    facts = objects.read(look, (undoing(intent),))
    assert not facts.pods
    assert not facts.caught_up


def test_what_others_set_beside_the_recorded_wish_is_no_part_of_it() -> None:
    intent = intent_of(scale=Scale(min_replicas=1))
    service = applied(intent)
    service["spec"]["predictor"] |= {"minReplicas": 2, "maxReplicas": 3, "timeout": 9}
    assert objects.with_drift(intent, service) == replace(intent, scale=Scale(min_replicas=2))


# ── Roll-outs ─────────────────────────────────────────────────────────────────────────────────

FAILED_BEFORE = {"reason": "ModelLoadFailed", "message": "an earlier version's", "exitCode": 1}


@pytest.mark.parametrize(
    "status",
    [
        {},
        {"conditions": [{"type": "Ready", "status": "True"}], "observedGeneration": 99},
        {"conditions": [{"type": "Ready", "status": "Unknown"}], "observedGeneration": 0},
        {
            "conditions": [{"type": "Ready", "status": "True"}],
            "modelStatus": {
                "transitionStatus": "UpToDate",
                "states": {"activeModelState": "Loaded", "targetModelState": "Loaded"},
                "lastFailureInfo": FAILED_BEFORE,
            },
        },
    ],
    ids=["empty", "v0.15 mirrors Available", "v0.16 Unknown", "v0.20 True with the old pod"],
)
@pytest.mark.parametrize(
    "child",
    [
        {"workload": 1},
        {"workload": 2, "observedGeneration": 0},
        {"workload": 2, "updatedReplicas": 1, "replicas": 2, "availableReplicas": 1},
        {"workload": 2, "updatedReplicas": 0, "replicas": 1, "availableReplicas": 1},
        {"workload": 2, "availableReplicas": 0},
        None,
    ],
    ids=["old template", "not observed", "old pod left", "no new pod", "not available", "none"],
)
def test_ready_is_not_believed(status: Json, child: Json) -> None:
    release = release_of(2, intent_of(2))
    service = applied(release.intent, 2, **status)
    fields = dict(child) if child else {}
    made = deployment(fields.pop("workload"), release.intent, **fields) if child else None
    look = objects.Look(service, made, pods=(pod(1), pod(2, ready=False)))
    facts = objects.read(look, (release, release_of(1, intent_of(1))))
    assert not facts.all_serve
    assert facts.message


def test_a_roll_out_is_done_when_only_new_pods_serve() -> None:
    release = release_of(2, intent_of(2))
    look = objects.Look(applied(release.intent, 2), deployment(2, release.intent), pods=(pod(2),))
    facts = objects.read(look, (release,))
    assert facts.all_serve
    assert [(s.release, s.percent) for s in facts.answering] == [(2, 100)]


def test_pods_that_are_leaving_do_not_answer() -> None:
    release = release_of(2, intent_of(2))
    leaving = pod(1)
    leaving["metadata"]["deletionTimestamp"] = "2026-11-23T12:01:00Z"
    look = objects.Look(
        applied(release.intent, 2), deployment(2, release.intent), pods=(leaving, pod(2))
    )
    assert [s.release for s in objects.read(look, (release,)).answering] == [2]


def knative(workload: int, intent: Intent, traffic: list[Json], **status: Json) -> Json:
    percent = intent.canary_percent
    entries: list[Json] = [{"latestRevision": True, "percent": 100 if percent is None else percent}]
    if percent is not None:
        entries.append({"revisionName": "wine-1", "percent": 100 - percent})
    return {
        "metadata": {"name": "wine-predictor", "generation": 1},
        "spec": {
            "template": {"metadata": {"labels": {kubeobject.WORKLOAD_LABEL: str(workload)}}},
            "traffic": entries,
        },
        "status": {
            "observedGeneration": 1,
            "latestCreatedRevisionName": f"wine-{workload}",
            "latestReadyRevisionName": f"wine-{workload}",
            "traffic": traffic,
            **status,
        },
    }


def revision(workload: int, *, ready: str = "True") -> Json:
    return {
        "metadata": {
            "name": f"wine-{workload}",
            "labels": {kubeobject.WORKLOAD_LABEL: str(workload)},
        },
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    }


def knative_pod(workload: int, **fields: Json) -> Json:
    made = pod(workload, **fields)
    made["metadata"]["labels"]["serving.knative.dev/revision"] = f"wine-{workload}"
    return made


def test_a_canary_is_done_when_its_share_was_read_back() -> None:
    canary = release_of(2, intent_of(2, Mode.KNATIVE, canary_percent=30))
    first = release_of(1, intent_of(1, Mode.KNATIVE))

    def facts_with(share: int) -> objects.Facts:
        traffic = [
            {"revisionName": "wine-1", "percent": 100 - share},
            {"revisionName": "wine-2", "percent": share},
        ]
        look = objects.Look(
            applied(canary.intent, 2),
            knative=knative(2, canary.intent, traffic),
            revisions=(revision(1), revision(2)),
            pods=(knative_pod(1), knative_pod(2)),
        )
        return objects.read(look, (canary, first))

    assert not facts_with(0).all_serve
    done = facts_with(30)
    assert done.all_serve
    assert done.stable == 1
    assert {(s.release, s.percent) for s in done.answering} == {(1, 70), (2, 30)}


def test_the_sides_of_a_canary_have_the_addresses_of_their_tags() -> None:
    canary = release_of(2, intent_of(2, Mode.KNATIVE, canary_percent=30))
    traffic: list[Json] = [
        {"revisionName": "wine-1", "percent": 70, "tag": "prev", "url": "http://prev-wine.test"},
        {"revisionName": "wine-2", "percent": 30},
    ]
    look = objects.Look(
        applied(canary.intent, 2),
        knative=knative(2, canary.intent, traffic),
        revisions=(revision(1), revision(2)),
    )
    sides = objects.read(look, (canary,)).answering
    assert {s.release: s.address for s in sides} == {1: "http://prev-wine.test", 2: ""}


def test_a_revision_without_pods_is_asleep_and_not_broken() -> None:
    release = release_of(1, intent_of(1, Mode.KNATIVE))
    look = objects.Look(
        applied(release.intent, 1),
        knative=knative(1, release.intent, [{"revisionName": "wine-1", "percent": 100}]),
        revisions=(revision(1),),
    )
    facts = objects.read(look, (release,))
    assert facts.asleep
    assert facts.all_serve


def at(second: int) -> str:
    return f"2026-11-23T12:00:{second:02d}Z"


def rolled_pod(*, ready: int | None = None, asks: bool = True, **server: Json) -> Json:
    """A pod as it comes: made at 1, scheduled at 2, its files there at 5, its server as given."""
    made = pod(1)
    probe = {"httpGet": {"path": "/v2/models/wine/ready" if asks else "/", "port": 8080}}
    made["spec"] = {
        "initContainers": [{"name": "storage-initializer"}],
        "containers": [{"name": "kserve-container", "readinessProbe": probe}],
    }
    conditions = [{"type": "PodScheduled", "status": "True", "lastTransitionTime": at(2)}]
    if ready is not None:
        conditions.append({"type": "Ready", "status": "True", "lastTransitionTime": at(ready)})
    made["status"] = {
        "conditions": conditions,
        "initContainerStatuses": [{"state": {"terminated": {"exitCode": 0, "finishedAt": at(5)}}}],
        "containerStatuses": [{"name": "kserve-container", **server}],
    }
    return made


RUNNING: Json = {"state": {"running": {"startedAt": at(12)}}}
CRASHING: Json = {
    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
    "lastState": {"terminated": {"startedAt": at(12), "exitCode": 0}},
    "restartCount": 1,
}


def steps_of(
    made: Json | None, *, model_ready: bool | None = None, pulled: int | None = None, **record: Json
) -> dict[str, tuple[str, float | None]]:
    """State and time of each step of release 1, in order."""
    release = release_of(1, intent_of(1), **record)
    service = applied(release.intent, 1)
    service["metadata"]["managedFields"] = [{"manager": "slipway", "time": at(0)}]
    pods = () if made is None else (made,)
    look = objects.Look(service, deployment(1, release.intent), pods=pods)
    facts = objects.read(look, (release,))
    pulled_at = None if pulled is None else datetime.fromisoformat(at(pulled))
    steps = podsteps.steps_of(facts, look, model_ready=model_ready, pulled_at=pulled_at)
    return {step.name: (step.state.value, step.took_s) for step in steps}


def test_each_step_of_a_roll_out_has_the_time_of_its_own_evidence() -> None:
    settled: Json = {"outcome": Outcome.VERIFIED, "settled_at": datetime.fromisoformat(at(50))}
    found = steps_of(rolled_pod(ready=49, **RUNNING), model_ready=True, pulled=11, **settled)
    assert list(found.items()) == [
        ("applied", ("done", 0.0)),
        ("reconciled", ("done", 1.0)),
        ("scheduled", ("done", 1.0)),
        ("files downloaded", ("done", 3.0)),
        ("image pulled", ("done", 6.0)),
        ("server up", ("done", 1.0)),
        ("model loaded", ("done", 37.0)),
        ("verified", ("done", 1.0)),
    ]


def test_a_server_that_is_up_loads_its_model_before_its_pod_is_ready() -> None:
    found = steps_of(rolled_pod(**RUNNING))
    assert [found[name][0] for name in ("server up", "model loaded", "verified")] == [
        "done",
        "running",
        "pending",
    ]


def test_a_model_that_does_not_load_is_not_told_of_the_server() -> None:
    found = steps_of(rolled_pod(**CRASHING))
    assert (found["server up"][0], found["model loaded"][0]) == ("done", "running")


def test_a_container_that_cannot_be_started_has_its_image() -> None:
    waiting: Json = {"state": {"waiting": {"reason": "CreateContainerConfigError"}}}
    found = steps_of(rolled_pod(**waiting))
    assert found["image pulled"] == ("done", None)
    assert found["server up"][0] == "running"


def test_readiness_that_asks_no_model_gives_its_loading_no_time() -> None:
    found = steps_of(rolled_pod(ready=14, asks=False, **RUNNING), model_ready=True)
    assert found["model loaded"] == ("done", None)


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (Outcome.OPEN, "running"),
        (Outcome.SERVING, "skipped"),
        (Outcome.FAILED, "failed"),
    ],
)
def test_the_test_inference_is_a_step_as_it_is_recorded(outcome: Outcome, state: str) -> None:
    found = steps_of(rolled_pod(ready=49, **RUNNING), model_ready=True, outcome=outcome)
    assert found["verified"] == (state, None)


def test_pods_that_came_after_a_roll_out_lend_it_no_times() -> None:
    later = rolled_pod(ready=49, **RUNNING)
    later["metadata"]["creationTimestamp"] = "2026-11-24T12:00:00Z"
    settled: Json = {"outcome": Outcome.VERIFIED, "settled_at": datetime.fromisoformat(at(50))}
    assert list(steps_of(later, model_ready=True, **settled)) == ["applied", "verified"]


def test_what_was_adopted_rolled_nothing_out() -> None:
    assert steps_of(rolled_pod(ready=49, **RUNNING), action=Action.ADOPT) == {}


def test_the_first_pull_of_the_servers_own_image_counts() -> None:
    def pulled(container: str, second: int) -> Json:
        about = {"fieldPath": f"spec.{container}"}
        return {"involvedObject": about, "firstTimestamp": at(second)}

    events = [
        pulled("initContainers{storage-initializer}", 2),
        pulled("containers{kserve-container}", 30),
        pulled("containers{kserve-container}", 11),
    ]
    assert podsteps.pulled_at(events) == datetime.fromisoformat(at(11))
    assert podsteps.pulled_at(events[:1]) is None


@given(st.data())
def test_any_object_with_any_part_missing_still_reads(data: st.DataObject) -> None:
    release = release_of(1, intent_of(1, Mode.KNATIVE))
    service = applied(release.intent, 1, conditions=[{"type": "Ready", "status": "True"}])
    made = knative(1, release.intent, [{"revisionName": "wine-1", "percent": 100}])
    for thing in (service["status"], made["status"], made["spec"]):
        for key in data.draw(st.sets(st.sampled_from(sorted(thing) or ["x"]))):
            thing.pop(key, None)
    look = objects.Look(service, knative=made, revisions=(revision(1),), pods=(knative_pod(1),))
    objects.read(look, (release,))


# ── What others did ───────────────────────────────────────────────────────────────────────────


def look_of(intent: Intent, made: Json, *pods: Json) -> objects.Look:
    return objects.Look(applied(intent), deployment=made, pods=pods)


def test_a_deployment_scaled_to_nothing_is_never_ready() -> None:
    intent = intent_of()
    made = deployment(1, intent, replicas=0, updatedReplicas=0, availableReplicas=0)
    made["spec"]["replicas"] = 0
    facts = objects.read(look_of(intent, made), [release_of(1, intent)])
    assert not facts.all_serve
    assert facts.stuck is not None
    assert facts.stuck.reason == "ScaledToZero"
    assert objects.pods_taken_away(made) is not None


def test_fields_that_only_others_set_are_named_with_their_manager() -> None:
    service = applied(intent_of())
    ours: Json = {"f:spec": {"f:predictor": {"f:minReplicas": {}, "f:model": {"f:storageUri": {}}}}}
    theirs: Json = {"f:spec": {"f:predictor": {".": {}, "f:minReplicas": {}, "f:priority": {}}}}
    status: Json = {"f:status": {"f:url": {}}}
    service["metadata"]["managedFields"] = [
        {"manager": kubeobject.FIELD_MANAGER, "fieldsV1": ours},
        {"manager": "kubectl-edit", "fieldsV1": theirs},
        {"manager": "manager", "subresource": "status", "fieldsV1": status},
    ]
    assert objects.fields_of_others(service) == (("spec.predictor.priority", "kubectl-edit"),)


def test_another_runtime_image_on_the_pods_is_drift() -> None:
    intent = intent_of(runtime="mine", runtime_image="server:1")
    made = deployment(1, intent)
    made["spec"]["template"]["spec"] = {
        "containers": [{"name": kubeobject.CONTAINER, "image": "server:2"}]
    }
    drift = objects.image_drift(look_of(intent, made), release_of(1, intent))
    assert drift is not None
    assert (drift.recorded, drift.seen) == ("server:1", "server:2")


def test_the_runtimes_image_is_a_record_and_no_wish() -> None:
    assert intent_of(runtime_image="server:1") == intent_of(runtime_image="server:2")


@pytest.mark.parametrize(
    "container",
    [
        {"readinessProbe": {"httpGet": {"path": "/v2/models/wine/ready", "port": 8080}}},
        {
            "env": [
                {
                    "name": "SERVING_READINESS_PROBE",
                    "value": '{"httpGet":{"path":"/v2/models/wine/ready","port":8080}}',
                }
            ]
        },
    ],
)
def test_where_the_kubelet_asks_the_model_its_word_counts(container: Json) -> None:
    found = pod(1)
    found["spec"]["containers"] = [container]
    assert podsteps.kubelet_asks_the_model(found, "wine")
    assert not podsteps.kubelet_asks_the_model(found, "beer")


def test_an_object_with_a_canarys_share_is_not_yet_what_a_promotion_makes_of_it() -> None:
    canary = intent_of(2, Mode.KNATIVE, canary_percent=30)
    promoted = applied(replace(canary, canary_percent=None), workload=2)
    assert not objects.carries(applied(canary, workload=2), promoted)
    assert objects.carries(promoted, promoted)


def test_a_share_of_nothing_holds_the_traffic_only_for_a_return_from_a_canary() -> None:
    held = applied(intent_of(1, Mode.KNATIVE, canary_percent=0), workload=1)
    wished = applied(intent_of(1, Mode.KNATIVE), workload=1)
    assert objects.carries(held, wished, may_hold=True)
    assert not objects.carries(held, wished)
