"""Lists of a cluster that watches keep current: what a process reads that stays up for days.

A page that lists services every two seconds would ask the API server for megabytes each time, once
per tab. Here one watch per collection brings what changed, and reads are answered from the copy.

A watch that says nothing may be a quiet one or a dead one. So silence proves nothing: a copy is
only believed when the API server has answered a moment ago (`PROOF_S`) and its watch has been
opened or has spoken within `WINDOW_S` and a grace; otherwise the read goes to the server itself,
and fails as any read does. What this process has written is waited for, so that it never reads an
object older than its own write.

Commands that end in a second read directly and do without this; while one of them follows a
roll-out it watches the objects of that one service (`Direct.following`). Read against Kubernetes
1.34 (API concepts: efficient detection of changes). Callers are connect.py, kserve.py, journal.py.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import orjson
import urllib3

from services.cluster import Cluster
from services.domain import Json
from services.errors import Denied, SlipwayError, Unreachable

WINDOW_S = 15
"""So long a watch is open before it is opened anew, which proves that it was alive: a connection
that a gateway dropped without a word is noticed by then."""
GRACE_S = 5.0
"""What the server may be late in ending a window."""
PROOF_S = 5.0
"""For so long an answer of the API server proves that it is there."""
PROOF_TIMEOUT_S = 3.0
OWN_WRITE_S = 1.0
"""So long a read waits for this process's own write to come back; then it asks the server."""
IDLE_S = 300.0
"""A copy that nobody reads stops watching after this time, and begins again when one does."""
ASK_AGAIN_S = 60.0
"""A kind that does not exist, or may not be watched, is asked about again after this time."""
_RETRY_S = 0.5


class Reads(Protocol):
    """Objects as JSON; what `Cluster` offers directly and `Watched` from its copies."""

    def get(self, path: str, *, doing: str) -> Json | None:
        """One object; None when there is none."""

    def items(self, path: str, *, doing: str, selector: str = "") -> list[Json]:
        """Every object of a list; empty when the kind does not exist."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Which objects of a collection are watched: all, those that carry a label, or one by name."""

    label: str = ""
    """`key`, or `key=value`."""
    name: str = ""

    @property
    def narrow(self) -> bool:
        """True when another reader may want objects that are not in it."""
        return bool(self.name) or "=" in self.label

    def holds(self, selector: str) -> bool:
        """Whether every object that `selector` wants is in it, as far as is known."""
        return not self.narrow or (not self.name and self.label == selector)

    def covers(self, thing: Json) -> bool:
        """Whether an object is in it: its watch then tells of it."""
        by_name = not self.name or thing["metadata"].get("name") == self.name
        return by_name and _carries(thing, self.label)


Collections = Mapping[str, Scope]
"""API path of a collection → what of it is watched."""


class Direct:
    """Reads of the API server itself; of one service from watches while that is followed."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._now: Reads = cluster

    def get(self, path: str, *, doing: str) -> Json | None:
        """One object; None when there is none. Unreachable, Denied."""
        return self._now.get(path, doing=doing)

    def items(self, path: str, *, doing: str, selector: str = "") -> list[Json]:
        """Every object of a list. Unreachable, Denied."""
        return self._now.items(path, doing=doing, selector=selector)

    @contextmanager
    def following(self, collections: Collections) -> Iterator[None]:
        """Answer what `collections` hold from watches, until the end of the block."""
        watched = Watched(self._cluster, collections)
        self._now = watched
        try:
            yield
        finally:
            self._now = self._cluster
            watched.close()


class Watched:
    """Reads of one cluster from copies that watches keep current. Thread-safe.

    Objects that it gives are shared: callers do not change them.
    """

    def __init__(self, cluster: Cluster, collections: Collections) -> None:
        """Watch `collections`, each from its first read on. Everything else is read directly."""
        self._cluster = cluster
        self._copies = {path: _Copy(cluster, path, scope) for path, scope in collections.items()}
        self._proof = threading.Lock()
        self._proved = 0.0
        cluster.tell(self._wrote)

    def get(self, path: str, *, doing: str) -> Json | None:
        """One object; None when there is none. Unreachable, Denied."""
        collection, _, name = path.rpartition("/")
        copy = self._current(collection)
        found = copy.objects().get(name) if copy is not None else None
        if copy is None or (found is None and copy.scope.narrow):
            return self._cluster.get(path, doing=doing)
        return found

    def items(self, path: str, *, doing: str, selector: str = "") -> list[Json]:
        """Every object of a list. Unreachable, Denied."""
        copy = self._current(path)
        if copy is None or not copy.scope.holds(selector):
            return self._cluster.items(path, doing=doing, selector=selector)
        return [thing for thing in copy.objects().values() if _carries(thing, selector)]

    @property
    def confirmed_s_ago(self) -> float | None:
        """Age of the oldest copy's last proof; None while nothing is watched."""
        ages = [copy.age_s for copy in self._copies.values() if copy.watching]
        return max(ages) if ages else None

    @property
    def watching(self) -> int:
        """How many collections are watched now."""
        return sum(copy.watching for copy in self._copies.values())

    @property
    def refused(self) -> bool:
        """True when this identity may list but not watch: reads then go to the server."""
        return any(copy.refused for copy in self._copies.values())

    def following(self, _collections: Collections) -> AbstractContextManager[None]:
        """Nothing more is needed to follow one service."""
        return nullcontext()

    def close(self) -> None:
        """Stop watching; reads go to the server from now on."""
        self._cluster.tell_no_more(self._wrote)
        for copy in self._copies.values():
            copy.end()
        for copy in self._copies.values():
            copy.close()

    def _current(self, path: str) -> _Copy | None:
        """The copy of a collection, if it may be believed now."""
        copy = self._copies.get(path)
        if copy is None or not copy.usable():
            return None
        if copy.age_s > PROOF_S:
            self._prove()
        return copy

    def _prove(self) -> None:
        """Have the API server answer, once for all readers. Unreachable, Denied."""
        with self._proof:
            if time.monotonic() - self._proved < PROOF_S:
                return
            self._cluster.send(
                "GET",
                "/version",
                doing="reach the cluster",
                read_timeout_s=PROOF_TIMEOUT_S,
            )
            self._proved = time.monotonic()

    def _wrote(self, method: str, path: str, body: Json) -> None:
        """Note a write of this process: reads must not be older than it."""
        collection = path if method == "POST" else path.rpartition("/")[0]
        copy = self._copies.get(collection)
        if copy is not None:
            metadata = body.get("metadata") if isinstance(body, dict) else None
            number = _number((metadata or {}).get("resourceVersion"))
            if not number or copy.scope.covers(body):  # a delete may only say that it was done
                copy.expect(number)


class _Copy:
    """One collection: listed once, then kept current by a thread of its own."""

    def __init__(self, cluster: Cluster, path: str, scope: Scope) -> None:
        self.scope = scope
        self._cluster = cluster
        self._path = path
        self._fields = f"metadata.name={scope.name}" if scope.name else ""
        self._objects: dict[str, Json] = {}
        self._version = ""
        self._floor = 0
        """Version of the last list: events before it are old news."""
        self._seen = 0
        self._expected = 0
        self._confirmed = 0.0
        self._asked = 0.0
        self._not_before = 0.0
        self._listing = threading.Lock()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._response: urllib3.BaseHTTPResponse | None = None
        self._closed = threading.Event()
        self.refused = False

    @property
    def age_s(self) -> float:
        """Since the API server last proved that the copy is current."""
        return time.monotonic() - self._confirmed

    @property
    def watching(self) -> bool:
        return self._thread is not None and bool(self._version)

    def objects(self) -> Mapping[str, Json]:
        """By name. Nobody changes what is given."""
        with self._changed:
            return dict(self._objects)

    def usable(self) -> bool:
        """Whether a reader may be answered from here; lists first when it has to. Unreachable."""
        now = time.monotonic()
        if self._closed.is_set() or now < self._not_before:
            return False
        self._asked = now
        if not self._version:
            self._list()
            if not self._version:
                return False
        self._start()
        if self.age_s > WINDOW_S + 2 * GRACE_S:
            return False  # the watch is dead, or the server: let the reader see for itself
        with self._changed:
            return self._changed.wait_for(lambda: self._seen >= self._expected, OWN_WRITE_S)

    def expect(self, version: int) -> None:
        """Answer no reader before `version` was seen; 0 = before everything was listed anew."""
        with self._changed:
            self._expected = max(self._expected, version)
            if not version:
                self._version = ""

    def end(self) -> None:
        """Stop watching; `close` waits for that."""
        self._closed.set()
        response = self._response
        if response is not None:
            with contextlib.suppress(RuntimeError, ValueError, OSError):
                response.shutdown()

    def close(self) -> None:
        """Wait until watching has ended."""
        thread = self._thread
        if thread is not None:
            thread.join(PROOF_TIMEOUT_S)

    def _list(self) -> None:
        """Read the whole collection once, for however many readers wait. Unreachable, Denied."""
        with self._listing:
            if self._version:
                return
            began = time.monotonic()
            found = self._cluster.listed(
                self._path,
                doing="list the services",
                selector=self.scope.label,
                fields=self._fields,
            )
            if not found.version:  # the kind does not exist: nothing to watch
                self._not_before = began + ASK_AGAIN_S
                return
            with self._changed:
                self._objects = {item["metadata"]["name"]: item for item in found.items}
                self._version = found.version
                self._floor = self._seen = _number(found.version)
                self._confirmed = began
                self._changed.notify_all()

    def _start(self) -> None:
        with self._changed:
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(
                    target=self._keep, name=f"watch {self._path.rpartition('/')[2]}", daemon=True
                )
                self._thread.start()

    def _keep(self) -> None:
        """Watch until nobody reads any more, window after window."""
        while not self._closed.is_set() and time.monotonic() - self._asked < IDLE_S:
            try:
                self._list()
                self._watch()
            except Denied:
                self.refused = True
                self._not_before = time.monotonic() + ASK_AGAIN_S
                break
            except (SlipwayError, urllib3.exceptions.HTTPError, OSError, ValueError):
                # Away, cut, or an answer of a proxy: readers ask for themselves meanwhile.
                self._closed.wait(_RETRY_S)
        with self._changed:
            self._thread = None
            self._version = ""  # what is missed from now on is not known: list anew

    def _watch(self) -> None:
        version = self._version
        if not version:
            return
        response = self._cluster.raw(
            "GET",
            self._path,
            doing="watch for changes",
            query={
                "watch": "true",
                "allowWatchBookmarks": "true",
                "resourceVersion": version,
                "timeoutSeconds": WINDOW_S,
                **({"labelSelector": self.scope.label} if self.scope.label else {}),
                **({"fieldSelector": self._fields} if self._fields else {}),
            },
            headers={"Accept": "application/json"},
            read_timeout_s=WINDOW_S + GRACE_S,
        )
        self._response = response
        try:
            if not self._closed.is_set():
                self._take_all(response)
        finally:
            self._response = None
            response.close()

    def _take_all(self, response: urllib3.BaseHTTPResponse) -> None:
        if response.status in {401, 403}:
            raise Denied("The API server does not let us watch.")
        if response.status == 410:
            self._version = ""
            return
        if response.status != 200:
            raise Unreachable(f"The API server answered a watch with {response.status}.")
        self.refused = False
        self._confirmed = time.monotonic()
        for line in _lines(response):
            if not self._take(orjson.loads(line)):
                return
        self._confirmed = time.monotonic()  # ended by the server: all was sent until now

    def _take(self, event: Json) -> bool:
        """Take one event into the copy; False when the watch has to begin anew."""
        kind, thing = event.get("type"), event.get("object") or {}
        if kind == "ERROR":
            # 410: the version is too old. Whatever else it is, a list says what is.
            self._version = ""
            return False
        metadata = thing.get("metadata") or {}
        version = str(metadata.get("resourceVersion", ""))
        with self._changed:
            if not self._version:
                return False  # somebody wants it listed anew
            number = _number(version)
            if kind != "BOOKMARK" and not (number and number <= self._floor):
                if kind == "DELETED":
                    self._objects.pop(metadata["name"], None)
                else:
                    self._objects[metadata["name"]] = thing
            self._version = version
            self._seen = max(self._seen, number)
            self._confirmed = time.monotonic()
            self._changed.notify_all()
        return True


def same_things(left: Sequence[Json], right: Sequence[Json]) -> bool:
    """Whether two reads gave the very same objects: copies replace what changed."""
    return len(left) == len(right) and all(a is b for a, b in zip(left, right, strict=True))


def _lines(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    rest = b""
    for chunk in response.stream(65536):
        *whole, rest = (rest + chunk).split(b"\n")
        yield from (line for line in whole if line)


def _number(version: Json) -> int:
    """A resourceVersion as a number, to tell older from newer; 0 when it is none.

    Those of one collection may be compared since Kubernetes 1.35 (KEP-5504); before, etcd's
    revisions were already what they are.
    """
    text = str(version or "")
    return int(text) if text.isascii() and text.isdigit() else 0


def _carries(thing: Json, selector: str) -> bool:
    """Whether an object has the label `key`, or the label `key=value`."""
    key, equals, value = selector.partition("=")
    labels = (thing.get("metadata") or {}).get("labels") or {}
    return not key or (key in labels and (not equals or labels[key] == value))
