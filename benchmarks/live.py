"""A live load test on a page in Chromium, and what was seen of it: for rows 5, 6 and 7."""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tools

from services import records
from services.domain import Endpoint, InferRequest, Load, LoadMode, Protocol, WayIn
from services.engine.run import ProcessEngine

if TYPE_CHECKING:
    from playwright.sync_api import WebSocket

PAGE_BYTES = 4096
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync")
# The newest point that a chart shows, whenever it changes; [time of day in ms, seconds of the run].
_WATCH = """
() => {
  window.painted = [];
  const look = () => {
    // Charts are painted on a canvas; the name for who cannot see one is set as it is drawn.
    const chart = document.querySelector('[data-testid="stEChartsChart"]');
    const said = chart && /up to second ([0-9.]+)/.exec(chart.getAttribute('aria-label') || '');
    if (said) {
      const at = Number(said[1]);
      const last = window.painted[window.painted.length - 1];
      if (!last || last[1] !== at) {
        window.painted.push([Date.now(), at]);
      }
    }
    requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
}
"""


def why_not() -> str:
    """Why no page can be watched on this machine; "" when one can."""
    if chromium() is None:
        return "no Chromium on this machine"
    try:
        import playwright.sync_api  # noqa: F401 - only whether it is there
    except ImportError:
        return "Playwright is not installed"
    return ""


def chromium() -> str | None:
    """Where a Chromium is, or None."""
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def load_of(
    url: str, body: Path, rate: float, duration_s: float, *, warm_up_s: float = 0.0
) -> Load:
    """A steady rate at one of the benchmarks' servers."""
    return Load(
        Endpoint(url, "bench", WayIn.LOOPBACK),
        (InferRequest(Protocol.V2, tools.PATH, body.read_bytes()),),
        LoadMode.STEADY_RATE,
        duration_s,
        rate=rate,
        concurrency=16,
        warm_up_s=warm_up_s,
        max_requests=100_000_000,
    )


ORDINARY = ("setpriv", "--bounding-set=-sys_nice", "--inh-caps=-sys_nice")
"""Before a command: as an account that gets no real-time priority."""


def alone(load: Load, *, before: Sequence[str] = ()) -> dict[str, Any]:
    """The same load without a page, by a process of its own: its summary. `before` its command."""
    done = subprocess.run(
        [*before, sys.executable, "-c", _ALONE, records.dump(load)],
        cwd=tools.ROOT,
        env={**os.environ, "PYTHONPATH": str(tools.ROOT)},
        stdout=subprocess.PIPE,
        check=True,
        timeout=load.duration_s + load.warm_up_s + 60,
    )
    told: dict[str, Any] = json.loads(done.stdout)
    return told


_ALONE = """
import sys
from services import records
from services.domain import Load
from services.engine.run import ProcessEngine
*_, summary = ProcessEngine().run(records.load(Load, sys.argv[1]))
print(records.dump(summary))
"""


def recorded(load: Load) -> str:
    """Real ticks of a short run, a line each."""
    *parts, _ = ProcessEngine().run(load)
    return "\n".join(records.dump(part) for part in parts)


@dataclass
class Seen:
    """What was seen of one load test: in the browser, on its wire, in the page's process."""

    summary: dict[str, Any]
    ages_s: list[float] = field(default_factory=list)
    """Age of a chart's newest point at the moment it was there, one per new point."""
    refresh_bytes: list[int] = field(default_factory=list)
    """Received by the browser in each second."""
    scripts_s: list[float] = field(default_factory=list)
    script_cpus_s: list[float] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)
    """Of the page's process, at each drawing."""


def watched(
    load: Load,
    *,
    before: int = 0,
    ticks: str = "",
    every_s: float | None = None,
    leave_after_s: float | None = None,
    command: Sequence[str] = (),
) -> Seen:
    """Run `load` from a page that a browser looks at, after `before` recorded seconds.

    `every_s`: how often the panel is drawn; None for as often as the Predict page does.
    `leave_after_s`: stop looking so early, instead of when the load ends. `command`: put before the
    dashboard's.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        log.touch()
        (Path(folder) / "ticks").write_text(ticks)
        asked = {
            "load": records.dump(load),
            "before": before,
            "ticks": f"{folder}/ticks",
            "log": str(log),
            "every_s": every_s,
        }
        bound_s = leave_after_s or load.duration_s + 30
        with _served(Path(folder), asked, command) as url, _browser() as browser:
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            received: list[tuple[float, int]] = []
            page.on("websocket", lambda socket: _count(socket, received))
            page.goto(url, timeout=60_000)
            page.wait_for_selector('[data-testid="stEChartsChart"]', timeout=60_000)
            page.evaluate(_WATCH)
            until = time.monotonic() + bound_s
            while time.monotonic() < until and '"summary"' not in log.read_text():
                page.wait_for_timeout(500)
            painted = page.evaluate("() => window.painted")
        return _seen([json.loads(line) for line in log.read_text().splitlines()], painted, received)


def _count(channel: WebSocket, received: list[tuple[float, int]]) -> None:
    def frame(payload: str | bytes) -> None:
        received.append((time.time(), len(payload)))

    channel.on("framereceived", frame)


def _seen(
    lines: Sequence[dict[str, Any]],
    painted: Sequence[tuple[float, float]],
    received: Sequence[tuple[float, int]],
) -> Seen:
    told = [(line["wall"], line["tick"]) for line in lines if "tick" in line]
    # Ticks come at once or late, never early: the earliest tells when the run's second 0 was.
    zero = min(wall - at for wall, at in told)
    shown = dict(sorted((at, ms / 1e3) for ms, at in reversed(painted)))
    first, last = told[0][0] + 1, told[-1][0] - 1
    by_second: dict[int, int] = {}
    for wall, size in received:
        if first <= wall <= last:
            by_second[int(wall - first)] = by_second.get(int(wall - first), 0) + size
    scripts = [line for line in lines if "script_s" in line and first <= line["wall"] <= last]
    return Seen(
        next((line["summary"] for line in lines if "summary" in line), {}),
        # Charts round seconds to hundredths.
        [shown[x] - (zero + at) for _, at in told[1:-1] if (x := round(at, 2)) in shown],
        list(by_second.values()),
        [line["script_s"] for line in scripts],
        [line["cpu_s"] for line in scripts],
        [line["resident"] * PAGE_BYTES for line in lines if "resident" in line],
    )


@contextmanager
def _served(folder: Path, asked: dict[str, object], command: Sequence[str]) -> Iterator[str]:
    port = tools.free_port()
    own = {k: v for k, v in os.environ.items() if not k.startswith(("SLIPWAY_", "MLFLOW_"))}
    with (folder / "streamlit.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *command,
                *(sys.executable, "-m", "streamlit", "run", str(tools.HERE / "live_page.py")),
                *("--server.port", str(port), "--server.headless", "true"),
            ],
            cwd=tools.ROOT,
            stdout=log,
            stderr=log,
            env={
                **own,
                "PYTHONPATH": str(tools.ROOT),
                "SLIPWAY_STATE_DIR": str(folder),
                "BENCH_LIVE": json.dumps(asked),
            },
        )
    try:
        tools.wait_for(f"http://127.0.0.1:{port}/_stcore/health", 60)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def _browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium(), args=list(FLAGS))
        yield found
        found.close()


@contextmanager
def visitor(port: int, for_s: float) -> Iterator[None]:
    """Somebody with a browser, who opens the page on this port as soon as it is there.

    They leave after `for_s`: k6 does not end while somebody looks.
    """
    gone = threading.Event()

    from playwright.sync_api import Error as PlaywrightError

    def visit() -> None:
        until = time.monotonic() + 30
        while time.monotonic() < until and not gone.is_set():
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            time.sleep(0.1)
        with _browser() as browser:
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            leaves = time.monotonic() + for_s
            while time.monotonic() < leaves and not gone.is_set():
                with suppress(PlaywrightError):  # the port is open before the page is there
                    page.goto(f"http://127.0.0.1:{port}", timeout=10_000, wait_until="commit")
                    break
                gone.wait(0.2)
            gone.wait(max(0.0, leaves - time.monotonic()))

    looking = threading.Thread(target=visit)
    looking.start()
    try:
        yield
    finally:
        gone.set()
        looking.join()


def high(values: Sequence[float]) -> float:
    """The 95th percentile, by nearest rank."""
    ascending = sorted(values)
    return ascending[max(0, -(-len(ascending) * 95 // 100) - 1)]


def middle(values: Sequence[float]) -> float:
    return statistics.median(values) if values else float("nan")
