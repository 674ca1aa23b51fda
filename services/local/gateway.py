"""The laptop's stand-in for an ingress: one stable address, requests routed by weight.

The supervisor runs it in its event loop and tells its `Router` where requests go. Every path but
those below `/-/` is passed on as it came, and every answer names the release that gave it. Here is
no knowledge of processes, files or releases' outcomes: routes come in, measurements go out.

Everything runs in one event loop, and nothing here is safe to call from another thread. Written
against aiohttp 3.14 and uvicorn 0.54.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import SimpleNamespace
from urllib.parse import urlsplit

import aiohttp
import uvicorn
from multidict import CIMultiDict
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from yarl import URL

_log = logging.getLogger(__name__)

_BUFFER_BYTES = 2**20
"""Bodies up to here are held whole, so that they can be sent again or replaced by words; larger
ones stream. A request costs at most twice this much memory."""

_HEADER_BYTES = 64 * 2**10
"""All request headers together. uvicorn's httptools parser has no limit of its own."""

_CONNECT_S = 5.0
_ANSWER_S = 600.0
"""How long a model may stay silent. A client that leaves earlier ends the request at once."""

_KEEP_S = 4.0
"""Idle connections are dropped before uvicorn, under MLServer, drops them after 5 s."""

# RFC 9110, section 7.6.1, and the older names that still travel.
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_LOCAL_HOST = re.compile(r"(?:localhost|127\.0\.0\.1|\[::1\])(?::[0-9]{1,5})?", re.IGNORECASE)
_VERSION_IN_PATH = re.compile(rb"/v2/models/[^/]+/versions/([^/]+)(?:/|$)")
_RELEASE_HEADER = "x-slipway-release"


# ── Routing ───────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Route:
    """Where a share of the requests goes. `percent` 0: only requests that ask for the release."""

    release: int
    version: str
    """The registry's version number as text, as the model server reports it: "3"."""
    model: str
    port: int
    percent: int


class Idle(StrEnum):
    """Why there is no route: what a caller is told with the 503."""

    STARTING = "starting"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Counts:
    """What was measured for one release since the gateway started."""

    requests: int = 0
    errors: int = 0
    """Answers of 500 and above, and requests that got no answer."""
    upstream_s: float = 0.0
    """Sum over all requests: waiting for the model server."""
    gateway_s: float = 0.0
    """Sum over all requests: the gateway's own work before it asks the model server. The whole
    cost of the hop is in benchmarks/README.md."""


@dataclass(slots=True)
class _Tally:
    requests: int = 0
    errors: int = 0
    in_flight: int = 0
    upstream_s: float = 0.0
    gateway_s: float = 0.0


class _Rotation:
    """Smooth weighted round robin: of any 100 turns in a row, `percent` go to each route.

    The rule is nginx's (commit 52327e0627f4): all gain their weight, the richest one is chosen and
    pays the total. A random choice would need thousands of requests to show a canary's 10 %.
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = [route for route in routes if route.percent]
        self._credit = [0] * len(self._routes)

    def next(self) -> Route:
        for at, route in enumerate(self._routes):
            self._credit[at] += route.percent
        chosen = max(range(len(self._routes)), key=self._credit.__getitem__)
        self._credit[chosen] -= 100
        return self._routes[chosen]


class Router:
    """Which release a request goes to, and how many went where. Starts without routes."""

    def __init__(self) -> None:
        self._idle = Idle.STARTING
        self._tallies: dict[int, _Tally] = {}
        self._changed = asyncio.Event()
        self._set(())

    def set_routes(self, routes: Sequence[Route], idle: Idle = Idle.STOPPED) -> None:
        """Send requests that arrive from now on by these routes; those under way stay.

        Percents sum to 100, releases are distinct, or there is no route at all and `idle` says
        why; ValueError otherwise, and nothing has changed.
        """
        if routes and sum(route.percent for route in routes) != 100:
            raise ValueError(f"percents must sum to 100: {routes}")
        if any(not 0 <= route.percent <= 100 for route in routes):
            raise ValueError(f"a percent lies between 0 and 100: {routes}")
        if len({route.release for route in routes}) != len(routes):
            raise ValueError(f"one route per release: {routes}")
        self._idle = idle
        if tuple(routes) != self._routes:
            self._set(tuple(routes))
        self._wake()

    def _set(self, routes: tuple[Route, ...]) -> None:
        self._routes = routes
        # Predictions and other requests take turns apart: a client that alternates between the two
        # would otherwise send every prediction to the same release.
        self._rotations = {True: _Rotation(routes), False: _Rotation(routes)}
        for route in routes:
            self._tallies.setdefault(route.release, _Tally())

    def routes(self) -> tuple[Route, ...]:
        """The routes in force."""
        return self._routes

    @property
    def idle(self) -> Idle:
        """Why there is no route; without meaning while there are some."""
        return self._idle

    def counts(self) -> Mapping[int, Counts]:
        """Release → what was measured: the split as it was, not as it was asked for."""
        return {
            release: Counts(tally.requests, tally.errors, tally.upstream_s, tally.gateway_s)
            for release, tally in self._tallies.items()
        }

    def in_flight(self, release: int) -> int:
        """Requests that the release has to answer yet."""
        tally = self._tallies.get(release)
        return tally.in_flight if tally else 0

    async def drained(self, release: int, timeout_s: float) -> bool:
        """Wait until the release has no route and no request: it can be stopped without loss.

        False when that is not so after `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while self.in_flight(release) or any(r.release == release for r in self._routes):
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            try:
                await asyncio.wait_for(self._changed.wait(), left_s)
            except TimeoutError:
                return False
        return True

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _route_for(self, release: int) -> Route | None:
        return next((route for route in self._routes if route.release == release), None)

    def _route_of_version(self, version: str) -> Route | None:
        fitting = [route for route in self._routes if route.version == version]
        return fitting[0] if len(fitting) == 1 else None

    def _turn(self, *, prediction: bool) -> Route:
        return self._rotations[prediction].next()

    def _enter(self, route: Route) -> _Tally:
        tally = self._tallies.setdefault(route.release, _Tally())
        tally.requests += 1
        tally.in_flight += 1
        return tally

    def _leave(self, tally: _Tally) -> None:
        tally.in_flight -= 1
        if not tally.in_flight:
            self._wake()


# ── The application ───────────────────────────────────────────────────────────────────────────


def make_app(router: Router, service: str) -> ASGIApp:
    """The gateway of `service` as an ASGI application. Its lifespan owns the connections."""
    return _Gateway(router, service)


def config_for(app: ASGIApp) -> uvicorn.Config:
    """How uvicorn serves the gateway: one worker, the model server's own headers, bounded."""
    return uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        # The model server's `server` and `date` pass through: a second pair would be wrong.
        server_header=False,
        date_header=False,
        proxy_headers=False,
        limit_concurrency=2000,
        # Longer than the clients' own keep-alive (urllib3 has none, browsers about 60 s), so that
        # it is the client that lets go and no request meets a closed connection.
        timeout_keep_alive=120,
        timeout_graceful_shutdown=30,
    )


class _Protocol(HttpToolsProtocol):
    """uvicorn's protocol without Nagle's algorithm."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        # asyncio turns it off only for sockets that were made with IPPROTO_TCP by name; with it,
        # each answer waits 40 ms for the client's delayed acknowledgement.
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().connection_made(transport)


class _ClientGone(Exception):
    """The client closed its connection: nobody waits for the answer."""


class _Refused(Exception):
    """The gateway answers itself, with a status and one sentence."""

    def __init__(self, status: int, words: str, **headers: str) -> None:
        super().__init__(words)
        self.status = status
        self.words = words
        self.headers = headers

    def answer(self) -> Response:
        return JSONResponse({"error": self.words}, self.status, headers=self.headers)


@dataclass(slots=True)
class _Body:
    """A request's body: held whole when small, else its beginning and the way to the rest."""

    start: bytes
    whole: bool
    receive: Receive
    read: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    async def begin(cls, receive: Receive, declared_bytes: int | None) -> _Body:
        """Read a small body whole. _ClientGone."""
        held = bytearray()
        whole = False
        if declared_bytes is None or declared_bytes <= _BUFFER_BYTES:
            while not whole and len(held) <= _BUFFER_BYTES:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _ClientGone
                held += message.get("body", b"")
                whole = not message.get("more_body", False)
        body = cls(bytes(held), whole, receive)
        if whole:
            body.read.set()
        return body

    async def stream(self) -> AsyncIterator[bytes]:
        """The chunks of a large body as they arrive. _ClientGone."""
        if self.start:
            yield self.start
        more = True
        while more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise _ClientGone
            more = message.get("more_body", False)
            if chunk := message.get("body", b""):
                yield chunk
        self.read.set()

    async def until_gone(self) -> None:
        """Return when the client has closed its connection after sending the body."""
        await self.read.wait()
        while (await self.receive())["type"] != "http.disconnect":
            pass


class _Gateway:
    """Reads one request, has one release answer it, and says which."""

    def __init__(self, router: Router, service: str) -> None:
        self._router = router
        self._service = service
        self._kept: aiohttp.ClientSession | None = None
        self._fresh: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1003})
        else:
            await self._http(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            else:
                for session in (self._kept, self._fresh):
                    if session is not None:
                        await session.close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        headers = _headers(scope["headers"])
        try:
            _guard(scope["headers"], headers)
            own = scope["path"] if scope["raw_path"].startswith(b"/-/") else None
            if own is not None:
                await self._own(own, scope["method"])(scope, receive, send)
                return
            reading = time.perf_counter()
            body = await _Body.begin(receive, _declared_bytes(headers))
            began += time.perf_counter() - reading  # a slow client is not the gateway's cost
            # From the choice to the count no other request gets a turn: whoever sees the release
            # without requests after a switch knows that none will come.
            route = self._choose(scope, headers)
            tally = self._router._enter(route)  # noqa: SLF001 — one unit of two classes
            try:
                exchange = _Exchange(self, route, tally, began)
                await exchange.run(scope, headers, body, send)
            finally:
                self._router._leave(tally)  # noqa: SLF001
        except _Refused as refused:
            answer = refused.answer()
            answer.headers["x-slipway-service"] = self._service
            await answer(scope, receive, send)
        except _ClientGone:
            return

    def _choose(self, scope: Scope, headers: CIMultiDict[str]) -> Route:
        """The release that answers: the one asked for, by header or versioned path, or the next."""
        router = self._router
        wanted = headers.get(_RELEASE_HEADER)
        routes = router.routes()
        if not routes:
            raise self._nobody()
        if wanted is not None:
            if not re.fullmatch(r"[0-9]{1,9}", wanted):
                raise _Refused(400, f"{_RELEASE_HEADER} takes the number of a release.")
            route = router._route_for(int(wanted))  # noqa: SLF001
            if route is None:
                there = ", ".join(str(route.release) for route in routes)
                raise _Refused(
                    404, f"Release {int(wanted)} of {self._service} does not run; {there} does."
                )
            return route
        versioned = _VERSION_IN_PATH.match(scope["raw_path"])
        if versioned is not None:
            # /v2/models/NAME/versions/3/infer means version 3, whatever the weights say.
            route = router._route_of_version(versioned[1].decode("latin-1"))  # noqa: SLF001
            if route is not None:
                return route
        return router._turn(prediction=scope["method"] == "POST")  # noqa: SLF001

    def _nobody(self) -> _Refused:
        match self._router.idle:
            case Idle.STARTING:
                words = f"{self._service} is starting; no release answers yet. Try again shortly."
                return _Refused(503, words, **{"retry-after": "1"})
            case Idle.STOPPED:
                return _Refused(
                    503,
                    f"{self._service} is stopped. Start it with `slipway start {self._service}`.",
                )
            case Idle.FAILED:
                return _Refused(
                    503,
                    f"{self._service} has failed; no release answers. See `slipway status "
                    f"{self._service}`.",
                )

    # ── Own paths ─────────────────────────────────────────────────────────────────────────────

    def _own(self, path: str, method: str) -> Response:
        if method not in ("GET", "HEAD"):
            raise _Refused(405, f"{path} is only read.", allow="GET, HEAD")
        match path:
            case "/-/routes":
                return JSONResponse(self._routes_json())
            case "/-/metrics":
                return PlainTextResponse(
                    self._metrics(), media_type="text/plain; version=0.0.4; charset=utf-8"
                )
            case "/-/health":
                answering = bool(self._router.routes())
                return JSONResponse({"service": self._service, "answering": answering})
            case _:
                raise _Refused(404, "The gateway has /-/routes, /-/metrics and /-/health.")

    def _routes_json(self) -> dict[str, object]:
        counts = self._router.counts()
        routes = self._router.routes()
        return {
            "service": self._service,
            "idle": None if routes else self._router.idle.value,
            "routes": [
                {
                    "release": route.release,
                    "version": route.version,
                    "model": route.model,
                    "port": route.port,
                    "percent": route.percent,
                    "in_flight": self._router.in_flight(route.release),
                    "requests": counts[route.release].requests,
                    "errors": counts[route.release].errors,
                }
                for route in routes
            ],
        }

    def _metrics(self) -> str:
        """Prometheus' text format, 0.0.4."""
        counts = self._router.counts()
        percents = {route.release: route.percent for route in self._router.routes()}
        families: Sequence[tuple[str, str, Mapping[int, float]]] = (
            ("requests_total", "counter", {n: c.requests for n, c in counts.items()}),
            ("errors_total", "counter", {n: c.errors for n, c in counts.items()}),
            ("upstream_seconds_total", "counter", {n: c.upstream_s for n, c in counts.items()}),
            ("own_seconds_total", "counter", {n: c.gateway_s for n, c in counts.items()}),
            ("in_flight", "gauge", {n: self._router.in_flight(n) for n in counts}),
            ("route_percent", "gauge", percents),
        )
        service = self._service.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        lines = []
        for name, kind, values in families:
            lines.append(f"# TYPE slipway_gateway_{name} {kind}")
            lines += [
                f'slipway_gateway_{name}{{service="{service}",release="{release}"}} {value}'
                for release, value in values.items()
            ]
        return "\n".join(lines) + "\n"

    # ── Connections ───────────────────────────────────────────────────────────────────────────

    def kept_connections(self) -> aiohttp.ClientSession:
        """The session that uses connections again."""
        self._kept = self._kept or _session(force_close=False)
        return self._kept

    def fresh_connections(self) -> aiohttp.ClientSession:
        """The session that opens one connection per request."""
        self._fresh = self._fresh or _session(force_close=True)
        return self._fresh


@dataclass(slots=True)
class _Exchange:
    """One request to one release, and its answer."""

    gateway: _Gateway
    route: Route
    tally: _Tally
    began: float
    answering: bool = False
    """True once the answer's first byte was sent: from then on it can only be broken off."""

    async def run(self, scope: Scope, headers: CIMultiDict[str], body: _Body, send: Send) -> None:
        """Answer the request, or stop as soon as the client has gone. _Refused, _ClientGone."""
        exchange = asyncio.create_task(self._answered(scope, headers, body, send))
        gone = asyncio.create_task(body.until_gone())
        try:
            await asyncio.wait({exchange, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not exchange.done():
                raise _ClientGone
            exchange.result()
        except _Refused:
            self.tally.errors += 1
            raise
        finally:
            # Cancelling the exchange closes its connection: the model server learns of it.
            for task in (exchange, gone):
                task.cancel()
            await asyncio.gather(exchange, gone, return_exceptions=True)

    async def _answered(
        self, scope: Scope, headers: CIMultiDict[str], body: _Body, send: Send
    ) -> None:
        release = f"Release {self.route.release} (version {self.route.version})"
        asked = time.perf_counter()
        try:
            async with await self._response(scope, headers, body) as response:
                await self._pass_on(response, asked, send, head=scope["method"] == "HEAD")
        except aiohttp.ClientConnectorError as error:
            raise _Refused(502, f"{release} refused the connection; its server is gone.") from error
        except TimeoutError as error:
            if self.answering:
                return self._broken_off(error)
            raise _Refused(504, f"{release} gave no answer within {_ANSWER_S:.0f} s.") from error
        except (aiohttp.ClientError, OSError) as error:
            if _is_gone(error):
                raise _ClientGone from error
            if self.answering:
                return self._broken_off(error)
            raise _Refused(502, f"{release} broke off before its answer was complete.") from error
        return None

    async def _response(
        self, scope: Scope, headers: CIMultiDict[str], body: _Body
    ) -> aiohttp.ClientResponse:
        if not body.whole:
            # A stream cannot be sent twice, so it never meets a connection that may be stale.
            return await self._send(self.gateway.fresh_connections(), scope, headers, body)
        trace = SimpleNamespace(reused=False)
        try:
            return await self._send(self.gateway.kept_connections(), scope, headers, body, trace)
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            # MLServer closes a connection after each of its 500s, and uvicorn after 5 s without a
            # request, without a word in either case. Predictions have no side effects: once more.
            # (aiohttp does the same by itself for GET, HEAD and other idempotent methods.)
            if not trace.reused or _has_begun(error):
                raise
        return await self._send(self.gateway.fresh_connections(), scope, headers, body)

    async def _send(
        self,
        session: aiohttp.ClientSession,
        scope: Scope,
        headers: CIMultiDict[str],
        body: _Body,
        trace: SimpleNamespace | None = None,
    ) -> aiohttp.ClientResponse:
        target = scope["raw_path"].decode("latin-1")
        if scope["query_string"]:
            target += "?" + scope["query_string"].decode("latin-1")
        return await session.request(
            scope["method"],
            # encoded=True: the path and query reach the model server byte for byte.
            URL(f"http://127.0.0.1:{self.route.port}{target}", encoded=True),
            headers=_passed_on(headers, with_length=not body.whole),
            data=(body.start or None) if body.whole else body.stream(),
            allow_redirects=False,
            trace_request_ctx=trace,
        )

    async def _pass_on(
        self, response: aiohttp.ClientResponse, asked: float, send: Send, *, head: bool
    ) -> None:
        length = response.content_length
        bodiless = head or response.status in (204, 304)
        if bodiless or (length is not None and length <= _BUFFER_BYTES):
            content = await response.read()
            await self._start(response, asked, send)
            await send({"type": "http.response.body", "body": content})
            return
        await self._start(response, asked, send)
        async for chunk in response.content.iter_any():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body"})

    async def _start(self, response: aiohttp.ClientResponse, asked: float, send: Send) -> None:
        now = time.perf_counter()
        upstream_s, gateway_s = now - asked, asked - self.began
        self.tally.upstream_s += upstream_s
        self.tally.gateway_s += gateway_s
        self.tally.errors += response.status >= 500
        self.answering = True
        message: Message = {
            "type": "http.response.start",
            "status": response.status,
            "headers": [
                *_passed_back(response.raw_headers),
                (b"x-slipway-service", self.gateway._service.encode()),  # noqa: SLF001
                (b"x-slipway-release", str(self.route.release).encode()),
                (b"x-slipway-version", self.route.version.encode("latin-1", "replace")),
                (
                    b"server-timing",
                    b"upstream;dur=%.3f, gateway;dur=%.3f" % (upstream_s * 1e3, gateway_s * 1e3),
                ),
            ],
        }
        await send(message)

    def _broken_off(self, error: Exception) -> None:
        # Without the last message uvicorn closes the connection, which tells the client that the
        # answer is incomplete. A polite end would pass half an answer off as a whole one.
        self.tally.errors += 1
        _log.warning(
            "release %d broke off in the middle of an answer: %s",
            self.route.release,
            type(error).__name__,
        )


# ── Headers and connections ───────────────────────────────────────────────────────────────────


def _headers(raw: Iterable[tuple[bytes, bytes]]) -> CIMultiDict[str]:
    return CIMultiDict((name.decode("latin-1"), _text(value)) for name, value in raw)


def _text(value: bytes) -> str:
    # aiohttp writes header values as UTF-8: what came as UTF-8 leaves as it came.
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _guard(raw: Sequence[tuple[bytes, bytes]], headers: CIMultiDict[str]) -> None:
    """Refuse what no local client sends: web pages elsewhere must not reach a model here."""
    if sum(len(name) + len(value) for name, value in raw) > _HEADER_BYTES:
        raise _Refused(431, f"The headers are larger than {_HEADER_BYTES // 2**10} KiB.")
    # A name that an attacker's DNS points to 127.0.0.1 still stands in the Host header.
    hosts = headers.getall("host", [])
    if len(hosts) != 1 or not _LOCAL_HOST.fullmatch(hosts[0]):
        raise _Refused(403, "This address answers to localhost, 127.0.0.1 and [::1] only.")
    # A form or script of another site can send a POST here without being able to read the answer.
    origin = headers.get("origin")
    elsewhere = origin is not None and not _LOCAL_HOST.fullmatch(urlsplit(origin).netloc)
    if elsewhere or headers.get("sec-fetch-site") == "cross-site":
        raise _Refused(403, "Pages of other sites may not send requests here.")


def _declared_bytes(headers: CIMultiDict[str]) -> int | None:
    declared = headers.get("content-length", "")
    if declared.isascii() and declared.isdigit():
        return int(declared)
    return None if "transfer-encoding" in headers else 0


def _dropped(connection: Iterable[str]) -> frozenset[str]:
    named = (name.strip().lower() for value in connection for name in value.split(","))
    return _HOP_BY_HOP.union(named)


def _passed_on(headers: CIMultiDict[str], *, with_length: bool) -> CIMultiDict[str]:
    dropped = _dropped(headers.getall("connection", []))
    # uvicorn has answered "expect" already; aiohttp counts the bytes that it has whole.
    dropped |= {"expect", _RELEASE_HEADER} | (set() if with_length else {"content-length"})
    return CIMultiDict((n, v) for n, v in headers.items() if n.lower() not in dropped)


def _passed_back(raw: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    lowered = [(name.lower(), value) for name, value in raw]
    dropped = _dropped(value.decode("latin-1") for name, value in lowered if name == b"connection")
    return [
        (name, value)
        for name, value in lowered
        if (text := name.decode("latin-1")) not in dropped and not text.startswith("x-slipway-")
    ]


def _has_begun(error: aiohttp.ClientError) -> bool:
    """Whether the server had sent a part of its answer before it closed the connection."""
    return isinstance(error, aiohttp.ServerDisconnectedError) and not isinstance(error.message, str)


def _is_gone(error: BaseException | None) -> bool:
    """Whether a failed send was our own: the client left while its body was streaming."""
    while error is not None:
        if isinstance(error, _ClientGone):
            return True
        error = error.__cause__ or error.__context__
    return False


def _session(*, force_close: bool) -> aiohttp.ClientSession:
    async def used_again(
        _session: aiohttp.ClientSession,
        context: SimpleNamespace,
        _params: aiohttp.TraceConnectionReuseconnParams,
    ) -> None:
        if context.trace_request_ctx is not None:
            context.trace_request_ctx.reused = True

    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(used_again)
    return aiohttp.ClientSession(
        connector=(
            aiohttp.TCPConnector(limit=0, force_close=True)
            if force_close
            else aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_S)
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_ANSWER_S),
        auto_decompress=False,
        trust_env=False,
        skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        trace_configs=[trace],
    )
