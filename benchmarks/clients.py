"""The clients that one would write in an afternoon, as peers for row 1: requests, aiohttp, httpx.

python benchmarks/clients.py {requests,aiohttp,httpx} URL BODY --connections 16 --duration 10
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import threading
import time
from pathlib import Path

HEADERS = {"Content-Type": "application/json", "Accept-Encoding": "identity"}


def with_requests(url: str, body: bytes, connections: int, until: float) -> int:
    import requests

    counts = [0] * connections

    def work(at: int) -> None:
        with requests.Session() as session:
            session.trust_env = False
            while time.perf_counter() < until:
                session.post(url, data=body, headers=HEADERS).raise_for_status()
                counts[at] += 1

    threads = [threading.Thread(target=work, args=(at,)) for at in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts)


async def with_aiohttp(url: str, body: bytes, connections: int, until: float) -> int:
    import aiohttp

    count = 0

    async def work(session: aiohttp.ClientSession) -> None:
        nonlocal count
        while time.perf_counter() < until:
            async with session.post(url, data=body, headers=HEADERS) as response:
                await response.read()
            count += 1

    connector = aiohttp.TCPConnector(limit=connections)
    async with aiohttp.ClientSession(connector=connector) as session:
        await asyncio.gather(*(work(session) for _ in range(connections)))
    return count


async def with_httpx(url: str, body: bytes, connections: int, until: float) -> int:
    import httpx

    count = 0

    async def work(client: httpx.AsyncClient) -> None:
        nonlocal count
        while time.perf_counter() < until:
            (await client.post(url, content=body, headers=HEADERS)).raise_for_status()
            count += 1

    async with httpx.AsyncClient(trust_env=False) as client:
        await asyncio.gather(*(work(client) for _ in range(connections)))
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("client", choices=["requests", "aiohttp", "httpx"])
    parser.add_argument("url")
    parser.add_argument("body", type=Path)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--duration", type=float, default=10.0)
    options = parser.parse_args()
    body = options.body.read_bytes()
    started = time.perf_counter()
    until = started + options.duration
    if options.client == "requests":
        count = with_requests(options.url, body, options.connections, until)
    else:
        import uvloop

        work = with_aiohttp if options.client == "aiohttp" else with_httpx
        count = uvloop.run(work(options.url, body, options.connections, until))
    json.dump({"requests": count, "rate": count / (time.perf_counter() - started)}, sys.stdout)


if __name__ == "__main__":
    main()
