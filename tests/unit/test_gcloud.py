"""The gcloud lines of a GKE target: its own names, quoted, each for one grant."""

from __future__ import annotations

import shlex

import pytest

from services import gcloud
from services.gcloud import CloudPlace, PodAccount

PLACE = CloudPlace("acme-ml", "asia-northeast1-a", "serving", "gs://acme-models/slipway")
PODS = PodAccount("models", "predictor")
ACCOUNT = "predictor@acme-ml.iam.gserviceaccount.com"


def test_the_pods_account_gets_its_binding_and_its_annotation() -> None:
    create, bind, annotate = (shlex.split(line) for line in gcloud.pod_lines(PLACE, PODS))
    assert create[1:5] == ["iam", "service-accounts", "create", "predictor"]
    assert bind[3:5] == ["add-iam-policy-binding", ACCOUNT]
    assert bind[-2:] == [
        "--role=roles/iam.workloadIdentityUser",
        "--member=serviceAccount:acme-ml.svc.id.goog[models/predictor]",
    ]
    assert annotate[1:6] == ["annotate", "serviceaccount", "predictor", "-n", "models"]
    assert annotate[6] == f"iam.gke.io/gcp-service-account={ACCOUNT}"


def test_an_account_that_is_annotated_already_is_kept_in_its_own_project() -> None:
    lines = gcloud.pod_lines(
        PLACE, PodAccount("models", "predictor", "reader@data-team.iam.gserviceaccount.com")
    )
    assert not [line for line in lines if "create" in line]
    assert "--project data-team" in lines[0]
    assert "serviceAccount:acme-ml.svc.id.goog[models/predictor]" in lines[0]


def test_the_bucket_is_made_in_the_clusters_region_and_read_by_the_pods() -> None:
    create, read = (shlex.split(line) for line in gcloud.bucket_lines(PLACE, PODS, ""))
    assert create[3:5] == ["create", "gs://acme-models"]
    assert "--location=asia-northeast1" in create
    assert read[-2:] == [f"--member=serviceAccount:{ACCOUNT}", "--role=roles/storage.objectViewer"]


def test_who_deploys_may_create_and_read_but_not_delete() -> None:
    deployer = "ci@acme-ml.iam.gserviceaccount.com"
    lines = [line for line in gcloud.bucket_lines(PLACE, PODS, deployer) if deployer in line]
    assert [line.rpartition("/")[2] for line in lines] == [
        "storage.objectViewer",
        "storage.objectCreator",
    ]


@pytest.mark.parametrize(
    ("user", "member"),
    [
        ("ana@acme.example", "user:ana@acme.example"),
        ("ci@p.iam.gserviceaccount.com", "serviceAccount:ci@p.iam.gserviceaccount.com"),
        ("principal://iam.googleapis.com/x", "principal://iam.googleapis.com/x"),
        ("system:serviceaccount:a:b", ""),
        ("admin", ""),
    ],
)
def test_a_user_of_the_cluster_is_written_as_iam_knows_it(user: str, member: str) -> None:
    assert gcloud.member_of(user) == member


def test_a_name_that_google_cannot_have_is_changed() -> None:
    for name in ("default", "sa", "a" * 40, "1st"):
        made = gcloud.google_account(PLACE, PodAccount("models", name))
        assert gcloud.is_account(made), made


def test_workload_identity_is_turned_on_for_the_cluster_that_is_meant() -> None:
    [line] = gcloud.pool_lines(PLACE)
    assert shlex.split(line)[1:5] == ["container", "clusters", "update", "serving"]
    assert line.endswith("--workload-pool=acme-ml.svc.id.goog")


def test_a_hostile_name_stays_one_word_of_a_shell() -> None:
    name = "$(rm -rf /)'; \"x"
    place = CloudPlace(name, name, name, f"gs://{name}")
    pods = PodAccount(name, name)
    lines = (
        *gcloud.pool_lines(place),
        *gcloud.pod_lines(place, pods),
        *gcloud.bucket_lines(place, pods, ""),
    )
    for line in lines:
        words = shlex.split(line)
        assert words[0] in {"gcloud", "kubectl"}
        assert shlex.join(words) == line


@pytest.mark.parametrize("text", ["", "x", "a@b", "Reader@p.iam.gserviceaccount.com", "a b@c"])
def test_what_is_no_google_service_account_is_seen(text: str) -> None:
    assert not gcloud.is_account(text)
