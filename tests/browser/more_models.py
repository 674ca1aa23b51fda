"""Registers what the demo has not: a model of hostile names, and one whose answer is huge.

Run as a script, `python -m tests.browser.more_models STATE_FOLDER`: MLflow stays out of the tests'
own process.
"""

from __future__ import annotations

import sys
from pathlib import Path

IMAGE = "<img src=x onerror=alert(1)>"
LINK = "[a link](javascript:alert(2))"
REVERSED = "\u202eesrever"
HOSTILE = f"{IMAGE} **bold** `code` $x^2$ {REVERSED}"
"""A registered model's name; MLflow refuses `/` and `:` in one, and more in the names of tags."""
HOSTILE_TAGS = {
    "script": "<script>alert(3)</script>",
    "image": "![](http://127.0.0.1:9/image-of-a-tag.png)",
    "link": LINK,
    "lines": "one\nanother",
}
DESCRIPTION = f"{LINK} {IMAGE}\n# a headline\n{{{{ braces }}}} ${{{{ secrets }}}} :material/home:"
LONG = "long-answer"
"""Answers with as many characters as it is asked for."""

_CODE = """
import mlflow
import numpy as np


class Long(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return np.array(["x" * int(count) for count in model_input["characters"]], dtype=np.str_)


mlflow.models.set_model(Long())
"""


def register(state: Path) -> None:
    """Log one model into the embedded registry of this state folder and register it twice."""
    import mlflow
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    mlflow.set_tracking_uri(f"sqlite:///{state / 'mlflow.db'}")
    mlflow.set_experiment("slipway-demo")
    code = state / "long_answer.py"
    code.write_text(_CODE)
    with mlflow.start_run():
        logged = mlflow.pyfunc.log_model(
            name=LONG,
            python_model=str(code),
            signature=ModelSignature(
                Schema([ColSpec("long", "characters")]), Schema([ColSpec("string")])
            ),
            input_example=pd.DataFrame({"characters": [3]}),
            pip_requirements=[f"mlflow=={mlflow.__version__}", "numpy"],
        )
    client = mlflow.MlflowClient()
    for name, tags, description in (
        (LONG, {}, "Answers with as many characters as it is asked for."),
        (HOSTILE, HOSTILE_TAGS, DESCRIPTION),
    ):
        client.create_registered_model(name, tags, description)
        client.create_model_version(
            name, logged.model_uri, tags=tags, description=description, model_id=logged.model_id
        )


if __name__ == "__main__":
    register(Path(sys.argv[1]))
