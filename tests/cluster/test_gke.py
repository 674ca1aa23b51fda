"""Kind gke on a real cluster: a scripted Google in front of its API server, tokens that end."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from services import rollout
from services.cluster import Cluster
from services.domain import Mode, Outcome, Phase
from services.errors import Denied
from services.gke import GkeAccess
from services.journal import ClusterJournal
from services.kserve import KServeServing
from services.kubepaths import Paths
from tests import google as scripted
from tests.cluster.conftest import ClusterOps, Voyage
from tests.cluster.gate import Gate, standing
from tests.google import CLUSTER, LOCATION, PROJECT, Authority, Google

SCRIPT = Path(__file__).parents[2] / "scripts" / "deploy_gke.sh"


@pytest.fixture
def google(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Google]:
    with scripted.listening(tmp_path) as made:
        for name, value in made.environment(made.external_account()).items():
            monkeypatch.setenv(name, value)
        yield made


@pytest.fixture
def gate(google: Google, cluster: Cluster, tmp_path: Path) -> Iterator[Gate]:
    """The cluster's API server as GKE has it: its own CA, and only Google's tokens are taken."""
    authority = Authority(tmp_path, "cluster")
    with ExitStack() as stack:
        made = stack.enter_context(standing(cluster, authority.tls, admits=google.takes))
        google.adds(f"127.0.0.1:{made.port}", authority.pem)
        yield made


@pytest.fixture
def journey(google: Google, gate: Gate, ops: ClusterOps, admin: Cluster) -> Iterator[Voyage]:
    """A service on the target of kind gke."""
    access = GkeAccess(
        target="prod",
        project=PROJECT,
        location=LOCATION,
        cluster=CLUSTER,
        container_api=google.url,
    )
    through = Cluster(target="prod", access=access)
    journal = ClusterJournal(through, ops.namespace)
    serving = KServeServing(through, ops.namespace, journal)
    mine = replace(ops, serving=serving, journal=journal, server=through.host)
    made = Voyage(mine, f"wine-{secrets.token_hex(2)}", Mode.STANDARD)
    yield made
    admin.send(
        "DELETE", Paths(ops.namespace).service(made.service), doing="clean up", accept=(404,)
    )


def test_a_roll_out_whose_token_is_revoked_in_the_middle_is_finished(
    journey: Voyage, gate: Gate, google: Google
) -> None:
    gate.after("PATCH", rf"/inferenceservices/{journey.service}\?(?!.*dryRun)", google.revoke)
    assert journey.deploy(1).outcome is Outcome.VERIFIED
    assert len(google.exchanges) >= 2
    assert journey.settled_answer(1) == 1
    assert len(gate.writes(f"/inferenceservices/{journey.service}")) == 1

    # A login that ends is told, nothing is written with it, and who logs in again goes on.
    google.revoke()
    google.token_answer = (400, {"error": "invalid_grant", "error_description": "It ended."})
    gate.seen.clear()
    with pytest.raises(Denied, match="application-default login"):
        journey.deploy(2)
    assert gate.seen == []
    google.token_answer = None
    journey.ops.serving._cluster._renewed_at -= 60  # type: ignore[attr-defined]  # the real one
    assert rollout.settle(journey.ops, journey.service).phase is Phase.READY


def test_the_one_file_way_deploys_with_tokens_that_end_during_the_roll_out(  # noqa: PLR0917 (fixtures by name)
    google: Google,
    gate: Gate,
    admin: Cluster,
    namespace: str,
    bucket: str,
    emulator: str,
    trained: dict[int, Path],
    tmp_path: Path,
) -> None:
    google.life_s = 3
    # On a machine that starts a server within seconds, slow answers make the roll-out long.
    gate.after("GET", "/inferenceservices/red-wine", lambda: time.sleep(2), times=6)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    register(uri, trained[1])
    environment = {
        **os.environ,
        "GKE_PROJECT": PROJECT,
        "GKE_LOCATION": LOCATION,
        "GKE_CLUSTER": CLUSTER,
        "GCS_BUCKET": bucket,
        "NAMESPACE": namespace,
        "MLFLOW_TRACKING_URI": uri,
        "SLIPWAY_STATE_DIR": str(tmp_path / "state"),
        "SLIPWAY_REGISTRY__ALLOWED_SOURCES": str(trained[1].parent),
        **({"STORAGE_EMULATOR_HOST": emulator} if emulator else {}),
    }
    # Only Google's credentials are there, as in a pipeline.
    for name in ("KUBECONFIG", "SLIPWAY_TEST_CONTEXT"):
        environment.pop(name, None)
    ran = subprocess.run(
        [str(SCRIPT), "Red_Wine", "1", "--json", "--mode", "Standard"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    path = f"/apis/serving.kserve.io/v1beta1/namespaces/{namespace}/inferenceservices/red-wine"
    admin.send("DELETE", path, doing="clean up", accept=(404,))
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)
    assert (said["service"], said["outcome"], said["version"]) == ("red-wine", "verified", 1)
    assert len(google.exchanges) >= 3
    assert said["took_s"] > 3 * google.life_s


def register(uri: str, folder: Path) -> None:
    """A registry on SQLite that has the folder as Red_Wine/1."""
    from mlflow import MlflowClient

    client = MlflowClient(uri, uri)
    client.create_registered_model("Red_Wine")
    client.create_model_version("Red_Wine", str(folder))
