"""A door before a real API server, at which faults are made and requests are counted.

It speaks HTTP on loopback and passes every request on with the real cluster's credentials, so
it works before any cluster. A rule runs an act before a request is passed on, or after the API
server has answered and before the client hears of it: the place where answers get lost.
"""

from __future__ import annotations

import json
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import yaml

from services.cluster import Cluster

CONTEXT = "gate"


class CutError(Exception):
    """Raised by an act: the connection ends without an answer."""


class AnswerError(Exception):
    """Raised by an act: the client gets this answer instead of the API server's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def cut() -> None:
    """End the connection without an answer."""
    raise CutError


def refuse(status: int, message: str) -> Callable[[], None]:
    """Make an act that answers as an API server does that refuses."""

    def act() -> None:
        raise AnswerError(status, message)

    return act


@dataclass
class _Rule:
    method: str
    pattern: re.Pattern[str]
    when: str
    act: Callable[[], None]
    left: int


@dataclass(slots=True)
class Seen:
    """One request that was passed on, by the gate's clock."""

    at: float
    method: str
    path: str
    status: int = 0
    """What the API server said; 0 until then."""


@dataclass
class Gate:
    """The door. `open` is cleared to freeze the API server as clients see it."""

    upstream: Cluster
    port: int = 0
    seen: list[Seen] = field(default_factory=list)
    open: threading.Event = field(default_factory=threading.Event)
    admits: Callable[[str], bool] = lambda _authorization: True
    """Whether the API server takes these credentials; it answers 401 when not."""
    _rules: list[_Rule] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def before(self, method: str, pattern: str, act: Callable[[], None], times: int = 1) -> None:
        """Run `act` before the next `times` requests that match are passed on."""
        self._rules.append(_Rule(method, re.compile(pattern), "before", act, times))

    def after(self, method: str, pattern: str, act: Callable[[], None], times: int = 1) -> None:
        """Run `act` after the API server carried out the next `times` requests that match."""
        self._rules.append(_Rule(method, re.compile(pattern), "after", act, times))

    def calm(self) -> None:
        """Forget all rules and what was seen."""
        self._rules.clear()
        self.seen.clear()
        self.open.set()

    def close_for(self, seconds: float) -> None:
        """Be away for a while, as an API server that restarts is: connections end at once."""
        until = time.monotonic() + seconds

        def away() -> None:
            if time.monotonic() < until:
                raise CutError

        self.before("", "", away, times=1_000_000)

    def freeze_for(self, seconds: float) -> None:
        """Take requests and answer none for a while, as a paused API server does."""
        self.open.clear()
        threading.Timer(seconds, self.open.set).start()

    def writes(self, pattern: str) -> list[Seen]:
        """The real writes (no dry runs) that were passed on."""
        return [
            seen
            for seen in self.seen
            if seen.method not in {"GET", "HEAD"}
            and re.search(pattern, seen.path)
            and "dryRun" not in seen.path
        ]

    def taken(self, pattern: str) -> list[Seen]:
        """Those of `writes` that were not refused as a conflict.

        KServe writes a service's status at any moment: a write that meets it is refused and made
        again, which changes nothing twice.
        """
        return [seen for seen in self.writes(pattern) if seen.status != 409]

    def kubeconfig(self, folder: Path, **user: object) -> Path:
        """Write a kubeconfig whose only context leads through this gate."""
        file = folder / "gate-kubeconfig"
        server = {"server": f"http://127.0.0.1:{self.port}"}
        file.write_text(
            yaml.safe_dump(
                {
                    "clusters": [{"name": CONTEXT, "cluster": server}],
                    "users": [{"name": CONTEXT, "user": user}],
                    "contexts": [
                        {"name": CONTEXT, "context": {"cluster": CONTEXT, "user": CONTEXT}}
                    ],
                }
            ),
            encoding="utf-8",
        )
        return file

    def admit(self, authorization: str) -> None:
        """End the request with 401 when its credentials are not taken."""
        if not self.admits(authorization):
            raise AnswerError(401, "Unauthorized")

    def run(self, when: str, method: str, path: str) -> None:
        """Run the rules that match a request."""
        with self._lock:
            due = [
                rule
                for rule in self._rules
                if rule.when == when
                and rule.left > 0
                and rule.method in {"", method}
                and rule.pattern.search(path)
            ]
            for rule in due:
                rule.left -= 1
        for rule in due:
            rule.act()


class _Handler(BaseHTTPRequestHandler):
    gate: ClassVar[Gate]
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def _pass_on(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else None
        gate = self.gate
        try:
            gate.open.wait()
            gate.run("before", self.command, self.path)
            gate.admit(self.headers.get("Authorization", ""))
            seen = Seen(time.monotonic(), self.command, self.path)
            gate.seen.append(seen)
            headers = {
                key: value
                for key in ("Content-Type", "Accept")
                if (value := self.headers.get(key)) is not None
            }
            response = gate.upstream.raw(
                self.command, self.path, doing="pass on", body=body, headers=headers
            )
            answer = response.read()
            seen.status = response.status
            response.release_conn()
            gate.run("after", self.command, self.path)
            self._answer(response.status, answer, response.headers.get("Content-Type", ""))
        except AnswerError as fault:
            said = {"kind": "Status", "code": fault.status, "message": fault.message}
            self._answer(fault.status, json.dumps(said).encode(), "application/json")
        except (CutError, OSError):
            self.close_connection = True

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def do_GET(self) -> None:
        self._pass_on()

    def do_POST(self) -> None:
        self._pass_on()

    def do_PUT(self) -> None:
        self._pass_on()

    def do_PATCH(self) -> None:
        self._pass_on()

    def do_DELETE(self) -> None:
        self._pass_on()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base's name)
        """Keep quiet."""


@contextmanager
def standing(
    upstream: Cluster,
    tls: ssl.SSLContext | None = None,
    admits: Callable[[str], bool] = lambda _authorization: True,
) -> Iterator[Gate]:
    """A gate before `upstream` until the block ends; with `tls` it speaks HTTPS."""
    gate = Gate(upstream, admits=admits)
    gate.open.set()
    handler = type("Handler", (_Handler,), {"gate": gate})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    if tls is not None:
        # The handshake is the connection's own thread's matter: one that fails stops no other.
        server.socket = tls.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    gate.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="gate", daemon=True)
    thread.start()
    try:
        yield gate
    finally:
        gate.open.set()
        server.shutdown()
        server.server_close()
        thread.join(5)
