"""What target `local` keeps on disk, and the rules of who writes what. No process is touched here.

::

    <root>/services/<name>/
        service.json       Wish: what the service should be; apply alone writes it, under `lock`
        supervisor.json    ProcessId of the supervisor that was started last
        observed.json      Seen: what the supervisor sees, its alone; the mtime is a heartbeat
        answered.json      the shares that answered last: what to fall back to
        address.json       the port that was chosen for the service once
        events.jsonl       the time line of steps and transitions
        releases/000012.json   one record per release; created once, outcome added once
        logs/  run/<workload>/

Every file is replaced as a whole by a rename, so that a reader without a lock sees the old or the
new one. Folders are 0700 and files 0600: manifests, examples and logs are the operator's own.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

import psutil

from services import records
from services.domain import Cause, Intent, Step, TestResult, VersionRef, service_name_problem
from services.errors import Conflict, NotFound

# A supervisor touches observed.json every 2 s. Five missed beats: it is stopped or starved.
HEARTBEAT_S = 2.0
STALE_AFTER_S = 10.0

# Writers hold a lock for milliseconds; whoever waits longer than this met a stuck process.
_LOCK_WAIT_S = 10.0

# Between the two writes of apply lies the start of a process.
_STARTED_WITHIN_S = 5.0

_EVENTS_LIMIT_BYTES = 512 * 1024


def now() -> datetime:
    """The present moment, aware, in UTC."""
    return datetime.now(UTC)


# ── Records ───────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Share:
    """A part of the traffic: `percent` of it goes to the process that `workload` names."""

    workload: int
    """Number of the release that started the process."""
    intent: Intent
    percent: int


@dataclass(frozen=True, slots=True)
class Wish:
    """What a service should be: the whole of service.json, and the manifest that a plan shows."""

    service: str
    release: int
    """The release that wishes it. It only grows, also over a delete: the object's version."""
    workload: int
    intent: Intent | None
    """None asks for the service's removal."""
    stable: Share | None = None
    """While `intent` is a canary: who keeps the rest of the traffic."""

    @property
    def running(self) -> bool:
        """True when processes are to run."""
        return self.intent is not None and not self.intent.stopped

    def shares(self) -> tuple[Share, ...]:
        """Who is to answer, the wished intent first; percents sum to 100. Empty when stopped."""
        if self.intent is None or self.intent.stopped:
            return ()
        if self.stable is None or self.intent.canary_percent is None:
            return (Share(self.workload, self.intent, 100),)
        percent = self.intent.canary_percent
        stable = self.stable
        return (
            Share(self.workload, self.intent, percent),
            Share(stable.workload, stable.intent, 100 - percent),
        )


class ProcessState(StrEnum):
    """How far one MLServer process has come."""

    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process for certain: a pid alone may be reused by another one."""

    pid: int
    created: float
    """Seconds since the epoch, as the operating system tells it."""

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """Name a process that is known to run. psutil.NoSuchProcess when it does not."""
        return cls(pid, psutil.Process(pid).create_time())

    def alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        try:
            process = psutil.Process(self.pid)
            # The operating system rounds to clock ticks, and a clock that is set shifts both.
            same = abs(process.create_time() - self.created) < 2.0
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


@dataclass(frozen=True, slots=True)
class WorkloadSeen:
    """One MLServer process as its supervisor sees it."""

    number: int
    state: ProcessState
    process: ProcessId | None = None
    http_port: int | None = None


@dataclass(frozen=True, slots=True)
class RouteSeen:
    """One route as it is set at the gateway."""

    workload: int
    version: VersionRef | None
    percent: int


@dataclass(frozen=True, slots=True)
class Seen:
    """What a supervisor sees: the whole of observed.json."""

    release: int
    """The release that it acts on."""
    workloads: tuple[WorkloadSeen, ...] = ()
    routes: tuple[RouteSeen, ...] = ()
    steps: tuple[Step, ...] = ()
    port: int | None = None
    """Where the gateway listens; None while it does not."""
    model_ready: bool | None = None
    test: TestResult = TestResult.NOT_RUN
    test_detail: str = ""
    failure: Cause | None = None
    stopped: bool = False
    since: datetime | None = None
    """When the routes were last changed."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The shares that took traffic last: the whole of answered.json."""

    shares: tuple[Share, ...]


@dataclass(frozen=True, slots=True)
class Address:
    """The port that was chosen for a service without one of its own."""

    port: int


@dataclass(frozen=True, slots=True)
class Event:
    """One line of events.jsonl."""

    at: datetime
    text: str
    release: int | None = None
    warning: bool = False


# ── Files ─────────────────────────────────────────────────────────────────────────────────────


def make_folder(path: Path) -> Path:
    """Make a folder and its parents, each readable by its owner alone."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def write_whole(path: Path, text: str, *, durable: bool = False) -> None:
    """Replace `path` at once: readers see the old text or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    if durable:
        _sync_folder(path.parent)


def create_once(path: Path, text: str) -> bool:
    """Make `path` with its whole text if nobody else did; False when it is there already."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    write_whole(temporary, text, durable=True)
    try:
        # A link fails where the name is taken, and shows the file only with all of its text.
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)
    return True


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_text(path: Path) -> str | None:
    """The text of a file; None when there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


class ServiceFolder:
    """The files of one service, by their meaning. Making one writes nothing.

    NotFound when `name` could not name a service: foreign text never becomes a path.
    """

    def __init__(self, root: Path, name: str) -> None:
        problem = service_name_problem(name)
        if problem:
            raise NotFound(f"{name!r} names no service.", why=problem)
        self.name = name
        self.path = root / "services" / name
        self.releases = self.path / "releases"
        self.logs = self.path / "logs"
        self.supervisor_lock = self.path / "supervisor.lock"
        self.supervisor_log = self.logs / "supervisor.log"
        self._wish = self.path / "service.json"
        self._seen = self.path / "observed.json"
        self._supervisor = self.path / "supervisor.json"
        self._answered = self.path / "answered.json"
        self._address = self.path / "address.json"
        self._events = self.path / "events.jsonl"

    @staticmethod
    def names(root: Path) -> tuple[str, ...]:
        """Names of the services that are wished, sorted."""
        found = (path.parent.name for path in (root / "services").glob("*/service.json"))
        return tuple(sorted(name for name in found if not service_name_problem(name)))

    def make(self) -> None:
        """Make the folder and those below it."""
        for folder in (self.path, self.releases, self.logs):
            make_folder(folder)

    def run_folder(self, workload: int) -> Path:
        """The working folder of one MLServer process."""
        return self.path / "run" / f"{workload:06d}"

    def workload_log(self, workload: int) -> Path:
        """The log of one MLServer process; its older half ends in `.1`."""
        return self.logs / f"release-{workload:06d}.log"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the service's wish still. Conflict when somebody else holds it for long."""
        with exclusive(self.path / "lock", self.name):
            yield

    # What is wished: apply writes, the supervisor reads and at last removes.

    def wish(self) -> Wish | None:
        """What the service should be; None when there is no such service."""
        text = read_text(self._wish)
        return None if text is None else records.load(Wish, text)

    def wish_stamp(self) -> tuple[int, int] | None:
        """Changes whenever the wish does; costs one stat."""
        try:
            stat = self._wish.stat()
        except FileNotFoundError:
            return None
        return (stat.st_ino, stat.st_mtime_ns)

    def write_wish(self, wish: Wish) -> None:
        """The one write of a deployment."""
        write_whole(self._wish, manifest_of(wish), durable=True)

    # What is seen: the supervisor writes.

    def seen(self) -> Seen | None:
        """What the supervisor last saw; None before it saw anything."""
        text = read_text(self._seen)
        return None if text is None else records.load(Seen, text)

    def write_seen(self, seen: Seen) -> None:
        """Publish what the supervisor sees; a heartbeat too."""
        write_whole(self._seen, records.dump(seen))

    def beat(self) -> None:
        """Say that the supervisor is alive."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self._seen)

    def last_beat(self) -> datetime | None:
        """When the supervisor was last known to be alive."""
        try:
            return datetime.fromtimestamp(self._seen.stat().st_mtime, UTC)
        except FileNotFoundError:
            return None

    def supervisor(self) -> ProcessId | None:
        """The supervisor that was started last; None when the last one ended in good order."""
        text = read_text(self._supervisor)
        return None if text is None else records.load(ProcessId, text)

    def write_supervisor(self, process: ProcessId | None) -> None:
        """Name the supervisor, or say that it ended in good order."""
        if process is None:
            self._supervisor.unlink(missing_ok=True)
        else:
            write_whole(self._supervisor, records.dump(process))

    def supervised(self) -> bool:
        """Whether a supervisor runs for this service."""
        process = self.supervisor()
        return process is not None and process.alive()

    def awaited(self) -> bool:
        """Whether the supervisor for the newest wish is just being started.

        apply writes the wish first and names the supervisor next; a look in between finds none.
        """
        try:
            wished = self._wish.stat().st_mtime
        except FileNotFoundError:
            return False
        with contextlib.suppress(FileNotFoundError):
            if self._supervisor.stat().st_mtime > wished:
                return False
        wish, seen = self.wish(), self.seen()
        if wish is not None and seen is not None and seen.release == wish.release:
            return False  # one came, acted on it, and ended
        return time.time() - wished < _STARTED_WITHIN_S

    def answered(self) -> tuple[Share, ...]:
        """The shares that took traffic last; empty after a stop."""
        text = read_text(self._answered)
        return () if text is None else records.load(Answered, text).shares

    def write_answered(self, shares: tuple[Share, ...]) -> None:
        """Remember who takes traffic."""
        write_whole(self._answered, records.dump(Answered(shares)), durable=True)

    def address(self) -> int | None:
        """The port that was chosen for the service; None before it was."""
        text = read_text(self._address)
        return None if text is None else records.load(Address, text).port

    def write_address(self, port: int) -> None:
        """Keep the port that was chosen."""
        write_whole(self._address, records.dump(Address(port)))

    def forget(self) -> None:
        """Remove the service; releases, events and logs outlive it."""
        self._wish.unlink(missing_ok=True)
        for path in (self._seen, self._supervisor, self._answered, self._address):
            path.unlink(missing_ok=True)

    # The time line.

    def note(self, text: str, release: int | None = None, *, warning: bool = False) -> None:
        """Add a line to the time line."""
        line = records.dump(Event(now(), text, release, warning)) + "\n"
        descriptor = os.open(self._events, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            # One write of one line: appends of several processes do not mix.
            os.write(descriptor, line.encode())
            size = os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
        if size > _EVENTS_LIMIT_BYTES:
            lines = self._events.read_text(encoding="utf-8").splitlines(keepends=True)
            write_whole(self._events, "".join(lines[len(lines) // 2 :]))

    def events(self) -> tuple[Event, ...]:
        """The time line, oldest first."""
        text = read_text(self._events) or ""
        return tuple(records.load(Event, line) for line in text.splitlines() if line)


def manifest_of(wish: Wish) -> str:
    """The exact text of service.json for a wish."""
    return records.dump(wish, indent=2) + "\n"


@contextlib.contextmanager
def exclusive(path: Path, service: str) -> Iterator[None]:
    """Hold a lock file. Conflict when it stays taken."""
    import filelock

    try:
        with filelock.FileLock(path, timeout=_LOCK_WAIT_S, mode=0o600):
            yield
    except filelock.Timeout as error:
        raise Conflict(
            f"Service {service} is held by another process of this machine. Nothing was changed.",
            why=f"Its lock was not free within {_LOCK_WAIT_S:.0f} s.",
            fix="Look again in a moment; `slipway status` shows what goes on.",
        ) from error
