"""What the two halves of the load engine say to each other over a pipe.

To the process: one frame (length, JSON header, the requests as they go out), later perhaps STOP.
Back: one frame (two lengths, JSON, bytes) for each slice of the run, and one for its end or for the
problem. The bytes are a slice's times, which its figures tell how to read.
"""

from __future__ import annotations

import os
import re
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import orjson

from services import addresses
from services.domain import Endpoint, InferRequest, Load, LoadMode, Protocol, WayIn
from services.errors import ConfigError, Denied, SlipwayError, Unreachable, one_line
from services.tally import Answerer, Tally

SLICE_S = 0.25
"""So often the process hands over what happened."""
STOP = b"s"
FRAME = struct.Struct("=II")
"""Before each frame back: the lengths of its JSON and of the bytes behind it. Both ends are on one
machine, and have its order of bytes."""
PROBLEMS: Mapping[str, type[SlipwayError]] = {
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


def config_frame(load: Load, host_is_named: bool) -> bytes:
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
            "all_failing_s": load.all_failing_s,
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


@dataclass(slots=True)
class Piece:
    """What happened in a short stretch of a run; `latency.Slice` tells what each field means."""

    end_s: float = 0.0
    response: dict[Answerer, Tally] = field(default_factory=dict)
    service: Tally = field(default_factory=Tally)
    lateness: Tally = field(default_factory=Tally)
    errors: Counter[str] = field(default_factory=Counter)
    waited: int = 0
    resent: int = 0
    cpu_s: float = 0.0


def piece_as_wire(piece: Piece, data: bytearray) -> dict[str, object]:
    """A piece as plain values, its times at the end of `data`; `run` reads both as a slice."""
    return {
        "end_s": piece.end_s,
        "response": [
            [who.release, who.version, times.as_row(data)] for who, times in piece.response.items()
        ],
        "service": piece.service.as_row(data),
        "lateness": piece.lateness.as_row(data),
        "errors": piece.errors,
        "waited": piece.waited,
        "resent": piece.resent,
        "cpu_s": piece.cpu_s,
    }


def frame_back(message: dict[str, object], data: bytes | bytearray = b"") -> bytes:
    """A frame for Slipway: a message, and the bytes that it tells of."""
    told = orjson.dumps(message)
    return b"".join((FRAME.pack(len(told), len(data)), told, data))


@dataclass(frozen=True, slots=True)
class Config:
    """A load as the process reads it; the fields of `config_frame`."""

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
    all_failing_s: float | None
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


def read_config(fd: int) -> tuple[Config, list[tuple[bytes, bytes]]]:
    """The configuration and the requests, each with what a good answer to it holds."""
    header = orjson.loads(_read_exactly(fd, int.from_bytes(_read_exactly(fd, 4), "big")))
    header["via"] = WayIn(header["via"])
    config = Config(**header)
    requests = [
        (_read_exactly(fd, size), f'"{mark}"'.encode())
        for size, mark in zip(config.sizes, config.marks, strict=True)
    ]
    return config, requests
