"""What an InferenceService is told to be, and what it and its children say: pure, no cluster asked.

`manifest` turns an intent into the object that is applied; `read` turns one look at the object, its
Deployment or Knative Service and its pods into plain facts. KServe's own Ready, observedGeneration
and modelStatus are not believed: each can describe the pods of an earlier version.

Read against KServe v0.20.0 and Knative Serving v1.20 (objects of v0.15 to v0.20 are told apart by
what they hold, never by a version number). Callers: kserve.py, journal.py (names only).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import yaml

from services.checks import Format, Runtime
from services.domain import (
    TEST_STEP,
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
    Protocol,
    Release,
    Resources,
    Scale,
    Step,
    StepState,
    VersionRef,
    judged,
    spec_differences,
)
from services.errors import NotDeployable, NotFound, NotOffered, one_line

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

ENVIRONMENT_LABEL = f"{DOMAIN}/environment"
"""On ServingRuntimes that Slipway made for one set of requirements."""

MODE_ANNOTATION = "serving.kserve.io/deploymentMode"
FIELD_MANAGER = "slipway"
TAG_ROUTING_ANNOTATION = "serving.kserve.io/enable-tag-routing"
"""Gives the newest revision an address of its own beside that of the one before it."""
STOP_ANNOTATION = "serving.kserve.io/stop"
SERVICE_LABEL = "serving.kserve.io/inferenceservice"

API_VERSION = "serving.kserve.io/v1beta1"
KIND = "InferenceService"
CONTAINER = "kserve-container"
INITIALIZER = "storage-initializer"
HTTP_PORT = 8080
_SOURCE = "storage-initializer-sourceuri"
"""End of the annotation in which KServe notes a pod's URI; its prefix differs by version."""
DRAIN_S = 5
"""Between a pod's leaving and its server's end; ingresses follow endpoints within a second or
two."""

# KServe v0.15 and before: Serverless and RawDeployment; both spellings live in clusters.
_MODES = {
    "knative": Mode.KNATIVE,
    "serverless": Mode.KNATIVE,
    "standard": Mode.STANDARD,
    "rawdeployment": Mode.STANDARD,
}

# KServe v0.20.0, deployment_reconciler.go: what it puts on the pod template itself.
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


# ── Writing ───────────────────────────────────────────────────────────────────────────────────


def manifest(
    intent: Intent,
    *,
    namespace: str,
    workload: int,
    mode_value: str | None,
    hold_traffic: bool = False,
    tag_routing: bool = False,
) -> dict[str, Json]:
    """The InferenceService that serves `intent`, as it is applied.

    `mode_value` is the text of the mode's annotation; None leaves it out (an update never changes
    it). `hold_traffic` keeps all traffic on the revision that had it: see `aborts_canary`.
    `tag_routing` gives each side of a canary an address of its own: see `tags_routes`.
    NotOffered for what the mode cannot do; NotDeployable for a patch that cannot be merged.
    """
    if intent.canary_percent is not None and intent.mode is not Mode.KNATIVE:
        raise canary_not_offered(intent.service)
    annotations: dict[str, str] = {}
    if mode_value is not None:
        annotations[MODE_ANNOTATION] = mode_value
    if intent.version is not None:
        annotations[VERSION_ANNOTATION] = str(intent.version)
    if intent.package.digest:
        annotations[DIGEST_ANNOTATION] = intent.package.digest
    if tag_routing:
        annotations[TAG_ROUTING_ANNOTATION] = "true"
    if intent.stopped:
        annotations[STOP_ANNOTATION] = "true"
    predictor = _predictor(intent)
    if hold_traffic:
        predictor["canaryTrafficPercent"] = 0
    elif intent.canary_percent is not None:
        predictor["canaryTrafficPercent"] = intent.canary_percent
    made: dict[str, Json] = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "name": intent.service,
            "namespace": namespace,
            "labels": {**dict(intent.labels), WORKLOAD_LABEL: str(workload)},
            "annotations": annotations,
        },
        "spec": {"predictor": predictor},
    }
    return _patched(made, intent) if intent.patch.strip() else made


def tags_routes(intent: Intent, workload: int, live: Json | None) -> bool:
    """Whether the manifest asks KServe for an address of each side of a canary.

    The annotation flows into the pods: it comes with new ones only, and stays where it is. What
    somebody else said there stands.
    """
    if intent.mode is not Mode.KNATIVE:
        return False
    said = None if live is None else _annotations(live).get(TAG_ROUTING_ANNOTATION)
    if said is not None:
        return str(said).lower() == "true"
    return live is None or workload_of(live) != workload


def canary_not_offered(service: str) -> NotOffered:
    """Why Standard mode has no canary, and what works instead."""
    return NotOffered(
        f"{service} cannot have a canary. Nothing was changed.",
        # KServe v0.20.0: spec.canary makes pods but splits no traffic; canaryTrafficPercent is
        # ignored in Standard mode without a word (kserve/kserve#5335, #4074).
        why="KServe splits traffic in Knative mode only; this service runs in Standard mode, where"
        " a percentage would be ignored.",
        fix=f"Deploy the version as a second service (`--name {service}-next`), compare the two on"
        " Predict, then deploy it here; or make a new service with `--mode Knative`.",
    )


def _predictor(intent: Intent) -> dict[str, Json]:
    predictor: dict[str, Json] = {}
    scale = intent.scale
    fields = (
        ("minReplicas", scale.min_replicas),
        ("maxReplicas", scale.max_replicas),
        ("scaleMetric", scale.metric),
        ("scaleTarget", scale.value),
        ("serviceAccountName", intent.service_account),
        ("timeout", intent.timeout_s),
    )
    predictor.update({key: value for key, value in fields if value is not None})
    if intent.package.kind is PackageKind.IMAGE:
        predictor["containers"] = [_container(intent)]
    else:
        predictor["model"] = _model(intent)
    return predictor


def _model(intent: Intent) -> dict[str, Json]:
    model: dict[str, Json] = {
        # The runtime's list of format versions decides when one is written: "3" of a current
        # MLflow would end in NoSupportingRuntime on stock runtimes. Without one, all match.
        "modelFormat": {"name": "mlflow"},
        # A missing protocol counts as v1, which no MLServer runtime lists.
        "protocolVersion": "v2",
        "storageUri": intent.package.uri,
        "env": _env(intent),
        **_gentle(intent),
    }
    if intent.runtime is not None:
        model["runtime"] = intent.runtime
    resources = _resources(intent.resources)
    if resources:
        model["resources"] = resources
    return model


_V2_ENV = ({"name": "PROTOCOL", "value": "v2"},)
"""KServe takes a container without it for a V1 server, which is as near as /invocations comes."""


def ready_path(service: str, protocol: Protocol) -> str:
    """What a model server is asked to know whether its model is ready."""
    # MLflow 3.17.2, pyfunc/scoring_server: /ping answers once the model is loaded.
    return "/ping" if protocol is Protocol.INVOCATIONS else f"/v2/models/{service}/ready"


def _container(intent: Intent) -> dict[str, Json]:
    container: dict[str, Json] = {
        "name": CONTAINER,
        "image": intent.package.uri,
        # Standard mode would pull ":latest" never and Knative always; ours are never ":latest".
        "imagePullPolicy": "IfNotPresent",
        # Knative tells HTTP/1 from gRPC by the port's name.
        "ports": [{"name": "http1", "containerPort": HTTP_PORT, "protocol": "TCP"}],
        "env": [
            *(_V2_ENV if intent.package.protocol is Protocol.V2 else ()),
            *_env(intent),
        ],
        **_gentle(intent),
    }
    resources = _resources(intent.resources)
    if resources:
        container["resources"] = resources
    return container


def _gentle(intent: Intent) -> dict[str, Json]:
    """What keeps requests from pods that cannot answer yet, or no more."""
    path = ready_path(intent.service, intent.package.protocol)
    gentle: dict[str, Json] = {
        # KServe adds a TCP probe when there is none, and MLServer opens its port while the model
        # still loads: a new pod would get requests that it answers with 404.
        "readinessProbe": {
            "httpGet": {"path": path, "port": HTTP_PORT},
            "periodSeconds": 2,
            "timeoutSeconds": 2,
            # A server that is only busy stays in the list: where it is the last one, every caller
            # would be refused instead of waiting. Seen while a new pod beside it took the node's
            # cores: 3 failed probes, and 13 s of refused connections at 50 requests a second.
            "failureThreshold": 10,
        }
    }
    if intent.mode is not Mode.KNATIVE:  # Knative refuses hooks; its queue-proxy drains itself
        # A pod leaves the ingress's list seconds after it is told to end: answer until then.
        gentle["lifecycle"] = {"preStop": {"exec": {"command": ["/bin/sleep", str(DRAIN_S)]}}}
    return gentle


_MODEL_ENV = (
    "MLSERVER_MODEL_NAME",
    "MLSERVER_MODEL_VERSION",
    "MLSERVER_MODEL_URI",
    # KServe v0.20.0: turns the storage initializer on, for any container.
    "STORAGE_URI",
)
"""Variables that say which model a server loads, and as what it answers."""


def _env(intent: Intent) -> list[dict[str, str]]:
    env = dict(intent.env)
    if intent.version is not None:
        # What an adopted service says there would make a version answer as another, or be another.
        ours = "MLSERVER_MODEL_VERSION"
        env = {n: value for n, value in env.items() if n not in _MODEL_ENV or n == ours}
        # MLServer 1.7.1 names the answering version in every V2 answer only when it is told it.
        # Where it stood it stays: another order alone would make other pods.
        env[ours] = str(intent.version.number)
    if intent.package.kind is PackageKind.IMAGE:
        # Of files, KServe and the runtime tell the server.
        env = {"MLSERVER_MODEL_NAME": intent.service, **env}
    return [{"name": name, "value": value} for name, value in env.items()]


def wished_model_env(before: Intent | None, after: Intent) -> tuple[str, ...]:
    """Variables of `_MODEL_ENV` that a plan would add to a version: a wish that has no effect.

    What an adopted service had already is kept quiet about: nobody asks for it.
    """
    if after.version is None:
        return ()
    ours = {item["name"]: item["value"] for item in _env(after)}
    had = before.env if before else ()
    new = [pair for pair in after.env if pair[0] in _MODEL_ENV and pair not in had]
    return tuple(name for name, value in new if ours.get(name) != value)


def _resources(resources: Resources) -> dict[str, Json]:
    wanted = {
        key: value
        for key, value in (("cpu", resources.cpu), ("memory", resources.memory))
        if value is not None
    }
    return {"requests": dict(wanted), "limits": dict(wanted)} if wanted else {}


_TOLD_APART = "Slipway tells releases apart by it."
_ANOTHER_MODEL = (
    "It says which model the pods load: another one would answer in the version's name."
)

_FIXED = (
    *(
        (path, _TOLD_APART)
        for path in (
            ("apiVersion",),
            ("kind",),
            ("metadata", "name"),
            ("metadata", "namespace"),
            ("metadata", "labels", WORKLOAD_LABEL),
            ("metadata", "annotations", VERSION_ANNOTATION),
            ("metadata", "annotations", DIGEST_ANNOTATION),
            ("metadata", "annotations", MODE_ANNOTATION),
            ("metadata", "annotations", STOP_ANNOTATION),
            ("spec", "predictor", "canaryTrafficPercent"),
        )
    ),
    *(
        (path, _ANOTHER_MODEL)
        for path in (
            ("spec", "canary"),
            ("spec", "predictor", "storageUris"),
            ("spec", "predictor", "model", "storageUri"),
            ("spec", "predictor", "model", "storageUris"),
            ("spec", "predictor", "model", "storage"),
            ("spec", "predictor", "model", "modelFormat"),
        )
    ),
)
"""What a patch leaves as it is, and why: without it a release would be another thing than it says.
"""

MODEL_FOLDER = "/mnt/models"
"""Where the storage initializer puts a model's files, and servers load them from."""


def _patched(made: dict[str, Json], intent: Intent) -> dict[str, Json]:
    merged = _merge(made, _patch_of(intent))
    changed = next(((p, why) for p, why in _FIXED if _at(merged, p) != _at(made, p)), None)
    if changed is not None:
        raise _not_to_patch(".".join(changed[0]), changed[1], intent)
    part = _changed_model(made, merged)
    if part:
        raise _not_to_patch(part, _ANOTHER_MODEL, intent)
    assert isinstance(merged, dict)
    return merged


def _patch_of(intent: Intent) -> dict[str, Json]:
    """What the patch says. NotDeployable when it is no mapping."""
    try:
        extra = yaml.safe_load(intent.patch)
    except yaml.YAMLError as error:
        raise NotDeployable(
            "The patch is no YAML. Nothing was changed.", why=one_line(error)
        ) from error
    if not isinstance(extra, dict):
        raise NotDeployable(
            "The patch is no mapping. Nothing was changed.",
            fix="Write fields as in an InferenceService, for example spec: {predictor: {…}}.",
        )
    return extra


def _not_to_patch(part: str, why: str, intent: Intent) -> NotDeployable:
    another = f" Another model is deployed by its own reference, not as {intent.version}."
    return NotDeployable(
        f"The patch may not set {part}. Nothing was changed.",
        why=why,
        fix=f"Take it out of the patch.{another if why is _ANOTHER_MODEL else ''}",
    )


def _changed_model(made: Json, merged: Json) -> str:
    """The part by which a patch makes the pods load, or answer as, another model; "" for none."""
    before, after = _loading_parts(made), _loading_parts(merged)
    for name in sorted(before.keys() ^ after.keys()):
        return f"the container {name}"
    for name, part in after.items():
        if name == CONTAINER and part.get("image") != before[name].get("image"):
            return f"the image of {name}"
        ours, theirs = _env_of(before[name]), _env_of(part)
        changed = next((env for env in _MODEL_ENV if ours.get(env) != theirs.get(env)), "")
        if changed:
            return f"the environment variable {changed}"
        mounts = part.get("volumeMounts")
        for mount in mounts if isinstance(mounts, list) else ():
            path = mount.get("mountPath") if isinstance(mount, dict) else ""
            if f"{path}/".startswith(f"{MODEL_FOLDER}/"):
                return f"a volume at {MODEL_FOLDER}"
    return ""


def _loading_parts(made: Json) -> dict[str, Json]:
    """The parts of a manifest that decide what is loaded, by name."""
    predictor = _at(made, ("spec", "predictor")) or {}
    model = predictor.get("model")
    parts = {"model": model} if isinstance(model, dict) else {}
    for place in ("containers", "initContainers"):
        listed = predictor.get(place)
        for each in listed if isinstance(listed, list) else ():
            if isinstance(each, dict) and each.get("name") in {CONTAINER, INITIALIZER}:
                parts[str(each["name"])] = each
    return parts


def _env_of(part: Json) -> dict[str, Json]:
    listed = part.get("env")
    return {each["name"]: each for each in listed} if _named(listed) else {}


def _merge(base: Json, extra: Json) -> Json:
    """Mappings merge, lists of named things merge by name, everything else is replaced."""
    if isinstance(base, dict) and isinstance(extra, dict):
        merged = dict(base)
        for key, value in extra.items():
            merged[key] = _merge(base[key], value) if key in base else value
        return merged
    if _named(base) and _named(extra):
        by_name = {item["name"]: item for item in base}
        for item in extra:
            by_name[item["name"]] = _merge(by_name.get(item["name"]), item)
        return list(by_name.values())
    return extra


def _named(value: Json) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, dict) and isinstance(item.get("name"), str) for item in value
    )


def _at(value: Json, path: Sequence[str]) -> Json:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def text_of(made: Mapping[str, Json]) -> str:
    """The manifest as YAML: what is shown, and what `kubectl apply --server-side -f` takes."""
    return yaml.safe_dump(dict(made), sort_keys=False, allow_unicode=True)


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


def mode_of(service: Json, default: Mode = Mode.STANDARD) -> Mode:
    """The deployment mode that the object runs in: its status wins over its annotation."""
    told = (service.get("status") or {}).get("deploymentMode") or _annotations(service).get(
        MODE_ANNOTATION
    )
    return _MODES.get(str(told).lower(), default) if told else default


def mode_value(service: Json) -> str | None:
    """The live text of the mode's annotation; it is written back as it is, never changed."""
    value = _annotations(service).get(MODE_ANNOTATION)
    return None if value is None else str(value)


def parsed_mode(text: str) -> Mode | None:
    """A mode's name in any spelling that KServe has had."""
    return _MODES.get(text.lower())


def workload_of(thing: Json) -> int | None:
    """The release that started this object's or pod's workload; None when it is not ours."""
    text = str(_labels(thing).get(WORKLOAD_LABEL, ""))
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def service_account(service: Json) -> str:
    """The ServiceAccount that its pods are to have; "" for the namespace's default one."""
    return str(_at(service, ("spec", "predictor", "serviceAccountName")) or "")


def is_stopped(service: Json) -> bool:
    """Whether the object is told to have no pods."""
    return str(_annotations(service).get(STOP_ANNOTATION, "")).lower() == "true"


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
    value = _at(service, ("spec", "predictor", "canaryTrafficPercent"))
    return value if isinstance(value, int) else None


def live_intent(service: Json) -> Intent:
    """The intent that the object's spec amounts to: for services that others made."""
    predictor = _at(service, ("spec", "predictor")) or {}
    model = predictor.get("model") or {}
    # Containers beside a model are others: a proxy, say.
    container = {} if model else _server_of(predictor.get("containers") or ())
    holder = container or model
    metadata = service["metadata"]
    if container:
        package = Package(PackageKind.IMAGE, str(container.get("image", "")))
    else:
        package = Package(PackageKind.GCS, str(model.get("storageUri", "")))
    limits = _at(holder, ("resources", "limits")) or _at(holder, ("resources", "requests")) or {}
    env = tuple(
        (str(item.get("name")), str(item.get("value", "")))
        for item in holder.get("env") or ()
        if "valueFrom" not in item
    )
    return Intent(
        service=metadata["name"],
        version=None,
        package=replace(package, digest=str(_annotations(service).get(DIGEST_ANNOTATION, ""))),
        mode=mode_of(service),
        runtime=model.get("runtime"),
        scale=Scale(
            predictor.get("minReplicas"),
            predictor.get("maxReplicas"),
            predictor.get("scaleMetric"),
            predictor.get("scaleTarget"),
        ),
        resources=Resources(_text(limits.get("cpu")), _text(limits.get("memory"))),
        service_account=predictor.get("serviceAccountName"),
        timeout_s=predictor.get("timeout"),
        env=env,
        canary_percent=live_percent(service),
        stopped=is_stopped(service),
    )


def _server_of(containers: Sequence[Json]) -> Json:
    """The model server among a pod's containers: the one that KServe calls so, else the first."""
    named = (container for container in containers if container.get("name") == CONTAINER)
    return next(named, next(iter(containers), {}))


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def foreign_format(service: Json) -> str:
    """The model format of a service when it is none that an intent can say; "" otherwise."""
    predictor = _at(service, ("spec", "predictor")) or {}
    name = str(_at(predictor, ("model", "modelFormat", "name")) or "")
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
    recorded_env = {item["name"]: item["value"] for item in _env(intent)}
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


_MODEL_FIELDS = frozenset({"package", *(f"env {name}" for name in _MODEL_ENV)})
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
    for container in _at(pod, ("spec", "initContainers")) or ():
        if container.get("name") == INITIALIZER and container.get("args"):
            return str(container["args"][0])
    noted = (value for key, value in _annotations(pod).items() if key.endswith(_SOURCE))
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
    written, created = written_at(service), _time(pod["metadata"].get("creationTimestamp"))
    if written is None or created is None or created >= written:
        return True
    # Older than the write: then only one whose template the write left as it was.
    made, asked = (
        _server_of(_at(holder, ("spec", "containers")) or ()) for holder in (pod, template)
    )
    same = all((made.get(key) or None) == (asked.get(key) or None) for key in _TELLING)
    env = made.get("env") or ()
    return same and all(item in env for item in asked.get("env") or ())


def _names_no_other(thing: Json, service: Json) -> bool:
    """Whether no annotation of a template, Revision or pod names another URI than the spec."""
    uri = _at(service, ("spec", "predictor", "model", "storageUri"))
    sources = [value for key, value in _annotations(thing).items() if key.endswith(_SOURCE)]
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
    holder = newest or _at(look.deployment, ("spec", "template"))
    containers = _at(holder, ("spec", "containers")) or ()
    seen = next((str(c.get("image")) for c in containers if c.get("name") == CONTAINER), "")
    if not recorded or not seen or seen == recorded:
        return None
    return Drift("runtime image", one_line(recorded), one_line(seen))


def _image_of(intent: Intent) -> str:
    """The model server's image as the release itself has it; "" when that is not known."""
    if not intent.patch.strip():
        return intent.runtime_image
    try:
        model = _at(_patch_of(intent), ("spec", "predictor", "model"))
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
        spec = _at(entry, ("fieldsV1", "f:spec")) or {}
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
    for condition in _conditions(deployment):
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
        if _labels(pod).get("serving.knative.dev/revision") == name
    )
    ready = _condition(revision, "Ready") if revision else None
    is_ready = bool(ready and ready.get("status") == "True")
    available = sum(1 for pod in mine if pod_ready(pod))
    expected = expected_percent(base.wanted, look.service)
    template = _at(knative, ("spec", "template")) or {}
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
    entries = _at(knative, ("spec", "traffic")) or ()
    latest = next((entry for entry in entries if entry.get("latestRevision")), None)
    asked = 100 if latest is None else int(latest.get("percent") or 0)
    return asked == (100 if percent is None else percent) or len(entries) == 1 == bool(percent)


def _stuck_revision(revision: Json | None) -> Stuck | None:
    ready = _condition(revision, "Ready") if revision else None
    return _said_stuck(ready) if ready and ready.get("status") == "False" else None


def _carries_package(template: Json, service: Json) -> bool:
    """Whether a pod template loads what the object's spec says now.

    The label alone would do for our own patches; an edit by others leaves it.
    """
    predictor = _at(service, ("spec", "predictor")) or {}
    if (predictor.get("model") or {}).get("storageUri"):
        return _names_no_other(template, service)
    image = next((c.get("image") for c in predictor.get("containers") or ()), None)
    images = [c.get("image") for c in _at(template, ("spec", "containers")) or ()]
    return image is None or image in images


def _mine(living: Iterable[Json], workload: int | None) -> tuple[Json, ...]:
    pods = _newest_pods(living)
    if workload is not None:
        return tuple(pod for pod in pods if workload_of(pod) == workload)
    # A service that others made: the newest pod's template is the present one.
    hashes = [_labels(pod).get("pod-template-hash") for pod in pods]
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


# ── Pods ──────────────────────────────────────────────────────────────────────────────────────


def kubelet_asks_the_model(pod: Json, name: str, protocol: Protocol = Protocol.V2) -> bool:
    """Whether the pod's readiness is the model's: it is then what the kubelet last heard of it.

    Knative moves the probe into the environment of its queue-proxy.
    """
    path = ready_path(name, protocol)
    for container in (pod.get("spec") or {}).get("containers") or ():
        if _at(container, ("readinessProbe", "httpGet", "path")) == path:
            return True
        for env in container.get("env") or ():
            if env.get("name") == "SERVING_READINESS_PROBE" and path in str(env.get("value")):
                return True
    return False


def pod_ready(pod: Json) -> bool:
    """Whether Kubernetes sends requests to this pod."""
    condition = _condition(pod, "Ready")
    return bool(condition and condition.get("status") == "True")


NOT_STARTED = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
"""Why a container waits whose image is there and which cannot be started."""


def steps_of(
    facts: Facts, look: Look, *, model_ready: bool | None, pulled_at: datetime | None = None
) -> tuple[Step, ...]:
    """The steps of the wanted release's roll-out with their times, from the newest of its pods.

    Each ends when its evidence says so: the object's write, the pod's conditions, the ends of the
    initializer, the start of the server, the pod's readiness (whose probe asks the model), the
    record of the test. `pulled_at`: when the node had the server's image, by its event; None when
    nobody knows. () where nothing rolls out.
    """
    release = facts.wanted
    if facts.stopped or release is None or release.action is Action.ADOPT:
        return ()
    ends = _Ends([("applied", written_at(look.service))])
    pod = rollout_pod(facts)
    done = facts.asleep or release.outcome in {Outcome.VERIFIED, Outcome.SERVING}
    if pod is not None or not done:  # of pods that are gone nobody knows more than that
        _add_pod_steps(ends, pod or {}, release, model_ready=model_ready, pulled_at=pulled_at)
    steps = ends.steps(release.created_at)
    return (*steps, _test_step(release, steps))


def rollout_pod(facts: Facts) -> Json | None:
    """The newest pod of the wanted release's roll-out; those that came after it are not its."""
    settled = facts.wanted.settled_at if facts.wanted else None
    if settled is None or facts.wanted is None or facts.wanted.outcome is Outcome.FAILED:
        return next(iter(facts.pods), None)
    created = ((pod, _time(pod["metadata"].get("creationTimestamp"))) for pod in facts.pods)
    return next((pod for pod, at in created if at is None or at <= settled), None)


def server_of(pod: Json) -> Json:
    """The status of the pod's model server; empty while there is none."""
    states = _at(pod, ("status", "containerStatuses")) or ()
    return next((state for state in states if state.get("name") == CONTAINER), {})


def pulled_at(events: Iterable[Json]) -> datetime | None:
    """When the node had the server's image for the first time, by the pod's events."""
    times = [
        _time(event.get("firstTimestamp") or event.get("eventTime"))
        for event in events
        if f"{{{CONTAINER}}}" in str(_at(event, ("involvedObject", "fieldPath")))
    ]
    return min((time for time in times if time), default=None)


@dataclass
class _Ends:
    """When each step ended; None while it has not."""

    known: list[tuple[str, datetime | None]]
    untimed: set[str] = field(default_factory=set)
    """Steps that are over, and of which nobody knows how long they took."""

    def add(self, name: str, ended: datetime | None, *, timed: bool = True) -> None:
        self.known.append((name, ended))
        if not timed:
            self.untimed.add(name)

    def steps(self, began: datetime) -> tuple[Step, ...]:
        return _as_steps(self.known, began, self.untimed)


def _add_pod_steps(
    ends: _Ends,
    pod: Json,
    release: Release,
    *,
    model_ready: bool | None,
    pulled_at: datetime | None,
) -> None:
    ends.add("reconciled", _time(_at(pod, ("metadata", "creationTimestamp"))))
    ends.add("scheduled", _passed_at(pod, "PodScheduled"))
    if _at(pod, ("spec", "initContainers")):
        initializers = _at(pod, ("status", "initContainerStatuses")) or ()
        over = _at(next(iter(initializers), {}), ("state", "terminated")) or {}
        ends.add(
            "files downloaded", _time(over.get("finishedAt")) if not over.get("exitCode") else None
        )
    server = server_of(pod)
    started = _first_start(server)
    # Of a server that restarted more than once, the first start is known no more: no time is made
    # up for what came before it.
    first = int(server.get("restartCount") or 0) <= 1
    pulled = pulled_at or started
    if pulled is None and _at(server, ("state", "waiting", "reason")) in NOT_STARTED:
        pulled = ends.known[-1][1]
    ends.add("image pulled", pulled, timed=pulled_at is not None or (first and started is not None))
    ends.add("server up", started, timed=first)
    ready = _passed_at(pod, "Ready") if model_ready else None
    ended = release.settled_at
    proven = kubelet_asks_the_model(pod, release.service, release.intent.package.protocol)
    again = ready is not None and ended is not None and ready > ended
    ends.add("model loaded", ready, timed=proven and not again)


def _test_step(release: Release, steps: Sequence[Step]) -> Step:
    """The test inference: what is recorded of it, once everything before it is over."""
    if any(step.state is not StepState.DONE for step in steps):
        return Step(TEST_STEP, StepState.PENDING)
    ends = [
        step.started_at + timedelta(seconds=step.took_s)
        for step in steps
        if step.started_at is not None and step.took_s is not None
    ]
    since = max(ends, default=release.created_at)
    running = Step(TEST_STEP, StepState.RUNNING, since)
    why = release.cause.why if release.cause else ""
    match release.outcome:
        case Outcome.VERIFIED:
            return judged(running, StepState.DONE, release.settled_at)
        case Outcome.SERVING:
            return judged(running, StepState.SKIPPED, None, why)
        case Outcome.FAILED:
            return judged(running, StepState.FAILED, release.settled_at, why)
        case _:
            return running


def _first_start(container: Json) -> datetime | None:
    """When a container started first; of one that restarts, the earliest start that is known.

    Kubernetes keeps the present instance and the one before.
    """
    known = [
        _time(_at(container, (*state, "startedAt")))
        for state in (("state", "running"), ("state", "terminated"), ("lastState", "terminated"))
    ]
    return min((start for start in known if start), default=None)


def _as_steps(
    ends: Sequence[tuple[str, datetime | None]], began: datetime, untimed: Collection[str] = ()
) -> tuple[Step, ...]:
    steps: list[Step] = []
    since: datetime | None = began
    for name, ended in ends:
        if ended is not None:
            start = since if since is not None and since < ended else ended
            took = max(0.0, (ended - start).total_seconds())
            steps.append(Step(name, StepState.DONE, start, None if name in untimed else took))
            since = ended
        elif since is not None:
            steps.append(Step(name, StepState.RUNNING, since))
            since = None
        else:
            steps.append(Step(name, StepState.PENDING))
    return tuple(steps)


def written_at(service: Json) -> datetime | None:
    """When Slipway wrote the object last, to the second; None when it never did."""
    times = [
        _time(entry.get("time"))
        for entry in service["metadata"].get("managedFields") or ()
        if entry.get("manager") == FIELD_MANAGER
    ]
    return max((time for time in times if time), default=None)


def server_started_at(pod: Json) -> datetime | None:
    """When the model server's present instance started; None while none runs."""
    return _time((_at(server_of(pod), ("state", "running")) or {}).get("startedAt"))


def _passed_at(pod: Json | None, kind: str) -> datetime | None:
    condition = _condition(pod, kind) if pod else None
    if condition and condition.get("status") == "True":
        return _time(condition.get("lastTransitionTime"))
    return None


def _time(text: Json) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text)).astimezone(UTC) if text else None
    except ValueError:
        return None


def time_of(text: Json) -> datetime | None:
    """A Kubernetes timestamp, aware; None when it is absent or no time."""
    return _time(text)


def _conditions(thing: Json) -> Sequence[Json]:
    return _at(thing, ("status", "conditions")) or ()


def _condition(thing: Json, kind: str) -> Json | None:
    return next((c for c in _conditions(thing) if c.get("type") == kind), None)


def _labels(thing: Json) -> Mapping[str, Json]:
    return (thing.get("metadata") or {}).get("labels") or {}


def _annotations(thing: Json) -> Mapping[str, Json]:
    return (thing.get("metadata") or {}).get("annotations") or {}


def environment_runtime(environment: str) -> str:
    """Name of the ServingRuntime that offers an environment's image."""
    tag = environment.rpartition(":")[2]
    return f"slipway-{re.sub(r'[^a-z0-9]+', '-', tag.lower()).strip('-')}"


def environment_manifest(environment: str, namespace: str) -> dict[str, Json]:
    """The ServingRuntime that loads MLflow models with an environment's libraries."""
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ServingRuntime",
        "metadata": {
            "name": environment_runtime(environment),
            "namespace": namespace,
            "labels": {ENVIRONMENT_LABEL: "true"},
            # KServe v0.17 and later set MLServer's own variables by this, before by the name.
            "annotations": {"serving.kserve.io/server-type": "mlserver"},
        },
        "spec": {
            "protocolVersions": ["v2"],
            # Never chosen by itself: other versions have other requirements.
            "supportedModelFormats": [{"name": "mlflow", "autoSelect": False}],
            "containers": [
                {
                    "name": CONTAINER,
                    "image": environment,
                    "imagePullPolicy": "IfNotPresent",
                    "env": [
                        {"name": "MLSERVER_MODEL_NAME", "value": "{{.Name}}"},
                        {"name": "MLSERVER_HTTP_PORT", "value": str(HTTP_PORT)},
                    ],
                    "resources": {
                        "requests": {"cpu": "100m", "memory": "512Mi"},
                        "limits": {"cpu": "1", "memory": "2Gi"},
                    },
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                        "privileged": False,
                        "runAsNonRoot": True,
                    },
                }
            ],
        },
    }


def runtime_of(item: Json) -> Runtime:
    """A ServingRuntime or ClusterServingRuntime, as far as choosing one needs."""
    spec = item.get("spec") or {}
    containers = spec.get("containers") or ()
    server: Json = next((c for c in containers if c.get("name") == CONTAINER), None) or next(
        iter(containers), {}
    )
    requests = (server.get("resources") or {}).get("requests") or {}
    return Runtime(
        name=str(item["metadata"]["name"]),
        image=str(server.get("image", "")),
        formats=tuple(
            Format(
                str(entry.get("name", "")),
                _text(entry.get("version")),
                bool(entry.get("autoSelect")),
                int(entry.get("priority") or 0),
            )
            for entry in spec.get("supportedModelFormats") or ()
        ),
        protocols=tuple(str(protocol) for protocol in spec.get("protocolVersions") or ()),
        disabled=bool(spec.get("disabled")),
        environment=ENVIRONMENT_LABEL in _labels(item),
        requests=Resources(*(_text(requests.get(part)) or None for part in ("cpu", "memory"))),
    )


# ── Names ─────────────────────────────────────────────────────────────────────────────────────


def predictor_name(service: str) -> str:
    """Name of the Deployment, Kubernetes Service or Knative Service that KServe makes for it."""
    return f"{service}-predictor"


def version_of(thing: Json) -> VersionRef | None:
    """The version that our annotation on an object or pod names."""
    model, _, number = str(_annotations(thing).get(VERSION_ANNOTATION, "")).rpartition("/")
    return VersionRef(model, int(number)) if model and number.isdigit() else None


def missing(name: str, where: str) -> NotFound:
    """The error for a service that does not exist."""
    return NotFound(
        f"There is no service {one_line(name)!r} in {where}.",
        fix="List what there is: slipway status.",
    )
