"""All that Slipway asks of the outside world, as Protocols: adapters implement, tests twin them.

Every method may raise Unreachable (no answer within its bound) and Denied; what else it may raise
stands in its docstring. Nothing here blocks without a bound.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from services.domain import (
    AliasRef,
    Applied,
    AuditEntry,
    Cause,
    Endpoint,
    Finding,
    InferRequest,
    Intent,
    Load,
    LoadSummary,
    LogLine,
    ModelVersion,
    Objective,
    Observed,
    Outcome,
    Package,
    PackageKind,
    Plan,
    Prediction,
    RegisteredModel,
    Rehearsal,
    Release,
    Service,
    Signature,
    TargetKind,
    Tick,
    VersionDetails,
    VersionRef,
)

Report = Callable[[str, float | None], None]
"""Progress of a long step: a line in words, and the part done (0 to 1; None when unknown)."""


def no_report(_line: str, _ratio: float | None = None) -> None:
    """A Report that nobody reads."""


class Registry(Protocol):
    """The MLflow registry. Numbers are ints, absence is a value, nothing takes minutes."""

    def models(self) -> Sequence[RegisteredModel]:
        """Every registered model, by name, aliases complete, all pages."""

    def versions(self, model: str) -> Sequence[ModelVersion]:
        """Every version of `model`, newest first, with metrics, parameters, aliases. NotFound."""

    def version(self, ref: VersionRef | AliasRef) -> ModelVersion:
        """One version; `@latest` is the highest number. NotFound says which aliases there are."""

    def details(self, ref: VersionRef) -> VersionDetails:
        """What the version's files say (cached: files are immutable). NotFound.

        A source that is gone or unreadable is no error here: `problems` says so.
        """

    def download(self, ref: VersionRef, into: Path, report: Report = no_report) -> None:
        """Copy the version's files into the empty folder `into`.

        NotDeployable when the source lies outside the allowed roots, holds symbolic links, or
        exceeds the caps in files and bytes; NotFound when it is gone.
        """

    def set_alias(self, alias: AliasRef, number: int) -> None:
        """Point an alias at a version. NotFound."""

    def check(self) -> Sequence[Finding]:
        """Reachable, which version, which store: what Health shows. Never raises."""


class Packager(Protocol):
    """Makes what a server loads. Idempotent by content, write-once."""

    def propose(self, version: ModelVersion) -> Package:
        """Say what the package is and where it will be, with its digest. NotDeployable, NotFound.

        May read the version's files into a cache of its own to know the digest; nothing that a
        server could load is written.
        """

    def make(self, version: ModelVersion, report: Report = no_report) -> Package:
        """Make the package, or find it made: what `propose` said. NotDeployable, NotFound."""

    def outlook(self, version: ModelVersion) -> Finding:
        """What `make` would do: find it made, make it and how much of it, or why it would fail.

        For a plan: bounded to seconds, writes nothing, never raises. `propose` came before it.
        """

    def exists(self, package: Package) -> Finding:
        """Whether an earlier release's package is still whole. Bounded to seconds, never raises."""

    def check(self) -> Sequence[Finding]:
        """Whether the place of the packages can be reached; nothing where there is none to reach.

        Writes nothing, never raises.
        """


class Serving(Protocol):
    """Services on one target: kserve.py and local/."""

    def services(self) -> Sequence[Service]:
        """Every service of the target, by name; those that others made too."""

    def service(self, name: str) -> Service | None:
        """One service; absence is a value."""

    def default_intent(self, intent: Intent) -> Intent:
        """The intent with what this target fills in by itself (mode, port, runtime)."""

    def rehearse(self, plan: Plan) -> Rehearsal:
        """Manifest, dry run and the target's own preflight; writes nothing."""

    def apply(self, plan: Plan, release: Release) -> Applied:
        """The one write. Conflict when the object is no longer the one that was planned from."""

    def observe(self, name: str) -> Observed:
        """Look once; plain facts."""

    def logs(
        self,
        name: str,
        *,
        container: str | None = None,
        previous: bool = False,
        tail: int = 200,
        follow: bool = False,
    ) -> Iterator[LogLine]:
        """Lines of every pod or process of the service, merged by time, capped. NotFound."""

    def containers(self, name: str) -> Sequence[str]:
        """Of what `logs` can be asked alone: containers of pods, or processes. NotFound."""

    def events(self, name: str) -> Sequence[LogLine]:
        """What happened to the service, oldest first. NotFound."""

    def endpoint(self, name: str, release: int | None = None) -> Endpoint:
        """The way in, or the one that reaches exactly `release`. NotFound until there is one."""

    def check(self) -> Sequence[Finding]:
        """Everything that must hold for this target: what Health and doctor show. Never raises."""


class Journal(Protocol):
    """Release history beside the service, and the lock that makes operations exclusive."""

    def history(self, service: str) -> Sequence[Release]:
        """Releases, newest first; empty for an unknown service. Outlives the service."""

    def histories(self) -> Mapping[str, Sequence[Release]]:
        """Every service's releases by its name, newest first: of those that are gone, too."""

    def begin(self, plan: Plan, actor: str, reason: str) -> Release:
        """Take the lock and record the release with outcome OPEN, before the write.

        The same nonce again gives the same release. Conflict names who holds the service.
        """

    def close(
        self, release: Release, outcome: Outcome, cause: Cause | None = None, *, late: bool = False
    ) -> Release:
        """Record the outcome and let go of the lock. Idempotent; the first outcome stands.

        Only with `late` may a later one take its place; see `domain.may_follow`.
        """


class Predictor(Protocol):
    """Requests to endpoints that a target named: no redirects, no proxies, bounded."""

    def ready(self, endpoint: Endpoint, timeout_s: float = 2.0) -> bool:
        """Whether the model server says that the model is ready; False when there is no answer."""

    def signature(self, endpoint: Endpoint, timeout_s: float = 2.0) -> Signature | None:
        """What the model server says that its model takes; None where it does not say."""

    def infer(
        self, endpoint: Endpoint, request: InferRequest, timeout_s: float = 30.0
    ) -> Prediction:
        """One request. InferenceFailed for an answer that is no prediction, with its status."""


class RunningLoad(Protocol):
    """A load test under way: a Tick a second, then one LoadSummary. Any thread may end it."""

    def __iter__(self) -> Iterator[Tick | LoadSummary]:
        """Itself."""

    def __next__(self) -> Tick | LoadSummary:
        """What comes next; waits for it."""

    def stop(self) -> None:
        """End the load within a second, and let the summary of what was measured come."""

    def close(self) -> None:
        """End the load within a second; nothing more comes. Idempotent."""


class LoadEngine(Protocol):
    """Load tests, in a process of its own."""

    def run(self, load: Load) -> RunningLoad:
        """Start one. ConfigError for a load out of bounds, Unreachable without a host."""


@dataclass(frozen=True, slots=True)
class Run:
    """A stored load test: who, when, where, what was asked, what came out."""

    id: int | None
    name: str
    actor: str
    created_at: str
    target: str
    namespace: str
    service: str
    release: int | None
    version: str
    settings: str
    """JSON of the Load without bodies."""
    summary: LoadSummary
    ticks: tuple[Tick, ...]


@dataclass(frozen=True, slots=True)
class StoredRuns:
    """Load tests as they were stored, and the ids of those that were damaged since."""

    found: tuple[Run, ...]
    damaged: tuple[int, ...] = ()


class Store(Protocol):
    """Audit log, load-test runs, and what was promised of services."""

    def intend(self, entry: AuditEntry) -> int:
        """Write the intent row and give its id. If this raises, no write may follow."""

    def outcome(
        self,
        audit_id: int,
        outcome: Outcome,
        detail: str = "",
        release: int | None = None,
        *,
        late: bool = False,
    ) -> None:
        """Write the outcome. Idempotent; `late`: it takes the place of a failure."""

    def entries(
        self, *, service: str | None = None, target: str | None = None, limit: int = 200
    ) -> Sequence[AuditEntry]:
        """Audit entries, newest first."""

    def open_entry(self, nonce: str) -> AuditEntry | None:
        """The entry of one operation, or None."""

    def save_run(self, run: Run) -> int:
        """Keep a load test; gives its id."""

    def runs(
        self,
        *,
        service: str | None = None,
        target: str | None = None,
        namespace: str | None = None,
        limit: int = 100,
        ids: Collection[int] = (),
    ) -> StoredRuns:
        """The newest `limit` stored load tests and those with these ids, newest first.

        Of one service, target, namespace; None of all.
        """

    def objective(self, target: str, namespace: str, service: str) -> Objective:
        """What the service's users were promised; an empty Objective when nothing was."""

    def keep_objective(
        self, target: str, namespace: str, service: str, objective: Objective
    ) -> None:
        """Keep what is promised from now on; an empty Objective takes the promise back."""

    def save_example(self, model: str, name: str, body: str) -> None:
        """Keep a request's rows under a name for a registered model; the same name is replaced."""

    def examples(self, model: str) -> Mapping[str, str]:
        """The kept examples of a registered model: name → JSON text of an /invocations body."""

    def check(self) -> Sequence[Finding]:
        """Whether the store can be written. Never raises."""


class Ops(Protocol):
    """Everything that a journey needs, for one target. connect.ops() makes one.

    Parts are made at their first use: a page that shows no model pays for no MLflow.
    """

    @property
    def target(self) -> str:
        """Name of the target."""

    @property
    def kind(self) -> TargetKind:
        """What the target is reached by."""

    @property
    def namespace(self) -> str:
        """Namespace of the services; "" on this machine."""

    @property
    def server(self) -> str:
        """Host of the API server, or this machine's name: shown in every confirmation."""

    @property
    def protected(self) -> bool:
        """True when a write wants the service's name typed."""

    @property
    def registry(self) -> Registry:
        """The registered models."""

    @property
    def packager(self) -> Packager:
        """What makes packages for this target, in the target's own way."""

    def packaging(
        self, kind: PackageKind | None = None, *, own_environment: bool = False
    ) -> Packager:
        """What makes packages of that kind; None is the target's own way.

        `own_environment`: the libraries in an image of their own. ConfigError when a setting for
        it is missing, NotOffered when the target cannot load such packages.
        """

    @property
    def serving(self) -> Serving:
        """The target's services."""

    @property
    def journal(self) -> Journal:
        """The target's release history."""

    def following(self, service: str) -> AbstractContextManager[None]:
        """A block in which one service is looked at again and again: looks are cheap in it."""

    @property
    def predictor(self) -> Predictor:
        """Requests to endpoints."""

    @property
    def engine(self) -> LoadEngine:
        """Load tests."""

    @property
    def store(self) -> Store:
        """Audit log and runs."""
