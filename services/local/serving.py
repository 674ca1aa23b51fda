"""ports.Serving on this machine: reads and writes the state folder, and starts supervisors.

Everything that is shown comes from files, so two dashboards and a terminal see the same. The one
write of a deployment is service.json; the supervisor of the service does the rest.
"""

from __future__ import annotations

import contextlib
import heapq
import importlib.metadata
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from services.domain import (
    Answering,
    Applied,
    Drift,
    Endpoint,
    Finding,
    Intent,
    LogLine,
    Mode,
    Observed,
    Outcome,
    Phase,
    Plan,
    Rehearsal,
    Release,
    Service,
    Verdict,
    WayIn,
)
from services.errors import Conflict, NotDeployable, NotFound, SlipwayError, one_line
from services.local.journal import abandoned, find_release, next_number
from services.local.state import (
    STALE_AFTER_S,
    ProcessId,
    ProcessState,
    Seen,
    ServiceFolder,
    Share,
    Wish,
    manifest_of,
    now,
)

if TYPE_CHECKING:
    from services.local.environments import Environments

# A MLServer with scikit-learn holds about 350 MB; less than this and the machine will swap.
_MEMORY_NEEDED_BYTES = 512 * 1024 * 1024
_DISK_NEEDED_BYTES = 512 * 1024 * 1024

_LOG_READ_BYTES = 1024 * 1024
_LOG_LINES = 5_000
_FOLLOW_EVERY_S = 0.25

_PHASE_WORDS = {
    Phase.READY: "ready",
    Phase.ROLLING_OUT: "rolling out",
    Phase.STOPPED: "stopped",
}


class LocalServing:
    """ports.Serving for the target of the name `target`, with its state below `root`."""

    def __init__(
        self,
        root: Path,
        target: str,
        *,
        environments: Environments | None = None,
        uv: Path | None = None,
    ) -> None:
        self._root = root.absolute()
        self._target = target
        self._uv = uv
        self._given_environments = environments

    # ── Looking ───────────────────────────────────────────────────────────────────────────────

    def services(self) -> Sequence[Service]:
        """Every service of the target, by name."""
        found = (self.service(name) for name in ServiceFolder.names(self._root))
        return [service for service in found if service is not None]

    def service(self, name: str) -> Service | None:
        """One service; None when there is none of that name."""
        folder = self._folder(name)
        wish = _present(folder) if folder else None
        if folder is None or wish is None:
            return None
        seen = self._observed(folder, wish)
        release = find_release(folder, wish.release)
        facts = folder.seen()
        # A delete has no intent of its own: until it is done, the service is what it was.
        intent = wish.intent or (release.intent if release else None)
        port = _port(folder, wish, facts)
        return Service(
            name=name,
            target=self._target,
            namespace="",
            mode=Mode.LOCAL,
            managed=True,
            object_version=str(wish.release),
            intent=intent,
            release=wish.release,
            phase=_phase(seen),
            message=_message(seen),
            answering=seen.answering,
            stable=wish.stable.workload if wish.stable else None,
            url=f"http://127.0.0.1:{port}" if port else None,
            since=facts.since if facts and seen.answering else None,
            actor=release.actor if release else "",
            verified=bool(release and release.verified and seen.available),
            drift=seen.drift,
        )

    def observe(self, name: str) -> Observed:
        """Look once; plain facts."""
        folder = self._folder(name)
        wish = _present(folder) if folder else None
        if folder is None or wish is None:
            return Observed(name, now(), exists=False)
        return self._observed(folder, wish)

    def logs(
        self,
        name: str,
        *,
        container: str | None = None,
        previous: bool = False,
        tail: int = 200,
        follow: bool = False,
    ) -> Iterator[LogLine]:
        """Lines of every process of the service, merged by time, capped. NotFound.

        `container` is `release-N` or `supervisor`; `previous` gives the releases before.
        """
        folder = self._known(name)
        files = _log_files(folder, previous=previous)
        if container is not None and container not in files:
            raise NotFound(
                f"{name} has no log of {container!r}.",
                why=f"There are: {', '.join(files) or 'none yet'}.",
            )
        chosen = {source: path for source, path in files.items() if container in {None, source}}
        return _log_lines(folder, chosen, min(tail, _LOG_LINES), container, follow=follow)

    def containers(self, name: str) -> Sequence[str]:
        """The logs of its processes: `release-N` and `supervisor`. NotFound."""
        return tuple(_log_files(self._known(name), previous=False))

    def events(self, name: str) -> Sequence[LogLine]:
        """The time line of the service, oldest first. NotFound."""
        folder = self._known(name)
        return [
            LogLine(event.at, _source(event.release), event.text, event.warning)
            for event in folder.events()
        ]

    def endpoint(self, name: str, release: int | None = None) -> Endpoint:
        """The service's own address; `release` asks for the process that it started. NotFound."""
        folder = self._known(name)
        wish = folder.wish()
        port = _port(folder, wish, folder.seen()) if wish else None
        if port is None:
            raise NotFound(
                f"{name} has no address yet.",
                why="It was never started, or it was removed.",
                fix=f"Look at `slipway status {name}`.",
            )
        return Endpoint(
            base_url=f"http://127.0.0.1:{port}",
            model_name=name,
            via=WayIn.LOOPBACK,
            why="The service runs on this machine, behind a gateway at its own port.",
            headers=() if release is None else (("x-slipway-release", str(release)),),
            release=release,
            registered_model=_model(wish),
        )

    def check(self) -> Sequence[Finding]:
        """Whether this machine can serve. Never raises."""
        return [
            self._check_server(),
            self._check_uv(),
            self._check_folder(),
            self._check_disk(_DISK_NEEDED_BYTES),
            _check_memory(),
            _check_loopback(),
        ]

    # ── Planning ──────────────────────────────────────────────────────────────────────────────

    def default_intent(self, intent: Intent) -> Intent:
        """The intent with this target's mode, and the port that the service has already."""
        folder = self._folder(intent.service)
        wish = folder.wish() if folder else None
        kept = wish.intent.port if wish and wish.intent else None
        return replace(intent, mode=Mode.LOCAL, port=intent.port or kept)

    def rehearse(self, plan: Plan) -> Rehearsal:
        """The text of service.json as it will be, and this machine's own checks."""
        folder = ServiceFolder(self._root, plan.service)
        number = next_number(folder)
        workload = number if plan.workload is None else plan.workload
        manifest = manifest_of(self._wish_of(folder, plan, number, workload))
        intent = plan.after
        if intent is None or intent.stopped:
            return Rehearsal(manifest)
        findings = [self._check_port(folder, intent)]
        if plan.workload is None:
            package = Path(intent.package.uri)
            findings += [
                self._check_environment(intent, package),
                _check_package(package),
                self._check_disk(_DISK_NEEDED_BYTES + 2 * (intent.package.size_bytes or 0)),
                _check_memory(),
            ]
        return Rehearsal(manifest, tuple(findings))

    # ── The one write ─────────────────────────────────────────────────────────────────────────

    def apply(self, plan: Plan, release: Release) -> Applied:
        """Write what is wished, once, and see that somebody acts on it. Conflict, NotFound."""
        folder = ServiceFolder(self._root, plan.service)
        folder.make()
        with folder.locked():
            present = _present(folder)
            applied = Applied(release.number, str(release.number))
            newest = folder.wish()
            if newest is not None and newest.release == release.number:
                return applied
            seen = str(present.release) if present else None
            if seen != plan.based_on:
                raise _changed(folder, present)
            record = find_release(folder, release.number)
            if record is not None and record.outcome is not Outcome.OPEN:
                raise Conflict(
                    f"Release {release.number} of {plan.service} was given up meanwhile."
                    " Nothing was changed.",
                    why=f"It is recorded as {record.outcome}.",
                    fix="Look at the new state and plan again.",
                )
            folder.write_wish(self._wish_of(folder, plan, release.number, release.workload))
            text = f"{release.action} by {release.actor}: {release.reason}".rstrip(": ")
            folder.note(text, release.number)
            if not folder.supervised():
                self._start_supervisor(folder)
        return applied

    def _wish_of(self, folder: ServiceFolder, plan: Plan, number: int, workload: int) -> Wish:
        stable = None
        if plan.stable is not None and plan.after is not None:
            record = find_release(folder, plan.stable)
            if record is None:
                raise NotFound(
                    f"{plan.service} has no release {plan.stable} to keep beside the canary.",
                    fix=f"Look at `slipway history {plan.service}`.",
                )
            stable = Share(plan.stable, record.intent, 100 - (plan.after.canary_percent or 0))
        return Wish(plan.service, number, workload, plan.after, stable)

    def _start_supervisor(self, folder: ServiceFolder) -> None:
        command = [sys.executable, "-m", "services.local.supervisor", str(self._root), folder.name]
        if self._uv is not None:
            command += ["--uv", str(self._uv)]
        if _size(folder.supervisor_log) > _LOG_READ_BYTES:
            folder.supervisor_log.replace(folder.supervisor_log.with_suffix(".log.1"))
        descriptor = os.open(folder.supervisor_log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            process = subprocess.Popen(
                command,
                # Detached: it outlives this process, its terminal and its session.
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                start_new_session=True,
            )
        finally:
            os.close(descriptor)
        # Waited for in the background, so that it leaves no zombie when it ends before we do.
        threading.Thread(target=process.wait, daemon=True).start()
        with contextlib.suppress(psutil.NoSuchProcess):
            folder.write_supervisor(ProcessId.of(process.pid))

    # ── From files to facts ───────────────────────────────────────────────────────────────────

    def _folder(self, name: str) -> ServiceFolder | None:
        """The files of a service; None for what cannot be a service's name."""
        try:
            return ServiceFolder(self._root, name)
        except NotFound:
            return None

    def _known(self, name: str) -> ServiceFolder:
        folder = self._folder(name)
        if folder is None or not folder.path.is_dir():
            names = ", ".join(ServiceFolder.names(self._root)[:20])
            raise NotFound(
                f"There is no service {name!r} on {self._target}.",
                why=f"There are: {names}." if names else "There is none at all yet.",
                fix="Look at `slipway status`.",
            )
        return folder

    def _observed(self, folder: ServiceFolder, wish: Wish) -> Observed:
        seen = folder.seen() or Seen(release=0)
        version = wish.intent.version if wish.intent else None
        base = Observed(folder.name, now(), wanted_release=wish.release, wanted_version=version)
        caught_up = seen.release == wish.release
        if not folder.supervised() and folder.awaited():
            return replace(base, desired=1 if wish.running else 0, message="being started")
        if not folder.supervised():
            return _unsupervised(base, folder, wish, seen, caught_up=caught_up)
        shares = wish.shares()
        answering = tuple(Answering(r.version, r.workload, r.percent) for r in seen.routes)
        running = [w for w in seen.workloads if w.number == wish.workload]
        ready = [w for w in running if w.state is ProcessState.READY]
        wished = {(share.workload, share.percent) for share in shares}
        return replace(
            base,
            caught_up=caught_up,
            desired=1 if wish.running else 0,
            updated=len(running),
            total=len(running),
            available=len(ready),
            model_ready=seen.model_ready if caught_up else None,
            traffic_as_wanted=caught_up
            and wished == {(route.workload, route.percent) for route in seen.routes},
            stopped=caught_up and seen.stopped,
            failure=seen.failure if caught_up else None,
            test=seen.test if caught_up else base.test,
            test_detail=seen.test_detail if caught_up else "",
            answering=answering,
            steps=seen.steps if caught_up else (),
            message=_silence(folder) or ("" if wish.running or seen.stopped else "stopping"),
        )

    # ── Checks ────────────────────────────────────────────────────────────────────────────────

    def _check_server(self) -> Finding:
        name = "MLServer"
        try:
            versions = [importlib.metadata.version(d) for d in ("mlserver", "mlserver-mlflow")]
        except importlib.metadata.PackageNotFoundError as error:
            return Finding(
                name,
                Verdict.FAIL,
                f"{error.name} is not installed beside Slipway.",
                "Install Slipway with the extra `local`.",
            )
        return Finding(name, Verdict.PASS, f"{versions[0]}, with mlserver-mlflow {versions[1]}")

    def _check_uv(self) -> Finding:
        name = "uv"
        beside = Path(sys.executable).with_name("uv")
        found = self._uv or (beside if beside.exists() else None) or shutil.which("uv")
        if found is None:
            return Finding(
                name,
                Verdict.WARN,
                "uv was not found: models that need other libraries cannot be served.",
                "Install Slipway with the extra `local`, which brings it.",
            )
        return Finding(name, Verdict.PASS, str(found))

    def _check_folder(self) -> Finding:
        name = "state folder"
        existing = next(p for p in (self._root, *self._root.parents) if p.exists())
        if os.access(existing, os.W_OK | os.X_OK):
            return Finding(name, Verdict.PASS, str(self._root))
        return Finding(
            name, Verdict.FAIL, f"{existing} cannot be written.", "Change its owner or its mode."
        )

    def _check_disk(self, needed_bytes: int) -> Finding:
        name = "room on disk"
        existing = next(p for p in (self._root, *self._root.parents) if p.exists())
        free = shutil.disk_usage(existing).free
        text = f"{free / 1e9:.1f} GB are free"
        if free < needed_bytes:
            return Finding(
                name,
                Verdict.WARN,
                f"{text}; {needed_bytes / 1e9:.1f} GB may be needed.",
                "Make room before you deploy.",
            )
        return Finding(name, Verdict.PASS, text)

    def _check_port(self, folder: ServiceFolder, intent: Intent) -> Finding:
        name = "port"
        port = intent.port
        if port is None:
            kept = folder.address()
            text = f"{kept}, as before" if kept else "one that is free is chosen once and kept"
            return Finding(name, Verdict.PASS, text)
        if not 1024 <= port <= 65_535:
            return Finding(
                name, Verdict.FAIL, f"{port} cannot be used.", "Choose one from 1024 to 65535."
            )
        seen = folder.seen()
        if seen is not None and seen.port == port and folder.supervised():
            return Finding(name, Verdict.PASS, f"{port}, as now")
        other = next((n for n in ServiceFolder.names(self._root) if self._claims(n, port)), None)
        if other is not None and other != folder.name:
            return Finding(
                name,
                Verdict.FAIL,
                f"{port} is the address of the service {other}.",
                "Choose another port.",
            )
        from services.local.process import is_free

        if not is_free(port):
            return Finding(
                name,
                Verdict.FAIL,
                f"{port} is taken by another program.",
                f"End that program (`lsof -i :{port}` names it), or choose another port.",
            )
        return Finding(name, Verdict.PASS, f"{port} is free")

    def _claims(self, name: str, port: int) -> bool:
        folder = ServiceFolder(self._root, name)
        wish = folder.wish()
        given = wish.intent.port if wish and wish.intent else None
        return port == (given or folder.address())

    @cached_property
    def _environments(self) -> Environments:
        from services.local.environments import Environments

        return self._given_environments or Environments(self._root / "environments", self._uv)

    def _check_environment(self, intent: Intent, package: Path) -> Finding:
        from services.local.environments import formats_of

        name = "libraries"
        try:
            chosen = self._environments.choose(
                intent.requirements, intent.python_version, formats_of(package)
            )
        except NotDeployable as error:
            return Finding(name, Verdict.FAIL, f"{error.what} {error.why}".strip(), error.fix)
        except SlipwayError as error:
            return Finding(name, Verdict.WARN, f"{error.what} {error.why}".strip(), error.fix)
        if chosen.own:
            return Finding(name, Verdict.PASS, "Slipway's own environment fits the model.")
        why = one_line("; ".join(reason.rstrip(".") for reason in chosen.reasons))
        if chosen.ready:
            return Finding(name, Verdict.PASS, f"An isolated environment is ready ({why}).")
        return Finding(
            name,
            Verdict.WARN,
            f"An isolated environment will be made, which takes a minute or more ({why}).",
        )


def _present(folder: ServiceFolder) -> Wish | None:
    """What is wished of a service; None when there is none, or one that nobody removes any more.

    A supervisor that died while it removed its service took every process along: what is left is
    the file, and the next deployment replaces it.
    """
    wish = folder.wish()
    gone = wish is not None and wish.intent is None
    return None if gone and not folder.supervised() and not folder.awaited() else wish


def _unsupervised(
    base: Observed, folder: ServiceFolder, wish: Wish, seen: Seen, *, caught_up: bool
) -> Observed:
    """What to say of a service that nobody supervises."""
    release = find_release(folder, wish.release)
    is_open = release is not None and release.outcome is Outcome.OPEN
    if not wish.running:
        # Stopped in good order; or its supervisor died first, and its processes with it.
        return replace(base, caught_up=True, stopped=True, steps=seen.steps if caught_up else ())
    cause = abandoned(folder)
    if is_open:
        said = folder.supervisor_log.read_text(errors="replace") if seen.release else ""
        evidence = tuple(one_line(line) for line in said.splitlines()[-10:])
        return replace(
            base,
            caught_up=True,
            desired=1,
            failure=replace(cause, evidence=evidence),
            steps=seen.steps if caught_up else (),
        )
    if release is not None and release.outcome is Outcome.FAILED:
        return replace(
            base, caught_up=True, desired=1, failure=release.cause or cause, message=cause.what
        )
    message = f"{cause.what} {cause.fix}"
    drift = (Drift("process", "running", "not running", by="supervisor"),)
    return replace(base, caught_up=True, desired=1, stopped=True, message=message, drift=drift)


def _silence(folder: ServiceFolder) -> str:
    beat = folder.last_beat()
    if beat is None:
        return ""
    age_s = (now() - beat).total_seconds()
    return f"Its supervisor was last heard {age_s:.0f} s ago." if age_s > STALE_AFTER_S else ""


def _phase(seen: Observed) -> Phase:
    if seen.stopped:
        return Phase.STOPPED
    if seen.failure is not None:
        return Phase.FAILED
    ready = seen.caught_up and seen.available == seen.desired and seen.traffic_as_wanted
    return Phase.READY if ready and seen.model_ready else Phase.ROLLING_OUT


def _message(seen: Observed) -> str:
    if seen.failure is not None:
        still = ", ".join(str(side.version) for side in seen.answering)
        return f"{seen.failure.what} {still} still answers." if still else seen.failure.what
    return seen.message


def _model(wish: Wish | None) -> str:
    version = wish.intent.version if wish and wish.intent else None
    return version.model if version else ""


def _port(folder: ServiceFolder, wish: Wish, seen: Seen | None) -> int | None:
    if seen is not None and seen.port is not None and folder.supervised():
        return seen.port
    given = wish.intent.port if wish.intent else None
    return given or folder.address()


def _changed(folder: ServiceFolder, present: Wish | None) -> Conflict:
    if present is None:
        return Conflict(
            f"{folder.name} was removed while you were looking. Nothing was changed.",
            fix="Look at the new plan and confirm it again.",
        )
    release = find_release(folder, present.release)
    why = ""
    if release is not None:
        version = release.intent.version
        at = f"{release.created_at:%H:%M:%S} UTC"
        why = f"{release.actor} did: {release.action} {version or ''}, at {at}."
    return Conflict(
        f"{folder.name} changed while you were looking. Nothing was changed.",
        why=why,
        fix="Look at the new plan and confirm it again.",
    )


def _check_package(package: Path) -> Finding:
    name = "package"
    if (package / "MLmodel").is_file():
        return Finding(name, Verdict.PASS, "Its files are on this machine.")
    return Finding(name, Verdict.SKIP, "Its files are put in place before the service is changed.")


def _check_memory() -> Finding:
    name = "memory"
    free = psutil.virtual_memory().available
    text = f"{free / 1e9:.1f} GB are available"
    if free < _MEMORY_NEEDED_BYTES:
        return Finding(
            name, Verdict.WARN, f"{text}: a model server needs about 0.4 GB.", "Stop a service."
        )
    return Finding(name, Verdict.PASS, text)


def _check_loopback() -> Finding:
    from services.local.process import is_free

    name = "loopback"
    if is_free(0):
        return Finding(name, Verdict.PASS, "Servers can listen on 127.0.0.1.")
    return Finding(
        name, Verdict.FAIL, "No server can listen on 127.0.0.1.", "Bring up the interface `lo`."
    )


# ── Logs ──────────────────────────────────────────────────────────────────────────────────────


def _source(workload: int | None) -> str:
    return "service" if workload is None else f"release-{workload}"


def _log_files(folder: ServiceFolder, *, previous: bool) -> dict[str, Path]:
    """Log files by source: those of what runs or was last to run, or those before it."""
    wish, seen = folder.wish(), folder.seen()
    all_files = {
        _source(int(path.stem.removeprefix("release-"))): path
        for path in sorted(folder.logs.glob("release-*.log"))
    }
    current = {_source(share.workload) for share in (wish.shares() if wish else ())}
    current |= {_source(route.workload) for route in (seen.routes if seen else ())}
    current |= {_source(workload.number) for workload in (seen.workloads if seen else ())}
    if not current & set(all_files):
        current = set(list(all_files)[-1:])
    chosen = {s: path for s, path in all_files.items() if (s in current) != previous}
    return chosen if previous else {**chosen, "supervisor": folder.supervisor_log}


def _log_lines(
    folder: ServiceFolder,
    files: dict[str, Path],
    tail: int,
    container: str | None,
    *,
    follow: bool,
) -> Iterator[LogLine]:
    places = {source: _size(path) for source, path in files.items()}
    each = (_read_lines(source, path, 0, places[source]) for source, path in files.items())
    merged = list(heapq.merge(*each, key=_time_of))
    yield from merged[-tail:] if tail else ()
    while follow:
        time.sleep(_FOLLOW_EVERY_S)
        fresh: list[LogLine] = []
        for source, path in _log_files(folder, previous=False).items():
            if container not in {None, source}:
                continue
            size, place = _size(path), places.get(source, 0)
            # A log that got shorter was put aside: its successor starts at the beginning.
            place = place if place <= size else 0
            fresh += _read_lines(source, path, place, size)
            places[source] = size
        yield from sorted(fresh, key=_time_of)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _read_lines(source: str, path: Path, start: int, end: int) -> list[LogLine]:
    start = max(start, end - _LOG_READ_BYTES)
    if end <= start:
        return []
    with path.open("rb") as file:
        file.seek(start)
        text = file.read(end - start).decode(errors="replace")
    lines: list[LogLine] = []
    at: datetime | None = None
    for line in text.splitlines():
        stamp, _, rest = line.partition(" ")
        try:
            at = datetime.fromisoformat(stamp)
        except ValueError:
            rest = line  # a traceback's further line: the time is the line's before
        lines.append(LogLine(at, source, rest, _is_warning(rest)))
    return lines


def _is_warning(text: str) -> bool:
    return any(word in text[:80] for word in ("WARNING", "ERROR", "CRITICAL", "Traceback"))


def _time_of(line: LogLine) -> float:
    return line.time.timestamp() if line.time else 0.0
