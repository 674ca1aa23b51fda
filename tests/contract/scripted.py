"""HTTP servers on loopback that answer byte by byte what a test scripts, and count who came."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

Script = Callable[["Visit"], None]


@dataclass
class Visit:
    """One connection: the script reads requests from it and writes whatever bytes it likes."""

    socket: socket.socket
    number: int
    server: Scripted

    def request(self) -> bytes:
        """Read one request, head and body; b"" when the client went away."""
        data = b""
        while b"\r\n\r\n" not in data:
            piece = self.socket.recv(65536)
            if not piece:
                return b""
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        length = next(
            (
                int(line.split(b":")[1])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length:")
            ),
            0,
        )
        while len(body) < length:
            body += self.socket.recv(65536)
        self.server.requests.append(head + b"\r\n\r\n" + body)
        return self.server.requests[-1]

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self, body: bytes, *, status: str = "200 OK", headers: str = "") -> None:
        """One whole answer."""
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        self.send(head.encode() + body)

    def pause(self, seconds: float) -> None:
        """Wait, but not beyond the server's end."""
        self.server.stopped.wait(seconds)


@dataclass
class Scripted:
    """A server on 127.0.0.1; `visits` counts connections, `requests` keeps what was read."""

    script: Script
    host: str = "127.0.0.1"
    port: int = 0
    visits: int = 0
    requests: list[bytes] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def _serve(self, listener: socket.socket) -> None:
        while not self.stopped.is_set():
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self.visits += 1
            threading.Thread(
                target=self._visit, args=(Visit(client, self.visits, self),), daemon=True
            ).start()

    def _visit(self, visit: Visit) -> None:
        # The client may leave at any byte: that is what these tests are about.
        with visit.socket, suppress(OSError):
            self.script(visit)


@contextmanager
def serving(script: Script, host: str = "127.0.0.1") -> Iterator[Scripted]:
    """Serve a script until the block ends."""
    listener = socket.create_server((host, 0))
    server = Scripted(script, host, listener.getsockname()[1])
    thread = threading.Thread(target=server._serve, args=(listener,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stopped.set()
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)
