"""Renew the README's pictures from the running app: `make screenshots`, or some by name.

Starts Slipway over a temporary state folder with the demo's models, deploys, splits traffic, makes
a load test of two versions, and takes each page as a person would see it. Needs Chromium.
Everything that it starts ends with it.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "images"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
# name → path below the app's address, height of the window, colour scheme
PICTURES = {
    "overview": ("", 560, "light"),
    "overview-dark": ("", 560, "dark"),
    "models": ("models?model=wine&version=2", 900, "light"),
    "compare": ("models?model=wine&version=3,2", 900, "light"),
    "deploy": ("deploy?model=wine&version=3&service=wine", 1000, "light"),
    "endpoints": ("endpoints?service=wine", 1000, "light"),
    "predict": ("predict?service=wine&runs=1,2", 2010, "light"),
}


# Each group at once, one group after the other: nothing is deployed while a load test measures.
# As many requests as a p99 needs, each when one before it is answered: no machine is overrun.
LOAD = ("--concurrency", "2", "--requests", "1200", "--duration", "60", "--save")
VOYAGE = (
    (
        ("deploy", "wine/1", "--name", "wine", "--yes", "--reason", "first voyage"),
        ("deploy", "diabetes-progression/1", "--name", "diabetes", "--yes"),
    ),
    (("bench", "wine", *LOAD),),
    (
        ("deploy", "wine/2", "--name", "wine", "--yes", "--reason", "better recall"),
        (
            *("deploy", "diabetes-progression/2", "--name", "diabetes", "--yes"),
            *("--canary-percent", "20", "--reason", "try the trees"),
        ),
    ),
    (("bench", "wine", *LOAD),),
)


def slipway(environment: dict[str, str], *commands: tuple[str, ...]) -> None:
    """Run commands at once, shown as they begin; the end of all when one of them fails."""
    running = []
    for words in commands:
        print("slipway", *words, flush=True)
        command = [sys.executable, "-m", "dashboard", *words]
        running.append(subprocess.Popen(command, cwd=ROOT, env=environment))
    ended = [one.wait() for one in running]
    if any(ended):
        sys.exit("A command failed: no picture was taken.")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str) -> None:
    """Until the app answers, at most a minute."""
    for _ in range(120):
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    sys.exit(f"{url} did not answer within a minute")


STILL = """
() => !document.querySelector('[data-testid^=stSkeleton], [data-stale=true]')
  && document.querySelector('[data-testid=stMain] h3')
"""


def still(page: Page) -> None:
    """Wait until a page has its headline, nothing is awaited in it, and its charts are drawn."""
    page.wait_for_function(STILL, timeout=120_000)
    page.wait_for_timeout(2_000)
    page.wait_for_function(STILL, timeout=120_000)  # what came meanwhile had things to await


def take(page: Page, url: str, name: str) -> None:
    """One picture, once the page stands still."""
    page.goto(url)
    still(page)
    if name == "predict":
        page.get_by_role("button", name="Send request").click()
        page.get_by_text("Answered by").first.wait_for()
        page.mouse.move(0, 0)
        still(page)
    path = IMAGES / f"{name}.png"
    page.screenshot(path=path)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1024} kB", flush=True)


def main() -> None:
    """Prepare a world worth looking at, then look at it."""
    chromium = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if chromium is None:
        sys.exit("No Chromium on this machine (Debian: sudo apt-get install chromium).")
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="slipway-screenshots-") as folder:
        environment = {**os.environ, "SLIPWAY_STATE_DIR": folder}
        environment.pop("MLFLOW_TRACKING_URI", None)
        slipway(environment, ("demo",))
        port = free_port()
        app = subprocess.Popen(
            [sys.executable, "-m", "dashboard", "ui", "--port", str(port)],
            cwd=ROOT,
            env=environment,
        )
        try:
            for commands in VOYAGE:
                slipway(environment, *commands)
            wait_for(f"http://127.0.0.1:{port}/_stcore/health")
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
                for name in sys.argv[1:] or list(PICTURES):
                    path, height, scheme = PICTURES[name]
                    context = browser.new_context(
                        viewport={"width": 1280, "height": height},
                        color_scheme="dark" if scheme == "dark" else "light",
                    )
                    take(context.new_page(), f"http://127.0.0.1:{port}/{path}", name)
                    context.close()
                browser.close()
        finally:
            for service in ("wine", "diabetes"):
                subprocess.run(
                    [
                        *(sys.executable, "-m", "dashboard", "delete", service),
                        *("--yes", "--confirm", service),
                    ],
                    cwd=ROOT,
                    env=environment,
                    check=False,
                )
            app.terminate()
            app.wait(20)


if __name__ == "__main__":
    main()
