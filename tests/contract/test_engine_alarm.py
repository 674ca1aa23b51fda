"""The load engine's alarm on a real loop; no assertion depends on how fast this machine is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from services.engine.alarm import Alarm, clock
from services.latency import NS

MS = 1_000_000
runs_on = pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
Run = Callable[[Coroutine[Any, Any, None]], None]


@runs_on
def test_a_nearer_moment_replaces_a_farther_one(run: Run) -> None:
    async def told_twice() -> None:
        rung = asyncio.Event()
        alarm = Alarm(asyncio.get_running_loop(), rung.set)
        now = clock()
        alarm.at(now + 600 * NS, now)
        alarm.at(now + 5 * MS, now)
        async with asyncio.timeout(30):
            await rung.wait()

    run(told_twice())


@runs_on
def test_it_rings_no_earlier_than_it_takes_to_wake(run: Run) -> None:
    async def told() -> None:
        done = asyncio.Event()
        alarm = Alarm(asyncio.get_running_loop(), done.set)
        now = clock()
        assert not alarm.at(now + 20 * MS, now)
        async with asyncio.timeout(30):
            await done.wait()
        assert clock() - now > 17 * MS

    run(told())


@runs_on
def test_told_twice_of_a_moment_that_is_here_it_rings_once(run: Run) -> None:
    async def told_twice() -> None:
        rung: list[int] = []
        alarm = Alarm(asyncio.get_running_loop(), lambda: rung.append(clock()))
        now = clock()
        assert alarm.at(now, now)
        assert alarm.at(now, now)
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(rung) == 1

    run(told_twice())
