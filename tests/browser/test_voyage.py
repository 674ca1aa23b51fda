"""The first voyage through the real app: browse, deploy, predict, deploy again, roll back."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import App
from tests.browser.hands import (
    answered_by,
    choose_row,
    field,
    pick,
    press,
    query,
    verified,
    visit,
)

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


def test_the_voyage_from_the_registry_to_a_roll_back(app: App, page: Page) -> None:
    visit(page, app.url)
    page.get_by_role("link", name="Models").click()
    choose_row(page, "Registered models", "wine")
    expect(page.get_by_role("heading", name="wine", exact=True)).to_be_visible()
    choose_row(page, "Versions, newest first", "1")
    press(page, "Deploy wine/1")

    expect(field(page, "Service name")).to_have_value("wine")
    press(page, "Deploy wine/1")
    verified(page, 1)

    answered_by(page, "wine", app.url, "wine/1, release 1")

    visit(page, app.url, "deploy", model="wine", version=2, service="wine")
    press(page, "Deploy wine/2")
    verified(page, 2)
    answered_by(page, "wine", app.url, "wine/2, release 2")

    visit(page, app.url, "endpoints", service="wine")
    pick(page, "Roll back")
    field(page, "Reason").fill("The new one is slower.")
    press(page, "Roll back to release 1")
    verified(page, 3)
    expect(page.get_by_text("Reason: The new one is slower.")).to_be_visible()
    assert query(page)["service"] == "wine"

    answered_by(page, "wine", app.url, "wine/1, release 3")
