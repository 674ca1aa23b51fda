"""What an InferenceService is told to be: an intent becomes the object that is applied. Pure.

Written for KServe v0.15 to v0.20. Called by kserve.
"""

from __future__ import annotations

from collections.abc import Mapping

import yaml

from services.domain import Intent, Json, Mode, PackageKind, Protocol, Resources
from services.errors import NotDeployable, NotOffered, one_line
from services.kubeobject import (
    API_VERSION,
    CONTAINER,
    DIGEST_ANNOTATION,
    HTTP_PORT,
    INITIALIZER,
    KIND,
    MODE_ANNOTATION,
    STOP_ANNOTATION,
    VERSION_ANNOTATION,
    WORKLOAD_LABEL,
    annotations_of,
    value_at,
    workload_of,
)

TAG_ROUTING_ANNOTATION = "serving.kserve.io/enable-tag-routing"
"""Gives the newest revision an address of its own beside that of the one before it."""

DRAIN_S = 5
"""Between a pod's leaving and its server's end; ingresses follow endpoints within a second or
two."""


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
    it). `hold_traffic` keeps all traffic on the revision that had it: `kserve` knows when.
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
    said = None if live is None else annotations_of(live).get(TAG_ROUTING_ANNOTATION)
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
        "env": written_env(intent),
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
            *written_env(intent),
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


MODEL_ENV = (
    "MLSERVER_MODEL_NAME",
    "MLSERVER_MODEL_VERSION",
    "MLSERVER_MODEL_URI",
    # KServe v0.20.0: turns the storage initializer on, for any container.
    "STORAGE_URI",
)
"""Variables that say which model a server loads, and as what it answers."""


def written_env(intent: Intent) -> list[dict[str, str]]:
    """Environment variables of the model's container, in the order in which they are written."""
    env = dict(intent.env)
    if intent.version is not None:
        # What an adopted service says there would make a version answer as another, or be another.
        ours = "MLSERVER_MODEL_VERSION"
        env = {n: value for n, value in env.items() if n not in MODEL_ENV or n == ours}
        # MLServer 1.7.1 names the answering version in every V2 answer only when it is told it.
        # Where it stood it stays: another order alone would make other pods.
        env[ours] = str(intent.version.number)
    if intent.package.kind is PackageKind.IMAGE:
        # Of files, KServe and the runtime tell the server.
        env = {"MLSERVER_MODEL_NAME": intent.service, **env}
    return [{"name": name, "value": value} for name, value in env.items()]


def wished_model_env(before: Intent | None, after: Intent) -> tuple[str, ...]:
    """Variables of `MODEL_ENV` that a plan would add to a version: a wish that has no effect.

    What an adopted service had already is kept quiet about: nobody asks for it.
    """
    if after.version is None:
        return ()
    ours = {item["name"]: item["value"] for item in written_env(after)}
    had = before.env if before else ()
    new = [pair for pair in after.env if pair[0] in MODEL_ENV and pair not in had]
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
    merged = _merge(made, patch_of(intent))
    changed = next(
        ((p, why) for p, why in _FIXED if value_at(merged, p) != value_at(made, p)), None
    )
    if changed is not None:
        raise _not_to_patch(".".join(changed[0]), changed[1], intent)
    part = _changed_model(made, merged)
    if part:
        raise _not_to_patch(part, _ANOTHER_MODEL, intent)
    assert isinstance(merged, dict)
    return merged


def patch_of(intent: Intent) -> dict[str, Json]:
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
        ours, theirs = _env_by_name(before[name]), _env_by_name(part)
        changed = next((env for env in MODEL_ENV if ours.get(env) != theirs.get(env)), "")
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
    predictor = value_at(made, ("spec", "predictor")) or {}
    model = predictor.get("model")
    parts = {"model": model} if isinstance(model, dict) else {}
    for place in ("containers", "initContainers"):
        listed = predictor.get(place)
        for each in listed if isinstance(listed, list) else ():
            if isinstance(each, dict) and each.get("name") in {CONTAINER, INITIALIZER}:
                parts[str(each["name"])] = each
    return parts


def _env_by_name(part: Json) -> dict[str, Json]:
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


def text_of(made: Mapping[str, Json]) -> str:
    """The manifest as YAML: what is shown, and what `kubectl apply --server-side -f` takes."""
    return yaml.safe_dump(dict(made), sort_keys=False, allow_unicode=True)
