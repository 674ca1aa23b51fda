"""Requests from signatures and answers read back: pure rules, no server."""

from __future__ import annotations

import json
import math
import pickle
import re
from contextlib import suppress
from datetime import datetime

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services import bench
from services.domain import (
    ANY,
    ColumnSpec,
    Output,
    ParamSpec,
    Prediction,
    Protocol,
    Signature,
    TensorSpec,
    Timing,
    ValueKind,
    WayIn,
)
from services.errors import InferenceFailed, SignatureMismatch

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
        ("alcohol;year\n1;2020\n", "parted by semicolons"),
        ("[]", "There are no rows."),
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


# ── What is told of rows that do not fit ──────────────────────────────────────────────────────


def refusal_of(text: str, signature: Signature = WINE) -> SignatureMismatch:
    with pytest.raises(SignatureMismatch) as refused:
        bench.parse_rows(text, signature)
    return refused.value


def test_a_value_that_only_some_records_lack_is_missing_and_not_null() -> None:
    error = refusal_of('[{"alcohol": 1.5, "year": 2020}, {"alcohol": 1.5}]')
    assert error.why == 'Row 2, column "year": it is missing; the signature wants long.'


def test_a_null_that_was_written_is_told_as_null() -> None:
    error = refusal_of('[{"alcohol": 1.5, "year": null}]')
    assert error.why == 'Row 1, column "year": it is null; the signature wants long.'


def test_an_optional_value_that_only_some_records_lack_is_null() -> None:
    signature = Signature((*WINE.inputs, ColumnSpec("note", ValueKind.STRING, required=False)))
    text = '[{"alcohol": 1, "year": 1, "note": "dry"}, {"alcohol": 1, "year": 1}]'
    assert [row[2] for row in bench.parse_rows(text, signature).data] == ["dry", None]


@pytest.mark.parametrize("text", ["alcohol,year", "alcohol,year\n"])
def test_a_header_without_rows_is_told_as_such(text: str) -> None:
    assert refusal_of(text).why == "The CSV has no rows below its header line."


def test_one_columns_name_alone_is_a_header_without_rows() -> None:
    assert "no rows below its header" in refusal_of("x", one_column(ValueKind.LONG)).why


def test_each_misfit_is_told_with_column_row_and_type() -> None:
    error = refusal_of("alcohol,year\nstrong,2020\n12.5,old\n")
    assert error.why.endswith("(1 more does not fit.)")
    assert [problem["told"] for problem in error.problems] == [
        'Row 1, column "alcohol": it wants double and holds the text "strong".',
        'Row 2, column "year": it wants long and holds the text "old".',
    ]
    assert [(problem["column"], problem["row"]) for problem in error.problems] == [
        ("alcohol", 1),
        ("year", 2),
    ]


def test_of_many_misfits_ten_are_told_and_all_are_counted() -> None:
    error = refusal_of("alcohol,year\n" + "1.5,x\n" * 40)
    assert len(error.problems) == 10
    assert error.why.endswith("(39 more do not fit.)")


def test_a_refusal_crosses_processes_with_its_problems() -> None:
    error = refusal_of("alcohol,year\nstrong,2020\n")
    assert pickle.loads(pickle.dumps(error)).problems == error.problems


# ── Values ────────────────────────────────────────────────────────────────────────────────────


def one_column(kind: ValueKind, *, required: bool = True, spec_json: str = "") -> Signature:
    return Signature((ColumnSpec("x", kind, required, spec_json),))


@pytest.mark.parametrize(
    ("kind", "written", "kept"),
    [
        (ValueKind.DOUBLE, 5, 5.0),
        (ValueKind.LONG, 5.0, 5),
        (ValueKind.LONG, 2**63 - 1, 2**63 - 1),
        (ValueKind.INTEGER, -(2**31), -(2**31)),
        (ValueKind.BOOLEAN, False, False),
        (ValueKind.STRING, "", ""),
        (ValueKind.DATETIME, "2026-01-31", "2026-01-31T00:00:00"),
        (ValueKind.DATETIME, "2026-01-31T12:00:00+02:00", "2026-01-31T10:00:00"),
        (ValueKind.DATETIME, "2026-01-31T12:00:00Z", "2026-01-31T12:00:00"),
        (ValueKind.BINARY, "data:image/png;base64,AAEC", "AAEC"),
        (ValueKind.BINARY, "AA\nEC", "AAEC"),
    ],
)
def test_only_what_loses_nothing_is_coerced(kind: ValueKind, written: object, kept: object) -> None:
    assert bench.check_rows(bench.Rows(data=((written,),)), one_column(kind)).data == ((kept,),)


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        (ValueKind.DOUBLE, True),
        (ValueKind.DOUBLE, math.inf),
        (ValueKind.DOUBLE, 10**400),
        (ValueKind.FLOAT, 1e39),
        (ValueKind.LONG, True),
        (ValueKind.LONG, 2**63),
        (ValueKind.LONG, 1e17),
        (ValueKind.INTEGER, 2**31),
        (ValueKind.BOOLEAN, 1),
        (ValueKind.STRING, 5),
        (ValueKind.STRING, "\ud800"),
        (ValueKind.DATETIME, 1700000000),
        (ValueKind.DATETIME, "yesterday"),
        (ValueKind.DATETIME, "9999-01-01"),
        (ValueKind.BINARY, "not base64!"),
        (ValueKind.BINARY, "é"),
        (ValueKind.ARRAY, "[1]"),
        (ValueKind.OBJECT, [1]),
        (ValueKind.MAP, 3),
    ],
)
def test_what_would_lose_or_change_a_value_is_refused(kind: ValueKind, written: object) -> None:
    with pytest.raises(SignatureMismatch, match=rf'Row 1, column "x": it wants {kind}|holds half'):
        bench.check_rows(bench.Rows(data=((written,),)), one_column(kind))


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (ValueKind.LONG, " 5 ", 5),
        (ValueKind.DOUBLE, "1e3", 1000.0),
        (ValueKind.BOOLEAN, "TRUE", True),
        (ValueKind.BOOLEAN, "0", False),
        (ValueKind.STRING, "5", "5"),
        (ValueKind.ARRAY, "[1, 2]", [1, 2]),
        (ValueKind.ANY, "plain", "plain"),
    ],
)
def test_text_of_a_csv_stands_for_the_columns_type(
    kind: ValueKind, text: str, value: object
) -> None:
    rows = bench.Rows(("x",), ((text,),), typed=False)

    assert bench.check_rows(rows, one_column(kind)).data == ((value,),)


@pytest.mark.parametrize("text", ["1_000", "٣", "5.5", "five", "true"])
def test_text_that_is_no_plain_whole_number_is_refused(text: str) -> None:
    with pytest.raises(SignatureMismatch, match="wants long"):
        bench.check_rows(bench.Rows(("x",), ((text,),), typed=False), one_column(ValueKind.LONG))


POINTS = """{"type": "array", "items": {"type": "object", "properties":
    {"x": {"type": "double"}, "label": {"type": "string", "required": false}}}}"""


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([{"x": "1"}], 'in item 1, in property "x", it wants double and holds the text "1"'),
        ([{"x": 1}, {}], 'in item 2, its property "x" (double) is missing'),
        ([{"x": 1, "y": 2}], 'its property "y" is not in the signature'),
        ([1], "in item 1, it wants object and holds 1"),
        ({"x": 1}, "it wants array and holds an object"),
    ],
)
def test_a_nested_value_is_named_down_to_its_place(value: object, words: str) -> None:
    signature = one_column(ValueKind.ARRAY, spec_json=POINTS)

    with pytest.raises(SignatureMismatch, match=re.escape(words)):
        bench.check_rows(bench.Rows(data=((value,),)), signature)


def test_every_problem_is_listed_for_a_form_to_mark() -> None:
    rows = bench.Rows(("alcohol", "year"), (("a", "b"), ("1", "2.5")), typed=False)

    assert [(one.column, one.row) for one in bench.problems_of(rows, WINE)] == [
        ("alcohol", 1),
        ("year", 1),
        ("year", 2),
    ]


def test_a_hostile_column_name_cannot_forge_a_line() -> None:
    with pytest.raises(SignatureMismatch) as caught:
        bench.parse_rows(orjson.dumps([{"a\n\x1b[31m\u202e" * 1000: 1}]), WINE)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


# ── Tensors and parameters ────────────────────────────────────────────────────────────────────

PAIRS = Signature((TensorSpec("", "float32", (-1, 2)),))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([[1, 2], [3]], "different lengths at depth 2"),
        ([[1, 2, 3]], "wants shape (n, 2) and has (1, 3)"),
        ([1, 2], "wants shape (n, 2) and has (2)"),
        ([[1, [2]]], "mixes lists and values"),
        ([[1, "2"]], 'at row 1, 2 it wants float32 and holds the text "2"'),
        ([[1, None]], "at row 1, 2 it wants float32 and holds null"),
        ([[1, 1e39]], "float32 cannot carry"),
        ([[1, True]], "holds true"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named_down_to_its_place(value: object, words: str) -> None:
    with pytest.raises(SignatureMismatch, match=re.escape(words)):
        bench.parse_rows(orjson.dumps({"inputs": value}), PAIRS)


@pytest.mark.parametrize("text", ["[[1, 2]]", "a,b\n1,2\n", '{"instances": [[1, 2]]}'])
def test_every_way_of_writing_a_matrix_means_the_same_tensor(text: str) -> None:
    assert bench.parse_rows(text, PAIRS).tensors == {"": [[1.0, 2.0]]}


def test_instances_of_named_tensors_are_stacked() -> None:
    signature = Signature((TensorSpec("a", "int8", (-1, 2)), TensorSpec("b", "str", (-1,))))
    text = '{"instances": [{"a": [1, 2], "b": "x"}, {"a": [3, 4], "b": "y"}]}'

    assert bench.parse_rows(text, signature).tensors == {"a": [[1, 2], [3, 4]], "b": ["x", "y"]}


TUNED = Signature(
    (ColumnSpec("d", ValueKind.DOUBLE),),
    params=(
        ParamSpec("count", ValueKind.LONG, "3"),
        ParamSpec("stops", ValueKind.STRING, '["a"]', (-1,)),
    ),
)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"cuont": 1}, "no such parameter"),
        ({"count": 1.5}, "wants long and holds 1.5"),
        ({"stops": "a"}, "wants array"),
        ({"stops": [1]}, "in item 1, it wants string"),
        ({"count": None}, "is null"),
        ([], "no object"),
    ],
)
def test_a_parameter_that_does_not_fit_is_named(params: object, words: str) -> None:
    if not params:
        params = [1]
    with pytest.raises(SignatureMismatch, match=words):
        bench.parse_rows(orjson.dumps({"inputs": [[1]], "params": params}), TUNED)


def test_v2_carries_parameters_beside_its_own() -> None:
    rows = bench.parse_rows('{"inputs": [[1]], "params": {"count": 5}}', TUNED)

    request = bench.request_for(TUNED, rows, model_name="m", protocol=Protocol.V2)

    assert orjson.loads(request.body)["parameters"] == {"content_type": "pd", "count": 5}


def test_a_parameter_of_a_name_that_v2_keeps_is_sent_to_invocations() -> None:
    signature = Signature(TUNED.inputs, params=(ParamSpec("headers", ValueKind.STRING, '""'),))
    rows = bench.Rows(data=((1.0,),), params={"headers": "x"})

    with pytest.raises(SignatureMismatch, match="/invocations"):
        bench.request_for(signature, rows, model_name="m", protocol=Protocol.V2)
    assert bench.request_for(signature, rows, model_name="m", protocol=Protocol.INVOCATIONS).body


def test_v1_refuses_what_it_has_no_place_for() -> None:
    rows = bench.parse_rows('{"inputs": [[1]], "params": {"count": 5}}', TUNED)

    with pytest.raises(SignatureMismatch, match="V1 requests have no place"):
        bench.request_for(TUNED, rows, model_name="m", protocol=Protocol.V1)


def test_v1_writes_instances() -> None:
    rows = bench.parse_rows(SAME_ROW[0], WINE)

    request = bench.request_for(WINE, rows, model_name="wine", protocol=Protocol.V1)

    assert request.path == "/v1/models/wine:predict"
    assert orjson.loads(request.body) == {"instances": [{"alcohol": 12.5, "year": 2020}]}


def test_a_model_name_is_one_segment_of_the_path() -> None:
    request = bench.request_for(
        None, bench.Rows(("a",), ((1,),)), model_name="../a b/ü?#", protocol=Protocol.V2, version=3
    )

    assert request.path == "/v2/models/..%2Fa%20b%2F%C3%BC%3F%23/versions/3/infer"


# ── Forms ─────────────────────────────────────────────────────────────────────────────────────


def test_a_form_is_prefilled_from_the_example_and_gives_it_back() -> None:
    example = '{"inputs": [[1.5]], "params": {"count": 5}}'
    fields = bench.form_fields(TUNED, example)

    rows = bench.rows_from_form(TUNED, {field.key: field.text for field in fields})

    assert [(field.key, field.text) for field in fields] == [
        ("input.d", "1.5"),
        ("param.count", "5"),
        ("param.stops", '["a"]'),
    ]
    assert (rows.data, rows.params) == (((1.5,),), {"count": 5, "stops": ["a"]})


def test_a_form_without_an_example_starts_from_something_that_fits() -> None:
    signature = Signature(tuple(ColumnSpec(kind, kind) for kind in ValueKind))
    values = {field.key: field.text for field in bench.form_fields(signature)}
    values["input.datetime"] = "2026-01-01"

    assert bench.rows_from_form(signature, values).count == 1


def test_a_form_of_tensors_starts_from_zeros_of_the_right_shape() -> None:
    values = {field.key: field.text for field in bench.form_fields(PAIRS)}

    assert bench.rows_from_form(PAIRS, values).tensors == {"": [[0.0, 0.0]]}


def test_an_example_may_hold_columns_that_the_signature_does_not_know() -> None:
    # MLflow predicts with it: extra columns are ignored with a warning.
    rows = bench.example_rows(WINE, '[{"alcohol": 1, "year": 2, "extra": 3}]')

    assert rows.data == ((1.0, 2, None),)


def test_a_version_without_an_example_says_so() -> None:
    with pytest.raises(SignatureMismatch, match="no input example"):
        bench.request_for_example(WINE, None, model_name="wine")


# ── Answers ───────────────────────────────────────────────────────────────────────────────────


def answered(*outputs: Output) -> Prediction:
    timing = Timing(0.0, 0.0, 0.0)
    return Prediction(outputs, 200, timing, "", WayIn.LOOPBACK, Protocol.V2, b"")


def output(*values: object) -> Output:
    return Output("output-1", "FP64", (len(values),), values)


@pytest.mark.parametrize(
    ("protocol", "body", "values"),
    [
        (
            Protocol.V2,
            {"outputs": [{"name": "o", "shape": [2, 1], "datatype": "INT64", "data": [1, 2]}]},
            [(1, 2)],
        ),
        (
            Protocol.V2,
            {"outputs": [{"name": "o", "shape": [2, 2], "datatype": "FP64", "data": [1, 2, 3, 4]}]},
            [([1, 2], [3, 4])],
        ),
        (
            Protocol.V2,
            {
                "outputs": [
                    {"shape": [1], "parameters": {"content_type": "pd_json"}, "data": ["{}"]}
                ]
            },
            [({},)],
        ),
        (Protocol.INVOCATIONS, {"predictions": [1, 2]}, [(1, 2)]),
        (Protocol.INVOCATIONS, {"predictions": [{"a": 1, "b": 2}, {"a": 3}]}, [(1, 3), (2, None)]),
        (Protocol.V1, {"predictions": {"a": [1, 2], "b": [3, 4]}}, [(1, 2), (3, 4)]),
        (Protocol.INVOCATIONS, {"predictions": "text"}, [("text",)]),
        (Protocol.INVOCATIONS, {"predictions": []}, [()]),
    ],
)
def test_outputs_are_read_rows_first(
    protocol: Protocol, body: object, values: list[tuple[object, ...]]
) -> None:
    assert [one.values for one in bench.outputs_of(protocol, orjson.dumps(body))] == values


def test_numbers_that_json_does_not_have_are_read_as_they_are_written() -> None:
    body = b'{"predictions": [NaN, Infinity, -Infinity, 1.5]}'
    (found,) = bench.outputs_of(Protocol.INVOCATIONS, body)
    assert found.values == ("NaN", "Infinity", "-Infinity", 1.5)


@pytest.mark.parametrize("body", [b"NaN of a page", b'{"outputs": NaN', b"[" * 5_000 + b"NaN"])
def test_a_body_that_names_no_number_is_not_json_for_it(body: bytes) -> None:
    with pytest.raises(InferenceFailed, match="no prediction"):
        bench.outputs_of(Protocol.V2, body)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b"null", b'{"outputs": 1}', b'{"outputs": [{"shape": [2], "data": [1]}]}'],
)
def test_an_answer_that_is_no_prediction_is_refused(body: bytes) -> None:
    with pytest.raises(InferenceFailed, match="no prediction"):
        bench.outputs_of(Protocol.V2, body)


@pytest.mark.parametrize(
    ("left", "right", "fields"),
    [
        (output(1.0, 2.0), output(1.0, 2.0), []),
        (output(1.0, 2.0), output(1.0, 2.5), ["output 1, row 2"]),
        (output(1.0), output(1.0 + 1e-12), []),
        (output("a"), output("b"), ["output 1, row 1"]),
        (output(1), output(True), ["output 1, row 1"]),
        (output([1.0, 2.0]), output([1.0, 3.0]), ["output 1, row 1"]),
        (output(1.0), output(1.0, 2.0), ["output 1"]),
    ],
)
def test_answers_differ_where_their_rows_do(left: Output, right: Output, fields: list[str]) -> None:
    found = bench.compare_outputs(answered(left), answered(right))

    assert [one.field for one in found] == fields


# ── Properties ────────────────────────────────────────────────────────────────────────────────

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
ANY_SIGNATURE = st.lists(
    st.tuples(st.text(min_size=1, max_size=8), st.sampled_from(ValueKind), st.booleans()),
    min_size=1,
    max_size=5,
    unique_by=lambda one: one[0],
).map(lambda specs: Signature(tuple(ColumnSpec(*spec) for spec in specs)))


@given(value=ANY_JSON, signature=ANY_SIGNATURE | st.just(PAIRS) | st.just(TUNED))
def test_any_text_either_fits_or_is_refused_in_words(value: object, signature: Signature) -> None:
    refusal: SignatureMismatch | None = None
    try:
        rows = bench.parse_rows(json.dumps(value), signature)
        for protocol in Protocol:
            request = bench.request_for(signature, rows, model_name="m", protocol=protocol)
            orjson.loads(request.body)
    except SignatureMismatch as error:
        refusal = error

    assert refusal is None or (refusal.fix and str(refusal).isprintable())


V2_INPUT = st.fixed_dictionaries(
    {
        "name": ANY_JSON | st.sampled_from(["alcohol", "year", "input-0"]),
        "shape": ANY_JSON | st.lists(st.integers(-2, 3), max_size=3),
        "data": ANY_JSON | st.lists(st.integers(), max_size=4),
    },
    optional={"parameters": ANY_JSON | st.just({"content_type": "pd_json"})},
)


@given(inputs=st.lists(V2_INPUT, max_size=3), parameters=ANY_JSON)
def test_any_v2_request_either_fits_or_is_refused_in_words(
    inputs: object, parameters: object
) -> None:
    text = json.dumps({"inputs": inputs, "parameters": parameters})
    for signature in (None, WINE, PAIRS, TUNED):
        with suppress(SignatureMismatch):
            bench.parse_rows(text, signature)


def test_records_that_each_have_a_name_of_their_own_are_refused() -> None:
    records = [{f"c{at}": 1} for at in range(10_000)]

    with pytest.raises(SignatureMismatch, match="More than"):
        bench.parse_rows(orjson.dumps(records), None)


def test_a_thousand_misspelt_columns_are_refused_with_a_hint() -> None:
    signature = Signature(
        tuple(ColumnSpec(f"column_{at}" * 20, ValueKind.DOUBLE) for at in range(1000))
    )
    row = {f"Column_{at}" * 20: 1 for at in range(1000)}

    with pytest.raises(SignatureMismatch, match="Rename"):
        bench.parse_rows(orjson.dumps(row), signature)


@given(text=st.text(max_size=200) | st.binary(max_size=200))
def test_any_bytes_either_are_rows_or_are_refused_in_words(text: str | bytes) -> None:
    for signature in (None, WINE, PAIRS):
        with suppress(SignatureMismatch):
            bench.parse_rows(text, signature)


MANY_KINDS = Signature(
    (
        ColumnSpec("d", ValueKind.DOUBLE),
        ColumnSpec("l", ValueKind.LONG),
        ColumnSpec("b", ValueKind.BOOLEAN),
        ColumnSpec("s", ValueKind.STRING, required=False),
        ColumnSpec("t", ValueKind.DATETIME),
        ColumnSpec("a", ValueKind.ARRAY, True, '{"type":"array","items":{"type":"double"}}'),
    )
)
ONE_ROW = st.tuples(
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(2**63), 2**63 - 1),
    st.booleans(),
    st.none() | st.text(st.characters(exclude_categories=["Cs"])),
    st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1)).map(  # noqa: DTZ001 — as MLflow's
        lambda moment: moment.isoformat(timespec="microseconds")
    ),
    st.lists(st.floats(-1e9, 1e9), max_size=3),
)


@given(rows=st.lists(ONE_ROW, min_size=1, max_size=4))
@pytest.mark.parametrize("protocol", list(Protocol))
def test_a_request_reads_back_as_the_rows_that_it_was_made_from(
    protocol: Protocol, rows: list[tuple[object, ...]]
) -> None:
    written = bench.check_rows(bench.Rows(data=tuple(rows)), MANY_KINDS)

    request = bench.request_for(MANY_KINDS, written, model_name="m", protocol=protocol)
    read = bench.parse_rows(request.body, MANY_KINDS)

    def times_as_read(rows: bench.Rows) -> list[list[object]]:
        return [
            [datetime.fromisoformat(str(one)) if at == 4 else one for at, one in enumerate(row)]
            for row in rows.data
        ]

    assert times_as_read(read) == times_as_read(written)


@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_a_tensors_shape_always_holds_its_data(shape: list[int]) -> None:
    signature = Signature((TensorSpec("t", "float64", (ANY,) * len(shape)),))
    rows = bench.Rows(tensors={"t": np.ones(shape).tolist()})

    body = bench.request_for(signature, rows, model_name="m", protocol=Protocol.V2).body

    tensor = orjson.loads(body)["inputs"][0]
    assert tensor["shape"] == shape
    assert math.prod(shape) == len(tensor["data"])


@given(
    rows=st.lists(
        st.tuples(
            st.floats(allow_nan=False, allow_infinity=False),
            st.integers(-9, 9),
            st.none() | st.text(),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_checked_rows_stay_as_they_are(rows: list[tuple[object, ...]]) -> None:
    try:
        once = bench.check_rows(bench.Rows(data=tuple(rows)), WINE)
    except SignatureMismatch:
        return

    assert bench.check_rows(once, WINE) == once


@pytest.mark.parametrize(
    ("via", "warned"),
    [
        (WayIn.INGRESS, False),
        (WayIn.LOOPBACK, False),
        (WayIn.SERVICE_PROXY, True),
        (WayIn.PORT_FORWARD, True),
    ],
)
def test_a_way_in_through_the_api_server_is_warned_of(via: WayIn, warned: bool) -> None:
    warning = bench.way_warning(via)
    assert (str(via) in warning) is warned


@pytest.mark.parametrize(
    "told",
    [
        None,
        [],
        "text",
        {},
        {"inputs": None},
        {"inputs": [1]},
        {"inputs": [{"name": "x", "datatype": "FP99", "shape": [-1]}]},
        {"inputs": [{"name": "x", "datatype": "FP64", "shape": "wide"}]},
        {"inputs": [{"name": "x", "datatype": "FP64", "shape": [-1]}, {"name": "y"}]},
        {"inputs": [{"name": "x"}], "parameters": {"content_type": "pd"}},
    ],
)
def test_metadata_that_tells_no_whole_signature_is_none(told: object) -> None:
    assert bench.signature_told(told) is None
