"""One model per kind of signature, all echoing, in the folder layout of a multi-model MLServer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import AnyType, Array, Map, Object, Property

ECHO = Path(__file__).parent.parent / "samples" / "echo_model.py"
UNICODE_NAMES = ("größe", "高さ", "a b", "it's", 'qu"ote', "{{x}}", "$(id)", "🍷")


def signatures() -> Mapping[str, ModelSignature | None]:
    """MLflow signatures by model name: every kind that a column, tensor or parameter can be."""
    point = Object([Property("x", DataType.double), Property("label", DataType.string, False)])
    columns: dict[str, list[ColSpec]] = {
        "numbers": [ColSpec("double", "d"), ColSpec("float", "f")],
        "integers": [ColSpec("integer", "i"), ColSpec("long", "l")],
        "flags": [ColSpec("boolean", "yes")],
        "words": [ColSpec("string", "text")],
        "times": [ColSpec("datetime", "at")],
        "blobs": [ColSpec("binary", "blob")],
        "mixed": [
            ColSpec("double", "d"),
            ColSpec("integer", "i"),
            ColSpec("boolean", "yes"),
            ColSpec("string", "text"),
            ColSpec("datetime", "at"),
        ],
        "optional": [
            ColSpec("double", "needed"),
            *(
                ColSpec(kind, f"maybe_{kind}", required=False)
                for kind in ("double", "long", "string", "boolean", "datetime", "binary")
            ),
        ],
        "arrays": [ColSpec(Array(DataType.double), "list"), ColSpec(Array(Array("long")), "grid")],
        "objects": [ColSpec(point, "point"), ColSpec(Array(point), "path")],
        "maps": [ColSpec(Map(DataType.double), "scores")],
        "anything": [ColSpec(AnyType(), "any")],
        "unicode": [ColSpec("double", name) for name in UNICODE_NAMES],
        "nameless": [ColSpec("double"), ColSpec("string")],
        "wide": [ColSpec("double", f"c{at}") for at in range(1000)],
    }
    found: dict[str, ModelSignature | None] = {
        name: ModelSignature(Schema(specs), Schema([ColSpec("string")]))
        for name, specs in columns.items()
    }
    tensors: dict[str, list[TensorSpec]] = {
        "tensor": [TensorSpec(np.dtype("float32"), (-1, 2, 3))],
        "tensor_int": [TensorSpec(np.dtype("int64"), (-1, 4))],
        "tensor_bool": [TensorSpec(np.dtype("bool"), (-1, 2))],
        "tensor_str": [TensorSpec(np.dtype("str"), (-1, 1))],
        "tensors": [
            TensorSpec(np.dtype("float64"), (-1, 2), "left"),
            TensorSpec(np.dtype("int32"), (-1,), "right"),
        ],
        "image": [TensorSpec(np.dtype("uint8"), (-1, 8, 8, 3), "pixels")],
    }
    # mlserver-mlflow 1.7.1 cannot load a signature without outputs (metadata.py, line 68).
    answer = Schema([TensorSpec(np.dtype("str"), (-1,))])
    found |= {name: ModelSignature(Schema(specs), answer) for name, specs in tensors.items()}
    found["params"] = ModelSignature(
        Schema([ColSpec("double", "d")]),
        Schema([ColSpec("string")]),
        params=ParamSchema(
            [
                ParamSpec("temperature", DataType.double, 0.5),
                ParamSpec("count", DataType.long, 3),
                ParamSpec("small", DataType.integer, 1),
                ParamSpec("word", DataType.string, "hi"),
                ParamSpec("flag", DataType.boolean, False),
                ParamSpec("stops", DataType.string, ["a"], (-1,)),
                ParamSpec("when", DataType.datetime, np.datetime64("2026-01-01T00:00:00")),
            ]
        ),
    )
    found["no_signature"] = None
    return found


def build(folder: Path, names: tuple[str, ...] | None = None) -> Path:
    """Save the models below `folder`, ready for `mlserver start folder`."""
    for name, signature in signatures().items():
        if names is not None and name not in names:
            continue
        mlflow.pyfunc.save_model(
            folder / name / "model",
            python_model=ECHO,
            signature=signature,
            pip_requirements=["mlflow"],
        )
        settings: dict[str, Any] = {
            "name": name,
            "implementation": "mlserver_mlflow.MLflowRuntime",
            "parallel_workers": 0,
            "parameters": {"uri": "./model", "version": "7"},
        }
        (folder / name / "model-settings.json").write_text(json.dumps(settings))
    return folder
