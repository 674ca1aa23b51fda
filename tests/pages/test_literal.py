"""Promise 25: names and texts of others are data; a page shows them as they are, on one line."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboard import widgets
from tests.memory import World
from tests.pages.conftest import OpenPage, rows_of, words_of

HOSTILE = [
    "![x](http://evil.example/pixel.png)",
    "<script>alert(1)</script>",
    "[click](javascript:alert(1))",
    ":red[gone] $\\frac{1}{2}$ `code` **bold**",
    "{{ 7 * 7 }} ${{ secrets.TOKEN }}",
    "line\nbreak\ttab\x00nul",
    "\u202egnp.exe",
    "'; DROP TABLE models; --",
    "& *anchor: !!python/object",
    "x" * 10_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_model_is_drawn_literally(text: str, world: World, open_page: OpenPage) -> None:
    name = text.replace("/", "").replace(":", "")  # MLflow refuses these two in a name
    world.registry.add(name, aliases=("champion",))
    known = world.registry.by_model[name][1]
    world.registry.by_model[name][1] = replace(
        known, tags={text: text}, description=text, author=text, params={text: text}
    )
    app = open_page("models", model=name, version=1)
    assert not app.exception
    assert len(rows_of(app)) == 1
    for element in [*app.markdown, *app.caption, *app.error, *app.warning, *app.info]:
        assert "![x](" not in element.value
        assert "<script>" not in element.value
        assert "](javascript" not in element.value
    assert not any("\n" in row["tags"] for row in rows_of(app, 1))


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_reason_is_drawn_literally(text: str, world: World, open_page: OpenPage) -> None:
    world.serves("wine", [1])
    release = world.journal.by_service["wine"][0]
    world.journal.by_service["wine"][0] = replace(release, reason=text, actor=text)
    app = open_page("endpoints", service="wine")
    assert not app.exception
    assert "![x](" not in "\n".join(element.value for element in app.markdown)


@pytest.mark.parametrize("page", ["models", "deploy", "endpoints", "activity"])
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_link_opens_the_page(
    page: str, text: str, world: World, open_page: OpenPage
) -> None:
    world.serves("wine", [1])
    app = open_page(page, model=text, version=text, service=text, do=text, to=text, target=text)
    assert not app.exception
    assert "![x](" not in words_of(app)


@given(st.text(max_size=200))
def test_every_sign_of_markdown_is_escaped(text: str) -> None:
    escaped = widgets.literal(text)
    assert "\n" not in escaped
    bare = escaped.replace("\\\\", "")
    for at, sign in enumerate(bare):
        if sign in "`*_[]<>#$~|":
            assert bare[at - 1] == "\\"
