"""What an InferenceService and its children say: pure, no cluster asked.

`read` turns one look at the object, its Deployment or Knative Service and its pods into plain
facts; `manifests` writes what is read here. KServe's own Ready, observedGeneration
and modelStatus are not believed: each can describe the pods of an earlier version.

Read against KServe v0.20.0 and Knative Serving v1.20 (objects of v0.15 to v0.20 are told apart by
what they hold, never by a version number).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from services.domain import (
    Action,
    Answering,
    Change,
    Drift,
    Intent,
    Json,
    Mode,
    Outcome,
    Package,
    PackageKind,
    Release,
    Resources,
    Scale,
    spec_differences,
)
from services.errors import NotDeployable, NotFound, one_line
from services.kubeobject import (
    CONTAINER,
    DIGEST_ANNOTATION,
    FIELD_MANAGER,
    INITIALIZER,
    STOP_ANNOTATION,
    annotations_of,
    condition_of,
    conditions_of,
    labels_of,
    mode_of,
    pod_ready,
    text_or_none,
    time_of,
    value_at,
    workload_of,
    written_at,
)
from services.manifests import MODEL_ENV, patch_of, written_env

_SOURCE = "storage-initializer-sourceuri"
"""End of the annotation in which KServe notes a pod's URI; its prefix differs by version."""

_OWNERS = (
    ("argocd.argoproj.io/tracking-id", "annotations", "Argo CD"),
    ("argocd.argoproj.io/instance", "labels", "Argo CD"),
    ("kustomize.toolkit.fluxcd.io/name", "labels", "Flux"),
    ("helm.toolkit.fluxcd.io/name", "labels", "Flux"),
    ("meta.helm.sh/release-name", "annotations", "Helm"),
)
_OWNING_MANAGERS = {
    "argocd-controller": "Argo CD",
    "argocd-application-controller": "Argo CD",
    "kustomize-controller": "Flux",
    "helm-controller": "Flux",
    "helm": "Helm",
}
"""Field managers of tools that put back what others change (their documented defaults)."""


# ── Reading the object ────────────────────────────────────────────────────────────────────────


def object_version(service: Json) -> str:
    """Changes whenever the wanted state changes, and not when only the status does.

    The object's resourceVersion changes with every status write of the controller: a plan based on
    it would go stale in the middle of every roll-out.
    """
    metadata = service["metadata"]
    wish = {key: metadata.get(key) or {} for key in ("labels", "annotations")}
    text = json.dumps(wish, sort_keys=True)
    return (
        f"{metadata.get('uid', '')}.{metadata.get('generation', 0)}"
        f".{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    )


def service_account(service: Json) -> str:
    """The ServiceAccount that its pods are to have; "" for the namespace's default one."""
    return str(value_at(service, ("spec", "predictor", "serviceAccountName")) or "")


def is_stopped(service: Json) -> bool:
    """Whether the object is told to have no pods."""
    return str(annotations_of(service).get(STOP_ANNOTATION, "")).lower() == "true"


def owner_of(service: Json) -> str:
    """The GitOps tool that would put back what others change; "" when there is none."""
    metadata = service["metadata"]
    for key, place, tool in _OWNERS:
        if key in (metadata.get(place) or {}):
            return tool
    for entry in metadata.get("managedFields") or ():
        tool = _OWNING_MANAGERS.get(str(entry.get("manager", "")), "")
        if tool:
            return tool
    return ""


def live_percent(service: Json) -> int | None:
    """`canaryTrafficPercent` as it stands in the object."""
    value = value_at(service, ("spec", "predictor", "canaryTrafficPercent"))
    return value if isinstance(value, int) else None


def live_intent(service: Json) -> Intent:
    """The intent that the object's spec amounts to: for services that others made."""
    predictor = value_at(service, ("spec", "predictor")) or {}
    model = predictor.get("model") or {}
    # Containers beside a model are others: a proxy, say.
    container = {} if model else _server_container(predictor.get("containers") or ())
    holder = container or model
    metadata = service["metadata"]
    if container:
        package = Package(PackageKind.IMAGE, str(container.get("image", "")))
    else:
        package = Package(PackageKind.GCS, str(model.get("storageUri", "")))
    limits = (
        value_at(holder, ("resources", "limits"))
        or value_at(holder, ("resources", "requests"))
        or {}
    )
    env = tuple(
        (str(item.get("name")), str(item.get("value", "")))
        for item in holder.get("env") or ()
        if "valueFrom" not in item
    )
    return Intent(
        service=metadata["name"],
        version=None,
        package=replace(package, digest=str(annotations_of(service).get(DIGEST_ANNOTATION, ""))),
        mode=mode_of(service),
        runtime=model.get("runtime"),
        scale=Scale(
            predictor.get("minReplicas"),
            predictor.get("maxReplicas"),
            predictor.get("scaleMetric"),
            predictor.get("scaleTarget"),
        ),
        resources=Resources(text_or_none(limits.get("cpu")), text_or_none(limits.get("memory"))),
        service_account=predictor.get("serviceAccountName"),
        timeout_s=predictor.get("timeout"),
        env=env,
        canary_percent=live_percent(service),
        stopped=is_stopped(service),
    )


def _server_container(containers: Sequence[Json]) -> Json:
    """The model server among a pod's containers: the one that KServe calls so, else the first."""
    named = (container for container in containers if container.get("name") == CONTAINER)
    return next(named, next(iter(containers), {}))


def foreign_format(service: Json) -> str:
    """The model format of a service when it is none that an intent can say; "" otherwise."""
    predictor = value_at(service, ("spec", "predictor")) or {}
    name = str(value_at(predictor, ("model", "modelFormat", "name")) or "")
    return name if name and name != "mlflow" else ""


def wanted_release(service: Json, history: Sequence[Release]) -> Release | None:
    """The release that the object's spec carries now; None when no record fits it.

    Workload, traffic share and stop are compared: a change of traffic alone leaves the label, and
    an open release whose patch was never sent must not count.
    """
    workload = workload_of(service)
    if workload is None:
        adopted = next((r for r in history if r.action is Action.ADOPT), None)
        return adopted if adopted and not any(r.action is Action.DELETE for r in history) else None
    percent, stopped = live_percent(service), is_stopped(service)
    for release in history:
        if release.workload != workload or release.intent.stopped != stopped:
            continue
        if release.outcome is Outcome.NOT_APPLIED or release.action is Action.DELETE:
            continue
        if _awaits_its_write(service, release):
            continue
        wished = release.intent.canary_percent
        held = percent == 0 and wished is None and release.workload != release.number
        if percent == wished or held:
            return release
    return None


def drift_of(service: Json, release: Release) -> tuple[Drift, ...]:
    """The fields that we own in which the object is not what the release recorded."""
    intent, live = release.intent, live_intent(service)
    recorded_env = {item["name"]: item["value"] for item in written_env(intent)}
    live_env = dict(live.env)
    compared = [
        ("package", intent.package.uri, live.package.uri),
        ("runtime", intent.runtime, live.runtime if intent.runtime else None),
        ("service account", intent.service_account, live.service_account),
        ("timeout", intent.timeout_s, live.timeout_s),
        ("cpu", intent.resources.cpu, live.resources.cpu if intent.resources.cpu else None),
        (
            "memory",
            intent.resources.memory,
            live.resources.memory if intent.resources.memory else None,
        ),
        ("minimum replicas", intent.scale.min_replicas, live.scale.min_replicas),
        ("maximum replicas", intent.scale.max_replicas, live.scale.max_replicas),
        *((f"env {name}", value, live_env.get(name)) for name, value in recorded_env.items()),
    ]
    if intent.patch.strip():
        # What a patch sets is not modelled; only what it has to leave alone can be compared.
        compared = [each for each in compared if each[0] in _MODEL_FIELDS]
    return tuple(
        Drift(name, _said(recorded), _said(seen), _changed_by(service))
        for name, recorded, seen in compared
        if recorded != seen
    )


_MODEL_FIELDS = frozenset({"package", *(f"env {name}" for name in MODEL_ENV)})
"""Drifted fields by which the pods carry, or answer as, another model than the release's."""


def carries_another(look: Look, wanted: Release, pods: Iterable[Json]) -> Drift | None:
    """What makes the release's pods another model than it says; None when nothing does.

    The label that tells pods apart is left by an edit of others, so what they load is compared.
    """
    recorded = wanted.intent.package.uri
    if (named := _other_model(look.service, wanted)) is not None:
        return named
    if wanted.intent.package.kind is PackageKind.IMAGE or not recorded:
        return None  # a pod may name an image by its digest: its template is compared instead
    loaded = (source_of(pod) for pod in pods)
    other = next((uri for uri in loaded if uri and uri != recorded), "")
    return Drift("package", one_line(recorded), one_line(other)) if other else None


def _other_model(service: Json, release: Release) -> Drift | None:
    """The first field in which the object names another model than the release."""
    drifted = drift_of(service, release)
    return next((drift for drift in drifted if drift.field in _MODEL_FIELDS), None)


def _awaits_its_write(service: Json, release: Release) -> bool:
    """Whether the object is still what somebody made of it before an open roll-back.

    A roll-back to a workload that runs keeps its label, so between its record and its write the
    object seems to be its own already.
    """
    if release.outcome is not Outcome.OPEN or release.workload == release.number:
        return False
    written = written_at(service)
    begun = release.created_at.replace(microsecond=0)  # the API server's times are whole seconds
    return written is not None and written < begun and _other_model(service, release) is not None


def source_of(pod: Json) -> str:
    """The URI from which a pod's initializer loads; "" when it has none.

    KServe v0.20.0: it stands in an annotation and is the initializer's first argument.
    """
    for container in value_at(pod, ("spec", "initContainers")) or ():
        if container.get("name") == INITIALIZER and container.get("args"):
            return str(container["args"][0])
    noted = (value for key, value in annotations_of(pod).items() if key.endswith(_SOURCE))
    return str(next(noted, ""))


_COUNTS = frozenset({"minimum replicas", "maximum replicas"})
"""Drifted fields that make more or fewer of the pods that were tested, and no other ones."""


def still_proven(drift: Iterable[Drift]) -> bool:
    """Whether a verified release's test still speaks for the pods: no edit made other ones."""
    return all(each.field in _COUNTS for each in drift)


def _said(value: object) -> str:
    """A field's value as text; "" when it is not set. Nought is a value."""
    return "" if value is None else one_line(value)


def _changed_by(service: Json) -> str:
    """The manager that wrote the spec last, other than us and the controller's status."""
    entries = [
        entry
        for entry in service["metadata"].get("managedFields") or ()
        if entry.get("manager") != FIELD_MANAGER and entry.get("subresource") != "status"
    ]
    latest = max(entries, key=lambda entry: str(entry.get("time", "")), default=None)
    return one_line(latest.get("manager", "")) if latest else ""


def last_writer(service: Json) -> str:
    """The field manager that wrote something other than the status last, ours included."""
    entries = [
        entry
        for entry in service["metadata"].get("managedFields") or ()
        if entry.get("subresource") != "status"
    ]
    latest = max(entries, key=lambda entry: str(entry.get("time", "")), default=None)
    return one_line(latest.get("manager", "")) if latest else ""


def edits(before: Intent | None, service: Json) -> tuple[Change, ...]:
    """What the object says now that the plan did not see, in the intent's own fields."""
    if before is None:
        return ()
    now, live = _as_live(before, service), live_intent(service)
    now = replace(now, canary_percent=live.canary_percent, stopped=live.stopped)
    return spec_differences(before, now)


def carries(live: Json, wished: Json, *, may_hold: bool = False) -> bool:
    """Whether the object is what the manifest `wished` makes of it.

    A promotion and a start only take something away: what stands in `wished` stands in the object
    before them too, so that the share and the stop have to be held against it as well. `may_hold`:
    a return from a canary, whose share of 0 percent holds all traffic where it was.
    """
    share, wanted = live_percent(live), live_percent(wished)
    same_share = share == wanted or (may_hold and share == 0 and wanted is None)
    same_stop = is_stopped(live) == is_stopped(wished)
    return same_share and same_stop and owned_equal(wished, live)


def owned_equal(wished: Json, live: Json) -> bool:
    """Whether everything that `wished` says stands in `live`, which may say more."""
    if isinstance(wished, dict):
        return isinstance(live, dict) and all(
            owned_equal(value, live.get(key))
            for key, value in wished.items()
            if key != "resourceVersion"
        )
    if isinstance(wished, list):
        return (
            isinstance(live, list)
            and len(live) >= len(wished)
            and all(any(owned_equal(item, other) for other in live) for item in wished)
        )
    return bool(wished == live)


def with_drift(intent: Intent, service: Json) -> Intent:
    """The recorded intent with what others made of what it sets: what a plan's `before` has to be.

    What it leaves to others is not ours: no write takes that away, so no plan says that it would.
    """
    seen, scale = _as_live(intent, service), intent.scale
    return replace(
        seen,
        service_account=seen.service_account if intent.service_account else None,
        timeout_s=None if intent.timeout_s is None else seen.timeout_s,
        scale=replace(
            scale,
            min_replicas=None if scale.min_replicas is None else seen.scale.min_replicas,
            max_replicas=None if scale.max_replicas is None else seen.scale.max_replicas,
        ),
    )


def _as_live(intent: Intent, service: Json) -> Intent:
    """The recorded intent with what the object really says."""
    live = live_intent(service)
    return replace(
        intent,
        package=intent.package if intent.package.uri == live.package.uri else live.package,
        runtime=live.runtime if intent.runtime else None,
        service_account=live.service_account,
        timeout_s=live.timeout_s,
        scale=replace(
            intent.scale,
            min_replicas=live.scale.min_replicas,
            max_replicas=live.scale.max_replicas,
        ),
    )


def _held(release: Release | None, service: Json) -> bool:
    """Whether all traffic is held on the revision that had it before an aborted canary."""
    wished = None if release is None else release.intent.canary_percent
    return live_percent(service) == 0 and wished is None


def expected_percent(release: Release | None, service: Json) -> int:
    """The share that the wanted workload is to have, in percent."""
    if release is not None:
        return 100 if release.intent.canary_percent is None else release.intent.canary_percent
    percent = live_percent(service)
    return 100 if percent is None else percent


# ── Reading what became of it ─────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Stuck:
    """A Deployment or Revision that says itself that it cannot go on, and since when."""

    reason: str
    message: str
    since: datetime | None = None

    @property
    def silent_webhook(self) -> bool:
        """Whether a webhook did not answer, which may pass; one that *denied* has decided.

        The API server says "failed calling webhook" when it got no verdict (Kubernetes 1.34,
        k8s.io/apiserver/pkg/admission/plugin/webhook/mutating/dispatcher.go).
        """
        said = self.message.lower()
        return "failed calling webhook" in said or "failed to call webhook" in said


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a service: raw objects as the API server gave them."""

    service: Json
    deployment: Json | None = None
    """Standard mode's Deployment."""
    knative: Json | None = None
    """Knative mode's Service."""
    revisions: tuple[Json, ...] = ()
    """Knative mode's Revisions of that Service."""
    pods: tuple[Json, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """What one look amounts to. Counts are of the wanted workload, but `total`."""

    mode: Mode
    wanted: Release | None
    workload: int | None
    caught_up: bool = False
    desired: int = 0
    updated: int = 0
    total: int = 0
    available: int = 0
    traffic_as_wanted: bool = False
    stopped: bool = False
    asleep: bool = False
    answering: tuple[Answering, ...] = ()
    stable: int | None = None
    pods: tuple[Json, ...] = ()
    """Living pods of the wanted workload, newest first."""
    message: str = ""
    revision: Json | None = None
    stuck: Stuck | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def all_serve(self) -> bool:
        """Every pod of the wanted workload serves, none of an earlier one is left, traffic fits."""
        counted = self.desired == self.updated == self.total == self.available
        pods = self.desired > 0 or self.asleep
        return self.caught_up and pods and counted and self.traffic_as_wanted


def read(look: Look, history: Sequence[Release]) -> Facts:
    """Say what one look amounts to. Takes anything that a cluster can answer; never raises."""
    wanted = wanted_release(look.service, history)
    workload = workload_of(look.service)
    mode = mode_of(look.service)
    living = [pod for pod in look.pods if not pod["metadata"].get("deletionTimestamp")]
    base = Facts(mode=mode, wanted=wanted, workload=workload)
    if is_stopped(look.service):
        message = _still_there(look, living)
        return replace(
            base,
            stopped=not message,
            caught_up=not message,
            traffic_as_wanted=True,
            message=message or "stopped",
        )
    if mode is Mode.KNATIVE:
        return _read_knative(base, look, living, history)
    return _read_standard(base, look, living, history)


def _still_there(look: Look, living: Sequence[Json]) -> str:
    """What a stopped service has yet; "" once all of it is gone.

    Its pods alone do not tell: asleep or scaled to nothing there are none, and what would make them
    stands until KServe takes it away: stopping deletes it (v0.20.0, the predictor's reconcilers).
    """
    if living:
        return "1 pod is stopping" if len(living) == 1 else f"{len(living)} pods are stopping"
    for what, child in (("Deployment", look.deployment), ("Knative Service", look.knative)):
        if child is not None and not child["metadata"].get("deletionTimestamp"):
            return f"KServe has not removed its {what} yet"
    return ""


def _read_standard(
    base: Facts, look: Look, living: Sequence[Json], history: Sequence[Release]
) -> Facts:
    answering = _shares(ready_by_workload(living), history)
    mine = _mine(living, base.workload)
    deployment = look.deployment
    if deployment is None:
        message = "KServe has not made the Deployment yet"
        return replace(base, answering=answering, pods=mine, message=message, desired=1)
    status, spec = deployment.get("status") or {}, deployment.get("spec") or {}
    template = spec.get("template") or {}
    carries = workload_of(template) == base.workload and _carries_package(template, look.service)
    observed = int(status.get("observedGeneration") or 0)
    caught_up = carries and observed >= int(deployment["metadata"].get("generation") or 0)
    replicas = spec.get("replicas")
    found = replace(
        base,
        caught_up=caught_up,
        desired=1 if replicas is None else int(replicas),
        updated=int(status.get("updatedReplicas") or 0),
        total=int(status.get("replicas") or 0),
        available=int(status.get("availableReplicas") or 0),
        traffic_as_wanted=True,
        answering=answering,
        stuck=_stuck_deployment(deployment) if caught_up else None,
    )
    if not caught_up or found.total != found.updated:  # else there are none but of its template
        mine = tuple(pod for pod in mine if _made_for(pod, look.service, template))
    found = replace(found, pods=mine)
    if caught_up and pods_taken_away(deployment):
        message = "its Deployment is scaled to 0 replicas, which KServe leaves as it is"
        return replace(found, stuck=Stuck("ScaledToZero", message), message=message)
    return replace(found, message=_standard_message(found))


def _made_for(pod: Json, service: Json, template: Json) -> bool:
    """Whether a pod of the wanted workload is of the spec as Slipway wrote it.

    The label does not tell: an edit of others leaves it, and so does a roll-back to the workload
    that runs. Pods of such an edit are no evidence for or against what undoes it.
    """
    if not _names_no_other(pod, service):
        return False
    written, created = written_at(service), time_of(pod["metadata"].get("creationTimestamp"))
    if written is None or created is None or created >= written:
        return True
    # Older than the write: then only one whose template the write left as it was.
    made, asked = (
        _server_container(value_at(holder, ("spec", "containers")) or ())
        for holder in (pod, template)
    )
    same = all((made.get(key) or None) == (asked.get(key) or None) for key in _TELLING)
    env = made.get("env") or ()
    return same and all(item in env for item in asked.get("env") or ())


def _names_no_other(thing: Json, service: Json) -> bool:
    """Whether no annotation of a template, Revision or pod names another URI than the spec."""
    uri = value_at(service, ("spec", "predictor", "model", "storageUri"))
    sources = [value for key, value in annotations_of(thing).items() if key.endswith(_SOURCE)]
    return not uri or not sources or uri in sources


_TELLING = ("image", "command", "args", "resources")
"""Fields of a server's container in which a pod equals the template that it was made from."""


def pods_taken_away(deployment: Json | None) -> Drift | None:
    """What somebody did who scaled the Deployment to nothing. No deploy brings its pods back.

    Kubernetes 1.34, pkg/controller/podautoscaler/horizontal.go: autoscaling is disabled while 0
    replicas are asked for; and KServe v0.20.0 leaves the number to the autoscaler.
    """
    if deployment is None or (deployment.get("spec") or {}).get("replicas") != 0:
        return None
    return Drift("replicas", "1 or more", "0")


def image_drift(look: Look, release: Release) -> Drift | None:
    """Another image than the runtime had when the release was planned, on its pods.

    KServe rolls services when their runtime is edited (kserve/kserve#3299, #3683).
    """
    recorded = _image_of(release.intent)
    mine = [r for r in look.revisions if workload_of(r) == release.workload]
    newest = max(mine, key=lambda r: str(r["metadata"].get("creationTimestamp")), default=None)
    holder = newest or value_at(look.deployment, ("spec", "template"))
    containers = value_at(holder, ("spec", "containers")) or ()
    seen = next((str(c.get("image")) for c in containers if c.get("name") == CONTAINER), "")
    if not recorded or not seen or seen == recorded:
        return None
    return Drift("runtime image", one_line(recorded), one_line(seen))


def _image_of(intent: Intent) -> str:
    """The model server's image as the release itself has it; "" when that is not known."""
    if not intent.patch.strip():
        return intent.runtime_image
    try:
        model = value_at(patch_of(intent), ("spec", "predictor", "model"))
    except NotDeployable:
        return ""
    if not isinstance(model, dict):
        return intent.runtime_image
    if model.get("image"):
        return str(model["image"])
    # Another runtime, or another tag of its image: which image that gives is the cluster's matter.
    return "" if model.keys() & {"runtime", "runtimeVersion"} else intent.runtime_image


def fields_of_others(service: Json) -> tuple[tuple[str, str], ...]:
    """(field, manager) of what is in the spec by another manager's hand and not by ours.

    A server-side apply leaves such fields as they are, so a plan neither sets nor restores them.
    """
    owned: dict[str, str] = {}
    ours: set[str] = set()
    for entry in service["metadata"].get("managedFields") or ():
        if entry.get("subresource"):
            continue
        spec = value_at(entry, ("fieldsV1", "f:spec")) or {}
        manager = str(entry.get("manager", ""))
        for path in _leaves(spec, "spec"):
            if manager == FIELD_MANAGER:
                ours.add(path)
            else:
                owned[path] = manager
    return tuple((one_line(p), one_line(m)) for p, m in sorted(owned.items()) if p not in ours)


def _leaves(fields: Json, path: str) -> Iterator[str]:
    """Paths of a FieldsV1 set (structured-merge-diff v4: `f:` a field, `k:` a list item's key)."""
    for key, below in fields.items():
        if key == ".":
            continue
        kind, _, name = str(key).partition(":")
        here = f"{path}.{name}" if kind == "f" else f"{path}[{name}]"
        if below:
            yield from _leaves(below, here)
        else:
            yield here


def _standard_message(facts: Facts) -> str:
    if not facts.caught_up:
        return "KServe has not acted on it yet"
    if facts.stuck is not None and facts.stuck.silent_webhook:
        return "the cluster's webhook for pods does not answer; Kubernetes tries again"
    if facts.updated < facts.desired:
        return f"{facts.updated} of {facts.desired} new pods created"
    if facts.total > facts.updated:
        old = facts.total - facts.updated
        ready = sum(1 for pod in facts.pods if pod_ready(pod))
        return f"{ready} of {facts.desired} new pods ready, {old} of the old still there"
    if facts.available < facts.desired:
        return f"{facts.available} of {facts.desired} new pods ready"
    return ""


def _stuck_deployment(deployment: Json) -> Stuck | None:
    for condition in conditions_of(deployment):
        kind, status = condition.get("type"), condition.get("status")
        if (kind, status) in {("ReplicaFailure", "True"), ("Progressing", "False")}:
            return _said_stuck(condition)
    return None


def _said_stuck(condition: Json) -> Stuck:
    return Stuck(
        str(condition.get("reason", "")),
        str(condition.get("message", "")),
        time_of(condition.get("lastTransitionTime")),
    )


def _read_knative(
    base: Facts, look: Look, living: Sequence[Json], history: Sequence[Release]
) -> Facts:
    knative = look.knative
    if knative is None:
        message = "KServe has not made the Knative Service yet"
        return replace(base, message=message, desired=1, pods=_mine(living, base.workload))
    workload_by_revision = {
        revision["metadata"]["name"]: workload_of(revision) for revision in look.revisions
    }
    status = knative.get("status") or {}
    traffic = [entry for entry in status.get("traffic") or () if entry.get("percent")]
    share: dict[int | None, int] = {}
    by_revision: dict[str, int] = {}
    addresses: dict[int | None, str] = {}
    for entry in status.get("traffic") or ():
        if entry.get("url"):  # of a tag: `prev` and `latest`
            number = workload_by_revision.get(str(entry.get("revisionName", "")))
            addresses.setdefault(number, one_line(entry["url"]))
    for entry in traffic:
        name, percent = str(entry.get("revisionName", "")), int(entry["percent"])
        by_revision[name] = by_revision.get(name, 0) + percent
        number = workload_by_revision.get(name)
        share[number] = share.get(number, 0) + percent
    pods_by_workload = ready_by_workload(living)
    answering = tuple(
        replace(
            _answering(number, percent, pods_by_workload.get(number, 0), history),
            address=addresses.get(number, ""),
        )
        for number, percent in sorted(share.items(), key=lambda item: -item[1])
    )
    revision = _wanted_revision(look, status, base.workload, by_revision)
    name = revision["metadata"]["name"] if revision else ""
    mine = tuple(
        pod
        for pod in _newest_pods(living)
        if labels_of(pod).get("serving.knative.dev/revision") == name
    )
    ready = condition_of(revision, "Ready") if revision else None
    is_ready = bool(ready and ready.get("status") == "True")
    available = sum(1 for pod in mine if pod_ready(pod))
    expected = expected_percent(base.wanted, look.service)
    template = value_at(knative, ("spec", "template")) or {}
    observed = int(status.get("observedGeneration") or 0)
    caught_up = (
        workload_of(template) == base.workload
        and _carries_package(template, look.service)
        and _asks_for(knative, live_percent(look.service))
        and observed >= int(knative["metadata"].get("generation") or 0)
        and revision is not None
    )
    if _held(base.wanted, look.service) and status.get("latestCreatedRevisionName") != status.get(
        "latestReadyRevisionName"
    ):
        # The traffic is back already; but the next plan would meet the aborted revision as the
        # latest ready one, and Knative would send its share there.
        message = "the traffic is back; its new revision is starting"
        return replace(
            base, desired=1, answering=answering, pods=mine, revision=revision, message=message
        )
    asleep = caught_up and is_ready and not mine
    stable = next((n for n in share if n != base.workload and n is not None), None)
    found = replace(
        base,
        caught_up=caught_up,
        desired=len(mine) if is_ready else max(1, len(mine)),
        updated=len(mine),
        total=len(mine),
        available=available if is_ready else min(available, max(0, len(mine) - 1)),
        traffic_as_wanted=share.get(base.workload, 0) == expected,
        asleep=asleep,
        answering=answering,
        stable=stable if expected < 100 else None,
        pods=mine,
        revision=revision,
        stuck=_stuck_revision(revision) if caught_up and not is_ready else None,
    )
    return replace(found, message=_knative_message(found, name, is_ready, share, expected))


def _knative_message(
    facts: Facts, name: str, is_ready: bool, share: Mapping[int | None, int], expected: int
) -> str:
    if not facts.caught_up:
        return "KServe and Knative have not acted on it yet"
    if facts.asleep and facts.traffic_as_wanted:
        return "asleep: the first request wakes it"
    if not is_ready:
        return f"revision {name} is not ready yet"
    if not facts.traffic_as_wanted:
        return f"{share.get(facts.workload, 0)} of {expected} % of the traffic moved"
    return ""


def _wanted_revision(
    look: Look, status: Json, workload: int | None, by_revision: Mapping[str, int]
) -> Json | None:
    """The revision to judge: of the wanted workload, the one with traffic, else the latest."""
    mine = [
        revision
        for revision in look.revisions
        # Somebody's edit leaves the label on a Revision of its own.
        if workload_of(revision) == workload and _names_no_other(revision, look.service)
    ]
    serving = [r for r in mine if by_revision.get(r["metadata"]["name"])]
    if serving:
        return max(serving, key=lambda r: by_revision[r["metadata"]["name"]])
    latest = status.get("latestCreatedRevisionName")
    return next((r for r in mine if r["metadata"]["name"] == latest), None)


def _asks_for(knative: Json, percent: int | None) -> bool:
    """Whether KServe has handed the traffic share on to the Knative Service."""
    entries = value_at(knative, ("spec", "traffic")) or ()
    latest = next((entry for entry in entries if entry.get("latestRevision")), None)
    asked = 100 if latest is None else int(latest.get("percent") or 0)
    return asked == (100 if percent is None else percent) or len(entries) == 1 == bool(percent)


def _stuck_revision(revision: Json | None) -> Stuck | None:
    ready = condition_of(revision, "Ready") if revision else None
    return _said_stuck(ready) if ready and ready.get("status") == "False" else None


def _carries_package(template: Json, service: Json) -> bool:
    """Whether a pod template loads what the object's spec says now.

    The label alone would do for our own patches; an edit by others leaves it.
    """
    predictor = value_at(service, ("spec", "predictor")) or {}
    if (predictor.get("model") or {}).get("storageUri"):
        return _names_no_other(template, service)
    image = next((c.get("image") for c in predictor.get("containers") or ()), None)
    images = [c.get("image") for c in value_at(template, ("spec", "containers")) or ()]
    return image is None or image in images


def _mine(living: Iterable[Json], workload: int | None) -> tuple[Json, ...]:
    pods = _newest_pods(living)
    if workload is not None:
        return tuple(pod for pod in pods if workload_of(pod) == workload)
    # A service that others made: the newest pod's template is the present one.
    hashes = [labels_of(pod).get("pod-template-hash") for pod in pods]
    return tuple(pod for pod, found in zip(pods, hashes, strict=True) if found == hashes[0])


def _newest_pods(pods: Iterable[Json]) -> list[Json]:
    return sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp")), reverse=True)


def ready_by_workload(living: Iterable[Json]) -> dict[int | None, int]:
    """Ready pods by workload."""
    counted: dict[int | None, int] = {}
    for pod in living:
        if pod_ready(pod):
            number = workload_of(pod)
            counted[number] = counted.get(number, 0) + 1
    return counted


def _shares(ready: Mapping[int | None, int], history: Sequence[Release]) -> tuple[Answering, ...]:
    """Standard mode: a Kubernetes Service spreads requests over ready pods, whatever their age."""
    total = sum(ready.values())
    ordered = sorted(ready.items(), key=lambda item: (-item[1], -(item[0] or 0)))
    return tuple(
        _answering(number, round(100 * count / total), count, history) for number, count in ordered
    )


def _answering(
    workload: int | None, percent: int, replicas: int, history: Sequence[Release]
) -> Answering:
    version = next((r.intent.version for r in history if r.workload == workload), None)
    return Answering(version, workload, percent, replicas)


def missing(name: str, where: str) -> NotFound:
    """The error for a service that does not exist."""
    return NotFound(
        f"There is no service {one_line(name)!r} in {where}.",
        fix="List what there is: slipway status.",
    )
