"""Rows, and whether they fit a signature: pure rules on plain data, no I/O.

`check_rows` gives the rows in the signature's order and types or raises SignatureMismatch with
column, row and type; `problems_of` lists everything that is wrong. Reading rows from text is
reading.py's part, making requests of them bench.py's.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from typing import Final

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

MAX_TEXT_BYTES = 32 * 2**20
"""Typed or uploaded text. Ten-megabyte bodies are in use; more belongs in a batch job."""
MAX_CELLS = 4_000_000
"""Values per request: 32 MiB of digits and commas hold about this many."""
MAX_PROBLEMS_TOLD = 10
"""Of those, told with an error."""
MAX_PROBLEMS = 100
"""Problems listed at once; more help nobody."""

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
        names = self.columns or tuple(label_of("", at) for at in range(width_of(self.data)))
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
    part: str = "column"
    """What `column` names: a column, a tensor or a parameter."""

    def as_row(self) -> dict[str, str | int | None]:
        """Plain data; `told` is the whole in one line."""
        return {
            "column": one_line(self.column),
            "row": self.row,
            "part": self.part,
            "why": self.why,
            "fix": self.fix,
            "told": str(self),
        }

    def __str__(self) -> str:
        row = "" if self.row is None else f"row {self.row}"
        name = f'{self.part} "{one_line(self.column, 80)}"' if self.column else ""
        where = ", ".join(filter(None, (row, name)))
        return f"{where[:1].upper()}{where[1:]}: {self.why}" if where else self.why


class _Missing:
    """Stands where a record lacks a value that others have; see MISSING."""

    def __bool__(self) -> bool:
        return False


MISSING: Final = _Missing()
"""In the rows of records, until they are checked: not there, which is no null that was written."""


class Misfit(Exception):
    """One value does not fit; becomes a Problem where row and column are known."""

    def __init__(self, why: str, fix: str = "") -> None:
        super().__init__(why)
        self.why = why
        self.fix = fix


def mismatch(problems: Sequence[Problem]) -> SignatureMismatch:
    """The error that names the first problem, counts the others and carries up to ten."""
    others = len(problems) - 1
    many = "or more " if len(problems) >= MAX_PROBLEMS else ""
    more = f" ({others:,} {many}more {'does' if others == 1 else 'do'} not fit.)" if others else ""
    return SignatureMismatch(
        "The request was not sent.",
        why=f"{problems[0]}{more}",
        fix=problems[0].fix or "Write the rows as the signature asks, or start from the example.",
        problems=[problem.as_row() for problem in problems[:MAX_PROBLEMS_TOLD]],
    )


def refused(why: str, fix: str = "") -> SignatureMismatch:
    """The error for what concerns the whole of what was written."""
    return mismatch([Problem("", None, why, fix)])


def width_of(data: Sequence[Sequence[Json]]) -> int:
    """How many values the first row has."""
    return len(data[0]) if data else 0


def label_of(name: str, at: int) -> str:
    """The name under which MLServer knows a nameless input (mlserver_mlflow/metadata.py)."""
    return name or f"input-{at}"


# ── Holding rows against the signature ────────────────────────────────────────────────────────


def check_rows(rows: Rows, signature: Signature) -> Rows:
    """The rows in the signature's order and types, optional columns filled with null.

    Coerces only what loses nothing (5 to 5.0, "5" of a CSV to 5, ISO dates). SignatureMismatch
    names the first wrong column, row (1-based) and type, and how many more there are.
    """
    checked, problems = _checked(rows, signature)
    if problems:
        raise mismatch(problems)
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
    names = tuple(label_of(spec.name, at) for at, spec in enumerate(specs))
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
    width = width_of(rows.data)
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
    return (
        f"{shown} and {len(names) - most} more"
        if len(names) > most + 1
        else ", ".join(one_line(name, 40) for name in names[: most + 1])
    )


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
    except Misfit as misfit:
        return values, [Problem(name, None, misfit.why, misfit.fix)]
    checked: list[Json] = []
    problems: list[Problem] = []
    for number, value in enumerate(values, start=1):
        try:
            checked.append(_fitted(value, shape, required=spec.required, typed=typed))
        except Misfit as misfit:
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
    """One value as its type wants it, or Misfit. Empty text of a CSV stands for no value."""
    if value is MISSING:
        if required and shape.kind is not ValueKind.ANY:
            raise Misfit(
                f"it is missing; the signature wants {shape.kind}.",
                "Add it to the row: the column is not optional.",
            )
        return None
    if value is None or (not typed and value == "" and _empty_means_none(shape, required)):
        if required and shape.kind is not ValueKind.ANY:
            raise Misfit(
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
        raise Misfit(
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
    try:
        return _shape_of_json(orjson.loads(spec.spec_json))
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise Misfit(
            f"the signature's own type cannot be read: {one_line(spec.spec_json, 80)}.",
            "Log the model again with infer_signature().",
        ) from error


def _shape_of_json(node: Json) -> _Shape:
    """MLflow's JSON of a type (mlflow.types.schema, to_dict) as a shape."""
    if isinstance(node, str):
        return _Shape(ValueKind(node))
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
    ValueKind.INTEGER: "a whole number",
    ValueKind.LONG: "a whole number",
    ValueKind.FLOAT: "a number",
    ValueKind.DOUBLE: "a number",
    ValueKind.STRING: "the text in quotes",
    ValueKind.BINARY: "the bytes as base64",
    ValueKind.DATETIME: "a date like 2026-01-31 or 2026-01-31T12:00:00",
    ValueKind.ARRAY: "a list: [1, 2, 3]",
    ValueKind.OBJECT: 'an object: {"name": value}',
    ValueKind.MAP: 'an object: {"key": value}',
    ValueKind.ANY: "any JSON value",
}


def _wrong(value: Json, shape: _Shape) -> Misfit:
    return Misfit(f"it wants {shape.kind} and holds {_shown(value)}.", _fix_of(shape.kind))


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


def _beyond(value: Json, shape: _Shape, of: str) -> Misfit:
    return Misfit(
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
        raise Misfit(
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
        raise Misfit("it holds half a surrogate pair, which is no Unicode text.", "Mend the text.")
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
        raise Misfit(
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
    except Misfit as misfit:
        raise Misfit(f"in {where}, {misfit.why}", misfit.fix) from misfit


def _object(value: Json, shape: _Shape) -> Json:
    if not isinstance(value, dict):
        raise _wrong(value, shape)
    if not shape.properties:
        return value
    known = {name for name, _, _ in shape.properties}
    for name in value:
        if name not in known:
            raise Misfit(
                f'its property "{one_line(name, 80)}" is not in the signature.',
                f"Leave it out; the properties are {_listed(sorted(known))}.",
            )
    checked = {}
    for name, inner, required in shape.properties:
        if name not in value and required:
            raise Misfit(
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
            fix = f"The parameters are {_listed(sorted(specs))}." if specs else "Leave it out."
            why = "the signature has no such parameter."
            problems.append(Problem(name, None, why, fix, "parameter"))
            continue
        try:
            checked[name] = _checked_param(spec, value, rows.typed)
        except Misfit as misfit:
            problems.append(Problem(name, None, misfit.why, misfit.fix, "parameter"))
    return checked, problems


def _checked_param(spec: ParamSpec, value: Json, typed: bool) -> Json:
    inner = _Shape(spec.kind)
    shape = inner if spec.shape is None else _Shape(ValueKind.ARRAY, inner=inner)
    # A parameter without a default may be null; MLflow lets null through for each type.
    required = (spec.default_json or "null") != "null"
    return _fitted(value, shape, required=required, typed=typed)


# ── Tensors ───────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Dtype:
    """A numpy type as V2 names it, and the range of its whole numbers."""

    code: str
    lowest: int | None = None
    highest: int | None = None
    limit: float = math.inf
    """The largest number of a float type."""


def _integers(prefix: str, bits: int) -> Dtype:
    if prefix == "UINT":
        return Dtype(f"UINT{bits}", 0, 2**bits - 1)
    return Dtype(f"INT{bits}", -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


_DTYPES: Mapping[str, Dtype] = {
    "bool": Dtype("BOOL"),
    **{f"int{bits}": _integers("INT", bits) for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": _integers("UINT", bits) for bits in (8, 16, 32, 64)},
    "float16": Dtype("FP16", limit=65504.0),
    "float32": Dtype("FP32", limit=_FLOAT32_MAX),
    "float64": Dtype("FP64"),
    "str": Dtype("BYTES"),
    "object": Dtype("BYTES"),
}


def dtype_of(name: str) -> Dtype:
    """A numpy type's name as V2 knows it. SignatureMismatch for what JSON cannot carry."""
    if name.startswith(("<U", "|U", "U", "str")):
        name = "str"
    found = _DTYPES.get(name)
    if found is None:
        raise refused(
            f"Tensors of type {one_line(name, 40)} have no place in a JSON request.",
            "Log the model with numbers, booleans or text.",
        )
    return found


def dtype_named(code: str) -> str | None:
    """The numpy type's name of V2's code; None for what V2 does not know."""
    return next((name for name, dtype in _DTYPES.items() if dtype.code == code), None)


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
            "tensor",
        )
        for name in given
        if name not in known
    ]
    checked: dict[str, Json] = {}
    for at, spec in enumerate(specs):
        label = label_of(spec.name, at)
        if spec.name not in given:
            why = f"it is missing; the signature wants {spec.dtype} {shape_text(spec.shape)}."
            problems.append(Problem(label, None, why, "Add the tensor.", "tensor"))
            continue
        try:
            checked[spec.name] = _checked_tensor(given[spec.name], spec, rows.typed)
        except Misfit as misfit:
            problems.append(Problem(label, None, misfit.why, misfit.fix, "tensor"))
    return Rows(tensors=checked), problems


def _tensors_of_table(rows: Rows, specs: Sequence[TensorSpec]) -> Mapping[str, Json]:
    """A table for a tensor signature: by name, or as the one matrix (what MLflow does too)."""
    if rows.columns and any(spec.name in rows.columns for spec in specs):
        columns = zip(*rows.data, strict=True)
        return {name: list(one) for name, one in zip(rows.columns, columns, strict=True)}
    if not rows.data:
        return {}
    single = width_of(rows.data) == 1 and isinstance(rows.data[0][0], list)
    return {specs[0].name: [row[0] if single else list(row) for row in rows.data]}


def shape_text(shape: Sequence[int]) -> str:
    """A shape as people write it, `n` for any length."""
    return "(" + ", ".join("n" if size == ANY else str(size) for size in shape) + ")"


def _checked_tensor(value: Json, spec: TensorSpec, typed: bool) -> Json:
    shape, flat, types = _flattened(value)
    fits = len(shape) == len(spec.shape) and all(
        wanted in (ANY, size) for wanted, size in zip(spec.shape, shape, strict=False)
    )
    if not fits:
        raise Misfit(
            f"it wants shape {shape_text(spec.shape)} and has {shape_text(shape)}.",
            "Nest the lists like the signature's shape, rows first.",
        )
    if math.prod(shape) > MAX_CELLS:
        raise Misfit(f"it has more than {MAX_CELLS:,} values.", "Send fewer rows at a time.")
    dtype = dtype_of(spec.dtype)
    if _all_fit(flat, types, dtype):
        return value
    return nested(
        [_element(one, dtype, spec.dtype, at, shape, typed=typed) for at, one in enumerate(flat)],
        shape,
    )


def _all_fit(flat: Sequence[Json], types: set[type], dtype: Dtype) -> bool:
    """The fast path for what most tensors are: values of one type within its range."""
    if not flat or dtype.code in {"BOOL", "BYTES"}:
        return types == ({bool} if dtype.code == "BOOL" else {str})
    if dtype.lowest is not None and dtype.highest is not None:
        return types == {int} and dtype.lowest <= min(flat) and max(flat) <= dtype.highest
    # One that is not finite makes the sum so; finite ones may, too, and are then looked at singly.
    if types != {float} or not math.isfinite(sum(flat)):
        return False
    return dtype.limit == math.inf or (-dtype.limit <= min(flat) and max(flat) <= dtype.limit)


def flattened(value: Json) -> tuple[tuple[int, ...], list[Json]]:
    """Shape and row-major values of nested lists; Misfit when a level is ragged."""
    shape, flat, _ = _flattened(value)
    return shape, flat


def flattened_again(value: Json) -> tuple[tuple[int, ...], list[Json]]:
    """As `flattened`, for a tensor that was checked: its first row speaks for all."""
    shape: list[int] = []
    level: list[Json] = [value]
    while level and isinstance(level[0], list):
        shape.append(len(level[0]))
        level = list(itertools.chain.from_iterable(level))
    return tuple(shape), level


def _flattened(value: Json) -> tuple[tuple[int, ...], list[Json], set[type]]:
    """Shape, row-major values and their types."""
    shape: list[int] = []
    level: list[Json] = [value]
    while level and isinstance(level[0], list):
        if set(map(type, level)) != {list}:
            break
        if len(set(map(len, level))) > 1:
            raise Misfit(
                f"its lists have different lengths at depth {len(shape) + 1}.",
                "Make every list of one depth as long as the others.",
            )
        shape.append(len(level[0]))
        level = list(itertools.chain.from_iterable(level))
    types = set(map(type, level))
    if list in types:
        raise Misfit(
            f"it mixes lists and values at depth {len(shape) + 1}.", "Nest every row alike."
        )
    return tuple(shape), level, types


def leaves(value: Json) -> Iterator[Json]:
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


def nested(flat: Sequence[Json], shape: Sequence[int]) -> Json:
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
    value: Json, dtype: Dtype, name: str, at: int, shape: Sequence[int], *, typed: bool
) -> Json:
    if not typed and isinstance(value, str) and dtype.code != "BYTES":
        bare = value.strip()
        is_word = dtype.code == "BOOL" and bare.lower() in _WORDS
        value = _WORDS[bare.lower()] if is_word else _number_from_text(bare, value, required=True)
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
        raise Misfit(
            f"at {_place(at, shape)} it wants {name} and holds {_shown(value)}.",
            f"Write values of type {name}.",
        )
    return value


def _float_element(value: float, dtype: Dtype, name: str, at: int, shape: Sequence[int]) -> Json:
    number = float(value) if abs(value) < 2**1023 else math.inf
    if not math.isfinite(number) or abs(number) > dtype.limit:
        raise Misfit(
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
