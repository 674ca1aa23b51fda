"""A Python-function model that answers with what it was given: one JSON text per row.

Logged as code, so a model server executes this file. Tests read from the answer which names, types
and values really reached a model, after the server's decoding and MLflow's schema check.
"""

from __future__ import annotations

import base64
import json
import math
from datetime import datetime
from typing import Any

import mlflow
import numpy as np
import pandas as pd


def _plain(value: Any) -> Any:
    if value is None or value is pd.NaT or value is pd.NA:
        return None
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, bytes):
        return {"binary": base64.b64encode(value).decode()}
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(one) for one in value]
    if isinstance(value, (datetime, pd.Timestamp, np.datetime64)):
        return {"datetime": pd.Timestamp(value).isoformat()}
    return value.item() if isinstance(value, np.generic) else value


class Echo(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # mlflow is untyped here
    """Answers with its own input."""

    # Without type hints: MLflow would take them for the signature.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
        """One JSON text per row (or one for tensors): types, values and parameters as seen."""
        del context
        if isinstance(model_input, pd.DataFrame):
            types = {str(name): str(kind) for name, kind in model_input.dtypes.items()}
            rows = [
                {str(name): _plain(row[at]) for at, name in enumerate(model_input.columns)}
                for row in model_input.itertuples(index=False, name=None)
            ]
            seen = [{"row": row, "types": types, "params": _plain(params or {})} for row in rows]
        else:
            tensors = model_input if isinstance(model_input, dict) else {"": model_input}
            seen = [
                {
                    "tensors": {name: _plain(one) for name, one in tensors.items()},
                    "types": {name: str(np.asarray(one).dtype) for name, one in tensors.items()},
                    "shapes": {name: list(np.asarray(one).shape) for name, one in tensors.items()},
                    "params": _plain(params or {}),
                }
            ]
        return np.array([json.dumps(one, ensure_ascii=True) for one in seen], dtype=np.str_)


mlflow.models.set_model(Echo())
