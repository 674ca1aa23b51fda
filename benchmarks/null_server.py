"""Answers every request at once with the same small V2 body: what is timed is the client.

Not a web server: it finds the end of a request by Content-Length of the first one on a connection
and takes all others on it to be as long, because the load tools send the same bytes again.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import re

import uvloop

BODY = (
    b'{"model_name":"null","model_version":"1","id":"0","outputs":[{"name":"output-1",'
    b'"shape":[1,1],"datatype":"FP64","data":[0.5]}]}'
)
ANSWER = (
    # ab speaks HTTP/1.0 and would wait for the end of the connection without the second header.
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: keep-alive\r\n"
    b"content-length: " + str(len(BODY)).encode() + b"\r\n\r\n" + BODY
)
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class NullProtocol(asyncio.Protocol):
    """One connection."""

    __slots__ = ("expected", "got", "transport")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.expected = 0
        self.got = b""

    def data_received(self, data: bytes) -> None:
        if not self.got and len(data) == self.expected:
            self.transport.write(ANSWER)
            return
        self.got += data
        while self.got:
            end = self.got.find(b"\r\n\r\n")
            if end < 0:
                return
            length = _LENGTH.search(self.got, 0, end)
            size = end + 4 + (int(length[1]) if length else 0)
            if len(self.got) < size:
                return
            self.expected = size
            self.got = self.got[size:]
            self.transport.write(ANSWER)


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(NullProtocol, "127.0.0.1", port)
    print(server.sockets[0].getsockname()[1], flush=True)
    gc.freeze()
    gc.disable()
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(parser.parse_args().port))
