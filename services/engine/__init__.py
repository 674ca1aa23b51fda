"""The load engine: timed requests from a process of its own.

`run.ProcessEngine` runs where Slipway runs: it starts `python -m services.engine`, hands it the
load over a pipe, and turns what comes back into ticks and a summary. That process does as little as
possible per request, and imports neither the page's nor the registry's libraries, so that it starts
quickly and nothing else runs on its interpreter. Its parts: `pipe` (what both halves say to each
other), `load` (which request leaves when, on which connection, and what came back), `connection`
(one kept connection: sends, and reads answers), `stamped` (when its bytes came in, by the kernel),
`alarm` (wakes at a nanosecond). `latency` and `histogram` do the arithmetic, for `run` alone.

How time is kept: at a steady rate the send times are fixed before the first request leaves
(intended = start + n / rate). Response time counts from the intended send, service time from the
actual one, so a server that stalls cannot slow the clock that measures it. A request that finds
every connection busy waits its turn; its waiting counts. The moment of an answer is taken before it
is parsed.

Read against uvloop 0.23, httptools 0.9 and Linux timerfd_create(2).
"""
