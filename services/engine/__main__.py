"""The load engine's process: from the pipe to the end."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Sequence

from services import addresses
from services.engine.load import LoadProcess
from services.engine.pipe import STOP, Config, frame_back, read_config
from services.errors import ConfigError, Denied, SlipwayError, Unreachable, one_line


class _Orders(asyncio.Protocol):
    """What Slipway says while the load runs; its silence at last: the pipe ends when it dies."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self.stop = stop

    def data_received(self, data: bytes) -> None:
        if STOP in data:
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


async def _addresses(config: Config) -> list[tuple[str, int]]:
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


def _tls_context(config: Config) -> ssl.SSLContext | None:
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


async def _run(config: Config, requests: Sequence[tuple[bytes, bytes]]) -> None:
    loop = asyncio.get_running_loop()
    flushed: asyncio.Future[None] = loop.create_future()
    results, _ = await loop.connect_write_pipe(lambda: _Results(flushed), sys.stdout)
    try:
        load = LoadProcess(
            loop,
            config,
            requests=requests,
            addresses=await _addresses(config),
            tls=_tls_context(config),
            results=results,
        )
    except SlipwayError as error:
        told = {"kind": error.kind, "what": error.what, "why": error.why, "fix": error.fix}
        results.write(frame_back({"problem": told}))
    else:
        await loop.connect_read_pipe(lambda: _Orders(load.stop_by_hand), sys.stdin)
        await load.run()
    results.close()
    await flushed


def _main() -> None:
    # Ctrl-C in a terminal reaches this process, too; Slipway decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    config, requests = read_config(sys.stdin.fileno())
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
