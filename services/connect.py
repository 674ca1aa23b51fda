"""Settings and a target's name → Ops. The only module that knows which adapter serves which kind.

Adapters are imported when their part is first used: `--help` and a page's first paint must not pay
for mlflow (4 to 6 s), kubernetes, google.cloud or sqlalchemy.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from services.domain import TargetKind
from services.errors import NotOffered
from services.ports import Journal, LoadEngine, Ops, Packager, Predictor, Registry, Serving, Store
from services.settings import Settings, TargetSettings


@dataclass(frozen=True)
class _Shared:
    """What all targets of one configuration share."""

    settings: Settings

    @cached_property
    def registry(self) -> Registry:
        from services.registry import MlflowRegistry

        found = self.settings.registry
        if self.settings.embedded:
            self.settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        return MlflowRegistry(
            self.settings.tracking_uri,
            timeout_s=found.timeout_s,
            allowed_roots=(*found.allowed_sources, str(self.settings.artifact_root)),
        )

    @cached_property
    def predictor(self) -> Predictor:
        from services.predictor import HttpPredictor

        return HttpPredictor()

    @cached_property
    def engine(self) -> LoadEngine:
        from services.engine import ProcessEngine

        return ProcessEngine()

    @cached_property
    def store(self) -> Store:
        from services.store import SqlStore

        return SqlStore(self.settings.store_url)


@dataclass(frozen=True)
class _LocalOps:
    """This machine: MLServer processes behind a gateway per service."""

    shared: _Shared
    target: str
    protected: bool
    kind: TargetKind = TargetKind.LOCAL
    namespace: str = ""

    @property
    def server(self) -> str:
        return platform.node() or "this machine"

    @property
    def _root(self) -> Path:
        # Targets of kind local are apart from each other, as namespaces are on a cluster.
        return self.shared.settings.state / self.target

    @property
    def registry(self) -> Registry:
        return self.shared.registry

    @property
    def predictor(self) -> Predictor:
        return self.shared.predictor

    @property
    def engine(self) -> LoadEngine:
        return self.shared.engine

    @property
    def store(self) -> Store:
        return self.shared.store

    @cached_property
    def packager(self) -> Packager:
        from services.local.packager import FolderPackager

        return FolderPackager(self._root / "packages", self.registry)

    @cached_property
    def serving(self) -> Serving:
        from services.local.serving import LocalServing

        return LocalServing(self._root, self.target)

    @cached_property
    def journal(self) -> Journal:
        from services.local.journal import LocalJournal

        return LocalJournal(self._root)


class Connections:
    """The targets of one configuration; parts are shared between calls."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._shared = _Shared(settings)
        self._ops: dict[tuple[str, str], Ops] = {}

    @property
    def registry(self) -> Registry:
        """The registry: no target is needed to browse it."""
        return self._shared.registry

    @property
    def store(self) -> Store:
        """The audit log and load-test runs of all targets."""
        return self._shared.store

    def ops(self, target: str | None = None, namespace: str | None = None) -> Ops:
        """Everything for one target, the default one when none is named. NotFound, NotOffered."""
        name, chosen = self.settings.target(target)
        where = namespace or chosen.namespace
        key = (name, where)
        if key not in self._ops:
            self._ops[key] = self._connect(name, chosen)
        return self._ops[key]

    def _connect(self, name: str, chosen: TargetSettings) -> Ops:
        if chosen.kind is TargetKind.LOCAL:
            return _LocalOps(self._shared, name, chosen.protected)
        raise NotOffered(
            f"The target {name} cannot be used yet.",
            why=f"This version of Slipway does not reach targets of kind {chosen.kind}.",
            fix="Use `--target local`.",
        )
