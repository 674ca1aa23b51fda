"""References and names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.domain import (
    AliasRef,
    VersionRef,
    parse_ref,
    proposed_service_name,
    service_name_problem,
)
from services.errors import NotFound, one_line

names = st.text(min_size=1, max_size=40).filter(
    lambda text: not set(text) & {"/", ":"} and text.isprintable() and not text.startswith("models")
)


@given(names, st.integers(1, 10**6))
def test_a_version_is_read_back_as_it_is_written(model: str, number: int) -> None:
    ref = VersionRef(model, number)
    assert parse_ref(str(ref)) == ref


@given(names, st.from_regex(r"[a-z][a-z0-9_-]{0,20}", fullmatch=True))
def test_an_alias_is_read_back_as_it_is_written(model: str, alias: str) -> None:
    ref = AliasRef(model, alias)
    read = parse_ref(str(ref))
    assert str(read) == str(ref)


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("models:/wine/3", VersionRef("wine", 3)),
        ("wine@latest", AliasRef("wine", "latest")),
        ("wine/latest", AliasRef("wine", "latest")),
        ("models:/wine@champion", AliasRef("wine", "champion")),
    ],
)
def test_the_usual_ways_of_writing_a_version_are_read(
    text: str, ref: VersionRef | AliasRef
) -> None:
    assert parse_ref(text) == ref


@pytest.mark.parametrize("text", ["", "wine", "wine/", "wine/x", "wine/1\n", "a/b/1", "wine@"])
def test_what_names_no_version_says_how_to_write_one(text: str) -> None:
    with pytest.raises(NotFound, match="NAME/NUMBER"):
        parse_ref(text)


@given(st.text(max_size=200))
def test_the_proposed_service_name_is_always_valid(model: str) -> None:
    assert service_name_problem(proposed_service_name(model)) == ""


@given(st.text(max_size=2000))
def test_foreign_text_becomes_one_printable_line(text: str) -> None:
    line = one_line(text)
    assert len(line) <= 256
    assert line.isprintable()
