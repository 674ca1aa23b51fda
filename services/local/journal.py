"""Releases of target `local`: one file each, created once, its outcome added once.

The file of release 12 is made by a link that fails where the name is taken: the number is a
compare-and-set, and whoever makes it holds the service until the outcome is written. A process
that dies in between leaves an open release; whoever wants the service next looks at what became of
it (`recover`) and says so in the record. Called by rollout and by the supervisor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from services import records
from services.domain import Action, Cause, Outcome, Plan, Release, may_follow
from services.errors import Conflict, NotDeployable
from services.local.state import ServiceFolder, create_once, exclusive, now, write_whole

# begin() is followed by apply() within milliseconds. An open release that was not applied after
# this long belongs to a process that died or stands still; if it wakes up, apply() refuses it.
_UNAPPLIED_AFTER = timedelta(seconds=30)


class LocalJournal:
    """ports.Journal in files below `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def history(self, service: str) -> Sequence[Release]:
        """Releases, newest first; empty for an unknown service."""
        folder = ServiceFolder(self._root, service)
        return [read_release(path) for path in reversed(_paths(folder))]

    def histories(self) -> Mapping[str, Sequence[Release]]:
        """Every service's history by name."""
        folders = sorted((self._root / "services").glob("*/releases"))
        return {folder.parent.name: self.history(folder.parent.name) for folder in folders}

    def begin(self, plan: Plan, actor: str, reason: str) -> Release:
        """Record the release with outcome OPEN and hold the service by it. Conflict."""
        folder = ServiceFolder(self._root, plan.service)
        folder.make()
        with exclusive(folder.releases / "lock", plan.service):
            known = [read_release(path) for path in _paths(folder)]
            same = next((r for r in known if r.operation == plan.nonce), None)
            if same is not None:
                return same
            for release in known:
                if release.outcome is Outcome.OPEN:
                    _refuse(recover(folder, release))
            intent = plan.after or plan.before
            if intent is None:
                raise NotDeployable(
                    f"There is nothing to record for {plan.service}. Nothing was changed.",
                    why="The plan has neither a before nor an after.",
                )
            number = known[-1].number + 1 if known else 1
            release = Release(
                number=number,
                service=plan.service,
                action=plan.action,
                intent=intent,
                actor=actor,
                reason=reason,
                created_at=now(),
                operation=plan.nonce,
                workload=number if plan.workload is None else plan.workload,
                rolled_back_from=plan.rolled_back_from,
                rolled_back_to=plan.rolled_back_to,
                alias=plan.alias,
                rollback_on_failure=plan.rollback_on_failure,
            )
            if not create_once(release_path(folder, number), records.dump(release, indent=2)):
                raise Conflict(
                    f"Release {number} of {plan.service} was made by somebody else just now."
                    " Nothing was changed.",
                    fix="Look at the new state and plan again.",
                )
            return release

    def close(
        self, release: Release, outcome: Outcome, cause: Cause | None = None, *, late: bool = False
    ) -> Release:
        """Record the outcome. Idempotent: the first stands, but a TIMEOUT may succeed late."""
        folder = ServiceFolder(self._root, release.service)
        with exclusive(folder.releases / "lock", release.service):
            return _close(folder, release.number, outcome, cause, late=late)


def release_path(folder: ServiceFolder, number: int) -> Path:
    """The file of one release."""
    return folder.releases / f"{number:06d}.json"


def read_release(path: Path) -> Release:
    """The release in a file. ConfigError when it cannot be read."""
    return records.load(Release, path.read_bytes())


def find_release(folder: ServiceFolder, number: int) -> Release | None:
    """One release of a service; None when there is none of that number."""
    path = release_path(folder, number)
    return read_release(path) if path.exists() else None


def next_number(folder: ServiceFolder) -> int:
    """The number that the next release will have."""
    paths = _paths(folder)
    return int(paths[-1].stem) + 1 if paths else 1


def _paths(folder: ServiceFolder) -> list[Path]:
    return sorted(folder.releases.glob("[0-9]*.json"))


def recover(folder: ServiceFolder, release: Release) -> Release:
    """Find out what became of an open release, and record it if nobody works on it any more.

    Call it while holding the releases' lock. Gives the release as it now stands.
    """
    wish = folder.wish()
    if wish is not None and wish.release == release.number:
        if folder.supervised() or folder.awaited():
            return release
        return _close(folder, release.number, Outcome.FAILED, abandoned(folder))
    if wish is None and release.action is Action.DELETE:
        return _close(folder, release.number, Outcome.DELETED, None)
    if wish is None or wish.release < release.number:
        if now() - release.created_at < _UNAPPLIED_AFTER:
            return release
        return _close(folder, release.number, Outcome.NOT_APPLIED, None)
    return _close(folder, release.number, Outcome.FAILED, _replaced(wish.release))


def abandoned(folder: ServiceFolder) -> Cause:
    """The cause of a release whose supervisor is gone."""
    beat = folder.last_beat()
    since = "" if beat is None else f" since {beat:%Y-%m-%d %H:%M:%S} UTC"
    return Cause(
        what=f"{folder.name} is not running{since}.",
        why="Its supervisor ended: it was killed, or this machine was restarted.",
        fix=f"Start it again: `slipway start {folder.name}`.",
        code="L9",
        where="supervisor",
    )


def _replaced(by: int) -> Cause:
    return Cause(what=f"Release {by} took its place before it was settled.")


def _close(
    folder: ServiceFolder, number: int, outcome: Outcome, cause: Cause | None, *, late: bool = False
) -> Release:
    path = release_path(folder, number)
    known = read_release(path)
    if not may_follow(known.outcome, outcome, late=late):
        return known
    late = late and outcome is not Outcome.FAILED
    closed = replace(known, outcome=outcome, cause=cause, settled_at=now(), late=late)
    write_whole(path, records.dump(closed, indent=2), durable=True)
    return closed


def _refuse(release: Release) -> None:
    if release.outcome is not Outcome.OPEN:
        return
    version = release.intent.version
    raise Conflict(
        f"Another operation on {release.service} is open. Nothing was changed.",
        why=f"{release.actor} began to {release.action} {version or 'it'} at"
        f" {release.created_at:%H:%M:%S} UTC (release {release.number}).",
        fix=f"Watch it with `slipway status {release.service}`, then plan again.",
    )
