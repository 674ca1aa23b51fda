"""Requests from signatures and answers read back: pure rules, no server."""

from __future__ import annotations

import orjson
import pytest

from services import bench
from services.domain import ColumnSpec, Protocol, Signature, ValueKind
from services.errors import SignatureMismatch

WINE = Signature(
    (
        ColumnSpec("alcohol", ValueKind.DOUBLE),
        ColumnSpec("year", ValueKind.LONG),
        ColumnSpec("note", ValueKind.STRING, required=False),
    )
)

SAME_ROW = (
    '[{"alcohol": 12.5, "year": 2020, "note": null}]',
    '{"alcohol": 12.5, "year": 2020}',
    "[12.5, 2020, null]",
    "[[12.5, 2020, null]]",
    '{"dataframe_split": {"columns": ["year", "alcohol"], "data": [[2020, 12.5]]}}',
    '{"dataframe_records": [{"year": 2020, "alcohol": 12.5}]}',
    '{"inputs": {"year": [2020], "alcohol": [12.5]}}',
    '{"instances": [{"year": 2020, "alcohol": 12.5}]}',
    """{"inputs": [{"name": "alcohol", "shape": [1, 1], "datatype": "FP64", "data": [12.5]},
                   {"name": "year", "shape": [1], "datatype": "INT64", "data": [2020]}]}""",
    "year,alcohol,note\n2020,12.5,\n",
    "\ufeffyear,alcohol\r\n2020,12.5\r\n",
)


@pytest.mark.parametrize("text", SAME_ROW)
def test_every_way_of_writing_a_row_means_the_same_row(text: str) -> None:
    assert bench.parse_rows(text, WINE).data == ((12.5, 2020, None),)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[{"alcohol": 1, "year": 1}, {"alcohol": "1", "year": 1}]', 'Row 2, column "alcohol"'),
        ('[{"alcohol": true, "year": 1}]', "wants double and holds true"),
        ('[{"alcohol": 1}]', '"year": it is missing'),
        ('[{"alcohol": 1, "year": 1.5}]', "wants long and holds 1.5"),
        ('[{"alcohol": 1, "year": 99999999999999999999}]', "beyond the range"),
        ('[{"alcohol": null, "year": 1}]', "null; the signature wants double"),
        ('[{"alcohol": NaN, "year": 1}]', "JSON has no NaN"),
        ('[{"alcohol": 1, "year": 1, "yaer": 2}]', '"yaer": the signature does not know it'),
        ('[{"alcohol": 1, "yaer": 2}]', 'Rename "yaer" to "year"'),
        ("[" * 1_000_000, "nested more than 1,000 deep"),
        ("", "the text is empty"),
        ("alcohol,year\n1\n", "Row 1 of the CSV has 1 cells"),
        ("alcohol,year\nabc,1\n", 'the text "abc"'),
    ],
)
def test_what_does_not_fit_is_named_with_column_row_and_type(text: str, words: str) -> None:
    with pytest.raises(SignatureMismatch) as caught:
        bench.parse_rows(text, WINE)
    assert words in str(caught.value)


def test_a_request_is_one_tensor_per_column() -> None:
    request = bench.request_for_example(WINE, SAME_ROW[0], model_name="wine")

    body = orjson.loads(request.body)
    assert request.path == "/v2/models/wine/infer"
    assert [
        (one["name"], one["datatype"], one["shape"], one["data"]) for one in body["inputs"]
    ] == [
        ("alcohol", "FP64", [1], [12.5]),
        ("year", "INT64", [1], [2020]),
    ]


def test_invocations_gets_a_dataframe_split() -> None:
    rows = bench.parse_rows(SAME_ROW[0], WINE)

    request = bench.request_for(WINE, rows, model_name="wine", protocol=Protocol.INVOCATIONS)

    assert orjson.loads(request.body) == {
        "dataframe_split": {"columns": ["alcohol", "year"], "data": [[12.5, 2020]]}
    }
