"""Row 12a: encoding a V2 body of 1,000 × 30 FP32 values."""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import orjson
from run import Bench, Table, spread

from services import bench as slipway
from services.domain import ANY, Protocol, Signature, TensorSpec

TITLE = "encoding 1,000 × 30 FP32 as V2 JSON"
GOAL = "at most 1/5 of json.dumps(tolist()); no encoding inside the timed loop"


def run(bench: Bench) -> Table:
    """Each way from what it is usually given: arrays for the libraries, parsed rows for ours."""
    import numpy as np

    rng = random.Random(1)
    array = np.array([[rng.random() for _ in range(30)] for _ in range(1000)], dtype=np.float32)
    values = array.tolist()
    signature = Signature(inputs=(TensorSpec("x", "float32", (ANY, 30)),))
    rows = slipway.Rows(tensors={"x": values})

    def ours() -> bytes:
        return slipway.request_for(signature, rows, model_name="m", protocol=Protocol.V2).body

    body = orjson.loads(ours())

    def with_json() -> bytes:
        flat = array.ravel().tolist()
        tensor = {"name": "x", "shape": [1000, 30], "datatype": "FP32", "data": flat}
        return json.dumps({"inputs": [tensor]}).encode()

    ways: dict[str, Callable[[], Any]] = {
        "json.dumps(tolist())": with_json,
        "slipway: check and encode": ours,
        "slipway: encode": lambda: orjson.dumps(body),
    }
    notes = ["The engine is given bytes: nothing is encoded while it runs."]
    try:
        from mlserver.codecs import NumpyCodec
        from mlserver.types import InferenceRequest
    except ImportError:
        notes.append("MLServer's NumpyCodec is not installed here, so not measured.")
    else:
        ways["MLServer's NumpyCodec"] = lambda: InferenceRequest(
            inputs=[NumpyCodec.encode_input("x", array)]
        ).model_dump_json()
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(5 if bench.quick else 40):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            times[name].append((time.perf_counter() - started) * 1e3)
    slow = statistics.median(times["json.dumps(tolist())"])
    encode = statistics.median(times["slipway: encode"])
    whole = statistics.median(times["slipway: check and encode"])
    return Table(
        ["way", "ms", "of json.dumps"],
        [[name, spread(got), statistics.median(got) / slow] for name, got in times.items()],
        f"Encoding is {encode / slow:.2f} of json.dumps, with checking against the signature "
        f"{whole / slow:.2f}: goal {'met' if encode <= slow / 5 else 'missed'} for encoding, "
        f"{'met' if whole <= slow / 5 else 'missed'} with checking.",
        notes,
    )
