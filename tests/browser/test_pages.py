"""Every page in a real browser: links, hostile names, keyboard, names, contrast, stillness."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest
from playwright.sync_api import Browser, Dialog, Locator, Page, Request, expect

from services.ports import Run
from services.store import SqlStore
from tests.browser.conftest import App, tab
from tests.browser.hands import (
    choose_row,
    field,
    open_link,
    press,
    query,
    rows,
    settled,
    still,
    visit,
)
from tests.browser.more_models import HOSTILE, IMAGE, LINK
from tests.browser.seen import focused, low_contrast, unnamed_controls

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

VIEWS = (
    "",
    "models?model=wine&version=2",
    "models?model=wine&version=3,2",
    "deploy?model=wine&version=2&service=another",
    "endpoints",
    "endpoints?service=parcel",
    "endpoints?service=parcel&do=delete",
    "predict?service=parcel",
    "activity",
    "health",
)
LINKS = {
    "models?model=wine&version=3,2": "wine/2 compared with wine/3",
    "models?model=wine&version=2": "wine/2",
    "deploy?model=wine&version=1&service=fresh": "Deploy wine/1",
    "endpoints?service=parcel": "shipping-price/1 answers",
    "endpoints?service=parcel&do=delete": "Type parcel to confirm",
    "predict?service=parcel": "weight_kg",
    "models?model=nothing-of-it": "There is no registered model nothing-of-it here.",
    "models?model=wine&version=77": "There is no version 77 here.",
    "deploy?model=wine&version=77": "There is no version 77 here.",
    "predict?service=nothing-of-it": "There is no service nothing-of-it here.",
    "endpoints?service=nothing-of-it": "There is no service nothing-of-it here.",
    "health?target=nothing-of-it": "There is no target nothing-of-it here.",
}


@pytest.mark.parametrize("link", LINKS)
def test_a_pasted_link_opens_the_same_view(services: App, page: Page, link: str) -> None:
    open_link(page, f"{services.url}/{link}")
    expect(page.get_by_text(LINKS[link]).first).to_be_visible()


def test_the_way_back_takes_away_the_tick_that_it_leaves(app: App, page: Page) -> None:
    table = "Versions, newest first"
    visit(page, app.url, "models", model="wine")
    choose_row(page, table, "3")
    choose_row(page, table, "2")
    expect(page.get_by_text("wine/2 compared with wine/3")).to_be_visible()
    page.go_back()
    expect(page.get_by_text("wine/2 compared with wine/3")).to_be_hidden()
    expect(rows(page, table).nth(1)).to_have_attribute("aria-selected", "false")
    expect(rows(page, table).nth(0)).to_have_attribute("aria-selected", "true")


def test_a_link_to_filtered_logs_opens_them_so(services: App, page: Page) -> None:
    open_link(page, f"{services.url}/endpoints?service=parcel&tab=Logs&filter=ready")
    expect(page.get_by_role("tab", name="Logs")).to_have_attribute("aria-selected", "true")
    expect(field(page, "Filter")).to_have_value("ready")


def test_a_choice_on_one_page_stands_in_the_url_and_outlives_a_reload(
    services: App, page: Page
) -> None:
    visit(page, services.url, "deploy", model="wine", version=1)
    field(page, "Service name").fill("elsewhere")
    field(page, "Service name").press("Enter")
    expect(page.get_by_text("Deploy wine/1 to local as elsewhere")).to_be_visible()
    assert query(page)["service"] == "elsewhere"
    page.reload()
    expect(field(page, "Service name")).to_have_value("elsewhere")


def test_hostile_names_are_shown_as_they_are(services: App, page: Page) -> None:
    dialogs: list[Dialog] = []
    asked: list[Request] = []
    page.on("dialog", lambda dialog: dialogs.append(dialog))  # noqa: PLW0108 — Playwright needs a function
    page.on("request", lambda request: asked.append(request))  # noqa: PLW0108 — as above
    visit(page, services.url, "models", model=HOSTILE, version=1)
    expect(page.get_by_role("heading", name=IMAGE).first).to_be_visible()
    expect(page.get_by_text(LINK).first).to_be_visible()
    expect(rows(page, "Registered models").first).to_contain_text(IMAGE)
    visit(page, services.url, "deploy", model=HOSTILE, version=1)
    expect(page.get_by_role("heading", name=IMAGE).first).to_be_visible()

    assert page.get_by_role("link", name="a link").count() == 0
    assert [
        each.url for each in asked if services.url not in each.url.replace("ws:", "http:")
    ] == []
    assert [each.url for each in asked if each.resource_type == "image" and "/x" in each.url] == []
    assert dialogs == []


@dataclass
class Measured:
    """What was measured of one page."""

    unnamed: list[str]
    low: dict[str, list[str]]
    """Theme → the texts that are too near to their ground."""


@pytest.fixture(scope="module")
def measured(services: App, browser: Browser) -> dict[str, Measured]:
    """Each view, opened once for every test that measures it: opening one is what costs."""
    found = {}
    with tab(browser) as page:
        for view in VIEWS:
            page.emulate_media(color_scheme="light")
            open_link(page, f"{services.url}/{view}")
            still(page)
            unnamed, light = unnamed_controls(page), low_contrast(page)
            page.emulate_media(color_scheme="dark")
            expect(page.get_by_test_id("stApp")).to_have_css("color-scheme", "dark")
            still(page)
            found[view] = Measured(unnamed, {"light": light, "dark": low_contrast(page)})
    return found


@pytest.mark.parametrize("view", VIEWS)
def test_every_control_has_a_name(measured: dict[str, Measured], view: str) -> None:
    assert measured[view].unnamed == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_from_its_ground(measured: dict[str, Measured], theme: str) -> None:
    found = {view: page.low[theme] for view, page in measured.items()}
    assert {view: texts for view, texts in found.items() if texts} == {}


def test_the_deploy_page_works_by_keyboard_alone(services: App, page: Page) -> None:
    visit(page, services.url, "deploy", model="wine", version=1, service="by-keyboard")
    page.get_by_role("button", name="Deploy wine/1", exact=True).wait_for()
    page.locator("body").press("Tab")
    reached = [focused(page)]
    while len(reached) < 60 and not reached[-1].startswith("Deploy wine/1"):
        if reached[-1] == "Options":
            page.keyboard.press("Enter")
            expect(page.get_by_role("spinbutton", name="Port")).to_be_visible()
        page.keyboard.press("Tab")
        reached.append(focused(page))

    assert list(dict.fromkeys(name for name in reached if name in _IN_ORDER)) == [*_IN_ORDER]


_IN_ORDER = (
    "Overview",
    "Health",
    "Target",
    "Registered model",
    "Version",
    "Service name",
    "Options",
    "Reason",
    "Deploy wine/1",
)


def test_nothing_moves_while_one_looks(services: App, page: Page) -> None:
    page.emulate_media(reduced_motion="no-preference")
    visit(page, services.url)
    table = page.get_by_role("region", name="Services", exact=True)
    rows(page, "Services").first.wait_for(state="attached")
    settled(page)
    page.wait_for_timeout(1_000)
    places = []
    for _ in range(10):
        places.append((table.bounding_box(), rows(page, "Services").first.inner_text()))
        page.wait_for_timeout(500)
    assert [place for place in places if place != places[0]] == []


def test_a_huge_answer_leaves_the_tab_alive(services: App, page: Page) -> None:
    visit(page, services.url, "predict", service="long")
    field(page, "characters").fill("30000000")
    press(page, "Send request")
    expect(page.get_by_text("Answered by")).to_be_visible(timeout=60_000)
    page.get_by_role("tab", name="Raw answer").click()
    began = time.monotonic()
    page.get_by_role("link", name="Health").click()
    expect(page.get_by_role("button", name="Run all checks")).to_be_visible()
    assert time.monotonic() - began < 15


CHARTS = ("Response time by second", "Answers per second", "Spread of response times")


def chart(page: Page, title: str) -> Locator:
    """A chart by what it is called for who cannot see it."""
    return page.get_by_role("img", name=re.compile(f"^{title}")).first


def begin_load_test(page: Page, seconds: int) -> Locator:
    """Begin a steady rate; gives its stop button."""
    page.get_by_text("a steady rate").click()
    longest = page.get_by_role("spinbutton", name="For at most, seconds")
    # Another mode is another form: for a moment the one before it stands there, too.
    expect(page.get_by_role("spinbutton", name="Requests per second")).to_be_visible()
    expect(longest).to_have_count(1)
    longest.fill(str(seconds))
    press(page, "Start the load test")
    return page.get_by_role("button", name="Stop", exact=True)


def newest_run(app: App) -> Run:
    return SqlStore(f"sqlite:///{app.state}/slipway.db").runs(service="parcel").found[0]


def test_a_load_test_runs_live_stops_when_told_and_is_laid_over_the_next(
    services: App, page: Page
) -> None:
    visit(page, services.url, "predict", service="parcel")
    for run in (1, 2):
        stop = begin_load_test(page, 60)
        expect(page.get_by_text("p99 so far", exact=True)).to_be_visible()
        for title in CHARTS:
            # A browser that shares its core reads Plotly for long; the test runs for a minute.
            expect(chart(page, title)).to_be_visible(timeout=50_000)
        stop.click()
        expect(stop).to_be_hidden()
        expect(page.get_by_text("Stopped early").first).to_be_visible()
        page.wait_for_timeout(2_500)  # the list of runs may be two seconds old
        visit(page, services.url, "predict", service="parcel", runs="1,2"[: 2 * run - 1])
        selected = page.get_by_role("group", name="Selected values")
        expect(selected.get_by_text(f"#{run} shipping-price/1")).to_be_visible()
        # By the run's own record: a busy browser draws its end when it comes to it.
        kept = newest_run(services)
        assert kept.summary.began_at is not None
        ended_at = kept.summary.began_at + timedelta(seconds=kept.summary.duration_s)
        asked_at = datetime.fromisoformat(json.loads(kept.settings)["stop_asked_at"])
        assert ended_at - asked_at <= timedelta(seconds=1)
    said = re.compile("No difference can be told|faster|slower|Too few requests")
    expect(page.get_by_text(said).first).to_be_visible()


def test_only_our_own_buttons_are_on_a_page(app: App, page: Page) -> None:
    # Streamlit's own "Deploy" beside ours would be pressed.
    visit(page, app.url, "health")
    expect(page.get_by_test_id("stAppDeployButton")).to_have_count(0)
    expect(page.get_by_test_id("stMainMenu")).to_have_count(0)


def test_new_seconds_do_not_take_a_live_chart_away(services: App, page: Page) -> None:
    visit(page, services.url, "predict", service="parcel")
    stop = begin_load_test(page, 60)
    # With the tiles stands the live chart, above that of a stored run.
    expect(page.get_by_text("p99 so far", exact=True)).to_be_visible()
    canvas = chart(page, CHARTS[0]).locator("canvas").first
    canvas.evaluate("(drawn) => { drawn.sameAsBefore = true; }")
    before = chart(page, CHARTS[0]).get_attribute("aria-label") or ""
    expect(chart(page, CHARTS[0])).not_to_have_attribute("aria-label", before)
    assert canvas.evaluate("(drawn) => drawn.sameAsBefore === true")
    stop.click()
    expect(stop).to_be_hidden()


def test_a_load_test_is_found_again_after_leaving_reloading_and_from_another_service(
    services: App, page: Page
) -> None:
    visit(page, services.url, "predict", service="parcel")
    stop = begin_load_test(page, 300)
    expect(stop).to_be_visible()
    page.get_by_role("link", name="Overview").click()
    expect(page.get_by_role("region", name="Services", exact=True)).to_be_visible()
    page.get_by_role("link", name="Predict").click()
    expect(stop).to_be_visible()
    assert query(page)["service"] == "parcel"
    page.reload()
    expect(stop).to_be_visible()
    visit(page, services.url, "predict", service="long")
    expect(page.get_by_text("A load test of parcel is under way.")).to_be_visible()
    press(page, "Look at parcel")
    stop.click()
    expect(stop).to_be_hidden()
