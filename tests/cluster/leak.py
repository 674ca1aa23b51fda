"""A pipe before a bucket's emulator that leaks: cuts uploads, loses answers, refuses.

It passes HTTP on unchanged, but for addresses that the emulator hands out: resumable uploads come
back through the pipe.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

import urllib3

_NOT_PASSED_ON = {"host", "connection", "content-length", "transfer-encoding", "accept-encoding"}


@dataclass(frozen=True, slots=True)
class Cut:
    """Read so many bytes of the body, pass nothing on, and end the connection."""

    after_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Lost:
    """Pass the request on, and end the connection before the answer."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Answer as the bucket's service does that refuses; nothing is passed on."""

    status: int
    reason: str = ""
    message: str = "It refused."


@dataclass(frozen=True, slots=True)
class Flipped:
    """Turn one bit of the file's bytes on the way: of an upload's body, or of a download's."""


Fault = Cut | Lost | Refused | Flipped


@dataclass
class _Rule:
    pattern: re.Pattern[str]
    fault: Fault
    left: int


@dataclass
class Leak:
    """The pipe. A request is matched as "METHOD name", the name being the object's."""

    upstream: str
    port: int = 0
    uploaded: list[str] = field(default_factory=list)
    """Names of the objects whose bytes were passed on, whole."""
    after_upload: Callable[[int], None] = lambda _count: None
    """Called after each upload that was passed on, with how many there were."""
    write_once: bool = False
    """Refuse what an account lacks that may only create and read (objectCreator, objectViewer)."""
    denied: list[str] = field(default_factory=list)
    """What was refused for that, as "METHOD name"."""
    _rules: list[_Rule] = field(default_factory=list)
    _sessions: dict[str, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def leaks(self, pattern: str, fault: Fault, times: int = 1_000_000) -> None:
        """Do `fault` to the next `times` requests that match."""
        self._rules.append(_Rule(re.compile(pattern), fault, times))

    def mend(self) -> None:
        """Forget all faults and what was seen."""
        self._rules.clear()
        self.uploaded.clear()

    def fault(self, method: str, name: str) -> Fault | None:
        """The fault that is due for a request."""
        with self._lock:
            for rule in self._rules:
                if rule.left > 0 and rule.pattern.search(f"{method} {name}"):
                    rule.left -= 1
                    return rule.fault
        return None

    def admits(self, method: str, path: str, name: str) -> bool:
        """Whether a request needs no more than creating and reading; one that does is noted."""
        query = parse_qs(urlsplit(path).query)
        # A session was opened under the same precondition, or was refused then.
        creates = query.get("ifGenerationMatch") == ["0"] or "upload_id" in query
        if not self.write_once or method == "GET" or (method in {"POST", "PUT"} and creates):
            return True
        self.denied.append(f"{method} {name}")
        return False

    def name_of(self, path: str, body: bytes) -> str:
        """The object that a request is about; "" for none."""
        parts = urlsplit(path)
        query = parse_qs(parts.query)
        session = query.get("upload_id", [""])[0]
        if session:
            return self._sessions.get(session, "")
        if parts.path.startswith("/upload/"):
            found = re.search(rb'"name": ?"((?:[^"\\]|\\.)*)"', body)
            return json.loads(b'"' + found[1] + b'"') if found else query.get("name", [""])[0]
        return unquote(parts.path.rpartition("/o/")[2]) if "/o/" in parts.path else ""

    def passed_on(self, method: str, path: str, name: str, location: str | None) -> str | None:
        """Note what an answer says; gives the Location that the client is told."""
        if location is not None:
            session = parse_qs(urlsplit(location).query).get("upload_id", [""])[0]
            self._sessions[session] = name
            parts = urlsplit(location)
            return f"{self.url}{parts.path}?{parts.query}"
        if method in {"POST", "PUT"} and path.startswith("/upload/"):
            with self._lock:
                self.uploaded.append(name)
                count = len(self.uploaded)
            self.after_upload(count)
        return None


class _Handler(BaseHTTPRequestHandler):
    leak: ClassVar[Leak]
    protocol_version = "HTTP/1.1"

    def _pass_on(self) -> None:
        leak, length = self.leak, int(self.headers.get("Content-Length") or 0)
        # Enough to know the name; the rest is read when the fault lets it.
        head = self.rfile.read(min(length, 4096))
        name = leak.name_of(self.path, head)
        fault = leak.fault(self.command, name)
        if isinstance(fault, Cut):
            self.rfile.read(max(0, min(length, fault.after_bytes) - len(head)))
            self.close_connection = True
            return
        body = head + self.rfile.read(length - len(head))
        if not leak.admits(self.command, self.path, name):
            fault = Refused(403, "forbidden", "The account lacks storage.objects.delete.")
        if isinstance(fault, Refused):
            told = {"message": fault.message, "errors": [{"reason": fault.reason}]}
            self._answer(fault.status, json.dumps({"error": told}).encode(), {})
            return
        if isinstance(fault, Flipped) and body:
            body = _flipped(body)
        kept = {k: v for k, v in self.headers.items() if k.lower() not in _NOT_PASSED_ON}
        got = urllib3.request(
            self.command, leak.upstream + self.path, body=body, headers=kept, redirect=False,
            retries=False,
        )  # fmt: skip
        told_back = {k: v for k, v in got.headers.items() if k.lower() not in _NOT_PASSED_ON}
        location = leak.passed_on(self.command, self.path, name, got.headers.get("Location"))
        if location:
            told_back["Location"] = location
        if isinstance(fault, Lost):
            self.close_connection = True
            return
        turned = isinstance(fault, Flipped) and not body
        self._answer(got.status, _flipped(got.data) if turned else got.data, told_back)

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = _pass_on  # noqa: N815 (the base's names)
    do_POST = _pass_on  # noqa: N815
    do_PUT = _pass_on  # noqa: N815
    do_PATCH = _pass_on  # noqa: N815
    do_DELETE = _pass_on  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base's name)
        """Keep quiet."""


def _flipped(body: bytes) -> bytes:
    """The body with a bit turned in the first byte of the file, behind a multipart's two heads."""
    heads = list(re.finditer(rb"\r\n\r\n", body[:4096])) if body.startswith(b"--") else []
    at = heads[1].end() if len(heads) > 1 else 0
    return body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is part of the test."""


@contextmanager
def leaking(upstream: str) -> Iterator[Leak]:
    """A pipe before `upstream` until the block ends."""
    leak = Leak(upstream.rstrip("/"))
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"leak": leak}))
    leak.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="leak", daemon=True)
    thread.start()
    try:
        yield leak
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
