"""The command line on ports in memory: `cli(...)` runs a command as a pipeline would."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import pytest

from dashboard.cli import main
from services.domain import TargetKind
from services.errors import NotFound
from services.gke import GkeCluster
from services.kubeconfig import Context
from services.ports import Ops, Registry, Store
from services.settings import Settings
from tests.memory import World


@dataclass(frozen=True)
class Ran:
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Stdout as the one JSON document; anything else there is an error."""
        return json.loads(self.out)


@dataclass
class Worlds:
    """The seam: what connect.Connections is for the real command."""

    settings: Settings
    by_name: Mapping[str, World]
    clusters: Mapping[str, tuple[GkeCluster, ...]] = field(default_factory=dict)
    """Google Cloud project → its clusters."""

    @property
    def registry(self) -> Registry:
        return list(self.by_name.values())[-1].registry

    @property
    def store(self) -> Store:
        return self.by_name["local"].store

    def contexts(self) -> tuple[Context, ...]:
        return ()

    def gke_clusters(self, project: str) -> tuple[GkeCluster, ...]:
        if project not in self.clusters:
            raise NotFound(f"Could not list the clusters of {project}.")
        return self.clusters[project]

    def ops(self, target: str | None = None, namespace: str | None = None) -> Ops:
        name, _ = self.settings.target(target)
        if name not in self.by_name:
            raise NotFound(f"There is no target {name!r}.")
        return self.by_name[name]


class FakeTerminal(io.StringIO):
    """Somebody who sits at a terminal and types the given text."""

    def isatty(self) -> bool:
        return True


Cli = Callable[..., Ran]


@pytest.fixture
def clusters() -> dict[str, tuple[GkeCluster, ...]]:
    """Google Cloud project → its clusters; a test may add some."""
    return {}


@pytest.fixture
def worlds(world: World) -> dict[str, World]:
    """Target → its world; a test may add more."""
    return {"local": world}


@pytest.fixture
def cli(
    worlds: dict[str, World],
    clusters: dict[str, tuple[GkeCluster, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Cli:
    """Run one command: exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(
        *argv: str,
        environ: Mapping[str, str] | None = None,
        stdin: TextIO | None = None,
    ) -> Ran:
        capsys.readouterr()
        if isinstance(stdin, FakeTerminal):
            monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        code = main(
            argv,
            connect=lambda settings: Worlds(settings, worlds, clusters),
            environ={"SLIPWAY_STATE_DIR": str(tmp_path / "state"), **(environ or {})},
            stdin=stdin or io.StringIO(),
        )
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


MINI_TOML = """
default_target = "mini"
[targets.mini]
kind = "kubernetes"
context = "minikube"
namespace = "models"
"""


@pytest.fixture
def mini(worlds: dict[str, World], tmp_path: Path) -> World:
    """A cluster in Standard mode, the default target; its registry has wine/1 and wine/2."""
    (tmp_path / "slipway.toml").write_text(MINI_TOML, encoding="utf-8")
    worlds["mini"] = World(target="mini", kind=TargetKind.KUBERNETES, namespace="models")
    worlds["mini"].registry.add("wine", 1)
    worlds["mini"].registry.add("wine", 2)
    return worlds["mini"]
