"""The load engine's clock: now in nanoseconds, an alarm that rings at one, and being heard."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import platform
import sys
import time
from collections.abc import Callable

from services.tally import NS

clock = time.perf_counter_ns  # on Linux CLOCK_MONOTONIC, the clock of the timerfd below
_SPIN_NS = 60_000
"""Slept until so long before a send, then polled: a sleeping core wakes some 50 µs late."""
POLLED_NS = 2 * _SPIN_NS
"""Between sends that are closer than this nothing is slept: the core is polled empty."""


def go_first() -> bool:
    """Let this process run as soon as it wakes, whatever else wants its core; whether it may.

    A browser that draws the charts of a load test on the same cores holds a send up by milliseconds
    else: the kernel shares cores fairly, and between sessions even a higher niceness changes
    nothing. Real-time priority (sched(7)) wants root, CAP_SYS_NICE or an RLIMIT_RTPRIO. The kernel
    keeps a twentieth of each second for all others; on a machine with one core the server that is
    asked may be among them, so there it is not done.
    """
    if sys.platform != "linux":
        return False
    if (os.cpu_count() or 1) < 2:
        _ask_for_short_turns()
        return False
    lowest = os.sched_param(1)
    try:
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, lowest)
    except OSError:
        _ask_for_short_turns()
        return False
    return True


class _SchedAttr(ctypes.Structure):
    """struct sched_attr of linux/sched/types.h, in its first form."""

    _fields_ = [
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime_ns", ctypes.c_uint64),
        ("deadline_ns", ctypes.c_uint64),
        ("period_ns", ctypes.c_uint64),
    ]


_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274, "riscv64": 274, "ppc64le": 355, "s390x": 345}
"""The system call's number; glibc has no name for it before 2.41."""
_SHORT_TURN_NS = 100_000


def _ask_for_short_turns() -> None:
    """What everybody may: little of a core at a time, but soon after waking (Linux 6.12).

    The scheduler lets who asks for short turns interrupt the turn of one who did not; nobody gets
    more of the core than before. Where it is unknown or refused all stays as it was.
    """
    number = _SCHED_SETATTR.get(platform.machine())
    if number is None:
        return
    wanted = _SchedAttr(size=ctypes.sizeof(_SchedAttr), runtime_ns=_SHORT_TURN_NS)
    wanted.nice = os.getpriority(os.PRIO_PROCESS, 0)
    ctypes.CDLL(None).syscall(number, 0, ctypes.byref(wanted), 0)


class _Timespecs(ctypes.Structure):
    """struct itimerspec: interval and value, each in seconds and nanoseconds."""

    _fields_ = [(name, ctypes.c_long) for name in ("every_s", "every_ns", "at_s", "at_ns")]


class Alarm:
    """Wakes the loop at a nanosecond.

    uvloop's and epoll's own timers count in milliseconds, which would make each send up to 1 ms
    late; a timerfd has the kernel's full resolution. Elsewhere: the loop's timer up to 2 ms before,
    then polling.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
        self._loop = loop
        self._wake = wake
        self._polling = False
        self._later: asyncio.TimerHandle | None = None
        self._fd = -1
        if sys.platform == "linux":
            self._libc = ctypes.CDLL(None, use_errno=True)
            monotonic, nonblock, cloexec = 1, 0o4000, 0o2000000
            self._fd = self._libc.timerfd_create(monotonic, nonblock | cloexec)
        if self._fd >= 0:
            self._spec = _Timespecs()
            self._spec_ref = ctypes.byref(self._spec)
            loop.add_reader(self._fd, self._ring)

    def at(self, due_ns: int, now_ns: int) -> bool:
        """Wake at about `due_ns` instead of when was said before.

        Never later than the machine allows, up to _SPIN_NS earlier. True when the moment is so near
        that the loop polls for it instead of sleeping.
        """
        if due_ns - now_ns < POLLED_NS:
            return self._poll()
        if self._fd >= 0:
            self._spec.at_s, self._spec.at_ns = divmod(due_ns - _SPIN_NS, NS)
            absolute = 1
            self._libc.timerfd_settime(self._fd, absolute, self._spec_ref, None)
        elif due_ns - now_ns < 3_000_000:
            return self._poll()
        else:
            if self._later is not None:
                self._later.cancel()
            self._later = self._loop.call_later((due_ns - now_ns) / NS - 0.002, self._ring)
        return False

    def _poll(self) -> bool:
        if not self._polling:
            self._polling = True
            self._loop.call_soon(self._look)
        return True

    def _look(self) -> None:
        self._polling = False
        self._wake()

    def _ring(self) -> None:
        if self._fd >= 0:
            with contextlib.suppress(BlockingIOError):
                os.read(self._fd, 8)
        # Two that poll side by side would never become one again.
        if not self._polling:
            self._wake()


class BusyClock:
    """Seconds that this process computed, plus those it waited for a core (Linux tells them)."""

    def __init__(self) -> None:
        # Kept open: to open it costs 0.3 ms, which four times a second would make sends late.
        self._schedstat = -1
        with contextlib.suppress(OSError):
            self._schedstat = os.open("/proc/self/schedstat", os.O_RDONLY)

    def seconds(self) -> float:
        """Since the process began."""
        waited_s = 0.0
        if self._schedstat >= 0:
            with contextlib.suppress(OSError, ValueError, IndexError):
                # Documentation/scheduler/sched-stats.rst: on the CPU, waiting for it (ns), slices.
                waited_s = int(os.pread(self._schedstat, 128, 0).split()[1]) / NS
        return time.process_time() + waited_s
