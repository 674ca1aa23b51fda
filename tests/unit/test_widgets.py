"""What the pages' shared pieces decide without a browser."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from dashboard import widgets, wiring


def test_a_page_that_only_waits_for_newer_answers_draws_itself_again_once() -> None:
    assert widgets.may_wake(0, missing=False)
    assert not widgets.may_wake(1, missing=False)


def test_a_page_that_misses_something_draws_itself_again_but_not_for_ever() -> None:
    assert widgets.may_wake(5, missing=True)
    assert not widgets.may_wake(100, missing=True)


def test_code_that_changes_after_the_start_has_another_stamp(tmp_path: Path) -> None:
    file = tmp_path / "deeper" / "module.py"
    file.parent.mkdir()
    file.write_text("")
    before = wiring.code_stamp([tmp_path])
    os.utime(file, ns=(before + 10**9, before + 10**9))
    assert wiring.code_stamp([tmp_path]) > before


def test_a_plain_label_is_read_out_as_it_is_written() -> None:
    for text in (
        "weight_kg (optional)", "od280/od315", "p99.9", "maybe (parameter)", "od[0]", "a*b",
        "< 5 $", "income>50K", "-1 day", "#rows", "up to: 12:30", "ana@iris", "a & b", "C:\\",
    ):  # fmt: skip
        assert widgets.plain_label(text) == text


def test_a_plain_label_is_no_markup() -> None:
    assert widgets.plain_label("[a](b) _c_ *d* `e` :red[f] <g>") == (
        r"\[a\](b) \_c\_ \*d\* \`e\` \:red\[f\] \<g>"
    )


@given(st.text("ab1 *_`[]()<>&;#-+.!|~$:@\\=^/", max_size=30))
@example("1) a")
@example("- a")
@example("[a]: b")
@example("&amp; &#42;")
@example("\\* a \\")
def test_what_markdown_reads_in_a_plain_label_is_its_text(text: str) -> None:
    read = MarkdownIt("commonmark").enable("strikethrough").parse(widgets.plain_label(text))
    kinds = {token.type for token in read}
    assert kinds <= {"paragraph_open", "inline", "paragraph_close"}
    inner = [token for block in read for token in block.children or ()]
    assert {token.type for token in inner} <= {"text", "text_special"}
    said = "".join(token.content for token in inner).replace("\u2060", "")
    assert said.split() == text.split()
