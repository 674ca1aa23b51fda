"""The load engine against scripted servers on loopback.

Real processes and sockets; no assertion depends on how fast this machine is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Self

import psutil
import pytest

from services import engine as engine_module
from services.changeover import changeovers
from services.domain import (
    Endpoint,
    InferRequest,
    Load,
    LoadMode,
    LoadSummary,
    Objective,
    Protocol,
    Tick,
    WayIn,
)
from services.engine.run import LoadRun, ProcessEngine
from services.errors import ConfigError, Denied, SlipwayError, Unreachable
from services.latency import Recorder

GOOD = b'{"model_name":"m","model_version":"7","outputs":[{"name":"y","shape":[1],"data":[1.5]}]}'


def answer(
    body: bytes = GOOD,
    status: str = "200 OK",
    headers: tuple[str, ...] = (),
    *,
    length: bool = True,
) -> bytes:
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", *headers]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


class Exchange:
    """One request as the script sees it, and the means to answer it."""

    def __init__(
        self,
        head: bytes,
        body: bytes,
        writer: asyncio.StreamWriter,
        number: int,
        on_connection: int,
    ) -> None:
        self.head = head
        self.body = body
        self.writer = writer
        self.number = number
        """Of all requests, from 0."""
        self.on_connection = on_connection
        """Of those on this connection, from 0."""

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """Hang up with a RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.writer.transport.abort()


Script = Callable[[Exchange], Awaitable[None]]


class ScriptedServer:
    """An HTTP server in a thread of its own that answers by a script."""

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None) -> None:
        self.script = script
        self.tls = tls
        self.requests: list[Exchange] = []
        self.connections = 0
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        self.server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self.serve, "127.0.0.1", 0, ssl=self.tls), self.loop
        ).result(10)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self.shut(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()

    async def shut(self) -> None:
        self.server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        on_connection = 0
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                sizes = [
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length:")
                ]
                body = await reader.readexactly(sizes[0])
                exchange = Exchange(head, body, writer, len(self.requests), on_connection)
                self.requests.append(exchange)
                on_connection += 1
                await self.script(exchange)
        writer.close()


async def good(exchange: Exchange) -> None:
    await exchange.say(answer())


def always(data: bytes) -> Script:
    async def script(exchange: Exchange) -> None:
        await exchange.say(data)

    return script


def endpoint(port: int, **options: Any) -> Endpoint:
    options = {"base_url": f"http://127.0.0.1:{port}", "via": WayIn.LOOPBACK, **options}
    return Endpoint(model_name="m", **options)


def request(body: bytes = b'{"inputs":[]}', protocol: Protocol = Protocol.V2) -> InferRequest:
    return InferRequest(protocol, "/v2/models/m/infer", body)


def burst(port: int, n: int = 20, **options: Any) -> Load:
    options = {
        "endpoint": endpoint(port),
        "requests": (request(),),
        "mode": LoadMode.BURST,
        "duration_s": 60.0,
        "max_requests": n,
        **options,
    }
    return Load(**options)


def steady(port: int, rate: float = 50.0, duration_s: float = 2.0, **options: Any) -> Load:
    options = {"concurrency": 4, "max_requests": 1_000_000, **options}
    return burst(port, mode=LoadMode.STEADY_RATE, rate=rate, duration_s=duration_s, **options)


def run(load: Load) -> tuple[list[Tick], LoadSummary]:
    *ticks, summary = ProcessEngine().run(load)
    assert isinstance(summary, LoadSummary)
    assert all(isinstance(tick, Tick) for tick in ticks)
    return ticks, summary  # type: ignore[return-value]


def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def is_gone(pid: int, within_s: float = 30.0) -> bool:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def lively() -> Iterator[ScriptedServer]:
    with ScriptedServer(good) as server:
        yield server


# Pacing


def test_a_steady_rate_sends_exactly_what_was_planned(lively: ScriptedServer) -> None:
    _, summary = run(steady(lively.port, rate=50, duration_s=2))
    assert (summary.requests, summary.ok, len(lively.requests)) == (100, 100, 100)
    assert summary.target_rate == 50
    assert summary.duration_s >= 1.99


def test_the_schedule_never_runs_ahead(lively: ScriptedServer) -> None:
    started = time.monotonic()
    run(steady(lively.port, rate=20, duration_s=2))
    assert time.monotonic() - started >= 39 / 20


@pytest.mark.skipif(sys.platform != "linux", reason="real-time priority is asked of Linux only")
@pytest.mark.parametrize(
    ("make", "first"),
    [(steady, True), (partial(steady, rate=20_000.0), False), (burst, False)],
    ids=["steady", "a rate that never sleeps", "burst"],
)
def test_where_it_may_a_steady_rate_goes_before_all_else(
    lively: ScriptedServer, make: Callable[..., Load], first: bool
) -> None:
    going = ProcessEngine().run(make(lively.port, max_requests=1_000_000))
    next(going)  # after a second it is under way
    scheduler = os.sched_getscheduler(going.pid) & ~os.SCHED_RESET_ON_FORK
    going.close()
    assert scheduler == (os.SCHED_RR if first and may_go_first() else os.SCHED_OTHER)


def may_go_first() -> bool:
    """Whether a process of this account gets real-time priority on this machine."""
    asks = "import os; os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))"
    refused = subprocess.run([sys.executable, "-c", asks], stderr=subprocess.DEVNULL, check=False)
    return not refused.returncode and (os.cpu_count() or 1) > 1


def test_a_stall_counts_for_every_request_that_was_due_in_it() -> None:
    async def stalls_once(exchange: Exchange) -> None:
        if exchange.number == 50:
            await asyncio.sleep(1.0)
        await exchange.say(answer())

    with ScriptedServer(stalls_once) as server:
        _, summary = run(steady(server.port, rate=100, duration_s=2, concurrency=1))
    # 100 requests were due while the only connection was stuck, and waited 0 to 1 s each. A clock
    # that starts at the actual send would show one slow request of 200.
    assert summary.response.p90 is not None
    assert summary.service.p90 is not None
    assert summary.response.p90 > 0.5
    assert summary.response.p90 > 3 * summary.service.p90
    assert summary.waited >= 90
    assert "waited for a free connection" in summary.verdict


def test_a_burst_sends_its_count_and_no_more(lively: ScriptedServer) -> None:
    _, summary = run(burst(lively.port, n=200, concurrency=8))
    assert (summary.ok, len(lively.requests)) == (200, 200)
    assert summary.target_rate is None
    assert summary.lateness_p99_s is None


def test_a_burst_smaller_than_its_connections_sends_its_count(lively: ScriptedServer) -> None:
    _, summary = run(burst(lively.port, n=3, concurrency=8))
    assert (summary.ok, len(lively.requests)) == (3, 3)


def test_a_burst_ends_with_its_duration(lively: ScriptedServer) -> None:
    _, summary = run(burst(lively.port, n=10_000_000, duration_s=1.0))
    assert 0 < summary.ok < 10_000_000
    assert summary.stopped == ""


def test_one_request_is_under_way_per_connection() -> None:
    under_way = Counter[str]()
    most = 0

    async def counts(exchange: Exchange) -> None:
        nonlocal most
        under_way["now"] += 1
        most = max(most, under_way["now"])
        await asyncio.sleep(0.01)
        under_way["now"] -= 1
        await exchange.say(answer())

    with ScriptedServer(counts) as server:
        run(burst(server.port, n=60, concurrency=3))
        assert most == 3
        assert server.connections == 3


def test_what_the_warm_up_saw_is_not_in_the_summary() -> None:
    async def fails_first(exchange: Exchange) -> None:
        await exchange.say(answer() if exchange.number >= 50 else answer(status="500 Oh"))

    with ScriptedServer(fails_first) as server:
        ticks, summary = run(steady(server.port, rate=50, duration_s=1, warm_up_s=1.2))
        assert len(server.requests) == 110
    assert (summary.ok, summary.errors) == (50, {})
    assert any(tick.warm_up for tick in ticks)
    assert all(tick.at_s <= 0 and not tick.ok for tick in ticks if tick.warm_up)


def test_a_tick_comes_every_second_and_they_add_up(lively: ScriptedServer) -> None:
    ticks, summary = run(steady(lively.port, rate=40, duration_s=3))
    assert 2 <= len(ticks) <= 4
    assert [tick.final for tick in ticks] == [False] * (len(ticks) - 1) + [True]
    assert sum(tick.ok for tick in ticks) == summary.ok == 120


def test_prepared_bodies_take_turns(lively: ScriptedServer) -> None:
    bodies = tuple(request(f'{{"inputs":[{n}]}}'.encode()) for n in range(3))
    run(burst(lively.port, n=9, requests=bodies))
    assert [exchange.body for exchange in lively.requests] == [one.body for one in bodies] * 3


# What goes out


def test_a_request_carries_the_endpoints_host_path_and_headers(lively: ScriptedServer) -> None:
    where = endpoint(
        lively.port,
        base_url=f"http://127.0.0.1:{lively.port}/api/v1/proxy",
        host="wine.models.example.com",
        headers=(("Authorization", "Bearer secret"),),
    )
    run(burst(lively.port, n=1, endpoint=where))
    lines = lively.requests[0].head.decode().split("\r\n")
    assert lines[0] == "POST /api/v1/proxy/v2/models/m/infer HTTP/1.1"
    assert "Host: wine.models.example.com" in lines
    assert "Authorization: Bearer secret" in lines
    assert "Accept-Encoding: identity" in lines


def test_secrets_are_not_in_the_engines_arguments(lively: ScriptedServer) -> None:
    where = endpoint(lively.port, headers=(("Authorization", "Bearer secret"),))
    under_way = ProcessEngine().run(burst(lively.port, n=10_000_000, endpoint=where))
    with contextlib.closing(under_way):
        assert not any("secret" in word for word in psutil.Process(under_way.pid).cmdline())


@pytest.mark.parametrize(
    "header", [("Authorization", "b\r\nX-Evil: 1"), ("X\nY", "b"), ("traceparent", "\0")]
)
def test_a_header_cannot_smuggle_another(header: tuple[str, str]) -> None:
    with pytest.raises(ConfigError):
        ProcessEngine().run(burst(1, endpoint=endpoint(1, headers=(header,))))


# What comes back


def test_chunked_answers_are_cut_right() -> None:
    async def chunked(exchange: Exchange) -> None:
        await exchange.say(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            + b"%x\r\n%b\r\n" % (20, GOOD[:20])
        )
        await asyncio.sleep(0.002)
        await exchange.say(b"%x\r\n%b\r\n0\r\n\r\n" % (len(GOOD) - 20, GOOD[20:]))

    with ScriptedServer(chunked) as server:
        _, summary = run(burst(server.port, n=20))
        assert (summary.ok, summary.errors, server.connections) == (20, {}, 1)


def test_an_answer_in_pieces_is_one_answer() -> None:
    async def pieces(exchange: Exchange) -> None:
        for byte in (answer()[:10], answer()[10:60], answer()[60:]):
            await exchange.say(byte)
            await asyncio.sleep(0.002)

    with ScriptedServer(pieces) as server:
        _, summary = run(burst(server.port, n=10))
    assert (summary.ok, summary.errors) == (10, {})


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux stamps what comes in")
def test_an_answer_counts_from_when_it_came_not_from_when_the_engine_read_it() -> None:
    engine: list[int] = []

    async def answered_while_the_engine_stands_still(exchange: Exchange) -> None:
        os.kill(engine[0], signal.SIGSTOP)
        try:
            await exchange.say(answer())
            await asyncio.sleep(0.6)
        finally:
            os.kill(engine[0], signal.SIGCONT)

    with ScriptedServer(answered_while_the_engine_stands_still) as server:
        under_way = ProcessEngine().run(steady(server.port, 1.0, 3.0, concurrency=1))
        engine.append(under_way.pid)
        *_, summary = under_way
    assert isinstance(summary, LoadSummary)
    assert summary.ok == 3
    assert summary.service.max is not None
    assert summary.service.max < 0.5


def test_an_answer_that_ends_with_its_connection_is_whole() -> None:
    async def until_the_end(exchange: Exchange) -> None:
        await exchange.say(answer(length=False))
        exchange.writer.close()

    with ScriptedServer(until_the_end) as server:
        _, summary = run(burst(server.port, n=5))
    assert (summary.ok, summary.errors) == (5, {})


def test_an_interim_answer_is_no_answer() -> None:
    with ScriptedServer(always(b"HTTP/1.1 100 Continue\r\n\r\n" + answer())) as server:
        _, summary = run(burst(server.port, n=5))
    assert (summary.ok, summary.errors) == (5, {})


def test_a_connection_that_the_server_closes_in_good_order_is_replaced() -> None:
    async def closes(exchange: Exchange) -> None:
        await exchange.say(answer(headers=("Connection: close",)))
        exchange.writer.close()

    with ScriptedServer(closes) as server:
        _, summary = run(burst(server.port, n=10, concurrency=2))
    assert (summary.ok, summary.errors) == (10, {})


def test_a_large_answer_is_timed_to_its_end() -> None:
    large = b'{"outputs":[{"data":[' + b"1," * 3_000_000 + b"1]}]}"

    with ScriptedServer(always(answer(large))) as server:
        _, summary = run(burst(server.port, n=3))
    assert (summary.ok, summary.errors) == (3, {})


def test_a_large_request_leaves_whole_each_time() -> None:
    large = bytes(range(32, 127)) * 40_000
    whole = []

    async def weigh(exchange: Exchange) -> None:
        whole.append(exchange.body == large)
        await exchange.say(answer())

    with ScriptedServer(weigh) as server:
        _, summary = run(burst(server.port, n=12, concurrency=3, requests=(request(large),)))
    assert (summary.ok, summary.errors) == (12, {})
    assert whole == [True] * 12


def test_one_wrong_answer_among_many_alike_is_seen() -> None:
    async def mostly_good(exchange: Exchange) -> None:
        wrong = exchange.number % 50 == 49
        await exchange.say(answer(GOOD.replace(b"outputs", b"nothing") if wrong else GOOD))

    with ScriptedServer(mostly_good) as server:
        _, summary = run(burst(server.port, n=200, concurrency=2))
    assert (summary.ok, summary.errors) == (196, {"wrong-body": 4})


def test_each_body_of_a_rotation_has_its_own_answer() -> None:
    async def in_kind(exchange: Exchange) -> None:
        version = exchange.body[-1:].decode()
        await exchange.say(answer(GOOD.replace(b'"7"', f'"{version}"'.encode())))

    several = tuple(request(f"body {number}".encode()) for number in range(3))
    with ScriptedServer(in_kind) as server:
        _, summary = run(burst(server.port, n=300, concurrency=4, requests=several))
    assert summary.by_version == {"0": 100, "1": 100, "2": 100}


def test_a_steady_rate_counts_each_release_that_answers_alike() -> None:
    async def two_releases(exchange: Exchange) -> None:
        await exchange.say(answer(headers=(f"x-slipway-release: {exchange.number % 2 + 1}",)))

    with ScriptedServer(two_releases) as server:
        _, summary = run(steady(server.port, rate=100.0))
    assert (summary.ok, sum(summary.by_release.values())) == (200, 200)
    assert summary.by_release[1] == summary.by_release[2]


def test_a_version_that_takes_over_is_told_by_the_second() -> None:
    """Version 8 from request 120 on; one late answer of version 7 comes long after that."""

    async def rolling(exchange: Exchange) -> None:
        version = "8" if exchange.number >= 120 and exchange.number != 220 else "7"
        await exchange.say(answer(GOOD.replace(b'"7"', f'"{version}"'.encode())))

    with ScriptedServer(rolling) as server:
        before = datetime.now(UTC)
        ticks, summary = run(steady(server.port, rate=100.0, duration_s=4.0))
    (found,) = changeovers(ticks)
    assert (found.who, found.beside, found.alone) == ("8", ("7",), True)
    # Neither answer can come before it is asked for, in second 1.2 and in second 2.2.
    assert found.from_s > 0.5
    assert (found.both_until_s or 0) > 2.2
    assert summary.began_at is not None
    assert before < summary.began_at < datetime.now(UTC) - timedelta(seconds=3.5)


def test_an_answer_counts_for_its_release_though_another_came_in_meanwhile() -> None:
    first_waits, second_said = asyncio.Event(), asyncio.Event()
    connections: list[asyncio.StreamWriter] = []

    async def script(exchange: Exchange) -> None:
        if exchange.writer not in connections:
            connections.append(exchange.writer)
        release = connections.index(exchange.writer) + 1
        if exchange.on_connection == 2:  # by now its answer is expected
            if release == 1:
                first_waits.set()
                await second_said.wait()
                await asyncio.sleep(0.2)
            else:
                await first_waits.wait()
        await exchange.say(answer(headers=(f"x-slipway-release: {release}",)))
        if (release, exchange.on_connection) == (2, 2):
            second_said.set()

    with ScriptedServer(script) as server:
        _, summary = run(burst(server.port, n=6, concurrency=2))
    assert summary.by_release == {1: 3, 2: 3}


def test_bytes_behind_a_known_answer_end_its_connection() -> None:
    async def chatty(exchange: Exchange) -> None:
        more = b"HTTP/1.1 200 OK\r\n" if exchange.number % 10 == 9 else b""
        await exchange.say(answer() + more)

    with ScriptedServer(chatty) as server:
        _, summary = run(burst(server.port, n=60, concurrency=1))
        connections = server.connections
    assert summary.requests == 60
    assert connections > 5


def test_answers_are_counted_by_the_version_that_they_name(lively: ScriptedServer) -> None:
    _, summary = run(burst(lively.port, n=30))
    assert summary.by_version == {"7": 30}
    assert summary.by_release == {}


def test_answers_are_counted_and_timed_by_release() -> None:
    async def two_releases(exchange: Exchange) -> None:
        release = 2 if exchange.number % 4 == 0 else 1
        await exchange.say(
            answer(headers=(f"x-slipway-release: {release}", f"x-slipway-version: {release + 5}"))
        )

    with ScriptedServer(two_releases) as server:
        ticks, summary = run(burst(server.port, n=80))
    assert summary.by_release == {1: 60, 2: 20}
    assert summary.by_version == {"6": 60, "7": 20}
    assert set(summary.response_by_release) == {1, 2}
    assert sum(tick.by_release.get(2, 0) for tick in ticks) == 20


def test_an_endpoint_of_one_release_counts_for_it(lively: ScriptedServer) -> None:
    _, summary = run(burst(lively.port, n=5, endpoint=endpoint(lively.port, release=4)))
    assert summary.by_release == {4: 5}


@pytest.mark.parametrize("protocol", [Protocol.V1, Protocol.INVOCATIONS])
def test_other_protocols_answer_with_predictions(protocol: Protocol) -> None:
    with ScriptedServer(always(answer(b'{"predictions": [1]}\n'))) as server:
        _, summary = run(burst(server.port, n=5, requests=(request(protocol=protocol),)))
    assert (summary.ok, summary.errors) == (5, {})


def test_an_answer_with_numbers_that_json_does_not_have_is_a_prediction() -> None:
    with ScriptedServer(always(answer(b'{"outputs": [NaN, -Infinity]}'))) as server:
        _, summary = run(burst(server.port, n=5))
    assert (summary.ok, summary.errors) == (5, {})


# Failures by kind


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (answer(status="404 Not Found"), "http-4xx"),
        (answer(status="503 Service Unavailable"), "http-5xx"),
        (answer(status="302 Found", headers=("Location: http://127.0.0.1/",)), "http-3xx"),
        (answer(b"<html>hello</html>"), "wrong-body"),
        (answer(b'{"error": "no outputs"}'), "wrong-body"),
        (answer(b'{"outputs": []}'), "wrong-body"),
        (answer(b'{"outputs": [1}'), "wrong-body"),
        (answer(b""), "wrong-body"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n\r\n", "not-http"),
    ],
)
def test_failures_are_told_apart(said: bytes, kind: str) -> None:
    with ScriptedServer(always(said)) as server:
        _, summary = run(burst(server.port, n=5))
    assert (summary.ok, summary.errors) == (0, {kind: 5})
    assert summary.response.max is None
    assert summary.histogram == ()


def test_nobody_listening_is_refused() -> None:
    _, summary = run(steady(closed_port(), rate=20, duration_s=0.5))
    assert summary.errors == {"refused": 10}


def test_a_hang_up_without_an_answer_is_a_reset() -> None:
    async def resets(exchange: Exchange) -> None:
        exchange.reset()

    with ScriptedServer(resets) as server:
        _, summary = run(burst(server.port, n=5))
    assert summary.errors == {"reset": 5}


def test_a_hang_up_within_an_answer_is_a_reset() -> None:
    async def cuts(exchange: Exchange) -> None:
        await exchange.say(answer()[:-10])
        exchange.writer.close()

    with ScriptedServer(cuts) as server:
        _, summary = run(burst(server.port, n=5))
    assert summary.errors == {"reset": 5}


def test_silence_is_a_timeout() -> None:
    async def silent(exchange: Exchange) -> None:
        await asyncio.sleep(60)

    with ScriptedServer(silent) as server:
        _, summary = run(burst(server.port, n=2, timeout_s=0.3))
    assert summary.errors == {"timeout": 2}


def test_a_drip_is_a_timeout_however_lively_it_looks() -> None:
    async def drips(exchange: Exchange) -> None:
        for byte in answer():
            await exchange.say(bytes([byte]))
            await asyncio.sleep(0.05)

    with ScriptedServer(drips) as server:
        _, summary = run(burst(server.port, n=2, timeout_s=0.4))
    assert summary.errors == {"timeout": 2}


def test_failures_have_no_latency() -> None:
    async def every_other_fails(exchange: Exchange) -> None:
        if exchange.number % 2:
            await exchange.say(answer(status="500 Oh"))
        else:
            await asyncio.sleep(0.05)
            await exchange.say(answer())

    with ScriptedServer(every_other_fails) as server:
        _, summary = run(burst(server.port, n=60))
    assert (summary.ok, summary.errors) == (30, {"http-5xx": 30})
    assert summary.response.p50 is not None
    assert summary.response.p50 >= 0.05
    assert sum(count for _, count in summary.histogram) == 30


def test_a_hang_up_after_a_500_is_not_held_against_the_model() -> None:
    async def hangs_up_after_500(exchange: Exchange) -> None:
        if exchange.on_connection == 2:
            await exchange.say(answer(status="500 Internal Server Error"))
        elif exchange.on_connection == 3:
            exchange.reset()
        else:
            await exchange.say(answer())

    with ScriptedServer(hangs_up_after_500) as server:
        _, summary = run(burst(server.port, n=30))
    assert set(summary.errors) == {"http-5xx"}
    assert summary.ok + summary.errors["http-5xx"] == 30
    assert summary.resent > 0


def test_a_hang_up_after_a_good_answer_is_held_against_it() -> None:
    async def resets_every_second(exchange: Exchange) -> None:
        if exchange.on_connection == 1:
            exchange.reset()
        else:
            await exchange.say(answer())

    with ScriptedServer(resets_every_second) as server:
        _, summary = run(burst(server.port, n=10))
    assert (summary.ok, summary.errors) == (5, {"reset": 5})


def test_what_could_never_leave_is_a_failure_of_its_own() -> None:
    async def slow(exchange: Exchange) -> None:
        await asyncio.sleep(0.25)
        await exchange.say(answer())

    with ScriptedServer(slow) as server:
        _, summary = run(steady(server.port, rate=40, duration_s=0.5, concurrency=1, timeout_s=0.8))
    assert summary.requests == 20
    assert summary.errors.get("not-sent", 0) > 5


# Bounds and ends


def test_a_server_too_slow_for_the_rate_does_not_lengthen_the_test() -> None:
    async def slow(exchange: Exchange) -> None:
        await asyncio.sleep(0.1)
        await exchange.say(answer())

    with ScriptedServer(slow) as server:
        _, summary = run(steady(server.port, rate=100, duration_s=2, concurrency=2, timeout_s=8))
    assert summary.requests == 200
    assert summary.errors["not-sent"] > 100
    assert summary.duration_s < 3.5
    assert "still waited for a free connection when the test's time was over" in summary.verdict


def test_a_warm_up_that_the_server_cannot_follow_leaves_the_measured_time_alone() -> None:
    async def slow(exchange: Exchange) -> None:
        await asyncio.sleep(0.1)
        await exchange.say(answer())

    with ScriptedServer(slow) as server:
        _, summary = run(steady(server.port, rate=100, duration_s=1, concurrency=2, warm_up_s=2))
    assert summary.ok >= 10


def test_what_waits_for_a_moment_at_the_end_still_leaves() -> None:
    async def stalls_once(exchange: Exchange) -> None:
        if exchange.number == 20:
            await asyncio.sleep(0.5)
        await exchange.say(answer())

    with ScriptedServer(stalls_once) as server:
        _, summary = run(steady(server.port, rate=25, duration_s=1, concurrency=1))
    assert (summary.ok, summary.errors) == (25, {})


def test_at_a_low_rate_a_dead_server_ends_the_load_after_five_seconds() -> None:
    started = time.monotonic()
    _, summary = run(steady(closed_port(), rate=5, duration_s=60))
    assert time.monotonic() - started < 20
    assert 10 <= summary.errors["refused"] < 60
    assert summary.verdict.startswith("Stopped early: no request was answered for 5 s.")


def test_a_server_that_answers_now_and_then_is_measured_to_the_end() -> None:
    async def mostly_failing(exchange: Exchange) -> None:
        await exchange.say(answer() if exchange.number % 10 == 9 else answer(status="500 Oh"))

    with ScriptedServer(mostly_failing) as server:
        _, summary = run(steady(server.port, rate=20, duration_s=3, all_failing_s=1.0))
    assert (summary.requests, summary.stopped) == (60, "")


def test_the_rate_of_a_run_counts_the_time_in_which_its_server_was_gone() -> None:
    async def dies(exchange: Exchange) -> None:
        if exchange.number == 20:
            server.server.close()
            exchange.writer.transport.abort()
        await exchange.say(answer())

    with ScriptedServer(dies) as server:
        load = steady(server.port, rate=20, duration_s=3, concurrency=1, all_failing_s=None)
        _, summary = run(load)
    assert (summary.requests, summary.ok) == (60, 20)
    assert summary.duration_s == pytest.approx(3.0, abs=0.1)
    assert summary.rate == pytest.approx(20 / 3, rel=0.05)


def test_an_outage_is_measured_to_its_end_where_that_is_wanted() -> None:
    _, summary = run(steady(closed_port(), rate=20, duration_s=2, all_failing_s=None))
    assert (summary.errors, summary.stopped) == ({"refused": 40}, "")


def test_too_many_failures_end_the_load() -> None:
    with ScriptedServer(always(answer(status="500 Oh"))) as server:
        _, summary = run(burst(server.port, n=1_000_000, max_errors=25))
    assert summary.errors == {"http-5xx": 26}
    assert summary.verdict.startswith("Stopped early: more than 25 requests failed.")


def test_a_dead_server_is_not_asked_without_pause() -> None:
    started = time.monotonic()
    _, summary = run(burst(closed_port(), n=1_000_000, max_errors=30))
    assert summary.errors == {"refused": 31}
    assert time.monotonic() - started > 0.2


def test_closing_stops_the_load_within_a_second(lively: ScriptedServer) -> None:
    under_way = ProcessEngine().run(steady(lively.port, rate=50, duration_s=600))
    next(under_way)
    started = time.monotonic()
    under_way.close()
    assert time.monotonic() - started < 2.0  # a second is promised, the rest is the test machine
    assert is_gone(under_way.pid)
    assert list(under_way) == []


def test_letting_go_of_the_load_stops_it(lively: ScriptedServer) -> None:
    under_way: LoadRun | None = ProcessEngine().run(steady(lively.port, duration_s=600))
    assert under_way is not None
    next(under_way)
    pid = under_way.pid
    under_way = None
    assert is_gone(pid)


def test_another_thread_can_close_a_load_that_is_being_read(lively: ScriptedServer) -> None:
    under_way = ProcessEngine().run(steady(lively.port, duration_s=600))
    next(under_way)
    timer = threading.Timer(0.3, under_way.close)
    timer.start()
    rest = list(under_way)
    timer.join()
    assert not any(isinstance(item, LoadSummary) for item in rest)


def test_nothing_comes_from_a_load_that_was_closed_while_it_was_counted(
    lively: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way = ProcessEngine().run(steady(lively.port, duration_s=600))
    count = Recorder.tick

    def closed_meanwhile(recorder: Recorder, *, final: bool = False) -> Tick:
        under_way.close()
        return count(recorder, final=final)

    monkeypatch.setattr(Recorder, "tick", closed_meanwhile)
    assert not [item for item in under_way if isinstance(item, Tick) and not item.warm_up]


def test_a_load_that_is_stopped_while_it_connects_measured_nothing() -> None:
    with contextlib.ExitStack() as sockets:
        full = sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):  # nobody accepts them: the next one waits
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        under_way = ProcessEngine().run(steady(full.getsockname()[1], duration_s=600))
        threading.Timer(1.0, under_way.stop).start()
        *ticks, summary = under_way
    assert isinstance(summary, LoadSummary)
    assert (summary.requests, summary.client_limited, summary.cpu_ratio) == (0, False, None)
    assert [tick.at_s for tick in ticks if isinstance(tick, Tick)] == [0.0]


def test_stopping_by_hand_still_gives_a_summary(lively: ScriptedServer) -> None:
    under_way = ProcessEngine().run(steady(lively.port, rate=50, duration_s=600))
    next(under_way)
    under_way.stop()
    *_, summary = under_way
    assert isinstance(summary, LoadSummary)
    assert summary.ok > 10
    assert summary.stopped == "stopped by hand"
    assert is_gone(under_way.pid)


def test_a_stop_does_not_wait_for_a_stuck_server() -> None:
    async def stuck(exchange: Exchange) -> None:
        await asyncio.sleep(600)

    with ScriptedServer(stuck) as server:
        under_way = ProcessEngine().run(steady(server.port, duration_s=600, timeout_s=300))
        next(under_way)
        started = time.monotonic()
        under_way.stop()
        list(under_way)
        assert time.monotonic() - started < 5


_PARENT = """
import sys
from services.domain import *
from services.engine.run import ProcessEngine
load = Load(
    Endpoint(sys.argv[1], "m", WayIn.LOOPBACK),
    (InferRequest(Protocol.V2, "/v2/models/m/infer", b"{}"),),
    LoadMode.STEADY_RATE, 600.0, rate=20.0,
)
run = ProcessEngine().run(load)
next(run)
print(run.pid, flush=True)
for _ in run:
    pass
"""


def test_the_engine_does_not_outlive_slipway(lively: ScriptedServer) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, f"http://127.0.0.1:{lively.port}"],
        stdout=subprocess.PIPE,
        cwd=Path(engine_module.__file__).parent.parent.parent,
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert psutil.pid_exists(pid)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert is_gone(pid)


def test_a_killed_engine_is_told_in_words(lively: ScriptedServer) -> None:
    under_way = ProcessEngine().run(steady(lively.port, duration_s=600))
    next(under_way)
    os.kill(under_way.pid, signal.SIGKILL)
    with pytest.raises(SlipwayError, match="ended without a result"):
        list(under_way)


@pytest.mark.parametrize(
    "options",
    [
        {"requests": ()},
        {"duration_s": 0.0},
        {"duration_s": 1e9},
        {"duration_s": float("nan")},
        {"concurrency": 0},
        {"concurrency": 100_000},
        {"max_requests": 0},
        {"timeout_s": 0.0},
        {"warm_up_s": -1.0},
        {"mode": LoadMode.STEADY_RATE, "rate": None},
        {"mode": LoadMode.STEADY_RATE, "rate": 1e9},
    ],
)
def test_a_load_out_of_bounds_is_not_started(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="not started"):
        ProcessEngine().run(burst(1, **options))


def test_the_objective_is_judged(lively: ScriptedServer) -> None:
    _, summary = run(burst(lively.port, n=20, objective=Objective(p99_s=30, error_ratio=0.0)))
    assert summary.objective_met is True
    assert "Objective met." in summary.verdict


# Addresses


@pytest.mark.parametrize("spelling", ["127.0.0.1", "2130706433", "0x7f.1", "localhost"])
def test_no_packet_leaves_for_a_forbidden_address(lively: ScriptedServer, spelling: str) -> None:
    where = endpoint(lively.port, base_url=f"http://{spelling}:{lively.port}", via=WayIn.INGRESS)
    with pytest.raises(Denied, match="cannot be its endpoint"):
        run(burst(lively.port, endpoint=where))
    assert lively.connections == 0


@pytest.mark.parametrize("host", ["169.254.169.254", "metadata.google.internal", "[fe80::1]"])
def test_a_metadata_service_is_refused_even_where_settings_name_it(host: str) -> None:
    load = burst(1, endpoint=endpoint(1, base_url=f"http://{host}:80", via=WayIn.INGRESS))
    with pytest.raises(Denied, match="cannot be its endpoint"):
        list(ProcessEngine(allow_hosts=[host]).run(load))


def test_a_host_on_this_machine_is_reached_where_settings_name_it(lively: ScriptedServer) -> None:
    where = endpoint(lively.port, base_url=f"http://localhost:{lively.port}", via=WayIn.INGRESS)
    *_, summary = ProcessEngine(allow_hosts=["localhost"]).run(
        burst(lively.port, n=3, endpoint=where)
    )
    assert isinstance(summary, LoadSummary)
    assert summary.ok == 3


def test_a_header_that_opens_other_doors_is_not_sent() -> None:
    where = endpoint(1, headers=(("Metadata-Flavor", "Google"),))
    with pytest.raises(ConfigError, match="is not sent to endpoints"):
        ProcessEngine().run(burst(1, endpoint=where))


def test_a_name_without_a_host_is_unreachable() -> None:
    where = endpoint(1, base_url="http://nowhere.invalid:80", via=WayIn.INGRESS)
    with pytest.raises(Unreachable, match="cannot be its endpoint"):
        run(burst(1, endpoint=where))


# TLS


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for wine.example.com, with its key."""
    pem = tmp_path_factory.mktemp("tls") / "both.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=wine.example.com", "-addext", "subjectAltName=DNS:wine.example.com"),
            *("-keyout", str(pem), "-out", str(pem) + ".crt"),
        ],
        check=True,
        capture_output=True,
    )
    pem.write_bytes(pem.read_bytes() + Path(f"{pem}.crt").read_bytes())
    return pem


def tls_load(port: int, host: str, ca_file: Path | None) -> Load:
    where = endpoint(
        port,
        base_url=f"https://127.0.0.1:{port}",
        host=host,
        ca_file=str(ca_file) if ca_file else None,
    )
    return burst(port, n=4, endpoint=where)


@pytest.fixture
def secured(certificate: Path) -> Iterator[ScriptedServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with ScriptedServer(good, context) as server:
        yield server


def test_https_is_checked_against_the_targets_own_authority(
    secured: ScriptedServer, certificate: Path
) -> None:
    _, summary = run(tls_load(secured.port, "wine.example.com", Path(f"{certificate}.crt")))
    assert (summary.ok, summary.errors) == (4, {})


def test_a_certificate_of_another_name_is_a_tls_failure(
    secured: ScriptedServer, certificate: Path
) -> None:
    _, summary = run(tls_load(secured.port, "other.example.com", Path(f"{certificate}.crt")))
    assert summary.errors == {"tls": 4}
    assert secured.requests == []


def test_a_certificate_that_nobody_vouches_for_is_a_tls_failure(secured: ScriptedServer) -> None:
    _, summary = run(tls_load(secured.port, "wine.example.com", None))
    assert summary.errors == {"tls": 4}


def test_a_missing_authority_file_is_told_in_words(secured: ScriptedServer) -> None:
    with pytest.raises(ConfigError, match="not started"):
        run(tls_load(secured.port, "wine.example.com", Path("/nowhere/ca.crt")))
