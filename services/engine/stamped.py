"""A plain TCP connection whose bytes come with the moment at which the kernel had them.

A process that shares its core reads an answer late, and an idle core takes some 50 µs to wake: both
would be the server's in every figure. On Linux the kernel stamps each packet as it comes in, before
any process is asked (socket(7), SO_TIMESTAMPNS; for TCP since 4.14: the last byte's that is read).
A read costs 2 µs more than uvloop's own, so bursts and rates that poll go without.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
import time

from services.engine.alarm import clock
from services.tally import NS

# asm-generic/socket.h; Python has no name for it. Sparc and parisc have another number: there the
# option is refused or no stamp comes, and the moment of reading stands.
_SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("@ll")
POSSIBLE = sys.platform == "linux"
_ANCILLARY_BYTES = socket.CMSG_SPACE(_TIMESPEC.size) if POSSIBLE else 0
_READ_BYTES = 64 * 1024
_BETWEEN_NS = 5_000
"""Two looks at one clock with a look at the other between them: further apart, they were parted."""


class StampClock:
    """The kernel's stamps, which are of the time of day, on the engine's own clock.

    `look` again and again: the time of day is slewed, and may be set.
    """

    def __init__(self) -> None:
        self._ahead_ns = clock() - time.time_ns()
        self.look()

    def look(self) -> None:
        """Hold both clocks against each other."""
        for _ in range(5):
            before = clock()
            wall = time.time_ns()
            after = clock()
            if after - before <= _BETWEEN_NS:
                self._ahead_ns = (before + after) // 2 - wall
                return

    def of(self, ancillary: list[tuple[int, int, bytes]]) -> int:
        """The moment in what came beside the bytes, never in the future; now when there is none."""
        now = clock()
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
                seconds, ns = _TIMESPEC.unpack_from(data)
                stamped_ns: int = seconds * NS + ns + self._ahead_ns
                return min(now, stamped_ns)
        return now


class Reader(asyncio.Protocol):
    """Who is told: a protocol that takes the moment with the bytes."""

    __slots__ = ()

    def data_received(self, data: bytes, at_ns: int = 0) -> None:
        """Bytes came in, at this moment of the engine's clock; 0: now."""
        raise NotImplementedError


async def connect(
    loop: asyncio.AbstractEventLoop,
    reader: Reader,
    address: tuple[str, int],
    stamps: StampClock,
) -> None:
    """Connect to a literal address; `reader` is told as by `create_connection`. OSError."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with contextlib.ExitStack() as otherwise:
        connected = otherwise.enter_context(socket.socket(family, socket.SOCK_STREAM))
        connected.setblocking(False)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):  # then the moment of reading stands
            connected.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        await loop.sock_connect(connected, address)
        otherwise.pop_all()
    StampedTransport(loop, connected, reader, stamps)


class StampedTransport(asyncio.Transport):
    """The transport of such a connection: what the engine asks of one, and no more."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connected: socket.socket,
        reader: Reader,
        stamps: StampClock,
    ) -> None:
        super().__init__({"socket": connected})
        self._loop = loop
        self._socket = connected
        self._reader = reader
        self._stamps = stamps
        self._unsent = bytearray()
        self._closing = False
        reader.connection_made(self)
        loop.add_reader(connected, self._readable)

    def is_closing(self) -> bool:
        """It ends, or has ended."""
        return self._closing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send in its order; what the socket does not take leaves when it does."""
        if self._closing:
            return
        if not self._unsent:
            self._loop.add_writer(self._socket, self._writable)
        self._unsent += data
        self._writable()

    def close(self) -> None:
        """End it; what was not sent by now is not."""
        self._end(None)

    abort = close

    def _readable(self) -> None:
        try:
            data, ancillary, _, _ = self._socket.recvmsg(_READ_BYTES, _ANCILLARY_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(error)
            return
        if data:
            self._reader.data_received(data, self._stamps.of(ancillary))
        else:
            self._reader.eof_received()
            self._end(None)

    def _writable(self) -> None:
        try:
            sent = self._socket.send(self._unsent)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(error)
            return
        del self._unsent[:sent]
        if not self._unsent:
            self._loop.remove_writer(self._socket)

    def _end(self, error: Exception | None) -> None:
        if self._closing:
            return
        self._closing = True
        self._loop.remove_reader(self._socket)
        if self._unsent:
            self._loop.remove_writer(self._socket)
        # Not from within its own call: whoever ends a connection is not done with it.
        self._loop.call_soon(self._ended, error)

    def _ended(self, error: Exception | None) -> None:
        self._reader.connection_lost(error)
        self._socket.close()
