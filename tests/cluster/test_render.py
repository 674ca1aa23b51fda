"""What `slipway render` writes, applied by another tool: Kustomize, then server-side apply."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from services.cluster import Cluster
from tests import waiting
from tests.browser.conftest import ROOT, settings_free
from tests.cluster.account import CONTEXT, Account
from tests.cluster.inside import apply, kustomized, path_of, remove

ARGO = "argocd-controller"


@pytest.fixture
def environment(  # noqa: PLR0917 (fixtures by name)
    account: Account,
    namespace: str,
    bucket: str,
    emulator: str,
    registry_server: str,
    tmp_path: Path,
) -> dict[str, str]:
    """Settings of a target on the test's namespace, as variables."""
    return {
        **settings_free(),
        "KUBECONFIG": str(account.kubeconfig),
        **({"STORAGE_EMULATOR_HOST": emulator} if emulator else {}),
        "SLIPWAY_STATE_DIR": str(tmp_path / "state"),
        "SLIPWAY_DEFAULT_TARGET": "test",
        "SLIPWAY_REGISTRY__TRACKING_URI": registry_server,
        "SLIPWAY_REGISTRY__TIMEOUT_S": "30",
        "SLIPWAY_TARGETS__TEST__KIND": "kubernetes",
        "SLIPWAY_TARGETS__TEST__CONTEXT": CONTEXT,
        "SLIPWAY_TARGETS__TEST__NAMESPACE": namespace,
        "SLIPWAY_TARGETS__TEST__BUCKET": bucket,
    }


def slipway(environment: dict[str, str], *words: str) -> tuple[int, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "dashboard", *words, "--json"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return done.returncode, json.loads(done.stdout)


def test_a_base_that_another_tool_applies_serves_and_is_rendered_again(
    admin: Cluster, environment: dict[str, str], tmp_path: Path
) -> None:
    name, base = f"wine-{secrets.token_hex(2)}", tmp_path / "base"
    assert slipway(environment, "publish", "wine/1")[0] == 0
    words = ("--name", name, "--kustomize", str(base))
    assert slipway(environment, "render", "wine/1", *words)[0] == 0
    objects = kustomized(base)
    try:
        apply(admin, objects, ARGO)
        _await_ready(admin, objects[0])
        _, told = slipway(environment, "predict", name, "--input", _rows(tmp_path))
        assert told["outputs"][0]["values"] == [1]

        code, refused = slipway(environment, "deploy", "wine/2", "--name", name, "--yes")
        assert (code, "belongs to Argo CD" in refused["error"]["what"]) == (7, True)

        assert slipway(environment, "render", "wine/1", *words)[0] == 0
        assert kustomized(base) == objects
    finally:
        remove(admin, objects)


def _rows(folder: Path) -> str:
    """The example's row, as a file: a service of others has no example on record."""
    rows = folder / "rows.json"
    columns = ("alcohol", "malic_acid", "ash", "alcalinity_of_ash")
    rows.write_text(json.dumps([dict(zip(columns, (13.0, 1.7, 2.4, 15.6), strict=True))]))
    return str(rows)


def _await_ready(admin: Cluster, made: Any) -> None:
    def ready() -> bool:
        found = admin.get(path_of(made), doing="wait") or {}
        conditions = (found.get("status") or {}).get("conditions") or ()
        return any((c["type"], c["status"]) == ("Ready", "True") for c in conditions)

    assert waiting.seen(ready, within_s=180), f"{made['metadata']['name']} did not become ready"
