"""The load engine: timed requests from a process of its own.

Two halves in one file. `ProcessEngine` runs where Slipway runs: it starts `python -m
services.engine`, hands it the load over a pipe, and turns what comes back into ticks and a summary.
The other half is that process: an asyncio protocol on uvloop that does as little as possible per
request. It imports neither the page's nor the registry's libraries, so that it starts quickly and
nothing else runs on its interpreter.

How time is kept: at a steady rate the send times are fixed before the first request leaves
(intended = start + n / rate). Response time counts from the intended send, service time from the
actual one, so a server that stalls cannot slow the clock that measures it. A request that finds
every connection busy waits its turn; its waiting counts. The moment of an answer is taken before it
is parsed.

Read against uvloop 0.23, httptools 0.9 and Linux timerfd_create(2). `latency` does the arithmetic.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import ipaddress
import os
import re
import select
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httptools
import orjson

from services import addresses
from services.domain import (
    Endpoint,
    InferRequest,
    Load,
    LoadMode,
    LoadSummary,
    Protocol,
    Tick,
    WayIn,
)
from services.errors import ConfigError, Denied, SlipwayError, Unreachable, one_line
from services.latency import NO_PERCENTILES, NS, Answerer, Histogram, Recorder, Slice

MAX_RATE: Final = 100_000.0
MAX_DURATION_S: Final = 3_600.0
MAX_CONCURRENCY: Final = 1_024
"""A load test is a weapon: what it may ask for is bounded here, whoever asks."""

_SLICE_S = 0.25
_SILENCE_S = 15.0
"""The engine says something four times a second: so long without a word means that it hangs."""


# ── Where Slipway runs ────────────────────────────────────────────────────────────────────────


class ProcessEngine:
    """Load tests, each in a process of its own (`ports.LoadEngine`).

    `allow_hosts`: hosts that the operator's own settings name; their addresses may be on this
    machine, but never a metadata service.
    """

    def __init__(self, *, allow_hosts: Collection[str] = ()) -> None:
        self._allow_hosts = frozenset(host.lower() for host in allow_hosts)

    def run(self, load: Load) -> LoadRun:
        """Start `load`: a Tick a second, then one LoadSummary.

        Closing what is returned, or letting go of it, stops the load at once; so does the death of
        this process.

        Raises:
            ConfigError: the load is out of bounds or contradictory.
            Denied: the address is one that no request may go to. Nothing was sent.
            Unreachable: the address has no host behind it. (A host that refuses is measured:
                its refusals are the result.)
        """
        _check(load)
        host = urlsplit(load.endpoint.base_url).hostname or ""
        return LoadRun(load, host_is_named=host.rstrip(".") in self._allow_hosts)


class LoadRun(Iterator["Tick | LoadSummary"]):
    """A load test under way. `stop` and `close` may be called from any thread."""

    def __init__(self, load: Load, *, host_is_named: bool = False) -> None:
        self._load = load
        self._recorder = Recorder(
            target_rate=load.rate if load.mode is LoadMode.STEADY_RATE else None,
            objective=load.objective,
            block_s=_SLICE_S,
        )
        self._ready: deque[Tick | LoadSummary] = deque()
        self._next_tick_s = 1.0
        self._warm_up_told_s = -load.warm_up_s
        self._received = bytearray()
        self._closed = False
        self._closing = threading.Lock()
        self._reading = threading.Lock()
        config = _config_frame(load, host_is_named)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "services.engine"],
            # The folder that holds the package: all that has to be found, installed or not.
            cwd=Path(__file__).resolve().parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        self._send(config)

    @property
    def pid(self) -> int:
        """The engine's process."""
        return self._process.pid

    def __iter__(self) -> LoadRun:
        return self

    def __next__(self) -> Tick | LoadSummary:
        while not self._ready:
            line = self._line()
            if line is None:
                raise StopIteration
            self._take(orjson.loads(line))
        return self._ready.popleft()

    def stop(self) -> None:
        """End the load now, and let the summary of what was measured come."""
        self._send(_STOP)

    def close(self) -> None:
        """Stop the load now; nothing more comes. Idempotent."""
        with self._closing:
            self._closed = True
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(0.5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            # A thread that reads at this moment sees the end of the pipe, and closes it then.
            if self._reading.acquire(blocking=False):
                self._close_results()
                self._reading.release()

    def __del__(self) -> None:
        if hasattr(self, "_process"):
            self.close()

    def _close_results(self) -> None:
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _send(self, data: bytes) -> None:
        assert self._process.stdin is not None
        view = memoryview(data)
        # An engine that is gone needs no command, and reading its results tells how it went.
        with contextlib.suppress(BrokenPipeError, ValueError):
            while view:
                view = view[self._process.stdin.write(view) :]

    def _line(self) -> bytes | None:
        """The next line from the engine; None when there will be none."""
        with self._reading:
            assert self._process.stdout is not None
            while not self._process.stdout.closed:
                end = self._received.find(b"\n")
                if end >= 0 and not self._closed:
                    line = bytes(self._received[:end])
                    del self._received[: end + 1]
                    return line
                self._receive(self._process.stdout.fileno())
        return None

    def _receive(self, pipe: int) -> None:
        readable, _, _ = select.select([pipe], [], [], _SILENCE_S)
        chunk = os.read(pipe, 1 << 20) if readable else b""
        self._received += chunk
        if chunk:
            return
        self._close_results()
        if self._closed:
            return
        self._process.kill()
        self._process.wait()
        raise SlipwayError(
            "The load test ended without a result.",
            why=(
                f"The load engine ended with code {self._process.returncode}."
                if readable
                else f"The load engine said nothing for {_SILENCE_S:.0f} s."
            ),
            fix="Run it again, with a lower rate or on a machine with a free core.",
        )

    def _take(self, message: dict[str, Any]) -> None:
        if "slice" in message:
            self._take_slice(_slice_from_wire(message["slice"]))
            return
        self.close()
        if "problem" in message:
            raise _PROBLEMS[message["problem"].pop("kind")](**message["problem"])
        self._ready.append(self._recorder.tick(final=True))
        self._ready.append(self._recorder.summary(**message["end"]))

    def _take_slice(self, piece: Slice) -> None:
        if piece.end_s <= 0:
            # One a second here too, so that whoever reads can act in between.
            if piece.end_s - self._warm_up_told_s > 0.95:
                self._warm_up_told_s = piece.end_s
                self._ready.append(_warm_up_tick(piece.end_s))
            return
        self._recorder.add(piece)
        # Near the end the rest of the last second is left to the final tick: a point for three
        # milliseconds would look like a burst.
        near_end = abs(piece.end_s - self._load.duration_s) < 0.1
        if piece.end_s > self._next_tick_s - 0.05 and not near_end:
            self._ready.append(self._recorder.tick())
            self._next_tick_s = round(piece.end_s) + 1.0


def _warm_up_tick(at_s: float) -> Tick:
    return Tick(at_s, 0, {}, 0.0, NO_PERCENTILES, NO_PERCENTILES, warm_up=True)


def _check(load: Load) -> None:
    """ConfigError when the load is contradictory or more than may be asked for."""
    problem = ""
    if not load.requests:
        problem = "It has no request to send."
    elif not 0 < load.duration_s <= MAX_DURATION_S:
        problem = (
            f"Its duration is {load.duration_s:g} s; up to {MAX_DURATION_S:,.0f} s can be run."
        )
    elif not 0 <= load.warm_up_s <= MAX_DURATION_S:
        problem = f"Its warm-up is {load.warm_up_s:g} s; 0 to {MAX_DURATION_S:,.0f} s can be run."
    elif not 1 <= load.concurrency <= MAX_CONCURRENCY:
        problem = (
            f"It asks for {load.concurrency} connections; 1 to {MAX_CONCURRENCY:,} can be made."
        )
    elif not 0 < load.timeout_s <= MAX_DURATION_S:
        problem = f"Its time limit for a request is {load.timeout_s:g} s."
    elif load.max_requests < 1:
        problem = f"It allows {load.max_requests} requests."
    elif load.mode is LoadMode.STEADY_RATE and not 0 < (load.rate or 0.0) <= MAX_RATE:
        problem = (
            f"Its rate is {load.rate or 0:g} requests a second; up to {MAX_RATE:,.0f} can be sent."
        )
    if problem:
        raise ConfigError("The load test was not started.", why=problem, fix="Change that value.")


# ── Over the pipe ─────────────────────────────────────────────────────────────────────────────

_STOP = b"s"
_PROBLEMS: Mapping[str, type[SlipwayError]] = {
    "ConfigError": ConfigError,
    "Denied": Denied,
    "Unreachable": Unreachable,
}
# What the answer to each protocol holds, as it appears in its JSON.
_MARKS: Mapping[Protocol, str] = {
    Protocol.V2: "outputs",
    Protocol.V1: "predictions",
    Protocol.INVOCATIONS: "predictions",
}


def _config_frame(load: Load, host_is_named: bool) -> bytes:
    """Length, JSON header, then the requests as they go out: nothing is encoded while timing."""
    endpoint = load.endpoint
    requests = [_request_bytes(endpoint, request) for request in load.requests]
    url = urlsplit(endpoint.base_url)
    tls = url.scheme == "https"
    header = orjson.dumps(
        {
            "host": url.hostname or "",
            "port": url.port or (443 if tls else 80),
            "tls": tls,
            "server_name": urlsplit(f"//{endpoint.host}").hostname
            if endpoint.host
            else url.hostname,
            "ca_file": str(Path(endpoint.ca_file).resolve()) if endpoint.ca_file else None,
            "via": endpoint.via,
            "named": host_is_named,
            "release": endpoint.release,
            "rate": load.rate if load.mode is LoadMode.STEADY_RATE else None,
            "duration_s": load.duration_s,
            "warm_up_s": load.warm_up_s,
            "timeout_s": load.timeout_s,
            "concurrency": load.concurrency,
            "max_requests": load.max_requests,
            "max_errors": load.max_errors,
            "sizes": [len(request) for request in requests],
            "marks": [_MARKS[request.protocol] for request in load.requests],
        }
    )
    return b"".join((len(header).to_bytes(4, "big"), header, *requests))


_UNSAFE = re.compile(r"[^\x21-\x7e\x80-\xff\t ]")


def _request_bytes(endpoint: Endpoint, request: InferRequest) -> bytes:
    """The whole request as it goes over the wire. ConfigError for what no header may hold."""
    url = urlsplit(endpoint.base_url)
    plain = url.username is None and not url.query and not url.fragment
    if url.scheme not in ("http", "https") or not url.hostname or not plain:
        raise ConfigError(
            "The load test was not started.",
            why=f"{one_line(endpoint.base_url)!r} is no plain http or https address.",
            fix="Look at the endpoint's address on the Endpoints page.",
        )
    lines = [
        f"POST {url.path.rstrip('/')}{request.path} HTTP/1.1",
        f"Host: {endpoint.host or url.netloc}",
        f"Content-Type: {request.content_type}",
        f"Content-Length: {len(request.body)}",
        "Accept: application/json",
        # MLServer compresses answers when it may: the server's work would differ per client.
        "Accept-Encoding: identity",
        "User-Agent: slipway",
        *(f"{name}: {value}" for name, value in addresses.headers_of(endpoint).items()),
    ]
    if " " in url.path + request.path or any(_UNSAFE.search(line) for line in lines):
        raise ConfigError(
            "The load test was not started.",
            why="The path or a header holds a character that HTTP does not allow there.",
            fix="Look at the endpoint's headers and the service's name.",
        )
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + request.body


def _slice_as_wire(piece: Slice) -> dict[str, object]:
    return {
        "end_s": piece.end_s,
        "response": [
            [who.release, who.version, times.as_row()] for who, times in piece.response.items()
        ],
        "service": piece.service.as_row(),
        "lateness": piece.lateness.as_row(),
        "errors": piece.errors,
        "waited": piece.waited,
        "resent": piece.resent,
        "cpu_s": piece.cpu_s,
    }


def _slice_from_wire(wire: dict[str, Any]) -> Slice:
    return Slice(
        end_s=wire["end_s"],
        response={
            Answerer(release, version): Histogram.from_row(row)
            for release, version, row in wire["response"]
        },
        service=Histogram.from_row(wire["service"]),
        lateness=Histogram.from_row(wire["lateness"]),
        errors=Counter(wire["errors"]),
        waited=wire["waited"],
        resent=wire["resent"],
        cpu_s=wire["cpu_s"],
    )


# ── The process: configuration ────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Config:
    """A load as the process reads it; the fields of `_config_frame`."""

    host: str
    port: int
    tls: bool
    server_name: str | None
    ca_file: str | None
    via: WayIn
    named: bool
    release: int | None
    rate: float | None
    duration_s: float
    warm_up_s: float
    timeout_s: float
    concurrency: int
    max_requests: int
    max_errors: int
    sizes: list[int]
    marks: list[str]


def _read_exactly(fd: int, size: int) -> bytes:
    pieces = []
    while size:
        piece = os.read(fd, min(size, 1 << 20))
        if not piece:
            os._exit(1)  # Slipway died before the load began
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _read_config(fd: int) -> tuple[_Config, list[tuple[bytes, bytes]]]:
    """The configuration and the requests, each with what a good answer to it holds."""
    header = orjson.loads(_read_exactly(fd, int.from_bytes(_read_exactly(fd, 4), "big")))
    header["via"] = WayIn(header["via"])
    config = _Config(**header)
    requests = [
        (_read_exactly(fd, size), f'"{mark}"'.encode())
        for size, mark in zip(config.sizes, config.marks, strict=True)
    ]
    return config, requests


# ── The process: when to wake ─────────────────────────────────────────────────────────────────

_write = os.write
_clock = time.perf_counter_ns  # on Linux CLOCK_MONOTONIC, the clock of the timerfd below
_NEVER = 1 << 62
_SPIN_NS = 60_000
"""Slept until so long before a send, then polled: a sleeping core wakes some 50 µs late."""


class _Timespecs(ctypes.Structure):
    """struct itimerspec: interval and value, each in seconds and nanoseconds."""

    _fields_ = [(name, ctypes.c_long) for name in ("every_s", "every_ns", "at_s", "at_ns")]


class _Alarm:
    """Wakes the loop at a nanosecond.

    uvloop's and epoll's own timers count in milliseconds, which would make each send up to 1 ms
    late; a timerfd has the kernel's full resolution. Elsewhere: the loop's timer up to 2 ms before,
    then polling.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
        self._loop = loop
        self._wake = wake
        self._fd = -1
        if sys.platform == "linux":
            self._libc = ctypes.CDLL(None, use_errno=True)
            monotonic, nonblock, cloexec = 1, 0o4000, 0o2000000
            self._fd = self._libc.timerfd_create(monotonic, nonblock | cloexec)
        if self._fd >= 0:
            self._spec = _Timespecs()
            self._spec_ref = ctypes.byref(self._spec)
            loop.add_reader(self._fd, self._ring)

    def at(self, due_ns: int, now_ns: int) -> None:
        """Wake at about `due_ns` - never later than the machine allows, up to _SPIN_NS earlier."""
        if due_ns - now_ns < 2 * _SPIN_NS:
            self._loop.call_soon(self._wake)
        elif self._fd >= 0:
            self._spec.at_s, self._spec.at_ns = divmod(due_ns - _SPIN_NS, NS)
            absolute = 1
            self._libc.timerfd_settime(self._fd, absolute, self._spec_ref, None)
        elif due_ns - now_ns < 3_000_000:
            self._loop.call_soon(self._wake)
        else:
            self._loop.call_later((due_ns - now_ns) / NS - 0.002, self._wake)

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 8)
        self._wake()


# ── The process: one connection ───────────────────────────────────────────────────────────────

_KEPT_BODY_BYTES = 1 << 20
_STALE_NS = NS
"""Idle so long, a kept connection may have been hung up just as we wrote (uvicorn: after 5 s)."""


class _Head:
    """The head of an answer, read once: servers send the same bytes again and again."""

    __slots__ = ("error", "keep", "length", "status", "who")

    def __init__(self, status: int, length: int, keep: bool, who: Answerer) -> None:
        self.status = status
        self.length = length
        self.keep = keep
        self.who = who
        self.error = None if 200 <= status < 300 else f"http-{status // 100}xx"


class _Shot:
    """One prepared request, and the last good answer to it: most servers give it again and again.

    An answer that is byte for byte one that was read in full needs no second reading.
    """

    __slots__ = ("answer", "mark", "request", "who")

    def __init__(self, request: bytes, mark: bytes, who: Answerer) -> None:
        self.request = request
        self.mark = mark
        self.answer = b""
        self.who = who


class _Connection(asyncio.Protocol):
    """One kept connection: at most one request under way, one answer read at a time."""

    __slots__ = (
        "answering",
        "body",
        "body_bytes",
        "broken",
        "busy",
        "complete",
        "delimited",
        "expected",
        "extra",
        "fd",
        "first_piece",
        "freed_ns",
        "headers",
        "intended_ns",
        "keep",
        "load",
        "parser",
        "sent_ns",
        "shot",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, load: _LoadProcess) -> None:
        self.load = load
        self.busy = False
        # The last answer was a 5xx: the server may hang up without reading what comes next.
        self.broken = False
        self.freed_ns = _clock()
        self.intended_ns = self.sent_ns = 0
        self.shot = load.no_shot
        # What `shot` was last answered with, while nothing of another answer has come.
        self.expected = b""
        self.fd = -1
        self.parser: Any = None
        self.answering = False
        self.first_piece = b""
        self.clear()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # a stream's transport
        if self.load.tls is None:
            self.fd = transport.get_extra_info("socket").fileno()

    def write(self, request: bytes) -> None:
        """Send at once what the socket takes: the loop would first serve every other connection.

        The rest, and everything that is encrypted, leaves by the transport.
        """
        try:
            sent = _write(self.fd, request)
        except OSError:  # there is none, it is full, or it broke: the transport finds out itself
            sent = 0
        if sent != len(request):
            self.fd = -1  # nothing may overtake what waits there
            self.transport.write(request[sent:])

    def hang_up(self) -> None:
        """End the connection, and what is under way on it."""
        self.fd = -1  # soon the number of another connection
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        now = _clock()
        if data == self.expected:
            self.load.answered_as_before(self, now)
            return
        load = self.load
        if not self.answering and self.busy:
            end = data.find(b"\r\n\r\n")
            head = load.heads.get(data[:end])
            if head is not None and len(data) == end + 4 + head.length:
                self.busy = False
                load.answered(self, now, head, data, end + 4)
                return
        self.read(data, now)

    # The long way: heads not seen before, answers in several pieces or of unknown length.

    def read(self, data: bytes, now: int) -> None:
        self.expected = b""
        if not self.busy:
            self.hang_up()  # nothing was asked
            return
        if not self.answering:
            self.answering = True
            self.parser = httptools.HttpResponseParser(self)
            self.first_piece = data
            self.clear()
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.load.failed(self, "not-http", now)
            self.hang_up()
            return
        if self.complete:
            self.finish(now)

    def clear(self) -> None:
        self.headers: dict[bytes, bytes] = {}
        self.body: list[bytes] = []
        self.body_bytes = 0
        self.delimited = True
        self.complete = self.extra = self.keep = False

    def on_message_begin(self) -> None:
        # Bytes after the answer that we asked for: nothing more is read from this connection.
        self.extra = self.complete

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self.delimited = b"content-length" in self.headers or b"transfer-encoding" in self.headers

    def on_body(self, piece: bytes) -> None:
        self.body_bytes += len(piece)
        if self.body_bytes <= _KEPT_BODY_BYTES:
            self.body.append(piece)

    def on_message_complete(self) -> None:
        if self.parser.get_status_code() >= 200:  # before it come interim answers
            self.complete = True
            # Afterwards the parser has forgotten it.
            self.keep = self.parser.should_keep_alive()
        else:
            self.clear()

    def finish(self, now: int) -> None:
        keep = self.keep and self.delimited and not self.extra
        status = self.parser.get_status_code()
        head = _Head(status, self.body_bytes, keep, self.load.who(self.headers))
        piece, self.first_piece = self.first_piece, b""
        end = piece.find(b"\r\n\r\n")
        if b"content-length" in self.headers and len(piece) == end + 4 + self.body_bytes:
            self.load.remember(piece[:end], head)
        self.busy = self.answering = False
        self.parser = None
        body, self.body = b"".join(self.body), []
        self.load.answered(self, now, head, body, 0, cut=self.body_bytes > len(body))

    def eof_received(self) -> bool | None:
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        now = _clock()
        self.fd = -1
        if self.busy and self.answering and self.ends_with_connection(exc):
            self.finish(now)
        self.load.lost(self, now)
        # Protocol and transport hold each other, and the garbage collector sleeps.
        self.parser = None
        del self.transport

    def ends_with_connection(self, exc: Exception | None) -> bool:
        """True for an answer without a length: its end is the end of the connection."""
        return exc is None and bool(self.headers) and not self.delimited


# ── The process: the load ─────────────────────────────────────────────────────────────────────

_FULL_CHECK_EVERY = 64
_FULL_CHECKS_AT_FIRST = 32
_COUNTED_AT_ONCE = 64
"""Times counted together in a burst; more would hold up the answers that come meanwhile."""
_MOST_ANSWERERS = 32
_MOST_HEADS = 256
_SWEEP_S = 0.05
_RESULTS_WAITING_BYTES = 256 * 1024
_PAUSE_S = 0.01
"""In a burst, after a failed connection: a dead server would be asked without end."""
_DRAIN_S = 0.4
"""After a stop by hand, what is under way has so long to come in."""
_MODEL_VERSION = re.compile(rb'"model_version"\s*:\s*"([^"\\]{1,64})"')
# MLServer and KServe name model and version before the outputs.
_VERSION_WITHIN = 512


class _LoadProcess:
    """One load under way: which request leaves when and on which connection, and what came back."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        config: _Config,
        *,
        requests: Sequence[tuple[bytes, bytes]],
        addresses: list[tuple[str, int]],
        tls: ssl.SSLContext | None,
        results: asyncio.WriteTransport,
    ) -> None:
        self.loop = loop
        self.config = config
        self.nobody = Answerer(release=config.release)
        self.no_shot = _Shot(b"", b"", self.nobody)
        shots = [_Shot(request, mark, self.nobody) for request, mark in requests]
        self.next_shot = cycle(shots).__next__
        self.results = results
        self.addresses = addresses
        self.tls = tls
        self.done: asyncio.Future[None] = loop.create_future()
        self.alarm = _Alarm(loop, self.poll)
        self.timeout_ns = int(config.timeout_s * NS)

        self.heads: dict[bytes, _Head] = {}
        self.answerers: dict[tuple[int | None, str | None], Answerer] = {}
        self.names_version = False
        self.named_before = (self.nobody, b"\0", self.nobody)
        self.checked = 0

        self.connections: set[_Connection] = set()
        self.idle: deque[_Connection] = deque()
        self.opening = 0
        self.in_flight = 0
        self.tasks: set[asyncio.Task[None]] = set()

        # The schedule: of `total` requests the first `warm_up` are not measured.
        self.interval_ns = NS / config.rate if config.rate else 0.0
        self.warm_up = round((config.rate or 0.0) * config.warm_up_s)
        planned = round((config.rate or 0.0) * config.duration_s)
        self.total = self.warm_up + max(1, min(planned, config.max_requests))
        self.number = 0
        self.due_ns = _NEVER
        self.all_busy = False
        self.polling = False
        self.stopping = ""
        self.ended = False

        self.base_ns = self.start_ns = self.last_sent_ns = self.last_done_ns = 0
        self.failures = 0
        # A burst's own bounds: the moment and the count at which nothing more is sent.
        self.end_ns = 0
        self.left = config.max_requests
        self.piece = Slice(0.0)
        # Where response and service time are one, because the request left when it was meant to:
        # counted, and those that wait to be counted together, which is cheaper.
        self.on_time: dict[Answerer, Histogram] = {}
        self.uncounted: list[int] = []
        self.uncounted_who = self.nobody
        self.busy_before_s = _busy_s()

    # Answers

    def who(self, headers: Mapping[bytes, bytes]) -> Answerer:
        """Who says that it answered, by Slipway's own headers."""
        release = headers.get(b"x-slipway-release", b"")
        version = headers.get(b"x-slipway-version", b"")
        return self.answerer(
            int(release) if release.isdigit() and len(release) < 10 else self.config.release,
            one_line(version.decode("latin-1"), 64) if version else None,
        )

    def answerer(self, release: int | None, version: str | None) -> Answerer:
        found = self.answerers.get((release, version))
        if found is None:
            if len(self.answerers) >= _MOST_ANSWERERS:
                return self.nobody
            found = self.answerers[release, version] = Answerer(release, version)
        return found

    def remember(self, head_bytes: bytes, head: _Head) -> None:
        """Keep a head for the fast way. Heads with a date or an id are many: start over then."""
        if len(self.heads) >= _MOST_HEADS:
            self.heads.clear()
        self.heads[head_bytes] = head

    def answered_as_before(self, connection: _Connection, now: int) -> None:
        """One whole answer, the same as one to the same request that was read in full.

        Nearly every answer of a fast server comes through here: in a burst, what follows is all
        that this process does for a request.
        """
        if self.interval_ns:
            connection.expected = b""
            connection.busy = False
            self.in_flight -= 1
            if connection.intended_ns >= self.start_ns:
                self.last_done_ns = now
                self.count_answer(connection, now, connection.shot.who)
            self.free(connection, now)
            return
        shot, sent_ns = connection.shot, connection.sent_ns
        if sent_ns >= self.start_ns:
            self.last_done_ns = now
            if shot.who is not self.uncounted_who or len(self.uncounted) >= _COUNTED_AT_ONCE:
                self.count_waiting(shot.who)
            self.uncounted.append(now - sent_ns)
        connection.broken = False
        if now >= self.end_ns or self.left <= 0:
            connection.expected = b""
            connection.busy = False
            self.in_flight -= 1
            self.free(connection, now)
            return
        if now >= self.start_ns:
            self.left -= 1
        connection.shot = shot = self.next_shot()
        connection.expected = shot.answer
        connection.freed_ns = connection.intended_ns = connection.sent_ns = now
        connection.write(shot.request)

    def count_waiting(self, who: Answerer) -> None:
        """Count the times that wait; those of `who` come next."""
        if self.uncounted:
            times = self.on_time.get(self.uncounted_who)
            if times is None:
                times = self.on_time[self.uncounted_who] = Histogram()
            times.record_all(self.uncounted)
            self.uncounted = []
        self.uncounted_who = who

    def count_answer(self, connection: _Connection, now: int, who: Answerer) -> None:
        """Count a measured prediction."""
        intended_ns, sent_ns = connection.intended_ns, connection.sent_ns
        by_who = self.on_time if intended_ns == sent_ns else self.piece.response
        times = by_who.get(who)
        if times is None:
            times = by_who[who] = Histogram()
        times.record(now - intended_ns)
        if intended_ns != sent_ns:
            self.piece.service.record(now - sent_ns)

    def answered(
        self,
        connection: _Connection,
        now: int,
        head: _Head,
        data: bytes,
        start: int,
        *,
        cut: bool = False,
    ) -> None:
        """One whole answer: its body is `data` from `start` on (`cut`: the first part of it)."""
        error = head.error
        who = head.who
        shot = connection.shot
        connection.expected = b""
        if error is None:
            # A look at every answer, a full reading of some: parsing all would make us the limit.
            self.checked = checked = self.checked + 1
            in_full = (
                data.find(shot.mark, start) < 0
                or not (data.endswith(b"}") or cut)
                or checked <= _FULL_CHECKS_AT_FIRST
                or not checked % _FULL_CHECK_EVERY
            )
            if in_full:
                error = self.check_in_full(data[start:], shot.mark, cut=cut)
            if self.names_version and who.version is None:
                who = self.who_in_body(who, data, start)
            # From `start` 0 on it is a body alone: only a whole answer is known by its bytes.
            if in_full and start and error is None and head.keep:
                shot.answer, shot.who = data, who
        self.in_flight -= 1
        if connection.intended_ns >= self.start_ns:
            self.last_done_ns = now
            if error is not None:
                self.count(error)
            else:
                self.count_answer(connection, now, who)
        connection.broken = head.status >= 500
        if head.keep:
            self.free(connection, now)
        else:
            connection.fd = -1
            connection.transport.close()

    def who_in_body(self, who: Answerer, data: bytes, start: int) -> Answerer:
        """Who answered, with the version that the body names."""
        known, beginning, found_before = self.named_before
        if known is who and data.startswith(beginning, start):
            return found_before
        found = _MODEL_VERSION.search(data, start, start + _VERSION_WITHIN)
        if found is None:
            return who
        named = self.answerer(who.release, one_line(found[1].decode("utf-8", "replace"), 64))
        self.named_before = (who, data[start : found.end()], named)
        return named

    def check_in_full(self, body: bytes, mark: bytes, *, cut: bool) -> str | None:
        """The kind of failure of a body with a good status; None for a prediction."""
        if cut:
            return None if mark in body else "wrong-body"
        try:
            answer = orjson.loads(body)
        except orjson.JSONDecodeError:
            return "wrong-body"
        if not isinstance(answer, dict) or not answer.get(mark[1:-1].decode()):
            return "wrong-body"
        if "model_version" in answer:
            self.names_version = True
        return None

    def count(self, kind: str) -> None:
        """Count a measured failure; too many end the load."""
        self.piece.errors[kind] += 1
        self.failures += 1
        if self.failures > self.config.max_errors and not self.stopping:
            self.stop(f"more than {self.config.max_errors:,} requests failed")
            self.end()

    def failed(self, connection: _Connection, kind: str, now: int) -> None:
        """The request under way on `connection` came to nothing."""
        connection.busy = False
        connection.expected = b""
        self.fell_through(kind, connection.intended_ns, now)

    def fell_through(self, kind: str, intended_ns: int, now: int) -> None:
        self.in_flight -= 1
        if intended_ns >= self.start_ns:
            self.last_done_ns = now
            self.count(kind)

    def lost(self, connection: _Connection, now: int) -> None:
        """A connection ended: by the server, by an error, or by us."""
        self.connections.discard(connection)
        with contextlib.suppress(ValueError):
            self.idle.remove(connection)
        if connection.busy:
            idle_ns = connection.sent_ns - connection.freed_ns
            hung_up_before = connection.broken or idle_ns > _STALE_NS
            if hung_up_before and not connection.answering and not self.stopping:
                connection.busy = False
                self.in_flight -= 1
                if connection.intended_ns >= self.start_ns:
                    self.piece.resent += 1
                self.open_for(connection.intended_ns)
                return
            self.failed(connection, "reset", now)
            if not self.interval_ns:
                self.loop.call_later(_PAUSE_S, self.replace_connection)
                return
        self.replace_connection()

    def replace_connection(self) -> None:
        """There is room for a connection: use it, if a request waits for one."""
        if self.ended or self.stopping:
            self.end_if_done()
        elif not self.interval_ns:
            self.open_in_burst()
        elif self.all_busy:
            self.all_busy = False
            self.poll()
        else:
            self.end_if_done()

    # Sending

    def send(self, connection: _Connection, intended_ns: int, now: int) -> None:
        connection.intended_ns = intended_ns
        connection.sent_ns = self.last_sent_ns = now
        connection.busy = True
        self.in_flight += 1
        connection.shot = shot = self.next_shot()
        connection.expected = shot.answer
        connection.write(shot.request)

    def free(self, connection: _Connection, now: int) -> None:
        """A connection has its answer: it takes the next request that is due, or rests."""
        connection.freed_ns = now
        if not self.interval_ns:
            if now < self.end_ns and self.left > 0:
                if now >= self.start_ns:
                    self.left -= 1
                self.send(connection, now, now)
            else:
                self.idle.append(connection)
                self.end_if_done()
            return
        due_ns = self.due_ns
        if due_ns > now:
            self.idle.append(connection)
            if due_ns == _NEVER:
                self.end_if_done()
            return
        if due_ns >= self.start_ns:
            if self.all_busy:
                self.piece.waited += 1
            else:
                self.piece.lateness.record(now - due_ns)
        self.send(connection, due_ns, now)
        self.advance()
        if self.all_busy and self.due_ns > now:
            self.all_busy = False
            self.wake_for_next(now)

    def advance(self) -> None:
        self.number += 1
        if self.number >= self.total:
            self.due_ns = _NEVER
        else:
            self.due_ns = self.base_ns + int(self.number * self.interval_ns)

    def poll(self) -> None:
        """Send what is due; then sleep until the next."""
        self.polling = False
        now = _clock()
        while self.due_ns <= now:
            due_ns = self.due_ns
            if self.idle:
                connection = self.idle.popleft()
                if connection.transport.is_closing():
                    continue
                self.send(connection, due_ns, now)
            elif len(self.connections) + self.opening < self.config.concurrency:
                self.open_for(due_ns)
            else:
                self.all_busy = True
                return
            if due_ns >= self.start_ns:
                self.piece.lateness.record(now - due_ns)
            self.advance()
            now = _clock()
        self.wake_for_next(now)

    def wake_for_next(self, now: int) -> None:
        if self.due_ns != _NEVER and not self.polling:
            self.polling = True
            self.alarm.at(self.due_ns, now)

    # Connections

    def open_in_burst(self) -> None:
        """One more connection of a burst, with its first request, unless the burst is over."""
        now = _clock()
        if now < self.end_ns and self.left > 0:
            if now >= self.start_ns:
                self.left -= 1
            self.open_for(now)
        else:
            self.end_if_done()

    def open_for(self, intended_ns: int) -> None:
        """Make a connection for a request that waits for it."""
        self.opening += 1
        self.in_flight += 1
        task = self.loop.create_task(self.send_on_new_connection(intended_ns))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def send_on_new_connection(self, intended_ns: int) -> None:
        connection, problem = await self.connect(self.addresses[0])
        self.opening -= 1
        now = _clock()
        if connection is None:
            self.fell_through(problem, intended_ns, now)
            if self.interval_ns:
                self.replace_connection()
            else:
                self.loop.call_later(_PAUSE_S, self.replace_connection)
        elif self.ended:
            connection.transport.abort()
        else:
            self.in_flight -= 1
            self.connections.add(connection)
            self.send(connection, intended_ns, now)

    async def connect(self, address: tuple[str, int]) -> tuple[_Connection | None, str]:
        """A connection, or the kind of failure."""
        try:
            async with asyncio.timeout(self.config.timeout_s):
                _, connection = await self.loop.create_connection(
                    lambda: _Connection(self),
                    *address,
                    ssl=self.tls,
                    server_hostname=self.config.server_name if self.tls else None,
                )
        except TimeoutError:
            return None, "timeout"
        except ConnectionRefusedError:
            return None, "refused"
        except ssl.SSLError:
            return None, "tls"
        except ConnectionError:
            return None, "reset"
        except OSError:
            return None, "unreachable"
        return connection, ""

    # From start to end

    async def run(self) -> None:
        config = self.config
        await self.connect_ahead()
        gc.collect()
        gc.freeze()
        gc.disable()
        self.base_ns = _clock()
        if self.interval_ns:
            self.base_ns += 5_000_000  # time to come here from there
            self.start_ns = self.base_ns + int(self.warm_up * self.interval_ns)
        else:
            self.start_ns = self.base_ns + int(config.warm_up_s * NS)
            self.end_ns = self.start_ns + int(config.duration_s * NS)
        self.busy_before_s = _busy_s()
        self.sweep()
        self.flush()
        if self.interval_ns:
            self.due_ns = self.base_ns
            self.poll()
            last_ns = self.start_ns + (self.total - self.warm_up) * self.interval_ns
            # What still waits when the schedule is over has this long to leave.
            self.loop.call_at(self.loop_time(last_ns) + config.timeout_s, self.give_up)
        else:
            ready, self.idle = self.idle, deque()
            for _ in range(config.concurrency - len(ready)):
                self.open_in_burst()
            for connection in ready:
                self.free(connection, _clock())
            self.loop.call_at(self.loop_time(self.end_ns) + 0.002, self.end_if_done)
        await self.done

    async def connect_ahead(self) -> None:
        """Make the connections before the clock runs; what fails now fails again when it counts."""
        for address in self.addresses:
            connection, _ = await self.connect(address)
            if connection is not None:
                self.addresses = [address]
                self.connections.add(connection)
                self.idle.append(connection)
                break
        else:
            return
        for at in range(1, self.config.concurrency, 32):
            several = range(min(32, self.config.concurrency - at))
            for connection, _ in await asyncio.gather(*(self.connect(address) for _ in several)):
                if connection is not None:
                    self.connections.add(connection)
                    self.idle.append(connection)

    def loop_time(self, ns: float) -> float:
        return self.loop.time() + (ns - _clock()) / NS

    def sweep(self) -> None:
        """End the requests that took too long, whatever trickles in."""
        now = _clock()
        for connection in tuple(self.connections):
            if connection.busy and now - connection.sent_ns > self.timeout_ns:
                self.failed(connection, "timeout", now)
                connection.hang_up()
        if not self.ended:
            self.loop.call_later(min(_SWEEP_S, self.config.timeout_s / 4), self.sweep)

    def flush(self) -> None:
        """Hand over what happened since the last time."""
        if self.ended:
            return
        now = _clock()
        if not self.reader_lags():
            self.hand_over(now)
        until_next = _SLICE_S - (now - self.start_ns) / NS % _SLICE_S
        self.loop.call_later(max(until_next, 0.05), self.flush)

    def reader_lags(self) -> bool:
        """True while Slipway has not read the last slices: the next will be longer instead."""
        return self.results.get_write_buffer_size() > _RESULTS_WAITING_BYTES

    def say(self, message: dict[str, object]) -> None:
        self.results.write(orjson.dumps(message) + b"\n")

    def hand_over(self, now: int) -> None:
        self.count_waiting(self.uncounted_who)
        piece, self.piece = self.piece, Slice(0.0)
        on_time, self.on_time = self.on_time, {}
        for who, times in on_time.items():
            piece.response.setdefault(who, Histogram()).merge(times)
            piece.service.merge(times)
        busy_s = _busy_s()
        piece.end_s = (now - self.start_ns) / NS
        piece.cpu_s, self.busy_before_s = busy_s - self.busy_before_s, busy_s
        self.say({"slice": _slice_as_wire(piece)})

    def give_up(self) -> None:
        """The schedule is long over: what never left counts as a failure of its own kind."""
        unsent = self.total - max(self.number, self.warm_up)
        if not self.ended and unsent > 0:
            self.number, self.due_ns = self.total, _NEVER
            self.piece.errors["not-sent"] += unsent
        self.end_if_done()

    def stop(self, why: str) -> None:
        """Send nothing more."""
        self.stopping = self.stopping or why
        self.due_ns = _NEVER
        self.number = self.total
        self.end_ns = 0

    def stop_by_hand(self) -> None:
        self.stop("stopped by hand")
        self.end_if_done()
        self.loop.call_later(_DRAIN_S, self.end)

    def end_if_done(self) -> None:
        if self.interval_ns:
            sent_all = self.number >= self.total
        else:
            sent_all = self.left <= 0 or _clock() >= self.end_ns
        if sent_all and not self.in_flight:
            self.end()

    def end(self) -> None:
        """Hand over the rest, and the end."""
        if self.ended:
            return
        self.ended = True
        now = _clock()
        self.hand_over(max(now, self.start_ns))
        if self.interval_ns:
            span_s = (self.last_sent_ns - self.start_ns + self.interval_ns) / NS
        else:
            span_s = (self.last_done_ns - self.start_ns) / NS
        self.say({"end": {"span_s": max(0.0, span_s), "stopped": self.stopping}})
        self.done.set_result(None)


def _busy_s() -> float:
    """Seconds that this process computed, plus those it waited for a core (Linux tells them)."""
    waited_s = 0.0
    with contextlib.suppress(OSError, ValueError, IndexError):
        # Documentation/scheduler/sched-stats.rst: on the CPU, waiting for it (ns), slices.
        waited_s = int(Path("/proc/self/schedstat").read_text().split()[1]) / NS
    return time.process_time() + waited_s


# ── The process: from the pipe to the end ─────────────────────────────────────────────────────


class _Orders(asyncio.Protocol):
    """What Slipway says while the load runs; its silence at last: the pipe ends when it dies."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self.stop = stop

    def data_received(self, data: bytes) -> None:
        if _STOP in data:
            self.stop()

    def connection_lost(self, _exc: Exception | None) -> None:
        os._exit(0)


class _Results(asyncio.Protocol):
    """The pipe back; `flushed` is done when all that was said has left."""

    def __init__(self, flushed: asyncio.Future[None]) -> None:
        self.flushed = flushed

    def connection_lost(self, _exc: Exception | None) -> None:
        if not self.flushed.done():
            self.flushed.set_result(None)


async def _addresses(config: _Config) -> list[tuple[str, int]]:
    """Resolve once. Unreachable, or Denied for addresses that no request may go to."""
    loop = asyncio.get_running_loop()
    what = f"The load test was not started: {one_line(config.host, 80)} cannot be its endpoint."
    if why := addresses.forbidden_name(config.host):
        raise _forbidden(what, why)
    try:
        async with asyncio.timeout(5):
            found = await loop.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)
    except (TimeoutError, OSError, UnicodeError) as error:
        raise Unreachable(
            what,
            why=f"Its name could not be resolved: {one_line(error) or 'no answer within 5 s'}.",
            fix="Look at the way in on the Endpoints page.",
        ) from error
    places = list(dict.fromkeys((str(entry[4][0]), config.port) for entry in found))
    for address, _ in places:
        literal = ipaddress.ip_address(address.partition("%")[0])
        why = addresses.forbidden_because(literal, config.via, named=config.named)
        if why:
            raise _forbidden(what, why)
    return places


def _forbidden(what: str, why: str) -> Denied:
    return Denied(
        what,
        why=why,
        fix="Check the address that the service reports; it should be a gateway's or a server's.",
    )


def _tls_context(config: _Config) -> ssl.SSLContext | None:
    if not config.tls:
        return None
    try:
        return ssl.create_default_context(cafile=config.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            "The load test was not started.",
            why=f"The certificate authority's file cannot be read: {one_line(error)}.",
            fix="Look at the target's `ca_file` or kubeconfig.",
        ) from error


async def _run(config: _Config, requests: Sequence[tuple[bytes, bytes]]) -> None:
    loop = asyncio.get_running_loop()
    flushed: asyncio.Future[None] = loop.create_future()
    results, _ = await loop.connect_write_pipe(lambda: _Results(flushed), sys.stdout)
    try:
        load = _LoadProcess(
            loop,
            config,
            requests=requests,
            addresses=await _addresses(config),
            tls=_tls_context(config),
            results=results,
        )
    except SlipwayError as error:
        told = {"kind": error.kind, "what": error.what, "why": error.why, "fix": error.fix}
        results.write(orjson.dumps({"problem": told}) + b"\n")
    else:
        await loop.connect_read_pipe(lambda: _Orders(load.stop_by_hand), sys.stdin)
        await load.run()
    results.close()
    await flushed


def _main() -> None:
    # Ctrl-C in a terminal reaches this process, too; Slipway decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    config, requests = _read_config(sys.stdin.fileno())
    try:
        import uvloop
    except ModuleNotFoundError:  # there is none for Windows
        asyncio.run(_run(config, requests))
    else:
        uvloop.run(_run(config, requests))
    # Connections and executor threads have nothing left to say.
    os._exit(0)


if __name__ == "__main__":
    _main()
