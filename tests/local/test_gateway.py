"""The gateway against real servers on loopback: uvicorn in front, toys and raw sockets behind."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
import uvicorn
from multidict import CIMultiDictProxy
from starlette.types import ASGIApp, Receive, Scope, Send
from yarl import URL

from services.local.gateway import Idle, Route, Router, config_for, make_app


def run(journey: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(journey(), 120))


def route(release: int, port: int, percent: int = 100) -> Route:
    return Route(release, version=str(release), model="wine", port=port, percent=percent)


@asynccontextmanager
async def served(app: ASGIApp, config: uvicorn.Config | None = None) -> AsyncIterator[int]:
    """Serve an application with uvicorn on a free port of loopback; gives the port."""
    # The protocol by name: else asyncio leaves Nagle's algorithm on, and each answer takes 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(2048)
    server = uvicorn.Server(config or uvicorn.Config(app, log_config=None, lifespan="off"))
    # serve() would take over the test runner's signals. The socket listens already: a request that
    # comes early waits in the backlog.
    task = asyncio.create_task(server._serve([listener]))
    try:
        yield listener.getsockname()[1]
    finally:
        while not server.started:  # noqa: ASYNC110 — uvicorn has no event for it
            await asyncio.sleep(0.005)
        server.should_exit = True
        await task
        listener.close()


@dataclass
class Toy:
    """A model server that says who it is, echoes what it got, and counts."""

    name: str
    delay_s: float = 0.0
    stopped: bool = False
    """Set when nothing may arrive any more."""
    late: int = 0
    seen: list[Scope] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a client left while it waited on /slow."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.late += self.stopped
        self.seen.append(scope)
        self.asked.set()
        if scope["path"] == "/slow":
            while (await receive())["type"] != "http.disconnect":
                pass
            self.left.set()
            return
        size, more = 0, True
        while more:
            message = await receive()
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        status = int(scope["path"][8:]) if scope["path"].startswith("/status/") else 200
        text = json.dumps({"name": self.name, "bytes": size}).encode() if status != 204 else b""
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(text)),
            (b"connection", b"x-private"),
            (b"x-private", b"hop"),
            (b"x-slipway-release", b"999"),
        ]
        if status in (301, 307):
            headers.append((b"location", b"http://127.0.0.1:1/elsewhere"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": text})


@dataclass(frozen=True)
class Got:
    """An answer, read whole."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def error(self) -> str:
        return str(json.loads(self.body)["error"])


@dataclass
class Front:
    """A gateway that is served, with a client for it."""

    router: Router
    port: int
    client: aiohttp.ClientSession

    def url(self, path: str) -> URL:
        return URL(f"http://127.0.0.1:{self.port}{path}", encoded=True)

    async def get(self, path: str = "/v2", **headers: str) -> Got:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.ask("GET", path, headers=named)

    async def post(self, path: str = "/invocations", body: Any = b"{}") -> Got:
        return await self.ask("POST", path, data=body)

    async def ask(self, method: str, path: str, **how: Any) -> Got:
        request = self.client.request(method, self.url(path), allow_redirects=False, **how)
        async with request as got:
            return Got(got.status, got.headers, await got.read())


@asynccontextmanager
async def gateway(*toys: Toy, percents: tuple[int, ...] = ()) -> AsyncIterator[Front]:
    """A gateway in front of toys; the first is release 1, and has all traffic unless told."""
    async with AsyncExitStack() as stack:
        ports = [await stack.enter_async_context(served(toy)) for toy in toys]
        router = Router()
        shares = percents or (100, *(0 for _ in toys[1:]))
        router.set_routes(
            [route(n, p, s) for n, (p, s) in enumerate(zip(ports, shares, strict=False), 1)]
        )
        app = make_app(router, "wine")
        front = await stack.enter_async_context(served(app, config_for(app)))
        client = await stack.enter_async_context(aiohttp.ClientSession())
        yield Front(router, front, client)


@asynccontextmanager
async def raw_server(
    talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    """A server that does with each connection exactly what the test says."""

    async def handled(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handled, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


# ── What is passed on ─────────────────────────────────────────────────────────────────────────


def test_the_answer_names_service_release_and_version() -> None:
    async def journey() -> None:
        async with gateway(Toy("a")) as front:
            got = await front.get()
            named = {name: got.headers.get(f"x-slipway-{name}") for name in ("service", "version")}
            assert named == {"service": "wine", "version": "1"}
            assert got.headers.getall("x-slipway-release") == ["1"]

    run(journey)


def test_the_answer_says_what_the_hop_cost() -> None:
    async def journey() -> None:
        async with gateway(Toy("a", delay_s=0.05)) as front:
            timing = (await front.get()).headers["server-timing"]
            upstream, own = (float(part.partition("dur=")[2]) for part in timing.split(", "))
            assert upstream >= 50
            assert own < upstream

    run(journey)


@pytest.mark.parametrize(
    "path", ["/a%2Fb/../c//d?x=%20+&y", "/v2/models/w%C3%AFne/infer", "/%2d/routes", "/?", "//x"]
)
def test_path_and_query_reach_the_model_server_byte_for_byte(path: str) -> None:
    async def journey() -> None:
        toy = Toy("a")
        async with gateway(toy) as front:
            reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            await reader.readline()
            writer.close()
            scope = toy.seen[0]
            query = b"?" + scope["query_string"] if scope["query_string"] else b""
            assert scope["raw_path"] + query == path.rstrip("?").encode()

    run(journey)


def test_hop_by_hop_headers_go_one_hop_only() -> None:
    async def journey() -> None:
        toy = Toy("a")
        async with gateway(toy) as front:
            got = await front.get(
                Connection="X-Mine, keep-alive", X_Mine="1", TE="trailers", X_Ok="1"
            )
            arrived = {name.decode() for name, _ in toy.seen[0]["headers"]}
            assert {"x-mine", "te", "keep-alive"}.isdisjoint(arrived)
            assert "x-ok" in arrived
            assert "x-private" not in got.headers

    run(journey)


@pytest.mark.parametrize("status", [204, 301, 307, 404, 422])
def test_a_status_is_passed_back_and_no_redirect_is_followed(status: int) -> None:
    async def journey() -> None:
        async with gateway(Toy("a")) as front:
            assert (await front.get(f"/status/{status}")).status == status

    run(journey)


def test_a_proxy_in_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")

    async def journey() -> None:
        async with gateway(Toy("a")) as front:
            assert (await front.get()).status == 200

    run(journey)


@pytest.mark.parametrize("size", [0, 10, 2**20, 2**20 + 1, 5 * 2**20])
@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_of_any_size_arrives_whole(size: int, chunked: bool) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, size, 100_000):
            yield b"x" * min(100_000, size - at)

    async def journey() -> None:
        async with gateway(Toy("a")) as front:
            got = await front.post(body=pieces() if chunked else b"x" * size)
            assert json.loads(got.body)["bytes"] == size

    run(journey)


def test_an_answer_to_head_has_the_length_and_no_body() -> None:
    async def journey() -> None:
        async with gateway(Toy("a")) as front:
            got = await front.ask("HEAD", "/v2")
            assert (got.status, got.body) == (200, b"")
            assert int(got.headers["content-length"]) > 0

    run(journey)


def test_a_slow_upload_is_not_counted_as_the_gateways_own_time() -> None:
    async def slowly() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(0.5)
        yield b"}"

    async def journey() -> None:
        async with gateway(Toy("a")) as front:
            await front.post(body=slowly())
            assert front.router.counts()[1].gateway_s < 0.5

    run(journey)


def test_a_large_answer_streams_before_it_is_complete() -> None:
    async def journey() -> None:
        more = asyncio.Event()

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
            await more.wait()
            writer.write(b"4\r\nlast\r\n0\r\n\r\n")
            await writer.drain()

        async with raw_server(talk) as port, gateway(Toy("unused")) as front:
            front.router.set_routes([route(1, port)])
            async with front.client.get(front.url("/stream")) as got:
                assert await got.content.readany() == b"first"
                more.set()
                assert await got.content.read() == b"last"

    run(journey)


def test_a_client_that_leaves_ends_the_request_at_the_model_server() -> None:
    async def journey() -> None:
        toy = Toy("a")
        async with gateway(toy) as front:
            task = asyncio.create_task(front.get("/slow"))
            await asyncio.wait_for(toy.asked.wait(), 30)
            task.cancel()
            await asyncio.wait_for(toy.left.wait(), 30)
            assert await front.router.drained(1, 0) is False
            front.router.set_routes([])
            assert await front.router.drained(1, 30)

    run(journey)


# ── Stale connections and broken servers ──────────────────────────────────────────────────────


def one_request_per_connection(answers: Counter[str]) -> Any:
    """Answers once per connection without saying that it will close, as MLServer after a 500."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"content-length: 2" in head.lower():
            await reader.readexactly(2)
        answers["given"] += 1
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()
        # The next request is read and then dropped without a byte of answer: the race in slow.
        await reader.read(1)
        answers["dropped"] += 1

    return talk


def test_a_prediction_that_met_a_stale_connection_is_sent_again() -> None:
    async def journey() -> None:
        answers: Counter[str] = Counter()
        async with (
            raw_server(one_request_per_connection(answers)) as port,
            gateway(Toy("unused")) as front,
        ):
            front.router.set_routes([route(1, port)])
            statuses = [(await front.post()).status for _ in range(20)]
            assert statuses == [200] * 20
            assert answers["dropped"] > 0

    run(journey)


def test_a_server_that_dies_over_a_prediction_gets_it_only_once() -> None:
    async def journey() -> None:
        asked = 0

        async def talk(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
            nonlocal asked
            await reader.readuntil(b"\r\n\r\n{}")
            asked += 1

        async with raw_server(talk) as port, gateway(Toy("unused")) as front:
            front.router.set_routes([route(1, port)])
            got = await front.post()
            assert (got.status, asked) == (502, 1)

    run(journey)


def test_a_refused_connection_is_a_502_in_words() -> None:
    async def journey() -> None:
        with socket.socket() as deaf:
            deaf.bind(("127.0.0.1", 0))  # never listens: refuses
            async with gateway(Toy("unused")) as front:
                front.router.set_routes([route(7, deaf.getsockname()[1])])
                got = await front.get()
                assert got.status == 502
                assert "Release 7 (version 7) refused" in got.error

    run(journey)


def test_a_server_that_dies_in_the_middle_of_a_short_answer_is_a_502_in_words() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        await writer.drain()

    async def journey() -> None:
        async with raw_server(talk) as port, gateway(Toy("unused")) as front:
            front.router.set_routes([route(1, port)])
            got = await front.get()
            assert got.status == 502
            assert "broke off" in got.error

    run(journey)


def test_half_of_a_streamed_answer_never_looks_complete() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        await writer.drain()

    async def journey() -> None:
        async with raw_server(talk) as port, gateway(Toy("unused")) as front:
            front.router.set_routes([route(1, port)])
            with pytest.raises(aiohttp.ClientPayloadError):
                await front.get()
            assert front.router.counts()[1].errors == 1

    run(journey)


# ── Who answers ───────────────────────────────────────────────────────────────────────────────


def test_ten_percent_are_ten_of_every_hundred_predictions() -> None:
    async def journey() -> None:
        async with gateway(Toy("a"), Toy("b"), percents=(90, 10)) as front:
            for _ in range(2):
                got = Counter(
                    [(await front.post()).headers["x-slipway-release"] for _ in range(100)]
                )
                assert got == {"1": 90, "2": 10}
            assert {n: c.requests for n, c in front.router.counts().items()} == {1: 180, 2: 20}

    run(journey)


def test_reads_between_predictions_do_not_skew_their_split() -> None:
    async def journey() -> None:
        async with gateway(Toy("a"), Toy("b"), percents=(50, 50)) as front:
            got: Counter[str] = Counter()
            for _ in range(10):
                await front.get()
                got[(await front.post()).headers["x-slipway-release"]] += 1
            assert got == {"1": 5, "2": 5}

    run(journey)


def test_a_header_asks_for_exactly_one_release() -> None:
    async def journey() -> None:
        async with gateway(Toy("a"), Toy("b")) as front:
            got = await front.get(x_slipway_release="2")
            assert got.headers["x-slipway-release"] == "2"

    run(journey)


def test_a_path_that_names_a_version_reaches_its_release() -> None:
    async def journey() -> None:
        async with gateway(Toy("a"), Toy("b")) as front:
            got = await front.post("/v2/models/wine/versions/2/infer")
            assert got.headers["x-slipway-release"] == "2"

    run(journey)


@pytest.mark.parametrize(("wanted", "status"), [("3", 404), ("x", 400), ("1" * 40, 400)])
def test_a_release_that_does_not_run_is_refused_in_words(wanted: str, status: int) -> None:
    async def journey() -> None:
        async with gateway(Toy("a")) as front:
            got = await front.get(x_slipway_release=wanted)
            assert got.status == status
            assert "elease" in got.error

    run(journey)


@pytest.mark.parametrize("idle", list(Idle))
def test_without_a_route_the_answer_says_why(idle: Idle) -> None:
    async def journey() -> None:
        async with gateway(Toy("a")) as front:
            front.router.set_routes([], idle)
            got = await front.get()
            assert got.status == 503
            assert idle.value in got.error

    run(journey)


@pytest.mark.parametrize(
    "routes",
    [
        [route(1, 1, 50)],
        [route(1, 1, 50), route(1, 2, 50)],
        [route(1, 1, 120), route(2, 2, -20)],
    ],
)
def test_routes_that_make_no_sense_change_nothing(routes: list[Route]) -> None:
    async def journey() -> None:
        router = Router()
        router.set_routes([route(9, 9)])
        with pytest.raises(ValueError, match=r"percent|route"):
            router.set_routes(routes)
        assert router.routes() == (route(9, 9),)

    run(journey)


# ── Own paths and guests ──────────────────────────────────────────────────────────────────────


def test_the_routes_can_be_read_back() -> None:
    async def journey() -> None:
        async with gateway(Toy("a"), Toy("b"), percents=(75, 25)) as front:
            for _ in range(4):
                await front.post()
            read = json.loads((await front.get("/-/routes")).body)
            got = [(r["release"], r["percent"], r["requests"]) for r in read["routes"]]
            assert got == [(1, 75, 3), (2, 25, 1)]

    run(journey)


def test_the_metrics_are_prometheus_text() -> None:
    async def journey() -> None:
        async with gateway(Toy("a")) as front:
            await front.get("/status/500")
            got = await front.get("/-/metrics")
            text = got.body.decode()
            assert got.headers["content-type"].startswith("text/plain; version=0.0.4")
            assert 'slipway_gateway_requests_total{service="wine",release="1"} 1' in text
            assert 'slipway_gateway_errors_total{service="wine",release="1"} 1' in text

    run(journey)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost:8501"}, 200),
        ({"Host": "LOCALHOST"}, 200),
        ({"Host": "[::1]:1234"}, 200),
        ({"Host": "rebound.example"}, 403),
        ({"Host": "localhost.example:80"}, 403),
        ({"Host": "127.0.0.1.example"}, 403),
        ({"Origin": "http://localhost:8501"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Host": ""}, 403),
        ({"X-Large": "x" * 70_000}, 431),
    ],
)
def test_only_local_clients_get_through(headers: dict[str, str], status: int) -> None:
    async def journey() -> None:
        toy = Toy("a")
        async with gateway(toy) as front:
            got = await front.ask("POST", "/invocations", headers=headers)
            assert got.status == status
            assert bool(toy.seen) == (status == 200)

    run(journey)


# ── Switching ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("keep_alive", [True, False])
def test_a_steady_stream_loses_nothing_while_releases_come_and_go(keep_alive: bool) -> None:
    """200 requests a second through six switches; each old server is stopped once drained."""

    async def journey() -> None:
        statuses: Counter[int | str] = Counter()
        toys: list[Toy] = []
        async with gateway(Toy("unused")) as front, AsyncExitStack() as clients:
            connector = aiohttp.TCPConnector(limit=0, force_close=not keep_alive)
            client = await clients.enter_async_context(aiohttp.ClientSession(connector=connector))

            async def ask() -> None:
                try:
                    async with client.post(front.url("/invocations"), data=b"{}") as got:
                        await got.read()
                        statuses[got.status] += 1
                except aiohttp.ClientError as error:
                    statuses[type(error).__name__] += 1

            async def stream(over: asyncio.Event) -> None:
                loop, asked = asyncio.get_running_loop(), set()
                began, sent = loop.time(), 0
                while not over.is_set():
                    asked.add(asyncio.create_task(ask()))
                    sent += 1
                    await asyncio.sleep(max(0.0, began + sent / 200 - loop.time()))
                await asyncio.gather(*asked)

            over = asyncio.Event()
            first = Toy("1", delay_s=0.01)
            toys.append(first)
            async with AsyncExitStack() as last:
                server = await last.enter_async_context(AsyncExitStack())
                port = await server.enter_async_context(served(first))
                front.router.set_routes([route(1, port)])
                streaming = asyncio.create_task(stream(over))
                for number in range(2, 8):
                    await asyncio.sleep(0.3)
                    old, old_server, old_port = toys[-1], server, port
                    toys.append(Toy(str(number), delay_s=0.01))
                    server = await last.enter_async_context(AsyncExitStack())
                    port = await server.enter_async_context(served(toys[-1]))
                    front.router.set_routes(
                        [route(number - 1, old_port, 80), route(number, port, 20)]
                    )
                    await asyncio.sleep(0.2)
                    front.router.set_routes([route(number, port)])
                    assert await front.router.drained(number - 1, 60)
                    old.stopped = True
                    await old_server.aclose()
                await asyncio.sleep(0.3)
                over.set()
                await streaming
        assert set(statuses) == {200}
        assert sum(statuses.values()) > 300
        assert sum(len(toy.seen) for toy in toys) == sum(statuses.values())
        assert [toy.late for toy in toys] == [0] * len(toys)

    run(journey)
