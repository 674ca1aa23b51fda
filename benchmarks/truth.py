"""What the answer must be: an open loop over a few connections, simulated exactly."""

from __future__ import annotations

import heapq
from collections.abc import Callable


def response_times(
    *,
    rate: float,
    duration_s: float,
    connections: int,
    answered_at: Callable[[float], float],
) -> list[float]:
    """Response times, ascending: request n is due at n/rate and takes the first free connection.

    `answered_at(sent_s)`: when a request that leaves at `sent_s` has its answer.
    """
    free_at = [0.0] * connections
    times = []
    for number in range(round(rate * duration_s)):
        due_s = number / rate
        sent_s = max(due_s, heapq.heappop(free_at))
        done_s = answered_at(sent_s)
        heapq.heappush(free_at, done_s)
        times.append(done_s - due_s)
    return sorted(times)


def stalls(
    *, stall_s: float = 0.2, every_s: float = 2.0, otherwise_s: float = 0.000_1
) -> Callable[[float], float]:
    """The truth server's `stall`: begins half a period in. `otherwise_s`: a round trip."""

    def answered_at(sent_s: float) -> float:
        into_s = (sent_s + every_s / 2) % every_s
        return sent_s + (stall_s - into_s if into_s < stall_s else 0.0) + otherwise_s

    return answered_at
