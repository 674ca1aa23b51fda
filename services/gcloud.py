"""What a GKE target needs of Google Cloud, as the gcloud lines that make it. Pure.

Who may read a bucket is known to Google and not to the cluster: a check can see the annotation of a
ServiceAccount, but not the bindings behind it. So the lines are given whole, with the target's own
names, and each is safe to run again.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

ANNOTATION = "iam.gke.io/gcp-service-account"
"""On a ServiceAccount: the Google service account that its pods act as."""

_ACCOUNT = re.compile(r"[a-z][a-z0-9-]{4,28}[a-z0-9]@[a-z0-9.:-]+\.iam\.gserviceaccount\.com")
_ACCOUNT_ID = re.compile(r"[a-z][a-z0-9-]{4,28}[a-z0-9]")


def is_account(text: str) -> bool:
    """Whether this is the address of a Google service account that somebody made."""
    return _ACCOUNT.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class CloudPlace:
    """A GKE target's place in Google Cloud, as its settings name it."""

    project: str
    location: str
    cluster: str
    bucket: str = ""
    """gs://bucket/root; "" when the target has none."""


@dataclass(frozen=True, slots=True)
class PodAccount:
    """The Kubernetes account of the pods, and the Google account that it is annotated with."""

    namespace: str
    name: str
    acts_as: str = ""
    """From the annotation; "" when there is none."""


def google_account(place: CloudPlace, pods: PodAccount) -> str:
    """The Google service account of the pods: the annotation's, else one of the same name."""
    if pods.acts_as:
        return pods.acts_as
    fits = _ACCOUNT_ID.fullmatch(pods.name) and pods.name != "default"
    name = pods.name if fits else f"slipway-{pods.name}"[:30].rstrip("-")
    return f"{name}@{place.project}.iam.gserviceaccount.com"


def pool_lines(place: CloudPlace) -> tuple[str, ...]:
    """Turn Workload Identity on. Existing node pools take it over one by one."""
    pool = f"--workload-pool={place.project}.svc.id.goog"
    return (_gcloud("container", "clusters", "update", place.cluster, *_where(place), pool),)


def pod_lines(place: CloudPlace, pods: PodAccount) -> tuple[str, ...]:
    """Let the pods' ServiceAccount act as a Google service account."""
    account = google_account(place, pods)
    owner = account.partition("@")[2].partition(".iam.")[0] or place.project
    member = f"serviceAccount:{place.project}.svc.id.goog[{pods.namespace}/{pods.name}]"
    kubernetes = ("serviceaccount", pods.name, "-n", pods.namespace)
    made = (
        _gcloud("iam", "service-accounts", "create", account.partition("@")[0], "--project", owner),
    )
    return (
        *(() if pods.acts_as else made),
        _gcloud(
            "iam", "service-accounts", "add-iam-policy-binding", account, "--project", owner,
            "--role=roles/iam.workloadIdentityUser", f"--member={member}",
        ),
        shlex.join(
            ("kubectl", "annotate", *kubernetes, f"{ANNOTATION}={account}", "--overwrite")
        ),
    )  # fmt: skip


def bucket_lines(place: CloudPlace, pods: PodAccount, deployer: str) -> tuple[str, ...]:
    """Make the bucket; let the pods read it, and `deployer` write each name once and read it.

    Neither may delete: the bucket itself then keeps what was published.
    """
    bucket = "gs://" + place.bucket.removeprefix("gs://").partition("/")[0]
    region = re.sub(r"-[a-z]$", "", place.location)
    reader = f"serviceAccount:{google_account(place, pods)}"
    grants = [(reader, "objectViewer")]
    if writer := member_of(deployer):
        grants += [(writer, "objectViewer"), (writer, "objectCreator")]
    return (
        _gcloud(
            "storage", "buckets", "create", bucket, "--project", place.project,
            f"--location={region}", "--uniform-bucket-level-access",
        ),
        *(
            _gcloud(
                "storage", "buckets", "add-iam-policy-binding", bucket,
                f"--member={member}", f"--role=roles/storage.{role}",
            )
            for member, role in dict.fromkeys(grants)
        ),
    )  # fmt: skip


def member_of(user: str) -> str:
    """A user name of the cluster as IAM writes a member; "" for one that Google does not know."""
    if user.startswith(("principal://", "principalSet://")):
        return user
    if "@" not in user or user.startswith("system:"):
        return ""
    return f"{'serviceAccount' if user.endswith('.gserviceaccount.com') else 'user'}:{user}"


def _where(place: CloudPlace) -> tuple[str, ...]:
    return ("--location", place.location, "--project", place.project)


def _gcloud(*words: str) -> str:
    return shlex.join(("gcloud", *words))
