"""deploy/ as it is shipped: what no cluster test would notice before it hurts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from services import settings
from tests.cluster.inside import kustomized

ROOT = Path(__file__).parents[2]
PODS = [ROOT / "deploy" / "dashboard.yaml", ROOT / "deploy" / "watch" / "watch.yaml"]


def pod_of(path: Path) -> Any:
    objects = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    return next(o for o in objects if o["kind"] == "Deployment")["spec"]["template"]["spec"]


@pytest.mark.parametrize("path", PODS, ids=lambda path: path.name)
def test_pods_are_not_root_and_write_only_to_their_volumes(path: Path) -> None:
    pod = pod_of(path)
    [container] = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("path", PODS, ids=lambda path: path.name)
def test_variables_of_kubernetes_are_not_taken_for_settings(path: Path) -> None:
    assert pod_of(path)["enableServiceLinks"] is False


@pytest.mark.parametrize("folder", ["deploy", "examples/in-cluster", "examples/github-actions"])
def test_the_settings_that_are_shipped_are_settings(folder: str) -> None:
    found = settings.load(ROOT / folder / "slipway.toml", {})
    assert found.default_target in found.targets


def test_the_example_overlay_gives_everything_its_namespace_and_image() -> None:
    objects = kustomized(ROOT / "examples" / "in-cluster")
    whole = {"ClusterRole", "ClusterRoleBinding"}
    assert {made["metadata"].get("namespace") for made in objects if made["kind"] not in whole} == {
        "models"
    }
    [subject] = next(m for m in objects if m["kind"] == "ClusterRoleBinding")["subjects"]
    assert subject["namespace"] == "models"
    images = {
        container["image"]
        for made in objects
        if made["kind"] == "Deployment"
        for container in made["spec"]["template"]["spec"]["containers"]
    }
    assert images == {"asia-northeast1-docker.pkg.dev/acme-ml/tools/slipway:0.1.0"}
