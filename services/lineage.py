"""What a service's releases say of it: a history (newest first) and a service in, facts out. Pure.

What it can return to, which alias is tied to it, what is left of one that is gone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from services.domain import (
    Action,
    AliasTie,
    Drift,
    Outcome,
    Phase,
    RegisteredModel,
    Release,
    Service,
)

ALIAS_MOVES_WITHIN_S = 10.0
"""A release is settled, and then its alias moved, which a slow registry takes a moment for."""


def returnable(history: Sequence[Release]) -> list[Release]:
    """Releases that a roll-back may choose by their number."""
    return [r for r in history if not r.intent.stopped and r.action is not Action.DELETE]


def tied_alias(history: Sequence[Release]) -> str:
    """The alias that last moved with a release of the service; "" when none ever did."""
    return next((release.alias for release in history if release.alias), "")


def beside(workload: int | None, history: Sequence[Release]) -> Release | None:
    """The newest release that gave this workload all of the traffic."""
    return next(
        (r for r in history if r.workload == workload and r.intent.canary_percent is None), None
    )


def answering_workload(current: Service) -> int | None:
    """The release that started the pods with most of the traffic; None while nothing answers."""
    most = max(current.answering, key=lambda side: side.percent, default=None)
    return most.release if most else None


def alias_tie(history: Sequence[Release]) -> AliasTie | None:
    """The alias that moved with a release of the service, and what serves; None where none did.

    `history` is newest first. What other aliases mean is not ours to know.
    """
    alias = tied_alias(history)
    whole = (r for r in history if r.verified and r.intent.canary_percent is None)
    serves = next(whole, None)
    if not alias or serves is None or serves.intent.version is None:
        return None
    return AliasTie(alias, serves.intent.version, serves.settled_at)


def alias_drift(
    tie: AliasTie | None, models: Sequence[RegisteredModel], read_at: datetime | None = None
) -> tuple[Drift, ...]:
    """Where a tied alias points to another version than the one that serves.

    `read_at`: when `models` were read, where that was not just now. Of a list from before the
    release moved its alias nothing is said.
    """
    if tie is None:
        return ()
    moved_by = tie.since + timedelta(seconds=ALIAS_MOVES_WITHIN_S) if tie.since else None
    if read_at is not None and moved_by is not None and read_at < moved_by:
        return ()
    model = next((found for found in models if found.name == tie.version.model), None)
    if model is None or model.aliases.get(tie.alias) == tie.version.number:
        return ()
    number = model.aliases.get(tie.alias)
    seen = f"{tie.version.model}/{number}" if number is not None else "no version"
    return (Drift(f"alias {tie.alias}", str(tie.version), seen),)


def with_past(
    services: Sequence[Service],
    past: Mapping[str, Sequence[Release]],
    *,
    target: str,
    namespace: str,
) -> tuple[Service, ...]:
    """The services of a target with what their histories say, by name.

    Those that somebody deleted behind Slipway's back stand among them as `gone`. Read `past` after
    `services`: a delete of ours is recorded before it is done.
    """
    there = {service.name for service in services}
    found = [replace(each, tied=alias_tie(past.get(each.name, ()))) for each in services]
    left = (remains(target, namespace, past[name]) for name in past if name not in there)
    found.extend(each for each in left if each is not None and each.drift)
    return tuple(sorted(found, key=lambda service: service.name))


def remains(target: str, namespace: str, history: Sequence[Release]) -> Service | None:
    """What is left of a service that is gone, to be returned to (`plan_rollback`).

    None when there never was one, or when it is just being made or deleted.
    """
    last = next((r for r in history if r.outcome is not Outcome.NOT_APPLIED), None)
    if last is None or last.outcome is Outcome.OPEN:
        return None
    ours = last.action is Action.DELETE
    version = str(last.intent.version or "an unknown version")
    how = "by Slipway" if ours else "outside Slipway"
    was = "deleted it" if ours else f"was {version}, {last.outcome}"
    return Service(
        name=last.service,
        target=target,
        namespace=namespace,
        mode=last.intent.mode,
        managed=True,
        object_version="",
        intent=None,
        recorded=last.intent,
        release=last.number,
        phase=Phase.UNKNOWN,
        message=f"{last.service} was deleted {how}; its last release {last.number} {was}.",
        since=last.settled_at,
        actor=last.actor if ours else "",
        drift=() if ours else (Drift("service", version, "deleted"),),
    )


def way_back(history: Sequence[Release]) -> int | None:
    """Number of the release that a service which is gone returns to: the newest verified one."""
    applied = [r for r in returnable(history) if r.outcome is not Outcome.NOT_APPLIED]
    proven = next((r for r in applied if r.verified), None) or next(iter(applied), None)
    return proven.number if proven else None


def as_answering(
    current: Service, history: Sequence[Release], workload: int | None = None
) -> Service:
    """The service with the intent of the release that answers: what a request has to fit.

    After a failed roll-out that is not the one that is wanted. `workload` chooses a side; None is
    the one with the most traffic. As it is, where nothing answers or no record says what.
    """
    side = answering_workload(current) if workload is None else workload
    wanted = next((r for r in history if r.number == current.release), None)
    if side is None or (wanted is not None and wanted.workload == side):
        return current
    found = next(
        (r for r in history if r.workload == side and r.outcome is not Outcome.NOT_APPLIED), None
    )
    if found is None:
        return current
    return replace(current, intent=found.intent, recorded=found.intent, release=found.number)
