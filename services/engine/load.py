"""One load under way, in the engine's process: what leaves when, and what came back."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import ssl
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import cycle

import orjson

from services.answer import json_of
from services.domain import STOPPED_BY_HAND
from services.engine import stamped
from services.engine.alarm import POLLED_NS, Alarm, BusyClock, clock, go_first
from services.engine.connection import STALE_NS, Connection, Head, Shot
from services.engine.pipe import SLICE_S, Config, Piece, frame_back, piece_as_wire
from services.engine.schedule import NEVER, Schedule
from services.errors import one_line
from services.tally import LEAVE_WITHIN_S, NOT_SENT, NS, Answerer, Tally

_FULL_CHECK_EVERY = 64
_FULL_CHECKS_AT_FIRST = 32
_COUNTED_AT_ONCE = 256
"""Times taken together; more would hold up the answers that come meanwhile."""
_MOST_UNCOUNTED = 4 * _COUNTED_AT_ONCE
"""A steady rate that polls never comes so far."""
_MOST_ANSWERERS = 32
_MOST_HEADS = 256
_SWEEP_S = 0.05
_RESULTS_WAITING_BYTES = 256 * 1024
_PAUSE_S = 0.01
"""In a burst, after a failed connection: a dead server would be asked without end."""
_DRAIN_S = 0.4
"""After a stop by hand, what is under way has so long to come in."""
_FEWEST_FAILURES = 10
"""Fewer in a row are no reason to give up, however long they took to come."""
_MODEL_VERSION = re.compile(rb'"model_version"\s*:\s*"([^"\\]{1,64})"')
# MLServer and KServe name model and version before the outputs.
_VERSION_WITHIN = 512


class LoadProcess:
    """One load under way: which request leaves when and on which connection, and what came back."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        config: Config,
        *,
        requests: Sequence[tuple[bytes, bytes]],
        addresses: list[tuple[str, int]],
        tls: ssl.SSLContext | None,
        results: asyncio.WriteTransport,
    ) -> None:
        self.loop = loop
        self.config = config
        self.nobody = Answerer(release=config.release)
        self.no_shot = Shot(b"", b"", self.nobody)
        shots = [Shot(request, mark, self.nobody) for request, mark in requests]
        self.next_shot = cycle(shots).__next__
        self.results = results
        self.addresses = addresses
        self.tls = tls
        self.done: asyncio.Future[None] = loop.create_future()
        self.alarm = Alarm(loop, self.poll)
        self.stamps: stamped.StampClock | None = None
        self.timeout_ns = int(config.timeout_s * NS)

        self.heads: dict[bytes, Head] = {}
        self.answerers: dict[tuple[int | None, str | None], Answerer] = {}
        self.names_version = False
        self.named_before = (self.nobody, b"\0", self.nobody)
        self.checked = 0

        self.connections: set[Connection] = set()
        self.idle: deque[Connection] = deque()
        self.opening = 0
        self.in_flight = 0
        self.tasks: set[asyncio.Task[None]] = set()

        self.steady = config.rate is not None
        # A burst's is empty: it has bounds of its own.
        rate = config.rate or 1.0
        warm_up = round(rate * config.warm_up_s)
        measured = max(1, min(round(rate * config.duration_s), config.max_requests))
        self.schedule = Schedule(
            rate, warm_up=warm_up, total=warm_up + measured if self.steady else 0
        )
        self.stopping = ""
        self.ended = False

        self.start_ns = self.last_done_ns = 0
        self.last_turn_ns = 0
        """When the last request left, or was due that never could: a server that is gone is no
        shorter run."""
        self.failures = 0
        # Since the last answer: how many failed, and when that began.
        self.failures_in_a_row = 0
        self.failing_since_ns = 0
        # A burst's own bounds: the moment and the count at which nothing more is sent.
        self.end_ns = 0
        self.left = config.max_requests
        self.piece = Piece()
        # Times that wait to be counted together, which costs a third. In a burst, where a request
        # leaves when it is meant to, response and service time are one.
        self.late_ns: list[int] = []
        self.response_ns: list[int] = []
        self.service_ns: list[int] = []
        self.uncounted_who = self.nobody
        self.on_time: dict[Answerer, Tally] = {}
        # Where nothing is ever slept, an answer is read as it comes.
        self.sleeps = self.steady and self.schedule.interval_ns > POLLED_NS
        if self.sleeps and tls is None and stamped.POSSIBLE:
            self.stamps = stamped.StampClock()
        self.busy = BusyClock()
        self.busy_before_s = self.busy.seconds()

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
        """The one value for who answered: histograms are kept by it."""
        found = self.answerers.get((release, version))
        if found is None:
            if len(self.answerers) >= _MOST_ANSWERERS:
                return self.nobody
            found = self.answerers[release, version] = Answerer(release, version)
        return found

    def remember(self, head_bytes: bytes, head: Head) -> None:
        """Keep a head for the fast way. Heads with a date or an id are many: start over then."""
        if len(self.heads) >= _MOST_HEADS:
            self.heads.clear()
        self.heads[head_bytes] = head

    def answered_as_before(self, connection: Connection, now: int) -> None:
        """One whole answer, the same as one to the same request that was read in full.

        Nearly every answer of a fast server comes through here: in a burst, what follows is all
        that this process does for a request.
        """
        if self.steady:
            connection.expected = b""
            connection.busy = False
            self.in_flight -= 1
            if connection.intended_ns >= self.start_ns:
                self.last_done_ns = now
                self.count_answer(connection, now, connection.shot.who)
            # A kernel's stamp is of a while ago; else `now` is of this very call.
            self.free(connection, now if self.stamps is None else clock())
            return
        shot, sent_ns = connection.shot, connection.sent_ns
        if sent_ns >= self.start_ns:
            self.last_done_ns = now
            if shot.who is not self.uncounted_who or len(self.response_ns) >= _COUNTED_AT_ONCE:
                self.count_waiting(shot.who)
            self.response_ns.append(now - sent_ns)
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
        if self.response_ns:
            by_who = self.piece.response if self.steady else self.on_time
            times = by_who.get(self.uncounted_who)
            if times is None:
                times = by_who[self.uncounted_who] = Tally()
            times.record_all(self.response_ns)
            self.piece.service.record_all(self.service_ns)
            self.response_ns, self.service_ns = [], []
        self.uncounted_who = who

    def count_lateness(self) -> None:
        """Count how late requests were noticed."""
        self.piece.lateness.record_all(self.late_ns)
        self.late_ns = []

    def count_answer(self, connection: Connection, now: int, who: Answerer) -> None:
        """Count a measured prediction that came in at `now`, which may be a while ago."""
        # A steady rate counts when it has just sent, so that no send waits for it.
        if who is not self.uncounted_who or len(self.response_ns) >= _MOST_UNCOUNTED:
            self.count_waiting(who)
        sent_ns = connection.sent_ns
        # The time of day may have been set meanwhile.
        if now < sent_ns:  # noqa: PLR1730 - a call of max costs more
            now = sent_ns
        self.response_ns.append(now - connection.intended_ns)
        if self.steady:
            self.service_ns.append(now - sent_ns)

    def answered(
        self,
        connection: Connection,
        now: int,
        head: Head,
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
            self.free(connection, clock())
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
            answer = json_of(body)
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

    def failed(self, connection: Connection, kind: str, now: int) -> None:
        """The request under way on `connection` came to nothing."""
        connection.busy = False
        connection.expected = b""
        self.fell_through(kind, connection.intended_ns, now)

    def fell_through(self, kind: str, intended_ns: int, now: int) -> None:
        """A request came to nothing, on whatever connection."""
        self.in_flight -= 1
        if intended_ns >= self.start_ns:
            self.last_done_ns = now
            self.last_turn_ns = max(self.last_turn_ns, intended_ns)
            self.count(kind)

    def lost(self, connection: Connection, now: int) -> None:
        """A connection ended: by the server, by an error, or by us."""
        self.connections.discard(connection)
        with contextlib.suppress(ValueError):
            self.idle.remove(connection)
        if connection.busy:
            idle_ns = connection.sent_ns - connection.freed_ns
            hung_up_before = connection.broken or idle_ns > STALE_NS
            if hung_up_before and not connection.answering and not self.stopping:
                connection.busy = False
                self.in_flight -= 1
                if connection.intended_ns >= self.start_ns:
                    self.piece.resent += 1
                self.open_for(connection.intended_ns)
                return
            self.failed(connection, "reset", now)
            if not self.steady:
                self.loop.call_later(_PAUSE_S, self.replace_connection)
                return
        self.replace_connection()

    def replace_connection(self) -> None:
        """There is room for a connection: use it, if a request waits for one."""
        if self.ended or self.stopping:
            self.end_if_done()
        elif not self.steady:
            self.open_in_burst()
        elif self.schedule.waiting:
            self.piece.waited += self.schedule.next_is_measured
            self.leave(clock())
        else:
            self.end_if_done()

    # Sending

    def send(self, connection: Connection, intended_ns: int, now: int) -> None:
        """Send the next request on a free connection."""
        connection.intended_ns = intended_ns
        connection.sent_ns = self.last_turn_ns = now
        connection.busy = True
        self.in_flight += 1
        connection.shot = shot = self.next_shot()
        connection.expected = shot.answer
        connection.write(shot.request)

    def free(self, connection: Connection, now: int) -> None:
        """A connection has its answer: it takes the next request that is due, or rests."""
        connection.freed_ns = now
        if not self.steady:
            if now < self.end_ns and self.left > 0:
                if now >= self.start_ns:
                    self.left -= 1
                self.send(connection, now, now)
            else:
                self.idle.append(connection)
                self.end_if_done()
            return
        schedule = self.schedule
        schedule.polling_since_ns = 0
        if schedule.taken == schedule.noticed:
            if schedule.due_ns > now:
                self.idle.append(connection)
                if schedule.due_ns == NEVER:
                    self.end_if_done()
                elif schedule.look_ns > schedule.due_ns:  # it rested while requests waited
                    self.wake_for_next(now)
                return
            schedule.notice(now, self.late_ns)
        elif schedule.taken >= schedule.warm_up:
            self.piece.waited += 1
        self.send(connection, schedule.take(), now)

    def poll(self) -> None:
        """Send what is due; then sleep until the next."""
        schedule = self.schedule
        now = clock()
        schedule.looks(now)
        while schedule.due_ns <= now:
            if schedule.taken < schedule.noticed:
                schedule.notice_all(now, self.late_ns)
                break
            schedule.notice(now, self.late_ns)
            self.leave(now)
            now = clock()
        if len(self.late_ns) >= _COUNTED_AT_ONCE:
            self.count_lateness()
        if len(self.response_ns) >= _COUNTED_AT_ONCE:
            self.count_waiting(self.uncounted_who)
        self.wake_for_next(now)

    def leave(self, now: int) -> bool:
        """Send the oldest request that waits, if a connection is free or may be made."""
        while self.idle:
            connection = self.idle.popleft()
            if not connection.transport.is_closing():
                self.send(connection, self.schedule.take(), now)
                return True
        if len(self.connections) + self.opening < self.config.concurrency:
            self.open_for(self.schedule.take())
            return True
        return False

    def wake_for_next(self, now: int) -> None:
        """Poll again when there is something to look at."""
        schedule = self.schedule
        if schedule.due_ns != NEVER and self.alarm.at(schedule.next_look(now), now):
            schedule.polling_since_ns = now

    # Connections

    def open_in_burst(self) -> None:
        """One more connection of a burst, with its first request, unless the burst is over."""
        now = clock()
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
        """Connect, then send the request that waits for it."""
        connection, problem = await self.connect(self.addresses[0])
        self.opening -= 1
        now = clock()
        if connection is None:
            self.fell_through(problem, intended_ns, now)
            if self.steady:
                self.replace_connection()
            else:
                self.loop.call_later(_PAUSE_S, self.replace_connection)
        elif self.ended:
            connection.transport.abort()
        else:
            self.in_flight -= 1
            self.connections.add(connection)
            self.send(connection, intended_ns, now)

    async def connect(self, address: tuple[str, int]) -> tuple[Connection | None, str]:
        """A connection, or the kind of failure."""
        try:
            async with asyncio.timeout(self.config.timeout_s):
                if self.stamps is not None:
                    connection = Connection(self)
                    await stamped.connect(self.loop, connection, address, self.stamps)
                else:
                    _, connection = await self.loop.create_connection(
                        lambda: Connection(self),
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
        """Run the load; returns when its end was told."""
        config = self.config
        await self.connect_ahead()
        gc.collect()
        gc.freeze()
        gc.disable()
        # A burst has no moment at which it must send; a rate at which nothing is ever slept would
        # keep the core from all others, until the kernel takes it back for 50 ms of each second.
        if self.sleeps:
            go_first()
        now = clock()
        if self.steady:
            self.schedule.begin(now + 5_000_000)  # time to come here from there
            self.start_ns = self.schedule.start_ns
        else:
            self.start_ns = now + int(config.warm_up_s * NS)
            self.end_ns = self.start_ns + int(config.duration_s * NS)
        self.busy_before_s = self.busy.seconds()
        self.sweep()
        self.flush()
        if self.steady:
            self.poll()
            # A server that is too slow for the rate would be loaded on and on by what waits.
            leave_within_s = min(LEAVE_WITHIN_S, config.timeout_s)
            self.loop.call_at(self.loop_time(self.schedule.end_ns) + leave_within_s, self.give_up)
        else:
            ready, self.idle = self.idle, deque()
            for _ in range(config.concurrency - len(ready)):
                self.open_in_burst()
            for connection in ready:
                self.free(connection, clock())
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
        """A moment of our clock on the loop's."""
        return self.loop.time() + (ns - clock()) / NS

    def sweep(self) -> None:
        """End the requests that took too long, whatever trickles in."""
        if self.stamps is not None:
            self.stamps.look()
        now = clock()
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
        now = clock()
        if not self.reader_lags():
            self.hand_over(now)
            if self.fails_for_good(now):
                self.stop(f"no request was answered for {self.config.all_failing_s:g} s")
                self.end()
                return
        until_next = SLICE_S - (now - self.start_ns) / NS % SLICE_S
        self.loop.call_later(max(until_next, 0.05), self.flush)

    def fails_for_good(self, now: int) -> bool:
        """True when nothing but failures came for longer than is worth waiting."""
        limit_s = self.config.all_failing_s
        return (
            limit_s is not None
            and self.failures_in_a_row >= _FEWEST_FAILURES
            and now - self.failing_since_ns >= limit_s * NS
        )

    def reader_lags(self) -> bool:
        """True while Slipway has not read the last slices: the next will be longer instead."""
        return self.results.get_write_buffer_size() > _RESULTS_WAITING_BYTES

    def say(self, message: dict[str, object], data: bytes | bytearray = b"") -> None:
        """Tell Slipway a message, and what follows it."""
        self.results.write(frame_back(message, data))

    def hand_over(self, now: int) -> None:
        """Tell what happened since the last time, and begin anew."""
        self.count_waiting(self.uncounted_who)
        self.count_lateness()
        piece, self.piece = self.piece, Piece()
        on_time, self.on_time = self.on_time, {}
        for who, times in on_time.items():
            piece.response.setdefault(who, Tally()).merge(times)
            piece.service.merge(times)
        if piece.service:
            self.failures_in_a_row = 0
        elif piece.errors:
            self.failing_since_ns = self.failing_since_ns if self.failures_in_a_row else now
            self.failures_in_a_row += piece.errors.total()
        busy_s = self.busy.seconds()
        piece.end_s = (now - self.start_ns) / NS
        polled_s, self.schedule.polled_ns = self.schedule.polled_ns / NS, 0
        piece.cpu_s = max(0.0, busy_s - self.busy_before_s - polled_s)
        self.busy_before_s = busy_s
        data = bytearray()
        self.say({"slice": piece_as_wire(piece, data)}, data)

    def give_up(self) -> None:
        """The schedule is over: what never left counts as a failure of its own kind."""
        if not self.ended and self.schedule.unsent:
            last_due_ns = self.schedule.due_of(self.schedule.total - 1)
            self.last_turn_ns = max(self.last_turn_ns, last_due_ns)
            self.piece.errors[NOT_SENT] += self.schedule.drop()
        self.end_if_done()

    def stop(self, why: str) -> None:
        """Send nothing more."""
        self.stopping = self.stopping or why
        self.schedule.drop()
        self.end_ns = 0

    def stop_by_hand(self) -> None:
        """Somebody wants it to end: what is under way may still come in, for a moment."""
        self.stop(STOPPED_BY_HAND)
        self.end_if_done()
        self.loop.call_later(_DRAIN_S, self.end)

    def end_if_done(self) -> None:
        """End when all that had to leave has left and come back."""
        if self.steady:
            sent_all = self.schedule.taken >= self.schedule.total
        else:
            sent_all = self.left <= 0 or clock() >= self.end_ns
        if sent_all and not self.in_flight:
            self.end()

    def end(self) -> None:
        """Hand over the rest, and the end."""
        if self.ended:
            return
        self.ended = True
        if self.start_ns:  # else it was stopped while it still connected
            self.hand_over(max(clock(), self.start_ns))
        if self.steady:
            span_s = (self.last_turn_ns - self.start_ns + self.schedule.interval_ns) / NS
        else:
            span_s = (self.last_done_ns - self.start_ns) / NS
        self.say({"end": {"span_s": max(0.0, span_s), "stopped": self.stopping}})
        self.done.set_result(None)
