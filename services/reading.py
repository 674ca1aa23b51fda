"""Rows from what people write and upload: JSON in every spelling in use, CSV, forms, examples.

`parse_rows` and `rows_from_form` give rows that fit the signature (rows.py says whether they do).
Parquet is tabular.py's part: it needs a library.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import orjson

from services.domain import (
    ANY,
    ColumnSpec,
    Json,
    ParamSpec,
    Signature,
    TensorSpec,
    ValueKind,
)
from services.errors import SignatureMismatch, one_line
from services.rows import (
    MAX_CELLS,
    MAX_TEXT_BYTES,
    MISSING,
    Problem,
    Rows,
    check_rows,
    dtype_of,
    label_of,
    leaves,
    mismatch,
    nested,
    refused,
    shape_text,
    width_of,
)

# ── Reading text ──────────────────────────────────────────────────────────────────────────────

# Names that MLServer keeps for itself in a request's `parameters` (mlserver/types/dataplane.py,
# mlserver/codecs/utils.py): everything else reaches the model as a parameter.
V2_RESERVED = frozenset({"content_type", "headers", "_decoded_payload"})

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
        raise refused(
            f"The text has {len(raw):,} bytes; {MAX_TEXT_BYTES:,} are the most.",
            "Send fewer rows at a time.",
        )
    if not raw.strip():
        raise refused("There are no rows: the text is empty.", "Start from the example.")
    kind = content or _guessed_content(raw, signature)
    rows = _rows_of_csv(raw, signature) if kind == "csv" else _rows_of_json(raw, signature)
    return rows if signature is None else check_rows(rows, signature)


def _guessed_content(raw: bytes, signature: Signature | None) -> Literal["json", "csv"]:
    """JSON begins with a bracket, or is one scalar; all else is CSV, were it only a header."""
    start = raw.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start[:1] in b"[{":
        return "json"
    try:
        orjson.loads(start)
    except orjson.JSONDecodeError:
        line = start.rstrip()
        is_header = b"," in line or line.decode("utf-8", "replace") in _names(signature)
        return "csv" if b"\n" in line or is_header else "json"
    return "json"


def _rows_of_csv(raw: bytes, signature: Signature | None) -> Rows:
    # The csv module refuses cells above 128 KiB unless told otherwise: images as base64 are longer.
    csv.field_size_limit(MAX_TEXT_BYTES)
    try:
        lines = list(csv.reader(io.StringIO(raw.decode("utf-8-sig")), strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise refused(
            f"The CSV cannot be read: {one_line(error)}.", "Save it as UTF-8 with commas."
        ) from error
    lines = [line for line in lines if line]
    if len(lines) < 2:
        raise refused(
            "The CSV has no rows below its header line.",
            "Put the column names in the first line and the values below.",
        )
    header = tuple(name.strip() for name in lines[0])
    if len(header) == 1 and ";" in header[0] and header[0] not in _names(signature):
        raise refused("The CSV is parted by semicolons.", "Save it with commas.")
    for number, line in enumerate(lines[1:], start=1):
        if len(line) != len(header):
            raise refused(
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
    if body == []:
        raise refused("There are no rows.", "Write at least one row.")
    params: Mapping[str, Json] = {}
    if isinstance(body, dict) and not _is_bare_row(body, signature):
        given = body.pop("params", None) or {}
        if not isinstance(given, dict):
            raise refused('"params" is no object.', 'Write {"params": {"name": value}}.')
        params = given
        wrappers = [name for name in _WRAPPERS if name in body]
        if len(wrappers) > 1:
            raise refused(f"Both {wrappers[0]} and {wrappers[1]} are given.", "Keep one of them.")
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
            raise refused(
                "JSON has no NaN and no Infinity.", "Write null where the column is optional."
            ) from error
        if "depth" in error.msg or "recursion" in error.msg:
            raise refused(
                "The JSON is nested more than 1,000 deep.", "Write rows as lists or objects."
            ) from error
        raise refused(
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
    return {name: value for name, value in given.items() if name not in V2_RESERVED}


def _of_split(value: Json, _signature: Signature | None) -> Rows:
    if not isinstance(value, dict) or not isinstance(value.get("data"), list):
        raise refused('dataframe_split has no "data".', 'Write {"columns": […], "data": [[…]]}.')
    names = value.get("columns")
    columns = tuple(map(str, names)) if isinstance(names, list) else ()
    return _of_lists(value["data"], columns)


def _of_records(value: Json, signature: Signature | None) -> Rows:
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise refused("dataframe_records is no list of objects.", 'Write [{"column": value}].')
    # A dict keeps the order in which names were first seen; a set would not.
    columns = tuple(dict.fromkeys(itertools.chain.from_iterable(value)))
    if len(columns) * len(value) > MAX_CELLS:  # a name of its own in every record multiplies
        raise refused(f"More than {MAX_CELLS:,} values.", "Send fewer rows at a time.")
    # Tensors have no place for "missing", and without a signature nobody looks for it.
    absent = None if signature is None or signature.is_tensor else MISSING
    return Rows(columns, tuple(tuple(row.get(name, absent) for name in columns) for row in value))


def _of_lists(value: Sequence[Json], columns: tuple[str, ...] = ()) -> Rows:
    data = tuple(tuple(row) if isinstance(row, list) else (row,) for row in value)
    width = len(columns) or width_of(data)
    for number, row in enumerate(data, start=1):
        if len(row) != width:
            raise mismatch(
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
        raise refused("The tensors have different numbers of rows.")
    return Rows(tuple(str(one["name"]) for one in inputs), tuple(zip(*columns, strict=True)))


def _sizes(one: Mapping[str, Json]) -> list[int]:
    shape = one["shape"]
    if not isinstance(shape, list) or not shape:
        shape = [-1]
    if all(type(size) is int and size >= 0 for size in shape):
        return shape
    why = f"{one_line(one['shape'], 40)} is no shape."
    raise mismatch([Problem(str(one["name"]), None, why, "Write the lengths: [rows, …].")])


def _v2_values(one: Mapping[str, Json], sizes: Sequence[int]) -> list[Json]:
    flat = list(leaves(one["data"]))
    if math.prod(sizes) != len(flat):
        why = f"shape {shape_text(sizes)} does not hold {len(flat)} values."
        raise mismatch([Problem(str(one["name"]), None, why)])
    parameters = one.get("parameters")
    if isinstance(parameters, dict) and parameters.get("content_type") == "pd_json":
        flat = [_parsed(str(text).encode()) for text in flat]
    return list(nested(flat, sizes))


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
        raise refused(
            f"The signature has {len(names)} tensors, one list is given.",
            f'Write {{"inputs": {{"{names[0]}": […], …}}}}.',
        )
    return Rows(tensors={names[0]: value})


def _of_dict(value: Mapping[str, Json], signature: Signature | None) -> Rows:
    names = _names(signature)
    if {"columns", "data"} <= set(value) and "data" not in names:
        return _of_split(value, signature)
    specs = signature.inputs if signature is not None else ()
    takes_lists = any(
        isinstance(spec, ColumnSpec) and spec.kind in {ValueKind.ARRAY, ValueKind.ANY}
        for spec in specs
    )
    lists = [column for column in value.values() if isinstance(column, list)]
    by_column = len(lists) == len(value) and len(set(map(len, lists))) == 1 and not takes_lists
    if by_column:
        return Rows(tuple(value), tuple(zip(*lists, strict=True)))
    return Rows(tuple(value), (tuple(value.values()),))


_READERS: Mapping[str, Callable[[Json, Signature | None], Rows]] = {
    "dataframe_split": _of_split,
    "dataframe_records": _of_records,
    "inputs": _of_inputs,
    "instances": _of_instances,
}


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
    name = label_of(spec.name, at)
    text = as_text(prefill[name]) if name in prefill else ""
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
        key=f"input.{label_of(spec.name, at)}",
        name=label_of(spec.name, at),
        kind="tensor",
        label=one_line(label_of(spec.name, at), 80),
        required=True,
        text=as_text(value),
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
        text=as_text(value),
        hint=_HINTS[spec.kind] if spec.shape is None else f"list of {spec.kind} as JSON",
        is_param=True,
    )


def _zeros(spec: TensorSpec) -> Json:
    zero = {"BYTES": "", "BOOL": False}.get(dtype_of(spec.dtype).code, 0)
    shape = [1 if size == ANY else size for size in spec.shape]
    return nested([zero] * math.prod(shape), shape) if math.prod(shape) <= 4096 else []


def as_text(value: Json) -> str:
    """A value as a form or a table shows it: text bare, null empty, all else as JSON."""
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
    labels = [label_of(spec.name, at) for at, spec in enumerate(signature.inputs)]
    texts = [values.get(f"input.{label}", "") for label in labels]
    params = {
        spec.name: values[f"param.{spec.name}"]
        for spec in signature.params
        if values.get(f"param.{spec.name}", "") != ""
    }
    if signature.is_tensor:
        tensors = {
            spec.name: json_or_text(text)
            for spec, text in zip(signature.inputs, texts, strict=True)
        }
        return Rows(tensors=tensors, params=params, typed=False)
    return Rows(tuple(labels), (tuple(texts),), params=params, typed=False)


def json_or_text(text: str) -> Json:
    """The JSON value that a text holds, or the text itself."""
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
            why="The version has no input example, or which one it serves is not known.",
            fix="Write the rows yourself, or log the model with input_example=…",
        )
    rows = _rows_of_json(example.encode(), signature)
    if signature is None:
        return rows
    return check_rows(_known_columns(rows, signature), signature)


def _known_columns(rows: Rows, signature: Signature) -> Rows:
    known = {label_of(spec.name, at) for at, spec in enumerate(signature.inputs)}
    if not rows.columns or signature.is_tensor or not known & set(rows.columns):
        return rows
    keep = [at for at, name in enumerate(rows.columns) if name in known]
    return replace(
        rows,
        columns=tuple(rows.columns[at] for at in keep),
        data=tuple(tuple(row[at] for at in keep) for row in rows.data),
    )
