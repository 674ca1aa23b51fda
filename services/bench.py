"""Requests from signatures, and answers read back: pure rules on plain data, no I/O, no clock.

Text becomes `Rows` (`parse_rows`, `rows_from_form`), rows are held against the signature
(`check_rows`, `problems_of`), and only rows that fit become an encoded request (`request_for`).
The way back is `outputs_of` and `compare_outputs`. `as_curl` and `as_python` show a request in a
form that runs as pasted. Sending is predictor.py's part, load tests are engine.py's.

The V2 encoding was read against MLServer 1.7.1 and mlserver-mlflow 1.7.1 and is checked on a real
MLServer for every kind of column, tensor and parameter (tests/local/test_predict_mlserver.py).
"""

from __future__ import annotations

import base64
import binascii
import csv
import difflib
import io
import itertools
import math
import pprint
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from typing import Literal
from urllib.parse import quote

import orjson

from services.domain import (
    ANY,
    ColumnSpec,
    Difference,
    Endpoint,
    InferRequest,
    Json,
    Output,
    ParamSpec,
    Prediction,
    Protocol,
    Signature,
    TensorSpec,
    ValueKind,
)
from services.errors import InferenceFailed, SignatureMismatch, one_line

MAX_TEXT_BYTES = 32 * 2**20
"""Typed or uploaded text. Ten-megabyte bodies are in use; more belongs in a batch job."""
MAX_CELLS = 4_000_000
"""Values per request: 32 MiB of digits and commas hold about this many."""
MAX_PROBLEMS = 100
"""Problems listed at once; more help nobody."""
MAX_DIFFERENCES = 1_000
"""Differences listed between two answers."""
MAX_SHOWN_BODY_BYTES = 100_000
"""A single argument of a Linux process holds 128 KiB: larger bodies are shown as a file's name."""

# ── Rows ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Rows:
    """What is to be predicted: table rows or tensors, with parameters. Values are JSON values.

    Binary values are base64 text, times ISO 8601 text. Either `data` or `tensors` is used.
    """

    columns: tuple[str, ...] = ()
    """Names in the order of `data`; empty when the rows go by position."""
    data: tuple[tuple[Json, ...], ...] = ()
    """n rows of as many values as there are columns."""
    tensors: Mapping[str, Json] = field(default_factory=dict)
    """Name → nested lists, first axis = row; the one nameless tensor has the name ""."""
    params: Mapping[str, Json] = field(default_factory=dict)
    typed: bool = True
    """False for CSV and forms: text then stands for any type ("5" is a number)."""

    @property
    def count(self) -> int:
        """Number of rows; for tensors the length of the first one's first axis."""
        if not self.tensors:
            return len(self.data)
        first = next(iter(self.tensors.values()))
        return len(first) if isinstance(first, list) else 1

    def records(self) -> list[dict[str, Json]]:
        """The rows as name → value, as a table shows them; empty for tensors."""
        names = self.columns or tuple(_label("", at) for at in range(_width(self.data)))
        return [dict(zip(names, row, strict=True)) for row in self.data]


@dataclass(frozen=True, slots=True)
class Problem:
    """One value that does not fit: where, why, and what to write instead."""

    column: str
    """Name of the column, tensor or parameter; "" when it concerns the whole."""
    row: int | None
    """1-based; None when it concerns every row."""
    why: str
    fix: str = ""

    def __str__(self) -> str:
        where = f"row {self.row}" if self.row is not None else ""
        if self.column:
            where = ", ".join(part for part in (where, _named(self.column)) if part)
        return f"{where[:1].upper()}{where[1:]}: {self.why}" if where else self.why


class _Misfit(Exception):
    """One value does not fit; becomes a Problem where row and column are known."""

    def __init__(self, why: str, fix: str = "") -> None:
        super().__init__(why)
        self.why = why
        self.fix = fix


def _mismatch(problems: Sequence[Problem]) -> SignatureMismatch:
    more = f" ({len(problems) - 1} more like this.)" if len(problems) > 1 else ""
    return SignatureMismatch(
        "The request was not sent.",
        why=f"{problems[0]}{more}",
        fix=problems[0].fix or "Write the rows as the signature asks, or start from the example.",
    )


def _refused(why: str, fix: str = "") -> SignatureMismatch:
    return _mismatch([Problem("", None, why, fix)])


# ── Reading text ──────────────────────────────────────────────────────────────────────────────

_WRAPPERS = ("dataframe_split", "dataframe_records", "inputs", "instances")
_NOT_JSON_NUMBER = re.compile(r"(?<![\w\"])(?:NaN|-?Infinity)(?![\w\"])")


def parse_rows(
    text: str | bytes,
    signature: Signature | None,
    *,
    content: Literal["json", "csv"] | None = None,
) -> Rows:
    """Read rows as people write them, and hold them against the signature when there is one.

    JSON: a list of records or of value lists, one bare row, `dataframe_split`,
    `dataframe_records`, `inputs` (MLflow's, or V2's list of tensors) or `instances`, each with
    `params`. CSV: with a header line. `content` None guesses. SignatureMismatch names the column,
    the row (1-based) and the type.
    """
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(raw) > MAX_TEXT_BYTES:
        raise _refused(
            f"The text has {len(raw):,} bytes; {MAX_TEXT_BYTES:,} are the most.",
            "Send fewer rows at a time.",
        )
    if not raw.strip():
        raise _refused("There are no rows: the text is empty.", "Start from the example.")
    kind = content or _guessed_content(raw)
    rows = _rows_of_csv(raw, signature) if kind == "csv" else _rows_of_json(raw, signature)
    return rows if signature is None else check_rows(rows, signature)


def _guessed_content(raw: bytes) -> Literal["json", "csv"]:
    """JSON begins with a bracket, or is one scalar without a second line; all else is CSV."""
    start = raw.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start[:1] in b"[{":
        return "json"
    try:
        orjson.loads(start)
    except orjson.JSONDecodeError:
        return "csv" if b"\n" in start.rstrip() else "json"
    return "json"


def _rows_of_csv(raw: bytes, signature: Signature | None) -> Rows:
    # The csv module refuses cells above 128 KiB unless told otherwise: images as base64 are longer.
    csv.field_size_limit(MAX_TEXT_BYTES)
    try:
        lines = list(csv.reader(io.StringIO(raw.decode("utf-8-sig")), strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise _refused(
            f"The CSV cannot be read: {one_line(error)}.", "Save it as UTF-8 with commas."
        ) from error
    lines = [line for line in lines if line]
    if len(lines) < 2:
        raise _refused(
            "The CSV has no rows below its header line.", "Put the column names in the first line."
        )
    header = tuple(name.strip() for name in lines[0])
    for number, line in enumerate(lines[1:], start=1):
        if len(line) != len(header):
            raise _refused(
                f"Row {number} of the CSV has {len(line)} cells, the header {len(header)}.",
                "Quote cells that hold commas.",
            )
    data = tuple(tuple(line) for line in lines[1:])
    if signature is not None:
        return Rows(header, data, typed=False)
    return Rows(header, tuple(tuple(map(_guessed_value, row)) for row in data))


def _guessed_value(cell: str) -> Json:
    """Without a signature a cell that reads as a JSON scalar is that scalar, all else is text."""
    if cell == "":
        return None
    try:
        value = orjson.loads(cell)
    except orjson.JSONDecodeError:
        return cell
    return cell if isinstance(value, (dict, list)) else value


def _rows_of_json(raw: bytes, signature: Signature | None) -> Rows:
    body = _parsed(raw)
    params: Mapping[str, Json] = {}
    if isinstance(body, dict) and not _is_bare_row(body, signature):
        given = body.pop("params", None) or {}
        if not isinstance(given, dict):
            raise _refused('"params" is no object.', 'Write {"params": {"name": value}}.')
        params = given
        wrappers = [name for name in _WRAPPERS if name in body]
        if len(wrappers) > 1:
            raise _refused(f"Both {wrappers[0]} and {wrappers[1]} are given.", "Keep one of them.")
        if wrappers:
            read = _READERS[wrappers[0]]
            if wrappers[0] == "inputs" and _is_v2(body["inputs"]):
                params = params or _v2_params(body)
            return replace(read(body[wrappers[0]], signature), params=params)
    return replace(_of_anything(body, signature), params=params)


def _parsed(raw: bytes) -> Json:
    try:
        return orjson.loads(raw.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError as error:
        text = raw[: 2**16].decode("utf-8", "replace")
        if _NOT_JSON_NUMBER.search(text):
            raise _refused(
                "JSON has no NaN and no Infinity.", "Write null where the column is optional."
            ) from error
        if "depth" in error.msg or "recursion" in error.msg:
            raise _refused(
                "The JSON is nested more than 1,000 deep.", "Write rows as lists or objects."
            ) from error
        raise _refused(
            f"The text is no JSON: {one_line(error.msg)} in line {error.lineno},"
            f" column {error.colno}.",
            "Write a list of rows, or CSV with a header line.",
        ) from error


def _names(signature: Signature | None) -> tuple[str, ...]:
    return () if signature is None else tuple(spec.name for spec in signature.inputs)


def _is_bare_row(body: Mapping[str, Json], signature: Signature | None) -> bool:
    """True when every key is a name of the signature: a column may be called `inputs`."""
    return bool(body) and set(body) <= set(_names(signature))


def _is_v2(inputs: Json) -> bool:
    return (
        isinstance(inputs, list)
        and bool(inputs)
        and all(isinstance(one, dict) and {"name", "shape", "data"} <= set(one) for one in inputs)
    )


def _v2_params(body: Mapping[str, Json]) -> Mapping[str, Json]:
    given = body.get("parameters")
    if not isinstance(given, dict):
        return {}
    return {name: value for name, value in given.items() if name not in _V2_RESERVED}


def _of_split(value: Json, _signature: Signature | None) -> Rows:
    if not isinstance(value, dict) or not isinstance(value.get("data"), list):
        raise _refused('dataframe_split has no "data".', 'Write {"columns": […], "data": [[…]]}.')
    names = value.get("columns")
    columns = tuple(map(str, names)) if isinstance(names, list) else ()
    return _of_lists(value["data"], columns)


def _of_records(value: Json, _signature: Signature | None) -> Rows:
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise _refused("dataframe_records is no list of objects.", 'Write [{"column": value}].')
    # A dict keeps the order in which names were first seen; a set would not.
    columns = tuple(dict.fromkeys(itertools.chain.from_iterable(value)))
    if len(columns) * len(value) > MAX_CELLS:  # a name of its own in every record multiplies
        raise _refused(f"More than {MAX_CELLS:,} values.", "Send fewer rows at a time.")
    return Rows(columns, tuple(tuple(row.get(name) for name in columns) for row in value))


def _of_lists(value: Sequence[Json], columns: tuple[str, ...] = ()) -> Rows:
    data = tuple(tuple(row) if isinstance(row, list) else (row,) for row in value)
    width = len(columns) or _width(data)
    for number, row in enumerate(data, start=1):
        if len(row) != width:
            raise _mismatch(
                [Problem("", number, f"it has {len(row)} values where {width} are expected.")]
            )
    return Rows(columns, data)


def _of_inputs(value: Json, signature: Signature | None) -> Rows:
    if _is_v2(value):
        return _of_v2(value, signature)
    return _of_anything(value, signature)


def _of_instances(value: Json, signature: Signature | None) -> Rows:
    if signature is not None and signature.is_tensor and isinstance(value, list):
        names = _names(signature)
        if value and all(isinstance(row, dict) for row in value):
            table = _of_records(value, signature)
            columns = zip(*table.data, strict=True)
            return Rows(tensors=dict(zip(table.columns, map(list, columns), strict=True)))
        return Rows(tensors={names[0]: value})
    return _of_anything(value, signature)


def _of_v2(inputs: Sequence[Mapping[str, Json]], signature: Signature | None) -> Rows:
    if signature is not None and signature.is_tensor:
        nameless = "" in _names(signature)
        return Rows(
            tensors={
                "" if nameless and at == 0 else str(one["name"]): _v2_values(one, _sizes(one))
                for at, one in enumerate(inputs)
            }
        )
    columns = []
    for one in inputs:
        sizes = _sizes(one)
        # V2 writes a column as [n] or as [n, 1].
        columns.append(_v2_values(one, sizes[:1] if sizes[1:] == [1] else sizes))
    if len(set(map(len, columns))) > 1:
        raise _refused("The tensors have different numbers of rows.")
    return Rows(tuple(str(one["name"]) for one in inputs), tuple(zip(*columns, strict=True)))


def _sizes(one: Mapping[str, Json]) -> list[int]:
    shape = one["shape"]
    if not isinstance(shape, list) or not shape:
        shape = [-1]
    if all(type(size) is int and size >= 0 for size in shape):
        return shape
    why = f"{one_line(one['shape'], 40)} is no shape."
    raise _mismatch([Problem(str(one["name"]), None, why, "Write the lengths: [rows, …].")])


def _v2_values(one: Mapping[str, Json], sizes: Sequence[int]) -> list[Json]:
    flat = list(_leaves(one["data"]))
    if math.prod(sizes) != len(flat):
        why = f"shape {_shape_text(sizes)} does not hold {len(flat)} values."
        raise _mismatch([Problem(str(one["name"]), None, why)])
    parameters = one.get("parameters")
    if isinstance(parameters, dict) and parameters.get("content_type") == "pd_json":
        flat = [_parsed(str(text).encode()) for text in flat]
    return list(_nested(flat, sizes))


def _of_anything(value: Json, signature: Signature | None) -> Rows:
    """Rows without a wrapper: what they are follows from the signature, then from their shape."""
    if signature is not None and signature.is_tensor:
        return _of_tensor_value(value, signature)
    if isinstance(value, dict):
        return _of_dict(value, signature)
    return _of_list(value if isinstance(value, list) else [value], signature)


def _of_list(value: Sequence[Json], signature: Signature | None) -> Rows:
    if value and all(isinstance(row, dict) for row in value) and not _takes_objects(signature):
        return _of_records(value, signature)
    width = len(signature.inputs) if signature is not None else 1
    if width > 1 and not any(isinstance(row, (list, dict)) for row in value):
        return Rows(data=(tuple(value),))
    if _takes_lists(signature):
        return Rows(data=tuple((one,) for one in value))
    return _of_lists(value)


def _takes_objects(signature: Signature | None) -> bool:
    """True for the one nameless column whose values are objects themselves."""
    return _nameless_kind(signature) in {ValueKind.OBJECT, ValueKind.MAP, ValueKind.ANY}


def _takes_lists(signature: Signature | None) -> bool:
    return _nameless_kind(signature) in {ValueKind.ARRAY, ValueKind.ANY}


def _nameless_kind(signature: Signature | None) -> ValueKind | None:
    if signature is None or len(signature.inputs) != 1:
        return None
    only = signature.inputs[0]
    return only.kind if isinstance(only, ColumnSpec) and not only.name else None


def _of_tensor_value(value: Json, signature: Signature) -> Rows:
    names = _names(signature)
    if isinstance(value, dict):
        if {"columns", "data"} <= set(value) and "data" not in names:
            return _of_split(value, signature)
        return Rows(tensors=value)
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        return _of_records(value, signature)
    if len(names) > 1:
        raise _refused(
            f"The signature has {len(names)} tensors, one list is given.",
            f'Write {{"inputs": {{"{names[0]}": […], …}}}}.',
        )
    return Rows(tensors={names[0]: value})


def _of_dict(value: Mapping[str, Json], signature: Signature | None) -> Rows:
    names = _names(signature)
    if {"columns", "data"} <= set(value) and "data" not in names:
        return _of_split(value, signature)
    kinds = (
        {spec.kind for spec in signature.inputs if isinstance(spec, ColumnSpec)}
        if (signature is not None)
        else set()
    )
    lists = [column for column in value.values() if isinstance(column, list)]
    by_column = (
        bool(value)
        and len(lists) == len(value)
        and not kinds & {ValueKind.ARRAY, ValueKind.ANY}
        and len({len(column) for column in lists}) == 1
    )
    if by_column:
        return Rows(tuple(value), tuple(zip(*lists, strict=True)))
    return Rows(tuple(value), (tuple(value.values()),))


_READERS: Mapping[str, Callable[[Json, Signature | None], Rows]] = {
    "dataframe_split": _of_split,
    "dataframe_records": _of_records,
    "inputs": _of_inputs,
    "instances": _of_instances,
}


def _width(data: Sequence[Sequence[Json]]) -> int:
    return len(data[0]) if data else 0


def _label(name: str, at: int) -> str:
    """The name under which MLServer knows a nameless input (mlserver_mlflow/metadata.py)."""
    return name or f"input-{at}"


def _named(name: str) -> str:
    return f'column "{one_line(name, 80)}"'


# ── Forms and examples ────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class FormField:
    """One field of the form that a page draws for a signature."""

    key: str
    """Unique in the form: what `rows_from_form` is given the text under."""
    name: str
    kind: str
    """A ValueKind's value, or "tensor"."""
    label: str
    required: bool
    text: str
    """What to prefill: JSON for lists, objects and tensors, "true" or "false" for booleans."""
    hint: str
    is_param: bool = False


_HINTS: Mapping[str, str] = {
    ValueKind.BOOLEAN: "true or false",
    ValueKind.INTEGER: "whole number, 32 bits",
    ValueKind.LONG: "whole number, 64 bits",
    ValueKind.FLOAT: "number, 32 bits",
    ValueKind.DOUBLE: "number",
    ValueKind.STRING: "text",
    ValueKind.BINARY: "bytes as base64",
    ValueKind.DATETIME: "date and time, for example 2026-01-31T12:00:00",
    ValueKind.ARRAY: "list as JSON",
    ValueKind.OBJECT: "object as JSON",
    ValueKind.MAP: "object as JSON",
    ValueKind.ANY: "any JSON value",
}

_EMPTY_TEXT: Mapping[str, str] = {
    ValueKind.BOOLEAN: "false",
    ValueKind.INTEGER: "0",
    ValueKind.LONG: "0",
    ValueKind.FLOAT: "0.0",
    ValueKind.DOUBLE: "0.0",
    ValueKind.ARRAY: "[]",
    ValueKind.OBJECT: "{}",
    ValueKind.MAP: "{}",
    ValueKind.ANY: "null",
}


def form_fields(signature: Signature, example: str | None = None) -> tuple[FormField, ...]:
    """The fields for one row (or one set of tensors) and the parameters, prefilled.

    From the input example's first row when it fits the signature, else with an empty value.
    """
    try:
        rows = example_rows(signature, example) if example else Rows()
    except SignatureMismatch:
        rows = Rows()
    prefill = dict(zip(rows.columns, rows.data[0], strict=True)) if rows.data else {}
    prefill |= rows.tensors
    fields = [
        _tensor_field(spec, at, prefill)
        if isinstance(spec, TensorSpec)
        else _column_field(spec, at, prefill)
        for at, spec in enumerate(signature.inputs)
    ]
    fields += [_param_field(spec, rows.params) for spec in signature.params]
    return tuple(fields)


def _column_field(spec: ColumnSpec, at: int, prefill: Mapping[str, Json]) -> FormField:
    name = _label(spec.name, at)
    text = _as_text(prefill[name]) if name in prefill else ""
    if name not in prefill and spec.required:
        text = _EMPTY_TEXT.get(spec.kind, "")
    return FormField(
        key=f"input.{name}",
        name=name,
        kind=spec.kind,
        label=one_line(name, 80) if spec.required else f"{one_line(name, 80)} (optional)",
        required=spec.required,
        text=text,
        hint=_HINTS[spec.kind],
    )


def _tensor_field(spec: TensorSpec, at: int, prefill: Mapping[str, Json]) -> FormField:
    value = prefill.get(spec.name)
    if value is None:
        value = _zeros(spec)
    shape = " × ".join("n" if size == ANY else str(size) for size in spec.shape)
    return FormField(
        key=f"input.{_label(spec.name, at)}",
        name=_label(spec.name, at),
        kind="tensor",
        label=one_line(_label(spec.name, at), 80),
        required=True,
        text=_as_text(value),
        hint=f"{spec.dtype} {shape}, nested lists as JSON",
    )


def _param_field(spec: ParamSpec, given: Mapping[str, Json]) -> FormField:
    value = given[spec.name] if spec.name in given else orjson.loads(spec.default_json or "null")
    return FormField(
        key=f"param.{spec.name}",
        name=spec.name,
        kind=spec.kind if spec.shape is None else ValueKind.ARRAY,
        label=f"{one_line(spec.name, 80)} (parameter)",
        required=False,
        text=_as_text(value),
        hint=_HINTS[spec.kind] if spec.shape is None else f"list of {spec.kind} as JSON",
        is_param=True,
    )


def _zeros(spec: TensorSpec) -> Json:
    zero: Json = "" if _dtype(spec.dtype).code == "BYTES" else 0
    zero = False if _dtype(spec.dtype).code == "BOOL" else zero
    shape = [1 if size == ANY else size for size in spec.shape]
    return _nested([zero] * math.prod(shape), shape) if math.prod(shape) <= 4096 else []


def _as_text(value: Json) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def rows_from_form(signature: Signature, values: Mapping[str, str]) -> Rows:
    """One row from the texts of a form, by `FormField.key`. SignatureMismatch as `check_rows`.

    An empty text leaves out an optional column and leaves a parameter at its default.
    """
    return check_rows(form_rows(signature, values), signature)


def form_rows(signature: Signature, values: Mapping[str, str]) -> Rows:
    """The form's texts as rows, unchecked: what `problems_of` takes to mark every wrong field."""
    labels = [_label(spec.name, at) for at, spec in enumerate(signature.inputs)]
    texts = [values.get(f"input.{label}", "") for label in labels]
    params = {
        spec.name: values[f"param.{spec.name}"]
        for spec in signature.params
        if values.get(f"param.{spec.name}", "") != ""
    }
    if signature.is_tensor:
        tensors = {
            spec.name: _json_or_text(text)
            for spec, text in zip(signature.inputs, texts, strict=True)
        }
        return Rows(tensors=tensors, params=params, typed=False)
    return Rows(tuple(labels), (tuple(texts),), params=params, typed=False)


def _json_or_text(text: str) -> Json:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def example_rows(signature: Signature | None, example: str | None) -> Rows:
    """The input example as rows that fit. SignatureMismatch when there is none or it does not.

    Columns that the signature does not know are left out, as MLflow does when it predicts.
    """
    if example is None:
        raise SignatureMismatch(
            "The request was not sent.",
            why="The version has no input example.",
            fix="Log the model with input_example=…, or write the rows yourself.",
        )
    rows = _rows_of_json(example.encode(), signature)
    if signature is None:
        return rows
    return check_rows(_known_columns(rows, signature), signature)


def _known_columns(rows: Rows, signature: Signature) -> Rows:
    known = {_label(spec.name, at) for at, spec in enumerate(signature.inputs)}
    if not rows.columns or signature.is_tensor or not known & set(rows.columns):
        return rows
    keep = [at for at, name in enumerate(rows.columns) if name in known]
    return replace(
        rows,
        columns=tuple(rows.columns[at] for at in keep),
        data=tuple(tuple(row[at] for at in keep) for row in rows.data),
    )


# ── Holding rows against the signature ────────────────────────────────────────────────────────


def check_rows(rows: Rows, signature: Signature) -> Rows:
    """The rows in the signature's order and types, optional columns filled with null.

    Coerces only what loses nothing (5 to 5.0, "5" of a CSV to 5, ISO dates). SignatureMismatch
    names the first wrong column, row (1-based) and type, and how many more there are.
    """
    checked, problems = _checked(rows, signature)
    if problems:
        raise _mismatch(problems)
    return checked


def problems_of(rows: Rows, signature: Signature) -> tuple[Problem, ...]:
    """Everything in the rows that does not fit, in the signature's order, at most 100."""
    return tuple(_checked(rows, signature)[1])


def _checked(rows: Rows, signature: Signature) -> tuple[Rows, list[Problem]]:
    if signature.is_tensor:
        checked, problems = _checked_tensors(rows, signature)
    else:
        checked, problems = _checked_columns(rows, signature)
    params, wrong = _checked_params(rows, signature)
    problems += wrong
    return replace(checked, params=params, typed=True), problems[:MAX_PROBLEMS]


def _checked_columns(rows: Rows, signature: Signature) -> tuple[Rows, list[Problem]]:
    specs = [spec for spec in signature.inputs if isinstance(spec, ColumnSpec)]
    names = tuple(_label(spec.name, at) for at, spec in enumerate(specs))
    problems = _shape_problems(rows, specs, names)
    if problems:
        return rows, problems
    by_name = _by_name(rows, specs, names)
    nothing: tuple[Json, ...] = (None,) * len(rows.data)
    columns: list[Sequence[Json]] = []
    for spec, name in zip(specs, names, strict=True):
        values, wrong = _checked_column(spec, name, by_name.get(name, nothing), rows.typed)
        columns.append(values)
        problems += wrong
        if len(problems) >= MAX_PROBLEMS:
            break
    if problems:
        return rows, problems
    return Rows(names, tuple(zip(*columns, strict=True))), problems


def _by_name(
    rows: Rows, specs: Sequence[ColumnSpec], names: tuple[str, ...]
) -> Mapping[str, tuple[Json, ...]]:
    by_position = not rows.columns or not any(spec.name for spec in specs)
    given = names if by_position else rows.columns
    return dict(zip(given, zip(*rows.data, strict=True), strict=True))


def _shape_problems(
    rows: Rows, specs: Sequence[ColumnSpec], names: tuple[str, ...]
) -> list[Problem]:
    """What is wrong with the rows as a table, before any value is looked at."""
    if not rows.data:
        return [Problem("", None, "There are no rows.", "Write at least one row.")]
    width = _width(rows.data)
    if width * len(rows.data) > MAX_CELLS:
        return [Problem("", None, f"More than {MAX_CELLS:,} values.", "Send fewer rows at a time.")]
    if not rows.columns or not any(spec.name for spec in specs):
        if width != len(specs):
            return [
                Problem(
                    "",
                    None,
                    f"The signature takes {_counted(len(specs), 'column')}, the rows have {width}.",
                    "Write the columns in this order: " + _listed(names) + ".",
                )
            ]
        return []
    return _name_problems(rows.columns, specs)


def _name_problems(columns: tuple[str, ...], specs: Sequence[ColumnSpec]) -> list[Problem]:
    given = Counter(columns)
    twice = [name for name, times in given.items() if times > 1]
    if twice:
        return [Problem(name, None, "it is given twice.", "Keep one of them.") for name in twice]
    wanted = {spec.name for spec in specs}
    extra = [name for name in columns if name not in wanted]
    missing = [spec for spec in specs if spec.required and spec.name not in given]
    if missing:
        return [
            Problem(
                spec.name,
                None,
                f"it is missing; the signature wants {spec.kind}.",
                _rename_or_add(spec.name, extra),
            )
            for spec in missing[:MAX_PROBLEMS]
        ]
    fix = f"Leave it out; the columns are {_listed([spec.name for spec in specs])}."
    return [
        Problem(name, None, "the signature does not know it.", fix) for name in extra[:MAX_PROBLEMS]
    ]


def _rename_or_add(name: str, extra: Sequence[str]) -> str:
    # Comparing is quadratic in length and number: a few short names are enough to find a slip.
    near = difflib.get_close_matches(one_line(name, 80), [one_line(n, 80) for n in extra[:20]], n=1)
    if near:
        return f'Rename "{near[0]}" to "{one_line(name, 80)}".'
    return "Add the column, or start from the example."


def _listed(names: Sequence[str], most: int = 12) -> str:
    shown = ", ".join(one_line(name, 40) for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _checked_column(
    spec: ColumnSpec, name: str, values: Sequence[Json], typed: bool
) -> tuple[Sequence[Json], list[Problem]]:
    as_they_are = _as_they_are(spec.kind, values, typed)
    if as_they_are is not None:
        return as_they_are, []
    try:
        shape = _shape_of_type(spec)
    except _Misfit as misfit:
        return values, [Problem(name, None, misfit.why, misfit.fix)]
    checked: list[Json] = []
    problems: list[Problem] = []
    for number, value in enumerate(values, start=1):
        try:
            checked.append(_fitted(value, shape, required=spec.required, typed=typed))
        except _Misfit as misfit:
            problems.append(Problem(name, number, misfit.why, misfit.fix))
            if len(problems) >= MAX_PROBLEMS:
                break
    return checked, problems


def _as_they_are(kind: ValueKind, values: Sequence[Json], typed: bool) -> Sequence[Json] | None:
    """The fast path for what most columns are: values of one type. None = look at each.

    Half a million values one by one take seconds; the loops below run in C.
    """
    types = set(map(type, values))
    try:
        if kind in _FLOAT_LIMITS:
            return _as_floats(values, types, _FLOAT_LIMITS[kind], typed)
        if kind in _INTEGER_BITS and types == {int}:
            bound = 2 ** (_INTEGER_BITS[kind] - 1)
            return values if -bound <= min(values) and max(values) < bound else None
    except (ValueError, OverflowError):
        return None  # a text that is no number, a whole number beyond every float
    if kind is ValueKind.BOOLEAN:
        return values if types == {bool} else None
    # An empty text of a CSV may stand for no value: that is looked at one by one.
    plain = kind is ValueKind.STRING and types == {str} and (typed or "" not in values)
    return values if plain and _is_ascii(values) else None


def _as_floats(
    values: Sequence[Json], types: set[type], limit: float, typed: bool
) -> Sequence[Json] | None:
    # float() takes more texts than a number is written as: only plain ASCII, without "_".
    plain_text = not typed and types == {str} and _is_ascii(values) and "_" not in "".join(values)
    if not plain_text and not types <= {int, float}:
        return None
    floats = list(map(float, values))
    fits = all(map(math.isfinite, floats)) and max(map(abs, floats), default=0.0) <= limit
    return floats if fits else None


def _is_ascii(values: Sequence[str]) -> bool:
    return all(map(str.isascii, values))


def _fitted(value: Json, shape: _Shape, *, required: bool, typed: bool) -> Json:
    """One value as its type wants it, or _Misfit. Empty text of a CSV stands for no value."""
    if value is None or (not typed and value == "" and _empty_means_none(shape, required)):
        if required and shape.kind is not ValueKind.ANY:
            raise _Misfit(
                f"it is {'null' if value is None else 'empty'}; the signature wants {shape.kind}.",
                "Give a value: the column is not optional.",
            )
        return None
    if not typed and isinstance(value, str):
        value = _from_text(value, shape, required)
        if value is None and not required:
            return None
    return _CHECKS[shape.kind](value, shape)


def _empty_means_none(shape: _Shape, required: bool) -> bool:
    return not required or shape.kind not in {ValueKind.STRING, ValueKind.BINARY}


_WORDS = {"true": True, "false": False, "1": True, "0": False}


def _from_text(text: str, shape: _Shape, required: bool) -> Json:
    """The value that a text of a CSV or form stands for, by the wanted type."""
    kind = shape.kind
    if kind in {ValueKind.STRING, ValueKind.BINARY, ValueKind.DATETIME}:
        return text
    bare = text.strip()
    if kind is ValueKind.BOOLEAN:
        return _WORDS.get(bare.lower(), text)
    if kind in {ValueKind.INTEGER, ValueKind.LONG, ValueKind.FLOAT, ValueKind.DOUBLE}:
        return _number_from_text(bare, text, required)
    try:
        return orjson.loads(bare)
    except orjson.JSONDecodeError as error:
        if kind is ValueKind.ANY:
            return text
        raise _Misfit(
            f"it wants {kind} and holds {_shown(text)}, which is no JSON.", _fix_of(kind)
        ) from error


def _number_from_text(bare: str, text: str, required: bool) -> Json:
    if not required and bare.lower() in {"nan", "null", "none", "na"}:
        return None
    # int() and float() take "1_000" and digits of every script; a number here is plain ASCII.
    if not bare.isascii() or "_" in bare:
        return text
    for read in (int, float):
        try:
            return read(bare)
        except ValueError:
            continue
    return text


# ── Types ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Shape:
    """A column's type with what is inside it."""

    kind: ValueKind
    inner: _Shape | None = None
    """Of an array's items, of a map's values."""
    properties: tuple[tuple[str, _Shape, bool], ...] = ()
    """Of an object: name, type, required."""


def _shape_of_type(spec: ColumnSpec) -> _Shape:
    if spec.kind not in {ValueKind.ARRAY, ValueKind.OBJECT, ValueKind.MAP} or not spec.spec_json:
        return _Shape(spec.kind)
    return _shape_of_json(_parsed(spec.spec_json.encode()))


def _shape_of_json(node: Json) -> _Shape:
    """MLflow's JSON of a type (mlflow.types.schema, to_dict) as a shape."""
    if isinstance(node, str):
        node = {"type": node}
    try:
        kind = ValueKind(node["type"])
        if kind is ValueKind.ARRAY:
            return _Shape(kind, inner=_shape_of_json(node["items"]))
        if kind is ValueKind.MAP:
            return _Shape(kind, inner=_shape_of_json(node["values"]))
        if kind is ValueKind.OBJECT:
            properties = tuple(
                (name, _shape_of_json(one), bool(one.get("required", True)))
                for name, one in node["properties"].items()
            )
            return _Shape(kind, properties=properties)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _Misfit(
            f"the signature's own type cannot be read: {one_line(node, 80)}.",
            "Log the model again with infer_signature().",
        ) from error
    return _Shape(kind)


def _shown(value: Json) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'the text "{one_line(value, 40)}"'
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return "an object"
    return one_line(value, 40)


def _fix_of(kind: ValueKind) -> str:
    return f"Write {_FIXES[kind]}."


_FIXES: Mapping[ValueKind, str] = {
    ValueKind.BOOLEAN: "true or false",
    ValueKind.INTEGER: "a whole number without quotes",
    ValueKind.LONG: "a whole number without quotes",
    ValueKind.FLOAT: "a number without quotes",
    ValueKind.DOUBLE: "a number without quotes",
    ValueKind.STRING: "the text in quotes",
    ValueKind.BINARY: "the bytes as base64",
    ValueKind.DATETIME: "a date like 2026-01-31 or 2026-01-31T12:00:00",
    ValueKind.ARRAY: "a list: [1, 2, 3]",
    ValueKind.OBJECT: 'an object: {"name": value}',
    ValueKind.MAP: 'an object: {"key": value}',
    ValueKind.ANY: "any JSON value",
}


def _wrong(value: Json, shape: _Shape) -> _Misfit:
    return _Misfit(f"it wants {shape.kind} and holds {_shown(value)}.", _fix_of(shape.kind))


def _boolean(value: Json, shape: _Shape) -> Json:
    if type(value) is not bool:
        raise _wrong(value, shape)
    return value


_INTEGER_BITS = {ValueKind.INTEGER: 32, ValueKind.LONG: 64}
_EXACT_FLOAT = 2**53
"""Beyond this a double no longer holds every whole number: what was written may be lost."""


def _integer(value: Json, shape: _Shape) -> Json:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _wrong(value, shape)
    bits = _INTEGER_BITS[shape.kind]
    if isinstance(value, float):
        if not value.is_integer():
            raise _wrong(value, shape)
        if abs(value) > _EXACT_FLOAT:
            raise _beyond(value, shape, f"{bits}-bit whole numbers")
        value = int(value)
    if not -(2 ** (bits - 1)) <= value < 2 ** (bits - 1):
        raise _beyond(value, shape, f"{bits}-bit whole numbers")
    return value


def _beyond(value: Json, shape: _Shape, of: str) -> _Misfit:
    return _Misfit(
        f"it wants {shape.kind} and holds {_shown(value)}, beyond the range of {of}.",
        "Write a smaller number, or log the model with a wider type.",
    )


_FLOAT32_MAX = 3.4028234663852886e38
_FLOAT_LIMITS = {ValueKind.FLOAT: _FLOAT32_MAX, ValueKind.DOUBLE: math.inf}


def _float(value: Json, shape: _Shape) -> Json:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _wrong(value, shape)
    try:
        number = float(value)
    except OverflowError as error:
        raise _beyond(value, shape, "64-bit numbers") from error
    if not math.isfinite(number):
        raise _Misfit(
            f"it wants {shape.kind} and holds {value}, which JSON cannot carry.",
            "Write a finite number, or null where the column is optional.",
        )
    if abs(number) > _FLOAT_LIMITS[shape.kind]:
        raise _beyond(value, shape, "32-bit numbers")
    return number


def _string(value: Json, shape: _Shape) -> Json:
    if not isinstance(value, str):
        raise _wrong(value, shape)
    if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
        raise _Misfit("it holds half a surrogate pair, which is no Unicode text.", "Mend the text.")
    return value


def _binary(value: Json, shape: _Shape) -> Json:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if not isinstance(value, str):
        raise _wrong(value, shape)
    text = value.partition(",")[2] if value.startswith("data:") else value
    text = "".join(text.split())
    try:
        base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise _Misfit(
            f"it wants binary and holds {_shown(value)}, which is no base64.",
            "Write the bytes as base64, for example by `base64 -w0 FILE`.",
        ) from error
    return text


# pandas keeps nanoseconds in 64 bits: the years that MLflow's datetime can hold.
_FIRST_YEAR, _LAST_YEAR = 1678, 2261


def _datetime(value: Json, shape: _Shape) -> Json:
    """ISO text without an offset: MLflow's datetime has none, so offsets are turned into UTC."""
    moment = value
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value.strip())
        except ValueError as error:
            raise _wrong(value, shape) from error
    elif isinstance(value, date) and not isinstance(value, datetime):
        moment = datetime(value.year, value.month, value.day)  # noqa: DTZ001 — naive on purpose
    if not isinstance(moment, datetime):
        raise _wrong(value, shape)
    if not _FIRST_YEAR <= moment.year <= _LAST_YEAR:
        raise _beyond(value, shape, f"the years {_FIRST_YEAR} to {_LAST_YEAR}")
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    return moment.isoformat()


def _array(value: Json, shape: _Shape) -> Json:
    if not isinstance(value, (list, tuple)):
        raise _wrong(value, shape)
    inner = shape.inner
    if inner is None:
        return list(value)
    return [_inside(one, inner, f"item {at}") for at, one in enumerate(value, start=1)]


def _inside(value: Json, shape: _Shape, where: str, *, required: bool = True) -> Json:
    try:
        return _fitted(value, shape, required=required, typed=True)
    except _Misfit as misfit:
        raise _Misfit(f"in {where}, {misfit.why}", misfit.fix) from misfit


def _object(value: Json, shape: _Shape) -> Json:
    if not isinstance(value, dict):
        raise _wrong(value, shape)
    if not shape.properties:
        return value
    known = {name for name, _, _ in shape.properties}
    for name in value:
        if name not in known:
            raise _Misfit(
                f'its property "{one_line(name, 80)}" is not in the signature.',
                f"Leave it out; the properties are {_listed(sorted(known))}.",
            )
    checked = {}
    for name, inner, required in shape.properties:
        if name not in value and required:
            raise _Misfit(
                f'its property "{one_line(name, 80)}" ({inner.kind}) is missing.',
                "Add the property.",
            )
        if name in value:
            where = f'property "{one_line(name, 80)}"'
            checked[name] = _inside(value[name], inner, where, required=required)
    return checked


def _map(value: Json, shape: _Shape) -> Json:
    if not isinstance(value, dict):
        raise _wrong(value, shape)
    inner = shape.inner
    if inner is None:
        return value
    return {
        str(key): _inside(one, inner, f'key "{one_line(key, 80)}"') for key, one in value.items()
    }


def _anything(value: Json, _shape: _Shape) -> Json:
    return value


_CHECKS: Mapping[ValueKind, Callable[[Json, _Shape], Json]] = {
    ValueKind.BOOLEAN: _boolean,
    ValueKind.INTEGER: _integer,
    ValueKind.LONG: _integer,
    ValueKind.FLOAT: _float,
    ValueKind.DOUBLE: _float,
    ValueKind.STRING: _string,
    ValueKind.BINARY: _binary,
    ValueKind.DATETIME: _datetime,
    ValueKind.ARRAY: _array,
    ValueKind.OBJECT: _object,
    ValueKind.MAP: _map,
    ValueKind.ANY: _anything,
}


# ── Parameters ────────────────────────────────────────────────────────────────────────────────


def _checked_params(rows: Rows, signature: Signature) -> tuple[Mapping[str, Json], list[Problem]]:
    specs = {spec.name: spec for spec in signature.params}
    checked: dict[str, Json] = {}
    problems: list[Problem] = []
    for name, value in rows.params.items():
        spec = specs.get(name)
        if spec is None:
            known = (
                f"The parameters are {_listed(sorted(specs))}."
                if specs
                else ("Leave it out: the signature has no parameters.")
            )
            problems.append(Problem(name, None, "the signature has no such parameter.", known))
            continue
        try:
            checked[name] = _checked_param(spec, value, rows.typed)
        except _Misfit as misfit:
            problems.append(Problem(name, None, f"as a parameter, {misfit.why}", misfit.fix))
    return checked, problems


def _checked_param(spec: ParamSpec, value: Json, typed: bool) -> Json:
    inner = _Shape(spec.kind)
    shape = inner if spec.shape is None else _Shape(ValueKind.ARRAY, inner=inner)
    # A parameter without a default may be null; MLflow lets null through for each type.
    required = (spec.default_json or "null") != "null"
    return _fitted(value, shape, required=required, typed=typed)


# ── Tensors ───────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Dtype:
    """A numpy type as V2 names it, and the range of its whole numbers."""

    code: str
    lowest: int | None = None
    highest: int | None = None
    limit: float = math.inf
    """The largest number of a float type."""


def _integers(prefix: str, bits: int) -> _Dtype:
    if prefix == "UINT":
        return _Dtype(f"UINT{bits}", 0, 2**bits - 1)
    return _Dtype(f"INT{bits}", -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


_DTYPES: Mapping[str, _Dtype] = {
    "bool": _Dtype("BOOL"),
    **{f"int{bits}": _integers("INT", bits) for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": _integers("UINT", bits) for bits in (8, 16, 32, 64)},
    "float16": _Dtype("FP16", limit=65504.0),
    "float32": _Dtype("FP32", limit=_FLOAT32_MAX),
    "float64": _Dtype("FP64"),
    "str": _Dtype("BYTES"),
    "object": _Dtype("BYTES"),
}


def _dtype(name: str) -> _Dtype:
    if name.startswith(("<U", "|U", "U", "str")):
        name = "str"
    found = _DTYPES.get(name)
    if found is None:
        raise _refused(
            f"Tensors of type {one_line(name, 40)} have no place in a JSON request.",
            "Log the model with numbers, booleans or text.",
        )
    return found


def _checked_tensors(rows: Rows, signature: Signature) -> tuple[Rows, list[Problem]]:
    specs = [spec for spec in signature.inputs if isinstance(spec, TensorSpec)]
    given = rows.tensors or _tensors_of_table(rows, specs)
    if len(specs) == 1 and len(given) == 1 and not specs[0].name:
        given = {"": next(iter(given.values()))}
    known = {spec.name for spec in specs}
    problems = [
        Problem(
            name,
            None,
            "the signature does not know it.",
            f"Leave it out; the tensors are {_listed(sorted(known))}.",
        )
        for name in given
        if name not in known
    ]
    checked: dict[str, Json] = {}
    for at, spec in enumerate(specs):
        if spec.name not in given:
            why = f"it is missing; the signature wants {spec.dtype} {_shape_text(spec.shape)}."
            problems.append(Problem(_label(spec.name, at), None, why, "Add the tensor."))
            continue
        try:
            checked[spec.name] = _checked_tensor(given[spec.name], spec, rows.typed)
        except _Misfit as misfit:
            problems.append(Problem(_label(spec.name, at), None, misfit.why, misfit.fix))
    return Rows(tensors=checked), problems


def _tensors_of_table(rows: Rows, specs: Sequence[TensorSpec]) -> Mapping[str, Json]:
    """A table for a tensor signature: by name, or as the one matrix (what MLflow does too)."""
    if rows.columns and any(spec.name in rows.columns for spec in specs):
        columns = zip(*rows.data, strict=True)
        return {name: list(one) for name, one in zip(rows.columns, columns, strict=True)}
    if not rows.data:
        return {}
    single = _width(rows.data) == 1 and isinstance(rows.data[0][0], list)
    return {specs[0].name: [row[0] if single else list(row) for row in rows.data]}


def _shape_text(shape: Sequence[int]) -> str:
    return "(" + ", ".join("n" if size == ANY else str(size) for size in shape) + ")"


def _checked_tensor(value: Json, spec: TensorSpec, typed: bool) -> Json:
    shape, flat = _flattened(value)
    fits = len(shape) == len(spec.shape) and all(
        wanted in (ANY, size) for wanted, size in zip(spec.shape, shape, strict=False)
    )
    if not fits:
        raise _Misfit(
            f"it wants shape {_shape_text(spec.shape)} and has {_shape_text(shape)}.",
            "Nest the lists like the signature's shape, rows first.",
        )
    if math.prod(shape) > MAX_CELLS:
        raise _Misfit(f"it has more than {MAX_CELLS:,} values.", "Send fewer rows at a time.")
    dtype = _dtype(spec.dtype)
    if _all_fit(flat, dtype):
        return value
    return _nested(
        [_element(one, dtype, spec.dtype, at, shape, typed=typed) for at, one in enumerate(flat)],
        shape,
    )


def _all_fit(flat: Sequence[Json], dtype: _Dtype) -> bool:
    """The fast path for what most tensors are: values of one type within its range."""
    types = set(map(type, flat))
    if not flat or dtype.code in {"BOOL", "BYTES"}:
        return types == ({bool} if dtype.code == "BOOL" else {str})
    if dtype.lowest is not None and dtype.highest is not None:
        return types == {int} and dtype.lowest <= min(flat) and max(flat) <= dtype.highest
    return types == {float} and all(map(math.isfinite, flat)) and max(map(abs, flat)) <= dtype.limit


def _flattened(value: Json) -> tuple[tuple[int, ...], list[Json]]:
    """Shape and row-major values of nested lists; _Misfit when a level is ragged."""
    shape: list[int] = []
    level: list[Json] = [value]
    while level and isinstance(level[0], list):
        if set(map(type, level)) != {list}:
            break
        if len(set(map(len, level))) > 1:
            raise _Misfit(
                f"its lists have different lengths at depth {len(shape) + 1}.",
                "Make every list of one depth as long as the others.",
            )
        shape.append(len(level[0]))
        level = list(itertools.chain.from_iterable(level))
    if list in set(map(type, level)):
        raise _Misfit(
            f"it mixes lists and values at depth {len(shape) + 1}.", "Nest every row alike."
        )
    return tuple(shape), level


def _leaves(value: Json) -> Iterator[Json]:
    """The values of nested lists, row-major, without recursion: depth is the sender's choice."""
    stack = [iter((value,))]
    while stack:
        for one in stack[-1]:
            if isinstance(one, list):
                stack.append(iter(one))
                break
            yield one
        else:
            stack.pop()


def _nested(flat: Sequence[Json], shape: Sequence[int]) -> Json:
    """Flat row-major values as nested lists of `shape`; the one value for the shape ()."""
    if not shape:
        return flat[0]
    level = list(flat)
    for size in reversed(shape[1:]):
        level = (
            [level[at : at + size] for at in range(0, len(level), size)]
            if size
            else [[] for _ in range(math.prod(shape[:-1]))]
        )
    return level


def _element(
    value: Json, dtype: _Dtype, name: str, at: int, shape: Sequence[int], *, typed: bool
) -> Json:
    if not typed and isinstance(value, str) and dtype.code != "BYTES":
        value = (
            _WORDS.get(value.lower(), value)
            if dtype.code == "BOOL"
            else (_number_from_text(value.strip(), value, required=True))
        )
    if dtype.code == "BOOL":
        fits = type(value) is bool
    elif dtype.code == "BYTES":
        fits = isinstance(value, str)
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        fits = False
    elif dtype.lowest is None or dtype.highest is None:
        return _float_element(value, dtype, name, at, shape)
    else:
        whole = isinstance(value, int) or value.is_integer()
        fits = whole and dtype.lowest <= value <= dtype.highest
        value = int(value) if fits else value
    if not fits:
        raise _Misfit(
            f"at {_place(at, shape)} it wants {name} and holds {_shown(value)}.",
            f"Write values of type {name}.",
        )
    return value


def _float_element(value: float, dtype: _Dtype, name: str, at: int, shape: Sequence[int]) -> Json:
    number = float(value) if abs(value) < 2**1023 else math.inf
    if not math.isfinite(number) or abs(number) > dtype.limit:
        raise _Misfit(
            f"at {_place(at, shape)} it holds {_shown(value)}, which {name} cannot carry.",
            "Write a finite number within the type's range.",
        )
    return number


def _place(at: int, shape: Sequence[int]) -> str:
    """The 1-based position of a flat index, as `row 2, 1, 3`."""
    place: list[str] = []
    for size in reversed(shape):
        at, rest = divmod(at, size)
        place.append(str(rest + 1))
    return "row " + ", ".join(reversed(place))


# ── Requests ──────────────────────────────────────────────────────────────────────────────────

# Names that MLServer keeps for itself in a request's `parameters` (mlserver/types/dataplane.py,
# mlserver/codecs/utils.py): everything else reaches the model as a parameter.
_V2_RESERVED = frozenset({"content_type", "headers", "_decoded_payload"})

# mlserver_mlflow 1.7.1, metadata.py: the datatype and content type of each MLflow type.
_V2_COLUMNS: Mapping[ValueKind, tuple[str, str]] = {
    ValueKind.BOOLEAN: ("BOOL", "np"),
    ValueKind.INTEGER: ("INT32", "np"),
    ValueKind.LONG: ("INT64", "np"),
    ValueKind.FLOAT: ("FP32", "np"),
    ValueKind.DOUBLE: ("FP64", "np"),
    ValueKind.STRING: ("BYTES", "str"),
    ValueKind.BINARY: ("BYTES", "base64"),
    ValueKind.DATETIME: ("BYTES", "datetime"),
    ValueKind.ARRAY: ("BYTES", "pd_json"),
    ValueKind.OBJECT: ("BYTES", "pd_json"),
    ValueKind.MAP: ("BYTES", "pd_json"),
    ValueKind.ANY: ("BYTES", "pd_json"),
}

# What null becomes what it means for, seen on MLServer 1.7.1 with MLflow 3.17.2 and pandas 3.1:
# numpy's floats turn into NaN, text and nested values stay None, and /invocations turns times into
# NaT. Whole numbers and bytes are refused by both; booleans silently become false.
_V2_NULLABLE = frozenset(
    {
        ValueKind.FLOAT,
        ValueKind.DOUBLE,
        ValueKind.STRING,
        ValueKind.ARRAY,
        ValueKind.OBJECT,
        ValueKind.MAP,
        ValueKind.ANY,
    }
)
_NULLABLE: Mapping[Protocol, frozenset[ValueKind]] = {
    Protocol.V2: _V2_NULLABLE,
    Protocol.INVOCATIONS: _V2_NULLABLE | {ValueKind.DATETIME},
    Protocol.V1: frozenset(ValueKind),
}


def request_for(
    signature: Signature | None,
    rows: Rows,
    *,
    model_name: str,
    protocol: Protocol,
    version: int | None = None,
) -> InferRequest:
    """Encode rows once. They are held against the signature first: SignatureMismatch.

    `version` asks a V2 server for exactly that version; the other protocols have no place for it.
    Without a signature the types follow from the values.
    """
    checked = rows if signature is None else _on_the_wire(rows, signature, protocol)
    name = quote(model_name, safe="")
    if protocol is Protocol.V2:
        at_version = "" if version is None else f"/versions/{version}"
        path = f"/v2/models/{name}{at_version}/infer"
        body = _v2_body(signature, checked)
    elif protocol is Protocol.V1:
        path = f"/v1/models/{name}:predict"
        body = _v1_body(signature, checked)
    else:
        path = "/invocations"
        body = _invocations_body(signature, checked)
    return InferRequest(protocol, path, orjson.dumps(body), rows=max(checked.count, 1))


def _on_the_wire(rows: Rows, signature: Signature, protocol: Protocol) -> Rows:
    """The checked rows as servers read them; SignatureMismatch for null where none may stand."""
    checked = check_rows(rows, signature)
    if not checked.data:
        return checked
    columns = list(zip(*checked.data, strict=True))
    for at, (spec, column) in enumerate(zip(signature.inputs, columns, strict=True)):
        if not isinstance(spec, ColumnSpec):
            continue
        if spec.kind not in _NULLABLE[protocol] and _is_partly_null(column):
            raise _null_refused(checked.columns[at], spec.kind, column, protocol)
        if spec.kind is ValueKind.DATETIME:
            columns[at] = tuple(value if value is None else _full_time(value) for value in column)
    return replace(checked, data=tuple(zip(*columns, strict=True)))


def _is_partly_null(column: Sequence[Json]) -> bool:
    """A column of nothing but null is left out; one with some cannot be."""
    return 0 < sum(value is None for value in column) < len(column)


def _null_refused(
    name: str, kind: ValueKind, column: Sequence[Json], protocol: Protocol
) -> SignatureMismatch:
    row = next(at for at, value in enumerate(column, start=1) if value is None)
    fix = "Send the rows without it in a request of their own."
    if kind in _NULLABLE[Protocol.INVOCATIONS]:
        fix = "Send the request by /invocations, or " + fix[:1].lower() + fix[1:]
    return _mismatch([Problem(name, row, f"{protocol} has no null for {kind}.", fix)])


def _full_time(text: str) -> str:
    # pandas reads a whole column in its first value's format: all of one length, or it fails.
    return text if "." in text else f"{text}.000000"


def request_for_example(
    signature: Signature | None,
    example: str | None,
    *,
    model_name: str,
    protocol: Protocol = Protocol.V2,
) -> InferRequest:
    """The request of a version's input example: what a test inference sends."""
    rows = example_rows(signature, example)
    return request_for(signature, rows, model_name=model_name, protocol=protocol)


def _v2_body(signature: Signature | None, rows: Rows) -> dict[str, Json]:
    for name in rows.params:
        if name in _V2_RESERVED:
            raise _mismatch(
                [
                    Problem(
                        name,
                        None,
                        "V2 keeps this name for itself, so no parameter of that name arrives.",
                        "Send the request by /invocations.",
                    )
                ]
            )
    if rows.tensors:
        specs = {spec.name: spec for spec in signature.inputs} if signature is not None else {}
        inputs = [
            _v2_tensor(name, at, value, specs.get(name))
            for at, (name, value) in enumerate(rows.tensors.items())
        ]
        content = "np" if "" in rows.tensors else "dict"
    else:
        inputs = _v2_columns(signature, rows)
        content = "pd"
    return {"parameters": {"content_type": content, **rows.params}, "inputs": inputs}


def _v2_tensor(
    name: str, at: int, value: Json, spec: ColumnSpec | TensorSpec | None
) -> dict[str, Json]:
    dtype = spec.dtype if isinstance(spec, TensorSpec) else "float64"
    shape, flat = _flattened(value)
    return {
        "name": _label(name, at),
        "shape": list(shape),
        "datatype": _dtype(dtype).code,
        "parameters": {"content_type": "np"},
        "data": flat,
    }


def _v2_columns(signature: Signature | None, rows: Rows) -> list[dict[str, Json]]:
    columns = list(zip(*rows.data, strict=True))
    if signature is None:
        names = rows.columns or tuple(_label("", at) for at in range(len(columns)))
        kinds = [_guessed_kind(column) for column in columns]
        required = [True] * len(columns)
    else:
        names = rows.columns
        specs = [spec for spec in signature.inputs if isinstance(spec, ColumnSpec)]
        kinds = [spec.kind for spec in specs]
        required = [spec.required for spec in specs]
    return [
        _v2_column(name, kind, column)
        for name, kind, column, must in zip(names, kinds, columns, required, strict=True)
        # An optional column without any value is left out: that is how a server sees "absent".
        if must or any(value is not None for value in column)
    ]


def _v2_column(name: str, kind: ValueKind, column: Sequence[Json]) -> dict[str, Json]:
    datatype, content = _V2_COLUMNS[kind]
    if content == "pd_json":
        data = [orjson.dumps(value).decode() for value in column]
    else:
        data = list(column)
    return {
        "name": name,
        "shape": [len(data)],
        "datatype": datatype,
        "parameters": {"content_type": content},
        "data": data,
    }


def _guessed_kind(column: Sequence[Json]) -> ValueKind:
    present = [value for value in column if value is not None]
    types = {type(value) for value in present}
    if types == {bool} and len(present) == len(column):
        return ValueKind.BOOLEAN
    if types == {int} and len(present) == len(column):
        return ValueKind.LONG
    if types and types <= {int, float}:
        return ValueKind.DOUBLE
    return ValueKind.STRING if types == {str} else ValueKind.ANY


def _plain_columns(signature: Signature | None, rows: Rows) -> tuple[tuple[str, ...], list[Json]]:
    """Names (none for a nameless signature) and rows, without optional columns of nothing."""
    if signature is None or not any(spec.name for spec in signature.inputs):
        names = rows.columns if signature is None else ()
        return names, [list(row) for row in rows.data]
    columns = list(zip(*rows.data, strict=True))
    keep = [
        at
        for at, spec in enumerate(signature.inputs)
        if (isinstance(spec, ColumnSpec) and spec.required)
        or any(value is not None for value in columns[at])
    ]
    if len(keep) == len(rows.columns):
        return rows.columns, [list(row) for row in rows.data]
    return tuple(rows.columns[at] for at in keep), [[row[at] for at in keep] for row in rows.data]


def _invocations_body(signature: Signature | None, rows: Rows) -> dict[str, Json]:
    if rows.tensors:
        only = rows.tensors.get("") if len(rows.tensors) == 1 else None
        body: dict[str, Json] = {"inputs": only if only is not None else dict(rows.tensors)}
    else:
        names, data = _plain_columns(signature, rows)
        split: dict[str, Json] = {"columns": list(names)} if names else {}
        body = {"dataframe_split": {**split, "data": data}}
    if rows.params:
        body["params"] = dict(rows.params)
    return body


def _v1_body(signature: Signature | None, rows: Rows) -> dict[str, Json]:
    if rows.params:
        raise _refused(
            "V1 requests have no place for parameters.", "Send the request by V2 or /invocations."
        )
    if rows.tensors:
        if "" in rows.tensors:
            return {"instances": rows.tensors[""]}
        names = list(rows.tensors)
        return {
            "instances": [
                dict(zip(names, row, strict=True))
                for row in zip(*rows.tensors.values(), strict=True)
            ]
        }
    columns, data = _plain_columns(signature, rows)
    if not columns:
        return {"instances": data}
    return {"instances": [dict(zip(columns, row, strict=True)) for row in data]}


# ── Answers ───────────────────────────────────────────────────────────────────────────────────


def outputs_of(protocol: Protocol, body: bytes) -> tuple[Output, ...]:
    """Read an answer's outputs, by position. InferenceFailed when it is no prediction."""
    answer = answer_of(body)
    if protocol is Protocol.V2:
        outputs = answer.get("outputs")
        if not isinstance(outputs, list):
            raise _no_prediction('the JSON has no "outputs"')
        return tuple(_v2_output(one, at) for at, one in enumerate(outputs))
    if "predictions" not in answer:
        raise _no_prediction('the JSON has no "predictions"')
    return _plain_outputs(answer["predictions"])


def answer_of(body: bytes) -> Mapping[str, Json]:
    """An answer's JSON object. InferenceFailed, in words, when it is none or too deep."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if "depth" in error.msg or "recursion" in error.msg:
            raise _no_prediction("its JSON is nested more than 1,000 deep") from error
        shown = one_line(body[:200].decode("utf-8", "replace"), 80) or "nothing"
        raise _no_prediction(f"it is no JSON: {shown}") from error
    if not isinstance(answer, dict):
        raise _no_prediction("it is no JSON object")
    return answer


def _no_prediction(why: str) -> InferenceFailed:
    return InferenceFailed(
        "The answer is no prediction.",
        why=f"{why[:1].upper()}{why[1:]}.",
        fix="Check that the address is a model server's and that the protocol is its own.",
    )


def _v2_output(one: Json, at: int) -> Output:
    try:
        shape = tuple(int(size) for size in one["shape"])
        flat = list(_leaves(one["data"]))
        name, datatype = str(one.get("name") or f"output-{at}"), str(one.get("datatype", ""))
        content = (one.get("parameters") or {}).get("content_type", "")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _no_prediction(f"output {at + 1} has no shape or no data") from error
    if content == "pd_json":
        flat = [_json_or_text(value) if isinstance(value, str) else value for value in flat]
    if any(size < 0 for size in shape) or math.prod(shape) != len(flat):
        raise _no_prediction(
            f"output {at + 1} says shape {_shape_text(shape)} and holds {len(flat)} values"
        )
    # [n, 1] is how MLServer writes a column (mlserver/codecs/utils.py, inject_batch_dimension).
    rows = shape[:1] if len(shape) == 2 and shape[1] == 1 else shape
    values = _nested(flat, rows)
    return Output(name, datatype, shape, tuple(values) if isinstance(values, list) else (values,))


def _plain_outputs(predictions: Json) -> tuple[Output, ...]:
    if isinstance(predictions, dict):
        return tuple(
            _plain_output(name, values if isinstance(values, list) else [values])
            for name, values in predictions.items()
        )
    values = predictions if isinstance(predictions, list) else [predictions]
    if values and all(isinstance(row, dict) for row in values):
        names = dict.fromkeys(itertools.chain.from_iterable(values))
        return tuple(_plain_output(name, [row.get(name) for row in values]) for name in names)
    return (_plain_output("predictions", values),)


_PLAIN_DATATYPES: Mapping[type, str] = {bool: "BOOL", int: "INT64", float: "FP64", str: "BYTES"}


def _plain_output(name: str, values: Sequence[Json]) -> Output:
    try:
        shape, _ = _flattened(list(values))
    except _Misfit:
        shape = (len(values),)
    types = {type(one) for one in itertools.islice(_leaves(list(values)), 1000)} - {type(None)}
    if types == {int, float}:
        types = {float}
    datatype = _PLAIN_DATATYPES.get(next(iter(types)), "") if len(types) == 1 else ""
    return Output(name, datatype, shape, tuple(values))


def compare_outputs(
    left: Prediction, right: Prediction, tolerance: float = 1e-9
) -> tuple[Difference, ...]:
    """Where two answers to one request differ, output by output and row by row, at most 1,000.

    Numbers differ when |a − b| > tolerance · max(1, |a|, |b|). Names are no difference: servers
    rename outputs, so they are compared by position.
    """
    found = itertools.islice(_differences(left, right, tolerance), MAX_DIFFERENCES)
    return tuple(found)


def _differences(left: Prediction, right: Prediction, tolerance: float) -> Iterator[Difference]:
    if len(left.outputs) != len(right.outputs):
        yield Difference(
            "outputs", str(len(left.outputs)), str(len(right.outputs)), why="other outputs"
        )
    for at, (one, other) in enumerate(zip(left.outputs, right.outputs, strict=False), start=1):
        place = f"output {at}"
        if len(one.values) != len(other.values):
            yield Difference(
                place,
                _shape_text(one.shape),
                _shape_text(other.shape),
                why="other number of rows",
            )
        for row, (a, b) in enumerate(zip(one.values, other.values, strict=False), start=1):
            why = _how_different(a, b, tolerance)
            if why:
                yield Difference(
                    f"{place}, row {row}", one_line(_as_text(a)), one_line(_as_text(b)), why=why
                )


def _how_different(left: Json, right: Json, tolerance: float) -> str:
    """Why two values differ, "" when they do not; lists by their largest difference."""
    if isinstance(left, list) and isinstance(right, list):
        if len(left) != len(right):
            return "other length"
        return next(
            filter(
                None, (_how_different(a, b, tolerance) for a, b in zip(left, right, strict=True))
            ),
            "",
        )
    numbers = [isinstance(v, (int, float)) and not isinstance(v, bool) for v in (left, right)]
    if all(numbers):
        gap = abs(left - right)
        return f"differs by {gap:.6g}" if gap > tolerance * max(1.0, abs(left), abs(right)) else ""
    return "" if left == right and type(left) is type(right) else "other value"


# ── Showing a request ─────────────────────────────────────────────────────────────────────────

_OPEN_HEADERS = ("x-slipway-",)
"""Headers that hold no secret; every other one is shown as a variable of the environment."""


def _variable(header: str) -> str:
    return "SLIPWAY_" + re.sub(r"[^A-Z0-9]", "_", header.upper())


def _is_secret(header: str) -> bool:
    return not header.lower().startswith(_OPEN_HEADERS)


def secret_variables(endpoint: Endpoint) -> Iterable[str]:
    """The environment variables that `as_curl` and `as_python` read instead of showing secrets."""
    return [_variable(name) for name, _ in endpoint.headers if _is_secret(name)]


def as_curl(endpoint: Endpoint, request: InferRequest) -> str:
    """The request as one curl command that runs as pasted into a POSIX shell.

    Secrets are read from the environment (`SLIPWAY_AUTHORIZATION`). A body above 100 kB is read
    from `request.json`.
    """
    # -g: no globbing of [] and {} in the URL; -q first: no ~/.curlrc.
    parts = ["curl -qsSg --noproxy '*'"]
    if endpoint.ca_file:
        parts.append(f"--cacert {shlex.quote(endpoint.ca_file)}")
    if endpoint.host:
        parts.append(f"-H {shlex.quote(f'Host: {endpoint.host}')}")
    parts.append(f"-H {shlex.quote(f'Content-Type: {request.content_type}')}")
    for name, value in endpoint.headers:
        if _is_secret(name):
            parts.append(f'-H {shlex.quote(f"{name}: ")}"${_variable(name)}"')
        else:
            parts.append(f"-H {shlex.quote(f'{name}: {value}')}")
    if len(request.body) > MAX_SHOWN_BODY_BYTES:
        parts.append("--data-binary @request.json")
    else:
        # --data-raw: a leading "@" is no file name.
        parts.append(f"--data-raw {shlex.quote(request.body.decode('utf-8', 'replace'))}")
    parts.append(shlex.quote(endpoint.base_url + request.path))
    return " \\\n  ".join(parts)


def as_python(endpoint: Endpoint, request: InferRequest) -> str:
    """The request as a Python script of the standard library alone, secrets as in `as_curl`."""
    headers = [f'    "Content-Type": {request.content_type!r},']
    if endpoint.host:
        headers.append(f'    "Host": {endpoint.host!r},')
    secret = False
    for name, value in endpoint.headers:
        if _is_secret(name):
            secret = True
            headers.append(f"    {name!r}: environ[{_variable(name)!r}],")
        else:
            headers.append(f"    {name!r}: {value!r},")
    large = len(request.body) > MAX_SHOWN_BODY_BYTES
    tls = endpoint.base_url.startswith("https:") and endpoint.ca_file
    lines = ["import json"]
    lines += ["import ssl"] if tls else []
    lines += ["import urllib.request"]
    lines += ["from os import environ", ""] if secret else [""]
    if large:
        lines += ['with open("request.json", "rb") as file:', "    body = json.load(file)"]
    else:
        literal = pprint.pformat(orjson.loads(request.body), width=96, sort_dicts=False)
        lines += [f"body = {literal}"]
    lines += ["headers = {", *headers, "}"]
    context = f"ssl.create_default_context(cafile={endpoint.ca_file!r})" if tls else ""
    handlers = "urllib.request.ProxyHandler({})"
    if context:
        handlers += f", urllib.request.HTTPSHandler(context={context})"
    lines += [
        "request = urllib.request.Request(",
        f"    {endpoint.base_url + request.path!r}, json.dumps(body).encode(), headers",
        ")",
        f"with urllib.request.build_opener({handlers}).open(request, timeout=30) as answer:",
        "    print(answer.read().decode())",
    ]
    return "\n".join(lines) + "\n"
