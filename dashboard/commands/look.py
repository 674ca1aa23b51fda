"""Verbs that look at services: status, history, logs, events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from dashboard import views
from dashboard.commands.session import Answer, Session, log, traffic_text, version_text
from dashboard.terminal import table
from services import rollout
from services.domain import Service
from services.errors import ConfigError, Conflict, Denied, NotFound, Unreachable, one_line
from services.ports import Ops


def status(session: Session) -> Answer:
    """What is wanted, what answers, how far; an operation left alone is taken up."""
    ops, name = session.ops, session.args.name
    services = [rollout.require(ops, name)] if name else list(ops.serving.services())
    services = [_settled(ops, service) for service in services]
    if name:
        services = [_with_alias_drift(session, service) for service in services]
    rows = [views.service_row(service) for service in services]
    if not rows:
        session.terminal.say(
            f"There is no service on {ops.target}. Deploy one: `slipway deploy REF --name NAME`."
        )
    return Answer({"services": rows}, service_lines(rows) if rows else ())


def _settled(ops: Ops, service: Service) -> Service:
    """The service after one look at an operation that nobody may be following any more."""
    if not service.managed or service.verified:
        return service
    try:
        rollout.settle(ops, service.name)
    except (Denied, Conflict, NotFound, Unreachable) as error:
        log.info("not settled: %s", error)
        return service
    return ops.serving.service(service.name) or service


def _with_alias_drift(session: Session, service: Service) -> Service:
    """The service, and whether the alias that was tied to it still points to what it serves."""
    try:
        history = session.ops.journal.history(service.name)
        if not rollout.tied_alias(history):
            return service
        drift = rollout.alias_drift(history, session.reach.registry.models())
    except (Denied, Unreachable) as error:
        log.info("aliases are not known: %s", error)
        return service
    return replace(service, drift=(*service.drift, *drift))


def service_lines(rows: Sequence[views.ServiceRow]) -> Iterator[str]:
    """Services as a table, with what is to be said about each below it."""
    yield from table(
        ("SERVICE", "VERSION", "RELEASE", "PHASE", "VERIFIED", "TRAFFIC", "URL"),
        (
            (
                row["name"],
                f"{row['model']}/{row['version']}" if row["version"] is not None else None,
                row["release"],
                row["phase"],
                row["verified"],
                traffic_text(row["traffic"]),
                row["url"],
            )
            for row in rows
        ),
    )
    for row in rows:
        if row["message"]:
            yield f"{row['name']}: {one_line(row['message'])}"
        for drift in row["drift"]:
            seen = f"{drift['field']}: {drift['recorded']} is recorded, {drift['seen']} was seen"
            yield f"{row['name']}: drift: {one_line(seen)}"


def history(session: Session) -> Answer:
    """A service's releases, newest first."""
    ops, name = session.ops, session.args.name
    history = ops.journal.history(name)
    service = ops.serving.service(name)
    if not history and service is None:
        raise NotFound(
            f"There is no service {name!r} on {ops.target}, and there was none.",
            fix="Look at `slipway status`.",
        )
    rows = views.release_rows(history, service)
    lines = table(
        ("RELEASE", "ACTION", "VERSION", "OUTCOME", "LIVE", "BY", "WHEN", "REASON"),
        (
            (
                row["number"],
                row["action"],
                version_text(row["model"], row["version"]),
                f"{row['outcome']}{', late' if row['late'] else ''}",
                "live" if row["live"] else "",
                row["actor"],
                row["created_at"],
                row["reason"],
            )
            for row in rows
        ),
    )
    return Answer({"releases": rows}, lines)


def logs(session: Session) -> Answer:
    """Lines of every process or pod, merged by time."""
    args = session.args
    if args.follow and args.json:
        raise ConfigError(
            "--follow and --json do not go together.",
            why="A log that goes on is no one document.",
            fix="Leave one of them out.",
        )
    entries = session.ops.serving.logs(
        args.name,
        container=args.container,
        previous=args.previous,
        tail=args.tail,
        follow=args.follow,
    )
    rows = (views.entry_row(entry) for entry in entries)
    if not args.json:
        session.terminal.result(_entry_line(row) for row in rows)
        return Answer(None, streamed=True)
    return Answer({"entries": list(rows)})


def events(session: Session) -> Answer:
    """What happened to a service, oldest first."""
    rows = [views.entry_row(entry) for entry in session.ops.serving.events(session.args.name)]
    return Answer({"entries": rows}, (_entry_line(row) for row in rows))


def _entry_line(row: views.EntryRow) -> str:
    mark = " !" if row["warning"] else ""
    return f"{row['time'] or '–'} {row['source']}{mark} {row['text']}"
