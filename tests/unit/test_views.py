"""Display rows: pure functions of domain values."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboard import views

AT = datetime(2026, 5, 4, 12, 30, 15, 250_000, tzinfo=UTC)


def test_times_are_iso_in_utc() -> None:
    tokyo = AT.astimezone(timezone(timedelta(hours=9)))

    assert views.time_text(tokyo) == "2026-05-04T12:30:15.250Z"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.00085, "850 µs"), (0.0123, "12.3 ms"), (4.21, "4.2 s"), (100, "1 min 40 s"), (None, "–")],
)
def test_durations_read_well(seconds: float | None, text: str) -> None:
    assert views.seconds_text(seconds) == text


@pytest.mark.parametrize(
    ("age_s", "text"), [(0, "0 s"), (90, "1 min"), (7_200, "2 h"), (900_000, "10 d")]
)
def test_ages_read_well(age_s: float, text: str) -> None:
    assert views.age_text(AT, AT + timedelta(seconds=age_s)) == text


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
)


@given(_VALUES)
def test_any_document_is_one_json_value_in_ascii(value: object) -> None:
    text = views.document_text(value)

    json.loads(text)
    assert text.isascii()
