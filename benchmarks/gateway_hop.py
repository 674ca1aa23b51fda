"""What the local gateway costs: the same requests straight to a server and through the gateway.

Null server, gateway and client are three processes; the server answers at once, so that what is
timed is the hop. A steady rate (open loop, timed from the intended send), order ABBA, one warm-up
round, then the asked number of rounds. Prints a table and writes it into benchmarks/README.md.

    .venv/bin/python benchmarks/gateway_hop.py --rate 100 --seconds 5 --rounds 5
    .venv/bin/python benchmarks/gateway_hop.py --upstream 8080 --path /v2/models/wine/infer
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import os
import platform
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
import uvicorn
import uvloop

HERE = Path(__file__).parent
HEADING = "## The local gateway's hop"
BODY = (
    b'{"inputs":[{"name":"alcohol","shape":[1],"datatype":"FP64","data":[13.2]},'
    b'{"name":"ash","shape":[1],"datatype":"FP64","data":[2.4]}]}'
)
CONNECTIONS = 4


async def gateway(upstream: int) -> None:
    """The gateway alone in a process, as the supervisor runs it."""
    sys.path.insert(0, str(HERE.parent))
    from services.local.gateway import Route, Router, config_for, make_app

    router = Router()
    router.set_routes([Route(1, "1", "null", upstream, 100)])
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    await uvicorn.Server(config_for(make_app(router, "null"))).serve([listener])


async def latencies(port: int, path: str, rate: float, seconds: float) -> list[float]:
    """Response times in seconds of a steady rate, from the intended send. Any failure raises."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY
    free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        free.put_nowait(await asyncio.open_connection("127.0.0.1", port))
    took: list[float] = []

    async def one(due: float) -> None:
        reader, writer = await free.get()
        writer.write(request)
        answer = await reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(answer.decode("latin-1"))
        length = re.search(rb"content-length: *(\d+)", answer, re.IGNORECASE)
        assert length is not None
        await reader.readexactly(int(length[1]))
        took.append(time.perf_counter() - due)
        free.put_nowait((reader, writer))

    began = time.perf_counter() + 0.05
    async with asyncio.TaskGroup() as group:
        for number in range(int(rate * seconds)):
            due = began + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            group.create_task(one(due))
    while not free.empty():
        free.get_nowait()[1].close()
    return sorted(took)


def at(ordered: list[float], q: float) -> float:
    """Nearest-rank quantile, in milliseconds."""
    return ordered[math.ceil(q * len(ordered)) - 1] * 1e3


@contextlib.contextmanager
def started(*command: str) -> Iterator[tuple[int, psutil.Process]]:
    """A process that prints its port, stopped at the end."""
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline()), psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(30)


@dataclass(frozen=True)
class Round:
    direct: list[float]
    through: list[float]
    cpu_us: float


def measure(asked: argparse.Namespace, direct: int, hop: int, process: psutil.Process) -> Round:
    """One round, order ABBA: direct, through, through, direct."""
    found: dict[int, list[float]] = {direct: [], hop: []}
    cpu_s = 0.0
    for port in (direct, hop, hop, direct):
        before = sum(process.cpu_times()[:2])
        found[port] += uvloop.run(latencies(port, asked.path, asked.rate, asked.seconds / 2))
        cpu_s += (sum(process.cpu_times()[:2]) - before) if port == hop else 0.0
    cpu_us = cpu_s / len(found[hop]) * 1e6
    return Round(sorted(found[direct]), sorted(found[hop]), cpu_us)


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def section(asked: argparse.Namespace, rounds: list[Round]) -> str:
    rows = []
    for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        direct = [at(r.direct, q) for r in rounds]
        through = [at(r.through, q) for r in rounds]
        added = [b - a for a, b in zip(direct, through, strict=True)]
        rows.append(f"| {name}, ms | {spread(direct)} | {spread(through)} | {spread(added)} |")
    server = "a null server" if asked.upstream is None else "a server of the caller's"
    n = len(rounds[0].through)
    cpu = spread([r.cpu_us for r in rounds]).replace(".00", "")
    asked_for = (
        "`benchmarks/gateway_hop.py`: the same request straight to "
        f"{server} and through the gateway, {asked.rate:.0f} a second over {CONNECTIONS} "
        f"connections, timed from the intended send; median of {len(rounds)} rounds of "
        f"{n} requests each way (lowest–highest), order ABBA."
    )
    machine = (
        f"The gateway's own CPU: {cpu} µs a request. "
        f"{os.cpu_count()} cores, Python {platform.python_version()}, "
        f"{datetime.now(UTC):%Y-%m-%d}; load average at the end {os.getloadavg()[0]:.1f}."
    )
    head = ["| | direct | through the gateway | added |", "|---|---|---|---|"]
    return "\n".join([HEADING, "", asked_for, "", *head, *rows, "", machine, ""])


def write(text: str) -> None:
    """Put the section into benchmarks/README.md, in place of the one before."""
    readme = HERE / "README.md"
    old = readme.read_text(encoding="utf-8") if readme.exists() else "# Benchmarks\n"
    parts = re.split(r"(?m)^(?=## )", old)
    kept = [part.rstrip() for part in parts if not part.startswith(HEADING)]
    readme.write_text("\n\n".join([*kept, text]), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=100, help="requests a second")
    parser.add_argument("--seconds", type=float, default=5, help="each way and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--upstream", type=int, help="port of a server that runs already")
    parser.add_argument("--path", default="/v2/models/null/infer")
    parser.add_argument("--gateway", type=int, metavar="UPSTREAM", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.gateway is not None:
        uvloop.run(gateway(asked.gateway))
        return
    with contextlib.ExitStack() as stack:
        direct = asked.upstream or stack.enter_context(started(str(HERE / "null_server.py")))[0]
        hop, process = stack.enter_context(started(__file__, "--gateway", str(direct)))
        measure(asked, direct, hop, process)
        rounds = [measure(asked, direct, hop, process) for _ in range(asked.rounds)]
    text = section(asked, rounds)
    write(text)
    print(text)


if __name__ == "__main__":
    main()
