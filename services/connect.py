"""Settings and a target's name → Ops. The only module that knows which adapter serves which kind.

Adapters are imported when their part is first used: `--help` and a page's first paint must not pay
for mlflow (4 to 6 s), kubernetes, google.cloud or sqlalchemy.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from services.domain import Finding, PackageKind, TargetKind
from services.errors import ConfigError, NotOffered
from services.ports import Journal, LoadEngine, Ops, Packager, Predictor, Registry, Serving, Store
from services.settings import CONTEXT, Settings, TargetSettings

if TYPE_CHECKING:
    from services.cluster import Cluster
    from services.facilities import Facilities
    from services.gcloud import CloudPlace
    from services.gke import GkeAccess, GkeCluster
    from services.images import Builder, ImageOptions
    from services.journal import ClusterJournal
    from services.kubeconfig import Context
    from services.watched import Direct, Watched


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
    def store(self) -> Store:
        from services.store import SqlStore

        return SqlStore(self.settings.store_url)


@dataclass(frozen=True)
class _Parts:
    """What every target has, whatever its kind."""

    shared: _Shared
    target: str
    chosen: TargetSettings

    @property
    def kind(self) -> TargetKind:
        return self.chosen.kind

    @property
    def protected(self) -> bool:
        return self.chosen.protected

    @property
    def registry(self) -> Registry:
        return self.shared.registry

    @property
    def store(self) -> Store:
        return self.shared.store

    @property
    def _named_hosts(self) -> tuple[str, ...]:
        """Hosts that the operator's own settings name: an ingress may be on this machine."""
        host = urlsplit(self.chosen.ingress).hostname
        return (host,) if host else ()

    @cached_property
    def predictor(self) -> Predictor:
        from services.predictor import HttpPredictor

        return HttpPredictor(allow_hosts=self._named_hosts)

    @cached_property
    def engine(self) -> LoadEngine:
        from services.engine.run import ProcessEngine

        return ProcessEngine(allow_hosts=self._named_hosts)


@dataclass(frozen=True)
class _LocalOps(_Parts):
    """This machine: MLServer processes behind a gateway per service."""

    namespace: str = ""

    @property
    def server(self) -> str:
        return platform.node() or "this machine"

    def following(self, _service: str) -> AbstractContextManager[None]:
        return nullcontext()

    @property
    def _root(self) -> Path:
        # Targets of kind local are apart from each other, as namespaces are on a cluster.
        return self.shared.settings.state / self.target

    @cached_property
    def packager(self) -> Packager:
        from services.local.packager import FolderPackager

        return FolderPackager(self._root / "packages", self.registry)

    def packaging(
        self, kind: PackageKind | None = None, *, own_environment: bool = False
    ) -> Packager:
        if kind not in {None, PackageKind.FOLDER} or own_environment:
            raise NotOffered(
                f"The target {self.target} loads folders of this machine and nothing else.",
                fix="Leave `--package` and `--environment` out, or choose a cluster.",
            )
        return self.packager

    @cached_property
    def serving(self) -> Serving:
        from services.local.serving import LocalServing

        return LocalServing(self._root, self.target)

    @cached_property
    def journal(self) -> Journal:
        from services.local.journal import LocalJournal

        return LocalJournal(self._root)


@dataclass(frozen=True)
class _ClusterOps(_Parts):
    """One namespace of a Kubernetes cluster with KServe."""

    namespace: str = "default"
    watching: bool = False

    @property
    def server(self) -> str:
        return self._cluster.host

    @cached_property
    def _cluster(self) -> Cluster:
        from services.cluster import Cluster

        return Cluster(
            target=self.target,
            context=self.chosen.context,
            kubeconfig=Path(self.chosen.kubeconfig) if self.chosen.kubeconfig else None,
            access=self._gke,
        )

    @property
    def _cloud(self) -> CloudPlace | None:
        from services.gcloud import CloudPlace

        chosen = self.chosen
        if self.kind is not TargetKind.GKE:
            return None
        return CloudPlace(chosen.project, chosen.location, chosen.cluster, chosen.bucket)

    @cached_property
    def _gke(self) -> GkeAccess | None:
        if self.kind is not TargetKind.GKE:
            return None
        from services.gke import GkeAccess

        return GkeAccess(
            target=self.target,
            project=self.chosen.project,
            location=self.chosen.location,
            cluster=self.chosen.cluster,
            container_api=self.shared.settings.google.container_api,
        )

    @property
    def packager(self) -> Packager:
        return self.packaging()

    def packaging(
        self, kind: PackageKind | None = None, *, own_environment: bool = False
    ) -> Packager:
        usual = PackageKind.GCS if self.chosen.bucket or own_environment else PackageKind.IMAGE
        kind = kind or self.chosen.package or usual
        if kind is PackageKind.FOLDER:
            raise NotOffered(
                f"The target {self.target} cannot load a folder of this machine.",
                fix="Use `--package gcs` or `--package image`.",
            )
        if kind is PackageKind.IMAGE:
            return self._images
        return self._own_environments if own_environment else self._bucket

    @property
    def _work(self) -> Path:
        # A context's name may hold anything; what is kept here is a working copy.
        return self.shared.settings.state / re.sub(r"[^\w.-]+", "-", self.target)

    @cached_property
    def _bucket(self) -> Packager:
        from services.gcs import GcsPackager

        if not self.chosen.bucket:
            raise ConfigError(
                f"The target {self.target} has no place for packages.",
                why="Pods load a version from a bucket, and none is set.",
                fix=f'Set bucket = "gs://BUCKET/ROOT" for {self.target} in slipway.toml, or deploy'
                " with `--package image`.",
            )
        return GcsPackager(self.chosen.bucket, self.registry, self._work / "staging")

    @cached_property
    def _images(self) -> Packager:
        from services.images import ImagePackager

        return ImagePackager(
            self.registry,
            self._work / "images",
            self._builder,
            self._image_options,
            on_nodes=self._facilities.node_images,
        )

    @cached_property
    def _own_environments(self) -> Packager:
        from services.images import EnvironmentPackager

        return EnvironmentPackager(
            self._bucket,
            self.registry,
            self._work / "images",
            self._builder,
            self._image_options,
            runtimes=self._facilities,
            on_nodes=self._facilities.node_images,
        )

    @property
    def _image_options(self) -> ImageOptions:
        from services.images import ImageOptions, Server, prefix

        found = self.chosen.image
        return ImageOptions(
            base=found.base,
            server=Server(found.server),
            prefix=prefix(
                flavour=self._flavour, builder=found.builder, repository=found.repository
            ),
        )

    def _builder(self) -> Builder:
        from services.images import chosen

        found = self.chosen.image
        return chosen(
            target=self.target,
            context=self.chosen.context,
            flavour=self._flavour,
            builder=found.builder,
            repository=found.repository,
            load_command=found.load_command,
        )

    @cached_property
    def _flavour(self) -> str:
        """minikube, kind, gke or "", as the kubeconfig tells."""
        if self.kind is TargetKind.GKE:
            return "gke"
        return self._contexts.get(self.chosen.context, "")

    @property
    def _contexts(self) -> Mapping[str, str]:
        """Context → flavour, as the kubeconfig has them now; empty without one."""
        from services.kubeconfig import contexts

        kubeconfig = Path(self.chosen.kubeconfig) if self.chosen.kubeconfig else None
        return {context.name: context.flavour for context in contexts(kubeconfig)}

    @cached_property
    def _facilities(self) -> Facilities:
        from services.facilities import Facilities

        return Facilities(self._cluster, self.namespace)

    @cached_property
    def journal(self) -> ClusterJournal:
        from services.journal import ClusterJournal

        return ClusterJournal(self._cluster, self.namespace, reads=self._reads)

    @cached_property
    def serving(self) -> Serving:
        from services.kserve import KServeOptions, KServeServing

        options = KServeOptions(
            mode=self.chosen.mode,
            runtime=self.chosen.runtime or None,
            service_account=self.chosen.service_account or None,
            ingress=self.chosen.ingress,
            cloud=self._cloud,
        )
        return KServeServing(
            self._cluster,
            self.namespace,
            self.journal,
            options,
            reads=self._reads,
            ground=self._ground,
        )

    def _ground(self) -> Iterator[Finding]:
        from services.groundwork import findings, flavour_of

        if self.kind is TargetKind.GKE:
            return
        context = self.chosen.context
        flavour = flavour_of(context, self._flavour)
        yield from findings(context, flavour, known=context in self._contexts)

    def following(self, service: str) -> AbstractContextManager[None]:
        from services.kserve import collections

        return self._reads.following(collections(self.namespace, service))

    @cached_property
    def _reads(self) -> Watched | Direct:
        from services.kserve import collections
        from services.watched import Direct, Watched

        if self.watching:
            return Watched(self._cluster, collections(self.namespace))
        return Direct(self._cluster)


class Connections:
    """The targets of one configuration; parts are shared between calls."""

    def __init__(self, settings: Settings, *, watching: bool = False) -> None:
        """`watching`: for a process that stays up; its reads of clusters come from watches."""
        self.settings = settings
        self._watching = watching
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
        """Everything for one target, the default one when none is named. NotFound."""
        name, chosen = self.settings.target(target)
        where = namespace or self._namespace(name) or chosen.namespace
        key = (name, where)
        if key not in self._ops:
            self._ops[key] = self._connect(name, where, chosen)
        return self._ops[key]

    def _namespace(self, target: str) -> str:
        """The namespace that a context names, where it is taken as it is; else ""."""
        if not target.startswith(CONTEXT):
            return ""
        from services.kubeconfig import contexts

        wanted = target.removeprefix(CONTEXT)
        return next((found.namespace for found in contexts() if found.name == wanted), "")

    def contexts(self) -> tuple[Context, ...]:
        """Contexts of the kubeconfig that no target names; asks no server."""
        from services.kubeconfig import contexts

        named = {found.context for found in self.settings.all_targets.values()}
        return tuple(found for found in contexts() if found.name not in named)

    def gke_clusters(self, project: str) -> tuple[GkeCluster, ...]:
        """Every cluster of a Google Cloud project. Denied, NotFound, Unreachable."""
        from services.gke import ContainerApi

        return ContainerApi(self.settings.google.container_api).clusters(project)

    def knock(self) -> None:
        """See whether anything answers at the registry's address, within a second. Unreachable."""
        from services.registry.knock import knock

        knock(self.settings.tracking_uri)

    def _connect(self, name: str, namespace: str, chosen: TargetSettings) -> Ops:
        if chosen.kind is TargetKind.LOCAL:
            return _LocalOps(self._shared, name, chosen)
        return _ClusterOps(self._shared, name, chosen, namespace, self._watching)
