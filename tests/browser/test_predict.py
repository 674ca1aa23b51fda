"""The Predict page in a real browser: rows written into a table, charts, labels, small screens."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Literal

import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.conftest import App, tab
from tests.browser.hands import SLOW_MS, pick, press, rows, still, visit
from tests.browser.seen import low_contrast

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

HEADER_PX, ROW_PX = 34, 33


def write(page: Page, table: Locator, row: int, *values: str) -> None:
    """Write values into a row of the table from its first cell on, Tab between them.

    The last one's editor stays open, as a visitor's does who presses the button next.
    """
    table.click(position={"x": 80, "y": HEADER_PX + ROW_PX * row + ROW_PX / 2})
    for at, value in enumerate(values):
        cell = table.locator(f"#glide-cell-{at + 1}-{row}")
        expect(cell).to_have_attribute("aria-selected", "true")
        page.keyboard.press("Enter")  # opens the editor, which drops keys until it is there
        editor = page.locator("#portal textarea")
        editor.fill(value)
        expect(editor).to_have_value(value)
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
    for more in ((), ("--max-p99", "5")):
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


Colour = tuple[int, int, int]


def lightness(colour: Colour) -> float:
    """Relative luminance of WCAG 2.2."""
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (value / 255 for value in colour)
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(image: Image.Image) -> float:
    """Of the two colours that are furthest apart: the ground's and that of the letters."""
    pixels = image.tobytes()
    seen = [
        lightness(pixel) for pixel in set(zip(pixels[::3], pixels[1::3], pixels[2::3], strict=True))
    ]
    return (max(seen) + 0.05) / (min(seen) + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_text_of_a_chart_stands_out_from_its_ground(
    runs: App, browser: Browser, theme: Literal["light", "dark"]
) -> None:
    with tab(browser, theme) as page:
        visit(page, runs.url, "predict", service="parcel", runs="1,2")
        drawn = page.get_by_role("img", name="Response time by percentile")
        drawn.wait_for(timeout=SLOW_MS)  # a browser that shares its core reads Plotly for long
        still(page)
        page.get_by_role("heading", name="Earlier load tests").hover()  # no toolbar over it
        image = Image.open(io.BytesIO(drawn.screenshot())).convert("RGB")
    legend = image.crop((30, 28, image.width, 52))  # beside the first run's sign
    axis = image.crop((0, 80, 16, image.height - 40))  # its name, upright
    assert min(contrast(legend), contrast(axis)) >= 4.5


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_what_is_said_of_stored_load_tests_stands_out_from_its_ground(
    runs: App, browser: Browser, theme: Literal["light", "dark"]
) -> None:
    with tab(browser, theme) as page:
        visit(page, runs.url, "predict", service="parcel", runs="1,2")
        expect(page.get_by_role("group", name="Selected values")).to_be_visible()
        still(page)
        assert low_contrast(page) == []


def test_a_phone_shows_all_of_the_page_without_scrolling_sideways(runs: App, page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{runs.url}/predict?service=parcel&runs=1,2")
    expect(page.get_by_text("Point at a chart")).to_be_visible()
    press(page, "Send request")
    expect(page.get_by_text("Answered by").first).to_be_visible()
    still(page)
    # A chart is drawn as wide as it was told last, and told once more when it is there.
    page.wait_for_function(
        "() => { const main = document.querySelector('[data-testid=stMain]');"
        " return main.scrollWidth === main.clientWidth; }"
    )
    for chart in page.get_by_role("img").all():
        box = chart.bounding_box()
        assert box is None or box["x"] + box["width"] <= 390
