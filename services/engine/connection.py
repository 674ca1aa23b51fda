"""One kept connection of a load: sends a request, reads its answer, and says when which came.

An answer like one before is known by its bytes; any other takes the long way through a parser.

A bare epoll loop instead of uvloop's protocol was tried: 4 % less CPU per request, because nearly
all of it is the kernel's; TLS and parsing would have needed a second way beside it.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import httptools

from services.engine.alarm import clock
from services.engine.stamped import Reader
from services.tally import NS, Answerer

if TYPE_CHECKING:
    from services.engine.load import LoadProcess

_write = os.write
_KEPT_BODY_BYTES = 1 << 20
STALE_NS = NS
"""Idle so long, a kept connection may have been hung up just as we wrote (uvicorn: after 5 s)."""


class Head:
    """The head of an answer, read once: servers send the same bytes again and again."""

    __slots__ = ("error", "keep", "length", "status", "who")

    def __init__(self, status: int, length: int, keep: bool, who: Answerer) -> None:
        self.status = status
        self.length = length
        self.keep = keep
        self.who = who
        self.error = None if 200 <= status < 300 else f"http-{status // 100}xx"


class Shot:
    """One prepared request, and the last good answer to it: most servers give it again and again.

    An answer that is byte for byte one that was read in full needs no second reading.
    """

    __slots__ = ("answer", "mark", "request", "who")

    def __init__(self, request: bytes, mark: bytes, who: Answerer) -> None:
        self.request = request
        self.mark = mark
        self.answer = b""
        self.who = who


class Connection(Reader):
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

    def __init__(self, load: LoadProcess) -> None:
        self.load = load
        self.busy = False
        # The last answer was a 5xx: the server may hang up without reading what comes next.
        self.broken = False
        self.freed_ns = clock()
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
        """It is made: plain ones are written to without the loop."""
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

    def data_received(self, data: bytes, at_ns: int = 0) -> None:
        """An answer, or a part of one: `at_ns` by the kernel's stamp, else now."""
        now = at_ns or clock()
        # Another connection may have learnt another answer to the same request since.
        if data == self.expected and self.expected is self.shot.answer:
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
        """Take a part of an answer the long way."""
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
        """Forget the answer that was being read."""
        self.headers: dict[bytes, bytes] = {}
        self.body: list[bytes] = []
        self.body_bytes = 0
        self.delimited = True
        self.complete = self.extra = self.keep = False

    def on_message_begin(self) -> None:
        """The parser found the beginning of an answer."""
        # Bytes after the answer that we asked for: nothing more is read from this connection.
        self.extra = self.complete

    def on_header(self, name: bytes, value: bytes) -> None:
        """The parser found a header."""
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """The parser found the end of the head."""
        self.delimited = b"content-length" in self.headers or b"transfer-encoding" in self.headers

    def on_body(self, piece: bytes) -> None:
        """The parser found a part of the body; of a huge one only the beginning is kept."""
        self.body_bytes += len(piece)
        if self.body_bytes <= _KEPT_BODY_BYTES:
            self.body.append(piece)

    def on_message_complete(self) -> None:
        """The parser found the end of an answer."""
        if self.parser.get_status_code() >= 200:  # before it come interim answers
            self.complete = True
            # Afterwards the parser has forgotten it.
            self.keep = self.parser.should_keep_alive()
        else:
            self.clear()

    def finish(self, now: int) -> None:
        """The whole answer is there: hand it over, and remember its head."""
        keep = self.keep and self.delimited and not self.extra
        status = self.parser.get_status_code()
        head = Head(status, self.body_bytes, keep, self.load.who(self.headers))
        piece, self.first_piece = self.first_piece, b""
        end = piece.find(b"\r\n\r\n")
        if b"content-length" in self.headers and len(piece) == end + 4 + self.body_bytes:
            self.load.remember(piece[:end], head)
        self.busy = self.answering = False
        self.parser = None
        body, self.body = b"".join(self.body), []
        self.load.answered(self, now, head, body, 0, cut=self.body_bytes > len(body))

    def eof_received(self) -> bool | None:
        """The server hung up: so do we."""
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """It ended; an answer without a length ends with it."""
        now = clock()
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
