"""Models that always answer the same, saved by MLflow as code: what most roll-outs are tried with.

A server loads one in half the CPU time of a scikit-learn model that MLflow saved by default: that
is saved as skops, and importing skops imports every estimator of scikit-learn, 3.5 CPU-seconds at
each start. The tests that are about such models keep them.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import pandas as pd

_CODE = """
import mlflow
import numpy as np
import pandas as pd

class Constant(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input: pd.DataFrame, params=None):
        return np.full(len(model_input), {answer!r})

mlflow.models.set_model(Constant())
"""


def save_constant(
    folder: Path, answer: float, rows: pd.DataFrame, requirements: Sequence[str]
) -> Path:
    """Save a model of such rows that answers `answer` to each; `folder` is where it is then."""
    import mlflow
    import numpy as np

    source = folder.with_suffix(".py")
    source.write_text(_CODE.format(answer=answer))
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        # MLflow would add this checkout's lock to a model that is saved in it.
        patch.setenv("MLFLOW_UV_AUTO_DETECT", "false")
        mlflow.pyfunc.save_model(
            folder,
            python_model=source,
            signature=mlflow.models.infer_signature(rows, np.full(len(rows), answer)),
            input_example=rows.head(1),
            pip_requirements=list(requirements),
        )
    # MLflow tries the example, which imports the code from where it was saved.
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)
    return folder
