"""The app served for real, with the demo's models and real MLServer processes, and a browser."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

ROOT = Path(__file__).parent.parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# Without these a browser in a closed network asks for its maker's hosts, many at a time.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
expect.set_options(timeout=30_000)


@dataclass(frozen=True)
class App:
    """A dashboard that is running, and the command line beside it."""

    url: str
    state: Path
    environment: dict[str, str]

    def slipway(self, *arguments: str) -> Any:
        """The JSON document of one `slipway` command."""
        done = subprocess.run(
            [sys.executable, "-m", "dashboard", *arguments, "--json"],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        return json.loads(done.stdout)


def settings_free() -> dict[str, str]:
    """This process's environment without what configures Slipway or MLflow.

    Its kubeconfig is one of clusters that nobody answers for, so that pages show the contexts that
    no target names, on any machine.
    """
    free = {k: v for k, v in os.environ.items() if not k.startswith(("SLIPWAY_", "MLFLOW_"))}
    return {**free, "KUBECONFIG": str(Path(__file__).parent / "kubeconfig.yaml")}


def find_chromium() -> str | None:
    """Where a Chromium is, or None."""
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def served(state: Path, *, tidy: bool = True, **settings: str) -> Iterator[App]:
    """A dashboard on a state folder; ended, and if `tidy` with its services, at the end."""
    environment = {
        **settings_free(),
        "SLIPWAY_STATE_DIR": str(state),
        **settings,
    }
    port = free_port()
    log = (state / "dashboard.log").open("wb")
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "streamlit", "run", str(ROOT / "dashboard" / "app.py")),
            *("--server.port", str(port), "--server.headless", "true"),
        ],
        cwd=state,  # as somebody who starts it from a folder of theirs
        env=environment,
        stdout=log,
        stderr=log,
    )
    app = App(f"http://127.0.0.1:{port}", state, environment)
    try:
        _wait_for(f"{app.url}/_stcore/health")
        yield app
    finally:
        server.terminate()
        server.wait(20)
        log.close()
        for service in app.slipway("status").get("services", []) if tidy else ():
            app.slipway("delete", service["name"], "--yes", "--confirm", service["name"])


def _wait_for(url: str) -> None:
    for _ in range(300):
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"{url} did not answer within a minute")


@pytest.fixture(scope="package")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with the demo's models and a few more, made once for all browser tests."""
    state = tmp_path_factory.mktemp("slipway")
    for arguments in (["dashboard", "demo"], ["tests.browser.more_models", str(state)]):
        subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            env={**settings_free(), "SLIPWAY_STATE_DIR": str(state)},
            check=True,
            capture_output=True,
            timeout=300,
        )
    return state


@pytest.fixture(scope="package")
def app(seeded: Path) -> Iterator[App]:
    """The dashboard over the demo's models."""
    with served(seeded) as running:
        yield running


@pytest.fixture(scope="package")
def services(app: App) -> App:
    """The dashboard with two services: `parcel` answers a price, `long` as much as is asked for."""
    for version, name in (("shipping-price/1", "parcel"), ("long-answer/1", "long")):
        done = app.slipway("deploy", version, "--name", name, "--wait", "--yes")
        assert done.get("outcome") == "verified", done
    return app


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, headless.

    For this folder's tests only: as long as it lives, Playwright keeps an event loop running in
    the main thread, and no test of another tier could start its own.
    """
    path = find_chromium()
    if path is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A fresh tab without cookies."""
    with tab(browser) as fresh:
        yield fresh


@contextmanager
def tab(browser: Browser, theme: Literal["light", "dark"] = "light") -> Iterator[Page]:
    """A tab of a visitor of its own, who asks for no motion.

    What moves while a page is read is painted by the processor here, frame by frame: a third of all
    that the browser computes. A test of motion asks for it.
    """
    context = browser.new_context(
        viewport={"width": 1280, "height": 900}, color_scheme=theme, reduced_motion="reduce"
    )
    context.set_default_timeout(30_000)
    yield context.new_page()
    context.close()
