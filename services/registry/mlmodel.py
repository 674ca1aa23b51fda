"""What a version's files say: MLmodel, requirements and input example as domain values. Pure.

Nothing is loaded or run. The format is MLflow's (3.17.2, models/model.py and types/schema.py);
older files, back to MLflow 1.x, read the same with fields left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

import yaml

from services.domain import (
    ANY,
    ColumnSpec,
    FileEntry,
    Json,
    ParamSpec,
    Signature,
    TensorSpec,
    ValueKind,
    VersionDetails,
    VersionRef,
)
from services.errors import one_line

MLMODEL = "MLmodel"
REQUIREMENTS = "requirements.txt"
PYTHON_ENV = "python_env.yaml"
SERVING_EXAMPLE = "serving_input_example.json"
EXAMPLE = "input_example.json"
READ = (MLMODEL, REQUIREMENTS, PYTHON_ENV, SERVING_EXAMPLE, EXAMPLE)
"""The files that details are made of; none is needed."""

_SETTING_LIMIT = 512
"""Characters of a flavour's setting that are kept; settings are words and paths, not content."""


def details_from(
    ref: VersionRef,
    contents: Mapping[str, bytes],
    files: Sequence[FileEntry],
    problems: Sequence[str] = (),
) -> VersionDetails:
    """The details in `contents` (file name → bytes, from READ). What is wrong is said, not raised.

    `problems` are those found while reading.
    """
    wrong = list(problems)
    mlmodel = _mapping(contents.get(MLMODEL), MLMODEL, wrong)
    if MLMODEL not in contents and not problems:
        wrong.append("Its files hold no MLmodel: this is no MLflow model and cannot be served.")
    signature = None
    try:
        signature = signature_from(mlmodel.get("signature"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        wrong.append(f"Its signature cannot be read: {one_line(error)}.")
    else:
        if signature is None and MLMODEL in contents:
            wrong.append(
                "It has no signature: requests cannot be checked, and servers cannot decode them. "
                "Log it again with `signature` or `input_example`."
            )
    environment = _mapping(contents.get(PYTHON_ENV), PYTHON_ENV, wrong)
    flavors = _flavors(mlmodel.get("flavors"))
    python = environment.get("python") or flavors.get("python_function", {}).get("python_version")
    return VersionDetails(
        ref=ref,
        signature=signature,
        example=_example(contents, mlmodel, wrong),
        requirements=_requirements(contents.get(REQUIREMENTS, b"")),
        python_version=one_line(python, 40) if python else None,
        mlflow_version=one_line(mlmodel["mlflow_version"], 40)
        if mlmodel.get("mlflow_version")
        else None,
        flavors=flavors,
        files=tuple(sorted(files, key=lambda file: file.path)),
        problems=tuple(wrong),
    )


def signature_from(stored: Json) -> Signature | None:
    """The signature as MLmodel keeps it: JSON texts under inputs, outputs, params. ValueError."""
    if not isinstance(stored, dict):
        return None
    parts = {part: _parsed(stored.get(part)) for part in ("inputs", "outputs", "params")}
    if not any(parts.values()):
        return None
    return Signature(
        inputs=tuple(_spec(entry) for entry in parts["inputs"]),
        outputs=tuple(_spec(entry) for entry in parts["outputs"]),
        params=tuple(_param(entry) for entry in parts["params"]),
    )


def _parsed(text: Json) -> list[Json]:
    value = json.loads(text) if isinstance(text, str) else text
    if value is None:
        return []
    if not isinstance(value, list):
        raise TypeError("a schema is a list")
    return value


def _spec(entry: Json) -> ColumnSpec | TensorSpec:
    name = str(entry.get("name") or "")
    if entry["type"] == "tensor":
        tensor = entry["tensor-spec"]
        return TensorSpec(name, str(tensor["dtype"]), tuple(int(n) for n in tensor["shape"]))
    kind, spec_json = _kind(entry)
    # MLflow before 2.9 wrote "optional" where it now writes "required"
    required = bool(entry.get("required", not entry.get("optional", False)))
    return ColumnSpec(name, kind, required, spec_json)


def _kind(entry: Json) -> tuple[ValueKind, str]:
    word = str(entry["type"])
    known = {kind.value for kind in ValueKind}
    kind = ValueKind(word) if word in known else ValueKind.ANY
    if word == "sparkml vector":
        kind = ValueKind.ARRAY
    scalar = kind not in (ValueKind.ARRAY, ValueKind.OBJECT, ValueKind.MAP) and word in known
    if scalar:
        return kind, ""
    shape = {k: v for k, v in entry.items() if k not in ("name", "required", "optional", "default")}
    return kind, json.dumps(shape, ensure_ascii=False)


def _param(entry: Json) -> ParamSpec:
    kind, _ = _kind({**entry, "type": entry.get("type") or entry.get("dtype")})
    shape = entry.get("shape")
    return ParamSpec(
        name=str(entry["name"]),
        kind=kind,
        default_json=json.dumps(entry.get("default"), ensure_ascii=False),
        shape=None if shape is None else tuple(int(n) for n in shape) or (ANY,),
    )


def _mapping(content: bytes | None, name: str, wrong: list[str]) -> Mapping[str, Json]:
    if content is None:
        return {}
    try:
        value = yaml.load(content, Loader=_LOADER)  # noqa: S506 - the safe loader, in C where it is
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        wrong.append(f"Its {name} is no YAML: {one_line(error, 120)}.")
        return {}
    if not isinstance(value, dict):
        wrong.append(f"Its {name} holds no settings.")
        return {}
    return value


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _flavors(stored: Json) -> dict[str, dict[str, str]]:
    if not isinstance(stored, dict):
        return {}
    return {
        one_line(flavor, 80): {
            one_line(key, 80): one_line(value, _SETTING_LIMIT)
            for key, value in settings.items()
            if isinstance(value, str | int | float | bool)
        }
        for flavor, settings in stored.items()
        if isinstance(settings, dict)
    }


_COMMENT = re.compile(r"(^|\s)#.*$")


def _requirements(content: bytes) -> tuple[str, ...]:
    lines = content.decode("utf-8", "replace").replace("\\\n", " ").splitlines()
    stripped = (_COMMENT.sub("", line).strip() for line in lines)
    return tuple(one_line(line) for line in stripped if line)


def _example(
    contents: Mapping[str, bytes], mlmodel: Mapping[str, Json], wrong: list[str]
) -> str | None:
    """The /invocations body: MLflow's own where it is kept, else made of the input example."""
    for name in (SERVING_EXAMPLE, EXAMPLE):
        if name not in contents:
            continue
        try:
            value = json.loads(contents[name])
        except (ValueError, RecursionError):
            wrong.append(f"Its {name} is no JSON.")
            continue
        if name == SERVING_EXAMPLE:
            return contents[name].decode("utf-8")
        about = mlmodel.get("saved_input_example_info")
        return json.dumps(_as_body(value, about if isinstance(about, dict) else {}))
    return None


def _as_body(value: Json, about: Mapping[str, Json]) -> Json:
    """An input example as MLflow 1 and 2 kept it, as a body.

    mlflow 3.17.2, models/utils.py, `_Example`: `type` is dataframe, ndarray, sparse matrix or
    json_object, and a dataframe is in pandas' orient "split".
    """
    if isinstance(value, dict) and {"columns", "data"} <= value.keys():
        return {"dataframe_split": {k: value[k] for k in ("columns", "data")}}
    if isinstance(value, dict) and about.get("type") == "dataframe" and "data" in value:
        return {"dataframe_split": {"data": value["data"]}}
    if isinstance(value, dict) and value.keys() == {"inputs"}:
        return value
    return {"inputs": value}
