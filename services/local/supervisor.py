"""One detached process per service: keeps what runs equal to what is wished.

`apply` starts it as `python -m services.local.supervisor <root> <service>`. It owns the service's
stable address with the gateway in its event loop, starts and stops MLServer processes, tests a new
one beside the old, switches the traffic, and records the outcome in the release. It reads the wish
(service.json) and is the only writer of what is seen (observed.json). It ends by itself when the
service is stopped or removed; when it dies, its MLServer processes die with it.

Level-triggered: a newer wish cancels the work on the older one, and each step looks at what runs
instead of trusting what was done before.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import shutil
import signal
import socket
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import psutil

from services.domain import Cause, Intent, Outcome, Step, StepState, TestResult
from services.errors import SlipwayError, one_line
from services.local.environments import Environment, Environments, formats_of
from services.local.journal import LocalJournal, find_release
from services.local.process import Failed, ModelServer, listening_socket, wait_until
from services.local.state import (
    HEARTBEAT_S,
    ProcessId,
    ProcessState,
    RouteSeen,
    Seen,
    ServiceFolder,
    Share,
    Wish,
    WorkloadSeen,
    now,
)

if TYPE_CHECKING:  # imported for good once the first process was started
    import uvicorn
    from starlette.types import ASGIApp

    from services.local.gateway import Route, Router

_log = logging.getLogger("supervisor")

T = TypeVar("T")

# One stat each time: ten a second are not to be seen in top, and an operator does not feel 0.1 s.
_LOOK_EVERY_S = 0.1

_DEADLINE_S = 600.0
"""From the start of the process to the test inference, where the intent names no other."""

_DRAIN_S = 30.0
"""How long requests under way may hold an old process."""

_ADDRESS_PORTS = range(18_000, 20_000)
"""Where services without a port of their own live: apart from the model servers' own ports."""

_KEPT_LOGS = 20

_STEPS = ("environment", "server up", "model loaded", "verified", "traffic")
_STOP_STEPS = ("drained", "stopped")


class Supervisor:
    """The supervisor of one service."""

    def __init__(self, root: Path, folder: ServiceFolder, environments: Environments) -> None:
        self._folder = folder
        self._journal = LocalJournal(root)
        self._environments = environments
        self._servers: dict[int, ModelServer] = {}
        self._stopping: set[asyncio.Task[None]] = set()
        self._gateway = Gateway(folder.name)
        self._wish: Wish | None = None
        self._routes: tuple[Share, ...] = ()
        self._steps: dict[str, Step] = {}
        self._seen = Seen(release=0)
        self._left = asyncio.Event()
        self._terminated = False

    async def run(self) -> None:
        """Supervise until the service is stopped or removed, or this process is told to end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._terminate)
        stamp: object = object()
        work: asyncio.Task[None] | None = None
        beat = 0.0
        while not self._left.is_set() and not self._terminated:
            seen_stamp = self._folder.wish_stamp()
            if seen_stamp != stamp:
                stamp = seen_stamp
                if work is not None:
                    work.cancel()
                    await asyncio.wait([work])
                work = asyncio.create_task(self._take_up())
                work.add_done_callback(self._work_done)
            if time.monotonic() - beat > HEARTBEAT_S:
                beat = time.monotonic()
                self._folder.beat()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._left.wait(), _LOOK_EVERY_S)
        if self._terminated:
            if work is not None:
                work.cancel()
                await asyncio.wait([work])
            await self._stop_all()
            self._folder.note("The supervisor was told to end (SIGTERM).", warning=True)
        await self._gateway.close()

    def _terminate(self) -> None:
        self._terminated = True

    def _work_done(self, work: asyncio.Task[None]) -> None:
        """A bug of ours, or a full disk, ends the work and not the traffic; the record says so."""
        if _log_bug(work) and self._wish is not None:
            cause = Cause(
                "Slipway's own supervisor failed.",
                why=one_line(work.exception()),
                fix=f"Look at `slipway logs {self._folder.name} --container supervisor`.",
                where="supervisor",
            )
            with contextlib.suppress(OSError):
                self._publish(failure=cause)
                self._close(self._wish, Outcome.FAILED, cause)

    # ── From a wish to what runs ──────────────────────────────────────────────────────────────

    async def _take_up(self) -> None:
        """Make what runs equal to the wish of this moment."""
        wish = self._folder.wish()
        self._wish = wish
        if wish is None:  # removed by hand: there is nobody to serve for
            await self._stop_all()
            self._left.set()
            return
        release = find_release(self._folder, wish.release)
        if release is not None and release.outcome in {Outcome.FAILED, Outcome.NOT_APPLIED}:
            # Somebody gave it up before we came to it: a new plan is needed to try again.
            given_up = release.cause or Cause(f"Release {release.number} was given up.")
            self._publish(release=wish.release, failure=given_up)
            if not self._routes:
                self._left.set()
            return
        names = _STEPS if wish.running else _STOP_STEPS
        self._steps = {name: Step(name, StepState.PENDING) for name in names}
        self._publish(
            release=wish.release,
            failure=None,
            test=TestResult.NOT_RUN,
            test_detail="",
            model_ready=None,
            stopped=False,
        )
        if not wish.running:
            await self._shut_down(wish)
            return
        await self._retire({share.workload for share in wish.shares()})
        try:
            await self._bring_up(wish)
        except Failed as failed:
            await self._give_up(wish, failed.cause)

    async def _bring_up(self, wish: Wish) -> None:
        intent = wish.intent
        assert intent is not None
        self._take_address(intent)
        if wish.stable is not None:
            await self._up(wish.stable.workload, wish.stable.intent)
        server = await self._up(wish.workload, intent, self._step)
        result, detail = await self._tested(server)
        with self._step("traffic"):
            await self._gateway.open()
            if server.state is not ProcessState.READY:
                raise Failed(server.cause or Cause(f"{server.where} ended."))
            self._publish(model_ready=True, test=result, test_detail=detail)
            self._route(wish.shares())
            await self._gateway.leave_old_address()
        outcome = Outcome.VERIFIED if result is TestResult.PASS else Outcome.SERVING
        cause = None if result is TestResult.PASS else Cause("Not verified", why=detail)
        self._close(wish, outcome, cause)
        await self._retire()

    async def _give_up(self, wish: Wish, cause: Cause) -> None:
        """The wished release cannot serve: say why, and let serve what can."""
        self._folder.note(f"Failed: {cause.what}", wish.release, warning=True)
        self._publish(failure=cause)
        if not self._routes:
            await self._fall_back(wish)
        if not self._routes:
            self._gateway.nobody("failed")
        # The record last: who reads "failed" finds what still answers in its place.
        self._close(wish, Outcome.FAILED, cause)
        await self._retire()

    async def _fall_back(self, wish: Wish) -> None:
        """Start what answered last, after a restart in which the wished release failed."""
        shares = [share for share in self._folder.answered() if share.workload != wish.workload]
        started = []
        for share in shares:
            try:
                await self._up(share.workload, share.intent)
                started.append(share)
            except Failed as failed:
                text = f"Release {share.workload} did not start either: {failed.cause.what}"
                self._folder.note(text, wish.release, warning=True)
        self._route(_filled(started))

    async def _up(
        self, workload: int, intent: Intent, step: Callable[..., Steps] | None = None
    ) -> ModelServer:
        """A process of that number that is ready: the running one, or a new one. Failed."""
        step = step or _no_step
        server = self._servers.get(workload)
        if server is not None and server.state is not ProcessState.READY:
            await server.stop()
            await server.ended.wait()
        if server is not None and server.state is ProcessState.READY:
            for name in _STEPS[:3]:
                self._skip(name, "it runs already", step)
            return server
        with step("environment") as detail:
            python = await self._python_for(intent, detail)
        try:
            async with asyncio.timeout(intent.timeout_s or _DEADLINE_S):
                return await self._started(workload, intent, python, step)
        except TimeoutError as error:
            limit = intent.timeout_s or _DEADLINE_S
            server = self._servers.get(workload)
            where = f"MLServer of release {workload}"
            raise Failed(
                Cause(
                    f"{where} was not ready within {limit:.0f} s.",
                    why="It was still loading the model.",
                    fix="Look at its log; a model that needs longer takes a larger timeout.",
                    code="L10",
                    where=where,
                    evidence=_evidence(server) if server else (),
                )
            ) from error

    async def _started(
        self, workload: int, intent: Intent, python: Path, step: Callable[..., Steps]
    ) -> ModelServer:
        # Its ports were free a moment ago, but MLServer binds them only seconds later: a collision
        # is rare, and a start with other ports is the cure.
        for last_try in (False, False, True):
            server = ModelServer(self._folder, workload, intent, self._ended)
            self._servers[workload] = server
            try:
                with step("server up"):
                    await server.start(python)
                    self._publish()
                    # While MLServer imports its libraries there is time for our own.
                    await self._gateway.open()
                    await server.spoke.wait()
                with step("model loaded"):
                    await server.until_ready()
            except Failed as failed:
                if last_try or failed.cause.code != PORT_TAKEN:
                    raise
            else:
                self._publish()
                return server
        raise AssertionError("the last try returns or raises")

    async def _python_for(self, intent: Intent, detail: Callable[[str], None]) -> Path:
        """The interpreter that has the model's libraries, made when there is none. Failed."""

        def report(line: str, _ratio: float | None = None) -> None:
            loop.call_soon_threadsafe(detail, one_line(line))

        def ready() -> Environment:
            chosen = self._environments.choose(
                intent.requirements, intent.python_version, formats_of(Path(intent.package.uri))
            )
            return chosen if chosen.ready else self._environments.make(chosen, report)

        loop = asyncio.get_running_loop()
        try:
            return (await _in_thread(ready)).python
        except SlipwayError as error:
            cause = Cause(error.what, error.why, error.fix, "L12", "environment")
            raise Failed(cause) from error

    async def _tested(self, server: ModelServer) -> tuple[TestResult, str]:
        with self._step("verified") as detail:
            result, why = await server.test()
            if result is TestResult.FAIL:
                self._publish(test=result, test_detail=why)
                raise Failed(
                    Cause(
                        f"{server.intent.version or server.where} loaded, but its test inference"
                        " failed.",
                        why=why,
                        fix="Look at its log, and send the example on the Predict page.",
                        code="L11",
                        where=server.where,
                        evidence=_evidence(server),
                    )
                )
            detail(why or "the input example was answered")
        if result is TestResult.COULD_NOT_MEASURE:
            step = self._steps["verified"]
            self._set_step(replace(step, state=StepState.SKIPPED))
        return result, why

    async def _shut_down(self, wish: Wish) -> None:
        """Stop everything, then leave: the address, the processes, and this process."""
        with self._step("drained"):
            self._route(())
            self._gateway.nobody("stopped")
            for workload in self._servers:
                await self._gateway.drained(workload)
        with self._step("stopped"):
            await self._stop_all()
            await self._gateway.close()
        self._folder.write_answered(())
        self._publish(stopped=True, port=None)
        with self._folder.locked():
            if self._folder.wish() != wish:
                return  # a newer wish came meanwhile: run() takes it up
            shutil.rmtree(self._folder.path / "run", ignore_errors=True)
            if wish.intent is None:
                self._folder.forget()
            else:
                # From here on apply starts a new supervisor, which waits for our lock.
                self._folder.write_supervisor(None)
            self._left.set()
        self._close(wish, Outcome.DELETED if wish.intent is None else Outcome.STOPPED, None)

    # ── Parts ─────────────────────────────────────────────────────────────────────────────────

    def _take_address(self, intent: Intent) -> None:
        """Listen where the service is to be found. Failed when its own port is taken."""
        port = intent.port
        if port is not None:
            if not self._gateway.listen(port):
                raise Failed(
                    Cause(
                        f"Port {port} of this machine is taken.",
                        why="Another program listens on it.",
                        fix=f"End that program (`lsof -i :{port}` names it), or choose another"
                        " port.",
                        code=PORT_TAKEN,
                        where="gateway",
                    )
                )
            return
        kept = self._folder.address()
        if kept is not None and self._gateway.listen(kept):
            return
        # The same name gets the same port where it can: bookmarks outlive a service.
        first = zlib.crc32(self._folder.name.encode()) % len(_ADDRESS_PORTS)
        for at in range(len(_ADDRESS_PORTS)):
            port = _ADDRESS_PORTS[(first + at) % len(_ADDRESS_PORTS)]
            if port != kept and self._gateway.listen(port):
                self._folder.write_address(port)
                if kept is not None:
                    text = f"Port {kept} is taken by another program; the address has {port} now."
                    self._folder.note(text, warning=True)
                return
        raise Failed(Cause("No port is free for the service's address.", where="gateway"))

    def _route(self, shares: tuple[Share, ...]) -> None:
        """Send the traffic to these shares; remember them as those that answer."""
        if shares:
            self._folder.write_answered(shares)
        if shares != self._routes:
            self._set_routes(shares)

    def _set_routes(self, shares: tuple[Share, ...]) -> None:
        self._routes = shares
        ports = {workload: server.http_port or 0 for workload, server in self._servers.items()}
        self._gateway.route(shares, ports)
        words = ", ".join(
            f"{s.intent.version} (release {s.workload}) {s.percent} %" for s in shares
        )
        self._folder.note(f"Traffic: {words or 'none'}", self._seen.release)
        self._publish(since=now())

    def _ended(self, server: ModelServer) -> None:
        """A process ended: take it out of the traffic at once."""
        cause = server.cause
        if cause is not None:
            text = f"{server.where} ended: {cause.what}"
            self._folder.note(text, server.workload, warning=True)
        if self._servers.get(server.workload) is server and server.state is ProcessState.ENDED:
            del self._servers[server.workload]
        if any(share.workload == server.workload for share in self._routes):
            left = [share for share in self._routes if share.workload != server.workload]
            self._set_routes(_filled(left))
            if not left:
                self._gateway.nobody("failed")
            wanted = self._wish.shares() if self._wish else ()
            settled = self._steps.get("traffic", _DONE).state is StepState.DONE
            if cause is not None and settled and server.workload in {s.workload for s in wanted}:
                self._publish(failure=cause, model_ready=None)
        self._publish()

    async def _retire(self, keep: AbstractSet[int] = frozenset()) -> None:
        """Stop the processes that take no traffic, once their requests are answered."""
        kept = keep | {share.workload for share in self._routes}
        for server in [s for w, s in self._servers.items() if w not in kept]:
            if server.state is not ProcessState.STOPPING:
                task = asyncio.create_task(self._retired(server))
                self._stopping.add(task)
                task.add_done_callback(self._stopping.discard)
                task.add_done_callback(_log_bug)
        self._prune_logs()

    async def _retired(self, server: ModelServer) -> None:
        await self._gateway.drained(server.workload)
        if any(share.workload == server.workload for share in self._routes):
            return  # wanted again meanwhile
        await server.stop()

    async def _stop_all(self) -> None:
        if self._routes:
            self._set_routes(())
        await asyncio.gather(*(server.stop() for server in list(self._servers.values())))

    def _prune_logs(self) -> None:
        logs = sorted(self._folder.logs.glob("release-*.log"))
        for old in logs[:-_KEPT_LOGS]:
            old.unlink(missing_ok=True)
            old.with_name(f"{old.name}.1").unlink(missing_ok=True)

    def _close(self, wish: Wish, outcome: Outcome, cause: Cause | None) -> None:
        release = find_release(self._folder, wish.release)
        if release is None:
            return
        late = release.outcome is Outcome.TIMEOUT
        closed = self._journal.close(release, outcome, cause, late=late)
        self._folder.note(f"Release {wish.release}: {closed.outcome}", wish.release)

    # ── What is seen ──────────────────────────────────────────────────────────────────────────

    def _publish(self, **changes: object) -> None:
        workloads = tuple(
            WorkloadSeen(number, server.state, server.process_id, server.http_port)
            for number, server in sorted(self._servers.items())
        )
        routes = tuple(RouteSeen(s.workload, s.intent.version, s.percent) for s in self._routes)
        facts: dict[str, object] = {
            "workloads": workloads,
            "routes": routes,
            "steps": tuple(self._steps.values()),
            "port": self._gateway.port,
        }
        seen: Seen = replace(self._seen, **{**facts, **changes})  # type: ignore[arg-type]  # by name
        if seen != self._seen:
            self._seen = seen
            self._folder.write_seen(seen)

    def _step(self, name: str) -> Steps:
        return Steps(self._steps[name], self._set_step)

    def _skip(self, name: str, why: str, step: Callable[..., Steps]) -> None:
        if step == self._step:
            self._set_step(Step(name, StepState.SKIPPED, detail=why))

    def _set_step(self, step: Step) -> None:
        if step.name in self._steps:
            self._steps[step.name] = step
        if step.state is not StepState.RUNNING:
            took = "" if step.took_s is None else f" after {step.took_s:.1f} s"
            self._folder.note(f"{step.name}: {step.state}{took}", self._seen.release)
        self._publish()


PORT_TAKEN = "L2"
_DONE = Step("", StepState.DONE)


def _log_bug(task: asyncio.Task[None]) -> bool:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        _log.error("a task failed", exc_info=error)
    return error is not None


class Steps:
    """A step while it lasts: `with step("traffic") as detail: …; detail("in words")`."""

    def __init__(self, step: Step, changed: Callable[[Step], None]) -> None:
        self._step = step
        self._changed = changed
        self._started = 0.0

    def __enter__(self) -> Callable[[str], None]:
        self._started = time.monotonic()
        self._set(replace(self._step, state=StepState.RUNNING, started_at=now()))
        return self._detail

    def __exit__(self, kind: type[BaseException] | None, _error: object, _trace: object) -> None:
        state = StepState.DONE if kind is None else StepState.FAILED
        took_s = round(time.monotonic() - self._started, 3)
        self._set(replace(self._step, state=state, took_s=took_s))

    def _detail(self, text: str) -> None:
        self._set(replace(self._step, detail=text))

    def _set(self, step: Step) -> None:
        self._step = step
        self._changed(step)


def _evidence(server: ModelServer) -> tuple[str, ...]:
    return tuple(one_line(line) for line in server.log_tail()[-10:])


def _no_step(name: str) -> Steps:
    return Steps(Step(name, StepState.PENDING), lambda _step: None)


class Gateway:
    """The service's address with the gateway behind it, and the way to its router.

    The socket listens before the gateway's libraries are imported: callers wait instead of being
    refused, and the first MLServer process starts half a second earlier.
    """

    def __init__(self, service: str) -> None:
        self._service = service
        self._addresses: list[_Address] = []
        self._router: Router | None = None

    @property
    def port(self) -> int | None:
        """Where the service is to be found now."""
        return self._addresses[-1].port if self._addresses else None

    def listen(self, port: int) -> bool:
        """Make `port` the service's address, beside the one it had; False when it is taken."""
        found = next((address for address in self._addresses if address.port == port), None)
        if found is not None:
            self._addresses.remove(found)
        else:
            try:
                found = _Address(port, listening_socket(port))
            except OSError as error:
                if error.errno in {errno.EADDRINUSE, errno.EACCES}:
                    return False
                raise
        self._addresses.append(found)
        return True

    async def open(self) -> None:
        """Answer at every address that listens."""
        from services.local.gateway import Router, make_app

        if self._router is None:
            self._router = Router()
        for address in self._addresses:
            await address.serve(make_app(self._router, self._service))

    async def leave_old_address(self) -> None:
        """Keep the newest address only."""
        for address in self._addresses[:-1]:
            await address.close()
        del self._addresses[:-1]

    def route(self, shares: tuple[Share, ...], ports: Mapping[int, int]) -> None:
        """Send requests that arrive from now on by these shares."""
        if self._router is None:
            return
        from services.local.gateway import Route

        self._router.set_routes(
            [_route_of(Route, share, ports[share.workload]) for share in shares]
        )

    def nobody(self, why: str) -> None:
        """Say why nobody answers: "starting", "stopped" or "failed"."""
        if self._router is None:
            return
        from services.local.gateway import Idle

        self._router.set_routes((), Idle(why))

    async def drained(self, workload: int) -> None:
        """Wait until no request to that process is under way, within a bound."""
        if self._router is not None:
            await self._router.drained(workload, _DRAIN_S)

    async def close(self) -> None:
        """Leave every address: the ports are free afterwards."""
        for address in self._addresses:
            await address.close()
        self._addresses.clear()


def _route_of(route: type[Route], share: Share, port: int) -> Route:
    version = share.intent.version
    number = str(version.number) if version else ""
    return route(share.workload, number, share.intent.service, port, share.percent)


class _Address:
    """One port with the gateway behind it."""

    def __init__(self, port: int, listener: socket.socket) -> None:
        self.port = port
        self._listener = listener
        self._server: uvicorn.Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def serve(self, app: ASGIApp) -> None:
        """Answer from now on; nothing when it does already."""
        if self._server is not None:
            return
        import uvicorn

        from services.local.gateway import config_for

        class Quiet(uvicorn.Server):
            # Signals are the supervisor's: uvicorn would take SIGTERM for its own.
            @contextlib.contextmanager
            def capture_signals(self) -> Iterator[None]:
                yield

        server = self._server = Quiet(config_for(app))
        self._serving = asyncio.create_task(server.serve(sockets=[self._listener]))
        # uvicorn tells of its start by this flag alone; it takes a few milliseconds.
        while not server.started and not self._serving.done():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        if self._serving.done():
            self._serving.result()

    async def close(self) -> None:
        """Finish the requests under way and free the port."""
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await asyncio.wait([self._serving])
        self._listener.close()


def _filled(shares: Sequence[Share]) -> tuple[Share, ...]:
    """The shares, grown in proportion so that they are all of the traffic again."""
    total = sum(share.percent for share in shares)
    if total == 100 or not shares:
        return tuple(shares)
    even = [100 * share.percent // total if total else 100 // len(shares) for share in shares]
    even[0] += 100 - sum(even)
    return tuple(
        replace(share, percent=percent) for share, percent in zip(shares, even, strict=True)
    )


async def _in_thread(work: Callable[[], T]) -> T:
    """Run `work` beside the event loop, in a thread that does not hold this process at its end."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: list[T], error: Exception | None) -> None:
        if future.done():
            return
        if result:
            future.set_result(result[0])
        else:
            future.set_exception(error or RuntimeError("a thread failed; the log says how"))

    def run() -> None:
        result: list[T] = []
        failure: Exception | None = None
        try:
            result.append(work())
        except (SlipwayError, OSError) as error:
            failure = error
        finally:
            with contextlib.suppress(RuntimeError):  # the loop is gone: nobody awaits any more
                loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, daemon=True).start()
    return await future


def main(arguments: Sequence[str] | None = None) -> None:
    """Supervise one service; returns at once when another supervisor does."""
    parser = argparse.ArgumentParser(prog="python -m services.local.supervisor")
    parser.add_argument("root", type=Path)
    parser.add_argument("service")
    parser.add_argument("--uv", type=Path)
    chosen = parser.parse_args(arguments)
    os.umask(0o077)
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s.%(msecs)03d+00:00 %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
    )
    logging.Formatter.converter = time.gmtime
    folder = ServiceFolder(chosen.root, chosen.service)
    folder.make()
    descriptor = os.open(folder.supervisor_lock, os.O_RDWR | os.O_CREAT, 0o600)
    # One that is just leaving still holds the lock for a moment.
    if not wait_until(lambda: _try_lock(descriptor), timeout_s=20.0):
        return
    folder.write_supervisor(ProcessId.of(os.getpid()))
    environments = Environments(chosen.root / "environments", chosen.uv)
    _log.info("supervises %s", folder.name)
    try:
        asyncio.run(Supervisor(chosen.root, folder, environments).run())
    finally:
        # An environment that is just being made has nobody to use it any more.
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
    _log.info("ended")


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


if __name__ == "__main__":
    main()
