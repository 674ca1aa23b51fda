"""Target → services, and every read that a page makes. The only user of Streamlit's caches.

Pages ask here and draw; nothing here draws. Each read is a `Look`: the last good answer with its
age, and what is wrong now. Tests give their own connections with `use`.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import streamlit as st

from dashboard import views, words
from dashboard.coldstarts import ColdStarts
from dashboard.loadtests import LoadTests
from dashboard.reads import Look, Reads
from dashboard.worker import Operation, Worker
from services import (
    bench,
    difference,
    lineage,
    planning,
    preparing,
    records,
    rollout,
    settings,
    telemetry,
)
from services.domain import (
    AuditEntry,
    Endpoint,
    Finding,
    LoadSummary,
    LogLine,
    ModelVersion,
    Objective,
    Outcome,
    Plan,
    Progress,
    RegisteredModel,
    Release,
    Service,
    TargetKind,
    VersionDetails,
    VersionRef,
)
from services.errors import NotFound
from services.ports import Ops, Registry, Store, StoredRuns
from services.split import Split, measure

if TYPE_CHECKING:
    from services.gke import GkeCluster
    from services.kubeconfig import Context

_FRESH_S = 2.0
"""Services, history, audit: seconds for which an answer is taken as it is."""
_SLOW_FRESH_S = 15.0
"""Registered models and versions change rarely and cost more."""
_CHECK_FRESH_S = 60.0
_PLAN_FRESH_S = 120.0
"""Checks of a plan are made anew after this; its `based_on` guards the write in any case."""
_FOLLOW_EVERY_S = 1.5
"""How often an open operation is settled when no page looks at it."""
_QUICK_S = 0.4
"""A click waits this long, so that quick operations show at once."""
LOG_LINES = 500
_CODE_FRESH_S = 20.0
_CODE = tuple(Path(__file__).parents[1] / name for name in ("dashboard", "pages", "services"))


class Connects(Protocol):
    """What connect.Connections offers; tests bring their own."""

    @property
    def settings(self) -> settings.Settings:
        """The configuration in force."""

    @property
    def registry(self) -> Registry:
        """The registered models."""

    @property
    def store(self) -> Store:
        """Audit log and runs."""

    def ops(self, target: str | None = None, namespace: str | None = None) -> Ops:
        """Everything for one target. NotFound, NotOffered."""

    def contexts(self) -> Sequence[Context]:
        """Contexts of the kubeconfig that no target names."""

    def knock(self) -> None:
        """See quickly whether anything answers at the registry's address. Unreachable."""

    def gke_clusters(self, project: str) -> Sequence[GkeCluster]:
        """Every cluster of a Google Cloud project. Denied, NotFound, Unreachable."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one stands: shown on every page and in every confirmation."""

    target: str
    kind: TargetKind
    namespace: str
    server: str
    protected: bool
    actor: str


@dataclass
class _Desk:
    """What one dashboard process shares between all of its sessions."""

    connections: Connects
    reads: Reads
    worker: Worker = field(default_factory=Worker)
    load_tests: LoadTests = field(default_factory=LoadTests)
    cold_starts: ColdStarts = field(default_factory=ColdStarts)
    watched: set[tuple[str, str]] = field(default_factory=set)
    written: dict[tuple[str, str], int] = field(default_factory=dict)
    """(target, service) → the release that was last seen on it; see `rollout.settle`."""
    taken_up: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)
    closed: threading.Event = field(default_factory=threading.Event)

    def close(self) -> None:
        self.closed.set()
        self.reads.close()
        self.worker.close()


_given: Connects | None = None
_open: list[_Desk] = []


def use(connections: Connects | None) -> None:
    """Work on these connections instead of the configured ones; for tests."""
    global _given  # noqa: PLW0603 - the one seam: AppTest runs the script in this very process
    _given = connections
    while _open:
        _open.pop().close()
    st.cache_resource.clear()


@st.cache_resource(show_spinner=False)
def _desk() -> _Desk:
    from services.connect import Connections

    connections = _given or Connections(settings.load(), watching=True)
    folder = None
    if _given is None:
        folder = _lists_folder(connections.settings)
        telemetry.configure(connections.settings.state / "logs", shown=True)
    desk = _Desk(connections, Reads(folder))
    _open.append(desk)
    return desk


def _lists_folder(found: settings.Settings) -> Path:
    # Another configuration is another registry: its lists are not shown in this one's place.
    mark = hashlib.sha256(found.model_dump_json().encode()).hexdigest()[:12]
    return found.state / "lists" / mark


def begin_run(budget_s: float | None = None) -> None:
    """Start a script run's time budget. ConfigError when the configuration does not fit."""
    reads = _desk().reads
    if budget_s is None:
        reads.begin_run()
    else:
        reads.begin_run(budget_s)


def outdated() -> bool:
    """True when the code on disk is newer than what this process runs; looked at now and then.

    Streamlit reads a page's script anew for each run, while modules stay as they were imported.
    """
    desk = _desk()
    seen = desk.reads.look(("own code",), code_stamp, fresh_s=_CODE_FRESH_S, wait=False)
    return seen.value is not None and seen.value != _STARTED_AS


def code_stamp(folders: Sequence[Path] = _CODE) -> int:
    """The newest change of any module and page in these folders, ns since the epoch."""
    files = (file for folder in folders for file in folder.rglob("*.py"))
    return max((file.stat().st_mtime_ns for file in files), default=0)


def answers() -> int:
    """How many reads have ended so far."""
    return _desk().reads.answers


# ── Where one stands ──────────────────────────────────────────────────────────────────────────


def targets() -> tuple[str, ...]:
    """Names of the targets, the default one first."""
    found = _desk().connections.settings
    first, _ = found.target()
    others = sorted(name for name in found.all_targets if name != first)
    asked = st.query_params.get("target", "")
    if asked.startswith(settings.CONTEXT) and asked not in {first, *others}:
        there = {settings.CONTEXT + context.name for context in contexts().value or ()}
        others += [asked] if asked in there else []
    return (first, *others)


def target() -> str:
    """The chosen target: the URL's, which is the picker's."""
    chosen, known = st.query_params.get("target"), targets()
    return chosen if chosen in known else known[0]


def ops(name: str | None = None) -> Ops:
    """Everything for the chosen target."""
    return _desk().connections.ops(name or target())


def actor() -> str:
    """Who acts: the login's e-mail where there is a login, else the OS user."""
    email = st.user.get("email") if st.user else None
    return str(email) if email else settings.surroundings().actor


def place() -> Place:
    """Where one stands. The server's name is left out until it is known."""
    here, mine, who = target(), ops(), actor()
    seen = _desk().reads.look(
        (f"target {here}", "server"), lambda: mine.server, fresh_s=300, wait=mine.kind != "gke"
    )
    return Place(here, mine.kind, mine.namespace, seen.value or "", mine.protected, who)


# ── The registry ──────────────────────────────────────────────────────────────────────────────


def models(*, wait: bool = True) -> Look[tuple[RegisteredModel, ...]]:
    """Every registered model."""
    return _of_registry(
        ("models",),
        lambda registry: tuple(registry.models()),
        wait=wait,
        keep=tuple[RegisteredModel, ...],
    )


def versions(model: str) -> Look[tuple[ModelVersion, ...]]:
    """Every version of one registered model, newest first."""
    return _of_registry(
        ("versions", model),
        lambda registry: tuple(registry.versions(model)),
        keep=tuple[ModelVersion, ...],
    )


def details(ref: VersionRef) -> Look[VersionDetails]:
    """What the version's files say."""
    return _of_registry(
        ("details", ref), lambda registry: registry.details(ref), fresh_s=3600, keep=VersionDetails
    )


def _of_registry(
    what: tuple[Any, ...],
    read: Callable[[Registry], Any],
    *,
    keep: type[Any],
    fresh_s: float = _SLOW_FRESH_S,
    wait: bool = True,
) -> Look[Any]:
    """A read of the registry; while a first answer is late, what a knock at its door says.

    Its client is imported for seconds and waits for seconds; that nothing is there shows sooner.
    """
    desk = _desk()

    def knock() -> Look[None]:
        return desk.reads.look(
            ("the registry's address",), desk.connections.knock, fresh_s=_FRESH_S, wait=False
        )

    known = desk.reads.answered("registry")
    if not known:
        knock()  # at the same time: the script waits for the registry only
    look = desk.reads.look(
        ("registry", *what),
        lambda: read(desk.connections.registry),
        fresh_s=fresh_s,
        wait=wait,
        keep=keep,
    )
    if not known and look.waiting and look.error is None and (look.late or not wait):
        return replace(look, error=knock().error)
    return look


# ── Targets ───────────────────────────────────────────────────────────────────────────────────


def services(name: str | None = None, *, wait: bool = True) -> Look[tuple[Service, ...]]:
    """Every service of one target, the chosen one when none is named."""
    look = _services(name, wait=wait)
    there = None if look.value is None else tuple(s for s in look.value if not s.gone)
    return replace(look, value=there)


def listed() -> Look[tuple[Service, ...]]:
    """The chosen target's services as a list tells them: with what is seen from outside of it.

    That is an alias which points past what serves, and a service that others deleted.
    """
    look = _services(None, wait=True)
    if look.value is None or not any(each.tied for each in look.value):
        return look
    known = models(wait=False)
    unknown = known.waiting and known.value is None

    def told(each: Service) -> Service:
        drift = lineage.alias_drift(each.tied, known.value or (), known.at)
        return replace(each, drift=(*each.drift, *drift))

    told_all = tuple(told(each) for each in look.value)
    return replace(look, value=told_all, waiting=look.waiting or unknown)


def remains(name: str) -> Service | None:
    """What is left of a service of the chosen target that is gone: enough to bring it back."""
    mine = ops()
    return lineage.remains(mine.target, mine.namespace, history(name).value or ())


def _services(name: str | None, *, wait: bool) -> Look[tuple[Service, ...]]:
    desk, here = _desk(), name or target()

    def read() -> tuple[Service, ...]:
        mine = desk.connections.ops(here)
        found = mine.serving.services()
        past = mine.journal.histories()
        _take_up(desk, mine, found)
        return lineage.with_past(found, past, target=here, namespace=mine.namespace)

    return desk.reads.look(
        (f"target {here}", "services"),
        read,
        fresh_s=_FRESH_S,
        wait=wait,
        keep=tuple[Service, ...],
    )


def everywhere() -> Mapping[str, Look[tuple[Service, ...]]]:
    """The services of all targets: all are asked at once, only the chosen one is waited for."""
    found = {name: services(name, wait=False) for name in targets()}
    return found | {target(): services()}


def service(name: str) -> Service | None:
    """One service of the chosen target as the list has it; None when it is not there."""
    known = services().value or ()
    return next((found for found in known if found.name == name), None)


def history(name: str) -> Look[tuple[Release, ...]]:
    """Releases of a service of the chosen target, newest first."""
    return _of_target(
        ("history", name), lambda mine: tuple(mine.journal.history(name)), tuple[Release, ...]
    )


def events(name: str) -> Look[tuple[LogLine, ...]]:
    """What happened to a service, oldest first."""
    return _of_target(("events", name), lambda mine: tuple(mine.serving.events(name)))


def containers(name: str) -> Look[tuple[str, ...]]:
    """The containers of a service's pods whose logs can be read."""
    return _of_target(("containers", name), lambda mine: tuple(mine.serving.containers(name)))


def logs(
    name: str, *, container: str | None = None, previous: bool = False
) -> Look[tuple[LogLine, ...]]:
    """The last log lines of a service's pods or processes; container "" is every one."""

    def read(mine: Ops) -> tuple[LogLine, ...]:
        found = mine.serving.logs(name, container=container, previous=previous, tail=LOG_LINES)
        return tuple(found)

    return _of_target(("logs", name, container, previous), read)


def way_in(name: str, *, wait: bool = True) -> Look[Endpoint]:
    """The way over which a service's requests would go now."""
    desk, here = _desk(), target()
    return desk.reads.look(
        (f"target {here}", "way in", name),
        lambda: desk.connections.ops(here).serving.endpoint(name),
        fresh_s=_CHECK_FRESH_S,
        wait=wait,
    )


def with_signature(service: Service) -> Service:
    """The service with what its server says that it takes, where no record says it."""
    if service.intent is None or service.intent.signature is not None or not service.answering:
        return service
    desk, here = _desk(), target()
    told = desk.reads.look(
        (f"target {here}", "signature", service.name, service.release),
        lambda: preparing.with_signature(desk.connections.ops(here), service),
        fresh_s=_CHECK_FRESH_S,
    ).value
    if told is None or told.intent is None:
        return service
    return replace(service, intent=replace(service.intent, signature=told.intent.signature))


def split(service: Service, requests: int, asked_at: float) -> Look[Split]:
    """A canary's split, measured once for each `asked_at` by so many requests."""
    name = service.name

    def read(mine: Ops) -> Split:
        endpoint = mine.serving.endpoint(name)
        intent = service.intent
        request = bench.request_for_example(
            intent.signature if intent else None,
            intent.example if intent else None,
            model_name=endpoint.model_name,
        )
        return measure(lambda: mine.predictor.infer(endpoint, request), requests, service.answering)

    desk, here = _desk(), target()
    return desk.reads.look(
        (f"requests to {name}", here, asked_at),
        lambda: read(desk.connections.ops(here)),
        fresh_s=3600,
    )


def contexts() -> Look[tuple[Context, ...]]:
    """Contexts of the kubeconfig that no target names."""
    desk = _desk()
    return desk.reads.look(
        ("kubeconfig",), lambda: tuple(desk.connections.contexts()), fresh_s=_CHECK_FRESH_S
    )


def gke_clusters(project: str) -> Look[tuple[GkeCluster, ...]]:
    """The GKE clusters of a project that no target names."""
    desk = _desk()
    targets = desk.connections.settings.all_targets

    def read() -> tuple[GkeCluster, ...]:
        found = desk.connections.gke_clusters(project)
        return tuple(each for each in found if not views.cluster_row(each, targets)["target"])

    return desk.reads.look(("gke", project), read, fresh_s=_CHECK_FRESH_S)


def manifest(name: str) -> Look[str]:
    """The manifest of what the service is wanted to be, as the target would be sent it."""

    def read(mine: Ops) -> str:
        found = preparing.require(mine, name)
        if found.wish is None:
            raise NotFound(f"What {name} should be is not known.", fix="Deploy a version to it.")
        plan = planning.plan_deploy(found, found.wish, target=mine.target, namespace=mine.namespace)
        return preparing.prepare(mine, plan).manifest

    return _of_target(("manifest", name), read)


def entries(limit: int = 200, *, here_only: bool = False) -> Look[tuple[AuditEntry, ...]]:
    """The audit, newest first."""
    desk, where = _desk(), target() if here_only else None
    return desk.reads.look(
        ("store", "entries", where, limit),
        lambda: tuple(desk.connections.store.entries(target=where, limit=limit)),
        fresh_s=_FRESH_S,
    )


def runs(name: str, ids: Collection[int] = ()) -> Look[StoredRuns]:
    """The newest stored load tests of a service and those with these ids, newest first."""
    desk, named = _desk(), tuple(sorted(ids))
    return desk.reads.look(
        ("store", "runs", name, named),
        lambda: desk.connections.store.runs(service=name, ids=named),
        fresh_s=_FRESH_S,
    )


def objective(name: str) -> Look[Objective]:
    """What was promised of a service of the chosen target."""
    desk, here, namespace = _desk(), target(), ops().namespace
    return desk.reads.look(
        ("store", "objective", here, namespace, name),
        lambda: desk.connections.store.objective(here, namespace, name),
        fresh_s=_FRESH_S,
    )


@st.cache_data(max_entries=64, show_spinner=False, hash_funcs={LoadSummary: records.dump})
def comparison(
    before: LoadSummary, after: LoadSummary, names: tuple[str, str]
) -> difference.Comparison:
    """Two stored runs against each other: resampling takes a second, so it is done once."""
    return difference.compare(before, after, names)


def version_comparisons(
    summary: LoadSummary, model: str
) -> tuple[difference.VersionComparison, ...]:
    """The versions that answered in one run against each other: done once, as `comparison`."""
    if not summary.response_blocks_by_version:
        return ()  # nothing to look up either: the key is the whole run as text
    return _version_comparisons(summary, model)


@st.cache_data(max_entries=64, show_spinner=False, hash_funcs={LoadSummary: records.dump})
def _version_comparisons(
    summary: LoadSummary, model: str
) -> tuple[difference.VersionComparison, ...]:
    return difference.compare_versions(summary, model)


def examples(model: str) -> Look[Mapping[str, str]]:
    """The examples kept for a registered model: name → JSON text of an /invocations body."""
    desk = _desk()
    return desk.reads.look(
        ("store", "examples", model),
        lambda: desk.connections.store.examples(model),
        fresh_s=_FRESH_S,
    )


def load_tests() -> LoadTests:
    """The load tests that this process knows, the same for every tab."""
    return _desk().load_tests


def cold_starts() -> ColdStarts:
    """The cold starts that this process measured or measures, the same for every tab."""
    return _desk().cold_starts


def checks() -> Mapping[str, Look[tuple[Finding, ...]]]:
    """Every check of registry, chosen target and store, each with its age."""
    desk, here = _desk(), target()
    parts: dict[str, Callable[[], tuple[Finding, ...]]] = {
        "registry": lambda: tuple(desk.connections.registry.check()),
        f"target {here}": lambda: preparing.checked(desk.connections.ops(here)),
        "store": lambda: tuple(desk.connections.store.check()),
    }
    for name, read in parts.items():  # all at once, then waited for
        desk.reads.look((f"check {name}",), read, fresh_s=_CHECK_FRESH_S, wait=False)
    return {
        name: desk.reads.look((f"check {name}",), read, fresh_s=_CHECK_FRESH_S)
        for name, read in parts.items()
    }


def forget_reads() -> None:
    """Read everything anew at the next look; what was read stays until then."""
    _desk().reads.forget()


def _of_target(
    what: tuple[Any, ...], read: Callable[[Ops], Any], keep: type[Any] | None = None
) -> Look[Any]:
    desk, here = _desk(), target()
    return desk.reads.look(
        (f"target {here}", *what),
        lambda: read(desk.connections.ops(here)),
        fresh_s=_FRESH_S,
        keep=keep,
    )


# ── Plans and operations ──────────────────────────────────────────────────────────────────────


def prepared_deploy(
    reference: str, name: str, wish: planning.Wish, *, take_over: Collection[str] = ()
) -> Look[preparing.Prepared]:
    """The plan that deploys `reference` as `name`: the same one until something changes.

    `take_over`: managers whose fields it may take (preparing.taking_over).
    """
    return _prepared(
        name,
        ("deploy", reference, wish),
        lambda mine: preparing.prepare_deploy(mine, reference, name=name, wish=wish),
        take_over=take_over,
    )


def prepared(
    name: str,
    what: tuple[Any, ...],
    planned: Callable[[Service, tuple[Release, ...]], Plan],
    *,
    take_over: Collection[str] = (),
) -> Look[preparing.Prepared]:
    """The plan that `planned` makes of a service and its history, with its checks."""

    def make(mine: Ops) -> preparing.Prepared:
        current = preparing.require_or_remains(mine, name)
        return preparing.prepare(mine, planned(current, tuple(mine.journal.history(name))))

    return _prepared(name, what, make, take_over=take_over)


def _prepared(
    name: str,
    what: tuple[Any, ...],
    make: Callable[[Ops], preparing.Prepared],
    *,
    take_over: Collection[str],
) -> Look[preparing.Prepared]:
    def made(mine: Ops) -> preparing.Prepared:
        return preparing.taking_over(mine, make(mine), take_over)

    # Process-wide and keyed by what was seen: two tabs that show the same plan share its nonce, so
    # a double click, a replayed click and a click in each tab are one operation.
    desk, here, seen = _desk(), target(), service(name)
    state = (seen.object_version, seen.phase, seen.release) if seen else None
    return desk.reads.look(
        (f"plan {here} {name}", *what, frozenset(take_over), state),
        lambda: made(desk.connections.ops(here)),
        fresh_s=_PLAN_FRESH_S,
    )


def begin(made: preparing.Prepared, reason: str = "") -> None:
    """Carry out a plan in the background; the same plan again changes nothing."""
    desk, plan, who = _desk(), made.plan, actor()
    mine = desk.connections.ops(plan.target)
    st.session_state[_begun(plan.target, plan.service)] = plan.nonce

    def job(report: Callable[[str, float | None], None]) -> object:
        return rollout.apply(
            plan, mine, actor=who, origin="browser", reason=reason,
            version=made.version, report=report,
        )  # fmt: skip

    def done(operation: Operation) -> None:
        desk.reads.drop(f"plan {plan.target} {plan.service}")
        desk.reads.drop(f"progress {plan.target}", plan.service)
        desk.reads.forget(f"target {plan.target}")
        desk.reads.forget("store")
        if operation.error is None and not plan.nothing_to_do:
            _watch(desk, plan.target, plan.service)

    desk.worker.start(
        plan.nonce, job, target=plan.target, service=plan.service,
        title=words.plan_title(plan), done=done,
    )  # fmt: skip
    desk.worker.wait(plan.nonce, _QUICK_S)


def cancel(nonce: str) -> None:
    """Give up an operation that is still being prepared; what is begun is aborted instead."""
    _desk().worker.cancel(nonce)


def _begun(where: str, name: str) -> str:
    """Key of the plan that this session confirmed last for a service."""
    return f"begun {where} {name}"


def operation(name: str) -> Operation | None:
    """What this process began last on a service of the chosen target, or None.

    A session is told first what became of its own plan: another one's may have won.
    """
    worker, here = _desk().worker, target()
    mine = worker.get(st.session_state.get(_begun(here, name), ""))
    return mine if mine and mine.state == "failed" else worker.of(here, name)


def progress(name: str) -> Look[Progress]:
    """How far the open operation of a service is; looking settles it."""
    return _progress(_desk(), target(), name, wait=True)


def is_open(name: str) -> bool:
    """True while an operation on the service is under way, whoever began it."""
    begun = _desk().worker.of(target(), name)
    if begun is not None and begun.state == "running":
        return True
    releases = history(name).value or ()
    return bool(releases) and releases[0].outcome is Outcome.OPEN


def has_ended(name: str) -> bool:
    """True when the operation that was open is not any more; lists are then read anew."""
    seen = progress(name).value
    if seen is not None and seen.settled:
        _forget_after(_desk(), target())
    return not is_open(name)


def _progress(desk: _Desk, where: str, name: str, *, wait: bool) -> Look[Progress]:
    def read() -> Progress:
        seen = rollout.settle(
            desk.connections.ops(where), name, written=desk.written.get((where, name))
        )
        if seen.written and seen.release is not None:
            desk.written[where, name] = seen.release
        return seen

    return desk.reads.look((f"progress {where}", name), read, fresh_s=0.8, wait=wait)


def _forget_after(desk: _Desk, where: str) -> None:
    """Read anew what an operation that ended may have changed: aliases move with a release."""
    for source in (f"target {where}", "store", "registry"):
        desk.reads.forget(source)


def _take_up(desk: _Desk, mine: Ops, found: Sequence[Service]) -> None:
    """Once per target and process: settle what another process left open."""
    with desk.lock:
        if mine.target in desk.taken_up:
            return
        desk.taken_up.add(mine.target)
    for each in found:
        if each.managed and not each.verified:
            newest = next(iter(mine.journal.history(each.name)), None)
            if newest is not None and newest.outcome is Outcome.OPEN:
                _watch(desk, mine.target, each.name)


def _watch(desk: _Desk, where: str, name: str) -> None:
    """Settle an operation until it ends, also when every tab is closed."""
    with desk.lock:
        first = not desk.watched
        desk.watched.add((where, name))
    if first:
        threading.Thread(target=_follow, args=(desk,), name="slipway-follow", daemon=True).start()


def _follow(desk: _Desk) -> None:
    while not desk.closed.wait(_FOLLOW_EVERY_S):
        with desk.lock:
            open_now = tuple(desk.watched)
        if not open_now:
            return
        for where, name in open_now:
            seen = _progress(desk, where, name, wait=False)
            if seen.value is not None and seen.value.settled and not seen.error:
                _forget_after(desk, where)
                with desk.lock:
                    desk.watched.discard((where, name))


_STARTED_AS = code_stamp()
"""The code that this process was started with."""
