"""Parquet files as rows."""

from __future__ import annotations

import base64
import io
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services import bench, tabular
from services.domain import ColumnSpec, Signature, ValueKind
from services.errors import SignatureMismatch


def parquet(table: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


def test_what_is_no_parquet_is_told_in_one_sentence() -> None:
    with pytest.raises(SignatureMismatch) as refused:
        tabular.rows_from_parquet(b"PAR1 and no more of it")
    assert refused.value.why.endswith(".")
    assert not refused.value.why.endswith("..")


def test_values_of_every_kind_become_json_values() -> None:
    table = pa.table(
        {
            "i": [1],
            "f": [0.5],
            "missing": [float("nan")],
            "b": [True],
            "s": ["é"],
            "blob": [b"\x00\xff"],
            "at": [datetime(2026, 1, 1, 12, tzinfo=UTC)],
            "day": [date(2026, 1, 1)],
            "dec": [Decimal("1.5")],
            "list": [[1, 2]],
            "object": [{"x": 1.0}],
            "map": pa.array([[("a", 1.0)]], pa.map_(pa.string(), pa.float64())),
        }
    )

    rows = tabular.rows_from_parquet(parquet(table))

    assert rows.records() == [
        {
            "i": 1,
            "f": 0.5,
            "missing": None,
            "b": True,
            "s": "é",
            "blob": base64.b64encode(b"\x00\xff").decode(),
            "at": "2026-01-01T12:00:00+00:00",
            "day": "2026-01-01",
            "dec": 1.5,
            "list": [1, 2],
            "object": {"x": 1.0},
            "map": {"a": 1.0},
        }
    ]


def test_the_index_that_pandas_adds_is_no_column() -> None:
    out = io.BytesIO()
    pd.DataFrame({"x": [1.0, 2.0]}, index=[5, 9]).to_parquet(out)
    signature = Signature((ColumnSpec("x", ValueKind.DOUBLE),))

    rows = bench.check_rows(tabular.rows_from_parquet(out.getvalue()), signature)

    assert rows.data == ((1.0,), (2.0,))


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"PAR1" + b"\xff" * 100 + b"PAR1", b"a,b\n1,2\n"]
)
def test_a_file_that_is_no_parquet_is_refused_in_words(content: bytes) -> None:
    with pytest.raises(SignatureMismatch, match="no parquet"):
        tabular.rows_from_parquet(content)


def test_a_small_file_that_grows_is_refused() -> None:
    table = pa.table({"s": pa.array(["x" * 100_000] * 4_000)})
    small = parquet(table)

    assert len(small) < 1_000_000
    with pytest.raises(SignatureMismatch, match="more than"):
        tabular.rows_from_parquet(small)
