"""Requests built from signatures, answered by a real MLServer: every kind of value arrives whole.

One server holds one echoing model per kind of signature (model_zoo.py). A model is loaded for its
tests only, because /invocations of MLServer belongs to the model that was loaded last.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services import bench, tabular
from services.domain import (
    ColumnSpec,
    Endpoint,
    InferRequest,
    ParamSpec,
    Prediction,
    Protocol,
    Signature,
    TensorSpec,
    ValueKind,
    VersionRef,
    WayIn,
)
from services.errors import InferenceFailed, SignatureMismatch
from services.predictor import HttpPredictor
from tests.local.model_zoo import UNICODE_NAMES

pytestmark = pytest.mark.local

BUILD = "import sys, pathlib; from tests.local.model_zoo import build; build(pathlib.Path('.'))"
ROOT = Path(__file__).parents[2]
START_S = 120


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def mlserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that has every model of the zoo in reach and none loaded."""
    # The folder is the working directory too: MLflow copies a uv project's lock file into models.
    folder = tmp_path_factory.mktemp("zoo")
    environment = {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BUILD],
        check=True,
        capture_output=True,
        cwd=folder,
        env=environment | {"HOME": str(folder)},
        timeout=START_S,
    )
    http, grpc, metrics = free_ports(3)
    settings = {
        "host": "127.0.0.1",
        "http_port": http,
        "grpc_port": grpc,
        "metrics_port": metrics,
        "parallel_workers": 0,
        "load_models_at_startup": False,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    log = folder / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [Path(sys.executable).parent / "mlserver", "start", "."],
            cwd=folder,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment | {"HOME": str(folder)},
        )
    try:
        wait_for(http, process, log)
        yield f"http://127.0.0.1:{http}"
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise AssertionError(log.read_text()[-4000:])


class Zoo:
    """Loads one model at a time and asks it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.loaded = ""
        self.predictor = HttpPredictor()

    def _repository(self, name: str, act: str) -> None:
        request = InferRequest(Protocol.V2, f"/v2/repository/models/{name}/{act}", b"")
        answer = self.predictor._exchange(self.endpoint(name), "POST", request.path, request, 60)
        assert answer.status == 200, answer.body

    def endpoint(self, name: str) -> Endpoint:
        return Endpoint(self.url, name, WayIn.LOOPBACK)

    def load(self, name: str) -> Endpoint:
        if name != self.loaded:
            if self.loaded:
                self._repository(self.loaded, "unload")
            self._repository(name, "load")
            self.loaded = name
        return self.endpoint(name)

    def ask(
        self, name: str, signature: Signature | None, rows: bench.Rows, protocol: Protocol
    ) -> Prediction:
        place = self.load(name)
        request = bench.request_for(signature, rows, model_name=name, protocol=protocol)
        return self.predictor.infer(place, request, timeout_s=60)

    def seen(
        self, name: str, signature: Signature | None, text: str, protocol: Protocol
    ) -> list[dict[str, Any]]:
        """What the model says that it was given, row by row."""
        answer = self.ask(name, signature, bench.parse_rows(text, signature), protocol)
        return [orjson.loads(one) for one in answer.outputs[0].values]


@pytest.fixture(scope="module")
def zoo(mlserver: str) -> Iterator[Zoo]:
    found = Zoo(mlserver)
    yield found
    found.predictor.close()


def columns(*kinds: ValueKind, names: Sequence[str] = ()) -> tuple[ColumnSpec, ...]:
    return tuple(ColumnSpec(name, kind) for name, kind in zip(names, kinds, strict=True))


POINT = {
    "type": "object",
    "properties": {
        "x": {"type": "double", "required": True},
        "label": {"type": "string", "required": False},
    },
}
SIGNATURES = {
    "numbers": columns(ValueKind.DOUBLE, ValueKind.FLOAT, names=("d", "f")),
    "integers": columns(ValueKind.INTEGER, ValueKind.LONG, names=("i", "l")),
    "flags": columns(ValueKind.BOOLEAN, names=("yes",)),
    "words": columns(ValueKind.STRING, names=("text",)),
    "times": columns(ValueKind.DATETIME, names=("at",)),
    "blobs": columns(ValueKind.BINARY, names=("blob",)),
    "mixed": columns(
        ValueKind.DOUBLE,
        ValueKind.INTEGER,
        ValueKind.BOOLEAN,
        ValueKind.STRING,
        ValueKind.DATETIME,
        names=("d", "i", "yes", "text", "at"),
    ),
    "arrays": (
        ColumnSpec("list", ValueKind.ARRAY, True, '{"type":"array","items":{"type":"double"}}'),
        ColumnSpec(
            "grid",
            ValueKind.ARRAY,
            True,
            '{"type":"array","items":{"type":"array","items":{"type":"long"}}}',
        ),
    ),
    "objects": (
        ColumnSpec("point", ValueKind.OBJECT, True, json.dumps(POINT)),
        ColumnSpec("path", ValueKind.ARRAY, True, json.dumps({"type": "array", "items": POINT})),
    ),
    "maps": (
        ColumnSpec("scores", ValueKind.MAP, True, '{"type":"map","values":{"type":"double"}}'),
    ),
    "anything": columns(ValueKind.ANY, names=("any",)),
    "nameless": (ColumnSpec("", ValueKind.DOUBLE), ColumnSpec("", ValueKind.STRING)),
}

# What is written, and what the model must be given, per kind.
ARRIVES: dict[str, tuple[list[Any], list[Any]]] = {
    "numbers": ([[1.5, 2.5], [3, 4]], [[1.5, 2.5], [3.0, 4.0]]),
    "integers": (
        [[2**31 - 1, 2**53 + 1], [-(2**31), -(2**63)]],
        [[2**31 - 1, 2**53 + 1], [-(2**31), -(2**63)]],
    ),
    "flags": ([[True], [False]], [[True], [False]]),
    "words": ([["hé 🍷"], ["line\n\x00'\""], [""]], [["hé 🍷"], ["line\n\x00'\""], [""]]),
    "times": (
        [["2026-01-31T12:00:00.5+01:00"], ["2026-02-01"], ["1999-12-31T23:59:59Z"]],
        [
            [{"datetime": "2026-01-31T11:00:00.500000"}],
            [{"datetime": "2026-02-01T00:00:00"}],
            [{"datetime": "1999-12-31T23:59:59"}],
        ],
    ),
    "blobs": ([["AAEC/w=="], ["dGV4dA=="]], [[{"binary": "AAEC/w=="}], [{"binary": "dGV4dA=="}]]),
    "mixed": (
        [[1, 2, True, "x", "2026-01-01"]],
        [[1.0, 2, True, "x", {"datetime": "2026-01-01T00:00:00"}]],
    ),
    "arrays": (
        [[[1, 2], [[1], [2, 3]]], [[], []]],
        [[[1.0, 2.0], [[1], [2, 3]]], [[], []]],
    ),
    "objects": (
        [[{"x": 1}, [{"x": 1, "label": "a"}, {"x": 2}]]],
        [[{"x": 1.0}, [{"x": 1.0, "label": "a"}, {"x": 2.0}]]],
    ),
    "maps": ([[{"a": 1, "ü": 2.5}]], [[{"a": 1.0, "ü": 2.5}]]),
    "anything": ([[{"x": [1, "2"]}], [3], [None]], [[{"x": [1, "2"]}], [3], [None]]),
    "nameless": ([[1, "a"], [2, "b"]], [[1.0, "a"], [2.0, "b"]]),
}
BOTH = [Protocol.V2, Protocol.INVOCATIONS]


@pytest.mark.parametrize("name", ARRIVES)
@pytest.mark.parametrize("protocol", BOTH)
def test_columns_of_every_kind_arrive_whole(zoo: Zoo, name: str, protocol: Protocol) -> None:
    written, wanted = ARRIVES[name]

    seen = zoo.seen(name, Signature(SIGNATURES[name]), json.dumps({"inputs": written}), protocol)

    assert [list(one["row"].values()) for one in seen] == wanted


@pytest.mark.parametrize("protocol", BOTH)
def test_numbers_arrive_in_the_signatures_own_width(zoo: Zoo, protocol: Protocol) -> None:
    integers = zoo.seen("integers", Signature(SIGNATURES["integers"]), "[[1, 2]]", protocol)
    numbers = zoo.seen("numbers", Signature(SIGNATURES["numbers"]), "[[1, 2]]", protocol)

    assert integers[0]["types"] == {"i": "int32", "l": "int64"}
    assert numbers[0]["types"] == {"d": "float64", "f": "float32"}


@pytest.mark.parametrize("protocol", BOTH)
def test_names_of_any_script_arrive_in_order(zoo: Zoo, protocol: Protocol) -> None:
    signature = Signature(tuple(ColumnSpec(name, ValueKind.DOUBLE) for name in UNICODE_NAMES))
    row = {name: float(at) for at, name in enumerate(UNICODE_NAMES)}
    shuffled = dict(reversed(row.items()))

    assert zoo.seen("unicode", signature, json.dumps([shuffled]), protocol)[0]["row"] == row


OPTIONAL = Signature(
    (
        ColumnSpec("needed", ValueKind.DOUBLE),
        *(
            ColumnSpec(f"maybe_{kind}", ValueKind(kind), required=False)
            for kind in ("double", "long", "string", "boolean", "datetime", "binary")
        ),
    )
)


@pytest.mark.parametrize("protocol", BOTH)
def test_optional_columns_may_be_left_out(zoo: Zoo, protocol: Protocol) -> None:
    assert zoo.seen("optional", OPTIONAL, '[{"needed": 1}]', protocol)[0]["row"] == {"needed": 1.0}


@pytest.mark.parametrize(
    ("column", "value", "protocol"),
    [
        ("maybe_double", 1.5, Protocol.V2),
        ("maybe_double", 1.5, Protocol.INVOCATIONS),
        ("maybe_string", "s", Protocol.V2),
        ("maybe_string", "s", Protocol.INVOCATIONS),
        ("maybe_datetime", "2026-01-01", Protocol.INVOCATIONS),
    ],
)
def test_null_beside_values_arrives_where_the_server_can_take_it(
    zoo: Zoo, column: str, value: Any, protocol: Protocol
) -> None:
    text = json.dumps([{"needed": 1, column: value}, {"needed": 2}])

    seen = zoo.seen("optional", OPTIONAL, text, protocol)

    assert seen[0]["row"][column] is not None
    assert seen[1]["row"][column] is None


@pytest.mark.parametrize(
    ("column", "value", "protocol"),
    [
        ("maybe_long", 1, Protocol.V2),
        ("maybe_long", 1, Protocol.INVOCATIONS),
        ("maybe_boolean", True, Protocol.V2),
        ("maybe_boolean", True, Protocol.INVOCATIONS),
        ("maybe_datetime", "2026-01-01", Protocol.V2),
        ("maybe_binary", "AAE=", Protocol.V2),
        ("maybe_binary", "AAE=", Protocol.INVOCATIONS),
    ],
)
def test_null_that_a_server_would_misread_is_not_sent(
    zoo: Zoo, column: str, value: Any, protocol: Protocol
) -> None:
    text = json.dumps([{"needed": 1, column: value}, {"needed": 2}])

    with pytest.raises(SignatureMismatch, match=f'Row 2, column "{column}"'):
        zoo.seen("optional", OPTIONAL, text, protocol)


TENSORS: dict[str, tuple[tuple[TensorSpec, ...], Any, dict[str, str]]] = {
    "tensor": (
        (TensorSpec("", "float32", (-1, 2, 3)),),
        [[[1, 2, 3], [4, 5, 6]], [[0.5, 0, 0], [0, 0, 0]]],
        {"": "float32"},
    ),
    "tensor_int": ((TensorSpec("", "int64", (-1, 4)),), [[1, 2, 3, 2**53 + 1]], {"": "int64"}),
    "tensor_bool": ((TensorSpec("", "bool", (-1, 2)),), [[True, False]], {"": "bool"}),
    "tensor_str": ((TensorSpec("", "str", (-1, 1)),), [["a"], ["bé🍷"]], {"": "<U3"}),
    "tensors": (
        (TensorSpec("left", "float64", (-1, 2)), TensorSpec("right", "int32", (-1,))),
        {"left": [[1, 2], [3, 4]], "right": [1, 2]},
        {"left": "float64", "right": "int32"},
    ),
    "image": (
        (TensorSpec("pixels", "uint8", (-1, 8, 8, 3)),),
        {"pixels": [[[[0, 128, 255]] * 8] * 8]},
        {"pixels": "uint8"},
    ),
}


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("protocol", BOTH)
def test_tensors_arrive_with_type_and_shape(zoo: Zoo, name: str, protocol: Protocol) -> None:
    specs, written, types = TENSORS[name]
    by_name = written if isinstance(written, dict) else {"": written}

    seen = zoo.seen(name, Signature(specs), json.dumps({"inputs": written}), protocol)[0]

    assert seen["tensors"] == by_name
    assert seen["shapes"] == {key: list(np.shape(value)) for key, value in by_name.items()}
    assert seen["types"] == types


PARAMS = Signature(
    (ColumnSpec("d", ValueKind.DOUBLE),),
    params=(
        ParamSpec("temperature", ValueKind.DOUBLE, "0.5"),
        ParamSpec("count", ValueKind.LONG, "3"),
        ParamSpec("small", ValueKind.INTEGER, "1"),
        ParamSpec("word", ValueKind.STRING, '"hi"'),
        ParamSpec("flag", ValueKind.BOOLEAN, "false"),
        ParamSpec("stops", ValueKind.STRING, '["a"]', (-1,)),
        ParamSpec("when", ValueKind.DATETIME, '"2026-01-01T00:00:00"'),
    ),
)


@pytest.mark.parametrize("protocol", BOTH)
def test_parameters_of_every_type_arrive(zoo: Zoo, protocol: Protocol) -> None:
    given = {
        "temperature": 1,
        "count": 4,
        "small": 2,
        "word": "ü",
        "flag": True,
        "stops": ["q", "r"],
        "when": "2026-03-01",
    }

    seen = zoo.seen("params", PARAMS, json.dumps({"inputs": [[1.5]], "params": given}), protocol)

    wanted = given | {"temperature": 1.0, "when": {"datetime": "2026-03-01T00:00:00"}}
    assert seen[0]["params"] == wanted


@pytest.mark.parametrize("protocol", BOTH)
def test_parameters_left_out_take_their_defaults(zoo: Zoo, protocol: Protocol) -> None:
    seen = zoo.seen("params", PARAMS, "[[1.5]]", protocol)[0]["params"]

    assert (seen["temperature"], seen["count"], seen["stops"]) == (0.5, 3, ["a"])


@pytest.mark.parametrize("protocol", BOTH)
def test_a_model_without_a_signature_gets_a_table(zoo: Zoo, protocol: Protocol) -> None:
    # Without the request's own content types MLServer hands its request object to the model.
    seen = zoo.seen("no_signature", None, '[{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]', protocol)

    assert [one["row"] for one in seen] == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]


WIDE = Signature(tuple(ColumnSpec(f"c{at}", ValueKind.DOUBLE) for at in range(1000)))


@pytest.mark.parametrize("protocol", BOTH)
def test_a_thousand_columns_and_ten_megabytes_are_answered(zoo: Zoo, protocol: Protocol) -> None:
    rows = bench.Rows(data=tuple((1 / 3,) * 1000 for _ in range(600)))

    answer = zoo.ask("wide", WIDE, rows, protocol)

    request = bench.request_for(WIDE, rows, model_name="wide", protocol=protocol)
    assert len(request.body) > 10_000_000
    # The echo is larger than what a predictor keeps.
    assert answer.http_status == 200
    assert answer.cut


def test_an_answer_names_the_version_that_the_server_was_given(zoo: Zoo) -> None:
    signature = Signature(SIGNATURES["flags"])

    answer = zoo.ask("flags", signature, bench.Rows(data=((True,),)), Protocol.V2)

    assert answer.version == VersionRef("flags", 7)


def test_one_version_can_be_asked_for_by_number(zoo: Zoo) -> None:
    signature, place = Signature(SIGNATURES["flags"]), zoo.load("flags")
    rows = bench.Rows(data=((True,),))
    right, wrong = (
        bench.request_for(signature, rows, model_name="flags", protocol=Protocol.V2, version=number)
        for number in (7, 8)
    )

    assert zoo.predictor.infer(place, right).http_status == 200
    with pytest.raises(InferenceFailed, match="version 8 not found"):
        zoo.predictor.infer(place, wrong)


def test_only_a_loaded_model_is_ready(zoo: Zoo) -> None:
    assert zoo.predictor.ready(zoo.load("flags"))
    assert not zoo.predictor.ready(zoo.endpoint("numbers"))


def test_an_unknown_name_brings_the_one_that_is_served(zoo: Zoo) -> None:
    zoo.load("flags")
    request = bench.request_for(
        None, bench.Rows(("a",), ((1,),)), model_name="flag", protocol=Protocol.V2
    )

    with pytest.raises(InferenceFailed) as caught:
        zoo.predictor.infer(zoo.endpoint("flag"), request)
    assert "Model flag not found" in caught.value.why
    assert "The server serves flags:" in caught.value.fix


def test_v1_on_this_server_is_answered_with_the_way_out(zoo: Zoo) -> None:
    signature = Signature(SIGNATURES["flags"])

    with pytest.raises(InferenceFailed, match="has no path") as caught:
        zoo.ask("flags", signature, bench.Rows(data=((True,),)), Protocol.V1)
    assert "V2" in caught.value.fix


def test_a_broken_schema_is_told_in_the_models_words_and_harms_no_later_request(zoo: Zoo) -> None:
    signature, place = Signature(SIGNATURES["flags"]), zoo.load("flags")
    foreign = bench.request_for(
        None, bench.Rows(("other",), ((1.5,),)), model_name="flags", protocol=Protocol.V2
    )

    for _ in range(3):
        with pytest.raises(InferenceFailed, match="Model is missing inputs"):
            zoo.predictor.infer(place, foreign)
        assert zoo.ask("flags", signature, bench.Rows(data=((True,),)), Protocol.V2).outputs


def test_a_second_request_needs_no_second_connection(zoo: Zoo) -> None:
    signature = Signature(SIGNATURES["flags"])
    rows = bench.Rows(data=((True,),))
    zoo.ask("flags", signature, rows, Protocol.V2)

    assert zoo.ask("flags", signature, rows, Protocol.V2).timing.connect_s == 0.0


# The same rows, however they were written


TABLES: dict[str, tuple[list[str], list[list[Any]], list[list[Any]]]] = {
    "mixed": (
        ["d", "i", "yes", "text", "at"],
        [[1.5, 2, True, 'a, "b"\n', "2026-01-01T10:00:00"], [2.0, -3, False, "", "1999-12-31"]],
        [
            [1.5, 2, True, 'a, "b"\n', {"datetime": "2026-01-01T10:00:00"}],
            [2.0, -3, False, "", {"datetime": "1999-12-31T00:00:00"}],
        ],
    ),
    "unicode": (
        list(UNICODE_NAMES),
        [[float(at) for at in range(len(UNICODE_NAMES))]],
        [[float(at) for at in range(len(UNICODE_NAMES))]],
    ),
    "optional": (
        ["needed", "maybe_string"],
        [[1.0, "s"], [2.0, "t"]],
        [[1.0, "s"], [2.0, "t"]],
    ),
    "maps": (["scores"], [[{"ü": 2.5}]], [[{"ü": 2.5}]]),
}


def as_csv(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(names)
    writer.writerows(
        [
            json.dumps(cell, ensure_ascii=False) if isinstance(cell, (dict, bool)) else cell
            for cell in row
        ]
        for row in rows
    )
    return out.getvalue()


def as_parquet(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> bytes:
    out = io.BytesIO()
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


def signature_of(name: str) -> Signature:
    if name == "optional":
        return OPTIONAL
    if name == "unicode":
        return Signature(tuple(ColumnSpec(one, ValueKind.DOUBLE) for one in UNICODE_NAMES))
    return Signature(SIGNATURES[name])


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("protocol", BOTH)
def test_rows_arrive_alike_from_json_csv_and_parquet(
    zoo: Zoo, name: str, protocol: Protocol
) -> None:
    names, written, wanted = TABLES[name]
    signature = signature_of(name)
    split = json.dumps({"dataframe_split": {"columns": names, "data": written}})
    ways = {
        "json": bench.parse_rows(split, signature),
        "csv": bench.parse_rows(as_csv(names, written), signature, content="csv"),
        "parquet": bench.check_rows(
            tabular.rows_from_parquet(as_parquet(names, written)), signature
        ),
    }
    for way, rows in ways.items():
        answer = zoo.ask(name, signature, rows, protocol)
        seen = [orjson.loads(one)["row"] for one in answer.outputs[0].values]
        assert [[one[column] for column in names] for one in seen] == wanted, way


def png(side: int) -> bytes:
    """A real picture, of noise, so that nothing of it can be packed away."""
    noise = np.random.default_rng(1).integers(0, 256, (side, side, 3), dtype=np.uint8)
    lines = b"".join(b"\0" + line.tobytes() for line in noise)

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("way", ["json", "csv", "parquet"])
@pytest.mark.parametrize("protocol", BOTH)
def test_an_image_arrives_byte_for_byte(zoo: Zoo, way: str, protocol: Protocol) -> None:
    signature, image = Signature(SIGNATURES["blobs"]), png(256)
    text = base64.b64encode(image).decode()
    if way == "parquet":
        rows = bench.check_rows(
            tabular.rows_from_parquet(as_parquet(["blob"], [[image]])), signature
        )
    elif way == "csv":
        rows = bench.parse_rows(as_csv(["blob"], [[text]]), signature, content="csv")
    else:
        rows = bench.parse_rows(json.dumps([{"blob": text}]), signature)

    answer = zoo.ask("blobs", signature, rows, protocol)

    [seen] = [orjson.loads(one)["row"] for one in answer.outputs[0].values]
    assert seen["blob"] == {"binary": text}


@pytest.mark.parametrize("protocol", BOTH)
def test_each_of_a_thousand_columns_arrives_at_its_place(zoo: Zoo, protocol: Protocol) -> None:
    row = {f"c{at}": at / 7 for at in range(1000)}
    shuffled = dict(sorted(row.items(), key=lambda item: item[0][::-1]))

    [seen] = zoo.seen("wide", WIDE, json.dumps([shuffled]), protocol)

    assert seen["row"] == row


@pytest.mark.parametrize("protocol", BOTH)
def test_a_batch_of_images_as_a_tensor_arrives_whole(zoo: Zoo, protocol: Protocol) -> None:
    specs = TENSORS["image"][0]
    pixels = np.random.default_rng(2).integers(0, 256, (64, 8, 8, 3)).tolist()

    [seen] = zoo.seen(
        "image", Signature(specs), json.dumps({"inputs": {"pixels": pixels}}), protocol
    )

    assert seen["tensors"]["pixels"] == pixels


# ── What the server itself tells ──────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "name", ["numbers", "integers", "flags", "words", "times", "blobs", "mixed"]
)
def test_the_server_tells_the_columns_of_a_model_that_nobody_recorded(zoo: Zoo, name: str) -> None:
    told = zoo.predictor.signature(zoo.load(name))
    assert told is not None
    assert told.inputs == SIGNATURES[name]


@pytest.mark.parametrize("name", ["arrays", "objects", "maps", "anything"])
def test_of_nested_values_the_server_tells_the_names(zoo: Zoo, name: str) -> None:
    told = zoo.predictor.signature(zoo.load(name))
    assert told is not None
    assert [(spec.name, spec.kind) for spec in told.inputs if isinstance(spec, ColumnSpec)] == [
        (spec.name, ValueKind.ANY) for spec in SIGNATURES[name]
    ]


@pytest.mark.parametrize(
    ("name", "specs"),
    [
        ("tensor", [("float32", (-1, 2, 3))]),
        ("tensor_int", [("int64", (-1, 4))]),
        ("tensors", [("float64", (-1, 2)), ("int32", (-1,))]),
        ("image", [("uint8", (-1, 8, 8, 3))]),
    ],
)
def test_the_server_tells_the_tensors_of_a_model(
    zoo: Zoo, name: str, specs: list[tuple[str, tuple[int, ...]]]
) -> None:
    told = zoo.predictor.signature(zoo.load(name))
    assert told is not None
    tensors = [spec for spec in told.inputs if isinstance(spec, TensorSpec)]
    assert [(spec.dtype, spec.shape) for spec in tensors] == specs


def test_rows_that_fit_what_the_server_tells_arrive_whole(zoo: Zoo) -> None:
    told = zoo.predictor.signature(zoo.load("mixed"))
    text = '[{"d": 1.5, "i": 2, "yes": true, "text": "x", "at": "2026-01-02T03:04:05"}]'
    assert zoo.seen("mixed", told, text, Protocol.V2) == zoo.seen(
        "mixed", Signature(SIGNATURES["mixed"]), text, Protocol.V2
    )


def test_of_a_model_without_a_signature_the_server_tells_none(zoo: Zoo) -> None:
    assert zoo.predictor.signature(zoo.load("no_signature")) is None
