"""One run of a verb: what was asked, the world that it is asked of, and the answer.

What several verbs need stands here too. A verb is a function `verb(session) -> Answer` in one of
this package's modules; `dashboard.cli` finds it by name.
"""

from __future__ import annotations

import argparse
import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from dashboard import views
from dashboard.terminal import Terminal, write_summary
from services.domain import Service
from services.errors import NotOffered, SlipwayError, one_line

if TYPE_CHECKING:
    from services.gke import GkeCluster
    from services.kubeconfig import Context
    from services.ports import Ops, Registry, Store
    from services.settings import Settings, Surroundings

OK = 0
INTERRUPTED = 130

TARGET_WITHIN_S = 8.0
"""A list of all targets waits so long for the slowest: 3 s for a connection, and what it takes to
start a cloud's plugin."""

DEFAULT_TIMEOUT_S = 600.0
"""How long a roll-out is followed, KServe's own deadline."""

T = TypeVar("T")

log = logging.getLogger("slipway.cli")


class Reach(Protocol):
    """What a session needs of the world: connect.Connections, or its twin in tests."""

    @property
    def registry(self) -> Registry:
        """The registered models."""

    @property
    def store(self) -> Store:
        """Audit log and load tests."""

    def ops(self, target: str | None = None, namespace: str | None = None) -> Ops:
        """Everything for one target."""

    def contexts(self) -> Sequence[Context]:
        """Contexts of the kubeconfig that no target names."""

    def gke_clusters(self, project: str) -> Sequence[GkeCluster]:
        """Every cluster of a Google Cloud project. Denied, NotFound, Unreachable."""


class Interrupted(SlipwayError):
    """Ctrl-C, SIGTERM, or "no" to a question."""

    exit_code = INTERRUPTED

    @property
    def kind(self) -> str:
        """Its name in the JSON error."""
        return "Interrupted"


@dataclass(frozen=True)
class Answer:
    """What a verb found: its JSON, the same for people, and the error it ended in, if any."""

    document: Any
    lines: Iterable[str] = ()
    error: SlipwayError | None = None
    exit_code: int = OK
    streamed: bool = False
    """True when the verb wrote its result itself, line by line."""


@dataclass
class Session:
    """One run of a verb: what was asked, and the world that it is asked of."""

    args: argparse.Namespace
    terminal: Terminal
    settings: Settings
    surroundings: Surroundings
    connect: Callable[[Settings], Reach]
    begun: str = ""
    """The service whose operation was begun: an interruption says that it goes on."""

    @cached_property
    def reach(self) -> Reach:
        """The world, connected at first use."""
        return self.connect(self.settings)

    @cached_property
    def ops(self) -> Ops:
        """Everything for the chosen target."""
        return self.reach.ops(self.args.target, self.args.namespace)


def services_everywhere(session: Session) -> list[Service]:
    """The services of every target that answers; one warning for each that does not."""

    def of(name: str) -> Sequence[Service]:
        found = within(TARGET_WITHIN_S, partial(asked, name))
        if found is None:
            said = f"no answer within {TARGET_WITHIN_S:g} s"
            session.terminal.say(f"What serves on {name} is not known: {said}.")
        return found or ()

    def asked(name: str) -> Sequence[Service]:
        try:
            return session.reach.ops(name).serving.services()
        except NotOffered as error:
            log.info("%s", error)
        except SlipwayError as error:
            session.terminal.say(f"What serves on {name} is not known: {error.what}")
        return ()

    found = at_once([partial(of, name) for name in session.settings.all_targets])
    return [service for group in found for service in group]


def at_once(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """The calls' results in their order; they wait for the network at the same time."""
    if len(calls) == 1:
        return [calls[0]()]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max_workers=8) as pool:
        return [each.result() for each in [pool.submit(call) for call in calls]]


def within(seconds: float, call: Callable[[], T]) -> T | None:
    """What the call gives, where it does so in time; None where it fails or takes longer.

    It is left behind then, and ends with the process.
    """
    found: list[T] = []

    def run() -> None:
        try:
            found.append(call())
        except SlipwayError as error:
            log.info("%s", error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else None


def tell_workflow(session: Session, title: str, values: Mapping[str, object]) -> None:
    """A table in $GITHUB_STEP_SUMMARY, where a workflow gave one."""
    path = session.surroundings.summary_file
    if path is None:
        return
    try:
        write_summary(path, title, values)
    except OSError as error:
        session.terminal.warn(f"The workflow's summary was not written: {one_line(error)}.")


def aliases_text(aliases: Mapping[str, int]) -> str:
    """Aliases in a table's cell."""
    return ", ".join(f"{alias} → {number}" for alias, number in aliases.items())


def serving_text(rows: Iterable[views.ServingRow]) -> str:
    """Where a version serves, in a table's cell."""
    return ", ".join(f"{row['target']}:{row['service']} ({row['version']})" for row in rows)


def traffic_text(rows: Iterable[views.TrafficRow]) -> str:
    """Who takes which share, in a table's cell."""
    return ", ".join(
        f"{row['percent']} % {version_text(row['model'], row['version'])}" for row in rows
    )


def version_text(model: str | None, number: int | None) -> str:
    """A version's reference in a table's cell, or that nobody knows it."""
    return f"{model}/{number}" if number is not None else "unknown version"
