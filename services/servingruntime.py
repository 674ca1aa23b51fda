"""ServingRuntimes: what choosing one needs, and the one with a version's own libraries. Pure."""

from __future__ import annotations

import re

from services.checks import Format, Runtime
from services.domain import Json, Resources
from services.kubeobject import CONTAINER, DOMAIN, HTTP_PORT, labels_of, text_or_none

ENVIRONMENT_LABEL = f"{DOMAIN}/environment"
"""On ServingRuntimes that Slipway made for one set of requirements."""


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
                text_or_none(entry.get("version")),
                bool(entry.get("autoSelect")),
                int(entry.get("priority") or 0),
            )
            for entry in spec.get("supportedModelFormats") or ()
        ),
        protocols=tuple(str(protocol) for protocol in spec.get("protocolVersions") or ()),
        disabled=bool(spec.get("disabled")),
        environment=ENVIRONMENT_LABEL in labels_of(item),
        requests=Resources(
            *(text_or_none(requests.get(part)) or None for part in ("cpu", "memory"))
        ),
    )
