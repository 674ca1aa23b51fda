"""What Kubernetes objects are called and hold: names, labels, conditions, times. Pure.

Everything that the modules which write and read a service's objects share. Foreign text in, plain
values out; what is absent is None or empty. Called by all that reads or writes on a cluster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from services.domain import Json, Mode, VersionRef

DOMAIN = "slipway.dev"
"""Prefix of every label and annotation that Slipway writes. StatefulSet and DaemonSet controllers
adopt ControllerRevisions that match their selectors, which never hold labels of this domain."""

WORKLOAD_LABEL = f"{DOMAIN}/workload"
"""Number of the release that started the pods: flows into the pod template, so that new pods can be
told from old ones. A change of traffic alone keeps it, because a new label restarts the pods."""

RELEASE_LABEL = f"{DOMAIN}/service"
"""On each release's record: the service that it is of."""

VERSION_ANNOTATION = f"{DOMAIN}/version"
DIGEST_ANNOTATION = f"{DOMAIN}/digest"

MODE_ANNOTATION = "serving.kserve.io/deploymentMode"
FIELD_MANAGER = "slipway"
STOP_ANNOTATION = "serving.kserve.io/stop"
SERVICE_LABEL = "serving.kserve.io/inferenceservice"

API_VERSION = "serving.kserve.io/v1beta1"
KIND = "InferenceService"
CONTAINER = "kserve-container"
INITIALIZER = "storage-initializer"
HTTP_PORT = 8080

# KServe v0.15 and before: Serverless and RawDeployment; both spellings live in clusters.
_MODES = {
    "knative": Mode.KNATIVE,
    "serverless": Mode.KNATIVE,
    "standard": Mode.STANDARD,
    "rawdeployment": Mode.STANDARD,
}


def value_at(value: Json, path: Sequence[str]) -> Json:
    """What lies at the end of a path of keys; None where a part of it is missing or no mapping."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def mode_of(service: Json, default: Mode = Mode.STANDARD) -> Mode:
    """The deployment mode that the object runs in: its status wins over its annotation."""
    told = (service.get("status") or {}).get("deploymentMode") or annotations_of(service).get(
        MODE_ANNOTATION
    )
    return _MODES.get(str(told).lower(), default) if told else default


def mode_value(service: Json) -> str | None:
    """The live text of the mode's annotation; it is written back as it is, never changed."""
    value = annotations_of(service).get(MODE_ANNOTATION)
    return None if value is None else str(value)


def parsed_mode(text: str) -> Mode | None:
    """A mode's name in any spelling that KServe has had."""
    return _MODES.get(text.lower())


def workload_of(thing: Json) -> int | None:
    """The release that started this object's or pod's workload; None when it is not ours."""
    text = str(labels_of(thing).get(WORKLOAD_LABEL, ""))
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def text_or_none(value: object) -> str | None:
    """A scalar as text: YAML's authors write 500 where they mean "500"."""
    return None if value is None else str(value)


def pod_ready(pod: Json) -> bool:
    """Whether Kubernetes sends requests to this pod."""
    condition = condition_of(pod, "Ready")
    return bool(condition and condition.get("status") == "True")


def port_of(pod: Json) -> int:
    """The port on which the model server listens: its first, or MLServer's own."""
    for container in (pod.get("spec") or {}).get("containers") or ():
        if container.get("name") == CONTAINER:
            ports = container.get("ports") or ()
            return int(ports[0]["containerPort"]) if ports else HTTP_PORT
    return HTTP_PORT


def server_status_of(pod: Json) -> Json:
    """The status of the pod's model server; empty while there is none."""
    states = value_at(pod, ("status", "containerStatuses")) or ()
    return next((state for state in states if state.get("name") == CONTAINER), {})


def server_started_at(pod: Json) -> datetime | None:
    """When the model server's present instance started; None while none runs."""
    return time_of((value_at(server_status_of(pod), ("state", "running")) or {}).get("startedAt"))


def written_at(service: Json) -> datetime | None:
    """When Slipway wrote the object last, to the second; None when it never did."""
    times = [
        time_of(entry.get("time"))
        for entry in service["metadata"].get("managedFields") or ()
        if entry.get("manager") == FIELD_MANAGER
    ]
    return max((time for time in times if time), default=None)


def time_of(text: Json) -> datetime | None:
    """A Kubernetes timestamp, aware; None when it is absent or no time."""
    try:
        return datetime.fromisoformat(str(text)).astimezone(UTC) if text else None
    except ValueError:
        return None


def conditions_of(thing: Json) -> Sequence[Json]:
    """The conditions in an object's status; empty while it has none."""
    return value_at(thing, ("status", "conditions")) or ()


def condition_of(thing: Json, kind: str) -> Json | None:
    """The condition of one type, or None."""
    return next((c for c in conditions_of(thing) if c.get("type") == kind), None)


def labels_of(thing: Json) -> Mapping[str, Json]:
    """An object's labels; empty where it has none."""
    return (thing.get("metadata") or {}).get("labels") or {}


def annotations_of(thing: Json) -> Mapping[str, Json]:
    """An object's annotations; empty where it has none."""
    return (thing.get("metadata") or {}).get("annotations") or {}


def predictor_name(service: str) -> str:
    """Name of the Deployment, Kubernetes Service or Knative Service that KServe makes for it."""
    return f"{service}-predictor"


def version_of(thing: Json) -> VersionRef | None:
    """The version that our annotation on an object or pod names."""
    model, _, number = str(annotations_of(thing).get(VERSION_ANNOTATION, "")).rpartition("/")
    return (
        VersionRef(model, int(number)) if model and number.isascii() and number.isdigit() else None
    )
