"""Causes from what a real cluster showed: tests/samples/kserve says how the looks were taken."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services import inferenceservice as objects
from services import kubeobject, symptoms
from services.domain import Action, Cause, Intent, Json, Package, PackageKind, Release
from services.symptoms import Kind, Trouble

SAMPLES = Path(__file__).parents[1] / "samples" / "kserve"


def sample(name: str) -> Json:
    return json.loads((SAMPLES / f"{name}.json").read_text(encoding="utf-8"))


def look_of(found: Json) -> objects.Look:
    return objects.Look(
        found["service"],
        found["deployment"],
        found["knative"],
        tuple(found["revisions"]),
        tuple(found["pods"]),
    )


def release_of(found: Json) -> Release:
    intent = objects.live_intent(found["service"])
    at = kubeobject.written_at(found["service"])
    assert at is not None
    return Release(1, intent.service, Action.DEPLOY, intent, "ana", "", at, workload=1)


def trouble_in(found: Json, *, after: timedelta = timedelta(seconds=45)) -> Trouble | None:
    release = release_of(found)
    facts = objects.read(look_of(found), (release,))
    now = release.created_at + after
    trouble = symptoms.trouble_of(facts.pods, facts.stuck, now, release.created_at)
    if trouble is None and not facts.caught_up and not facts.pods:
        return symptoms.refused_spec(found["events"], release.created_at)
    return trouble


def cause_in(found: Json) -> Cause:
    trouble = trouble_in(found)
    assert trouble is not None
    lines: list[str] = []
    for previous in (trouble.previous, not trouble.previous):
        lines = lines or found["logs"].get(f"{trouble.container}/{str(previous).lower()}", [])
    intent: Intent = release_of(found).intent
    return symptoms.cause_of(trouble, intent, lines)


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("files_gone", "E6", "gs://slipway-ks/m/nothing"),
        ("files_gone_knative", "E6", "gs://slipway-ks/m/nothing"),
        ("bucket_gone", "E6", "gs://no-such-bucket/m/1"),
        ("no_scheme", "E6", "/some/path"),
        ("image_gone", "E9", "registry.invalid/none/at-all:1"),
        ("image_gone_knative", "E8", "registry.invalid/none/at-all:1"),
        ("unschedulable", "E11", "Insufficient memory"),
        ("unschedulable_knative", "E11", "Insufficient memory"),
        ("account_gone", "E10", "no-such-account"),
        ("account_gone_knative", "E10", "no-such-account"),
        ("runtime_gone", "E3", "no-such-runtime"),
        ("format_unknown", "E3", "statsmodels"),
        ("skops_on_old", "E1", "skops"),
        ("out_of_memory", "L3", "memory"),
    ],
)
def test_a_cause_is_named_with_code_and_evidence(name: str, code: str, said: str) -> None:
    cause = cause_in(sample(name))
    assert cause.code == code
    assert said in f"{cause.what} {cause.why}"
    assert cause.fix
    assert cause.evidence or code == "L3"


SILENT = (
    'Internal error occurred: failed calling webhook "inferenceservice.pod-mutator.webhook-server":'
    " failed to call webhook: Post https://kserve-webhook: context deadline exceeded"
)
DENIED = 'admission webhook "policy.example.com" denied the request: no'


def without_pods(message: str, *, at: datetime) -> Json:
    """A Deployment of which every pod is refused with `message` since `at`."""
    found = copy.deepcopy(sample("account_gone"))
    for condition in found["deployment"]["status"]["conditions"]:
        if condition["type"] == "ReplicaFailure":
            condition["message"] = message
            condition["lastTransitionTime"] = f"{at:%Y-%m-%dT%H:%M:%SZ}"
    return found


@pytest.mark.parametrize(
    ("message", "after_s", "told"),
    [(SILENT, 30, False), (SILENT, 60, True), (DENIED, 30, True)],
)
def test_a_webhook_that_is_silent_gets_time_and_one_that_denies_gets_none(
    message: str, after_s: float, told: bool
) -> None:
    at = release_of(sample("account_gone")).created_at
    trouble = trouble_in(without_pods(message, at=at), after=timedelta(seconds=after_s))
    assert (trouble is not None) is told


def test_a_webhook_that_falls_silent_late_gets_its_time_too() -> None:
    at = release_of(sample("account_gone")).created_at + timedelta(seconds=100)
    assert trouble_in(without_pods(SILENT, at=at), after=timedelta(seconds=130)) is None


def test_that_a_webhook_is_silent_is_said_meanwhile() -> None:
    found = without_pods(SILENT, at=release_of(sample("account_gone")).created_at)
    facts = objects.read(look_of(found), (release_of(found),))
    assert "webhook for pods does not answer; Kubernetes tries again" in facts.message


def test_files_are_missed_where_the_pod_looked_for_them() -> None:
    found = sample("files_gone")
    trouble = trouble_in(found)
    assert trouble is not None
    intent = replace(
        release_of(found).intent, package=Package(PackageKind.GCS, "gs://models/wine/1")
    )
    lines = found["logs"]["storage-initializer/true"] or found["logs"]["storage-initializer/false"]
    why = symptoms.cause_of(trouble, intent, lines).why
    assert why == "There is nothing at gs://slipway-ks/m/nothing."


def test_a_server_that_ended_with_code_zero_is_a_failure() -> None:
    trouble = trouble_in(sample("skops_on_old"))
    assert trouble is not None
    assert (trouble.kind, trouble.exit_code, trouble.previous) == (Kind.SERVER, 0, True)


def test_a_server_that_ended_with_code_zero_and_no_word_is_told_so() -> None:
    # As Kubernetes 1.34 reports a container whose program printed a line and was done.
    state = {
        "name": "kserve-container",
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting"}},
        "lastState": {"terminated": {"exitCode": 0, "reason": "Completed"}},
    }
    pod = {"metadata": {"name": "wine-1"}, "status": {"containerStatuses": [state]}}
    now = datetime.now(UTC)
    trouble = symptoms.trouble_of([pod], None, now, now)
    assert trouble is not None
    cause = symptoms.cause_of(trouble, release_of(sample("files_gone")).intent, ["goodbye"])
    assert "ended by itself with exit code 0" in cause.what
    assert (cause.exit_code, "goodbye" in cause.why) == (0, True)


IMAGE = "registry.example/models/wine:1"


@pytest.mark.parametrize(
    ("trouble", "lines"),
    [
        (
            Trouble(
                Kind.IMAGE,
                "ErrImagePull",
                f'failed to pull and unpack image "{IMAGE}": no match for platform in manifest:'
                " not found",
                "wine-1",
                symptoms.CONTAINER,
            ),
            [],
        ),
        (
            Trouble(
                Kind.IMAGE,
                "ErrImagePull",
                f'image "{IMAGE}": no matching manifest for linux/amd64 in the manifest list',
                "wine-1",
                symptoms.CONTAINER,
            ),
            [],
        ),
        (
            Trouble(Kind.SERVER, "Error", "", "wine-1", symptoms.CONTAINER, exit_code=1),
            ["exec /usr/bin/python3: exec format error"],
        ),
        (
            Trouble(
                Kind.CONFIG,
                "RunContainerError",
                "failed to create containerd task: failed to start: exec format error: unknown",
                "wine-1",
                symptoms.CONTAINER,
            ),
            [],
        ),
    ],
    ids=["pulled", "pulled-by-docker", "on-the-node", "not-started"],
)
def test_an_image_for_another_processor_is_told_with_how_to_build_it(
    trouble: Trouble, lines: list[str]
) -> None:
    intent = release_of(sample("files_gone")).intent
    intent = replace(intent, package=Package(PackageKind.IMAGE, IMAGE))
    cause = symptoms.cause_of(trouble, intent, lines)
    assert cause.code == "E9"
    assert f"The image {IMAGE} is made for another kind of processor" in cause.what
    assert "--platform linux/amd64" in cause.fix
    assert cause.evidence


def test_a_program_of_the_models_own_that_cannot_run_is_not_the_images_fault() -> None:
    lines = ["Traceback (most recent call last):", "OSError: [Errno 8] Exec format error: './x'"]
    trouble = Trouble(Kind.SERVER, "Error", "", "wine-1", symptoms.CONTAINER, exit_code=1)
    cause = symptoms.cause_of(trouble, release_of(sample("files_gone")).intent, lines)
    assert "processor" not in cause.what


def test_memory_is_known_from_the_containers_state() -> None:
    assert cause_in(sample("out_of_memory")).exit_code == 137


def test_a_pod_that_just_found_no_room_is_given_a_moment() -> None:
    assert trouble_in(sample("unschedulable"), after=timedelta(seconds=7)) is None


def said_of_nodes(*reasons: str, after: timedelta) -> str:
    """What is waited for, `after` a pod found no room and an autoscaler said these in turn."""
    (pod,) = sample("unschedulable")["pods"]
    (condition,) = pod["status"]["conditions"]
    since = datetime.fromisoformat(condition["lastTransitionTime"])
    events = [
        {
            "reason": reason,
            "message": "pod triggered scale-up: [{pool-1 1->2 (max: 3)}]",
            "lastTimestamp": f"{since + timedelta(seconds=10 * place):%Y-%m-%dT%H:%M:%SZ}",
        }
        for place, reason in enumerate(reasons, 1)
    ]
    return symptoms.node_awaited(pod, events, since + after)


@pytest.mark.parametrize("reason", ["TriggeredScaleUp", "Nominated"])
def test_a_pod_for_which_a_node_is_being_added_is_waited_for(reason: str) -> None:
    said = said_of_nodes("NotTriggerScaleUp", reason, after=timedelta(minutes=5))
    assert said.startswith("a node is being added for it: ")
    assert "pool-1 1->2" in said


def test_a_pod_for_which_no_node_will_be_added_is_not_waited_for() -> None:
    assert not said_of_nodes("NotTriggerScaleUp", after=timedelta(seconds=10))
    assert not said_of_nodes("TriggeredScaleUp", "NotTriggerScaleUp", after=timedelta(minutes=5))


def test_an_autoscaler_is_given_time_to_speak_and_the_reason_is_shown_meanwhile() -> None:
    assert "Insufficient memory" in said_of_nodes("FailedScheduling", after=timedelta(seconds=25))
    assert not said_of_nodes("FailedScheduling", after=timedelta(seconds=31))


def test_what_the_controller_said_of_an_earlier_spec_is_not_said_of_this_one() -> None:
    found = sample("runtime_gone")
    later = datetime.now(UTC) + timedelta(days=3650)
    assert symptoms.refused_spec(found["events"], later) is None


def test_a_request_for_too_much_names_what_was_asked() -> None:
    assert "900Gi memory" in cause_in(sample("unschedulable")).why


def test_a_log_of_a_server_that_still_loads_is_no_cause() -> None:
    lines = ["2026-11-23 INFO loading", "WARNING mlflow: something is deprecated"]
    intent = release_of(sample("skops_on_old")).intent
    assert symptoms.loading_cause("pod", intent, lines) is None


def test_an_initializer_that_ran_out_of_memory_names_its_limit() -> None:
    trouble = Trouble(
        Kind.INITIALIZER,
        "OOMKilled",
        "",
        "pod",
        "storage-initializer",
        exit_code=137,
        out_of_memory=True,
    )
    cause = symptoms.cause_of(trouble, release_of(sample("files_gone")).intent)
    assert (cause.code, cause.exit_code) == ("E4", 137)


@pytest.mark.parametrize(
    "line",
    [
        "RuntimeError: GCS authentication failed. Please check your credentials.",
        "RuntimeError: Access denied to GCS resource 'models'.",
        "Unauthorized: 401 Anonymous caller does not have storage.objects.list access",
        "google.auth.exceptions.DefaultCredentialsError: metadata.google.internal",
    ],
)
def test_an_initializer_without_credentials_is_told_the_three_ways(line: str) -> None:
    trouble = Trouble(Kind.INITIALIZER, "Error", "", "pod", "storage-initializer", exit_code=1)
    cause = symptoms.cause_of(trouble, release_of(sample("files_gone")).intent, [line])
    assert cause.code == "E5"


def test_a_bucket_named_auth_does_not_turn_a_missing_file_into_missing_credentials() -> None:
    # KServe v0.20.0 picks its words by searching the error's text, the URL included.
    lines = [
        "google.api_core.exceptions.NotFound: 404 GET http://gcs/storage/v1/b/auth-models/o",
        "RuntimeError: GCS authentication failed. Please check your credentials.",
    ]
    trouble = Trouble(Kind.INITIALIZER, "Error", "", "pod", "storage-initializer", exit_code=1)
    cause = symptoms.cause_of(trouble, release_of(sample("files_gone")).intent, lines)
    assert cause.code == "E6"


def test_an_error_wrapped_in_many_words_shows_its_concrete_end() -> None:
    wrapped = (
        'fails to reconcile predictor: fails to reconcile knative service: admission webhook "'
        'validation.webhook.serving.knative.dev" denied the request: validation callback failed: '
        'dry run failed with pods "dry-run-validation" is forbidden: error looking up service '
        'account models/no-such-account: serviceaccount "no-such-account" not found'
    )
    trouble = Trouble(Kind.REFUSED_POD, "InternalError", wrapped)
    intent = release_of(sample("account_gone")).intent
    assert "no-such-account" in symptoms.cause_of(trouble, intent).why
