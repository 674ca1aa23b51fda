"""Verbs that look at services: status, history, logs, events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from dashboard import views, words
from dashboard.commands.session import (
    Answer,
    Session,
    log,
    traffic_text,
    version_text,
    within,
)
from dashboard.terminal import table
from services import lineage, preparing, rollout
from services.domain import Drift, Mode, RegisteredModel, Service
from services.errors import ConfigError, Conflict, Denied, NotFound, Unreachable, one_line
from services.ports import Ops

ALIASES_WITHIN_S = 8.0
"""The registry's client is imported for some seconds, and services are told without it."""


def status(session: Session) -> Answer:
    """What is wanted, what answers, how far; an operation left alone is taken up."""
    ops, name = session.ops, session.args.name
    services = [preparing.require(ops, name)] if name else list(ops.serving.services())
    services = [_settled(ops, service) for service in services]
    past = {name: ops.journal.history(name)} if name else ops.journal.histories()
    known = lineage.with_past(services, past, target=ops.target, namespace=ops.namespace)
    services = _with_alias_drift(session, [service for service in known if not service.gone])
    gone = [service for service in known if service.gone]
    if name:
        _say_the_way(session, services[0])
    rows = [views.service_row(service) for service in services]
    for service in gone:
        back = lineage.way_back(past[service.name])
        way = f" Bring it back: `slipway rollback {service.name} --to {back}`." if back else ""
        session.terminal.say(f"{service.message}{way}")
    if not rows:
        session.terminal.say(
            f"There is no service on {ops.target}. Deploy one: `slipway deploy REF --name NAME`."
        )
    document: dict[str, object] = {"services": rows}
    if gone:
        document["deleted"] = [views.deleted_row(service) for service in gone]
    return Answer(document, service_lines(rows) if rows else ())


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


def _say_the_way(session: Session, service: Service) -> None:
    """How one side of a canary is reached from here, where sides have addresses."""
    taking = [side for side in service.answering if side.percent]
    if len(taking) < 2 or not any(side.address for side in taking):
        return
    try:
        way = session.ops.serving.endpoint(service.name)
    except (Denied, NotFound, Unreachable) as error:
        log.info("the way in is not known: %s", error)
        return
    session.terminal.say(words.sides_words(taking, way))


def _with_alias_drift(session: Session, services: Sequence[Service]) -> list[Service]:
    """The services, and whether aliases that were tied to them still point to what they serve.

    One read of the registry for all, and only where there is one; it is not waited for long.
    """
    if not any(service.tied for service in services):
        return list(services)

    def read() -> Sequence[RegisteredModel]:
        return session.reach.registry.models()  # its client is imported in time, too

    models = within(ALIASES_WITHIN_S, read)
    if models is None:
        session.terminal.say("Where aliases point is not known: the registry does not answer.")
        return list(services)
    return [
        replace(each, drift=(*each.drift, *lineage.alias_drift(each.tied, models)))
        for each in services
    ]


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
        sides = row["traffic"] if len(row["traffic"]) > 1 else ()
        for side in sides:
            if row["mode"] != Mode.LOCAL:
                version = version_text(side["model"], side["version"])
                address = side["address"] or "no address of its own"
                yield f"{row['name']}: {version} alone: {address}"
        for drift in row["drift"]:
            yield f"{row['name']}: {words.drift_sentence(Drift(**drift))}"
        if _pods_taken_away(row):
            yield (
                f"{row['name']}: its pods come back with `slipway stop {row['name']}`, then"
                f" `slipway start {row['name']}`."
            )


def _pods_taken_away(row: views.ServiceRow) -> bool:
    return any((drift["field"], drift["seen"]) == ("replicas", "0") for drift in row["drift"])


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
                version_text(row["model"], row["version"])
                + (f" {row['canary_percent']} %" if row["canary_percent"] is not None else ""),
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
    wrote: list[bool] = []

    def rows() -> Iterator[views.EntryRow]:
        for entry in entries:
            wrote[:] = [True]
            yield views.entry_row(entry)

    if not args.json:
        session.terminal.result(_entry_line(row) for row in rows())
    document = {"entries": list(rows())} if args.json else None
    if not wrote:
        session.terminal.say(words.no_lines(previous=args.previous))
    return Answer(document, streamed=not args.json)


def events(session: Session) -> Answer:
    """What happened to a service, oldest first."""
    rows = [views.entry_row(entry) for entry in session.ops.serving.events(session.args.name)]
    return Answer({"entries": rows}, (_entry_line(row) for row in rows))


def _entry_line(row: views.EntryRow) -> str:
    mark = " !" if row["warning"] else ""
    return f"{row['time'] or '–'} {row['source']}{mark} {row['text']}"
