"""A server that knows the truth: scripted service times, and a log of what it really did.

Kinds: `constant` (median seconds), `log-normal` (median and sigma), `stall` (answers at once, but
not at all during the first 200 ms of every 2 s). Time is kept by the engine's own alarm, which is
precise to some ten microseconds. `POST /-/begin` empties the log and starts the script over (its
JSON body may change seed and kind); `GET /-/log` gives the log: per request the nanosecond of its
arrival and of its answer, as two int64 each.

It shares nothing with the client but the clock, and runs in a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import heapq
import json
import math
import random
import re
from array import array
from typing import Any

import uvloop
from null_server import ANSWER

from services.engine.alarm import Alarm, clock

NS = 1_000_000_000
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class Script:
    """What happens to the n-th request since the beginning."""

    def __init__(
        self,
        *,
        kind: str = "constant",
        median_s: float = 0.0,
        sigma: float = 0.5,
        stall_s: float = 0.2,
        every_s: float = 2.0,
        seed: int = 1,
    ) -> None:
        self.kind = kind
        self.median_s = median_s
        self.sigma = sigma
        self.stall_ns = int(stall_s * NS)
        self.every_ns = int(every_s * NS)
        self.random = random.Random(seed)
        self.begun_ns = 0

    def answer_at(self, arrival_ns: int) -> int:
        """When a request that arrives now is answered; the arrival itself means at once."""
        if not self.begun_ns:
            # Half a period in: no tool's first requests meet a stall while it still connects.
            self.begun_ns = arrival_ns - self.every_ns // 2
        if self.kind == "stall":
            into = (arrival_ns - self.begun_ns) % self.every_ns
            return arrival_ns + (self.stall_ns - into if into < self.stall_ns else 0)
        if self.kind == "log-normal":
            return arrival_ns + int(
                self.random.lognormvariate(math.log(self.median_s), self.sigma) * NS
            )
        return arrival_ns + int(self.median_s * NS)


class Truth:
    """The script, what waits for its moment, and the log."""

    def __init__(self, loop: asyncio.AbstractEventLoop, script: Script) -> None:
        self.script = script
        self.log = array("q")
        self.waiting: list[tuple[int, int, Any]] = []
        self.number = 0
        self.alarm = Alarm(loop, self.wake)

    def begin(self, changes: dict[str, Any]) -> None:
        self.script = Script(**changes)
        self.log = array("q")

    def arrived(self, transport: asyncio.Transport, now: int) -> None:
        due = self.script.answer_at(now)
        if due <= now:
            transport.write(ANSWER)
            self.log.extend((now, now))
            return
        self.number += 1
        heapq.heappush(self.waiting, (due, self.number, (transport, now)))
        if self.waiting[0][1] == self.number:
            self.alarm.at(due, now)

    def wake(self) -> None:
        now = clock()
        while self.waiting and self.waiting[0][0] <= now:
            _, _, (transport, arrival) = heapq.heappop(self.waiting)
            if not transport.is_closing():
                transport.write(ANSWER)
            self.log.extend((arrival, clock()))
            now = clock()
        if self.waiting:
            self.alarm.at(self.waiting[0][0], now)


class TruthProtocol(asyncio.Protocol):
    """One connection."""

    def __init__(self, truth: Truth) -> None:
        self.truth = truth
        self.expected = -1
        self.got = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        now = clock()
        if not self.got and len(data) == self.expected:
            self.truth.arrived(self.transport, now)
            return
        self.got += data
        end = self.got.find(b"\r\n\r\n")
        if end < 0:
            return
        length = _LENGTH.search(self.got, 0, end)
        size = end + 4 + (int(length[1]) if length else 0)
        if len(self.got) < size:
            return
        whole, self.got = self.got[:size], self.got[size:]
        if whole.startswith(b"POST /-/begin "):
            self.truth.begin(json.loads(whole[end + 4 :] or b"{}"))
            self.say(b"{}")
        elif whole.startswith(b"GET /-/log "):
            self.say(self.truth.log.tobytes())
        else:
            self.expected = size
            self.truth.arrived(self.transport, now)

    def say(self, body: bytes) -> None:
        self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)


async def serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    truth = Truth(loop, Script())
    server = await loop.create_server(lambda: TruthProtocol(truth), "127.0.0.1", port)
    print(server.sockets[0].getsockname()[1], flush=True)
    gc.freeze()
    gc.disable()
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(parser.parse_args().port))
