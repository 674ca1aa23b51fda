"""An API server on loopback that keeps what it is given: lists, watches, patches, and faults.

For what a real cluster cannot be asked for on the spot: a thousand services, a compacted history, a
connection that goes silent, a controller that takes exactly three seconds. It knows as much of
Kubernetes as Slipway uses: list (with pages and label selectors), watch (with bookmarks, 410 and
`timeoutSeconds`), get, create, apply, merge patch, update and delete with `resourceVersion`, the
proxy of pods and services. What it does otherwise than the real one is wrong here; the cluster tier
says so.
"""

from __future__ import annotations

import copy
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

Json = Any
Reply = tuple[int, Json]

SERVING = "/apis/serving.kserve.io/v1beta1/namespaces/models/inferenceservices"
DEPLOYMENTS = "/apis/apps/v1/namespaces/models/deployments"
RELEASES = "/apis/apps/v1/namespaces/models/controllerrevisions"
KNATIVE = "/apis/serving.knative.dev/v1/namespaces/models/services"
REVISIONS = "/apis/serving.knative.dev/v1/namespaces/models/revisions"
PODS = "/api/v1/namespaces/models/pods"
EVENTS = "/api/v1/namespaces/models/events"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/models/leases"
COLLECTIONS = (LEASES, SERVING, DEPLOYMENTS, RELEASES, KNATIVE, REVISIONS, PODS, EVENTS)


@dataclass
class ApiServer:
    """The server and its state; every method is safe from any thread."""

    bookmark_s: float = 1.0
    stamps: bool = True
    """Whether locks carry the time of their last change, as a real server's do."""
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """(method, path, query) of every request, in order."""
    on_apply: Callable[[str, Json], None] | None = None
    """Called after an object was created or changed by an apply: a controller."""
    proxy: Callable[[str, str, bytes], tuple[int, bytes]] | None = None
    """Answers …/proxy/…: (method, path, body) → status and body. None: 200, an empty object."""
    documents: dict[str, Json] = field(default_factory=dict)
    """Other things to GET: path → JSON."""
    refuse: Callable[[str, str, dict[str, str]], int | None] = lambda *_: None
    """A status to answer a request with instead; None for the true answer."""

    def __post_init__(self) -> None:
        self._objects: dict[str, dict[str, Json]] = {path: {} for path in COLLECTIONS}
        self._log: list[tuple[int, str, str, Json]] = []
        self._version = 100
        self._oldest = 0
        self._changed = threading.Condition(threading.RLock())
        self._silent = threading.Event()
        self._ended = False
        self._watches = 0
        self._cut = 0
        self._server = _Server(self)
        self.port: int = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    # ── State ─────────────────────────────────────────────────────────────────────────────────

    def put(self, collection: str, thing: Json) -> Json:
        """Create or replace an object, as a controller would."""
        with self._changed:
            return self._put(collection, thing)

    def _put(self, collection: str, thing: Json) -> Json:
        kept = copy.deepcopy(thing)
        name = kept["metadata"]["name"]
        known = self._collection(collection).get(name)
        self._version += 1
        kept["metadata"].setdefault("namespace", "models")
        kept["metadata"].setdefault("uid", f"uid-{self._version}")
        kept["metadata"]["resourceVersion"] = str(self._version)
        if collection == LEASES and self.stamps:
            kept["metadata"]["managedFields"] = [{"manager": "x", "time": _now()}]
        self._collection(collection)[name] = kept
        self._note("MODIFIED" if known else "ADDED", collection, kept)
        return kept

    def remove(self, collection: str, name: str) -> None:
        """Delete an object."""
        with self._changed:
            gone = self._collection(collection).pop(name, None)
            if gone is not None:
                self._version += 1
                gone = copy.deepcopy(gone)
                gone["metadata"]["resourceVersion"] = str(self._version)
                self._note("DELETED", collection, gone)

    def object(self, collection: str, name: str) -> Json | None:
        """A copy of one object."""
        with self._changed:
            return copy.deepcopy(self._collection(collection).get(name))

    def _collection(self, path: str) -> dict[str, Json]:
        return self._objects.setdefault(path, {})

    def _note(self, kind: str, collection: str, thing: Json) -> None:
        self._log.append((self._version, kind, collection, thing))
        self._changed.notify_all()

    def asked_for(self, method: str, ending: str = "", **query: str) -> int:
        """How many requests of a method went to a path that ends so, with these parameters."""
        return sum(
            1
            for how, path, asked in list(self.asked)
            if how == method
            and path.endswith(ending)
            and all(asked.get(key) == value for key, value in query.items())
        )

    @property
    def watching(self) -> int:
        """Watches that are open now."""
        return self._watches

    # ── Faults ────────────────────────────────────────────────────────────────────────────────

    def compact(self) -> None:
        """Forget the history: a watch from an earlier version is answered with 410."""
        with self._changed:
            self._oldest = self._version
            self._log.clear()

    def cut(self) -> None:
        """End every open watch in the middle, without a word."""
        with self._changed:
            self._cut += 1
            self._changed.notify_all()

    def go_silent(self) -> None:
        """Keep connections and answer nothing more: a frozen server."""
        self._silent.set()

    def speak(self) -> None:
        """Answer again."""
        self._silent.clear()

    def close(self) -> None:
        """Stop: connections are closed, new ones are refused."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._silent.clear()
        self._server.shutdown()
        self._server.server_close()

    # ── Answers ───────────────────────────────────────────────────────────────────────────────

    def answer(self, method: str, path: str, query: dict[str, str], body: Json) -> Reply:
        """The answer to anything but a watch or a proxied request."""
        if path in self.documents and method == "GET":
            return 200, self.documents[path]
        if path in self._objects:
            return self._listed(path, query) if method == "GET" else self._posted(path, body)
        collection, _, name = path.rpartition("/")
        if collection in self._objects:
            return self._one(method, collection, unquote(name), query, body)
        if path.endswith("selfsubjectreviews"):
            return 201, {"status": {"userInfo": {"username": "ana"}}}
        if path.endswith("selfsubjectrulesreviews"):
            everything = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}
            return 201, {"status": {"resourceRules": [everything]}}
        if path.endswith("selfsubjectaccessreviews"):
            return 201, {"status": {"allowed": True}}
        if path.count("/") <= 4 and method == "GET":
            return (200, {}) if "serving.k" in path else (404, _refusal(404, "no such kind"))
        return 404, _refusal(404, f"{path} not found")

    def _listed(self, path: str, query: dict[str, str]) -> Reply:
        with self._changed:
            names = sorted(self._objects[path])
            items = [self._objects[path][name] for name in names]
            version = str(self._version)
        items = [item for item in items if _selected(item, query)]
        start = int(query.get("continue") or 0)
        limit = int(query.get("limit") or 0) or len(items)
        metadata: dict[str, Json] = {"resourceVersion": version}
        if start + limit < len(items):
            metadata |= {
                "continue": str(start + limit),
                "remainingItemCount": len(items) - start - limit,
            }
        return 200, {"metadata": metadata, "items": items[start : start + limit]}

    def _posted(self, path: str, body: Json) -> Reply:
        with self._changed:
            if body["metadata"]["name"] in self._objects[path]:
                return 409, _refusal(409, "it exists")
            return 201, self._put(path, body)

    def _one(self, method: str, path: str, name: str, query: dict[str, str], body: Json) -> Reply:
        with self._changed:
            known = self._objects[path].get(name)
            if method == "GET":
                return (200, known) if known else (404, _refusal(404, "there is none"))
            asked = ((body or {}).get("metadata") or {}).get("resourceVersion")
            if known and asked and asked != known["metadata"]["resourceVersion"]:
                return 409, _refusal(409, "the object has been modified")
            if method == "DELETE":
                self.remove(path, name)
                return 200, {}
            if known is None and method == "PATCH" and "fieldManager" not in query:
                return 404, _refusal(404, "there is none")
            if query.get("dryRun"):
                return 200, body
            if "fieldManager" in query:
                made = self._put(path, _applied(known, body))
                status = 200 if known else 201
            else:
                made = self._put(path, _merged(known or {}, body) if method == "PATCH" else body)
                status = 200
        if "fieldManager" in query and self.on_apply is not None:
            self.on_apply(path, copy.deepcopy(made))
        return status, made

    def watch(self, path: str, query: dict[str, str]) -> Iterator[Json | None]:
        """Events after `resourceVersion` until `timeoutSeconds` are over; None = cut it here."""
        since = int(query.get("resourceVersion") or 0)
        until = time.monotonic() + float(query.get("timeoutSeconds") or 60)
        with self._changed:
            self._watches += 1
            cut = self._cut
        bookmarked = time.monotonic()
        try:
            if since < self._oldest:
                yield {"type": "ERROR", "object": _refusal(410, "too old resource version")}
                return
            at = 0
            while True:
                with self._changed:
                    if self._ended or self._cut != cut:
                        yield None
                        return
                    fresh = self._log[at:]
                    at = len(self._log)
                    if not fresh:
                        left = until - time.monotonic()
                        if left <= 0:
                            return
                        self._changed.wait(min(left, self.bookmark_s))
                    version = self._version
                for number, kind, where, thing in fresh:
                    if where == path and number > since and _selected(thing, query):
                        yield {"type": kind, "object": thing}
                wants = query.get("allowWatchBookmarks") == "true"
                if wants and time.monotonic() - bookmarked >= self.bookmark_s:
                    bookmarked = time.monotonic()
                    mark = {"metadata": {"resourceVersion": str(version)}}
                    yield {"type": "BOOKMARK", "object": mark}
        finally:
            with self._changed:
                self._watches -= 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, api: ApiServer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.api = api

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet: that clients leave in the middle is what is tested."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def _any(self) -> None:
        api = self.server.api
        parts = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length) if length else b""
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        api.asked.append((self.command, parts.path, query))
        while api._silent.is_set():
            time.sleep(0.02)
        refused = api.refuse(self.command, parts.path, query)
        if refused is not None:
            self._send(refused, json.dumps(_refusal(refused, "not now")).encode())
        elif "/proxy/" in parts.path:
            ask = api.proxy or (lambda *_: (200, b"{}"))
            self._send(*ask(self.command, parts.path, raw))
        elif query.get("watch") == "true":
            self._stream(parts.path, query)
        else:
            body = json.loads(raw) if raw else None
            status, answer = api.answer(self.command, parts.path, query, body)
            self._send(status, json.dumps(answer).encode())

    def _send(self, status: int, text: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
        self.wfile.flush()

    def _stream(self, path: str, query: dict[str, str]) -> None:
        api = self.server.api
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        for event in api.watch(path, query):
            while api._silent.is_set():
                time.sleep(0.02)
            if event is None:
                self.close_connection = True
                return
            line = json.dumps(event).encode() + b"\n"
            self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _any  # noqa: N815 (the base's names)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def api_server(**options: Any) -> Iterator[ApiServer]:
    """A server until the block ends."""
    server = ApiServer(**options)
    try:
        yield server
    finally:
        with suppress(OSError):
            server.close()


def kubeconfig(folder: Path, url: str) -> Path:
    """A kubeconfig whose only context, `stub`, is the server at `url`."""
    file = folder / "kubeconfig"
    entries = {
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "stub", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "stub",
    }
    file.write_text(yaml.safe_dump(entries), encoding="utf-8")
    return file


def _refusal(status: int, message: str) -> Json:
    return {"kind": "Status", "status": "Failure", "code": status, "message": message}


def _selected(thing: Json, query: Mapping[str, str]) -> bool:
    """By labels and by fields, each a path into the object."""
    labels = thing["metadata"].get("labels") or {}
    for part in filter(None, query.get("fieldSelector", "").split(",")):
        path, _, value = part.partition("=")
        found = thing
        for key in path.split("."):
            found = found.get(key) or {}
        if found != value:
            return False
    selector = query.get("labelSelector", "")
    for part in selector.split(",") if selector else ():
        key, equals, value = part.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    return True


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _applied(known: Json | None, body: Json) -> Json:
    """What a server-side apply by the only manager makes: its fields, and the status as it was."""
    made = copy.deepcopy(body)
    made["metadata"].pop("resourceVersion", None)
    before = (known or {}).get("metadata") or {}
    changed = known is None or made.get("spec") != known.get("spec")
    made["metadata"]["generation"] = int(before.get("generation") or 0) + int(changed)
    stamp = _now()
    made["metadata"]["creationTimestamp"] = before.get("creationTimestamp", stamp)
    made["metadata"]["managedFields"] = [
        {"manager": "slipway", "operation": "Apply", "time": stamp}
    ]
    if "uid" in before:
        made["metadata"]["uid"] = before["uid"]
    if known and "status" in known:
        made["status"] = known["status"]
    return made


def _merged(base: Json, extra: Json) -> Json:
    """RFC 7386."""
    if not isinstance(extra, dict):
        return extra
    made = dict(base) if isinstance(base, dict) else {}
    for key, value in extra.items():
        if value is None:
            made.pop(key, None)
        else:
            made[key] = _merged(made.get(key), value)
    return made
