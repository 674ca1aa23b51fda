"""Slipway in the cluster, for tests: deploy/ as an overlay, and a registry that pods reach.

The pods run the image that SLIPWAY_TEST_IMAGE names (the node has it). Without one they run this
very checkout and its virtual environment, mounted into the plain Python image of a one-node cluster
on this machine: building the real image takes minutes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.cluster import APPLY_PATCH, Cluster
from services.domain import Json

ROOT = Path(__file__).parents[2]
_PACKAGES = "/venv/site-packages"
"""Streamlit takes a folder without `site-packages` in its name for its own source tree."""
_PLURALS = {
    "ServiceAccount": "serviceaccounts",
    "Role": "roles",
    "RoleBinding": "rolebindings",
    "ClusterRole": "clusterroles",
    "ClusterRoleBinding": "clusterrolebindings",
    "Deployment": "deployments",
    "Service": "services",
    "NetworkPolicy": "networkpolicies",
    "ConfigMap": "configmaps",
    "Secret": "secrets",
    "InferenceService": "inferenceservices",
}


def kubectl() -> str:
    """The command, or a skip: it is what renders Kustomize and runs commands in pods."""
    found = shutil.which("kubectl")
    if found is None:
        pytest.skip("no kubectl on this machine")
    return found


def kustomized(folder: Path) -> list[Json]:
    """The objects that `kubectl apply -k` would send."""
    done = subprocess.run(
        [kubectl(), "kustomize", str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [made for made in yaml.safe_load_all(done.stdout) if made]


def path_of(made: Json) -> str:
    """Where an object lives in the API."""
    group = made["apiVersion"]
    root = f"/api/{group}" if group == "v1" else f"/apis/{group}"
    where = made["metadata"].get("namespace")
    scope = f"/namespaces/{where}" if where else ""
    return f"{root}{scope}/{_PLURALS[made['kind']]}/{made['metadata']['name']}"


def apply(admin: Cluster, objects: Sequence[Json], manager: str = "gitops") -> None:
    """Server-side apply, as `kubectl apply --server-side` does."""
    for made in objects:
        admin.send(
            "PATCH",
            path_of(made),
            doing=f"apply {made['kind']} {made['metadata']['name']}",
            query={"fieldManager": manager, "fieldValidation": "Strict"},
            body=made,
            content_type=APPLY_PATCH,
        )


def remove(admin: Cluster, objects: Sequence[Json]) -> None:
    """Delete what was applied."""
    for made in objects:
        admin.send("DELETE", path_of(made), doing="clean up", accept=(404,))


@contextmanager
def applied(admin: Cluster, objects: Sequence[Json]) -> Iterator[Sequence[Json]]:
    """Objects that are there for a while."""
    try:
        apply(admin, objects)
        yield objects
    finally:
        remove(admin, objects)


@dataclass(frozen=True)
class Installed:
    """A Slipway in the cluster."""

    admin: Cluster
    namespace: str
    suffix: str

    @property
    def dashboard(self) -> str:
        """Name of its Deployment and Service."""
        return f"slipway-{self.suffix}"

    @property
    def account(self) -> str:
        """Its user, as the API server names it."""
        return f"system:serviceaccount:{self.namespace}:slipway-{self.suffix}"

    def slipway(self, *words: str) -> tuple[int, Any]:
        """Run one command in the dashboard's pod: its exit code and its JSON document."""
        done = subprocess.run(
            [
                *(kubectl(), "exec", "-n", self.namespace, f"deployment/{self.dashboard}", "--"),
                *("python3", "-m", "dashboard", *words, "--json"),
            ],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env={**os.environ, "KUBECONFIG": kubeconfig()},
        )
        try:
            return done.returncode, json.loads(done.stdout)
        except json.JSONDecodeError:
            raise AssertionError(f"{done.stdout}\n{done.stderr}") from None

    def lines(self, component: str) -> list[Json]:
        """The JSON lines that pods of a component have written to stdout, pod by pod."""
        base = f"/api/v1/namespaces/{self.namespace}/pods"
        found: list[Json] = []
        selector = f"app.kubernetes.io/component={component}"
        for pod in self.admin.items(base, doing="find pods", selector=selector):
            response = self.admin.raw(
                "GET", f"{base}/{pod['metadata']['name']}/log", doing="read the log"
            )
            text = response.read().decode(errors="replace")
            found += [
                {**json.loads(line), "pod": pod["metadata"]["name"]}
                for line in text.splitlines()
                if line.startswith("{")
            ]
            response.release_conn()
        return found


def kubeconfig() -> str:
    """Path of the kubeconfig that the suite was given."""
    return os.environ.get("KUBECONFIG") or str(Path("~/.kube/config").expanduser())


def overlay(  # noqa: PLR0917 (everything an overlay names)
    folder: Path,
    admin: Cluster,
    namespace: str,
    suffix: str,
    settings: str,
    variables: Mapping[str, str],
    watch: Sequence[str] = (),
    watchers: int = 1,
) -> list[Json]:
    """The objects of deploy/, and with `watch` of deploy/watch, as an operator's overlay has."""
    shutil.copytree(ROOT / "deploy", folder / "deploy")
    mine = folder / "mine"
    mine.mkdir()
    (mine / "slipway.toml").write_text(settings)
    resources = ["../deploy", *(["../deploy/watch"] if watch else [])]
    running = _running(admin, variables)
    patches = [_patch("slipway", [*_served(), *running])]
    if watch:
        arguments = {"op": "replace", "path": "/spec/template/spec/containers/0/args"}
        replicas = {"op": "replace", "path": "/spec/replicas", "value": watchers}
        said = {**arguments, "value": list(watch)}
        patches.append(_patch("slipway-watch", [*running, said, replicas]))
    (mine / "kustomization.yaml").write_text(
        yaml.safe_dump(
            {
                "apiVersion": "kustomize.config.k8s.io/v1beta1",
                "kind": "Kustomization",
                "namespace": namespace,
                "nameSuffix": f"-{suffix}",
                "resources": resources,
                "images": [_image(admin)],
                "configMapGenerator": [
                    {"name": "slipway-settings", "behavior": "replace", "files": ["slipway.toml"]}
                ],
                "patches": patches,
            }
        )
    )
    return kustomized(mine)


def _patch(name: str, operations: Sequence[Json]) -> Json:
    return {
        "target": {"kind": "Deployment", "name": name},
        "patch": yaml.safe_dump(list(operations)),
    }


def _image(admin: Cluster) -> Json:
    given = os.environ.get("SLIPWAY_TEST_IMAGE", "")
    name, _, tag = (given or _python_image(admin)).rpartition(":")
    return {"name": "slipway", "newName": name, "newTag": tag}


def _python_image(admin: Cluster) -> str:
    """The plain image with this interpreter's version on a node that is this machine, or a skip."""
    wanted = f"/python:{sys.version_info.major}.{sys.version_info.minor}-slim"
    nodes = admin.items("/api/v1/nodes", doing="look at the nodes")
    names = [
        str(name)
        for node in nodes
        for image in node["status"].get("images") or ()
        for name in image.get("names") or ()
    ]
    found = next((name for name in names if name.endswith(wanted)), None)
    if found is None or len(nodes) != 1:
        pytest.skip("set SLIPWAY_TEST_IMAGE to an image of Slipway that the cluster can run")
    return found


def _running(admin: Cluster, variables: Mapping[str, str]) -> list[Json]:
    """What makes the pods run this checkout, and tells them of the test's own places."""
    container = "/spec/template/spec/containers/0"
    env = dict(variables)
    made: list[Json] = []
    if not os.environ.get("SLIPWAY_TEST_IMAGE"):
        packages = sysconfig.get_paths()["purelib"]
        for place in (str(ROOT), packages):
            _readable_by_others(Path(place))
        env |= {
            "PYTHONPATH": f"/app:{_PACKAGES}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": "/state",
            "SLIPWAY_STATE_DIR": "/state",
        }
        made.append({"op": "add", "path": f"{container}/workingDir", "value": "/app"})
        for name, source, place in (("app", str(ROOT), "/app"), ("packages", packages, _PACKAGES)):
            volume = {"name": name, "hostPath": {"path": source}}
            mount = {"name": name, "mountPath": place, "readOnly": True}
            made += [
                {"op": "add", "path": "/spec/template/spec/volumes/-", "value": volume},
                {"op": "add", "path": f"{container}/volumeMounts/-", "value": mount},
            ]
    made += [
        {"op": "add", "path": f"{container}/env/-", "value": {"name": name, "value": value}}
        for name, value in env.items()
    ]
    return made


def _served() -> list[Json]:
    """The image's own command, for pods that run the checkout."""
    if os.environ.get("SLIPWAY_TEST_IMAGE"):
        return []
    command = ["python3", "-m", "streamlit", "run", "dashboard/app.py"]
    command += ["--server.address=0.0.0.0", "--server.port=8501"]
    path = "/spec/template/spec/containers/0/command"
    return [{"op": "add", "path": path, "value": command}]


def _readable_by_others(place: Path) -> None:
    closed = [part for part in (place, *place.parents) if part.stat().st_mode & 0o005 != 0o005]
    if closed:
        pytest.skip(f"pods are not root and cannot read {closed[0]}: set SLIPWAY_TEST_IMAGE")
