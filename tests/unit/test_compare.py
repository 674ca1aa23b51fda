from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.compare import compare_versions, signature_changes
from services.domain import (
    ANY,
    ColumnSpec,
    ModelVersion,
    ParamSpec,
    Signature,
    TensorSpec,
    ValueKind,
    VersionDetails,
    VersionRef,
)

ALCOHOL = ColumnSpec("alcohol", ValueKind.DOUBLE)
HUE = ColumnSpec("hue", ValueKind.DOUBLE)
YEAR = ColumnSpec("year", ValueKind.LONG)
KIND = ColumnSpec("", ValueKind.LONG)
WINE = Signature(inputs=(ALCOHOL, HUE), outputs=(KIND,))
TENSOR = Signature(inputs=(TensorSpec("x", "float32", (ANY, 4)),))

columns = st.builds(
    ColumnSpec, st.sampled_from(["a", "b", "c", "d"]), st.sampled_from(ValueKind), st.booleans()
)
signatures = st.builds(
    Signature,
    inputs=st.lists(columns, unique_by=lambda c: c.name, max_size=4).map(tuple),
    outputs=st.lists(columns, unique_by=lambda c: c.name, max_size=2).map(tuple),
)


def breaking(before: Signature | None, after: Signature | None) -> list[str]:
    return [change.field for change in signature_changes(before, after) if change.breaking]


def takes(*inputs: ColumnSpec | TensorSpec) -> Signature:
    return replace(WINE, inputs=inputs)


def test_equal_signatures_differ_in_nothing() -> None:
    assert signature_changes(WINE, WINE) == ()


@pytest.mark.parametrize(
    ("after", "field"),
    [
        (takes(ALCOHOL), "input hue"),
        (takes(ALCOHOL, HUE, YEAR), "input year"),
        (takes(ALCOHOL, replace(HUE, name="colour")), "input hue"),
        (takes(ALCOHOL, replace(HUE, kind=ValueKind.STRING)), "input hue"),
        (takes(HUE, ALCOHOL), "input order"),
        (replace(WINE, outputs=(replace(KIND, kind=ValueKind.STRING),)), "output (unnamed)"),
        (replace(WINE, outputs=(KIND, HUE)), "output hue"),
    ],
    ids=["removed", "added", "renamed", "retyped", "reordered", "answer retyped", "answer grows"],
)
def test_a_change_that_breaks_callers_is_marked(after: Signature, field: str) -> None:
    assert breaking(WINE, after) == [field]


def test_a_renamed_column_is_one_change_with_both_names() -> None:
    (change,) = signature_changes(WINE, takes(ALCOHOL, replace(HUE, name="colour")))
    assert (change.left, change.right) == ("hue: double", "colour: double")


def test_two_columns_of_one_form_that_change_names_are_not_paired_by_guess() -> None:
    changes = signature_changes(WINE, takes(replace(ALCOHOL, name="x"), replace(HUE, name="y")))
    assert {change.field for change in changes} == {
        "input alcohol",
        "input hue",
        "input x",
        "input y",
    }


def test_an_added_optional_column_breaks_nobody() -> None:
    assert breaking(WINE, takes(ALCOHOL, HUE, replace(YEAR, required=False))) == []


def test_a_widened_column_breaks_nobody() -> None:
    narrow = takes(replace(YEAR, kind=ValueKind.INTEGER))
    assert breaking(narrow, takes(YEAR)) == []
    assert breaking(takes(YEAR), narrow) == ["input year"]


def test_a_column_that_becomes_required_breaks_callers() -> None:
    optional = takes(ALCOHOL, replace(HUE, required=False))
    assert breaking(optional, WINE) == ["input hue"]
    assert breaking(WINE, optional) == []


def test_a_nested_type_is_compared_by_its_whole_description() -> None:
    before = ColumnSpec("tags", ValueKind.ARRAY, spec_json='{"items": "string"}')
    after = replace(before, spec_json='{"items": "long"}')
    assert breaking(takes(before), takes(after)) == ["input tags"]


def test_columns_and_tensors_do_not_fit_each_other() -> None:
    assert breaking(WINE, replace(WINE, inputs=TENSOR.inputs)) == ["inputs"]


def test_a_tensor_axis_that_becomes_free_breaks_nobody() -> None:
    free = Signature(inputs=(TensorSpec("x", "float32", (ANY, ANY)),))
    assert breaking(TENSOR, free) == []
    assert breaking(free, TENSOR) == ["input x"]


def test_losing_the_signature_breaks_callers() -> None:
    assert breaking(WINE, None) == ["signature"]
    assert breaking(None, WINE) == []


def test_parameters_break_callers_when_they_go_or_change_type() -> None:
    top = ParamSpec("top", ValueKind.LONG, "3")
    before = replace(WINE, params=(top,))
    assert breaking(before, WINE) == ["parameter top"]
    assert breaking(before, replace(WINE, params=(replace(top, shape=(ANY,)),))) == [
        "parameter top"
    ]
    changed_default = replace(WINE, params=(replace(top, default_json="5"),))
    assert [c.field for c in signature_changes(before, changed_default)] == ["parameter top"]
    assert breaking(before, changed_default) == []
    assert breaking(WINE, before) == []


@given(signatures)
def test_a_signature_never_differs_from_itself(signature: Signature) -> None:
    assert signature_changes(signature, signature) == ()


@given(signatures, signatures)
def test_every_difference_between_signatures_is_told(before: Signature, after: Signature) -> None:
    same_inputs = before.inputs == after.inputs
    named = {c.name for c in before.outputs} | {c.name for c in after.outputs}
    told = signature_changes(before, after)
    if not same_inputs:
        assert told
    assert all(change.left != change.right for change in told)
    assert named or not any(change.field.startswith("output ") for change in told)


@given(signatures, signatures)
def test_breaking_changes_come_first(before: Signature, after: Signature) -> None:
    marks = [change.breaking for change in signature_changes(before, after)]
    assert marks == sorted(marks, reverse=True)


def version(number: int, **metrics: float) -> ModelVersion:
    return ModelVersion(
        VersionRef("wine", number), "models:/m-1", metrics=metrics, params={"C": str(number)}
    )


def details(number: int, *requirements: str, signature: Signature = WINE) -> VersionDetails:
    return VersionDetails(
        ref=VersionRef("wine", number),
        signature=signature,
        example=None,
        requirements=requirements,
        python_version="3.11.7",
        mlflow_version="3.17.2",
        flavors={"sklearn": {"serialization_format": "skops"}},
        files=(),
    )


def test_only_differences_are_given() -> None:
    found = compare_versions(version(1, f1=0.9), None, version(2, f1=0.9), None)
    assert [(d.field, d.left, d.right) for d in found] == [("param C", "1", "2")]


def test_a_metric_of_one_side_only_is_a_difference_and_nan_is_none() -> None:
    left = version(1, f1=math.nan)
    found = compare_versions(left, None, replace(left, metrics={"f1": math.nan, "auc": 0.5}), None)
    assert [(d.field, d.left, d.right) for d in found] == [("metric auc", "", "0.5")]


def test_requirements_are_compared_by_distribution() -> None:
    found = compare_versions(
        version(1),
        details(1, "scikit_learn==1.7.0", "skops==0.13.0"),
        version(1),
        details(1, "scikit-learn==1.9.1", "skops==0.13.0", "lightgbm==4.6.0"),
    )
    assert [(d.field, d.left, d.right) for d in found] == [
        ("requirement lightgbm", "", "==4.6.0"),
        ("requirement scikit-learn", "==1.7.0", "==1.9.1"),
    ]


def test_a_breaking_signature_change_leads_the_list() -> None:
    found = compare_versions(
        version(1), details(1), version(2), details(2, signature=takes(ALCOHOL))
    )
    assert found[0].field == "input hue"
    assert found[0].breaking


def test_a_changed_serialization_format_is_told() -> None:
    right = replace(details(1), flavors={"sklearn": {"serialization_format": "cloudpickle"}})
    (found,) = compare_versions(version(1), details(1), version(1), right)
    assert (found.field, found.left, found.right) == (
        "flavor sklearn serialization_format",
        "skops",
        "cloudpickle",
    )
