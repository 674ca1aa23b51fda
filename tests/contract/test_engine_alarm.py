"""The load engine's alarm on a real loop; no assertion depends on how fast this machine is."""

from __future__ import annotations

import asyncio
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from services.engine.alarm import Alarm, clock
from services.tally import NS

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


_SCHED_GETATTR = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64",
    reason="a matter of Linux's scheduler, whose call is known to this test for x86-64 alone",
)


@_SCHED_GETATTR
@pytest.mark.skipif(not shutil.which("setpriv"), reason="needs setpriv")
def test_an_account_without_real_time_priority_asks_for_short_turns() -> None:
    asks_for_short_turns("setpriv", "--bounding-set=-sys_nice", "--inh-caps=-sys_nice")


@_SCHED_GETATTR
def test_on_one_core_nobody_goes_first_but_in_short_turns() -> None:
    asks_for_short_turns(cores=1)


def asks_for_short_turns(*ordinary: str, cores: int = 2) -> None:
    command = [*ordinary, sys.executable, "-c", _ASKS, str(cores)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "setpriv" in done.stderr:
        pytest.skip("this account cannot give up what it may")
    first, turn_ns = done.stdout.split()
    assert first == "False"
    assert turn_ns in {"100000", "0"}, done  # kernels before 6.12 tell 0


_ASKS = """
import ctypes, os, sys
from services.engine import alarm
os.cpu_count = lambda: int(sys.argv[1])
first = alarm.go_first()
told = ctypes.create_string_buffer(48)
ctypes.CDLL(None).syscall(315, 0, told, 48, 0)  # sched_getattr
print(first, int.from_bytes(told.raw[24:32], "little"))
"""
