"""The Predict page in a real browser: rows written into a table, charts, labels, small screens."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import App
from tests.browser.hands import pick, press, rows, still, visit

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

HEADER_PX, ROW_PX = 34, 33
TYPED_MS = 60
"""Between two keys: the table opens its editor at the first one, and drops what comes before."""


def write(page: Page, table: Locator, row: int, *values: str) -> None:
    """Write values into a row of the table from its first cell on, Tab between them.

    The last one's editor stays open, as a visitor's does who presses the button next.
    """
    table.click(position={"x": 80, "y": HEADER_PX + ROW_PX * row + ROW_PX / 2})
    for at, value in enumerate(values):
        cell = table.locator(f"#glide-cell-{at + 1}-{row}")
        expect(cell).to_have_attribute("aria-selected", "true")
        page.keyboard.type(value, delay=TYPED_MS)
        expect(page.locator("#portal textarea")).to_have_value(value)
        if at < len(values) - 1:
            page.keyboard.press("Tab")
            expect(cell).to_have_text(value)


def test_rows_written_into_a_table_are_answered_each(
    services: App, page: Page, tmp_path: Path
) -> None:
    visit(page, services.url, "predict", service="parcel")
    pick(page, "Table of rows")
    table = page.get_by_role("region", name="Rows of the request")
    expect(rows(page, "Rows of the request")).to_have_count(1)
    still(page)
    write(page, table, 0, "12.5", "100", "false")
    press(page, "Add row: Rows of the request")
    expect(rows(page, "Rows of the request")).to_have_count(2)
    write(page, table, 1, "1", "20", "true")
    press(page, "Send request")
    expect(page.get_by_text("Answered by").first).to_be_visible()

    file = tmp_path / "rows.csv"
    file.write_text("weight_kg,distance_km,express\n12.5,100,false\n1,20,true\n")
    told = services.slipway("predict", "parcel", "--input", str(file))["outputs"][0]["values"]
    assert len(set(told)) == 2
    answers = rows(page, "Outputs of the prediction")
    expect(answers).to_have_count(2)
    shown = [each.locator("td").all_inner_texts() for each in answers.all()]
    assert [(row, float(price)) for row, price in shown] == [("1", told[0]), ("2", told[1])]


@pytest.fixture(scope="module")
def runs(services: App) -> App:
    """Two stored load tests of `parcel`, the second one held to an objective."""
    for more in ((), ("--slo-p99-ms", "5000")):
        services.slipway(
            "bench", "parcel", "--rate", "40", "--duration", "6", "--warm-up", "0", "--save", *more
        )
    return services


def test_a_chart_is_saved_as_a_png_by_the_button_that_pointing_at_it_shows(
    runs: App, page: Page, tmp_path: Path
) -> None:
    visit(page, runs.url, "predict", service="parcel")
    expect(page.get_by_text("Point at a chart")).to_be_visible()
    chart = page.get_by_role("img", name="Spread of response times")
    save = page.get_by_role("button", name="Download as PNG: Spread of response times")
    still(page)
    chart.hover()
    toolbar = page.get_by_test_id("stElementToolbar").filter(has=save)
    expect(toolbar).to_have_css("opacity", "1")
    with page.expect_download() as arriving:
        save.click()
    assert arriving.value.suggested_filename.endswith(".png")
    file = tmp_path / "chart.png"
    arriving.value.save_as(file)
    drawn = chart.bounding_box()
    assert drawn is not None
    with Image.open(file) as image:
        assert image.format == "PNG"
        # Twice as fine as on the screen, so that it can be printed.
        assert image.width == pytest.approx(2 * drawn["width"], abs=4)
        assert image.height == pytest.approx(2 * drawn["height"], abs=4)
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 24) or ()}
    assert (255, 255, 255) in colours  # its own ground, not whatever lies below it
    assert (0, 0x72, 0xB2) in colours  # the run's outline
