"""Names that a cluster chokes on are refused before anything is written, and no others."""

from __future__ import annotations

import pytest

from services import kubeobject, manifests
from services.cluster import APPLY_PATCH, Cluster, path_part
from services.domain import (
    MAX_SERVICE_NAME,
    Intent,
    Mode,
    Package,
    PackageKind,
    VersionRef,
    service_name_problem,
)

NAMES = [
    "wine",
    "w",
    "a" * MAX_SERVICE_NAME,
    "wine-2",
    "wine2",
    "2wine",
    "-wine",
    "wine-",
    "Wine",
    "wine.quality",
    "wine_quality",
    "wine\n",
    "wïne",
    "wine quality",
    "a" * 254,
]


@pytest.mark.parametrize("name", NAMES)
def test_a_names_verdict_is_the_clusters(cluster: Cluster, namespace: str, name: str) -> None:
    package = Package(PackageKind.GCS, "gs://models/wine/1")
    intent = Intent(name, VersionRef("wine", 1), package, Mode.STANDARD)
    made = manifests.manifest(intent, namespace=namespace, workload=1, mode_value="Standard")
    path = f"/apis/{kubeobject.API_VERSION}/namespaces/{namespace}/inferenceservices"
    reply = cluster.send(
        "PATCH",
        f"{path}/{path_part(name)}",
        doing="rehearse",
        query={"fieldManager": "slipway", "dryRun": "All", "fieldValidation": "Strict"},
        body=made,
        content_type=APPLY_PATCH,
        accept=(400, 403, 404, 422, 500),
    )
    assert bool(service_name_problem(name)) is not reply.ok, reply.message
