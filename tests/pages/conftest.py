"""The whole dashboard on the ports in memory, run in this process from its real entrypoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from streamlit import config
from streamlit.testing.v1 import AppTest

from dashboard import wiring
from services.domain import TargetKind
from services.errors import NotFound, NotOffered, SlipwayError
from services.ports import Ops, Registry, Store
from services.settings import CONTEXT, LOCAL, Settings, TargetSettings
from tests.memory import Clock, World

if TYPE_CHECKING:
    from services.gke import GkeCluster
    from services.kubeconfig import Context

ROOT = Path(__file__).parent.parent.parent
APP_TIMEOUT_S = 60

# AppTest keeps every widget's format_func in the session state for itself, and local functions do
# not pickle; the real server keeps none there, and runs with this on.
config.set_option("runner.enforceSerializableSessionState", False)

OpenPage = Callable[..., AppTest]


@dataclass
class WorldConnections:
    """connect.Connections over a World; `others` are further targets by name."""

    world: World
    others: dict[str, World] = field(default_factory=dict)
    unnamed: tuple[Context, ...] = ()
    """Contexts of the kubeconfig that no target names."""
    unreachable: SlipwayError | None = None
    """What a knock at the registry's address says."""

    clusters: dict[str, tuple[GkeCluster, ...]] = field(default_factory=dict)
    """Google Cloud project → its clusters."""

    @property
    def settings(self) -> Settings:
        named = [name for name in self.others if not name.startswith(CONTEXT)]
        kinds = {name: TargetSettings(kind=TargetKind.LOCAL) for name in named}
        return Settings(targets=kinds)

    @property
    def registry(self) -> Registry:
        return self.world.registry

    @property
    def store(self) -> Store:
        return self.world.store

    def knock(self) -> None:
        if self.unreachable is not None:
            raise self.unreachable

    def contexts(self) -> tuple[Context, ...]:
        return self.unnamed

    def gke_clusters(self, project: str) -> tuple[GkeCluster, ...]:
        if project not in self.clusters:
            raise NotFound(
                f"Could not list the clusters of {project}.", why="There is no such one."
            )
        return self.clusters[project]

    def ops(self, target: str | None = None, namespace: str | None = None) -> Ops:
        if target in (None, LOCAL):
            return self.world
        if target not in self.others:
            raise NotOffered(f"The target {target} cannot be used yet.")
        return self.others[target]


@pytest.fixture
def world() -> World:
    """A World whose clock stands at the present: pages show ages."""
    return World(clock=Clock(datetime.now(UTC)))


@pytest.fixture
def connections(world: World) -> Iterator[WorldConnections]:
    """The connections that the dashboard is given."""
    given = WorldConnections(world)
    wiring.use(given)
    yield given
    wiring.use(None)


@pytest.fixture
def open_page(connections: WorldConnections) -> OpenPage:
    """Open one page by name with these values in its URL."""

    def opened(page: str = "overview", **params: object) -> AppTest:
        app = AppTest.from_file(str(ROOT / "dashboard" / "app.py"), default_timeout=APP_TIMEOUT_S)
        for name, value in params.items():
            app.query_params[name] = str(value)
        if page != "overview":
            app.switch_page(str(ROOT / "pages" / f"{page}.py"))
        return app.run()

    return opened


def words_of(app: AppTest) -> str:
    """Everything that a page says, as one text."""
    kinds = (
        "title", "header", "subheader", "markdown", "text", "caption", "code", "error", "warning",
        "info", "success",
    )  # fmt: skip
    said = [str(element.value) for kind in kinds for element in getattr(app, kind)]
    said += [str(button.label) for button in app.button]
    said += [str(expander.label) for expander in app.expander]
    return "\n".join(said)


def rows_of(app: AppTest, at: int = 0) -> list[dict[Any, Any]]:
    """The rows of a page's table."""
    return list(app.dataframe[at].value.to_dict("records"))
