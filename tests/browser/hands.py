"""What a visitor's hands do: open a page, choose a row, press what is named so."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import parse_qsl, urlencode, urlsplit

from playwright.sync_api import Locator, Page, expect
from playwright.sync_api import TimeoutError as PlaywrightTimeout

SLOW_MS = 120_000
"""A model server needs a quarter of a minute of one core; on a busy machine far longer."""
_HEADER_PX, _ROW_PX, _BOX_PX = 34, 33, 16
"""Tables are drawn on a canvas: a row is chosen by where its box is painted."""


def settled(page: Page) -> None:
    """Wait until Streamlit's script has ended."""
    page.wait_for_selector("[data-testid='stApp'][data-test-script-state='notRunning']")


_STILL = """
() => !document.querySelector('[data-testid^=stSkeleton], [data-stale=true]')
  && document.getAnimations().every((each) => each.playState !== 'running'
    || each.effect?.getComputedTiming().iterations === Infinity)
"""


def still(page: Page) -> None:
    """Wait until nothing is awaited, faded in or replaced any more: what is drawn then stays so."""
    settled(page)
    page.wait_for_function(_STILL, timeout=SLOW_MS)


def visit(page: Page, url: str, path: str = "", **params: object) -> None:
    """Open one page of the dashboard with these values in its URL."""
    query = urlencode({name: str(value) for name, value in params.items()})
    open_link(page, f"{url}/{path}" + (f"?{query}" if query else ""))


def open_link(page: Page, link: str) -> None:
    """Open a pasted link and wait until its page stands.

    Chromium drops what it is loading when any network interface of the machine comes or goes
    (net::ERR_NETWORK_CHANGED), as they do beside containers that start: then it is opened again.
    """
    for _ in range(3):
        page.goto(link)
        with suppress(PlaywrightTimeout):
            page.get_by_role("navigation", name="App pages").wait_for(timeout=12_000)
            page.get_by_role("heading").first.wait_for(timeout=12_000)
            settled(page)
            return
    raise AssertionError(f"{link} did not stand after three times")


def query(page: Page) -> Mapping[str, str]:
    """The values in the URL."""
    return dict(parse_qsl(urlsplit(page.url).query))


def button(page: Page, name: str) -> Locator:
    """The button with exactly this name, in what is not about to be replaced."""
    return page.get_by_role("button", name=name, exact=True)


def press(page: Page, name: str) -> None:
    """Press the button with exactly this name."""
    button(page, name).click()


def pick(page: Page, name: str) -> None:
    """Pick the choice with exactly this name."""
    page.get_by_role("radio", name=name, exact=True).click()


def field(page: Page, label: str) -> Locator:
    """The text field with this label."""
    return page.get_by_role("textbox", name=label, exact=True)


def choose(page: Page, label: str, option: str) -> None:
    """Choose an option of a select box."""
    page.get_by_role("combobox", name=label, exact=True).click()
    page.get_by_role("option", name=option, exact=True).click()


def rows(page: Page, table: str) -> Locator:
    """The rows of a table; they stand, for screen readers, inside what is painted."""
    return page.get_by_role("region", name=table, exact=True).locator("tbody tr")


def choose_row(page: Page, table: str, cell: str) -> None:
    """Tick the box of the first row in which a cell says exactly this."""
    painted = page.get_by_role("region", name=table, exact=True)
    said = page.locator("td").filter(has_text=re.compile(rf"^{re.escape(cell)}$"))
    row = rows(page, table).filter(has=said).first
    for _ in range(10):
        row.wait_for(state="attached")
        at = int(row.get_attribute("aria-rowindex") or 0) - 2
        painted.click(position={"x": _BOX_PX, "y": _HEADER_PX + _ROW_PX * at + _ROW_PX / 2})
        with suppress(AssertionError):  # a grid that was just put there does not listen yet
            expect(row).to_have_attribute("aria-selected", "true", timeout=3_000)
            return
    raise AssertionError(f"The row {cell} of {table} could not be chosen")


def fact(page: Page, label: str) -> Locator:
    """The value under a small heading, as `Answered by` has one."""
    heading = page.get_by_text(label, exact=True)
    return page.get_by_test_id("stVerticalBlock").filter(has=heading).last.get_by_test_id("stText")


def answered_by(page: Page, service: str, url: str, who: str) -> None:
    """Send the prefilled request and see who answered it."""
    visit(page, url, "predict", service=service)
    press(page, "Send request")
    expect(fact(page, "Answered by")).to_have_text(who)


def verified(page: Page, release: int) -> None:
    """Wait until the roll-out panel says that this release is verified."""
    line = page.get_by_text(re.compile(rf"^Release {release}: "))
    box = page.get_by_test_id("stLayoutWrapper").filter(has=line).last
    expect(box.get_by_text("verified", exact=True)).to_be_visible(timeout=SLOW_MS)
