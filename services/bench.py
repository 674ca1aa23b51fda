"""Requests made of rows, answers read back, both shown: pure rules on plain data, no I/O, no clock.

The front door of its neighbours too: text becomes `Rows` in reading.py (`parse_rows`,
`rows_from_form`), rows are held against the signature in rows.py (`check_rows`, `problems_of`), and
only rows that fit become an encoded request here (`request_for`). The way back is `outputs_of` and
`compare_outputs`; `as_curl` and `as_python` show a request in a form that runs as pasted. Sending
is predictor.py's part, load tests are `engine`'s.

The V2 encoding was read against MLServer 1.7.1 and mlserver-mlflow 1.7.1 and is checked on a real
MLServer for every kind of column, tensor and parameter (tests/local/test_predict_mlserver.py).
"""

from __future__ import annotations

import itertools
import math
import pprint
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from urllib.parse import quote

import orjson

from services.answer import json_of
from services.domain import (
    ColumnSpec,
    Difference,
    Endpoint,
    InferRequest,
    Json,
    Output,
    Prediction,
    Protocol,
    Signature,
    TensorSpec,
    ValueKind,
    WayIn,
)
from services.errors import InferenceFailed, SignatureMismatch, one_line
from services.reading import (
    V2_RESERVED,
    FormField,
    as_text,
    example_rows,
    form_fields,
    form_rows,
    json_or_text,
    parse_rows,
    rows_from_form,
)
from services.rows import (
    MAX_CELLS,
    MAX_TEXT_BYTES,
    Misfit,
    Problem,
    Rows,
    check_rows,
    dtype_named,
    dtype_of,
    flattened,
    flattened_again,
    label_of,
    leaves,
    mismatch,
    nested,
    problems_of,
    refused,
    shape_text,
)

__all__ = [
    "MAX_CELLS",
    "MAX_DIFFERENCES",
    "MAX_SHOWN_BODY_BYTES",
    "MAX_TEXT_BYTES",
    "FormField",
    "Problem",
    "Rows",
    "answer_of",
    "as_curl",
    "as_python",
    "check_rows",
    "compare_outputs",
    "example_rows",
    "form_fields",
    "form_rows",
    "outputs_of",
    "parse_rows",
    "problems_of",
    "repeated",
    "request_for",
    "request_for_example",
    "rows_from_form",
    "secret_variables",
]

MAX_DIFFERENCES = 1_000
"""Differences listed between two answers."""
MAX_SHOWN_BODY_BYTES = 100_000
"""A single argument of a Linux process holds 128 KiB: larger bodies are shown as a file's name."""

# ── Requests ──────────────────────────────────────────────────────────────────────────────────


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

_TOLD_COLUMNS = {pair: kind for kind, pair in _V2_COLUMNS.items()}

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
    return mismatch([Problem(name, row, f"{protocol} has no null for {kind}.", fix)])


def _full_time(text: str) -> str:
    # pandas reads a whole column in its first value's format: all of one length, or it fails.
    return text if "." in text else f"{text}.000000"


def signature_told(metadata: Json) -> Signature | None:
    """The signature that a V2 server's metadata of its model amounts to; None where it tells none.

    MLServer marks a model that takes columns with the content type `pd`
    (https://mlserver.readthedocs.io/en/stable/user-guide/content-type.html). Which inputs may be
    left out, and what nested values hold, no server tells.
    """
    told = metadata if isinstance(metadata, dict) else {}
    inputs = [one for one in told.get("inputs") or () if isinstance(one, dict)]
    takes_columns = (told.get("parameters") or {}).get("content_type") == "pd"
    specs = [_column_told(one) if takes_columns else _tensor_told(one) for one in inputs]
    known = tuple(spec for spec in specs if spec is not None)
    return Signature(inputs=known) if known and len(known) == len(inputs) else None


def _column_told(one: Mapping[str, Json]) -> ColumnSpec | None:
    content = (one.get("parameters") or {}).get("content_type", "np")
    kind = _TOLD_COLUMNS.get((str(one.get("datatype")), str(content)))
    return None if kind is None else ColumnSpec(str(one.get("name", "")), kind)


def _tensor_told(one: Mapping[str, Json]) -> TensorSpec | None:
    dtype = dtype_named(str(one.get("datatype")))
    axes = one.get("shape")
    if dtype is None or not isinstance(axes, list) or not all(isinstance(n, int) for n in axes):
        return None
    return TensorSpec(str(one.get("name", "")), dtype, tuple(axes))


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


def repeated(rows: Rows, count: int) -> Rows:
    """The same rows, over and over until there are `count`; tensors along their first axis."""
    if not rows.tensors:
        return replace(rows, data=tuple(itertools.islice(itertools.cycle(rows.data), count)))
    longer = {
        name: list(itertools.islice(itertools.cycle(value), count))
        if isinstance(value, list)
        else value
        for name, value in rows.tensors.items()
    }
    return replace(rows, tensors=longer)


def _v2_body(signature: Signature | None, rows: Rows) -> dict[str, Json]:
    for name in rows.params:
        if name in V2_RESERVED:
            raise mismatch(
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
    shape, flat = flattened(value) if spec is None else flattened_again(value)
    return {
        "name": label_of(name, at),
        "shape": list(shape),
        "datatype": dtype_of(dtype).code,
        "parameters": {"content_type": "np"},
        "data": flat,
    }


def _v2_columns(signature: Signature | None, rows: Rows) -> list[dict[str, Json]]:
    columns = list(zip(*rows.data, strict=True))
    if signature is None:
        names = rows.columns or tuple(label_of("", at) for at in range(len(columns)))
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
        raise refused(
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
        answer = json_of(body)
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
        flat = list(leaves(one["data"]))
        name, datatype = str(one.get("name") or f"output-{at}"), str(one.get("datatype", ""))
        content = (one.get("parameters") or {}).get("content_type", "")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _no_prediction(f"output {at + 1} has no shape or no data") from error
    if content == "pd_json":
        flat = [json_or_text(value) if isinstance(value, str) else value for value in flat]
    if any(size < 0 for size in shape) or math.prod(shape) != len(flat):
        raise _no_prediction(
            f"output {at + 1} says shape {shape_text(shape)} and holds {len(flat)} values"
        )
    # [n, 1] is how MLServer writes a column (mlserver/codecs/utils.py, inject_batch_dimension).
    rows = shape[:1] if len(shape) == 2 and shape[1] == 1 else shape
    values = nested(flat, rows)
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
        shape, _ = flattened(list(values))
    except Misfit:
        shape = (len(values),)
    types = {type(one) for one in itertools.islice(leaves(list(values)), 1000)} - {type(None)}
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
                shape_text(one.shape),
                shape_text(other.shape),
                why="other number of rows",
            )
        for row, (a, b) in enumerate(zip(one.values, other.values, strict=False), start=1):
            why = _how_different(a, b, tolerance)
            if why:
                yield Difference(
                    f"{place}, row {row}", one_line(as_text(a)), one_line(as_text(b)), why=why
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
        literal = pprint.pformat(
            orjson.loads(request.body), width=96, sort_dicts=False, compact=True
        )
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


def way_warning(via: WayIn) -> str:
    """What a load test over this way in measures beside the service; "" when nothing."""
    if via not in {WayIn.SERVICE_PROXY, WayIn.PORT_FORWARD}:
        return ""
    pod = " to one of its pods" if via is WayIn.PORT_FORWARD else ""
    return (
        f"The requests go through the API server{pod} (way in: {via}): this measures that"
        " way as well, and loads the API server. Set `ingress` of the target to measure it alone."
    )
