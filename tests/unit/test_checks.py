from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services import checks
from services.checks import Fit, Format, Runtime
from services.cluster import quantity
from services.domain import Intent, Mode, Package, PackageKind, Scale, Verdict, VersionRef

STOCK = Runtime(
    "kserve-mlserver",
    "docker.io/seldonio/mlserver:1.7.1",
    (Format("mlflow", "1", True, 1), Format("mlflow", "2", True, 1)),
    ("v2",),
)
CURRENT = Runtime("mlserver-mlflow3", "example/mlserver:3", (Format("mlflow", "3"),), ("v2",))
SKOPS = ("mlflow==3.17.2", "scikit-learn==1.9.1", "skops==0.14.0")
OLD = ("mlflow==2.19.0", "scikit-learn==1.5.2", "numpy==1.26.4")


def intent_of(**fields: object) -> Intent:
    package = Package(PackageKind.GCS, "gs://m/1")
    made = Intent("wine", VersionRef("wine", 1), package, Mode.STANDARD)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


def test_a_skops_model_on_an_old_server_will_fail() -> None:
    verdict = checks.library_verdict(STOCK, SKOPS)
    assert verdict.fit is Fit.WILL_FAIL
    assert "skops" in verdict.why


def test_a_table_by_tag_warns_and_names_the_runtime_that_fits() -> None:
    intent = intent_of(runtime=STOCK.name, requirements=SKOPS)
    finding = checks.library_finding(intent, (STOCK, CURRENT))
    assert finding.verdict is Verdict.WARN
    assert "mlserver-mlflow3" in finding.fix


def test_what_a_running_server_reports_blocks() -> None:
    reported = Runtime(
        STOCK.name, STOCK.image, STOCK.formats, STOCK.protocols, reported={"mlflow": "2.19.0"}
    )
    intent = intent_of(runtime=STOCK.name, requirements=SKOPS)
    assert checks.library_finding(intent, (reported,)).verdict is Verdict.FAIL


def test_the_runtime_that_lists_the_models_mlflow_is_chosen() -> None:
    assert checks.choose_runtime((STOCK, CURRENT), SKOPS) is CURRENT
    assert checks.choose_runtime((STOCK, CURRENT), OLD) is STOCK


def test_without_requirements_kserves_own_choice_stands() -> None:
    assert checks.choose_runtime((CURRENT, STOCK), ()) is STOCK


def test_a_runtime_that_speaks_another_protocol_is_never_chosen() -> None:
    v1 = Runtime("v1", "x", (Format("mlflow", "3", True, 9),), ("v1",))
    off = Runtime("off", "x", (Format("mlflow", "3", True, 9),), ("v2",), disabled=True)
    assert checks.choose_runtime((v1, off), SKOPS) is None


def test_a_runtime_that_does_not_exist_names_those_that_do() -> None:
    finding = checks.runtime_finding(intent_of(runtime="nope"), (STOCK, CURRENT))
    assert finding.verdict is Verdict.FAIL
    assert "kserve-mlserver, mlserver-mlflow3" in finding.detail


@pytest.mark.parametrize(
    ("name", "namespace", "mode", "verdict"),
    [
        ("wine", "models", Mode.STANDARD, Verdict.PASS),
        ("a" * 40, "n" * 12, Mode.STANDARD, Verdict.PASS),
        ("a" * 41, "n" * 12, Mode.STANDARD, Verdict.FAIL),
        ("a" * 41, "n" * 12, Mode.KNATIVE, Verdict.PASS),
        ("a" * 48, "n", Mode.KNATIVE, Verdict.FAIL),
        ("1wine", "models", Mode.STANDARD, Verdict.FAIL),
        ("wine\n", "models", Mode.STANDARD, Verdict.FAIL),
        ("Wine", "models", Mode.STANDARD, Verdict.FAIL),
    ],
)
def test_names_that_kserve_chokes_on_are_refused(
    name: str, namespace: str, mode: Mode, verdict: Verdict
) -> None:
    assert checks.name_finding(name, namespace, mode).verdict is verdict


@pytest.mark.parametrize(("too_long", "words"), [(1, "1 character shorter"), (2, "2 characters")])
def test_by_how_much_a_name_is_too_long_is_said_in_english(too_long: int, words: str) -> None:
    name = "a" * (checks.MAX_LABEL - len("-predictor-models") + too_long)
    assert words in checks.name_finding(name, "models", Mode.STANDARD).fix


SMALL = checks.Room("small", Decimal("0.3"), Decimal(2**30))
WIDE = checks.Room("wide", Decimal(4), Decimal(8 * 2**30))


@pytest.mark.parametrize(
    ("cpu", "gibi", "verdict"),
    [("0.3", 1, Verdict.PASS), ("4", 8, Verdict.PASS), ("4.1", 1, Verdict.WARN)],
)
def test_a_pod_that_no_node_has_room_for_is_told_before_it_is_asked_for(
    cpu: str, gibi: int, verdict: Verdict
) -> None:
    found = checks.room_finding(Decimal(cpu), Decimal(gibi * 2**30), (SMALL, WIDE))
    assert found.verdict is verdict


def test_what_the_freest_node_has_left_is_said() -> None:
    found = checks.room_finding(Decimal(1), Decimal(2**30), (SMALL,))
    assert "asks 1 CPU and 1.0 Gi; small, the freest node, has left 300m CPU and 1.0 Gi" in (
        found.detail
    )


def test_fields_that_a_mode_ignores_are_told() -> None:
    found = checks.field_findings(intent_of(scale=Scale(0, None, "rps"), timeout_s=5))
    assert {f.name for f in found} == {"replicas", "scaling", "timeout"}
    assert checks.field_findings(intent_of()) == ()


@given(st.lists(st.text(max_size=40), max_size=8))
def test_any_requirements_give_a_verdict(lines: list[str]) -> None:
    assert checks.library_verdict(STOCK, lines).fit in set(Fit)


@pytest.mark.parametrize(
    ("text", "number"),
    [("500m", "0.5"), ("1Gi", 2**30), ("2", 2), (0, 0), ("a lot", 0)],
)
def test_a_quantity_is_read_as_kubernetes_means_it(text: object, number: str | int) -> None:
    assert quantity(text) == Decimal(number)


def test_why_kserves_own_choice_was_passed_over_is_told() -> None:
    intent = intent_of(runtime=CURRENT.name, requirements=SKOPS)
    (found,) = checks.passed_over(intent, (STOCK, CURRENT))
    assert found.verdict is Verdict.PASS
    assert found.detail.startswith("kserve-mlserver, which KServe would take by itself, will fail")
    assert "skops" in found.detail


def test_nothing_is_passed_over_where_kserves_own_choice_fits() -> None:
    intent = intent_of(runtime=CURRENT.name, requirements=OLD)
    assert checks.passed_over(intent, (STOCK, CURRENT)) == ()
