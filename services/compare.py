"""Two model versions side by side: what differs, and what would break their callers. Pure.

Signatures are compared from the caller's side: a change is breaking when a request that fitted the
left version does not fit the right one, or when its answer would be misread.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

from services.domain import (
    ANY,
    ColumnSpec,
    Difference,
    ModelVersion,
    ParamSpec,
    Signature,
    TensorSpec,
    ValueKind,
    VersionDetails,
)

# mlflow 3.17.2, types/utils and models/utils.py `_enforce_mlflow_datatype`: a request's value is
# converted to a wider type, never to a narrower one.
_WIDER = frozenset(
    {
        (ValueKind.INTEGER, ValueKind.LONG),
        (ValueKind.INTEGER, ValueKind.DOUBLE),
        (ValueKind.FLOAT, ValueKind.DOUBLE),
    }
)


def compare_versions(
    left: ModelVersion,
    left_details: VersionDetails | None,
    right: ModelVersion,
    right_details: VersionDetails | None,
) -> tuple[Difference, ...]:
    """Everything in which two versions differ: breaking signature changes first, then by field.

    Without details only what lists know is compared: metrics and parameters.
    """
    found: list[Difference] = []
    if left_details is not None and right_details is not None:
        found += signature_changes(left_details.signature, right_details.signature)
        found += _requirement_changes(left_details.requirements, right_details.requirements)
        found += _texts(
            "python", left_details.python_version or "", right_details.python_version or ""
        )
        found += _texts(
            "mlflow", left_details.mlflow_version or "", right_details.mlflow_version or ""
        )
        found += _flavor_changes(left_details.flavors, right_details.flavors)
    found += _metric_changes(left.metrics, right.metrics)
    found += _mappings("param", left.params, right.params)
    return tuple(sorted(found, key=lambda difference: not difference.breaking))  # stable


def signature_changes(before: Signature | None, after: Signature | None) -> tuple[Difference, ...]:
    """What changes for callers when `after` takes the place of `before`; () for the same."""
    if before == after:
        return ()
    if before is None:
        why = "There was no signature to hold requests to; now they are checked."
        return (Difference("signature", "", "present", why=why),)
    if after is None:
        why = "Without a signature servers do not know how to decode a request."
        return (Difference("signature", "present", "", breaking=True, why=why),)
    changes = [
        *_input_changes(before.inputs, after.inputs),
        *_output_changes(before.outputs, after.outputs),
        *_param_changes(before.params, after.params),
    ]
    return tuple(sorted(changes, key=lambda difference: not difference.breaking))


Spec = ColumnSpec | TensorSpec


def _input_changes(before: Sequence[Spec], after: Sequence[Spec]) -> Iterable[Difference]:
    if not before or not after:
        if bool(before) != bool(after):
            why = "One of them does not say what it takes."
            yield Difference("inputs", _count(before), _count(after), bool(after), why)
        return
    if isinstance(before[0], TensorSpec) != isinstance(after[0], TensorSpec):
        why = "Requests are written differently for columns and for tensors."
        yield Difference("inputs", _count(before), _count(after), breaking=True, why=why)
        return
    old, new = _by_name(before), _by_name(after)
    yield from _come_and_gone(old, new)
    for name, was in old.items():
        if name in new:
            yield from _retyped("input", was, new[name], widening_breaks=False)
    common_before = [name for name in old if name in new]
    common_after = [name for name in new if name in old]
    if common_before != common_after:
        # By name nothing is lost; V2 requests and bare rows go by position.
        why = "Requests that give values by position are misread."
        yield Difference(
            "input order", ", ".join(common_before), ", ".join(common_after), True, why
        )


def _come_and_gone(old: Mapping[str, Spec], new: Mapping[str, Spec]) -> Iterable[Difference]:
    gone = [name for name in old if name not in new]
    added = [name for name in new if name not in old]
    renamed = _renamed([old[name] for name in gone], [new[name] for name in added])
    for was, now in renamed:
        why = "Requests with the old name lack the new one."
        yield Difference(f"input {_called(was)}", _shown(was), _shown(now), breaking=True, why=why)
    for name in gone:
        if not any(was.name == name for was, _ in renamed):
            why = "Requests still carry it: MLflow's servers leave it out, others may refuse them."
            yield Difference(f"input {_called(old[name])}", _shown(old[name]), "", True, why)
    for name in added:
        if any(now.name == name for _, now in renamed):
            continue
        required = _is_required(new[name])
        why = "Requests written for the old version lack it." if required else "It is optional."
        yield Difference(f"input {_called(new[name])}", "", _shown(new[name]), required, why)


def _output_changes(before: Sequence[Spec], after: Sequence[Spec]) -> Iterable[Difference]:
    if not before or not after:
        if bool(before) != bool(after):
            why = "One of them does not say what it gives."
            yield Difference("outputs", _count(before), _count(after), why=why)
        return
    old, new = _by_name(before), _by_name(after)
    for name, was in old.items():
        if name not in new:
            why = "Readers of the answer look for it."
            yield Difference(f"output {_called(was)}", _shown(was), "", breaking=True, why=why)
        else:
            yield from _retyped("output", was, new[name], widening_breaks=True)
    for name, now in new.items():
        if name not in old:
            # a sole unnamed output is read as the answer itself; a second one changes its form
            alone = len(old) == 1
            why = "An answer of one part becomes one of several." if alone else "It is added."
            yield Difference(f"output {_called(now)}", "", _shown(now), alone, why)


def _param_changes(before: Sequence[ParamSpec], after: Sequence[ParamSpec]) -> Iterable[Difference]:
    old = {param.name: param for param in before}
    new = {param.name: param for param in after}
    for name, was in old.items():
        now = new.get(name)
        if now is None:
            why = "Requests that set it are refused or lose its effect."
            yield Difference(f"parameter {name}", _param(was), "", breaking=True, why=why)
        elif (was.kind, was.shape) != (now.kind, now.shape):
            widened = (was.kind, now.kind) in _WIDER and was.shape == now.shape
            why = "" if widened else "Values given for the old type do not fit."
            yield Difference(f"parameter {name}", _param(was), _param(now), not widened, why)
        elif was.default_json != now.default_json:
            why = "Requests that leave it out get another answer."
            yield Difference(f"parameter {name}", _param(was), _param(now), why=why)
    for name, now in new.items():
        if name not in old:
            yield Difference(f"parameter {name}", "", _param(now), why="It has a default.")


def _retyped(role: str, was: Spec, now: Spec, *, widening_breaks: bool) -> Iterable[Difference]:
    field = f"{role} {_called(was)}"
    if isinstance(was, TensorSpec) and isinstance(now, TensorSpec):
        if was.dtype != now.dtype:
            why = "Its numbers have another type."
            yield Difference(field, _shown(was), _shown(now), breaking=True, why=why)
        elif was.shape != now.shape:
            fits = role == "input" and _takes_shape(now.shape, was.shape)
            why = "Every old shape still fits." if fits else "Its shape does not fit the old one."
            yield Difference(field, _shown(was), _shown(now), not fits, why)
        return
    if not (isinstance(was, ColumnSpec) and isinstance(now, ColumnSpec)):
        why = "It is a column in one and a tensor in the other."
        yield Difference(field, _shown(was), _shown(now), breaking=True, why=why)
        return
    if (was.kind, was.spec_json) != (now.kind, now.spec_json):
        takes_all = now.kind is ValueKind.ANY or (was.kind, now.kind) in _WIDER
        fits = takes_all and not widening_breaks
        why = "Every old value still fits." if fits else "Values of the old type do not fit."
        yield Difference(field, _shown(was), _shown(now), not fits, why)
    elif was.required != now.required and role == "input":
        why = "It may no longer be left out." if now.required else "It may now be left out."
        yield Difference(field, _shown(was), _shown(now), now.required, why)


def _takes_shape(new: Sequence[int], old: Sequence[int]) -> bool:
    return len(new) == len(old) and all(n in (ANY, o) for n, o in zip(new, old, strict=True))


def _renamed(gone: Sequence[Spec], added: Sequence[Spec]) -> list[tuple[Spec, Spec]]:
    """Pairs that differ in nothing but the name, when it is clear which became which."""
    pairs = []
    for was in gone:
        alike_new = [spec for spec in added if _form(spec) == _form(was)]
        alike_old = [spec for spec in gone if _form(spec) == _form(was)]
        if len(alike_new) == len(alike_old) == 1:
            pairs.append((was, alike_new[0]))
    return pairs


def _form(spec: Spec) -> tuple[object, ...]:
    if isinstance(spec, TensorSpec):
        return ("tensor", spec.dtype, spec.shape)
    return ("column", spec.kind, spec.spec_json, spec.required)


def _by_name(specs: Sequence[Spec]) -> dict[str, Spec]:
    """By name; nameless ones by position, as a server sees them."""
    return {spec.name or f"#{place}": spec for place, spec in enumerate(specs, 1)}


def _called(spec: Spec) -> str:
    return spec.name or "(unnamed)"


def _is_required(spec: Spec) -> bool:
    return spec.required if isinstance(spec, ColumnSpec) else True


def _shown(spec: Spec) -> str:
    if isinstance(spec, TensorSpec):
        axes = ", ".join("any" if n == ANY else str(n) for n in spec.shape)
        return f"{spec.name + ': ' if spec.name else ''}{spec.dtype} ({axes})"
    kind = spec.spec_json or spec.kind.value
    optional = "" if spec.required else ", optional"
    return f"{spec.name + ': ' if spec.name else ''}{kind}{optional}"


def _param(param: ParamSpec) -> str:
    many = "" if param.shape is None else " list"
    return f"{param.kind.value}{many} = {param.default_json}"


def _count(specs: Sequence[Spec]) -> str:
    if not specs:
        return ""
    word = "tensor" if isinstance(specs[0], TensorSpec) else "column"
    return f"{len(specs):,} {word}{'' if len(specs) == 1 else 's'}"


# ── All but the signature ─────────────────────────────────────────────────────────────────────


_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*")


def _requirement_changes(before: Sequence[str], after: Sequence[str]) -> Iterable[Difference]:
    yield from _mappings("requirement", _requirements(before), _requirements(after))


def _requirements(lines: Sequence[str]) -> dict[str, str]:
    """Distribution, in its normal form (PEP 503) → what the line asks of it."""
    asked: dict[str, str] = {}
    for line in lines:
        found = _NAME.match(line)
        name = re.sub(r"[-_.]+", "-", found.group()).lower() if found else line
        rest = line[found.end() :].strip() if found else line
        asked[name] = rest or "any"
    return asked


def _flavor_changes(
    before: Mapping[str, Mapping[str, str]], after: Mapping[str, Mapping[str, str]]
) -> Iterable[Difference]:
    for flavor in sorted({*before, *after}):
        if flavor not in before or flavor not in after:
            there = ("present", "") if flavor in before else ("", "present")
            yield Difference(f"flavor {flavor}", *there)
        else:
            yield from _mappings(
                f"flavor {flavor}", _form_of(before[flavor]), _form_of(after[flavor])
            )


def _form_of(settings: Mapping[str, str]) -> dict[str, str]:
    """What decides whether a server can load it; file names and Python entry points do not."""
    return {
        name: value
        for name, value in settings.items()
        if name.endswith(("_format", "_version")) and name != "python_version"
    }


def _metric_changes(
    before: Mapping[str, float], after: Mapping[str, float]
) -> Iterable[Difference]:
    for name in sorted({*before, *after}):
        left, right = before.get(name), after.get(name)
        both_nan = left is not None and right is not None and math.isnan(left) and math.isnan(right)
        if left != right and not both_nan:
            yield Difference(f"metric {name}", _number(left), _number(right))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _mappings(
    word: str, before: Mapping[str, str], after: Mapping[str, str]
) -> Iterable[Difference]:
    for name in sorted({*before, *after}):
        yield from _texts(f"{word} {name}", before.get(name, ""), after.get(name, ""))


def _texts(field: str, left: str, right: str) -> Iterable[Difference]:
    if left != right:
        yield Difference(field, left, right)
