"""Every page in a real browser: links, hostile names, keyboard, names, contrast, stillness."""

from __future__ import annotations

import re
import time

import pytest
from playwright.sync_api import Browser, Dialog, Page, Request, expect

from tests.browser.conftest import App, tab
from tests.browser.hands import field, open_link, press, query, rows, settled, still, visit
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


@pytest.mark.parametrize("view", VIEWS)
def test_every_control_has_a_name(services: App, page: Page, view: str) -> None:
    open_link(page, f"{services.url}/{view}")
    assert unnamed_controls(page) == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_from_its_ground(services: App, browser: Browser, theme: str) -> None:
    found = {}
    with tab(browser, "dark" if theme == "dark" else "light") as page:
        for view in VIEWS:
            open_link(page, f"{services.url}/{view}")
            still(page)
            found[view] = low_contrast(page)
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


def test_a_load_test_runs_live_stops_when_told_and_is_laid_over_the_next(
    services: App, page: Page
) -> None:
    visit(page, services.url, "predict", service="parcel")
    for run in (1, 2):
        page.get_by_text("a steady rate").click()
        page.get_by_role("spinbutton", name="For at most, seconds").fill("30")
        press(page, "Start the load test")
        stop = page.get_by_role("button", name="Stop", exact=True)
        expect(page.get_by_text("p99", exact=True).first).to_be_visible()
        page.wait_for_timeout(5_000)
        for chart in ("Response time by second", "Requests per second", "Spread of response times"):
            expect(page.get_by_text(chart, exact=True).first).to_be_visible()
        stop.click()
        began = time.monotonic()
        expect(stop).to_be_hidden()
        assert time.monotonic() - began < 8
        expect(page.get_by_text("Stopped early").first).to_be_visible()
        page.wait_for_timeout(2_500)  # the list of runs may be two seconds old
        visit(page, services.url, "predict", service="parcel", runs="1,2"[: 2 * run - 1])
        selected = page.get_by_role("group", name="Selected values")
        expect(selected.get_by_text(f"#{run} shipping-price/1")).to_be_visible()
    said = re.compile("No difference can be told|faster|slower|Too few requests")
    expect(page.get_by_text(said).first).to_be_visible()


def test_only_our_own_buttons_are_on_a_page(app: App, page: Page) -> None:
    # Streamlit's own "Deploy" beside ours would be pressed.
    visit(page, app.url, "health")
    expect(page.get_by_test_id("stAppDeployButton")).to_have_count(0)
    expect(page.get_by_test_id("stMainMenu")).to_have_count(0)
