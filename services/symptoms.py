"""What pods, Revisions, events and logs of a new release say → its cause and fix, E3 to E22. Pure.

`trouble_of` finds the first thing that is wrong with the new pods, without reading any log;
`cause_of` puts it into words once the log that it names has been read. What a model server wrote
itself is diagnosis.py's part. The codes are those of docs/errors.md.

Recognised from objects of KServe v0.20.0 and Knative Serving v1.20 saved under tests/samples.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from services.domain import Cause, Drift, Intent, Json, PackageKind
from services.errors import one_line
from services.inferenceservice import Stuck, source_of
from services.podsteps import NOT_STARTED

UNSCHEDULABLE_GRACE = timedelta(seconds=8)
"""A node may be freed by the pod that is just leaving."""

AUTOSCALER_GRACE = timedelta(seconds=30)
"""An autoscaler looks every 10 s and says on the pod's events what it does about it; once it adds a
node, that takes minutes. Where none has spoken by then, none will."""

# Cluster Autoscaler, processors/status/eventing_scale_up_processor.go; Karpenter,
# controllers/provisioning/scheduling/events.go.
_NODE_COMES = frozenset({"TriggeredScaleUp", "Nominated"})
_NO_NODE_COMES = frozenset({"NotTriggerScaleUp"})

STUCK_GRACE = timedelta(seconds=5)
"""A quota or webhook may refuse once and accept at the controller's next try."""

SILENT_WEBHOOK_GRACE = timedelta(seconds=45)
"""A busy cluster answers by the third try; KServe gives its webhooks 10 s for each."""

CONTAINER = "kserve-container"
INITIALIZER = "storage-initializer"

_IMAGE_REASONS = {
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
}
_EVIDENCE_LINES = 12
_WHY_LIMIT = 200
"""Characters of an error that are shown: one line on a screen."""


class Kind(StrEnum):
    """What is wrong, as far as states tell."""

    IMAGE = "image"
    CONFIG = "config"
    INITIALIZER = "initializer"
    SERVER = "server"
    UNSCHEDULABLE = "unschedulable"
    REFUSED_POD = "refused pod"
    REVISION = "revision"
    REFUSED_SPEC = "refused spec"
    SCALED_AWAY = "scaled away"


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that is wrong, and the log that may say why."""

    kind: Kind
    reason: str
    message: str
    pod: str = ""
    container: str = ""
    exit_code: int | None = None
    out_of_memory: bool = False
    previous: bool = False
    """The log to read is that of the container's earlier instance."""
    requested: str = ""
    source: str = ""
    """From where the pod's initializer loads; "" when the pod does not say."""

    @property
    def where(self) -> str:
        """Pod and container."""
        return f"{self.pod}/{self.container}" if self.container else self.pod

    @property
    def has_log(self) -> bool:
        """Whether a container has run that may have written why."""
        return self.kind in {Kind.INITIALIZER, Kind.SERVER}


def trouble_of(
    pods: Sequence[Json], stuck: Stuck | None, now: datetime, since: datetime
) -> Trouble | None:
    """The first trouble of the new pods; None when nothing is known to be wrong (yet).

    `stuck`: what a Deployment or Revision that cannot go on says. `since`: when the release was
    applied.
    """
    for pod in pods:
        found = _pod_trouble(pod, now)
        if found is not None:
            return found
    if stuck is None:
        return None
    reason, message = stuck.reason, stuck.message
    if reason == "ContainerMissing":
        return Trouble(Kind.REVISION, reason, message)
    if reason == "ScaledToZero":
        return Trouble(Kind.SCALED_AWAY, reason, message)
    began, grace = since, STUCK_GRACE
    if stuck.silent_webhook:
        began, grace = stuck.since or since, SILENT_WEBHOOK_GRACE
    if reason == "FailedCreate" and now - began > grace:
        return Trouble(Kind.REFUSED_POD, reason, message)
    return None


def refused_spec(events: Sequence[Json], written_at: datetime | None) -> Trouble | None:
    """What KServe's controller says of a spec that it cannot act on, since it was written."""
    for event in reversed(events):
        about = (event.get("involvedObject") or {}).get("kind")
        if about != "InferenceService" or event.get("type") != "Warning":
            continue
        at = _said_at(event)
        if written_at is not None and (at is None or at < written_at):
            continue
        if event.get("reason") in {"InternalError", "ServerlessModeRejected", "UpdateFailed"}:
            message = str(event.get("message", ""))
            if "the object has been modified" in message:
                continue  # the controller's own retry
            return Trouble(Kind.REFUSED_SPEC, str(event["reason"]), message)
    return None


def _pod_trouble(pod: Json, now: datetime) -> Trouble | None:
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    for state in status.get("initContainerStatuses") or ():
        found = _container_trouble(name, state, Kind.INITIALIZER)
        if found is not None:
            return replace(found, source=source_of(pod))
    for state in status.get("containerStatuses") or ():
        found = _container_trouble(name, state, Kind.SERVER)
        if found is not None:
            return found
    condition = _unscheduled(pod)
    if condition is None or not without_node(pod, now):
        return None
    return Trouble(
        Kind.UNSCHEDULABLE,
        str(condition.get("reason", "")),
        str(condition.get("message", "")),
        pod=name,
        requested=_requested(pod),
    )


def _unscheduled(pod: Json) -> Json | None:
    """The condition of a pod that found no node; None for one that has one."""
    for condition in (pod.get("status") or {}).get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return condition
    return None


def without_node(pod: Json, now: datetime) -> bool:
    """Whether a pod found no node, and not only for a moment."""
    condition = _unscheduled(pod)
    since = _time(condition.get("lastTransitionTime")) if condition else None
    return condition is not None and (since is None or now - since >= UNSCHEDULABLE_GRACE)


def node_awaited(pod: Json, events: Sequence[Json], now: datetime) -> str:
    """Why a pod without a node may still get one, in words; "" when it has one, or none will come.

    `events`: the pod's own. What the cluster's autoscaler said last counts.
    """
    found = _unscheduled(pod) or {}
    since = _time(found.get("lastTransitionTime"))
    if since is None:
        return ""
    said = [e for e in events if e.get("reason") in _NODE_COMES | _NO_NODE_COMES]
    last = max(said, key=lambda e: _said_at(e) or since, default=None)
    if last is not None and last["reason"] in _NODE_COMES:
        return f"a node is being added for it: {one_line(last.get('message', ''), _WHY_LIMIT)}"
    if last is not None or now - since > AUTOSCALER_GRACE:
        return ""
    message, _, _ = str(found.get("message", "")).partition(" preemption:")
    return f"no node has room for it yet: {one_line(message.rstrip('.,; '), _WHY_LIMIT)}"


def _said_at(event: Json) -> datetime | None:
    return _time(event.get("lastTimestamp") or event.get("eventTime"))


def _container_trouble(pod: str, state: Json, kind: Kind) -> Trouble | None:
    name = str(state.get("name", ""))
    present = state.get("state") or {}
    waiting = present.get("waiting") or {}
    reason, message = str(waiting.get("reason", "")), str(waiting.get("message", ""))
    if reason in _IMAGE_REASONS:
        return Trouble(Kind.IMAGE, reason, message, pod, name)
    if reason in NOT_STARTED:
        return Trouble(Kind.CONFIG, reason, message, pod, name)
    ended = present.get("terminated")
    before = (state.get("lastState") or {}).get("terminated")
    if kind is Kind.INITIALIZER:
        failed = ended if ended and ended.get("exitCode") else None
        failed = failed or (before if before and not ended else None)
    else:
        # MLServer 1.7.1 ends with exit code 0 when its model does not load: any end is a failure.
        failed = ended or before
    if not failed or state.get("ready"):
        return None
    exit_code = failed.get("exitCode")
    return Trouble(
        kind,
        str(failed.get("reason") or reason),
        str(failed.get("message") or message),
        pod,
        name,
        exit_code=int(exit_code) if exit_code is not None else None,
        out_of_memory=failed.get("reason") == "OOMKilled",
        previous=failed is not ended,
    )


def _requested(pod: Json) -> str:
    """What the pod's model server asks of a node, in words."""
    for container in (pod.get("spec") or {}).get("containers") or ():
        if container.get("name") == CONTAINER:
            asked = (container.get("resources") or {}).get("requests") or {}
            return ", ".join(f"{one_line(v, 20)} {k}" for k, v in sorted(asked.items()))
    return ""


def _time(text: Json) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text)) if text else None
    except ValueError:
        return None


# ── In words ──────────────────────────────────────────────────────────────────────────────────


def cause_of(trouble: Trouble, intent: Intent, lines: Sequence[str] = ()) -> Cause:
    """The trouble in words with its fix; `lines`: the log that the trouble names."""
    return _other_processor(trouble, intent, lines) or _by_kind(trouble, intent, lines)


def _by_kind(trouble: Trouble, intent: Intent, lines: Sequence[str]) -> Cause:
    match trouble.kind:
        case Kind.IMAGE:
            return _image(trouble)
        case Kind.INITIALIZER:
            return _initializer(trouble, intent, lines)
        case Kind.SERVER:
            return _server(trouble, intent, lines)
        case Kind.UNSCHEDULABLE:
            return _unschedulable(trouble)
        case Kind.REVISION:
            return _revision(trouble)
        case Kind.REFUSED_POD:
            return _refused_pod(trouble)
        case Kind.REFUSED_SPEC:
            return _refused_spec(trouble)
        case Kind.SCALED_AWAY:
            return _said(
                trouble,
                "No pod can start: somebody scaled the Deployment to 0 replicas.",
                f"kubectl scale deployment {intent.service}-predictor --replicas=1; or"
                f" slipway stop {intent.service}, then slipway start {intent.service}.",
            )
        case Kind.CONFIG:
            lacks = "executable file not found" in trouble.message
            return _said(
                trouble,
                "The container cannot be started.",
                "The image lacks the program that it is to start: choose another `base` for the"
                " target's images (python:3.11-slim has none of its own), and deploy again."
                if lacks
                else "Does every Secret and ConfigMap that it names exist in the namespace?",
            )


def another_model(found: Drift, intent: Intent) -> Cause:
    """The words for pods that carry another model than their release says."""
    by = f" {found.by} changed it." if found.by else ""
    return Cause(
        f"What its pods carry is not {intent.version or 'what the release says'}",
        f"{found.field}: {found.recorded} is recorded, {found.seen or 'nothing'} was seen.{by}",
        "Undo that where it was done, or deploy the version again.",
    )


def _said(trouble: Trouble, what: str, fix: str, code: str = "", why: str = "") -> Cause:
    return Cause(
        what=what,
        why=why or _innermost(trouble.message),
        fix=fix,
        code=code,
        where=trouble.where,
        exit_code=trouble.exit_code,
        evidence=(one_line(f"{trouble.reason}: {trouble.message}", 1024),),
    )


def _innermost(message: str) -> str:
    """An error in one line, the concrete end of it where it is too long to show whole.

    Controllers wrap errors in words of their own ("a: b: c"): what happened stands last.
    """
    parts = one_line(message, 4096).split(": ")
    while len(parts) > 1 and len(": ".join(parts)) > _WHY_LIMIT:
        del parts[0]
    return one_line(": ".join(parts))


def _image(trouble: Trouble) -> Cause:
    named = re.search(r'image "([^"]+)"', trouble.message)
    image = one_line(named[1]) if named else "its image"
    last = trouble.message.rsplit(": ", 1)[-1]
    if trouble.reason == "ErrImageNeverPull":
        fix = "Load the image onto the node (minikube image load, kind load docker-image)."
    elif trouble.reason == "InvalidImageName":
        fix = "Correct the image's name."
    else:
        fix = (
            "Is the name right, is it pushed, may the node pull it (a private registry wants a pull"
            " secret)? An image that is only on your machine has to be loaded onto the node:"
            " minikube image load, kind load docker-image."
        )
    return _said(
        trouble, f"The image {image} cannot be pulled.", fix, "E9", why=one_line(last) or ""
    )


# containerd names the platform when it pulls; an image that is on the node already is only found
# out by the kernel, whose word runc writes as the log's one line. Python's own "Exec format error",
# of a program that the model starts, has a capital.
_OTHER_PROCESSOR = re.compile(r"no match(?:ing manifest)? for (?:platform|\S+ )|exec format error")


def _other_processor(trouble: Trouble, intent: Intent, lines: Sequence[str]) -> Cause | None:
    """The cause when the image is for another processor; None when nothing says so."""
    said = next((line for line in (trouble.message, *lines) if _OTHER_PROCESSOR.search(line)), "")
    if not said:
        return None
    named = re.search(r'image "([^"]+)"', trouble.message)
    ours = trouble.container == CONTAINER and intent.package.kind is PackageKind.IMAGE
    image = named[1] if named else intent.package.uri if ours else f"of {trouble.container}"
    return Cause(
        f"The image {one_line(image)} is made for another kind of processor than the node's.",
        _innermost(said),
        "Build it for the nodes' processor (docker build --platform linux/amd64 or linux/arm64;"
        " kubectl get nodes -L kubernetes.io/arch says which), and deploy again. If it is: a script"
        " that it starts with lacks its first line, #!.",
        "E9",
        trouble.where,
        trouble.exit_code,
        evidence=(one_line(f"{trouble.reason}: {said}", 1024),),
    )


def _revision(trouble: Trouble) -> Cause:
    named = re.search(r'image "([^"]+)"', trouble.message)
    image = one_line(named[1]) if named else "its image"
    return _said(
        trouble,
        f"Knative cannot find the image {image} at its registry.",
        # knative/serving#6101: tags are resolved to digests before any pod exists.
        "Push it; or give an image that is only on the node a kind.local/ or dev.local/ name, or"
        " use Standard mode.",
        "E8",
    )


def _unschedulable(trouble: Trouble) -> Cause:
    asked = f" It asks for {trouble.requested}." if trouble.requested else ""
    said = one_line(trouble.message.partition(" preemption:")[0].rstrip(".,; "))
    return _said(
        trouble,
        "No node has room for the new pod.",
        "Ask for less (--cpu, --memory), stop another service, or add a node. A roll-out needs room"
        " for the old pod and the new one.",
        "E11",
        why=f"{said}.{asked}",
    )


def _refused_pod(trouble: Trouble) -> Cause:
    message = trouble.message
    if "exceeded quota" in message:
        fix = "Ask for less (--cpu, --memory), stop another service, or have the quota raised."
    elif "service account" in message.lower() or "serviceaccount" in message.lower():
        fix = "Create the ServiceAccount, or name another (--service-account)."
    elif "webhook" in message:
        fix = "Is the webhook's pod up? kubectl get pods -n kserve"
    else:
        fix = "Change what it names, then deploy again."
    return _said(trouble, "The cluster refuses to create the new pod.", fix, "E10")


def _refused_spec(trouble: Trouble) -> Cause:
    message = trouble.message
    if "no runtime found" in message.lower() or "ServingRuntimes" in message:
        return _said(
            trouble,
            "KServe has no runtime for it.",
            "Name one that takes MLflow models over V2 (--runtime NAME; slipway doctor lists them),"
            " or install KServe's cluster runtimes.",
            "E3",
        )
    if trouble.reason == "ServerlessModeRejected":
        return _said(
            trouble,
            "Knative is not installed in this cluster.",
            "Deploy with --mode Standard, or install Knative Serving.",
        )
    if "service account" in message:
        return _refused_pod(trouble)
    return _said(trouble, "KServe cannot act on it.", "Change the plan, then deploy again.")


def _initializer(trouble: Trouble, intent: Intent, lines: Sequence[str]) -> Cause:
    uri = one_line(trouble.source or intent.package.uri)
    text = "\n".join(lines) or trouble.message
    evidence = tuple(one_line(line) for line in lines if line.strip())[-_EVIDENCE_LINES:]
    last = evidence[-1] if evidence else one_line(trouble.message)

    def cause(what: str, why: str, fix: str, code: str) -> Cause:
        return Cause(
            what, why, fix, code, trouble.where, trouble.exit_code, evidence or (one_line(text),)
        )

    if trouble.out_of_memory or trouble.exit_code == 137:
        return cause(
            "The download ran out of memory.",
            "The storage initializer was killed at its limit (1 Gi by default).",
            "Raise storageInitializer.memoryLimit in ConfigMap kserve/inferenceservice-config, or"
            " the limit of the ClusterStorageContainer.",
            "E4",
        )
    # The initializer picks its words by searching the error's text, the URL included (KServe
    # v0.20.0, storage_errors.py): the exception that it came from is looked at first.
    if re.search(r"\b404\b|NotFound|not found\.|No model found in", text):
        return cause(
            "The version's files are not where the pod looks for them.",
            f"There is nothing at {uri}.",
            "Deploy the version again from the registry: it is published anew. Does the pod use the"
            " same bucket or emulator?",
            "E6",
        )
    if "Cannot recognize storage type" in text:
        return cause(
            "The place of the files has no form that KServe knows.",
            f"It is {uri}.",
            "Publish the version: a target with a bucket does so by itself.",
            "E6",
        )
    if re.search(
        r"authentication failed|Access denied|\b40[13]\b|Forbidden|Anonymous caller"
        r"|metadata\.google\.internal|DefaultCredentialsError",
        text,
    ):
        return cause(
            "The pod may not read the bucket.",
            last,
            "Give the pods' ServiceAccount the bucket: a Secret with the key in its `secrets`, or"
            " Workload Identity (docs/kserve-targets.md), and set service_account for the target.",
            "E5",
        )
    return cause(
        f"The download failed with exit code {trouble.exit_code}.",
        last,
        "Look at the whole log: slipway logs NAME --container storage-initializer.",
        "",
    )


def _server(trouble: Trouble, intent: Intent, lines: Sequence[str]) -> Cause:
    if trouble.container != CONTAINER:
        return _said(
            trouble,
            f"The container {trouble.container} ended with exit code {trouble.exit_code}.",
            f"Look at its log: slipway logs NAME --container {trouble.container}.",
        )
    from services import diagnosis

    return diagnosis.cause_of(
        lines,
        where=trouble.where,
        exit_code=trouble.exit_code,
        requirements=intent.requirements,
        out_of_memory=trouble.out_of_memory,
    )


def loading_cause(pod: str, intent: Intent, lines: Sequence[str]) -> Cause | None:
    """A cause that a still running server's log shows beyond doubt; None without one.

    For servers that stay up without their model: only recognised causes count, because a log of a
    server that is still loading is full of warnings.
    """
    if not any(_RAISED.match(line) for line in lines):
        return None
    from services import diagnosis

    found = diagnosis.cause_of(lines, where=f"{pod}/{CONTAINER}", requirements=intent.requirements)
    return found if found.code else None


_RAISED = re.compile(r"Traceback \(most recent call last\)")
