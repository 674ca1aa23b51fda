"""The JSON of a model server's answer, as such servers write it."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

_NO_NUMBER = re.compile(rb"NaN|Infinity")


def json_of(body: bytes) -> Any:  # noqa: ANN401 - whatever was answered
    """What the body says; numbers that JSON does not have come as text, "NaN" and "-Infinity".

    MLflow's scoring server writes what Python's json module does, and that writes them bare.

    Raises:
        orjson.JSONDecodeError: it is no JSON in that sense either, or too deep.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if not _NO_NUMBER.search(body):
            raise
        try:
            return json.loads(body, parse_constant=str)
        except (ValueError, RecursionError):
            raise error from None
