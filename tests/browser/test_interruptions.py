"""What a roll-out does when hands slip, tabs close, two people press, or the dashboard dies."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from playwright.sync_api import TimeoutError as PlaywrightTimeout

from tests.browser.conftest import App, served, tab
from tests.browser.hands import button, press, verified, visit

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


def releases_of(app: App, service: str) -> list[str]:
    """The outcomes of a service's releases, newest first."""
    return [release["outcome"] for release in app.slipway("history", service)["releases"]]


def test_a_double_click_and_a_reload_make_one_release(app: App, page: Page) -> None:
    visit(page, app.url, "deploy", model="shipping-price", version=1, service="clicked-twice")
    button(page, "Deploy shipping-price/1").dblclick()
    page.get_by_text(re.compile("^Release 1: ")).wait_for()
    page.reload()
    verified(page, 1)
    assert releases_of(app, "clicked-twice") == ["verified"]


def test_of_two_who_press_at_once_one_wins_and_the_other_is_told(
    app: App, browser: Browser
) -> None:
    with tab(browser) as one, tab(browser) as other:
        for page, version in ((one, 1), (other, 2)):
            visit(page, app.url, "deploy", model="wine", version=version, service="contested")
            button(page, f"Deploy wine/{version}").wait_for()
        at = time.time() * 1000 + 2_000
        for page, version in ((one, 1), (other, 2)):
            button(page, f"Deploy wine/{version}").evaluate(
                "(button, at) => setTimeout(() => button.click(), at - Date.now())", at
            )
        assert [page for page in (one, other) if _is_told(page)]
    outcomes = releases_of(app, "contested")
    for _ in range(120):
        if "open" not in outcomes:
            break
        time.sleep(1)
        outcomes = releases_of(app, "contested")
    assert outcomes == ["verified"]


def _is_told(page: Page) -> bool:
    try:
        page.get_by_text("was not carried out").wait_for(timeout=15_000)
    except PlaywrightTimeout:
        return False
    return True


def test_a_roll_out_outlives_its_tab_and_its_dashboard(
    app: App, seeded: Path, browser: Browser
) -> None:
    with served(seeded, tidy=False) as doomed, tab(browser) as page:
        visit(page, doomed.url, "deploy", model="shipping-price", version=1, service="abandoned")
        press(page, "Deploy shipping-price/1")
        page.get_by_text(re.compile("^Release 1: ")).wait_for()
    assert releases_of(app, "abandoned") in (["open"], ["verified"])

    with tab(browser) as page:
        visit(page, app.url, "endpoints", service="abandoned")
        verified(page, 1)
        page.get_by_text("Steps", exact=True).click()
        for step in ("server up", "model loaded", "verified", "traffic"):
            expect(page.get_by_text(re.compile(rf"✓ +{step}")).first).to_be_visible()
    assert releases_of(app, "abandoned") == ["verified"]


@pytest.fixture
def black_hole() -> Iterator[str]:
    """An address that takes connections and never answers."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=128)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_a_registry_that_never_answers_holds_no_page_up(
    black_hole: str, tmp_path: Path, page: Page
) -> None:
    with served(tmp_path, MLFLOW_TRACKING_URI=black_hole) as app:
        visit(page, app.url, "health")  # the first visit of all pays for the imports
        for view, headline in (("Models", "Registered models"), ("Deploy", "Deploy")):
            began = time.monotonic()
            page.get_by_role("link", name=view).click()
            page.get_by_role("heading", name=headline).wait_for()
            page.get_by_text("No answer yet.").or_(page.get_by_text("Fix:")).first.wait_for()
            assert time.monotonic() - began < 6  # the page waits 1.4 s; the rest is the machine
            page.get_by_text("Fix:").first.wait_for()


def test_a_registry_that_went_away_leaves_its_last_list_with_its_age(
    seeded: Path, tmp_path: Path, page: Page
) -> None:
    copy = tmp_path / "registry.db"
    copy.write_bytes((seeded / "mlflow.db").read_bytes())
    with served(tmp_path, MLFLOW_TRACKING_URI=f"sqlite:///{copy}") as app:
        visit(page, app.url, "models")
        expect(page.get_by_text("registered models in the registry")).to_be_visible()
        copy.write_bytes(b"not a database any more " * 200)
        visit(page, app.url, "health")
        press(page, "Run all checks")
        visit(page, app.url, "models")
        expect(page.get_by_text(re.compile("Shown: registered models as of"))).to_be_visible()
        expect(page.get_by_role("region", name="Registered models")).to_be_visible()
