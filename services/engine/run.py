"""A load test as Slipway sees it: starts the engine's process, reads its ticks and its summary."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Collection, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from services.domain import Load, LoadMode, LoadSummary, Tick
from services.engine.pipe import FRAME, PROBLEMS, SLICE_S, STOP, config_frame
from services.errors import ConfigError, SlipwayError
from services.histogram import NO_PERCENTILES, Histogram
from services.latency import Recorder, Slice
from services.tally import Answerer

MAX_RATE: Final = 100_000.0
MAX_DURATION_S: Final = 3_600.0
MAX_CONCURRENCY: Final = 1_024
"""A load test is a weapon: what it may ask for is bounded here, whoever asks."""

_PIPE_BYTES = 1 << 20
_SILENCE_S = 15.0
"""The engine says something four times a second: so long without a word means that it hangs."""


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


class _ShortTurns:
    """Called between pieces of work: rests after each turn on a core, until it is `over`.

    The sender may share that core. It is late by each turn, and at half of its peak it needs as
    long again to make up for one: turns that follow one another closely add up.
    """

    _TURN_S = 0.0002
    _REST_S = 0.008

    def __init__(self) -> None:
        self.over = threading.Event()
        self._began_s = time.thread_time()

    def __call__(self) -> None:
        if time.thread_time() - self._began_s >= self._TURN_S:
            self.over.wait(self._REST_S)
            self._began_s = time.thread_time()


class LoadRun(Iterator["Tick | LoadSummary"]):
    """A load test under way. `stop` and `close` may be called from any thread."""

    def __init__(self, load: Load, *, host_is_named: bool = False) -> None:
        self._load = load
        self._turns = _ShortTurns()
        self._recorder = Recorder(
            target_rate=load.rate if load.mode is LoadMode.STEADY_RATE else None,
            objective=load.objective,
            block_s=SLICE_S,
            pause=self._turns,
        )
        self._ready: deque[Tick | LoadSummary] = deque()
        self._next_tick_s = 1.0
        self._began_at: datetime | None = None
        self._warm_up_told_s = -load.warm_up_s
        self._closed = False
        self._closing = threading.Lock()
        self._reading = threading.Lock()
        config = config_frame(load, host_is_named)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "services.engine"],
            # The folder that holds the package: all that has to be found, installed or not.
            cwd=Path(__file__).resolve().parent.parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        self._widen()
        self._send(config)

    @property
    def pid(self) -> int:
        """The engine's process."""
        return self._process.pid

    def __iter__(self) -> LoadRun:
        return self

    def __next__(self) -> Tick | LoadSummary:
        while not self._ready:
            told = self._told()
            if told is None:
                raise StopIteration
            self._take(*told)
        return self._ready.popleft()

    def stop(self) -> None:
        """End the load now, and let the summary of what was measured come."""
        self._send(STOP)

    def close(self) -> None:
        """Stop the load now; nothing more comes. Idempotent."""
        with self._closing:
            self._closed = True
            self._turns.over.set()
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

    def _widen(self) -> None:
        """Have a slice fit into the pipe: else the sender writes it in pieces, as it is read."""
        assert self._process.stdout is not None
        with contextlib.suppress(AttributeError, OSError):  # Linux's; bounded for each account
            fcntl.fcntl(self._process.stdout.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

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

    def _told(self) -> tuple[dict[str, Any], bytearray] | None:
        """The engine's next message and what follows it; None when there will be none."""
        with self._reading:
            sizes = self._exactly(FRAME.size)
            if sizes is None:
                return None
            message_size, data_size = FRAME.unpack(sizes)
            message, data = self._exactly(message_size), self._exactly(data_size)
            if message is None or data is None:
                return None
            return orjson.loads(message), data

    def _exactly(self, size: int) -> bytearray | None:
        """The next so many bytes, once they are there; None when they never will be."""
        assert self._process.stdout is not None
        # Read to where they stay: each copy costs who shares a core with the sender as much again.
        received = bytearray(size)
        with memoryview(received) as room:
            filled = 0
            while filled < size:
                if self._process.stdout.closed:
                    return None
                with room[filled:] as left:
                    filled += self._receive(self._process.stdout.fileno(), left)
        if self._closed:
            self._close_results()
            return None
        return received

    def _receive(self, pipe: int, into: memoryview) -> int:
        readable, _, _ = select.select([pipe], [], [], _SILENCE_S)
        size = os.readv(pipe, (into,)) if readable else 0
        if size:
            return size
        self._close_results()
        if self._closed:
            return 0
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

    def _take(self, message: dict[str, Any], data: bytearray) -> None:
        if "slice" in message:
            self._take_slice(_slice_from_wire(message["slice"], data))
            return
        self.close()
        if "problem" in message:
            raise PROBLEMS[message["problem"].pop("kind")](**message["problem"])
        self._ready.append(self._recorder.tick(final=True))
        summary = self._recorder.summary(**message["end"])
        self._ready.append(replace(summary, began_at=self._began_at))

    def _take_slice(self, piece: Slice) -> None:
        if piece.end_s <= 0:
            # One a second here too, so that whoever reads can act in between.
            if piece.end_s - self._warm_up_told_s > 0.95:
                self._warm_up_told_s = piece.end_s
                self._ready.append(_warm_up_tick(piece.end_s))
            return
        if self._began_at is None:
            self._began_at = datetime.now(UTC) - timedelta(seconds=piece.end_s)
        self._recorder.add(piece)
        # Near the end the rest of the last second is left to the final tick: a point for three
        # milliseconds would look like a burst.
        near_end = abs(piece.end_s - self._load.duration_s) < 0.1
        if piece.end_s > self._next_tick_s - 0.05 and not near_end:
            tick = self._recorder.tick()
            if not self._closed:  # meanwhile, by another thread
                self._ready.append(tick)
            self._next_tick_s = round(piece.end_s) + 1.0


def _slice_from_wire(wire: dict[str, Any], data: bytearray) -> Slice:
    """What `pipe.piece_as_wire` wrote."""
    return Slice(
        end_s=wire["end_s"],
        response={
            Answerer(release, version): Histogram.from_row(row, data)
            for release, version, row in wire["response"]
        },
        service=Histogram.from_row(wire["service"], data),
        lateness=Histogram.from_row(wire["lateness"], data),
        errors=Counter(wire["errors"]),
        waited=wire["waited"],
        resent=wire["resent"],
        cpu_s=wire["cpu_s"],
    )


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
    elif load.max_errors < 0:
        problem = f"It allows {load.max_errors} failures."
    elif load.mode is LoadMode.STEADY_RATE and not 0 < (load.rate or 0.0) <= MAX_RATE:
        problem = (
            f"Its rate is {load.rate or 0:g} requests a second; up to {MAX_RATE:,.0f} can be sent."
        )
    if problem:
        raise ConfigError("The load test was not started.", why=problem, fix="Change that value.")
