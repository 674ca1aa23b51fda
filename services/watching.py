"""What a watcher does about a registry's alias: deploy what it points to, wait, or leave it.

Pure: a version, the service and its history in, a choice with its reason out. Because it is judged
from the history that all front ends share, a watcher may be killed, started again, or run twice.
The command `slipway watch` is the caller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from services.domain import Action, Outcome, Release, Service, VersionRef
from services.errors import one_line

LONGEST_WAIT_S = 900.0
"""Between two looks when all goes wrong: an outage over night must not fill the log."""


class Choice(StrEnum):
    """What to do about the version that the alias points to."""

    DEPLOY = "deploy"
    WAIT = "wait"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Judged:
    """A choice, and why: a sentence's part for the log; "" for DEPLOY."""

    choice: Choice
    why: str = ""


def judged(
    version: VersionRef,
    current: Service | None,
    history: Sequence[Release],
    seen: Mapping[VersionRef, datetime] | None = None,
) -> Judged:
    """Say what to do about `version`, which the alias points to now.

    `history` is newest first. `seen` is when this watcher last saw the alias at each version: after
    it was seen elsewhere, what failed may be tried again. Of two watchers, the one that looks later
    must not take the failure of the other for an old one, so it counts from its settling.
    """
    newest = history[0] if history else None
    if newest is not None and newest.outcome is Outcome.OPEN:
        return Judged(Choice.WAIT, f"{_told(newest)} is still open")
    intent = current.intent if current else None
    if newest is not None and intent is not None and intent.stopped:
        return Judged(Choice.SKIP, f"the service is stopped ({_told(newest)})")
    if intent is not None and intent.canary_percent is not None:
        return Judged(Choice.SKIP, f"a canary of {intent.version} is running")
    tried = next((r for r in history if r.action is Action.DEPLOY and _applied(r)), None)
    if tried is None or tried.intent.version != version:
        return Judged(Choice.DEPLOY)
    elsewhere = max((at for ref, at in (seen or {}).items() if ref != version), default=None)
    if elsewhere is not None and elsewhere > (tried.settled_at or tried.created_at):
        return Judged(Choice.DEPLOY)
    if tried.outcome is Outcome.FAILED:
        cause = f": {one_line(tried.cause.what)}" if tried.cause else ""
        return Judged(Choice.SKIP, f"release {tried.number} of it failed{cause}")
    after = next((r for r in history if r.number > tried.number and _leaves(r, version)), None)
    if after is not None:
        return Judged(Choice.SKIP, f"{_told(after)} took it back")
    return Judged(Choice.DEPLOY)


def wait_s(interval_s: float, failures: int) -> float:
    """Seconds until the next look after so many failed ones in a row: doubled each time."""
    return max(interval_s, min(interval_s * 2.0 ** min(failures, 16), LONGEST_WAIT_S))


def _applied(release: Release) -> bool:
    return release.outcome is not Outcome.NOT_APPLIED


def _leaves(release: Release, version: VersionRef) -> bool:
    """Whether a release took the service from `version`."""
    gone = release.action is Action.DELETE
    return _applied(release) and (gone or release.intent.version != version)


def _told(release: Release) -> str:
    who = f" by {one_line(release.actor, 80)}" if release.actor else ""
    return f"release {release.number} ({release.action}{who})"
